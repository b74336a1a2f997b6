"""Summarise a test set with a base model, and with its adapter if one is given, and score both.

    python recipes/eval.py --config recipes/configs/quickstart_eval.yaml

Leaves `output_dir`/eval-base and, with --adapter_path, `output_dir`/eval-tuned: predictions.jsonl and metrics.json;
and puts the scores into the model card of what recipes/sft.py left.
"""

import contextlib
import json
import os
import time
from pathlib import Path
from typing import Any

from dialogsum_sft import InputError, checkpoints, model_card, prompts
from dialogsum_sft.arguments import DataArguments, EvalArguments, parse, run
from dialogsum_sft.checks import check_generation
from dialogsum_sft.data import counts_table, load_examples
from dialogsum_sft.dialogue import restore_speakers
from dialogsum_sft.encoding import prompts_for
from dialogsum_sft.generation import Completion, generate, generation_config
from dialogsum_sft.metrics import fingerprint, rouge_scores, suggest_tokenizer, summarize_scores
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


def main() -> None:
    script_args, model_args, data_args, eval_args = parse((ScriptArguments, ModelConfig, DataArguments, EvalArguments))
    check_generation()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError("evaluation runs in one process: start it with python, not accelerate launch")
    generation_kwargs = parse_generation_kwargs(eval_args.generation_kwargs)
    if eval_args.adapter_path is not None:
        check_adapter(eval_args.adapter_path, str(model_args.model_name_or_path))
    console = Console()

    # 1. Data, and the prompts of training
    tokenizer = load_tokenizer(model_args, adapter_path=eval_args.adapter_path)
    examples = load_examples(script_args, data_args, script_args.dataset_test_split, data_args.max_eval_samples)
    rows = examples.rows.to_list()
    console.print(*examples.notes, counts_table({script_args.dataset_test_split: examples.counts}), sep="\n")
    references = [row["references"] for row in rows]
    if eval_args.rouge_tokenizer == "default" and suggest_tokenizer(sum(references, [])) == "unicode":
        console.print(
            "[yellow]warning: ROUGE's default tokenizer would throw much of these references away, as it knows only "
            "a-z and 0-9: give --rouge_tokenizer unicode"
        )
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
    summaries: dict[str, list[str]] = {}
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
            for i, row in enumerate(rows)
        ]
        summaries[system] = [prediction["prediction"] for prediction in predictions]
        results[system] = {
            "format": checkpoints.FORMAT,
            **summarize_scores(
                rouge_scores(summaries[system], references, eval_args.rouge_tokenizer), seed=eval_args.seed
            ),
            "examples": len(rows),
            "references": sum(map(len, references)),
            "lengths": {
                "prediction_words": mean([len(text.split()) for text in summaries[system]]),
                "reference_words": mean([len(text.split()) for refs in references for text in refs]),
                "completion_tokens": mean([completions[i].completion_tokens for i in range(len(rows))]),
            },
            "unfinished": sum(prediction["finish_reason"] == "length" for prediction in predictions),
            "fingerprint": fingerprint(references, eval_args.rouge_tokenizer),
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

    # 4. Tell
    console = Console(width=min(console.width, 100))
    for i, row in enumerate(rows[: eval_args.num_examples]):
        console.print(Panel(side_by_side(row, {name: texts[i] for name, texts in summaries.items()}), title=row["id"]))
    console.print(score_table(results))
    for system in systems:
        console.print(f"{Path(eval_args.output_dir) / f'eval-{system}'}: predictions.jsonl, metrics.json")
    trained = Path(eval_args.adapter_path or str(model_args.model_name_or_path))
    if model_card.can_be_written(trained):
        base = results.get("base") if eval_args.adapter_path is not None else None
        try:
            noted = model_card.write(trained, results[systems[-1]], base)
            end = "scores noted" if noted else "keeps its scores of more dialogues"
        except OSError as error:  # somebody else's folder
            end = f"the scores could not be noted here ({error.strerror})"
        console.print(f"{trained / 'README.md'}: {end}")


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


def mean(values: list[int]) -> float:
    return sum(values) / len(values)


def side_by_side(row: dict[str, Any], summaries: dict[str, str]) -> Group:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("reference", Text(row["references"][0]))
    for system, text in summaries.items():
        table.add_row(SYSTEM_NAMES[system], Text(text))
    return Group(Text(row["dialogue"], "dim"), "", table)


def score_table(results: dict[str, dict[str, Any]]) -> Table:
    """ROUGE of every system with the interval of its ROUGE-1; the last row is the difference of tuned and base."""
    first = next(iter(results.values()))
    table = Table(
        box=box.SIMPLE,
        title=f"ROUGE F1 x 100: {first['examples']} dialogues, mean over {first['references']} references",
    )
    for column in ("", "ROUGE-1", "95% interval", "ROUGE-2", "ROUGE-L", "words", "cut off"):
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    names = ("rouge1", "rouge2", "rougeL")
    for system, result in results.items():
        one, two, long = (f"{result[name]['mean']:.2f}" for name in names)
        interval = result["rouge1"]["ci95"]
        table.add_row(
            SYSTEM_NAMES[system],
            one,
            f"{interval[0]:.1f} to {interval[1]:.1f}" if interval else "",
            two,
            long,
            f"{result['lengths']['prediction_words']:.1f}",
            f"{result['unfinished']} of {result['examples']}",
        )
    if len(results) == 2:
        one, two, long = (f"{results['tuned'][n]['mean'] - results['base'][n]['mean']:+.2f}" for n in names)
        table.add_row("difference", one, "", two, long, "", "", style="bold")
    return table


if __name__ == "__main__":
    run(main)
