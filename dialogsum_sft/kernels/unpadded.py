"""Training and prompts on a CPU without padding, the rows' common beginning computed once, and LoRA in few passes.

There torch's kernels leave half of a step's time to other things than matrix products: scaled_dot_product_attention's
flash kernels reach a third of the speed of plain products (their backward pass above all), PEFT's LoRA layer goes
through memory four times more than it must, and padding is computed like text. The loss and the gradients are those of
the padded batch, up to rounding.
"""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from packaging.version import Version
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache, PreTrainedConfig, PreTrainedModel

# Models whose tokens meet in causal attention and nowhere else, and whose attention goes through transformers'
# AttentionInterface. Others (sliding windows, sinks, soft caps, state spaces, convolutions) keep their padded batch.
MODEL_TYPES = frozenset({"llama", "mistral", "qwen2", "qwen3"})
ATTENTION = "unpadded"
CACHE = "cache" if Version(transformers.__version__) >= Version("5.24") else "past_key_values"  # as where vLLM is
_BLOCK = 128  # queries at a time: keys behind the block are not looked at, and its scores stay in the cache


@dataclass
class Unpadded:
    """A batch as one row: the beginning that all rows share, then the rest of each row.

    `input_ids`, `position_ids`: (1, tokens). `segments`: length of the beginning and of each rest. `index`: for every
    (row, position) of the padded batch where it now is; -1 for padding, and for the beginning.
    """

    input_ids: Tensor
    position_ids: Tensor
    segments: tuple[int, ...]
    index: Tensor


def only_causal(config: PreTrainedConfig) -> bool:
    """Whether the tokens of such a model meet in plain causal attention alone."""
    return (
        config.model_type in MODEL_TYPES
        and config._attn_implementation == "sdpa"
        and not getattr(config, "sliding_window", None)
        and not getattr(config, "attention_dropout", 0.0)
    )


def can_unpad(model: PreTrainedModel) -> bool:
    """Whether `model`, on its device and as it is set up, can be given an unpadded batch."""
    return (
        model.device.type == "cpu"
        and only_causal(model.config)
        # Which would compute the layers again when this step is over.
        and not getattr(model, "is_activation_checkpointing", False)
        and not torch.is_autocast_enabled("cpu")
    )


def unpad(input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> Unpadded:
    """Take the padding out of a batch padded on the right, each tensor (rows, positions)."""
    lengths: list[int] = attention_mask.sum(1).tolist()
    # A row's first label is predicted from the token before it, which must be the row's own.
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
    segments = (shared, *(length - shared for length in lengths))
    return Unpadded(torch.cat(ids)[None], torch.cat(positions)[None], segments, index)


def prefill(model: PreTrainedModel, prompts: Sequence[Sequence[int]]) -> DynamicCache:
    """Keys and values of all but the last token of each prompt, padded on the left, for `generate` to go on from.

    `model` is one that `can_unpad`, without gradients.
    """
    lengths = [len(prompt) - 1 for prompt in prompts]
    shared = 0
    if len(prompts) > 1:
        shared = next((n for n, ids in enumerate(zip(*prompts, strict=False)) if len(set(ids)) > 1), min(lengths))
        shared = min(shared, *lengths)
    ids, positions = list(prompts[0][:shared]), list(range(shared))
    width = max(lengths)
    index = torch.zeros(len(prompts), width, dtype=torch.long)  # where each token is; padding is masked
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


def _future(size: int, dtype: torch.dtype) -> Tensor:
    return torch.full((size, size), float("-inf"), dtype=dtype).triu_(1)


class _Attention(torch.autograd.Function):
    """Causal attention within each segment and to the shared beginning, over plain batched matrix products.

    query: (heads, tokens, size); key, value: (key heads, tokens, size); returns (1, tokens, heads, size). The
    probabilities are kept for the backward pass: half of tokens x longest row x heads.
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
            own += _future(width, query.dtype)
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
        # Summed over many blocks: in float32, whatever the model's dtype.
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


class _Lora(torch.autograd.Function):
    """x W' + bias + scaling (x A') B', adding into the first product; W and bias are frozen."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scaling: float
    ) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        low = rows @ a.T
        output = F.linear(rows, weight, bias).addmm_(low, b.T, alpha=scaling)
        ctx.save_for_backward(rows, low, weight, a, b)
        ctx.scaling, ctx.shape = scaling, x.shape
        return output.view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        rows, low, weight, a, b = ctx.saved_tensors
        gradient = gradient.reshape(-1, gradient.shape[-1])
        grad_low = (gradient @ b).mul_(ctx.scaling)
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = (gradient @ weight).addmm_(grad_low, a).view(ctx.shape)
        return grad_x, None, None, grad_low.T @ rows, (gradient.T @ low).mul_(ctx.scaling), None


def _lora_forward(layer: LoraLinear, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    name = layer.active_adapters[0]
    plain = not (args or kwargs or layer.disable_adapters or layer.merged or torch.is_autocast_enabled("cpu"))
    if not plain or len(layer.active_adapters) > 1 or x.dtype != layer.base_layer.weight.dtype:
        return type(layer).forward(layer, x, *args, **kwargs)
    base, a, b = layer.base_layer, layer.lora_A[name].weight, layer.lora_B[name].weight
    return _Lora.apply(x, base.weight, base.bias, a, b, layer.scaling[name])


def fuse_lora(model: nn.Module) -> int:
    """Give the plain LoRA layers of `model` a forward with fewer passes over memory; returns how many there are.

    Left alone are layers with dropout, a bias, a variant (DoRA and others), a quantised or a trainable base, or more
    than one adapter. While adapters are disabled or merged, a layer's own forward is called.
    """
    count = 0
    for layer in model.modules():
        if type(layer) is not LoraLinear or type(layer.base_layer) is not nn.Linear or len(layer.lora_A) != 1:
            continue
        (name,) = layer.lora_A
        plain = (
            isinstance(layer.lora_dropout[name], nn.Identity) and not layer.lora_variant and not layer.lora_bias[name]
        )
        dtypes = {layer.base_layer.weight.dtype, layer.lora_A[name].weight.dtype, layer.lora_B[name].weight.dtype}
        if plain and len(dtypes) == 1 and not layer.base_layer.weight.requires_grad:
            layer.forward = functools.partial(_lora_forward, layer)
            count += 1
    return count
