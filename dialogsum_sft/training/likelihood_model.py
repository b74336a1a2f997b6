"""Open the model of `eval.py --likelihood_model` with the prompt of its training, and measure evaluated runs."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from dialogsum_sft import InputError, files
from dialogsum_sft.arguments import EvalArguments
from dialogsum_sft.data.prompts import PromptSettings, encode, stop_token_ids
from dialogsum_sft.evaluation.likelihood import LIKELIHOOD, likelihood_record
from dialogsum_sft.evaluation.runs import Run
from dialogsum_sft.generation.likelihood import EMPTY, LikelihoodJournal, LikelihoodModel
from dialogsum_sft.generation.summarise import load_for_use
from dialogsum_sft.hardware import resolve_dtype
from dialogsum_sft.modeling import (
    check_adapter,
    length_limit,
    load_config,
    load_generation_config,
    load_tokenizer,
    public_name,
)
from dialogsum_sft.provenance import weights_digest
from dialogsum_sft.training.record import read_run_record, use_defaults

from accelerate import PartialState
from trl import ModelConfig

_MODEL_OPTIONS = (
    *("model_name_or_path", "model_revision", "dtype", "attn_implementation"),
    *("load_in_4bit", "load_in_8bit", "bnb_4bit_quant_type", "use_bnb_nested_quant"),
)


def open_likelihood(eval_args: EvalArguments) -> LikelihoodModel | None:
    """The model that is to say how likely summaries are, or None where none is named; its weights are loaded later.

    Its prompt, lengths and quantisation are those of its training, from run.json beside the adapter or in the model's
    folder, or else the defaults. Options of `eval_args` win. Raises InputError for a model that cannot be used.
    """
    name, adapter = eval_args.likelihood_model, eval_args.likelihood_adapter
    given = {
        "model_name_or_path": name,
        "adapter_path": adapter,
        "model_revision": eval_args.likelihood_revision,
        "dtype": eval_args.likelihood_dtype,
        "load_in_4bit": eval_args.likelihood_load_in_4bit,
    }
    given = {option: value for option, value in given.items() if value is not None}
    if eval_args.likelihood_load_in_4bit:
        given["load_in_8bit"] = False
    if not name and not adapter:
        if given:
            raise InputError(
                "--likelihood_revision, _dtype and _load_in_4bit are options of --likelihood_model: give it"
            )
        return None
    try:
        options = {"dtype": "auto"} | use_defaults(given) | given
        if not options.get("model_name_or_path"):
            raise InputError(f"no run.json in {adapter}, so its base model is not known: give --model_name_or_path")
        model_args = ModelConfig(**{option: options[option] for option in _MODEL_OPTIONS if option in options})
        if adapter:
            check_adapter(adapter, str(model_args.model_name_or_path), any_base=eval_args.any_base)
    except InputError as error:  # whose remedies name the options of the evaluated model
        texts = (str(text).replace("--model_name_or_path", "--likelihood_model") for text in error.args)
        raise InputError(*texts) from error
    model_args.dtype = str(resolve_dtype(model_args.dtype)).removeprefix("torch.")
    trust = bool(options.get("trust_remote_code")) or eval_args.trust_remote_code
    tokenizer = load_tokenizer(model_args, adapter_path=adapter, trust_remote_code=trust)
    own_config = load_generation_config(model_args, trust_remote_code=trust)
    run = read_run_record(Path(adapter or str(model_args.model_name_or_path)))
    settings = PromptSettings() if run is None else PromptSettings.from_record(run)
    stop_ids = stop_token_ids(tokenizer, own_config)
    encode(tokenizer, "A: b", "c", stop_ids, settings)  # a template that cannot be used is refused before all else
    max_length = length_limit(options.get("max_length"), load_config(model_args, trust_remote_code=trust))
    return LikelihoodModel(
        partial(load_for_use, replace(eval_args, adapter_path=adapter, trust_remote_code=trust), model_args),
        tokenizer,
        stop_ids,
        settings,
        max_length=max_length,
        max_batch_tokens=eval_args.max_batch_tokens,
        fingerprint={
            "model": public_name(str(model_args.model_name_or_path)),
            "revision": model_args.model_revision,
            "weights": weights_digest(model_args.model_name_or_path),
            "adapter": weights_digest(adapter),
            "dtype": model_args.dtype,
            "load_in_4bit": model_args.load_in_4bit,
            "load_in_8bit": model_args.load_in_8bit,
            "prompt": settings.sha256(tokenizer),
            "max_length": max_length,
            "tokens": "of the summary, without its end of turn",
        },
        record={"adapter_path": files.public(adapter)},
    )


def add_likelihoods(
    likelihood: LikelihoodModel | None, runs: Sequence[Run], *, examples: Sequence[Mapping[str, Any]] = (), seed: int
) -> list[str]:
    """Measure the summaries of `runs`, save them with it, and free the model; returns what there is to say.

    Call it on all processes, with the same runs. A run with likelihoods of the same measure keeps them. `examples` are
    the evaluated ones of the dataset, in the order of the rows; their columns stand in some instructions.
    """
    if likelihood is None:
        return []
    notes = []
    for run in runs:
        known = run.record.get("likelihood") or {}
        if known.get("fingerprint") == likelihood.fingerprint:
            notes.append(f"{run.folder}: all likelihoods are there, of the same model")
            continue
        rows = run.rows
        if examples:
            rows = [row | {"fields": example.get("fields")} for row, example in zip(rows, examples, strict=True)]
        measured = likelihood.measure(run.folder, rows, progress=f"likelihood ({run.name})")
        run.rows = [
            row | dict(zip(LIKELIHOOD, values or (None, None), strict=True))
            for row, values in zip(run.rows, measured.values, strict=True)
        ]
        run.record["likelihood"] = likelihood_record(run.rows, seed=seed) | {
            "empty": measured.left_out[EMPTY],
            "left_out": {reason: number for reason, number in measured.left_out.items() if reason != EMPTY},
            "shortened": measured.shortened,
            "fingerprint": likelihood.fingerprint,
            **likelihood.record,
        }
        if PartialState().is_main_process:
            run.save()
            LikelihoodJournal.remove(run.folder)
        notes += measured.notes
        if measured.resumed:
            notes.append(f"{run.folder}: {measured.resumed} likelihoods were there from an earlier evaluation")
        if measured.left_out:
            reasons = ", ".join(f"{number} {reason}" for reason, number in measured.left_out.items())
            notes.append(f"{run.folder}: {measured.left_out.total()} summaries have no likelihood: {reasons}")
        if measured.shortened:
            notes.append(f"{run.folder}: {measured.shortened} dialogues were shortened for it, as in training")
    likelihood.close()
    return notes
