"""Combinations of options of an engine that fail, refused before a model is loaded."""

import json
import os
from collections.abc import Iterator
from typing import Any

from dialogsum_sft import InputError
from dialogsum_sft.arguments import EvalArguments, GenerationArguments, json_option
from dialogsum_sft.checks import launched_with

from trl import ModelConfig

# Options of GenerationConfig whose values are texts.
_TEXTS = {"cache_implementation", "early_stopping"}
_MOVED = "transformers has moved it to code on the hub: leave it out"
_ONE_PROMPT = "it is for one prompt at a time, and prompts are completed in batches: leave it out"
_IDS_ONLY = "only token ids are read: leave it out"
_REFUSED = {
    "max_new_tokens": "give --max_new_tokens instead",
    "max_length": "give --max_new_tokens for the summary, --max_length for it and the prompt",
    "num_return_sequences": "give --num_candidates instead",
    "pad_token_id": "it is the tokenizer's: leave it out",
    **dict.fromkeys(("penalty_alpha", "dola_layers", "num_beam_groups", "diversity_penalty"), _MOVED),
    **dict.fromkeys(("constraints", "force_words_ids", "custom_generate"), _MOVED),
    **dict.fromkeys(("prompt_lookup_num_tokens", "assistant_early_exit", "use_mtp", "token_healing"), _ONE_PROMPT),
    **dict.fromkeys(("return_dict_in_generate", "output_scores", "output_logits"), _IDS_ONLY),
    **dict.fromkeys(("output_attentions", "output_hidden_states"), _IDS_ONLY),
}


def check_engine(eval_args: GenerationArguments, model_args: ModelConfig, processes: int) -> None:
    """Raise InputError with every fault of these options and of the launch, one line each."""
    if faults := list(_engine(eval_args, model_args, processes)):
        raise InputError(*faults)


def _engine(eval_args: GenerationArguments, model_args: ModelConfig, processes: int) -> Iterator[str]:
    if launched_with():  # under FSDP only the first process would load the weights
        yield (
            "an evaluation cannot be launched with FSDP or DeepSpeed: each process generates with the whole model; "
            "launch it with accelerate_configs/ddp.yaml, or with python alone"
        )
    if processes != int(os.environ.get("WORLD_SIZE", "1")):
        yield "WORLD_SIZE is set, but this process is alone: start it with python, or by accelerate launch"
    read: dict[str, dict[str, Any]] = {}
    for option in ("extra_body", "vllm_kwargs", "generation_kwargs"):
        try:
            read[option] = json_option(option, getattr(eval_args, option))
        except InputError as error:
            yield str(error)
    for option in ("max_new_tokens", "max_batch_tokens"):
        if getattr(eval_args, option) < 1:
            yield f"--{option} {getattr(eval_args, option)}: give 1 or more"
    kwargs = read.get("generation_kwargs", {})
    if eval_args.num_candidates < 1:
        yield f"--num_candidates {eval_args.num_candidates}: give 1 or more"
    if eval_args.num_candidates > 1 and not kwargs.get("do_sample", True):
        yield "--num_candidates chooses among samples: leave do_sample in --generation_kwargs true"
    yield from _generation_kwargs(kwargs)
    if isinstance(eval_args, EvalArguments):
        if eval_args.predictions_file is not None:
            return
        if eval_args.prediction_column is not None:
            yield "--prediction_column names a column of --predictions_file: give both"
    overlap = eval_args.long_overlap
    if eval_args.long not in ("shorten", "map_reduce", "refine"):  # of Summarizer; the command line checks it earlier
        yield f"--long {eval_args.long}: give shorten, map_reduce or refine"
    if not (0 <= overlap < 1 or overlap % 1 == 0) or overlap < 0:
        yield f"--long_overlap {overlap:g}: give a number of turns, or a share from 0 up to 1"
    name, model = eval_args.engine, model_args.model_name_or_path
    if name == "openai" and eval_args.long != "shorten" and not (eval_args.max_length and model):
        yield (
            f"--long {eval_args.long} makes windows by tokens: give --max_length, which an endpoint does not tell, "
            "and --model_name_or_path, whose tokenizer counts (embedded is near enough for English)"
        )
    if name != "transformers" and processes > 1:
        yield f"--engine {name} runs in one process: start it with python"
    if name == "openai":
        if not eval_args.base_url:
            yield "--engine openai needs --base_url, such as http://localhost:8000/v1"
        if eval_args.adapter_path is not None:
            yield "--adapter_path: an endpoint evaluates what it serves; name the adapter there by --served_model_name"
        if not (eval_args.served_model_name or model):
            yield "--engine openai needs --served_model_name: the model's name at the endpoint"
        if eval_args.max_length and not model and eval_args.long == "shorten":
            yield "--max_length counts tokens: give --model_name_or_path, whose tokenizer counts them"
    else:
        if eval_args.base_url or eval_args.served_model_name:
            yield f"--base_url and --served_model_name are for --engine openai, not {name}"
        if eval_args.extra_body:
            yield f"--extra_body is for --engine openai, not {name}"
        if not model:
            yield "no model: give --model_name_or_path (a hub id, a folder, or 'embedded') or --adapter_path"
    if name == "vllm" and (model_args.load_in_4bit or model_args.load_in_8bit):
        yield "--load_in_4bit with --engine vllm: give the quantisation by --vllm_kwargs instead"


def _generation_kwargs(kwargs: dict[str, Any]) -> Iterator[str]:
    """Options that fail at the first batch, or that other options decide."""
    for name, value in kwargs.items():
        option = f"--generation_kwargs {name}"
        if reason := _REFUSED.get(name):
            yield f"{option}: {reason}"
        elif name == "do_sample":
            if not isinstance(value, bool):
                yield f"{option} {json.dumps(value)}: give true or false"
        elif name == "stop_strings":
            texts = [value] if isinstance(value, str) else value
            if not isinstance(texts, list) or not texts or not all(isinstance(one, str) and one for one in texts):
                yield f"{option} {json.dumps(value)}: give a text or a list of texts"
        elif isinstance(value, str) and name not in _TEXTS:
            yield f"{option} {json.dumps(value)} is a text: give the number or true without quotes"
        elif name == "temperature" and isinstance(value, int | float) and value <= 0:
            yield f"{option} {value}: greedy decoding, which is the default, has none: leave it and do_sample out"
        elif name == "num_beams" and (not isinstance(value, int) or value < 1):
            yield f"{option} {value}: give 1 or more"
        elif name == "top_p" and isinstance(value, int | float) and not 0 < value <= 1:
            yield f"{option} {value}: give more than 0, up to 1"
