"""Batched generation with a transformers model: every prompt once, in batches of similar length."""

import contextlib
import copy
import logging
import warnings
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any, TypeVar

from dialogsum_sft import InputError
from dialogsum_sft.data.encoding import Prompt
from dialogsum_sft.generation.engine import Completion, System, Watch, to_completion
from dialogsum_sft.hardware import is_out_of_memory
from dialogsum_sft.kernels.unpadded import CACHE, can_unpad, prefill

import torch
from peft import PeftModel
from transformers import (
    DynamicCache,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.cache_utils import DynamicLayer

logger = logging.getLogger(__name__)

Made = TypeVar("Made")

# With these options alone a batch may be ended early and continued with fewer rows: none counts from its beginning.
_ROW_BY_ROW = {"max_new_tokens", "eos_token_id", "pad_token_id", "bos_token_id", "use_cache", "num_beams"}
_ROW_BY_ROW |= {"do_sample", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "no_repeat_ngram_size"}
_ROW_BY_ROW |= {"transformers_version"}


class TransformersEngine:
    """Engine of a transformers model, in this process, on its device.

    `load` returns the model, or a PeftModel with the adapter; it is called when the first prompt is completed.
    `max_batch_tokens` limits a batch: rows * (longest prompt + max_new_tokens).
    """

    name = "transformers"

    def __init__(
        self,
        load: Callable[[], PreTrainedModel | PeftModel],
        tokenizer: PreTrainedTokenizerBase,
        config: GenerationConfig,
        *,
        max_length: int | None,
        max_batch_tokens: int,
        systems: Sequence[System] = (),
    ) -> None:
        self._load, self.tokenizer, self.config = load, tokenizer, config
        self.max_length, self.max_batch_tokens, self.systems = max_length, max_batch_tokens, list(systems)
        self.max_new_tokens, self.samples = int(config.max_new_tokens), bool(config.do_sample)
        self.record: dict[str, Any] = {"name": self.name, "max_batch_tokens": max_batch_tokens}
        self.record["generation"] = config.to_diff_dict()

    @cached_property
    def model(self) -> PreTrainedModel | PeftModel:
        return self._load()

    def complete(
        self,
        prompts: Sequence[Prompt],
        *,
        adapter: bool,
        seeds: Sequence[int] | None = None,
        watch: Watch | None = None,
    ) -> Iterator[list[tuple[int, Completion]]]:
        has_adapter = isinstance(self.model, PeftModel)
        with self.model.disable_adapter() if has_adapter and not adapter else contextlib.nullcontext():
            yield from generate_batches(
                self.model,
                self.tokenizer,
                [prompt.ids for prompt in prompts],
                self.config,
                max_batch_tokens=self.max_batch_tokens,
                seeds=seeds,
                watch=watch,
            )

    def close(self) -> None:
        self.__dict__.pop("model", None)


def try_options(tokenizer: PreTrainedTokenizerBase, config: GenerationConfig, names: Iterable[str]) -> None:
    """Raise InputError where `generate` refuses `config`, tried with a model of one tiny layer before any is loaded.

    `names` are the options that the user has given.
    """
    tokens = [len(tokenizer) - 1, config.pad_token_id or 0, *config.eos_token_id]
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    short = copy.deepcopy(config)
    short.max_new_tokens = min(2, config.max_new_tokens)
    with torch.random.fork_rng(), warnings.catch_warnings(action="ignore"):
        model = LlamaForCausalLM(LlamaConfig(vocab_size=max(tokens) + 1, num_key_value_heads=1, **sizes))
        try:
            list(generate_batches(model, tokenizer, [[0, 1, 2], [1]], short))
        except Exception as error:
            reason = " ".join(str(error).split())[:300]
            raise InputError(f"--generation_kwargs {', '.join(names)}: generate refuses: {reason}") from error


def batches(lengths: Sequence[int], max_new_tokens: int, max_batch_tokens: int) -> list[list[int]]:
    """Indices of the prompts in batches, the longest prompts first, so that running out of memory shows at once.

    A batch has as many rows as keep rows * (longest prompt + max_new_tokens) within `max_batch_tokens`, and at least
    one.
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
    """Evaluation mode, as LoRA's dropout would make greedy decoding random, and `config` as the only one."""
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


def generate_batches(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[int]],
    config: GenerationConfig,
    *,
    max_batch_tokens: int = 8192,
    seeds: Sequence[int] | None = None,
    watch: Watch | None = None,
) -> Iterator[list[tuple[int, Completion]]]:
    """Yield batches of (index of the prompt, its completion) as they are done; the caller restores the order.

    Prompts (token ids) are padded on the left, whatever the tokenizer's side: behind right padding a model continues
    the padding. A batch that runs out of memory is split in two, and later batches keep the smaller size. `seeds`, one
    for each prompt, and the batches decide what is sampled; torch's random state is left as it was. `watch` is called
    after each token, see `engine.Engine`.

    Raises InputError where a single prompt runs out of memory.
    """

    def complete(batch: list[int]) -> list[list[int]]:
        with _generating(model, config), _seeded(config, [seeds[i] if seeds else i for i in batch]):
            return _complete(model, tokenizer, [prompts[i] for i in batch], config, watch)

    lengths = [len(ids) for ids in prompts]
    for batch, rows in in_batches(complete, lengths, max_batch_tokens, max_new_tokens=config.max_new_tokens):
        yield [(i, to_completion(tokenizer, prompts[i], rows[n], config)) for n, i in enumerate(batch)]


