"""Summarise a test set with a base model, and with its adapter if one is given; score both.

    python recipes/eval.py --adapter_path runs/quickstart/adapter

The base model, dataset, prompt and lengths are those of the training, unless given. Without an adapter:

    python recipes/eval.py --model_name_or_path Qwen/Qwen3-1.7B --dataset_name knkarthick/dialogsum

Leaves `output_dir`/eval-base and eval-tuned with predictions.jsonl and metrics.json, and report.html. Puts the scores
into the model card of the adapter. An interrupted evaluation is continued when it is started again.

    accelerate launch --config_file accelerate_configs/ddp.yaml recipes/eval.py --adapter_path ...    # several GPUs
    python recipes/eval.py --engine vllm --adapter_path ...
    python recipes/eval.py --engine openai --base_url http://localhost:8000/v1 --served_model_name ... --dataset_name D
    python recipes/eval.py --predictions_file bart.txt --dataset_name knkarthick/dialogsum    # no model
    python recipes/eval.py --predictions_file bart.txt ... --likelihood_model Qwen/Qwen3-1.7B    # how likely they are
"""

import time
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from dialogsum_sft import files
from dialogsum_sft.arguments import DataArguments, EvalArguments
from dialogsum_sft.cli import parse, run
from dialogsum_sft.data.answers import read_answer
from dialogsum_sft.data.counts import counts_table
from dialogsum_sft.data.encoding import Prompt, build_prompts
from dialogsum_sft.data.prompts import PromptSettings
from dialogsum_sft.data.training_data import data_record, evaluated_split, first_examples, load_evaluation
from dialogsum_sft.distributed import run_on_main, started_processes
from dialogsum_sft.engine_checks import check_engine
from dialogsum_sft.evaluation.bertscore import BertScorer
from dialogsum_sft.evaluation.consensus import consensus
from dialogsum_sft.evaluation.matching import match_examples
from dialogsum_sft.evaluation.prediction_columns import read_predictions
from dialogsum_sft.evaluation.predictions import own_references
from dialogsum_sft.evaluation.rouge import fingerprint
from dialogsum_sft.evaluation.run_folders import finished_run, name_of_file
from dialogsum_sft.evaluation.runs import Run, score_run
from dialogsum_sft.evaluation.tokenizers import tokenizer_warnings
from dialogsum_sft.generation.doubts import doubts, doubts_of_finished, outcomes
from dialogsum_sft.generation.engine import Completion, Engine, System, max_prompt_tokens
from dialogsum_sft.generation.journal import Journal, digests
from dialogsum_sft.generation.long_dialogues import Plan, carry_out, coverage_line, coverage_record, make_plans
from dialogsum_sft.generation.summarise import decisive_options, decisive_settings, open_engine, prediction, summarise
from dialogsum_sft.modeling import load_tokenizer, public_name
from dialogsum_sft.provenance import git_revision, hardware, versions
from dialogsum_sft.publish import model_card
from dialogsum_sft.report.report import write_report
from dialogsum_sft.report.run_tables import dialogue_panel, tables
from dialogsum_sft.training.likelihood_model import add_likelihoods, open_likelihood
from dialogsum_sft.training.record import check_use, evaluation_defaults

import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env
from rich.console import Console
from transformers import set_seed
from trl import ModelConfig, ScriptArguments

# What metrics.json records beside the scores.
RECORD = ["model", "data", "prompt", "options", "long", "engine", "settings", "versions", "git_revision", "hardware"]
RECORD += ["seconds", "likelihood"]


