"""Summarise a test set with a base model, and with its adapter if one is given, and score both.

    python recipes/eval.py --config recipes/configs/quickstart_eval.yaml

Leaves `output_dir`/eval-base and, with --adapter_path, `output_dir`/eval-tuned: predictions.jsonl and metrics.json;
and puts the scores into the model card of what recipes/sft.py left.

    python recipes/eval.py --predictions_file bart.txt --dataset_name knkarthick/dialogsum

scores the summaries of a file, with no model, and leaves `output_dir`/eval-bart (eval-tuned-rescored for
eval-tuned/predictions.jsonl).
"""

import contextlib
import json
import os
import time
from pathlib import Path
from typing import Any

from dialogsum_sft import InputError, checkpoints, model_card, prompts, report, scoring
from dialogsum_sft.arguments import DataArguments, EvalArguments, parse, run
from dialogsum_sft.bertscore import BertScorer
from dialogsum_sft.checks import check_generation
from dialogsum_sft.data import counts_table, load_examples
from dialogsum_sft.dialogue import restore_speakers
from dialogsum_sft.encoding import prompts_for
from dialogsum_sft.generation import Completion, generate, generation_config
from dialogsum_sft.metrics import suggest_tokenizer
from dialogsum_sft.modeling import check_adapter, load_adapter, load_model, load_tokenizer, public_name

from accelerate import PartialState
from rich import box
from rich.console import Console, Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text
from tqdm import tqdm
from transformers import set_seed
from trl import ModelConfig, ScriptArguments

SYSTEM_NAMES = {"base": "zero-shot", "tuned": "tuned"}
# Of metrics.json's diagnostics those that are printed: label, name, format.
DIAGNOSTICS = (
    ("words", "words", ".1f"),
    ("length, of the references'", "length_ratio", ".2f"),
    ("cut off at max_new_tokens", "unfinished", ".1%"),
    ("empty", "empty", ".1%"),
    ("longest run copied from the dialogue", "copied_run", ".1%"),
    ("bigrams not in the dialogue", "novel_bigrams", ".1%"),
    ("trigrams repeated", "repeated_trigrams", ".1%"),
    ("with a speaker the dialogue lacks", "wrong_tags", ".1%"),
    ("with speakers in another format", "foreign_tags", ".1%"),
    ("    ROUGE-1 that the format costs", "foreign_tags_cost", ".2f"),
    ("with a number the dialogue lacks", "unsupported_numbers", ".1%"),
    ("with a name the dialogue lacks", "unsupported_names", ".1%"),
)


