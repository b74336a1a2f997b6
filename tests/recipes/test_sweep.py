"""recipes/sweep.py over a tiny model: trials are folders of sft.py, killed, stopped, failed and pruned."""

import json
import os
import shlex
import signal
import time
from pathlib import Path
from typing import Any

import forked_recipe
from conftest import Recipe
from dialogsum_sft.sweeping import trial
from sft_runs import Sft, assert_same_weights, record, text_of
from sweeps import start, sweep_args, sweep_record, write_base

import pytest


@pytest.fixture(autouse=True)
def _forked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "start", start)
    monkeypatch.setattr(trial, "_POLL", 0.01)  # seconds; a trial over a tiny model would be over before it is pruned
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def ends(recipe: Recipe, *args: str) -> int:
    try:
        recipe("sweep", *args)
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def wait_for_checkpoint(folder: Path, process: forked_recipe.Forked) -> None:
    until = time.monotonic() + 60
    while not any(folder.glob("checkpoint-*/complete.json")):
        assert time.monotonic() < until, text_of(process.err)
        time.sleep(0.01)


def test_a_grid_with_a_failure_and_the_winner_again(
    recipe: Recipe, sft: Sft, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A trial that fails is recorded with its line; best.yaml gives the same weights and score."""
    search = {"learning_rate": [1e-3, 1e-2], "lora_r": [4, 0]}
    base, out = write_base(tiny_folder, tmp_path, num_train_epochs=1), tmp_path / "sweep"
    args = sweep_args(base, out, search)
    assert ends(recipe, *args) == 0, [text_of(log)[-2000:] for log in sorted(out.glob("*/*.log"))]
    shown = capsys.readouterr().out
    assert "trial 2 failed: --lora_r 0: give 1 or more" in shown
    found = sweep_record(out)
    assert [one["state"] for one in found["trials"]] == ["done", "failed", "done", "failed"]
    first, third = found["trials"][0], found["trials"][2]
    assert first["options"] == {"learning_rate": 1e-3, "lora_r": 4}
    for one in (first, third):
        own = record(out / one["folder"])
        assert one["score"] == own["metrics"]["eval_loss"]
        assert (one["tokens"], one["peak_memory_gib"]) == (own["metrics"]["num_tokens"], own["peak_memory_gib"])
        assert one["seconds"] > 0
        assert not list((out / one["folder"]).glob("checkpoint-*"))
    best = min(first, third, key=lambda one: one["score"])
    assert found["best"] == {"trial": best["trial"], "folder": best["folder"], "score": best["score"]}
    assert f"python recipes/sft.py --config {out / 'best.yaml'}" in shown

    recipe("sft", "--config", str(out / "best.yaml"))
    assert record(out / "best")["metrics"]["eval_loss"] == best["score"]
    assert_same_weights(out / "best", out / best["folder"])

    times = {one["trial"]: one["seconds"] for one in found["trials"]}
    assert ends(recipe, *args) == 0  # nothing is done twice
    assert {one["trial"]: one["seconds"] for one in sweep_record(out)["trials"]} == times


def test_a_sweep_whose_trials_all_fail_ends_with_1(
    recipe: Recipe, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = write_base(tiny_folder, tmp_path)
    assert ends(recipe, *sweep_args(base, tmp_path / "sweep", {"lora_r": [0]})) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line == "error: none of 1 trials has a score; trial-001: --lora_r 0: give 1 or more"


def test_a_mistake_is_one_line(
    recipe: Recipe, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = write_base(tiny_folder, tmp_path, dataset_test_split="test")
    for search, message in (({"lora_r": [4]}, "not on a test split"), ({"lora_rr": [4]}, "did you mean lora_r?")):
        assert ends(recipe, *sweep_args(base, tmp_path / "sweep", search)) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line
    assert not (tmp_path / "sweep").exists()


@pytest.mark.slow
def test_a_killed_sweep_goes_on_within_the_trial(tiny_folder: Path, tmp_path: Path, recipe: Recipe) -> None:
    """kill -9 of the sweep and of its training: the trial resumes from its checkpoint, with the same weights."""
    base, out = write_base(tiny_folder, tmp_path, num_train_epochs=5, lora_dropout=0.2), tmp_path / "sweep"
    search = {"seed": [1, 2]}
    killed = forked_recipe.start(tmp_path, "sweep", sweep_args(base, out, search))
    wait_for_checkpoint(out / "trial-001", killed)
    training = json.loads((out / "trial-001" / "process.json").read_text())["pid"]
    killed.kill()
    os.kill(training, signal.SIGKILL)
    assert ends(recipe, *sweep_args(base, out, search)) == 0
    assert record(out / "trial-001")["resumed_from_step"] >= 3
    assert record(out / "trial-002")["resumed_from_step"] is None
    recipe("sft", "--config", str(out / "trial-001" / "config.yaml"), f"--output_dir={tmp_path / 'whole'}")
    assert_same_weights(out / "trial-001", tmp_path / "whole")
    assert sweep_record(out)["trials"][0]["score"] == record(tmp_path / "whole")["metrics"]["eval_loss"]


@pytest.mark.slow
def test_a_signal_saves_the_running_trial_and_ends_with_75(tiny_folder: Path, tmp_path: Path, recipe: Recipe) -> None:
    base, out = write_base(tiny_folder, tmp_path, num_train_epochs=12), tmp_path / "sweep"
    args = sweep_args(base, out, {"seed": [1]})
    stopped = forked_recipe.start(tmp_path, "sweep", args)
    wait_for_checkpoint(out / "trial-001", stopped)
    stopped.send(signal.SIGTERM)
    assert stopped.wait() == 75
    assert stopped.lines()[-1] == "stopped: 0 of 1 trials have ended; the same command goes on"
    assert sweep_record(out)["trials"][0]["state"] == "running"
    assert ends(recipe, *args) == 0
    assert record(out / "trial-001")["resumed_from_step"] >= 3


@pytest.mark.slow
def test_two_workers_share_a_study(tiny_folder: Path, tmp_path: Path) -> None:
    """Two processes with the same folder, one of them with two workers: each trial is done once."""
    base, out = write_base(tiny_folder, tmp_path, num_train_epochs=1), tmp_path / "sweep"
    folders = [tmp_path / name for name in ("a", "b")]
    for folder in folders:
        folder.mkdir()
    workers = [
        forked_recipe.start(folder, "sweep", sweep_args(base, out, {"seed": [1, 2, 3, 4, 5, 6]}, workers=number))
        for folder, number in zip(folders, (1, 2), strict=True)
    ]
    assert [worker.wait() for worker in workers] == [0, 0], [text_of(worker.err) for worker in workers]
    begun = [text_of(folder / "out").count("begins:") for folder in folders]
    assert sum(begun) == 6
    assert min(begun) > 0
    found = sweep_record(out)
    assert [one["state"] for one in found["trials"]] == ["done"] * 6
    assert len({one["score"] for one in found["trials"]}) == 6
    assert all(text_of(out / one["folder"] / "sft.log").count("trained on") == 1 for one in found["trials"])


@pytest.mark.slow
def test_successive_halving_ends_the_worse_trials_early(recipe: Recipe, tiny_folder: Path, tmp_path: Path) -> None:
    # 36 rows, so that a trial that is told to end has still some epochs before it.
    base, out = write_base(tiny_folder, tmp_path, num_train_epochs=10, max_train_samples=36), tmp_path / "sweep"
    search = {"learning_rate": [1e-2, 1e-6, 1e-7]}
    assert ends(recipe, *sweep_args(base, out, search, pruner="successive_halving")) == 0
    found = sweep_record(out)
    assert [one["state"] for one in found["trials"]] == ["done", "pruned", "pruned"]
    assert found["trials"][0]["evaluations"] == 10
    for one in found["trials"][1:]:
        assert one["evaluations"] < 10
        assert one["score"] is None
        assert not list((out / one["folder"]).glob("checkpoint-*"))
        assert not (out / one["folder"] / "adapter").exists()


def test_rouge_of_the_validation_split(recipe: Recipe, tiny_folder: Path, tmp_path: Path) -> None:
    base, out = write_base(tiny_folder, tmp_path, num_train_epochs=1, eval_strategy="no"), tmp_path / "sweep"
    options: dict[str, Any] = {"objective": "rouge1", "eval_options": {"max_new_tokens": 8, "max_eval_samples": 3}}
    assert ends(recipe, *sweep_args(base, out, {"seed": [1]}, **options)) == 0
    (one,) = sweep_record(out)["trials"]
    metrics = json.loads((out / "trial-001" / "validation" / "eval-tuned" / "metrics.json").read_text())
    assert one["score"] == one["rouge1"] == metrics["rouge1"]["mean"]
    assert (metrics["data"]["split"], metrics["data"]["trained_on"]) == ("validation", 0)
    command = (out / "best.yaml").read_text().splitlines()[1].removeprefix("# python recipes/eval.py ")
    recipe("sft", "--config", str(out / "best.yaml"))
    recipe("eval", *shlex.split(command))
    again = json.loads((out / "best" / "validation" / "eval-tuned" / "metrics.json").read_text())
    assert again["rouge1"]["mean"] == one["score"]
