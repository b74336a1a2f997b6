"""Likelihoods in the records of runs: means, what stays after another scoring, paired tests."""

import json
from pathlib import Path
from typing import Any

from dialogsum_sft.evaluation.likelihood import LEAST, likelihood_record, paired_values
from dialogsum_sft.evaluation.runs import Run, compare_runs, read_run, score_run
from dialogsum_sft.evaluation.significance import compare, confidence_interval

import pytest

MEASURE = {"model": "tiny", "adapter": None}
ROWS = [
    {"id": f"test_{i}", "dialogue": f"Ana: I lost my {thing}.", "references": [f"Ana lost her {thing}."]}
    for i, thing in enumerate(("key", "cat", "hat", "bag"))
]


def measured(name: str, folder: Path, values: list[float | None], text: str = "Ana lost it.") -> Run:
    texts = ["" if value is None else text for value in values]
    run = score_run(name, folder, [row | {"prediction": one} for row, one in zip(ROWS, texts, strict=True)])
    likelihoods = [{"log_likelihood": v, "log_likelihood_gain": None if v is None else v + 3} for v in values]
    run.rows = [row | one for row, one in zip(run.rows, likelihoods, strict=True)]
    run.record["likelihood"] = likelihood_record(run.rows, seed=7) | {"fingerprint": MEASURE}
    return run


def test_record_has_the_means_their_intervals_and_the_least_supported(tmp_path: Path) -> None:
    record = measured("a", tmp_path, [-2.0, -4.0, None, -3.0]).record["likelihood"]
    assert record["log_likelihood"] == {"mean": -3.0, "ci95": confidence_interval([-2.0, -4.0, -3.0], seed=7)}
    assert record["log_likelihood_gain"]["mean"] == 0.0
    assert record["summaries"] == 3
    assert record["least"] == ["test_1", "test_3", "test_0"]
    assert LEAST >= 3
    nothing = measured("a", tmp_path, [None] * 4).record["likelihood"]
    assert nothing["log_likelihood"] == {"mean": None, "ci95": None}


def test_rouge_and_its_fingerprint_are_those_without_it(tmp_path: Path) -> None:
    plain = score_run("a", tmp_path, [row | {"prediction": "Ana lost it."} for row in ROWS]).record
    record = measured("a", tmp_path, [-2.0, -4.0, -1.0, -3.0]).record
    assert {key: value for key, value in record.items() if key != "likelihood"} == plain


def test_run_is_read_back_with_its_values(tmp_path: Path) -> None:
    run = measured("a", tmp_path, [-2.0, None, -1.5, -3.0])
    run.save()
    again = read_run(tmp_path)
    assert [row["log_likelihood"] for row in again.rows] == [-2.0, None, -1.5, -3.0]
    first = json.loads((tmp_path / "predictions.jsonl").read_text().splitlines()[0])
    assert list(first)[3:] == ["prediction", "log_likelihood", "log_likelihood_gain"]
    assert again.record["likelihood"] == json.loads(json.dumps(run.record["likelihood"]))


def again(run: Run, rows: list[dict[str, Any]]) -> Run:
    return score_run("again", run.folder, rows, likelihood=run.record["likelihood"])


def test_values_stay_when_the_same_summaries_are_scored_again(tmp_path: Path) -> None:
    run = measured("a", tmp_path, [-2.0, None, -1.5, -3.0])
    scored = again(run, run.rows)
    assert scored.rows == run.rows
    assert scored.record["likelihood"] == run.record["likelihood"]


@pytest.mark.parametrize(
    "change",
    [{"prediction": "Ana found it."}, {"dialogue": "Ana: I found it."}, {"log_likelihood": -9.0}],
    ids=["summary", "dialogue", "value"],
)
def test_values_of_other_summaries_are_dropped(tmp_path: Path, change: dict[str, Any]) -> None:
    run = measured("a", tmp_path, [-2.0, -2.5, -1.5, -3.0])
    scored = again(run, [run.rows[0] | change, *run.rows[1:]])
    assert "likelihood" not in scored.record
    assert not any("log_likelihood" in row or "log_likelihood_gain" in row for row in scored.rows)
    assert "log_likelihood" not in score_run("plain", tmp_path, run.rows).rows[0]


def test_runs_are_compared_over_the_dialogues_that_both_have(tmp_path: Path) -> None:
    runs = [measured("a", tmp_path, [-2.0, -4.0, None, -3.0]), measured("b", tmp_path, [-1.0, -4.5, -2.0, None])]
    assert paired_values("log_likelihood", runs[1].rows, runs[0].rows) == ([-1.0, -4.5], [-2.0, -4.0])
    (tests,) = compare_runs(runs, resamples=200)
    assert list(tests) == ["rouge1", "rouge2", "rougeL", "log_likelihood", "log_likelihood_gain"]
    expected = compare([-1.0, -4.5], [-2.0, -4.0], resamples=200)
    found = tests["log_likelihood"]
    assert (found.difference, found.ci95, found.wins, found.losses) == (0.25, expected.ci95, 1, 1)
    assert found.p >= expected.p  # Holm's, of five tests


def test_runs_of_different_measures_are_not_compared(tmp_path: Path) -> None:
    runs = [measured(name, tmp_path, [-2.0, -4.0, -1.0, -3.0]) for name in "ab"]
    runs[1].record["likelihood"]["fingerprint"] = MEASURE | {"adapter": "1234"}
    assert list(compare_runs(runs, resamples=200)[0]) == ["rouge1", "rouge2", "rougeL"]
    del runs[1].record["likelihood"]
    assert list(compare_runs(runs, resamples=200)[0]) == ["rouge1", "rouge2", "rougeL"]