def main() -> None:
    script_args, model_args, data_args, eval_args = parse((ScriptArguments, ModelConfig, DataArguments, EvalArguments))
    check_generation()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError("evaluation runs in one process: start it with python, not accelerate launch")
    console = Console()
    bert_scorer = BertScorer(eval_args.bertscore, eval_args.bertscore_layer) if eval_args.bertscore else None
    if eval_args.predictions_file is not None:
        score_file(console, script_args, data_args, eval_args, bert_scorer)
        return
    generation_kwargs = parse_generation_kwargs(eval_args.generation_kwargs)
    if eval_args.adapter_path is not None:
        check_adapter(eval_args.adapter_path, str(model_args.model_name_or_path))

    # 1. Data, and the prompts of training
    tokenizer = load_tokenizer(model_args, adapter_path=eval_args.adapter_path)
    examples = load_examples(script_args, data_args, script_args.dataset_test_split, data_args.max_eval_samples)
    rows = examples.rows.to_list()
    console.print(*examples.notes, counts_table({script_args.dataset_test_split: examples.counts}), sep="\n")
    warn_of_tokenizer(console, rows, eval_args.rouge_tokenizer)
    template = prompts.template_hash(tokenizer, data_args.instruction, data_args.system_prompt)
    if eval_args.adapter_path is not None and trained_with(eval_args.adapter_path) not in (template, None):
        console.print(
            f"[yellow]warning: {eval_args.adapter_path} was trained with another instruction, system prompt or "
            "template than this evaluation uses; its run.json has them under prompt"
        )

    # 2. Model, and what of a dialogue fits into it
    model = load_model(model_args)
    longest = eval_args.max_length or model.config.get_text_config().max_position_embeddings
    shown = prompts_for([row["dialogue"] for row in rows], tokenizer, data_args, longest - eval_args.max_new_tokens)
    if not (model_args.load_in_4bit or model_args.load_in_8bit):
        model.to(PartialState().device)
    config = generation_config(
        tokenizer,
        prompts.stop_token_ids(tokenizer, model.generation_config),
        eval_args.max_new_tokens,
        **generation_kwargs,
    )
    if eval_args.adapter_path is not None:
        model = load_adapter(model, eval_args.adapter_path)
    systems = ["base"] if eval_args.evaluate_base or eval_args.adapter_path is None else []
    systems += ["tuned"] if eval_args.adapter_path is not None else []

    # 3. Generate, score and save, one system after the other
    results: dict[str, dict[str, Any]] = {}
    summarised: dict[str, list[dict[str, Any]]] = {}
    for system in systems:
        set_seed(eval_args.seed)
        started = time.time()
        completions: dict[int, Completion] = {}
        plain_base = eval_args.adapter_path is not None and system == "base"
        mode = model.disable_adapter() if plain_base else contextlib.nullcontext()
        with mode, tqdm(total=len(rows), desc=f"summarising ({system})", unit="dialogue") as progress:
            for index, completion in generate(
                model, tokenizer, [prompt.ids for prompt in shown], config, max_batch_tokens=eval_args.max_batch_tokens
            ):
                completions[index] = completion
                progress.update()
        seconds = time.time() - started

        predictions = [
            {
                "id": row["id"],
                "dialogue": row["dialogue"],
                "references": row["references"],
                "prediction": restore_speakers(completions[i].text, shown[i].names),
                "prompt_tokens": completions[i].prompt_tokens,
                "completion_tokens": completions[i].completion_tokens,
                "finish_reason": completions[i].finish_reason,
            }
            | ({"dropped_turns": shown[i].dropped_turns} if shown[i].dropped_turns else {})
            | ({"topic": row["topic"]} if row["topic"] is not None else {})
            for i, row in enumerate(rows)
        ]
        summarised[system] = predictions
        results[system] = {
            "format": checkpoints.FORMAT,
            **scoring.score(
                predictions, tokenizer=eval_args.rouge_tokenizer, seed=eval_args.seed, bert_scorer=bert_scorer
            ),
            "model": {
                "base": public_name(str(model_args.model_name_or_path)),
                "revision": model_args.model_revision,
                "adapter": checkpoints.public(eval_args.adapter_path) if system == "tuned" else None,
                "dtype": model_args.dtype,
                "load_in_4bit": model_args.load_in_4bit,
                "load_in_8bit": model_args.load_in_8bit,
            },
            "data": {
                "dataset_name": checkpoints.public(script_args.dataset_name),
                "revision": data_args.dataset_revision,
                "split": script_args.dataset_test_split,
                "counts": examples.counts.record(),
                "shortened": sum(prompt.dropped_turns > 0 for prompt in shown),
                "fingerprint": examples.fingerprint(),
            },
            "prompt": {
                "instruction": data_args.instruction,
                "system_prompt": data_args.system_prompt,
                "template_sha256": template,
            },
            "engine": {
                "name": "transformers",
                "generation": config.to_diff_dict(),
                "max_batch_tokens": eval_args.max_batch_tokens,
                "seed": eval_args.seed,
            },
            "versions": checkpoints.versions(),
            "git_revision": checkpoints.git_revision(),
            "hardware": checkpoints.hardware(),
            "seconds": round(seconds, 2),
        }
        folder = Path(eval_args.output_dir) / f"eval-{system}"
        checkpoints.write_jsonl(folder / "predictions.jsonl", predictions)
        checkpoints.write_json(folder / "metrics.json", results[system])

    # 4. Note in the model card what was measured
    trained = Path(eval_args.adapter_path or str(model_args.model_name_or_path))
    if model_card.can_be_written(trained):
        base = results.get("base") if eval_args.adapter_path is not None else None
        try:
            noted = model_card.write(trained, results[systems[-1]], base)
            end = "scores noted" if noted else "keeps its scores of more dialogues"
        except OSError as error:  # somebody else's folder
            end = f"the scores could not be noted here ({error.strerror})"
        console.print(f"{trained / 'README.md'}: {end}")

    # 5. Tell
    tell(console, eval_args, results, summarised)


