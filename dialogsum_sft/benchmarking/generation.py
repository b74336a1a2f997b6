"""Ways to summarise dialogues greedily: with a model in this process, and with vLLM in one of its own."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from dialogsum_sft.arguments import json_option
from dialogsum_sft.benchmarking.figures import OURS, Figures, peak_memory
from dialogsum_sft.benchmarking.floors import Batch, generation_floor
from dialogsum_sft.benchmarking.settings import BenchmarkArguments, Settings
from dialogsum_sft.benchmarking.vllm_process import vllm_once
from dialogsum_sft.data import chat_template, prompts
from dialogsum_sft.data.examples import Examples
from dialogsum_sft.generation.engine import generation_config
from dialogsum_sft.generation.transformers_engine import generate_batches
from dialogsum_sft.modeling import load_adapter, load_generation_config, load_model, load_tokenizer

import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase, pipeline
from trl import ModelConfig


@dataclass
class Job:
    """The dialogues to summarise, as chats, with the number of references of each."""

    tokenizer: PreTrainedTokenizerBase
    chats: list[Any]
    references: list[int]
    args: BenchmarkArguments
    batches: list[Batch] = field(default_factory=list)  # that ours has formed


def make_job(args: BenchmarkArguments, settings: Settings, test: Examples) -> Job:
    rows = test.rows.to_list()
    chats = [settings.prompt.messages(row["dialogue"])["prompt"] for row in rows]
    tokenizer = load_tokenizer(settings.model, adapter_path=args.adapter_path)
    return Job(tokenizer, chats, [len(row["references"]) for row in rows], args)


def generation_runs(settings: Settings, job: Job) -> dict[str, Callable[[], Figures]]:
    """A call for each system, which summarises once and returns its figures; loading the model is not measured."""
    systems = {OURS: with_ours, "pipeline": with_pipeline, "tutorial loop": with_tutorial_loop}
    runs: dict[str, Callable[[], Figures]] = {
        name: partial(summarise_once, settings, job, summarise) for name, summarise in systems.items()
    }
    if "vllm" in job.args.peers:
        runs["vLLM"] = partial(with_vllm, settings, job)
    return runs


def summarise_once(settings: Settings, job: Job, summarise: Callable[[PreTrainedModel, Job], int]) -> Figures:
    model = load(settings, job.args.adapter_path, summarise)
    with peak_memory() as peak:
        started = time.perf_counter()
        dialogues = summarise(model, job)
        seconds = time.perf_counter() - started
    return {"dialogues_per_second": dialogues / seconds, "seconds": seconds} | peak


def load(
    settings: Settings, adapter_path: str | None, summarise: Callable[[PreTrainedModel, Job], int]
) -> PreTrainedModel | PeftModel:
    """The model as a system loads it, with the adapter if there is one: merged for `pipeline`, which takes no PEFT
    model, and beside the base in PEFT's own layers for the tutorial's loop, in float32.
    """
    dtype = "float32" if summarise is with_tutorial_loop else settings.model.dtype
    model = load_model(ModelConfig(**vars(settings.model) | {"dtype": dtype}))
    model = model.to(torch.accelerator.current_accelerator() or "cpu")
    if adapter_path is not None and summarise is with_ours:
        model = load_adapter(model, adapter_path)
    elif adapter_path is not None:
        model = PeftModel.from_pretrained(model, adapter_path, autocast_adapter_dtype=False)
        model = model.merge_and_unload() if summarise is with_pipeline else model
    return model.eval()


def floor_dialogues_per_second(settings: Settings, job: Job) -> float | None:
    """Speed of the matrix products alone of the batches that ours has formed; None for a quantised model."""
    if settings.model.load_in_4bit or settings.model.load_in_8bit:
        return None
    model = load_model(settings.model).to(torch.accelerator.current_accelerator() or "cpu")
    return len(job.chats) / generation_floor(model, job.batches)


def with_ours(model: PreTrainedModel, job: Job) -> int:
    """Like the other systems, return how many dialogues were summarised. The batches are kept in `job`."""
    tokenizer, args = job.tokenizer, job.args
    ids = chat_template.render_batch(tokenizer, job.chats, add_generation_prompt=True)
    stop_ids = prompts.stop_token_ids(tokenizer, model.generation_config)
    config = generation_config(tokenizer, stop_ids, args.max_new_tokens)
    batches = list(generate_batches(model, tokenizer, ids, config, max_batch_tokens=args.max_batch_tokens))
    job.batches = [
        Batch.of([ids[i] for i, _ in batch], [one.completion_tokens or 0 for _, one in batch]) for batch in batches
    ]
    return sum(map(len, batches))


def with_vllm(settings: Settings, job: Job) -> Figures:
    ids = chat_template.render_batch(job.tokenizer, job.chats, add_generation_prompt=True)
    stop_ids = prompts.stop_token_ids(job.tokenizer, load_generation_config(settings.model))
    args = job.args
    kwargs = json_option("vllm_kwargs", args.vllm_kwargs)
    python, longest, adapter = str(args.vllm_python), args.max_new_tokens, args.adapter_path
    return vllm_once(python, settings.model, ids, stop_ids, longest, adapter, kwargs)


def with_pipeline(model: PreTrainedModel, job: Job) -> int:
    summarise = pipeline("text-generation", model=model, tokenizer=job.tokenizer, batch_size=16)
    options = {"max_new_tokens": job.args.max_new_tokens, "do_sample": False, "return_full_text": False}
    return len(summarise(job.chats, **options))


def with_tutorial_loop(model: PreTrainedModel, job: Job) -> int:
    tokenizer, count = job.tokenizer, job.args.tutorial_dialogues
    every = max(1, len(job.chats) // count)
    sample = list(zip(job.chats, job.references, strict=True))[every // 2 :: every][:count]
    for chat, rows in sample:
        ids = chat_template.render_batch(tokenizer, [chat], add_generation_prompt=True)[0]
        inputs = torch.tensor([ids], device=model.device)
        options: dict[str, Any] = {"max_new_tokens": job.args.max_new_tokens, "do_sample": False}
        options |= {"attention_mask": torch.ones_like(inputs), "pad_token_id": tokenizer.pad_token_id}
        for _ in range(rows):  # the same dialogue again: the hub has a row for each reference
            with torch.no_grad():
                output = model.generate(input_ids=inputs, **options)
            tokenizer.decode(output[0, inputs.shape[1] :], skip_special_tokens=True)
    return len(sample)
