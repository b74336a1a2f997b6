"""Batched generation with a transformers model: every prompt once, in batches of like length.

The other engines, `vllm_engine` and `openai_engine`, yield the same `Completion`s batch by batch.
"""

import contextlib
import logging
import zlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from dialogsum_sft import InputError
from dialogsum_sft.kernels.unpadded import CACHE, can_unpad, prefill

import torch
from accelerate.utils.memory import should_reduce_batch_size
from peft import PeftModel
from transformers import (
    DynamicCache,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.cache_utils import DynamicLayer

logger = logging.getLogger(__name__)

# Options under which a batch may be cut short and go on with fewer rows: none of them counts from where it began.
_ROW_BY_ROW = {"max_new_tokens", "eos_token_id", "pad_token_id", "bos_token_id", "use_cache", "num_beams"}
_ROW_BY_ROW |= {"do_sample", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "no_repeat_ngram_size"}
_ROW_BY_ROW |= {"transformers_version"}


@dataclass
class Completion:
    """A generated summary; `completion_tokens` counts its stop token, `finish_reason` is "stop" or "length".

    Tokens are None where an endpoint does not count them.
    """

    text: str
    prompt_tokens: int | None
    completion_tokens: int | None
    finish_reason: str


def generation_config(
    tokenizer: PreTrainedTokenizerBase, stop_ids: frozenset[int], max_new_tokens: int, **kwargs: Any
) -> GenerationConfig:
    """Greedy decoding unless `kwargs` (any GenerationConfig option) say otherwise.

    Nothing is taken from the model's own generation config but its stop tokens: chat models ship temperatures and
    repetition penalties that would silently change a "greedy" score. Sampling is from the whole distribution unless
    `kwargs` cut it (transformers itself would take the 50 likeliest tokens). Raises InputError for an unknown option.
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
    if kwargs.get("do_sample"):
        options |= {"temperature": 1.0, "top_k": 0, "top_p": 1.0}
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
    seeds: Sequence[int] | None = None,
) -> Iterator[tuple[int, Completion]]:
    """`generate_batches`, one completion at a time."""
    for batch in generate_batches(model, tokenizer, prompts, config, max_batch_tokens=max_batch_tokens, seeds=seeds):
        yield from batch


def generate_batches(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[int]],
    config: GenerationConfig,
    *,
    max_batch_tokens: int = 8192,
    seeds: Sequence[int] | None = None,
) -> Iterator[list[tuple[int, Completion]]]:
    """Yield batches of (index of the prompt, its completion) as they are done; the caller restores the order.

    Prompts are padded on the left whatever the tokenizer's side: behind right padding a model continues the padding.
    A batch that runs out of memory is done again as two, and what follows keeps to the smaller size. What is
    sampled is decided by `seeds`, one for each prompt, and the batches; torch's random state is left as it was.

    Raises InputError where a single prompt runs out of memory.
    """
    todo = batches([len(ids) for ids in prompts], config.max_new_tokens, max_batch_tokens)
    while todo:
        batch = todo[0]
        try:
            with _generating(model, config), _seeded(config, [seeds[i] if seeds else i for i in batch]):
                rows = _complete(model, [prompts[i] for i in batch], config)
        except RuntimeError as error:  # torch.OutOfMemoryError is one
            if not _out_of_memory(error):
                raise
            tokens = len(prompts[batch[0]]) + config.max_new_tokens
            if len(batch) == 1:
                raise InputError(
                    f"out of memory at a single dialogue: {len(prompts[batch[0]])} tokens and {config.max_new_tokens} "
                    "for the summary. Give a smaller --max_length, or --load_in_4bit"
                ) from error
            rest = [i for batch in todo for i in batch]
            order = batches([len(prompts[i]) for i in rest], config.max_new_tokens, tokens * (len(batch) // 2))
            todo = [[rest[at] for at in rows] for rows in order]
            logger.warning("out of memory with %d rows in a batch: going on with %d", len(batch), len(todo[0]))
        else:
            todo = todo[1:]
            yield [(i, completion(tokenizer, prompts[i], rows[n], config)) for n, i in enumerate(batch)]
            continue
        # Behind the except clause: until its end the error holds the tensors of the failed batch.
        if torch.accelerator.is_available():
            torch.accelerator.empty_cache()


def _out_of_memory(error: RuntimeError) -> bool:
    return (
        isinstance(error, torch.OutOfMemoryError)
        or should_reduce_batch_size(error)
        or "not enough memory" in str(error)
    )


@contextlib.contextmanager
def _seeded(config: GenerationConfig, seeds: list[int]) -> Iterator[None]:
    if not config.do_sample:
        yield
        return
    with torch.random.fork_rng():
        torch.manual_seed(zlib.crc32(repr(seeds).encode()))
        yield


class _QuarterFinished(StoppingCriteria):
    """Ends a batch when a quarter of its rows have ended: a finished row costs as much as one that goes on."""

    def __init__(self, start: int, stop_ids: Collection[int], device: torch.device) -> None:
        self.start = start
        self.stop_ids = torch.tensor(sorted(stop_ids), device=device)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        ended = torch.isin(input_ids[:, self.start :], self.stop_ids).any(dim=1)
        return ended | (ended.sum() * 4 >= len(ended))


def _drops_rows(model: PreTrainedModel, config: GenerationConfig) -> bool:
    """Whether rows can leave a batch: no beams, no option that counts from its beginning, a cache of whole rows."""
    if config.num_beams > 1 or config.to_diff_dict().keys() - _ROW_BY_ROW or not config.use_cache:
        return False
    layers = DynamicCache(config=model.config.get_text_config(decoder=True)).layers
    return bool(layers) and all(isinstance(layer, DynamicLayer) for layer in layers)


def _complete(model: PreTrainedModel, prompts: list[list[int]], config: GenerationConfig) -> list[list[int]]:
    """What each prompt is continued with, up to and with its stop token; may be followed by padding."""
    width = max(map(len, prompts))
    ids = torch.full((len(prompts), width), config.pad_token_id)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    ids, mask = ids.to(model.device), mask.to(model.device)
    if not _drops_rows(model, config):
        return model.generate(input_ids=ids, attention_mask=mask)[:, width:].tolist()

    stop_ids = torch.tensor(sorted(config.eos_token_id), device=ids.device)
    done: dict[int, list[int]] = {}
    going = torch.arange(len(prompts), device=ids.device)  # the prompts that the rows of the batch belong to
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    if can_unpad(base) and min(map(len, prompts)) > 1:
        cache = prefill(base, prompts)
    else:
        cache = DynamicCache(config=model.config.get_text_config(decoder=True))
    while len(going):
        start = ids.shape[1]
        ids = model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=config.max_new_tokens - (start - width),
            stopping_criteria=StoppingCriteriaList([_QuarterFinished(start, config.eos_token_id, ids.device)]),
            **{CACHE: cache},  # holds all but the last token of each row
        )
        full = ids.shape[1] - width >= config.max_new_tokens
        ended = torch.isin(ids[:, width:], stop_ids).any(dim=1) | full
        for row in ended.nonzero().flatten().tolist():
            done[int(going[row])] = ids[row, width:].tolist()
        rows = (~ended).nonzero().flatten()
        going, ids = going[rows], ids[rows]
        mask = torch.nn.functional.pad(mask[rows], (0, ids.shape[1] - mask.shape[1]), value=1)
        if len(rows):
            cache.batch_select_indices(rows)
    return [done[row] for row in range(len(prompts))]


def completion(
    tokenizer: PreTrainedTokenizerBase, prompt: list[int], ids: list[int], config: GenerationConfig
) -> Completion:
    """What an engine generated behind a prompt, up to and with its stop token, as every engine records it."""
    end = next((at for at, token in enumerate(ids) if token in config.eos_token_id), None)
    return Completion(
        text=tokenizer.decode(ids[:end], skip_special_tokens=True).strip(),
        prompt_tokens=len(prompt),
        completion_tokens=len(ids) if end is None else end + 1,
        finish_reason="length" if end is None else "stop",
    )