def in_batches(
    call: Callable[[list[int]], Made],
    lengths: Sequence[int],
    max_batch_tokens: int,
    *,
    max_new_tokens: int = 0,
    remedy: str = "a smaller --max_length, or --load_in_4bit",
) -> Iterator[tuple[list[int], Made]]:
    """Yield each of `batches` and what `call` makes of it. One that runs out of memory is halved, as all after it.

    Raises InputError, with the `remedy`, where a single row runs out of memory.
    """
    todo = batches(lengths, max_new_tokens, max_batch_tokens)
    while todo:
        batch = todo[0]
        try:
            made = call(batch)
        except RuntimeError as error:  # torch.OutOfMemoryError is one
            if not is_out_of_memory(error):
                raise
            tokens = lengths[batch[0]] + max_new_tokens
            if len(batch) == 1:
                more = f" and {max_new_tokens} for the summary" if max_new_tokens else ""
                raise InputError(
                    f"out of memory at a single dialogue: {lengths[batch[0]]} tokens{more}. Give {remedy}"
                ) from error
            rest = [i for batch in todo for i in batch]
            order = batches([lengths[i] for i in rest], max_new_tokens, tokens * (len(batch) // 2))
            todo = [[rest[at] for at in rows] for rows in order]
            logger.warning("out of memory with %d rows in a batch: continuing with %d", len(batch), len(todo[0]))
        else:
            todo = todo[1:]
            yield batch, made
            continue
        # After the except clause, as the error holds the tensors of the failed batch until its end.
        if torch.accelerator.is_available():
            torch.accelerator.empty_cache()


@contextlib.contextmanager
def _seeded(config: GenerationConfig, seeds: list[int]) -> Iterator[None]:
    if not config.do_sample:
        yield
        return
    with torch.random.fork_rng():
        torch.manual_seed(zlib.crc32(repr(seeds).encode()))
        yield


class _QuarterFinished(StoppingCriteria):
    """Ends a batch when a quarter of its rows have ended, as a finished row costs as much as an unfinished one."""

    def __init__(self, start: int, stop_ids: Collection[int], device: torch.device) -> None:
        self.start = start
        self.stop_ids = torch.tensor(sorted(stop_ids), device=device)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        ended = torch.isin(input_ids[:, self.start :], self.stop_ids).any(dim=1)
        return ended | (ended.sum() * 4 >= len(ended))


class _Watched(StoppingCriteria):
    """Calls `watch` after each token with the text so far, and ends nothing itself."""

    def __init__(
        self, watch: Watch, tokenizer: PreTrainedTokenizerBase, prompt: list[int], config: GenerationConfig, start: int
    ) -> None:
        self.watch, self.tokenizer, self.prompt, self.config, self.start = watch, tokenizer, prompt, config, start

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        text = ""
        if len(input_ids) == 1:  # neither other prompts nor beams
            ids = input_ids[0, self.start :].tolist()
            text = to_completion(self.tokenizer, self.prompt, ids, self.config).text
        self.watch(text)
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


def _drops_rows(model: PreTrainedModel, config: GenerationConfig) -> bool:
    """Whether rows can leave a batch: no beams, no option that counts from its beginning, a cache of whole rows."""
    if config.num_beams > 1 or config.to_diff_dict().keys() - _ROW_BY_ROW or not config.use_cache:
        return False
    layers = DynamicCache(config=model.config.get_text_config(decoder=True)).layers
    return bool(layers) and all(isinstance(layer, DynamicLayer) for layer in layers)


def _complete(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[list[int]],
    config: GenerationConfig,
    watch: Watch | None,
) -> list[list[int]]:
    """The ids that each prompt is continued with, through its stop token; padding may follow."""
    width = max(map(len, prompts))
    ids = torch.full((len(prompts), width), config.pad_token_id)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    ids, mask = ids.to(model.device), mask.to(model.device)
    watched = [_Watched(watch, tokenizer, prompts[0], config, width)] if watch is not None else []
    if not _drops_rows(model, config):
        criteria = StoppingCriteriaList(watched)
        made = model.generate(input_ids=ids, attention_mask=mask, tokenizer=tokenizer, stopping_criteria=criteria)
        return made[:, width:].tolist()

    stop_ids = torch.tensor(sorted(config.eos_token_id), device=ids.device)
    done: dict[int, list[int]] = {}
    remaining = torch.arange(len(prompts), device=ids.device)  # the prompts of the rows still in the batch
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    if can_unpad(base) and min(map(len, prompts)) > 1:
        cache = prefill(base, prompts)
    else:
        cache = DynamicCache(config=model.config.get_text_config(decoder=True))
    while len(remaining):
        start = ids.shape[1]
        ids = model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=config.max_new_tokens - (start - width),
            stopping_criteria=StoppingCriteriaList(
                [*watched, _QuarterFinished(start, config.eos_token_id, ids.device)]
            ),
            **{CACHE: cache},  # holds all but the last token of each row
        )
        full = ids.shape[1] - width >= config.max_new_tokens
        ended = torch.isin(ids[:, width:], stop_ids).any(dim=1) | full
        for row in ended.nonzero().flatten().tolist():
            done[int(remaining[row])] = ids[row, width:].tolist()
        rows = (~ended).nonzero().flatten()
        remaining, ids = remaining[rows], ids[rows]
        mask = torch.nn.functional.pad(mask[rows], (0, ids.shape[1] - mask.shape[1]), value=1)
        if len(rows):
            cache.batch_select_indices(rows)
    return [done[row] for row in range(len(prompts))]
