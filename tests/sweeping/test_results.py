"""Means with intervals, the winner over seeds, and the files of a sweep."""

import csv
import json
from pathlib import Path
from typing import Any

from dialogsum_sft.arguments import SweepArguments
from dialogsum_sft.cli import read_config
from dialogsum_sft.sweeping.page import scores_panel, write_page
from dialogsum_sft.sweeping.plan import Plan
from dialogsum_sft.sweeping.results import mean_of, means_by_value, winner, write_results
from dialogsum_sft.sweeping.space import grid, read_space

import pytest

SEARCH = {"max_train_samples": [10, 40], "seed": [1, 2, 3]}


def plan_of(folder: Path, search: dict[str, Any] = SEARCH, **args: Any) -> Plan:
    space = read_space(search, {"max_train_samples", "seed", "learning_rate", "use_rslora"})
    arguments = SweepArguments(output_dir=str(folder), base="quickstart", **args)
    return Plan(arguments, space, {"lora_r": "16", "output_dir": "runs/x"}, grid(space, {}), {}, [])


def records_of(plan: Plan, *scores: float | None) -> list[dict[str, Any]]:
    return [
        {
            **{"trial": i + 1, "state": "failed" if score is None else "done", "values": point, "score": score},
            **{"evaluations": 2, "last_evaluation": score, "folder": f"trial-{i + 1:03d}", "seconds": 10.0},
            **({"error": "no | memory"} if score is None else {"eval_loss": score, "tokens": 1000}),
        }
        for i, (point, score) in enumerate(zip(plan.points, scores, strict=True))
    ]


def test_the_interval_is_students() -> None:
    found = mean_of([1.0, 2.0, 3.0])
    assert (found["trials"], found["mean"]) == (3, 2.0)
    assert found["ci95"] == pytest.approx([2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5], abs=1e-6)
    assert mean_of([1.5]) == {"trials": 1, "mean": 1.5, "ci95": None}


def test_the_best_mean_over_seeds_wins_not_the_luckiest_seed(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    lucky = records_of(plan, 2.0, 3.0, 3.1, 2.4, 2.3, 2.5)
    best = winner(plan, lucky)
    assert best["ci95"] == pytest.approx([2.4 - 4.302653 * 0.1 / 3**0.5, 2.4 + 4.302653 * 0.1 / 3**0.5], abs=1e-6)
    assert best["mean"] == pytest.approx(2.4)
    assert (best["trial"], best["score"], best["trials"]) == (5, 2.3, 3)
    assert winner(plan_of(tmp_path, objective="rouge1"), lucky)["trial"] == 3
    assert winner(plan, records_of(plan, 2.0, 2.0, None, 3.0, 3.0, 3.0))["trial"] == 4  # the other setting failed once
    assert winner(plan, records_of(plan, *[None] * 6)) is None


def test_the_files_have_all_trials(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    records = records_of(plan, 3.0, 3.2, 3.1, 2.5, 2.6, None)
    result = write_results(plan, records)
    write_page(tmp_path / "report.html", plan, result, records)
    rows = list(csv.DictReader((tmp_path / "sweep.csv").open()))
    assert [(row["max_train_samples"], row["seed"], row["score"]) for row in rows] == [
        *(("10", "1", "3.0"), ("10", "2", "3.2"), ("10", "3", "3.1")),
        *(("40", "1", "2.5"), ("40", "2", "2.6"), ("40", "3", "")),
    ]
    record = json.loads((tmp_path / "sweep.json").read_text())
    assert [row["mean"] for row in record["means"]["max_train_samples"]] == [pytest.approx(3.1), pytest.approx(2.55)]
    assert record["trials"][5]["error"] == "no | memory"
    assert record["trials"][3]["options"] == {"max_train_samples": 40, "seed": 1}
    assert record["best"]["trial"] == 1  # the setting whose seeds were all scored
    config = read_config(str(tmp_path / "best.yaml"))
    assert config == {"lora_r": "16", "output_dir": f"{tmp_path}/best", "max_train_samples": "10", "seed": "1"}
    markdown = (tmp_path / "sweep.md").read_text()
    assert "| 40 | 2 | 2.5500 | 1.9147 to 3.1853 |" in markdown
    assert "5 done, 1 failed; 60 s and 5,000 tokens in all. Chosen by loss on validation." in markdown
    page = (tmp_path / "report.html").read_text()
    assert "loss by max_train_samples: 10: 3.1, 40: 2.55" in page
    assert "<li>Trial 6 failed: no | memory</li>" in page


def test_numbers_lie_on_an_axis_and_other_values_side_by_side(tmp_path: Path) -> None:
    search = {"max_train_samples": [10, 100, 1000], "use_rslora": [False, True]}
    plan = plan_of(tmp_path, search)
    records = records_of(plan, 3.0, 3.2, 2.5, 2.7, 2.0, 2.2)
    samples, rslora = (scores_panel(one, means_by_value(one, records), records) for one in plan.space)
    assert [x for x, _ in samples["ticks"]] == [52.0, 196.0, 340.0]  # logarithmic
    assert [row["mean"] for row in samples["means"]] == pytest.approx([3.1, 2.6, 2.1])
    assert (samples["is_curve"], rslora["is_curve"]) == (True, False)
    assert rslora["ticks"] == [(118.0, "false"), (274.0, "true")]
    assert scores_panel(plan.space[0], [], records[:2]) is None


def test_a_drawn_range_has_no_means(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, {"learning_rate": {"low": 1e-4, "high": 1e-2, "log": True, "count": 3}})
    records = records_of(plan, 3.0, 2.5, 2.9)
    assert means_by_value(plan.space[0], records) == []
    assert len(scores_panel(plan.space[0], [], records)["trials"]) == 3
