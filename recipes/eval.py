"""Summarise a test set with a base model, and with its adapter if one is given, and score both.

    python recipes/eval.py --config recipes/configs/quickstart_eval.yaml

Leaves `output_dir`/eval-base and, with --adapter_path, `output_dir`/eval-tuned: predictions.jsonl and metrics.json;
with --num_candidates 8 eval-base-mbr8 and eval-tuned-mbr8. Interrupted, it goes on where it was when run again.
Puts the scores into the model card of what recipes/sft.py left.

    accelerate launch --config_file accelerate_configs/ddp.yaml recipes/eval.py --config ...    # over several GPUs
    python recipes/eval.py --config ... --engine vllm
    python recipes/eval.py --config ... --engine openai --base_url http://localhost:8000/v1 --served_model_name ...

    python recipes/eval.py --predictions_file bart.txt --dataset_name knkarthick/dialogsum

scores the summaries of a file, with no model, and leaves `output_dir`/eval-bart (eval-tuned-rescored for
eval-tuned/predictions.jsonl).
"""

import contextlib
import json
import os
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

from dialogsum_sft import InputError, files, provenance
from dialogsum_sft.arguments import DataArguments, EvalArguments
from dialogsum_sft.checks import check_generation
from dialogsum_sft.cli import parse, run
from dialogsum_sft.data import prompts
from dialogsum_sft.data.dialogue import restore_speakers
from dialogsum_sft.data.encoding import build_prompts
from dialogsum_sft.data.examples import counts_table, load_examples
from dialogsum_sft.evaluation.bertscore import BertScorer
from dialogsum_sft.evaluation.consensus import consensus
from dialogsum_sft.evaluation.predictions import match_examples, own_references, read_predictions
from dialogsum_sft.evaluation.runs import Run, score_run
from dialogsum_sft.evaluation.tokenizers import suggest_tokenizer
from dialogsum_sft.generation import openai_engine, vllm_engine
from dialogsum_sft.generation.journal import PartialPredictions, share, weights_digest
from dialogsum_sft.generation.transformers_engine import Completion, generate_batches, generation_config
from dialogsum_sft.modeling import (
    check_adapter,
    load_adapter,
    load_generation_config,
    load_model,
    load_tokenizer,
    public_name,
)
from dialogsum_sft.publish import model_card
from dialogsum_sft.report import report, summary

import torch
from accelerate import PartialState
from accelerate.utils import gather_object, parse_flag_from_env
from rich.console import Console
from rich.text import Text
from tqdm import tqdm
from transformers import set_seed
from trl import ModelConfig, ScriptArguments

SYSTEM_NAMES = {"base": "zero-shot", "tuned": "tuned"}
# How candidates are drawn unless --generation_kwargs say otherwise: a single greedy summary has no consensus.
CANDIDATES = {"do_sample": True, "temperature": 0.7}


