"""Batched generation with a transformers model: every prompt once, in batches of like length."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from dialogsum_sft import InputError

import torch
from peft import PeftModel
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase


@dataclass
class Completion:
    """A generated summary; `completion_tokens` counts its stop token, `finish_reason` is "stop" or "length"."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    finish_reason: str


def generation_config(
    tokenizer: PreTrainedTokenizerBase, stop_ids: frozenset[int], max_new_tokens: int, **kwargs: Any
) -> GenerationConfig:
    """Greedy decoding unless `kwargs` (any GenerationConfig option) say otherwise.

    Nothing is taken from the model's own generation config but its stop tokens: chat models ship temperatures and
    repetition penalties that would silently change a "greedy" score. Raises InputError for an unknown option.
    """
    unknown = [name for name in kwargs if not hasattr(GenerationConfig(), name)]
    if unknown:
        raise InputError(f"--generation_kwargs: GenerationConfig has no option {', '.join(unknown)}")
    options = {
        "max_new_tokens": max_new_tokens,
        "do_sample": False,
        "num_beams": 1,
        "repetition_penalty": 1.0,
        "use_cache": True,
        "eos_token_id": sorted(stop_ids),
        "pad_token_id": tokenizer.pad_token_id,
    }
    try:
        config = GenerationConfig(**(options | kwargs))
        config.validate()
    except (ValueError, TypeError) as error:
        raise InputError(f"generation options: {error}") from error
    return config


def batches(lengths: Sequence[int], max_new_tokens: int, max_batch_tokens: int) -> list[list[int]]:
    """Indices of the prompts in batches, longest prompts first, so that running out of memory shows at once.

    A batch holds as many rows as keep rows * (longest prompt + max_new_tokens) within `max_batch_tokens`, and at
    least one.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    result: list[list[int]] = []
    while order:
        rows = max(1, max_batch_tokens // (lengths[order[0]] + max_new_tokens))
        result.append(order[:rows])
        order = order[rows:]
    return result


@contextlib.contextmanager
def _generating(model: PreTrainedModel, config: GenerationConfig) -> Iterator[None]:
    """Evaluation mode (dropout of a LoRA layer would make greedy decoding random) and our generation config alone."""
    training = model.training
    holders = [model, model.get_base_model()] if isinstance(model, PeftModel) else [model]  # both have a config
    own_configs = [holder.generation_config for holder in holders]
    model.eval()
    for holder in holders:
        holder.generation_config = config
    try:
        with torch.inference_mode():
            yield
    finally:
        for holder, own_config in zip(holders, own_configs, strict=True):
            holder.generation_config = own_config
        model.train(training)


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[int]],
    config: GenerationConfig,
    *,
    max_batch_tokens: int = 8192,
) -> Iterator[tuple[int, Completion]]:
    """Yield (index of the prompt, its completion), batch by batch, as they are done; the caller restores the order.

    Prompts are padded on the left whatever the tokenizer's side: behind right padding a model continues the padding.
    """
    stop_ids = set(config.eos_token_id)
    with _generating(model, config):
        for batch in batches([len(ids) for ids in prompts], config.max_new_tokens, max_batch_tokens):
            width = max(len(prompts[i]) for i in batch)
            input_ids = torch.full((len(batch), width), config.pad_token_id)
            attention_mask = torch.zeros_like(input_ids)
            for row, i in enumerate(batch):
                input_ids[row, width - len(prompts[i]) :] = torch.tensor(prompts[i])
                attention_mask[row, width - len(prompts[i]) :] = 1
            output = model.generate(
                input_ids=input_ids.to(model.device), attention_mask=attention_mask.to(model.device)
            )
            for row, i in enumerate(batch):
                ids = output[row, width:].tolist()
                end = next((at for at, token in enumerate(ids) if token in stop_ids), None)
                text = tokenizer.decode(ids[:end], skip_special_tokens=True).strip()
                yield (
                    i,
                    Completion(
                        text=text,
                        prompt_tokens=len(prompts[i]),
                        completion_tokens=len(ids) if end is None else end + 1,
                        finish_reason="length" if end is None else "stop",
                    ),
                )