def main() -> None:
    # 1. Arguments
    started_processes()
    script_args, model_args, data_args, eval_args = parse(
        (ScriptArguments, ModelConfig, DataArguments, EvalArguments), defaults=evaluation_defaults, launches=True
    )
    cpu = parse_flag_from_env("ACCELERATE_USE_CPU", not torch.accelerator.is_available())
    state = PartialState(cpu=cpu, timeout=timedelta(days=1))  # at the end all wait for the slowest
    check_engine(eval_args, model_args, state.num_processes)
    console = Console(quiet=not state.is_main_process)
    bert_scorer = BertScorer(eval_args.bertscore, eval_args.bertscore_layer) if eval_args.bertscore else None
    likelihood = open_likelihood(eval_args)
    if eval_args.predictions_file is not None:
        runs = [run_on_main(partial(score_file, console, script_args, data_args, eval_args, bert_scorer))]
        show_results(console, eval_args, runs, add_likelihoods(likelihood, runs, seed=eval_args.seed))
        return

    # 2. Data: dialogues with their references
    split = load_evaluation(script_args, data_args, eval_args.seed)
    console.print(*split.notes, counts_table({evaluated_split(script_args, data_args)[1]: split.counts}), sep="\n")
    examples = first_examples(split, data_args.max_eval_samples)
    rows = examples.rows.to_list()
    warn(console, tokenizer_warnings(rows, eval_args.rouge_tokenizer))

    # 3. Engine and prompts, which are those of the training
    settings = PromptSettings.from_arguments(data_args)
    tokenizer = None  # only an endpoint can do without one, and then gets whole dialogues
    if model_args.model_name_or_path:
        tokenizer = load_tokenizer(
            model_args, adapter_path=eval_args.adapter_path, trust_remote_code=eval_args.trust_remote_code
        )
    known, warnings = check_use(model_args, eval_args, settings, tokenizer, split.rows["dialogue"])
    warn(console, warnings)
    engine = open_engine(
        eval_args, model_args, tokenizer, evaluate_base=eval_args.evaluate_base, output_dir=eval_args.output_dir
    )
    prompts = build_prompts(rows, tokenizer, settings, max_prompt_tokens(engine))
    shortened = sum(bool(prompt.lost) for prompt in prompts) if eval_args.long == "shorten" else 0
    record = {
        "model": {
            "base": public_name(eval_args.served_model_name or str(model_args.model_name_or_path)),
            "revision": model_args.model_revision,
            "adapter": None,
            "dtype": model_args.dtype,
            "load_in_4bit": model_args.load_in_4bit,
            "load_in_8bit": model_args.load_in_8bit,
        },
        "data": data_record(script_args, data_args, examples) | {"shortened": shortened, "trained_on": known},
        "prompt": settings.record(tokenizer),
        "options": decisive_options(script_args, model_args, data_args, eval_args),
    }

    # 4. Summaries and scores of one system after the other
    runs = []
    for system in engine.systems:
        plans = make_plans(rows, prompts, tokenizer, settings, engine, eval_args)
        summaries = summarise_system(console, eval_args, model_args, engine, system, rows, plans, record)
        runs.append(run_on_main(partial(score, eval_args, system, bert_scorer, *summaries)))
    engine.close()
    notes = add_likelihoods(likelihood, runs, examples=rows, seed=eval_args.seed)

    # 5. Model card, report, tables
    if state.is_main_process:
        say(console, *model_card.note_scores(engine.systems[-1].weights, [one.record for one in runs]))
    show_results(console, eval_args, runs, notes)


