"""The time of the matrix products alone that a training step, and generation, cannot do without."""

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import mean

from dialogsum_sft.kernels.unpadded import shared_beginning

import torch
from peft import PeftModel
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel

Products = Counter[tuple[int, ...]]  # ([batch,] rows, inner, columns): how many


def training_floor(model: PeftModel, lengths: list[int], supervised: int) -> float:
    """Seconds of the matrix products that one LoRA step over rows of `lengths` tokens cannot do without.

    Each is run alone as a bare product, in the model's dtype, of the shape it has in a step without padding; its
    operands are warm, and the fastest of three counts, so no real step reaches this. Counted are: the linear layers
    forward and the gradient of their input (frozen weights need none); the adapter's two products forward and four
    backward; of causal attention, over each row, the half of its two products forward and four backward (without
    computing the scores again) that lies before the diagonal; and the LM head forward and backward over the
    `supervised` tokens alone. Norms, activations, softmax, loss, rotation and optimiser are what is left out.
    """
    head = model.get_output_embeddings()
    products: Products = Counter()
    tokens = sum(lengths)
    vocabulary, hidden = head.weight.shape
    products.update([(supervised, hidden, vocabulary), (supervised, vocabulary, hidden)])
    for module in model.modules():
        m, n = getattr(module, "in_features", 0), getattr(module, "out_features", 0)
        adapters = getattr(module, "lora_A", None)
        if adapters:
            rank = next(iter(adapters.values())).out_features
            products.update([(tokens, m, rank), (tokens, rank, n)])
            products.update([(tokens, n, rank), (tokens, rank, m), (rank, tokens, m), (n, tokens, rank)])
        is_base = type(module) is nn.Linear and module is not head and not module.weight.requires_grad
        if is_base and (m, n) != (hidden, vocabulary):
            products.update([(tokens, m, n), (tokens, n, m)])
    layers, heads, _, size = _attention_shape(model.get_base_model())
    for length in lengths:
        half = max(1, length // 2)
        for shape in ((length, size, half), (length, half, size), (half, length, size)):
            products[heads, *shape] += 2 * layers
    return _seconds(products, model)


@dataclass(frozen=True)
class Batch:
    """A batch of generation: the tokens of its prompts, how many all of them begin with alike, the tokens written."""

    prompts: list[int]
    shared: int
    written: list[int]

    @classmethod
    def of(cls, prompts: Sequence[Sequence[int]], written: list[int]) -> "Batch":
        return cls([len(ids) for ids in prompts], shared_beginning(prompts), written)


def generation_floor(model: PreTrainedModel, batches: Sequence[Batch]) -> float:
    """Seconds of the matrix products that greedy generation of these batches cannot do without.

    Counted are the linear layers with the LM head, and the two products of attention, in the model's dtype. The
    fastest of three runs counts.

    - Prefill, over all tokens of the prompts but the last, without padding and with the beginning that a batch's
      prompts share once: each product alone, of its shape there, on warm operands. Of causal attention the half
      before the diagonal. No LM head.
    - Decoding, a step for each token written, with as many rows as still write: the products with the model's own
      weights and with keys and values for each layer, one layer after the other. So a step also reads all weights and
      the rows' keys and values once, from memory where they do not fit the processor's cache. Steps with equally many
      rows are measured at their mean length.

    Left out are norms, activations, softmax, rotation, the choice of the token, growing the cache, and an adapter,
    which could be merged. On a GPU the time to launch the products counts, as they are launched one by one.
    """
    model.eval()
    with torch.inference_mode():
        return sum(_seconds(_prefill_products(model, batch), model) + _decoding(model, batch) for batch in batches)


def _prefill_products(model: PreTrainedModel, batch: Batch) -> Products:
    products: Products = Counter()
    prompts = [length - 1 for length in batch.prompts]  # the last token is decoded
    shared = min(batch.shared, *prompts)
    own = [length - shared for length in prompts]
    tokens = shared + sum(own)
    for weight in _decoder_weights(model):
        products[tokens, weight.shape[1], weight.shape[0]] += 1
    layers, heads, _, size = _attention_shape(model)
    for queries, before in ((shared, 0), *((length, shared) for length in own)):
        keys = before + max(1, queries // 2)
        products[heads, queries, size, keys] += layers
        products[heads, queries, keys, size] += layers
    return Counter({shape: count for shape, count in products.items() if 0 not in shape})


def _decoding(model: PreTrainedModel, batch: Batch) -> float:
    weights = [*_decoder_weights(model), model.get_output_embeddings().weight]
    layers, heads, groups, size = _attention_shape(model)
    lengths = defaultdict(list)  # of the rows in each step, by their number
    for token in range(max(batch.written)):
        rows = [prompt + token for prompt, most in zip(batch.prompts, batch.written, strict=True) if token < most]
        lengths[len(rows)].append(mean(rows))
    steps = {rows: (round(mean(of)), len(of)) for rows, of in lengths.items()}
    most, longest = max(steps), max(rows * length for rows, (length, _) in steps.items())
    options = {"dtype": model.dtype, "device": model.device}
    inputs = {width: torch.randn(most, width, **options) for width in {weight.shape[1] for weight in weights}}
    queries = torch.randn(most * groups, heads // groups, size, **options)
    scores = torch.randn(heads * longest, **options)
    keys, values = torch.randn(2, layers, groups * longest * size, **options)

    def step(rows: int, length: int) -> None:
        for weight in weights:
            F.linear(inputs[weight.shape[1]][:rows], weight)
        batch, numbers = rows * groups, rows * groups * length * size
        probabilities = scores[: rows * heads * length].view(batch, -1, length)
        for layer in range(layers):
            torch.bmm(queries[:batch], keys[layer, :numbers].view(batch, length, size).mT)
            torch.bmm(probabilities, values[layer, :numbers].view(batch, length, size))

    return sum(count * _fastest(partial(step, rows, length)) for rows, (length, count) in steps.items())


def _decoder_weights(model: PreTrainedModel) -> list[torch.Tensor]:
    """Weights of the linear layers but the LM head."""
    head = model.get_output_embeddings()
    linear = (module for module in model.get_decoder().modules() if type(module) is nn.Linear and module is not head)
    return [module.weight for module in linear]


def _attention_shape(model: PreTrainedModel) -> tuple[int, int, int, int]:
    """Layers, heads, heads of keys and values, size of a head."""
    config = model.config.get_text_config()
    heads = config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    return config.num_hidden_layers, heads, getattr(config, "num_key_value_heads", None) or heads, size


def _seconds(products: Products, model: PreTrainedModel | PeftModel) -> float:
    seconds = 0.0
    for (*batch, m, k, n), count in products.items():
        left = torch.randn(*batch, m, k, dtype=model.dtype, device=model.device)
        right = torch.randn(*batch, n, k, dtype=model.dtype, device=model.device).mT
        seconds += count * _fastest(partial(torch.matmul, left, right))
    return seconds


def _fastest(run: Callable[[], object]) -> float:
    """Seconds of the fastest of three calls, after one that warms up."""
    synchronize = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    times = []
    for _ in range(4):
        synchronize()
        started = time.perf_counter()
        run()
        synchronize()
        times.append(time.perf_counter() - started)
    return min(times[1:])
