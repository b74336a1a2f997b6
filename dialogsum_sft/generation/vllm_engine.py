"""Generation by vLLM's offline engine, from the token ids of prompts; the adapter is not merged.

vLLM pins its own torch and transformers, so it needs an environment of its own, in which this package runs too.
"""

import importlib
import importlib.metadata
import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

from dialogsum_sft import InputError
from dialogsum_sft.data.encoding import Prompt
from dialogsum_sft.generation.engine import Completion, System, Watch, to_completion
from dialogsum_sft.hardware import resolve_dtype
from dialogsum_sft.modeling import EMBEDDED, embedded_model

from transformers import GenerationConfig, PreTrainedTokenizerBase
from trl import ModelConfig

# The ranks that vLLM has kernels for (vllm.config.lora.MaxLoRARanks; 1 is left out, older versions lack it).
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
# GenerationConfig's names for SamplingParams' options; what is not here is refused.
_SAMPLING = {"top_k": "top_k", "top_p": "top_p", "min_p": "min_p", "repetition_penalty": "repetition_penalty"}
_SAMPLING |= {"min_new_tokens": "min_tokens", "max_new_tokens": "max_tokens", "temperature": "temperature"}
_KNOWN = {*_SAMPLING, "do_sample", "eos_token_id", "pad_token_id", "bos_token_id", "use_cache", "transformers_version"}
_AT_ONCE = 512  # prompts handed over together, so the most that an interruption loses


def _vllm() -> ModuleType:
    try:
        return importlib.import_module("vllm")
    except ImportError as error:
        raise InputError(
            f"--engine vllm needs the package vllm, in an environment of its own (pip install vllm): {error}"
        ) from error


class VllmEngine:
    """Engine of vLLM's offline LLM. The model is loaded when the first prompt is completed, or to find `max_length`.

    `kwargs` are more arguments of `vllm.LLM`.
    """

    name = "vllm"

    def __init__(
        self,
        model_args: ModelConfig,
        tokenizer: PreTrainedTokenizerBase,
        config: GenerationConfig,
        *,
        adapter_path: str | None = None,
        max_length: int | None = None,
        seed: int = 42,
        kwargs: dict[str, Any] | None = None,
        systems: Sequence[System] = (),
    ) -> None:
        sampling_options(config)  # raises InputError before anything is loaded
        self.model_args, self.tokenizer, self.config = model_args, tokenizer, config
        self.adapter_path, self.seed, self.kwargs, self.systems = adapter_path, seed, kwargs or {}, list(systems)
        self._max_length = max_length
        self.max_new_tokens, self.samples = int(config.max_new_tokens), bool(config.do_sample)
        self.record: dict[str, Any] = {"name": self.name, "version": str(_vllm().__version__)}
        self.record["generation"] = config.to_diff_dict()

    @cached_property
    def llm(self) -> Any:
        return load_llm(self.model_args, self.adapter_path, self._max_length, self.seed, self.kwargs)

    @property
    def max_length(self) -> int:
        return self._max_length or int(self.llm.llm_engine.model_config.max_model_len)

    def complete(
        self,
        prompts: Sequence[Prompt],
        *,
        adapter: bool,
        seeds: Sequence[int] | None = None,
        watch: Watch | None = None,
    ) -> Iterator[list[tuple[int, Completion]]]:
        ids = [prompt.ids for prompt in prompts]
        path = self.adapter_path if adapter else None
        yield from generate_batches(self.llm, self.tokenizer, ids, self.config, seeds=seeds, adapter_path=path)

    def close(self) -> None:
        self.__dict__.pop("llm", None)


def sampling_options(config: GenerationConfig) -> dict[str, Any]:
    """Arguments of vllm.SamplingParams for a generation config. Raises InputError for an option that vLLM lacks."""
    options = {name: value for name, value in config.to_diff_dict().items() if value is not None}
    if options.get("num_beams") == 1:
        del options["num_beams"]
    unknown = sorted(options.keys() - _KNOWN)
    if unknown:
        raise InputError(
            f"--generation_kwargs: --engine vllm has no {', '.join(unknown)}; it has {', '.join(_SAMPLING)}"
        )
    result = {_SAMPLING[name]: value for name, value in options.items() if name in _SAMPLING}
    if not config.do_sample:
        result["temperature"] = 0.0
    return result | {"stop_token_ids": list(config.eos_token_id), "detokenize": False}


def lora_rank(adapter_path: str) -> int:
    """The smallest max_lora_rank that fits the adapter. Raises InputError where vLLM cannot load it."""
    config = json.loads((Path(adapter_path) / "adapter_config.json").read_text(encoding="utf-8"))
    faults = [name for name in ("modules_to_save", "use_dora", "trainable_token_indices") if config.get(name)]
    if config.get("bias", "none") != "none":
        faults.append("bias")
    rank = max([config["r"], *(config.get("rank_pattern") or {}).values()])
    if rank > _RANKS[-1]:
        faults.append(f"rank {rank}")
    if faults:
        raise InputError(
            f"vLLM cannot load the adapter in {adapter_path} ({', '.join(faults)}): merge it into its base first, or "
            "take --engine transformers"
        )
    return next(allowed for allowed in _RANKS if allowed >= rank)


def load_llm(
    model_args: ModelConfig, adapter_path: str | None, max_length: int | None, seed: int, kwargs: dict[str, Any]
) -> Any:
    """A vllm.LLM of the base model, ready for the adapter; `kwargs` are more arguments of it and win.

    Raises InputError where vLLM is missing, or cannot load the model or the adapter.
    """
    lora = {} if adapter_path is None else {"enable_lora": True, "max_lora_rank": lora_rank(adapter_path)}
    vllm = _vllm()
    model_args.dtype = str(resolve_dtype(model_args.dtype)).removeprefix("torch.")  # for the record
    name = model_args.model_name_or_path
    if not name:
        raise InputError("no model: give --model_name_or_path (a hub id, a folder, or 'embedded')")
    options = {
        "model": str(embedded_model()) if name == EMBEDDED else name,
        "revision": model_args.model_revision,
        "dtype": model_args.dtype,
        "max_model_len": max_length,
        "generation_config": "vllm",  # none of the model's own sampling options
        "seed": seed,
    }
    try:
        return vllm.LLM(**(options | lora | kwargs))
    except (ValueError, TypeError, RuntimeError, OSError) as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"vLLM cannot load {name}: {reason}") from error


def generate_batches(
    llm: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[int]],
    config: GenerationConfig,
    *,
    seeds: Sequence[int] | None = None,
    adapter_path: str | None = None,
) -> Iterator[list[tuple[int, Completion]]]:
    """Yield lists of (index of the prompt, its completion); vLLM batches by itself.

    `seeds`, one for each prompt, decide what is sampled. Raises InputError for an option that vLLM lacks.
    """
    vllm = _vllm()
    options = sampling_options(config)
    lora = None
    if adapter_path is not None:
        request = importlib.import_module("vllm.lora.request").LoRARequest
        lora = request("adapter", 1, str(Path(adapter_path).resolve()))
    for start in range(0, len(prompts), _AT_ONCE):
        at_once = range(start, min(start + _AT_ONCE, len(prompts)))
        outputs = llm.generate(
            [{"prompt_token_ids": prompts[i]} for i in at_once],
            [vllm.SamplingParams(**options, seed=None if seeds is None else seeds[i]) for i in at_once],
            lora_request=lora,
            use_tqdm=False,
        )
        yield [
            (i, to_completion(tokenizer, prompts[i], list(output.outputs[0].token_ids), config))
            for i, output in zip(at_once, outputs, strict=True)
        ]
