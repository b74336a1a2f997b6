"""The matrix products of the floors, counted."""

from conftest import tiny_model
from dialogsum_sft.benchmarking import floors

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import PreTrainedTokenizerFast


def test_the_floor_has_the_matrix_multiplications_of_a_step(
    chatml_tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted by hand for the tiny model: hidden 32, MLP 64, key and value 16, two layers, r=4."""
    model = get_peft_model(tiny_model(chatml_tokenizer), LoraConfig(r=4, target_modules="all-linear"))
    flops = 0
    monkeypatch.setattr(floors.time, "perf_counter", lambda: flops)
    multiply = torch.matmul

    def counted(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        nonlocal flops
        flops += left.numel() * right.shape[-1]
        return multiply(left, right)

    monkeypatch.setattr(floors.torch, "matmul", counted)
    seconds = floors.training_floor(model, [10, 6], supervised=5)
    layers = [(32, 32), (32, 16), (32, 16), (32, 32), (32, 64), (32, 64), (64, 32)]
    linear = 2 * sum(2 * 16 * m * n + 6 * 16 * 4 * (m + n) // 2 for m, n in layers)
    attention = 2 * 6 * 32 * (10 * 5 + 6 * 3)
    assert seconds == linear + attention + 2 * 5 * 32 * len(chatml_tokenizer)
