"""The systems that the benchmark compares, its peak memory and its ratios."""

import copy
import json
import time
from types import ModuleType
from typing import Any

from conftest import recipe_module, tiny_model

import pytest
import torch
from transformers import PreTrainedTokenizerFast


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    return recipe_module("benchmark")


def test_the_tutorial_loop_reads_a_row_for_each_reference(
    benchmark: ModuleType, chatml_tokenizer: PreTrainedTokenizerFast
) -> None:
    model = tiny_model(chatml_tokenizer).eval()
    read = []
    generate = model.generate
    model.generate = lambda **inputs: read.append(inputs["input_ids"].shape[0]) or generate(**inputs)
    args = benchmark.BenchmarkArguments(tutorial_dialogues=2, max_new_tokens=2)
    chats = [[{"role": "user", "content": text}] for text in "abcd"]
    assert benchmark.with_tutorial_loop(model, benchmark.Job(chatml_tokenizer, chats, [3, 3, 3, 2], args)) == 2
    assert read == [1] * 5


def test_every_system_summarises_every_dialogue(
    benchmark: ModuleType, chatml_tokenizer: PreTrainedTokenizerFast
) -> None:
    model = tiny_model(chatml_tokenizer).eval()
    args = benchmark.BenchmarkArguments(max_new_tokens=2)
    chats = [[{"role": "user", "content": text}] for text in ("a", "a longer one", "b")]
    for work in (benchmark.with_ours, benchmark.with_pipeline):
        assert work(model, benchmark.Job(copy.deepcopy(chatml_tokenizer), chats, [1, 1, 1], args)) == 3


def test_ratios_are_of_medians(benchmark: ModuleType) -> None:
    def trained(*speeds: float) -> list[dict[str, float]]:
        return [{"tokens_per_second": speed, "start_up_seconds": 9.0, "memory_gib": 2.0} for speed in speeds]

    def summarised(*speeds: float) -> list[dict[str, float]]:
        return [{"dialogues_per_second": speed, "memory_gib": 1.0} for speed in speeds]

    record: dict[str, Any] = benchmark.show_results(
        benchmark.BenchmarkArguments(),
        {"ours": trained(60, 100, 90), "trl sft": trained(10, 31, 30)},
        {"ours": summarised(4.0), "tutorial loop": summarised(0.2, 0.3)},
        120.0,
        {"ours, packed": "sft.py failed: no kernel"},
    )
    assert record["ratios"] == pytest.approx({"trl sft": 3.0, "floor": 0.75, "tutorial loop": 16.0})
    assert record["failed"] == {"ours, packed": "sft.py failed: no kernel"}
    json.dumps(record)


@pytest.mark.skipif(torch.cuda.is_available(), reason="the memory of a GPU is measured there")
def test_peak_memory_is_that_of_the_block(benchmark: ModuleType) -> None:
    with benchmark.peak_memory() as high:
        big = torch.ones(2**26)  # 0.25 GiB
        time.sleep(0.1)
    del big
    with benchmark.peak_memory() as low:
        time.sleep(0.05)
    assert 0.05 < low["memory_gib"] < high["memory_gib"] - 0.1