def score_file(
    console: Console,
    script_args: ScriptArguments,
    data_args: DataArguments,
    eval_args: EvalArguments,
    bert_scorer: BertScorer | None,
) -> None:
    """The same scores, records and tables for summaries from elsewhere."""
    # 1. The file, and the dataset where it is named
    path = Path(str(eval_args.predictions_file))
    predictions = scoring.read_predictions(path)
    data: dict[str, Any] = {}
    if script_args.dataset_name is None:
        rows = scoring.own_references(predictions, path)
    else:
        split = script_args.dataset_test_split
        examples = load_examples(script_args, data_args, split)
        console.print(*examples.notes, counts_table({split: examples.counts}), sep="\n")
        rows = scoring.match(examples.rows.to_list(), predictions, path, f"{script_args.dataset_name} ({split})")
        data = {
            "dataset_name": script_args.dataset_name,
            "revision": data_args.dataset_revision,
            "split": split,
            "counts": examples.counts.record(),
            "fingerprint": examples.fingerprint(),
        }
    rows = rows[: data_args.max_eval_samples]
    warn_of_tokenizer(console, rows, eval_args.rouge_tokenizer)

    # 2. Score and save
    result = {
        "format": checkpoints.FORMAT,
        **scoring.score(rows, tokenizer=eval_args.rouge_tokenizer, seed=eval_args.seed, bert_scorer=bert_scorer),
        "model": {"base": None, "predictions_file": path.name},
        "data": data,
        "engine": {"name": "predictions_file", "seed": eval_args.seed},
        "versions": checkpoints.versions(),
        "git_revision": checkpoints.git_revision(),
    }
    system = path.name.split(".")[0]
    if system == "predictions":  # of a run, whose own record must not be lost
        system = f"{path.resolve().parent.name.removeprefix('eval-')}-rescored"
    folder = Path(eval_args.output_dir) / f"eval-{system}"
    checkpoints.write_jsonl(folder / "predictions.jsonl", rows)
    checkpoints.write_json(folder / "metrics.json", result)

    # 3. Tell
    tell(console, eval_args, {system: result}, {system: rows})


def parse_generation_kwargs(text: str | None) -> dict[str, Any]:
    try:
        kwargs = json.loads(text or "{}")
    except json.JSONDecodeError as error:
        raise InputError(f"--generation_kwargs is not JSON: {error}") from error
    if not isinstance(kwargs, dict):
        raise InputError('--generation_kwargs must be a JSON object such as {"num_beams": 4}')
    return kwargs


def trained_with(adapter_path: str) -> str | None:
    """Hash of the prompt that an adapter was trained with, from its run.json; None where there is none."""
    record = Path(adapter_path) / "run.json"
    if not record.is_file():
        return None
    value: str | None = json.loads(record.read_text(encoding="utf-8")).get("prompt", {}).get("template_sha256")
    return value


def warn_of_tokenizer(console: Console, rows: list[dict[str, Any]], tokenizer: str) -> None:
    if tokenizer == "default" and suggest_tokenizer([ref for row in rows for ref in row["references"]]) == "unicode":
        console.print(
            "[yellow]warning: ROUGE's default tokenizer would throw much of these references away, as it knows only "
            "a-z and 0-9: give --rouge_tokenizer unicode"
        )


def tell(
    console: Console,
    eval_args: EvalArguments,
    results: dict[str, dict[str, Any]],
    summarised: dict[str, list[dict[str, Any]]],
) -> None:
    """Some dialogues with the systems' summaries, the tables, and where the records are."""
    console = Console(width=min(console.width, 100), highlight=False)
    for same_dialogue in list(zip(*summarised.values(), strict=True))[: eval_args.num_examples]:
        summaries = {name: row["prediction"] for name, row in zip(summarised, same_dialogue, strict=True)}
        console.print(Panel(side_by_side(same_dialogue[0], summaries), title=Text(same_dialogue[0]["id"])))
    console.print(score_table(results), diagnostics_table(results))
    for system in results:
        console.print(Text(f"{Path(eval_args.output_dir) / f'eval-{system}'}: predictions.jsonl, metrics.json"))
    page = Path(eval_args.output_dir) / "report.html"
    first = next(iter(results.values()))
    report.write_report(
        page,
        {system_name(system): Path(eval_args.output_dir) / f"eval-{system}" for system in results},
        training_log=Path(eval_args.adapter_path).parent / "training.jsonl" if eval_args.adapter_path else None,
        title=f"{first['model']['base'] or next(iter(results))} on {first['data'].get('dataset_name', 'dialogues')}",
    )
    console.print(Text(f"{page}: scores, charts and every dialogue"))


