"""Generation by vLLM in a process of its own, as vLLM has an environment of its own, with its own torch.

    PYTHON -m dialogsum_sft.benchmarking.vllm_process JOB.json FIGURES.json

JOB.json has the model, the token ids of the prompts, and the stop tokens; FIGURES.json is written.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dialogsum_sft import InputError, files
from dialogsum_sft.benchmarking.figures import Figures, figures_of, peak_memory
from dialogsum_sft.cli import run
from dialogsum_sft.generation.engine import generation_config
from dialogsum_sft.generation.vllm_engine import generate_batches, load_llm
from dialogsum_sft.modeling import load_tokenizer

import torch
from trl import ModelConfig

# What the process is told of the model.
_MODEL = ("model_name_or_path", "model_revision", "dtype")
_MISSING = "from importlib.util import find_spec as f; print(*(n for n in ('vllm', 'dialogsum_sft') if not f(n)))"


def interpreter_with_vllm(python: str | None) -> str:
    """`python`, else that of .venv-vllm if it exists, else this one. Raises InputError where it lacks vLLM."""
    own = Path(".venv-vllm", "bin", "python")
    python = python or (str(own) if own.exists() else sys.executable)
    remedy = "`make test-vllm` sets up .venv-vllm with it; --vllm_python names another interpreter"
    try:
        done = subprocess.run([python, "-P", "-c", _MISSING], capture_output=True, text=True)
    except OSError as error:
        raise InputError(f"--peers vllm: {python} does not start ({error.strerror}): {remedy}") from error
    missing = done.stdout.split() if done.returncode == 0 else ["vllm"]
    if missing:
        raise InputError(f"--peers vllm: {python} cannot import {' and '.join(missing)}: {remedy}")
    return python


def vllm_once(
    python: str,
    model_args: ModelConfig,
    prompts: Sequence[list[int]],
    stop_ids: frozenset[int],
    max_new_tokens: int,
    adapter_path: str | None,
    kwargs: dict[str, Any],
) -> Figures:
    """Summarise once, greedily, with the interpreter `python`; loading the model is not measured.

    `kwargs` are more arguments of vllm.LLM; without a GPU it would take most of the memory, so here it does not.
    Raises InputError where vLLM fails.
    """
    if model_args.load_in_4bit or model_args.load_in_8bit:
        raise InputError("vLLM is not given weights that bitsandbytes quantises")
    if torch.accelerator.is_available():
        torch.accelerator.empty_cache()  # vLLM takes a share of the GPU's memory that must be free
    elif not kwargs:
        kwargs = {"kv_cache_memory_bytes": 2**31}
    job: dict[str, Any] = {"model": {name: getattr(model_args, name) for name in _MODEL}}
    job |= {"prompts": list(prompts), "stop_ids": sorted(stop_ids), "max_new_tokens": max_new_tokens}
    with tempfile.TemporaryDirectory() as folder:
        path, result = Path(folder, "job.json"), Path(folder, "figures.json")
        files.write_json(path, job | {"adapter_path": adapter_path, "kwargs": kwargs})
        return figures_of([python, "-P", "-m", __name__, str(path), str(result)], result, "vLLM")


def main() -> None:
    path, result = map(Path, sys.argv[1:])
    job = json.loads(path.read_text(encoding="utf-8"))
    model_args, prompts, adapter_path = ModelConfig(**job["model"]), job["prompts"], job["adapter_path"]
    tokenizer = load_tokenizer(model_args, adapter_path=adapter_path)
    config = generation_config(tokenizer, frozenset(job["stop_ids"]), job["max_new_tokens"])
    longest = max(map(len, prompts)) + job["max_new_tokens"]
    llm = load_llm(model_args, adapter_path, longest, 42, job["kwargs"])

    def complete(prompts: list[list[int]]) -> int:
        return sum(map(len, generate_batches(llm, tokenizer, prompts, config, adapter_path=adapter_path)))

    complete([prompts[0][:1]])  # loads the adapter
    with peak_memory(children=True) as peak:
        started = time.perf_counter()
        dialogues = complete(prompts)
        seconds = time.perf_counter() - started
    files.write_json(result, {"dialogues_per_second": dialogues / seconds, "seconds": seconds} | peak)


if __name__ == "__main__":
    run(main)
