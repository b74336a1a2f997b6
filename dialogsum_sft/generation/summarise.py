"""Open an engine; summarise prompts with it, shared by processes, continued after an interruption."""

import contextlib
import json
import logging
import re
from collections.abc import Generator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from dialogsum_sft import InputError, files
from dialogsum_sft.arguments import GenerationArguments, json_option
from dialogsum_sft.data.chat_template import TEMPLATE_KWARGS
from dialogsum_sft.data.dialogue import restore_speakers
from dialogsum_sft.data.encoding import Prompt
from dialogsum_sft.data.prompts import stop_token_ids
from dialogsum_sft.data.transcripts import dialogue_of
from dialogsum_sft.generation.engine import Completion, Engine, System, Watch, generation_config
from dialogsum_sft.generation.journal import Journal
from dialogsum_sft.generation.openai_engine import OpenAIEngine, request_fields
from dialogsum_sft.generation.transformers_engine import TransformersEngine, try_options
from dialogsum_sft.generation.vllm_engine import VllmEngine
from dialogsum_sft.hardware import resolve_dtype
from dialogsum_sft.modeling import (
    length_limit,
    load_adapter,
    load_config,
    load_generation_config,
    load_model,
    public_name,
)
from dialogsum_sft.provenance import versions, weights_digest

from accelerate import PartialState
from accelerate.utils import gather_object
from peft import PeftModel
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import ModelConfig

logger = logging.getLogger(__name__)

# How candidates are sampled unless --generation_kwargs say otherwise: greedy ones would all be alike.
CANDIDATE_KWARGS = {"do_sample": True, "temperature": 0.7}
# Options that decide summaries or what they are scored with, in the order of messages.
_DECISIVE = (
    *("dataset_name", "dataset_config", "dataset_test_split", "dataset_revision", "test_file", "validation_file"),
    *("dialogue_file", "validation_share", "max_eval_samples", "dialogue_column", "id_column", "speaker_column"),
    *("dialogue_format", "speaker_key", "text_key", "summary_columns", "summary_join", "instruction", "system_prompt"),
    *("drop_times", "rename_speakers", "model_name_or_path", "model_revision", "dtype"),
    *("load_in_4bit", "load_in_8bit"),
    *("bnb_4bit_quant_type", "adapter_path", "engine", "base_url", "served_model_name", "extra_body", "vllm_kwargs"),
    *("max_new_tokens", "max_length", "generation_kwargs", "num_candidates", "seed", "long", "long_overlap"),
    *("rouge_tokenizer", "strip_preamble"),
)


def open_engine(
    eval_args: GenerationArguments,
    model_args: ModelConfig,
    tokenizer: PreTrainedTokenizerBase | None,
    *,
    evaluate_base: bool = True,
    output_dir: str | Path | None = None,
) -> Engine:
    """The engine that `eval_args.engine` names, with the systems to evaluate; its model is loaded when it is needed.

    With an adapter the base model is a system too, unless `evaluate_base` is false. `tokenizer` may be None for an
    endpoint. `output_dir` is where the runs of the systems will be, if they are to have any: no other run's name is
    taken. Raises InputError for an option that the engine or its package lacks.
    """
    kwargs = json_option("generation_kwargs", eval_args.generation_kwargs)
    if eval_args.num_candidates > 1:
        kwargs = CANDIDATE_KWARGS | kwargs
    if eval_args.engine == "openai" or tokenizer is None:
        served = eval_args.served_model_name or str(model_args.model_name_or_path)
        extra = json_option("extra_body", eval_args.extra_body)
        if tokenizer is not None:  # an open model, whose template takes these
            extra = {"chat_template_kwargs": TEMPLATE_KWARGS} | extra
        fields = request_fields(eval_args.max_new_tokens, kwargs, extra)
        return OpenAIEngine(
            str(eval_args.base_url),
            served,
            fields,
            samples=bool(kwargs.get("do_sample")),
            max_new_tokens=eval_args.max_new_tokens,
            max_length=eval_args.max_length,
            systems=[_served(eval_args, served, output_dir)],
            concurrency=eval_args.concurrency,
            timeout=eval_args.request_timeout,
        )

    model_args.dtype = str(resolve_dtype(model_args.dtype)).removeprefix("torch.")
    model_config = load_config(model_args, trust_remote_code=eval_args.trust_remote_code)
    max_length = length_limit(eval_args.max_length, model_config)
    own_config = load_generation_config(model_args, trust_remote_code=eval_args.trust_remote_code)
    config = generation_config(tokenizer, stop_token_ids(tokenizer, own_config), eval_args.max_new_tokens, **kwargs)
    adapter, model = eval_args.adapter_path, Path(str(model_args.model_name_or_path))
    # Other folders than that of the current adapter have names of their own, so that no score replaces another's.
    is_trained = adapter is None and (model / "run.json").is_file()
    name, label = (model.name, model.name) if is_trained else ("base", "zero-shot")
    systems = [_system(name, label, eval_args, weights=model if adapter is None else None)]
    if adapter is not None:
        name = "tuned" if Path(adapter).name == "adapter" else Path(adapter).name
        tuned = _system(name, name, eval_args, adapter=True, weights=Path(adapter))
        systems = [*systems, tuned] if evaluate_base else [tuned]
    for system in systems:
        if output_dir is not None and _endpoint_of(folder := Path(output_dir) / f"eval-{system.name}"):
            raise InputError(f"{folder} has the scores of an endpoint's model: give another --output_dir")
    if eval_args.engine == "vllm":
        return VllmEngine(
            model_args,
            tokenizer,
            config,
            adapter_path=eval_args.adapter_path,
            max_length=eval_args.max_length,
            seed=eval_args.seed,
            kwargs=json_option("vllm_kwargs", eval_args.vllm_kwargs),
            systems=systems,
        )
    if kwargs:
        try_options(tokenizer, config, kwargs)
    return TransformersEngine(
        partial(load_for_use, eval_args, model_args),
        tokenizer,
        config,
        max_length=max_length,
        max_batch_tokens=eval_args.max_batch_tokens,
        systems=systems,
    )


