"""Combinations of options of recipes/eval.py that fail, refused before a model is loaded."""

import os
from collections.abc import Iterator
from typing import Any

from dialogsum_sft import InputError
from dialogsum_sft.arguments import EvalArguments, json_option
from dialogsum_sft.checks import launched_with

from trl import ModelConfig


def check_engine(eval_args: EvalArguments, model_args: ModelConfig, processes: int) -> None:
    """Raise InputError with every fault of these options of recipes/eval.py and of its launch, one line each."""
    if faults := list(_engine(eval_args, model_args, processes)):
        raise InputError(*faults)


def _engine(eval_args: EvalArguments, model_args: ModelConfig, processes: int) -> Iterator[str]:
    if launched_with():  # under FSDP only the first process would load the weights
        yield (
            "an evaluation cannot be launched with FSDP or DeepSpeed: each process generates with the whole model; "
            "launch it with accelerate_configs/ddp.yaml, or with python alone"
        )
    if processes != int(os.environ.get("WORLD_SIZE", "1")):
        yield "WORLD_SIZE is set, but this process is alone: start it with python, or by accelerate launch"
    kwargs: dict[str, Any] = {}
    for option in ("vllm_kwargs", "generation_kwargs"):
        try:
            kwargs = json_option(option, getattr(eval_args, option))
        except InputError as error:
            yield str(error)
    for option in ("max_new_tokens", "max_batch_tokens"):
        if getattr(eval_args, option) < 1:
            yield f"--{option} {getattr(eval_args, option)}: give 1 or more"
    if eval_args.num_candidates < 1:
        yield f"--num_candidates {eval_args.num_candidates}: give 1 or more"
    if eval_args.num_candidates > 1 and not kwargs.get("do_sample", True):
        yield "--num_candidates chooses among samples: leave do_sample in --generation_kwargs true"
    if "num_return_sequences" in kwargs:
        yield "--generation_kwargs num_return_sequences: give --num_candidates instead"
    if eval_args.predictions_file is not None:
        return
    if eval_args.prediction_column is not None:
        yield "--prediction_column names a column of --predictions_file: give both"
    name, model = eval_args.engine, model_args.model_name_or_path
    if name != "transformers" and processes > 1:
        yield f"--engine {name} runs in one process: start it with python"
    if name == "openai":
        if not eval_args.base_url:
            yield "--engine openai needs --base_url, such as http://localhost:8000/v1"
        if eval_args.adapter_path is not None:
            yield "--adapter_path: an endpoint evaluates what it serves; name the adapter there by --served_model_name"
        if not (eval_args.served_model_name or model):
            yield "--engine openai needs --served_model_name: the model's name at the endpoint"
        if eval_args.max_length and not model:
            yield "--max_length counts tokens: give --model_name_or_path, whose tokenizer counts them"
    else:
        if eval_args.base_url or eval_args.served_model_name:
            yield f"--base_url and --served_model_name are for --engine openai, not {name}"
        if not model:
            yield "no model: give --model_name_or_path (a hub id, a folder, or 'embedded') or --adapter_path"
    if name == "vllm" and (model_args.load_in_4bit or model_args.load_in_8bit):
        yield "--load_in_4bit with --engine vllm: give the quantisation by --vllm_kwargs instead"