def main() -> None:
    script_args, model_args, data_args, eval_args = parse((ScriptArguments, ModelConfig, DataArguments, EvalArguments))
    check_generation()
    # Processes wait for the slowest at the end, which may take longer than they usually wait for each other.
    cpu = parse_flag_from_env("ACCELERATE_USE_CPU", not torch.accelerator.is_available())
    state = PartialState(cpu=cpu, timeout=timedelta(days=1))
    if state.num_processes != int(os.environ.get("WORLD_SIZE", "1")):
        raise InputError(
            "WORLD_SIZE is set, but this is one process by itself: start it with python, or all by accelerate launch"
        )
    console = Console(quiet=not state.is_main_process)
    bert_scorer = BertScorer(eval_args.bertscore, eval_args.bertscore_layer) if eval_args.bertscore else None
    if eval_args.predictions_file is not None:
        if state.is_main_process:
            score_file(console, script_args, data_args, eval_args, bert_scorer)
        return
    generation_kwargs = parse_json("generation_kwargs", eval_args.generation_kwargs)
    if eval_args.num_candidates > 1:
        generation_kwargs = CANDIDATES | generation_kwargs
    vllm_kwargs = parse_json("vllm_kwargs", eval_args.vllm_kwargs)
    check_engine(eval_args, model_args, generation_kwargs)
    if eval_args.adapter_path is not None:
        check_adapter(eval_args.adapter_path, str(model_args.model_name_or_path))

    # 1. Data, and the prompts of training
    tokenizer = None  # only an endpoint can do without: then it sees whole dialogues
    if model_args.model_name_or_path or eval_args.engine != "openai":
        tokenizer = load_tokenizer(model_args, adapter_path=eval_args.adapter_path)
    examples = load_examples(script_args, data_args, script_args.dataset_test_split, data_args.max_eval_samples)
    rows = examples.rows.to_list()
    console.print(*examples.notes, counts_table({script_args.dataset_test_split: examples.counts}), sep="\n")
    warn_of_tokenizer(console, rows, eval_args.rouge_tokenizer)
    settings = prompts.PromptSettings.from_arguments(data_args)
    template = tokenizer and settings.sha256(tokenizer)
    if eval_args.adapter_path is not None and trained_with(eval_args.adapter_path) not in (template, None):
        console.print(
            f"[yellow]warning: {eval_args.adapter_path} was trained with another instruction, system prompt or "
            "template than this evaluation uses; its run.json has them under prompt"
        )

    # 2. Engine, and what of a dialogue fits into its model
    engine: dict[str, Any] = {"name": eval_args.engine}  # for the record
    longest = eval_args.max_length
    if eval_args.engine == "transformers":
        model = load_model(model_args)
        longest = longest or model.config.get_text_config().max_position_embeddings
        if not (model_args.load_in_4bit or model_args.load_in_8bit):
            model.to(state.device)
        model_config = model.generation_config
        if eval_args.adapter_path is not None:
            model = load_adapter(model, eval_args.adapter_path)
        engine["max_batch_tokens"] = eval_args.max_batch_tokens
    elif eval_args.engine == "vllm":
        llm = vllm_engine.load_llm(model_args, eval_args.adapter_path, longest, eval_args.seed, vllm_kwargs)
        longest = longest or vllm_engine.longest(llm)
        model_config = load_generation_config(model_args)
        engine["version"] = vllm_engine.version()
    if eval_args.engine == "openai":
        fields = openai_engine.request_fields(eval_args.max_new_tokens, generation_kwargs)
        if tokenizer is not None:  # the template is one that takes them
            fields["chat_template_kwargs"] = prompts.TEMPLATE_KWARGS
        engine |= {"base_url": eval_args.base_url, "generation": fields}
    else:
        stop_ids = prompts.stop_token_ids(tokenizer, model_config)
        config = generation_config(tokenizer, stop_ids, eval_args.max_new_tokens, **generation_kwargs)
        engine["generation"] = config.to_diff_dict()
    sampling = bool(generation_kwargs.get("do_sample"))
    room = longest - eval_args.max_new_tokens if longest else None
    shown = build_prompts([row["dialogue"] for row in rows], tokenizer, settings, room)
    chats = [prompt.messages for prompt in shown]
    requests = [number for number in range(len(shown)) for _ in range(eval_args.num_candidates)]

    def completions_of(system: str, todo: list[int]) -> Iterator[list[tuple[int, Completion]]]:
        ids = [shown[requests[i]].ids for i in todo]
        seeds = [eval_args.seed + i for i in todo] if sampling else None
        if eval_args.engine == "openai":
            yield from openai_engine.generate_batches(
                eval_args.base_url,
                eval_args.served_model_name or str(model_args.model_name_or_path),
                [chats[requests[i]] for i in todo],
                fields,
                seeds=seeds,
                concurrency=eval_args.concurrency,
                timeout=eval_args.request_timeout,
            )
        elif eval_args.engine == "vllm":
            adapter = eval_args.adapter_path if system == "tuned" else None
            yield from vllm_engine.generate_batches(llm, tokenizer, ids, config, seeds=seeds, adapter_path=adapter)
        else:
            plain_base = eval_args.adapter_path is not None and system == "base"
            with model.disable_adapter() if plain_base else contextlib.nullcontext():
                yield from generate_batches(
                    model, tokenizer, ids, config, max_batch_tokens=eval_args.max_batch_tokens, seeds=seeds
                )

    systems = ["base"] if eval_args.evaluate_base or eval_args.adapter_path is None else []
    systems += ["tuned"] if eval_args.adapter_path is not None else []
    if eval_args.engine == "openai":
        systems = ["served"]
    decides: dict[str, Any] = {
        "engine": {name: value for name, value in engine.items() if name != "max_batch_tokens"},
        "model": [
            model_args.model_name_or_path,
            model_args.model_revision,
            model_args.dtype,
            eval_args.served_model_name,
        ],
        "quantisation": [model_args.load_in_4bit, model_args.load_in_8bit, model_args.bnb_4bit_quant_type],
        "weights": weights_digest(model_args.model_name_or_path),
        "prompts": [[row["id"], prompt.ids, chat] for row, prompt, chat in zip(rows, shown, chats, strict=True)],
        "candidates": eval_args.num_candidates,
        "seed": eval_args.seed if sampling else None,
        "versions": {name: provenance.versions()[name] for name in ("transformers", "torch", "peft")},
    }

    # 3. Generate, score and save, one system after the other
    runs: dict[str, Run] = {}
    for system in systems:
        set_seed(eval_args.seed)
        name = f"{system}-mbr{eval_args.num_candidates}" if eval_args.num_candidates > 1 else system
        folder = Path(eval_args.output_dir) / f"eval-{name}"
        started = time.time()
        partial = PartialPredictions(
            folder,
            decides | {"adapter": weights_digest(eval_args.adapter_path) if system == "tuned" else None},
            [row["id"] for row in rows],
            eval_args.num_candidates,
            process_index=state.process_index,
            num_processes=state.num_processes,
        )
        done: dict[int, Completion] = dict(gather_object(list(partial.done.items())))
        resumed = len(done)
        for note in partial.notes:
            console.print(note, markup=False)
        if resumed:
            console.print(f"{folder}: {resumed} of {len(requests)} summaries are there from an interrupted evaluation")
        lengths = [len(shown[number].ids) for number in requests]
        todo = [i for i in range(len(requests)) if i not in done]
        todo = share(todo, lengths, state.process_index, state.num_processes)
        with (
            partial,
            tqdm(total=len(todo), desc=f"summarising ({name})", disable=not state.is_main_process) as progress,
        ):
            for batch in completions_of(system, todo):
                made = [(todo[at], completion) for at, completion in batch]
                partial.append(made)
                done.update(made)
                progress.update(len(made))
        done = dict(gather_object(list(done.items())))
        seconds = time.time() - started
        if not state.is_main_process:
            continue
        drawn = [[done[i] for i in range(len(requests)) if requests[i] == number] for number in range(len(rows))]
        chosen = [consensus([one.text for one in several], eval_args.rouge_tokenizer) for several in drawn]
        if eval_args.num_candidates > 1 and all(len({one.text for one in several}) == 1 for several in drawn):
            console.print(f"[yellow]warning: all candidates are alike: {eval_args.engine} does not sample")
        completions = [several[best] for several, best in zip(drawn, chosen, strict=True)]
        if eval_args.engine == "openai" and tokenizer is not None:
            differ = sum(
                one.prompt_tokens not in (None, len(prompt.ids))
                for one, prompt in zip(completions, shown, strict=True)
            )
            if differ:
                console.print(
                    f"[yellow]warning: the endpoint counts other prompt tokens than training had for {differ} of "
                    f"{len(rows)} dialogues: its chat template is not the one of {tokenizer.name_or_path}"
                )

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
            | (
                {"candidates": [restore_speakers(one.text, shown[i].names) for one in drawn[i]]}
                if name != system
                else {}
            )
            | ({"dropped_turns": shown[i].dropped_turns} if shown[i].dropped_turns else {})
            | ({"topic": row["topic"]} if row["topic"] is not None else {})
            for i, row in enumerate(rows)
        ]
        runs[name] = score_run(
            system_name(name),
            folder,
            predictions,
            tokenizer=eval_args.rouge_tokenizer,
            seed=eval_args.seed,
            bert_scorer=bert_scorer,
            model={
                "base": public_name(eval_args.served_model_name or str(model_args.model_name_or_path)),
                "revision": model_args.model_revision,
                "adapter": files.public(eval_args.adapter_path) if system == "tuned" else None,
                "dtype": model_args.dtype,
                "load_in_4bit": model_args.load_in_4bit,
                "load_in_8bit": model_args.load_in_8bit,
            },
            data={
                "dataset_name": files.public(script_args.dataset_name),
                "revision": data_args.dataset_revision,
                "split": script_args.dataset_test_split,
                "counts": examples.counts.record(),
                "shortened": sum(prompt.dropped_turns > 0 for prompt in shown),
                "fingerprint": examples.fingerprint(),
            },
            prompt=settings.record(tokenizer),
            engine=engine | {"seed": eval_args.seed, "num_candidates": eval_args.num_candidates, "resumed": resumed},
            versions=provenance.versions(),
            git_revision=provenance.git_revision(),
            hardware=provenance.hardware(),
            seconds=round(seconds, 2),
        )
        runs[name].save()
        partial.remove()

    if not state.is_main_process:
        return

    # 4. Note in the model card what was measured
    trained = Path(eval_args.adapter_path or str(model_args.model_name_or_path))
    results = {name: run.record for name, run in runs.items()}
    measured = results.get(systems[-1])  # of candidates or an endpoint there is none: the card is of the model alone
    if measured and eval_args.engine != "openai" and model_card.can_be_written(trained):
        base = results.get("base") if eval_args.adapter_path is not None else None
        try:
            noted = model_card.write(trained, measured, base)
            end = "scores noted" if noted else "keeps its scores of more dialogues"
        except OSError as error:  # somebody else's folder
            end = f"the scores could not be noted here ({error.strerror})"
        console.print(f"{trained / 'README.md'}: {end}")

    # 5. Tell
    tell(console, eval_args, list(runs.values()))


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
    predictions = read_predictions(path)
    data: dict[str, Any] = {}
    if script_args.dataset_name is None:
        rows = own_references(predictions, path)
    else:
        split = script_args.dataset_test_split
        examples = load_examples(script_args, data_args, split)
        console.print(*examples.notes, counts_table({split: examples.counts}), sep="\n")
        rows = match_examples(examples.rows.to_list(), predictions, path, f"{script_args.dataset_name} ({split})")
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
    system = path.name.split(".")[0]
    if system == "predictions":  # of a run, whose own record must not be lost
        system = f"{path.resolve().parent.name.removeprefix('eval-')}-rescored"
    scored = score_run(
        system_name(system),
        Path(eval_args.output_dir) / f"eval-{system}",
        rows,
        tokenizer=eval_args.rouge_tokenizer,
        seed=eval_args.seed,
        bert_scorer=bert_scorer,
        model={"base": None, "predictions_file": path.name},
        data=data,
        engine={"name": "predictions_file", "seed": eval_args.seed},
        versions=provenance.versions(),
        git_revision=provenance.git_revision(),
    )
    scored.save()

    # 3. Tell
    tell(console, eval_args, [scored])