def side_by_side(row: dict[str, Any], summaries: dict[str, str]) -> Group:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("reference", Text(row["references"][0]))
    for system, text in summaries.items():
        table.add_row(Text(system_name(system)), Text(text))
    return Group(Text(row["dialogue"], "dim"), "", table)


def system_name(system: str) -> str:
    return SYSTEM_NAMES.get(system, system)


def score_table(results: dict[str, dict[str, Any]]) -> Table:
    """ROUGE of every system between the best baseline and the human ceiling; with two systems their difference."""
    first = next(iter(results.values()))
    types = {"rouge1": "ROUGE-1", "rouge2": "ROUGE-2", "rougeL": "ROUGE-L"}
    references = first["references"] / first["examples"]
    each = f"{references:.0f} references each" if references % 1 == 0 else f"their {first['references']} references"
    against = "against one reference" if references == 1 else f"mean over {each}"
    table = Table(
        box=box.SIMPLE_HEAD, pad_edge=False, title=f"ROUGE F1 x 100: {first['examples']} dialogues, {against}"
    )
    for column in ("", "ROUGE-1", "95% interval", *list(types.values())[1:], "of human"):
        table.add_column(column, justify="right" if column else "left", no_wrap=True)

    def row(name: str, means: list[float], interval: list[float] | None, share: float | None, style: str) -> None:
        one, *others = (f"{value:.2f}" for value in means)
        between = f"{interval[0]:.1f} to {interval[1]:.1f}" if interval else ""
        table.add_row(Text(name), one, between, *others, f"{share:.0%}" if share else "", style=style)

    human = first["human"]
    best, baseline = max(first["baselines"].items(), key=lambda item: item[1]["rouge1"]["mean"])
    share = baseline["rouge1"]["mean"] / human["rouge1"]["mean"] if human else None
    row(f"baseline: {best}", [baseline[name]["mean"] for name in types], None, share, "dim")
    for system, result in results.items():
        share = (result["share_of_human"] or {}).get("rouge1")
        means = [result[name]["mean"] for name in types]
        row(system_name(system), means, result["rouge1"]["ci95"], share, "bold")
    if human:
        row("human ceiling", [human[name]["mean"] for name in types], None, 1.0, "dim")
        if "bertscore" in result:
            model, layer = result["bertscore"]["model"], result["bertscore"]["layer"]
            table.caption = f"BERTScore F1 x 100 of {model}, layer {layer}: " + ", ".join(
                f"{system_name(name)} {scored['bertscore']['mean']:.2f}" for name, scored in results.items()
            )
    if list(results) == ["base", "tuned"]:
        gains = [f"{results['tuned'][name]['mean'] - results['base'][name]['mean']:+.2f}" for name in types]
        table.add_section()
        table.add_row("difference", gains[0], "", *gains[1:], "")
    return table


def diagnostics_table(results: dict[str, dict[str, Any]]) -> Table:
    """What ROUGE does not see, of every system and of the references."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title="What ROUGE does not see")
    table.add_column("")
    found = {system_name(system): result["diagnostics"] for system, result in results.items()}
    found["references"] = next(iter(results.values()))["diagnostics_of_references"]
    for name in found:
        table.add_column(Text(name), justify="right", style="dim" if name == "references" else "")
    for label, name, form in DIAGNOSTICS:
        values = [record[name] for record in found.values()]
        if any(value is not None for value in values):
            table.add_row(label, *("" if value is None else f"{value:{form}}" for value in values))
    return table


if __name__ == "__main__":
    run(main)
