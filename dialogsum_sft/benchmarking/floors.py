"""The time of a training step's matrix multiplications alone, which no step can go below."""

import time
from collections import Counter

import torch
from peft import PeftModel
from torch import nn


def training_floor(model: PeftModel, lengths: list[int], supervised: int) -> float:
    """Seconds of the matrix multiplications that one LoRA step over rows of `lengths` tokens cannot do without.

    Each is run alone as a bare product, in the model's dtype, of the shape it has in a step without padding; its
    operands are warm, and the fastest of three counts, so no real step reaches this. Counted are: the linear layers
    forward and the gradient of their input (frozen weights need none); the adapter's two products forward and four
    backward; of causal attention, over each row, the half of its two products forward and four backward (without
    computing the scores again) that lies before the diagonal; and the LM head forward and backward over the
    `supervised` tokens alone. Norms, activations, softmax, loss, rotation and optimiser are what is left out.
    """
    config = model.get_base_model().config.get_text_config()
    head = model.get_output_embeddings()
    products: Counter[tuple[int, ...]] = Counter()  # ([batch,] rows, inner, columns): how many
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
    heads = config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    for length in lengths:
        half = max(1, length // 2)
        for shape in ((length, size, half), (length, half, size), (half, length, size)):
            products[heads, *shape] += 2 * config.num_hidden_layers
    synchronize = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    seconds = 0.0
    for (*batch, m, k, n), count in products.items():
        left = torch.randn(*batch, m, k, dtype=model.dtype, device=model.device)
        right = torch.randn(*batch, n, k, dtype=model.dtype, device=model.device).mT
        times = []
        for _ in range(4):
            synchronize()
            started = time.perf_counter()
            torch.matmul(left, right)
            synchronize()
            times.append(time.perf_counter() - started)
        seconds += count * min(times[1:])
    return seconds