def parse_json(option: str, text: str | None) -> dict[str, Any]:
    try:
        kwargs = json.loads(text or "{}")
    except json.JSONDecodeError as error:
        raise InputError(f"--{option} is not JSON: {error}") from error
    if not isinstance(kwargs, dict):
        raise InputError(f'--{option} must be a JSON object such as {{"num_beams": 4}}')
    return kwargs


def check_engine(eval_args: EvalArguments, model_args: ModelConfig, generation_kwargs: dict[str, Any]) -> None:
    """Raise InputError for options that do not go together."""
    if eval_args.num_candidates < 1:
        raise InputError(f"--num_candidates {eval_args.num_candidates}: give 1 or more")
    if eval_args.num_candidates > 1 and not generation_kwargs.get("do_sample"):
        raise InputError("--num_candidates chooses among samples: leave do_sample in --generation_kwargs true")
    if "num_return_sequences" in generation_kwargs:
        raise InputError("--generation_kwargs num_return_sequences: give --num_candidates instead")
    if eval_args.engine != "transformers" and PartialState().num_processes > 1:
        raise InputError(f"--engine {eval_args.engine} runs in one process: start it with python")
    if eval_args.engine == "openai":
        if not eval_args.base_url:
            raise InputError("--engine openai needs --base_url, such as http://localhost:8000/v1")
        if eval_args.adapter_path is not None:
            raise InputError(
                "--adapter_path: an endpoint evaluates what it serves; name the adapter there by --served_model_name"
            )
        if not (eval_args.served_model_name or model_args.model_name_or_path):
            raise InputError("--engine openai needs --served_model_name: the model's name at the endpoint")
        if eval_args.max_length and not model_args.model_name_or_path:
            raise InputError("--max_length counts tokens: give --model_name_or_path, whose tokenizer counts them")
    elif eval_args.base_url or eval_args.served_model_name:
        raise InputError(f"--base_url and --served_model_name are for --engine openai, not {eval_args.engine}")
    if eval_args.engine == "vllm" and (model_args.load_in_4bit or model_args.load_in_8bit):
        raise InputError("--load_in_4bit with --engine vllm: give the quantisation by --vllm_kwargs instead")


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


def tell(console: Console, eval_args: EvalArguments, runs: list[Run]) -> None:
    """Some dialogues with the systems' summaries, the tables, and where the records are."""
    console = Console(width=min(console.width, 100), highlight=False)
    for i in range(min(eval_args.num_examples, len(runs[0].rows))):
        console.print(summary.dialogue_panel(runs, i))
    console.print(summary.score_table(runs).rich(), summary.diagnostics_table(runs).rich())
    for scored in runs:
        console.print(Text(f"{scored.folder}: predictions.jsonl, metrics.json"))
    page = Path(eval_args.output_dir) / "report.html"
    first = runs[0].record
    report.write_report(
        page,
        runs,
        training_log=Path(eval_args.adapter_path).parent / "training.jsonl" if eval_args.adapter_path else None,
        title=f"{first['model']['base'] or runs[0].name} on {first['data'].get('dataset_name', 'dialogues')}",
    )
    console.print(Text(f"{page}: scores, charts and every dialogue"))


def system_name(system: str) -> str:
    return SYSTEM_NAMES.get(system, system)


if __name__ == "__main__":
    run(main)