def _system(name: str, label: str, eval_args: GenerationArguments, **fields: Any) -> System:
    """With windows, several candidates or without preambles a system of its own, whose scores no model card takes."""
    suffixes = {}
    if eval_args.long != "shorten":
        suffixes[eval_args.long] = eval_args.long
    if eval_args.num_candidates > 1:
        suffixes[f"mbr{eval_args.num_candidates}"] = f"best of {eval_args.num_candidates}"
    if eval_args.strip_preamble:
        suffixes["stripped"] = "without preambles"
    if suffixes:
        fields["weights"] = None
    return System("-".join([name, *suffixes]), ", ".join([label, *suffixes.values()]), **fields)


def _served(eval_args: GenerationArguments, model: str, output_dir: str | Path | None) -> System:
    """The model of an endpoint, with a folder name of its own, so that no run of another model, of another endpoint or
    of a predictions file is overwritten: numbered where eval-NAME is such a run."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", model).strip("-.")[-100:] or "served"
    if re.fullmatch(r"base|tuned", name):  # names of other engines' runs
        name += "-served"
    system = first = _system(name, public_name(model), eval_args)
    if output_dir is None:
        return first
    number = 1
    while not _is_free(Path(output_dir) / f"eval-{system.name}", public_name(model), eval_args.base_url):
        number += 1
        system = replace(first, name=f"{first.name}-{number}")
    if number > 1:
        logger.warning("eval-%s is another run, which stays: this one is eval-%s", first.name, system.name)
    return system


def _is_free(folder: Path, model: str, base_url: str | None) -> bool:
    """Whether no finished run is in `folder`, or one of this model at this endpoint."""
    return not (folder / "metrics.json").exists() or _endpoint_of(folder) == (model, str(base_url).rstrip("/"))


def _endpoint_of(folder: Path) -> tuple[str, str] | None:
    """Model and URL of the finished run in a folder, or None where it is no endpoint's."""
    try:
        record = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        of_file = record["model"].get("predictions_file")
        return None if of_file else (record["model"]["base"], record["engine"]["base_url"].rstrip("/"))
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None


def load_for_use(eval_args: GenerationArguments, model_args: ModelConfig) -> PreTrainedModel | PeftModel:
    """The model with its adapter, if one is given, on this process's device."""
    model = load_model(model_args, trust_remote_code=eval_args.trust_remote_code)
    if not (model_args.load_in_4bit or model_args.load_in_8bit):
        model.to(PartialState().device)
    return model if eval_args.adapter_path is None else load_adapter(model, eval_args.adapter_path)


def summarise(
    engine: Engine,
    prompts: Sequence[Prompt],
    *,
    adapter: bool,
    num_candidates: int = 1,
    seed: int = 42,
    journal: Journal | None = None,
    progress: str | None = None,
    watch: Watch | None = None,
) -> list[list[Completion]]:
    """Complete every prompt `num_candidates` times: returns [prompt][candidate], on every process.

    The processes share the work. With a `journal` every completion is on disk before the next batch, and what the
    journal holds is not generated again. `progress` names a progress bar on the main process. `watch` is the
    engine's.
    """
    state = PartialState()
    done: dict[int, Completion] = {} if journal is None else dict(journal.done)
    number = len(prompts) * num_candidates
    own = len(range(state.process_index, number - len(done), state.num_processes))
    made: dict[int, Completion] = {}
    with tqdm(total=own, desc=progress, disable=progress is None or not state.is_main_process) as bar:
        for batch in completions(
            engine, prompts, adapter=adapter, num_candidates=num_candidates, seed=seed, journal=journal, watch=watch
        ):
            made.update(batch)
            bar.update(len(batch))
    done |= dict(gather_object(list(made.items())))
    if len(done) < number:
        raise RuntimeError(f"{number - len(done)} of {number} completions are missing")
    at = iter(range(number))
    return [[done[next(at)] for _ in range(num_candidates)] for _ in prompts]