def summarise_system(
    console: Console,
    eval_args: EvalArguments,
    model_args: ModelConfig,
    engine: Engine,
    system: System,
    rows: list[dict[str, Any]],
    plans: list[Plan],
    record: dict[str, Any],
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Lines of predictions.jsonl and the record: generated, continued, or read where they are finished already."""
    set_seed(eval_args.seed)
    started, state, folder = time.time(), PartialState(), Path(eval_args.output_dir) / f"eval-{system.name}"
    settings = {
        **decisive_settings(engine, system, model_args, eval_args),
        "prompts": [
            [row["id"], plan.prompt.ids, plan.prompt.messages, *([] if plan.is_one_call else [row["dialogue"]])]
            for row, plan in zip(rows, plans, strict=True)
        ],
        "candidates": eval_args.num_candidates,
    }
    ids, number = [row["id"] for row in rows], eval_args.num_candidates
    ranks = {"process_index": state.process_index, "num_processes": state.num_processes}
    options = record["options"] | ({} if system.adapter else {"adapter_path": None})
    finished = run_on_main(
        lambda: finished_run(
            folder,
            digests(settings),
            options,
            [row["references"] for row in rows],
            tokenizer=eval_args.rouge_tokenizer,
            strip_preamble=eval_args.strip_preamble,
            overwrite=eval_args.overwrite_output_dir,
        )
    )
    journal = Journal(folder, settings, ids, number, options=options, **ranks)
    if finished and not journal.may_pass:
        say(console, f"{finished.folder}: all {len(rows)} summaries are there, with the same settings")
        warn(console, doubts_of_finished(finished.rows, [plan.only_prompt for plan in plans]))
        kept = {part: finished.record[part] for part in RECORD if part in finished.record}
        own = {} if finished.folder == folder else {"data": record["data"], "options": options}
        return finished.rows, kept | own

    say(console, *journal.notes)
    if journal.kept:
        whole = f" of {len(rows) * number}" if all(plan.is_one_call for plan in plans) else ""
        say(console, f"{folder}: {journal.kept}{whole} summaries are there from an earlier evaluation")

    def complete(asked: dict[str, Prompt]) -> dict[str, list[Completion]]:
        own = Journal(folder, settings, list(asked), number, options=options, **ranks)
        state.wait_for_everyone()  # each has read the files of all before one goes on writing
        drawn = summarise(
            engine,
            list(asked.values()),
            adapter=system.adapter,
            num_candidates=number,
            seed=eval_args.seed,
            journal=own,
            progress=f"summarising ({system.label})",
        )
        return dict(zip(asked, drawn, strict=True))

    def choose(drawn: list[Completion]) -> int:
        return consensus([read_answer(one.text).summary for one in drawn], eval_args.rouge_tokenizer)

    prompts, drawn = carry_out(plans, complete, choose, ids)
    chosen = [several[choose(several)] for several in drawn]
    warn(console, doubts(rows, prompts, drawn, chosen))
    predictions = [prediction(*of_row) for of_row in zip(rows, prompts, chosen, drawn, strict=True)]
    long = coverage_record(eval_args, prompts)
    if long["dialogues"]:
        say(console, coverage_line(long))
    engine_record = {"seed": eval_args.seed, "num_candidates": number, "resumed": journal.kept}
    model = {"adapter": files.public(eval_args.adapter_path)} if system.adapter else {}
    return predictions, record | {
        "model": record["model"] | model,
        "options": options,
        "long": long,
        "engine": engine.record | engine_record | {"outcomes": outcomes(chosen)},
        "settings": digests(settings),
        "versions": versions(),
        "git_revision": git_revision(),
        "hardware": hardware(),
        "seconds": round(time.time() - started, 2),
    }


def say(console: Console, *lines: str, style: str | None = None) -> None:
    """Print lines as they are: a path is not broken at the terminal's width."""
    for line in lines:
        console.print(line, style=style, markup=False, soft_wrap=True)


def warn(console: Console, lines: list[str]) -> None:
    say(console, *(f"warning: {line}" for line in lines), style="yellow")


def score(
    eval_args: EvalArguments,
    system: System,
    bert_scorer: BertScorer | None,
    rows: list[dict[str, Any]],
    record: dict[str, Any],
) -> Run:
    run = score_run(
        system.label,
        Path(eval_args.output_dir) / f"eval-{system.name}",
        rows,
        tokenizer=eval_args.rouge_tokenizer,
        seed=eval_args.seed,
        strip_preamble=eval_args.strip_preamble,
        bert_scorer=bert_scorer,
        **record,
    )
    run.save()
    Journal.remove(run.folder)
    return run


def score_file(
    console: Console,
    script_args: ScriptArguments,
    data_args: DataArguments,
    eval_args: EvalArguments,
    bert_scorer: BertScorer | None,
) -> Run:
    """Scores of summaries that another program wrote, in the same records."""
    path, limit = Path(str(eval_args.predictions_file)), data_args.max_eval_samples
    predictions, data = read_predictions(path, eval_args.prediction_column, data_args.id_column), {}
    source, split, _ = evaluated_split(script_args, data_args)
    if not source:
        matched = own_references(predictions, limit)
    else:
        examples = load_evaluation(script_args, data_args, eval_args.seed, optional_id=predictions.id_is_named)
        console.print(*examples.notes, counts_table({split: examples.counts}), sep="\n")
        rows, read = examples.rows.to_list(), examples.counts.read
        matched = match_examples(rows, predictions, f"{source} ({split})", rows_read=read, limit=limit)
        data = data_record(script_args, data_args, examples)
    say(console, *matched.notes, f"{path.name}: matched by {matched.by}")
    warn(console, matched.warnings)
    warn(console, tokenizer_warnings(matched.rows, eval_args.rouge_tokenizer))
    name, file_id = name_of_file(
        path,
        Path(eval_args.output_dir),
        eval_args.prediction_column,
        strip_preamble=eval_args.strip_preamble,
        references=fingerprint([row["references"] for row in matched.rows])["references_sha256"],
        max_eval_samples=limit,
        rouge_tokenizer=None if eval_args.rouge_tokenizer == "default" else eval_args.rouge_tokenizer,
    )
    model = {"base": None, "predictions_file": path.name, "file_id": file_id, "column": predictions.column}
    record = {
        "model": model | {"matched_by": matched.by, "dialogues_with_several_predictions": matched.differing},
        "data": data,
        "engine": {"name": "predictions_file", "seed": eval_args.seed},
        "versions": versions(),
        "git_revision": git_revision(),
    }
    return score(eval_args, System(name, eval_args.prediction_column or name), bert_scorer, matched.rows, record)


def show_results(console: Console, eval_args: EvalArguments, runs: list[Run], notes: list[str]) -> None:
    """Print notes, some dialogues with their summaries and the tables; write report.html, on the main process."""
    if not PartialState().is_main_process:
        return
    say(console, *notes)
    console = Console(width=min(console.width, 100), highlight=False)
    for number in range(min(eval_args.num_examples, len(runs[0].rows))):
        console.print(dialogue_panel(runs, number))
    console.print(*tables(runs))
    say(console, *(f"{one.folder}: predictions.jsonl, metrics.json" for one in runs))
    page = Path(eval_args.output_dir) / "report.html"
    model, data = runs[0].record["model"], runs[0].record["data"]
    write_report(
        page,
        runs,
        training_log=Path(eval_args.adapter_path).parent / "training.jsonl" if eval_args.adapter_path else None,
        title=f"{model['base'] or runs[0].name} on {data.get('dataset_name', 'dialogues')}",
    )
    say(console, f"{page}: scores, charts and every dialogue")


if __name__ == "__main__":
    run(main, launches=True)
