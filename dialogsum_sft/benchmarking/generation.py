"""Ways to summarise dialogues with a model in this process, greedily."""

from dataclasses import dataclass
from typing import Any

from dialogsum_sft.benchmarking.settings import BenchmarkArguments
from dialogsum_sft.data import chat_template, prompts
from dialogsum_sft.generation.engine import generation_config
from dialogsum_sft.generation.transformers_engine import generate_batches

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase, pipeline


@dataclass
class Job:
    """The dialogues to summarise, as chats, with the number of references of each."""

    tokenizer: PreTrainedTokenizerBase
    chats: list[Any]
    references: list[int]
    args: BenchmarkArguments


def with_ours(model: PreTrainedModel, job: Job) -> int:
    """Like the other systems, return how many dialogues were summarised."""
    tokenizer, args = job.tokenizer, job.args
    ids = chat_template.render_batch(tokenizer, job.chats, add_generation_prompt=True)
    stop_ids = prompts.stop_token_ids(tokenizer, model.generation_config)
    config = generation_config(tokenizer, stop_ids, args.max_new_tokens)
    batches = generate_batches(model, tokenizer, ids, config, max_batch_tokens=args.max_batch_tokens)
    return sum(map(len, batches))


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