def completions(
    engine: Engine,
    prompts: Sequence[Prompt],
    *,
    adapter: bool,
    num_candidates: int = 1,
    seed: int = 42,
    journal: Journal | None = None,
    at_once: int | None = None,
    watch: Watch | None = None,
) -> Generator[list[tuple[int, Completion]], None, None]:
    """Yield this process's share of the completions that the `journal` lacks, in batches as they are made.

    Each has its number in [prompt][candidate] order, and is in the journal before it is yielded. The engine gets
    `at_once` of them at a time, in that order, and decides the order among these; None: all.
    """
    state = PartialState()
    done = {} if journal is None else journal.done
    if isinstance(engine, OpenAIEngine):
        engine.has_succeeded |= any(completion.fault is None for completion in done.values())
    requests = [number for number in range(len(prompts)) for _ in range(num_candidates)]
    missing = [i for i in range(len(requests)) if i not in done]
    lengths = [len(prompts[i].ids) for i in requests]
    with journal or contextlib.nullcontext():
        size = at_once or len(missing) or 1
        for part in (missing[start : start + size] for start in range(0, len(missing), size)):
            todo = share(part, lengths, state.process_index, state.num_processes)
            seeds = [seed + i for i in todo] if engine.samples else None
            parts = [prompts[requests[i]] for i in todo]
            for batch in engine.complete(parts, adapter=adapter, seeds=seeds, watch=watch) if todo else ():
                numbered = [(todo[at], completion) for at, completion in batch]
                if journal is not None:
                    journal.append(numbered)
                yield numbered


def decisive_settings(
    engine: Engine, system: System, model_args: ModelConfig, args: GenerationArguments
) -> dict[str, Any]:
    """What decides a completion besides its prompt, for a `Journal`."""
    return {
        "engine": {name: value for name, value in engine.record.items() if name != "max_batch_tokens"},
        "model": [
            *(model_args.model_name_or_path, model_args.model_revision, model_args.dtype),
            args.served_model_name,
        ],
        "quantisation": [model_args.load_in_4bit, model_args.load_in_8bit, model_args.bnb_4bit_quant_type],
        "weights": weights_digest(model_args.model_name_or_path),
        "adapter": weights_digest(args.adapter_path) if system.adapter else None,
        "seed": args.seed if engine.samples else None,
        "versions": {name: versions()[name] for name in ("transformers", "torch", "peft")},
        **({} if args.long == "shorten" else {"long": [args.long, args.long_overlap]}),
    }


def decisive_options(*arguments: Any) -> dict[str, Any]:
    """The options that decide summaries and their references, of dataclasses of options, for messages and records."""
    given = {name: value for part in arguments for name, value in vars(part).items()}
    kept = {name: given[name] for name in _DECISIVE if name in given}
    return files.public(kept)


def share(todo: Sequence[int], lengths: Sequence[int], process_index: int, num_processes: int) -> list[int]:
    """The part of `todo` that a process takes: about as many tokens (`lengths`) as the others, and disjoint."""
    return sorted(todo, key=lambda i: (-lengths[i], i))[process_index::num_processes]


def prediction(
    row: dict[str, Any], prompt: Prompt, completion: Completion, candidates: list[Completion]
) -> dict[str, Any]:
    """A line of predictions.jsonl."""
    turns = dialogue_of(row)
    optional = {
        "candidates": [restore_speakers(one.text, prompt.names) for one in candidates] if candidates[1:] else None,
        **{name: number or None for name, number in prompt.lost.items()},
        **prompt.coverage,
        "topic": row["topic"],
        "fault": completion.fault,
        # Only of turns that the labels in the text do not show.
        "turns": turns.record() if turns != dialogue_of({"dialogue": row["dialogue"]}) else None,
    }
    return {
        "id": row["id"],
        "dialogue": row["dialogue"],
        "references": row["references"],
        "prediction": restore_speakers(completion.text, prompt.names),
        "prompt_tokens": completion.prompt_tokens,
        "completion_tokens": completion.completion_tokens,
        "finish_reason": completion.finish_reason,
        **{name: value for name, value in optional.items() if value is not None},
    }
