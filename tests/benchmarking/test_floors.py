"""The matrix products of the floors, counted."""

from collections.abc import Callable

from conftest import tiny_model
from dialogsum_sft.benchmarking import floors
from dialogsum_sft.benchmarking.floors import Batch

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast

# Of the tiny model: hidden 32, MLP 64, key and value 16, two layers, four heads of 8.
LINEAR = [(32, 32), (32, 16), (32, 16), (32, 32), (32, 64), (32, 64), (64, 32)]


@pytest.fixture(autouse=True)
def _flops_for_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock shows the multiplications of all products so far."""
    flops = 0
    monkeypatch.setattr(floors.time, "perf_counter", lambda: flops)

    def counted(multiply: Callable[..., torch.Tensor], columns: int) -> Callable[..., torch.Tensor]:
        def call(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
            nonlocal flops
            flops += left.numel() * right.shape[columns]
            return multiply(left, right)

        return call

    monkeypatch.setattr(floors.torch, "matmul", counted(torch.matmul, -1))
    monkeypatch.setattr(floors.torch, "bmm", counted(torch.bmm, -1))
    monkeypatch.setattr(floors.F, "linear", counted(F.linear, 0))


def test_the_floor_has_the_matrix_products_of_a_step(chatml_tokenizer: PreTrainedTokenizerFast) -> None:
    """Counted by hand, with r=4."""
    model = get_peft_model(tiny_model(chatml_tokenizer), LoraConfig(r=4, target_modules="all-linear"))
    seconds = floors.training_floor(model, [10, 6], supervised=5)
    linear = 2 * sum(2 * 16 * m * n + 6 * 16 * 4 * (m + n) // 2 for m, n in LINEAR)
    attention = 2 * 6 * 32 * (10 * 5 + 6 * 3)
    assert seconds == linear + attention + 2 * 5 * 32 * len(chatml_tokenizer)


def test_the_floor_has_the_matrix_products_of_prefill_and_decoding(chatml_tokenizer: PreTrainedTokenizerFast) -> None:
    """Counted by hand: the first token is written by both rows after 10 and 6 tokens, three more by one."""
    model = tiny_model(chatml_tokenizer)
    seconds = floors.generation_floor(model, [Batch(prompts=[10, 6], shared=4, written=[4, 1])])
    weights = 2 * sum(m * n for m, n in LINEAR)
    prefill = (4 + 5 + 1) * weights + 2 * 2 * 32 * (4 * 2 + 5 * (4 + 2) + 1 * (4 + 1))
    steps = (2 + 3 * 1) * (weights + 32 * len(chatml_tokenizer)) + 2 * 2 * 32 * (2 * (10 + 6) // 2 + 3 * 12)
    assert seconds == prefill + steps


def test_a_single_prompt_shares_all_with_itself(chatml_tokenizer: PreTrainedTokenizerFast) -> None:
    one = Batch.of([[7, 8, 9, 9]], [1])
    assert one == Batch([4], 4, [1])
    assert Batch.of([[7, 8, 9], [7, 8]], [2, 1]) == Batch([3, 2], 2, [2, 1])
    weights = 2 * sum(m * n for m, n in LINEAR)
    prefill = 3 * weights + 2 * 2 * 32 * 3 * 1
    step = weights + 32 * len(chatml_tokenizer) + 2 * 2 * 32 * 4
    assert floors.generation_floor(tiny_model(chatml_tokenizer), [one]) == prefill + step
