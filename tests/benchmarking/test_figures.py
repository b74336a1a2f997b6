"""The figures of a benchmark: medians, ratios, systems that fail, the peak of memory."""

import sys
import time
from pathlib import Path

from dialogsum_sft import InputError
from dialogsum_sft.benchmarking.figures import Comparison, Figures, figures_of, peak_memory

import pytest
import torch

COLUMNS = {"tokens/s": ("tokens_per_second", ".0f"), "eval loss": ("eval_loss", ".1f")}


def fail() -> Figures:
    raise InputError("no kernel")


def test_systems_run_in_turn_and_one_that_fails_is_not_run_again() -> None:
    comparison, order = Comparison(COLUMNS), []
    for turn, system in comparison.turns(2, ["ours", "other", "third"]):
        order.append((turn, system))
        comparison.measure(system, fail if system == "other" else dict)
    assert order == [(1, "ours"), (1, "other"), (1, "third"), (2, "ours"), (2, "third")]
    assert comparison.failed == {"other": "no kernel"}
    with pytest.raises(InputError, match="no kernel"):
        comparison.measure("ours", fail)


def test_ratios_are_of_medians() -> None:
    def runs(*speeds: float) -> list[Figures]:
        return [{"tokens_per_second": speed} for speed in speeds]

    figures = {"ours": [*runs(60, 100), {"tokens_per_second": 90, "eval_loss": 2.0}], "trl sft": runs(10, 31, 30)}
    comparison = Comparison(COLUMNS, figures | {"vllm": []}, {"vllm": "no kernel"}, floor=120.0)
    assert comparison.ratios() == pytest.approx({"trl sft": 3.0, "floor": 0.75})
    assert comparison.table("speed").rows == [
        ["ours", "90", "2.0", ""],
        ["trl sft", "30", "", "3.00 x"],
        ["vllm", "failed", "", ""],
        ["its matrix products alone", "120", "", "0.75 x"],
    ]


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("raise SystemExit('bad\\nworse')", "it failed: worse"),
        ("raise SystemExit('error: no memory\\nsome noise')", "it failed: no memory"),
        (
            "print('ValueError: too few'); raise SystemExit('error: See root cause above')",
            "it failed: ValueError: too few",
        ),
        ("", "it failed: no message"),  # and no figures
    ],
)
def test_a_process_that_fails_says_why(tmp_path: Path, code: str, reason: str) -> None:
    with pytest.raises(InputError) as raised:
        figures_of([sys.executable, "-S", "-c", code], tmp_path / "figures.json", "it")
    assert str(raised.value) == reason


@pytest.mark.skipif(torch.cuda.is_available(), reason="the memory of a GPU is measured there")
def test_peak_memory_is_that_of_the_block() -> None:
    with peak_memory() as high:
        big = torch.ones(2**26)  # 0.25 GiB
        time.sleep(0.1)
    del big
    with peak_memory() as low:
        time.sleep(0.05)
    assert 0.05 < low["memory_gib"] < high["memory_gib"] - 0.1
