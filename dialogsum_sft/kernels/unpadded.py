"""Training batches and prompts without padding on a CPU; the beginning that all rows share is computed once.

On a CPU padding costs as much as text, and torch's flash kernels of scaled_dot_product_attention reach a third of the
speed of plain matrix products, above all in the backward pass. The loss and the gradients are those of the padded
batch, up to rounding.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import transformers
from packaging.version import Version
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache, PreTrainedConfig, PreTrainedModel

# Models that mix tokens by plain causal attention only, called through transformers' AttentionInterface. Others
# (sliding windows, sinks, soft caps, state spaces, convolutions) keep their padded batch.
MODEL_TYPES = frozenset({"llama", "mistral", "qwen2", "qwen3"})
ATTENTION = "unpadded"
CACHE = "cache" if Version(transformers.__version__) >= Version("5.24") else "past_key_values"  # as where vLLM is
_BLOCK = 128  # queries at a time: later keys are skipped, and the block's scores stay in the CPU cache


def only_causal(config: PreTrainedConfig) -> bool:
    """Whether such a model mixes tokens by plain causal attention only."""
    return (
        config.model_type in MODEL_TYPES
        and config._attn_implementation == "sdpa"
        and not getattr(config, "sliding_window", None)
        and not getattr(config, "attention_dropout", 0.0)
    )


def can_unpad(model: PreTrainedModel) -> bool:
    """Whether `model`, on its device and with its settings, takes an unpadded batch."""
    return (
        model.device.type == "cpu"
        and only_causal(model.config)
        # Checkpointing computes the layers again in the backward pass, when `config` has its own attention back.
        and not getattr(model, "is_activation_checkpointing", False)
        and not torch.is_autocast_enabled("cpu")
    )


def unpad(input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> tuple[dict[str, Any], Tensor]:
    """A batch, padded on the right, as one row: the beginning that all rows share, then the rest of each row.

    Returns the model's inputs and an index. `input_ids` and `position_ids` are (1, tokens); `segments` are the lengths
    of the beginning and of each rest. The index, (rows, positions) as all that is given, has the place of each token
    in the row; -1 for padding and the beginning.
    """
    lengths: list[int] = attention_mask.sum(1).tolist()
    # The token before a row's first label predicts it, so it must not be shared.
    own = int((labels != -100).int().argmax(1).min()) - 1
    shared = 0
    if len(lengths) > 1 and own > 0:
        shared = int((input_ids[:, :own] == input_ids[:1, :own]).all(0).int().cumprod(0).sum())
    index = torch.full_like(input_ids, -1)
    ids, positions, start = [input_ids[0, :shared]], [torch.arange(shared)], shared
    for row, length in enumerate(lengths):
        ids.append(input_ids[row, shared:length])
        positions.append(torch.arange(shared, length))
        index[row, shared:length] = torch.arange(start, start + length - shared)
        start += length - shared
    inputs = {"input_ids": torch.cat(ids)[None], "position_ids": torch.cat(positions)[None]}
    return inputs | {"segments": (shared, *(length - shared for length in lengths))}, index


def shared_beginning(prompts: Sequence[Sequence[int]]) -> int:
    """How many tokens all prompts begin with alike."""
    return next((n for n, ids in enumerate(zip(*prompts, strict=False)) if len(set(ids)) > 1), min(map(len, prompts)))


def prefill(model: PreTrainedModel, prompts: Sequence[Sequence[int]]) -> DynamicCache:
    """Keys and values of all but the last token of each prompt, padded on the left, for `generate` to continue.

    Call it without gradients, on a model for which `can_unpad` is true.
    """
    lengths = [len(prompt) - 1 for prompt in prompts]
    shared = min(shared_beginning(prompts), *lengths) if len(prompts) > 1 else 0
    ids, positions = list(prompts[0][:shared]), list(range(shared))
    width = max(lengths)
    index = torch.zeros(len(prompts), width, dtype=torch.long)  # the place of each token; padding is masked
    for row, (prompt, length) in enumerate(zip(prompts, lengths, strict=True)):
        start = width - length
        index[row, start : start + shared] = torch.arange(shared)
        index[row, start + shared :] = torch.arange(len(ids), len(ids) + length - shared)
        ids += prompt[shared:length]
        positions += range(shared, length)
    cache = DynamicCache(config=model.config)
    own_attention = model.config._attn_implementation
    model.config._attn_implementation = ATTENTION
    try:
        model.base_model(
            input_ids=torch.tensor([ids]),
            position_ids=torch.tensor([positions]),
            segments=(shared, *(length - shared for length in lengths)),
            use_cache=True,
            **{CACHE: cache},
        )
    finally:
        model.config._attn_implementation = own_attention
    for layer in cache.layers:
        layer.keys, layer.values = (
            states[0][:, index].transpose(0, 1).contiguous() for states in (layer.keys, layer.values)
        )
    return cache


def _blocks(segments: tuple[int, ...]) -> Iterator[tuple[int, int, int, int]]:
    """(first query, end, shared keys, first own key) of each block of queries; its own keys end where it ends."""
    shared, *rests = segments
    for begin in range(0, shared, _BLOCK):
        yield begin, min(begin + _BLOCK, shared), 0, 0
    start = shared
    for length in rests:
        for begin in range(start, start + length, _BLOCK):
            yield begin, min(begin + _BLOCK, start + length), shared, start
        start += length


def _keys(of: Tensor, end: int, shared: int, start: int) -> Tensor:
    return torch.cat((of[:, :shared], of[:, start:end]), 1) if shared else of[:, start:end]


class _Attention(torch.autograd.Function):
    """Causal attention within each segment and to the shared beginning, over plain batched matrix products.

    query: (heads, tokens, size); key, value: (key heads, tokens, size); returns (1, tokens, heads, size). The
    probabilities are kept for the backward pass: half of tokens x longest row x heads numbers.
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, scaling: float, segments: tuple[int, ...]
    ) -> Tensor:
        heads, tokens, size = query.shape
        groups = key.shape[0]
        query = query.reshape(groups, heads // groups, tokens, size)
        output = query.new_empty(tokens, groups, heads // groups, size)
        kept = []
        for begin, end, shared, start in _blocks(segments):
            keys, values = _keys(key, end, shared, start), _keys(value, end, shared, start)
            queries = query[:, :, begin:end].reshape(groups, -1, size) * scaling
            scores = torch.bmm(queries, keys.transpose(1, 2))
            width = end - begin
            own = scores.view(groups, heads // groups, width, -1)[..., -width:]
            own += query.new_full((width, width), float("-inf")).triu_(1)  # the future
            probabilities = torch.softmax(scores, -1)
            kept.append(probabilities)
            block = torch.bmm(probabilities, values).view(groups, heads // groups, width, size)
            output[begin:end] = block.permute(2, 0, 1, 3)
        ctx.save_for_backward(query, key, value, *kept)
        ctx.scaling, ctx.segments = scaling, segments
        return output.view(1, tokens, heads, size)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, *kept = ctx.saved_tensors
        groups, group, tokens, size = query.shape
        gradient = gradient.reshape(tokens, groups, group, size).permute(1, 2, 0, 3)
        grad_query = query.new_empty(tokens, groups, group, size)
        # These sum over many blocks, so they are float32 whatever the model's dtype.
        grad_key, grad_value = torch.zeros(2, tokens, groups, size).transpose(1, 2)
        for probabilities, (begin, end, shared, start) in zip(kept, _blocks(ctx.segments), strict=True):
            keys, values = _keys(key, end, shared, start), _keys(value, end, shared, start)
            queries = query[:, :, begin:end].reshape(groups, -1, size) * ctx.scaling
            upper = gradient[:, :, begin:end].reshape(groups, -1, size)
            grad_probabilities = torch.bmm(upper, values.transpose(1, 2))
            grad_scores = torch._softmax_backward_data(grad_probabilities, probabilities, -1, probabilities.dtype)
            block = torch.bmm(grad_scores, keys).mul_(ctx.scaling).view(groups, group, end - begin, size)
            grad_query[begin:end] = block.permute(2, 0, 1, 3)
            for total, left, right in ((grad_key, grad_scores, queries), (grad_value, probabilities, upper)):
                part = torch.bmm(left.transpose(1, 2), right)
                if shared:
                    total[:, :shared] += part[:, :shared]
                total[:, start:end] += part[:, shared:]
        return (
            grad_query.view(tokens, groups * group, size).transpose(0, 1),
            grad_key.to(key.dtype),
            grad_value.to(value.dtype),
            None,
            None,
        )


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    segments: tuple[int, ...],
    **_: Any,
) -> tuple[Tensor, None]:
    return _Attention.apply(query[0], key[0], value[0], scaling, segments), None


AttentionInterface.register(ATTENTION, _attention)
AttentionMaskInterface.register(ATTENTION, lambda *args, **kwargs: None)
