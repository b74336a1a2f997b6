"""recipes/benchmark.py with a tiny model; the processes that it starts are forked from this one."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

from conftest import Recipe, fails, training_args
from dialogsum_sft.benchmarking import training, watched
from dialogsum_sft.benchmarking.figures import Figures
from forked_recipe import Forked, leave, replace_files_of_the_parent

import pytest
import torch
import yaml

ROWS = [{"id": str(n), "dialogue": f"Mila: {n} boats.\nOren: Good.", "summary": f"{n} boats come."} for n in range(4)]


@pytest.fixture
def config(tiny_folder: Path, tmp_path: Path) -> Callable[..., str]:
    """Write a config of recipes/sft.py for the tiny model, with these options in place of its own."""

    def write(**options: str | None) -> str:
        words = (word.removeprefix("--").split("=", 1) for word in training_args(tiny_folder, tmp_path / "unused"))
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump(dict(words) | {"max_length": "512", "max_eval_samples": "2"} | options))
        return str(path)

    return write


@pytest.fixture
def _forks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process that watches a training is forked, which imports nothing."""

    def figures_of(command: list[str], result: Path, name: str) -> Figures:
        assert command[1:4] == ["-P", "-m", watched.__name__]
        pid = os.fork()
        if pid:
            process = Forked(pid, tmp_path / "err")
            assert process.wait() == 0, process.lines()
            return json.loads(result.read_text())

        def work() -> None:
            replace_files_of_the_parent()
            out = os.open(tmp_path / "err", os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
            os.dup2(out, 1)
            os.dup2(out, 2)
            torch.set_num_threads(1)
            sys.argv = command[3:]
            watched.watch()

        leave(work)

    monkeypatch.setattr(training, "figures_of", figures_of)


@pytest.mark.usefixtures("_forks")
def test_it_measures_every_system(recipe: Recipe, config: Callable[..., str], tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    words = ["--max_steps=2", "--dialogues=3", "--tutorial_dialogues=1", "--max_new_tokens=3", "--variants={}"]
    recipe("benchmark", f"--recipe_config={config()}", "--rounds=1", *words, f"--output={out}")
    record = json.loads(out.read_text())
    assert record["failed"] == {}
    assert {system: len(runs) for system, runs in record["training"].items()} == {"ours": 1, "trl sft": 1}
    for runs in record["training"].values():
        assert {"tokens_per_second", "start_up_seconds", "memory_gib", "eval_loss"} <= runs[0].keys()
    assert set(record["generation"]) == {"ours", "pipeline", "tutorial loop"}
    assert set(record["ratios"]["training"]) == {"trl sft", "floor"}
    assert set(record["ratios"]["generation"]) == {"pipeline", "tutorial loop", "floor"}


def test_rows_are_those_of_train_file(
    recipe: Recipe, config: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A config without dataset_name, as recipes/sft.py takes it."""
    path = tmp_path / "chats.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    written = []

    def figures_of(command: list[str], result: Path, name: str) -> Figures:
        rows = (result.parent / "rows" / "train.jsonl").read_text().splitlines()
        written[:] = [json.loads(row)["completion"][0]["content"] for row in rows]
        return {"tokens_per_second": 1.0}

    monkeypatch.setattr(training, "figures_of", figures_of)
    files = {"dataset_name": None, "train_file": str(path)}
    config = config(**files, validation_share="0.25")
    recipe("benchmark", f"--recipe_config={config}", "--quick", "true", "--max_new_tokens=2")
    assert len(written) == 3
    assert set(written) < {row["summary"] for row in ROWS}


def test_values_that_cannot_work_are_refused(
    recipe: Recipe, capsys: pytest.CaptureFixture[str], config: Callable[..., str]
) -> None:
    faults = {"max_steps=1": "give 2 or more, or 0", "rounds=0": "give 1 or more", "dialogues=-1": "give 0 or more"}
    faults |= {"adapter_path=nowhere": "no adapter in nowhere: there is no such folder"}
    for option, fault in faults.items():
        line = fails(recipe, capsys, "benchmark", f"--recipe_config={config()}", f"--{option}")
        assert line.endswith(fault)


def test_a_vllm_that_fails_is_a_row(
    recipe: Recipe, config: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A stand-in for an interpreter finds vLLM and cannot run it; generation alone is measured."""
    python, out = tmp_path / "python", tmp_path / "figures.json"
    python.write_text("#!/bin/sh\ncase $2 in -c) ;; *) echo 'error: no memory' >&2; exit 2;; esac\n")
    python.chmod(0o755)
    words = ["--max_steps=0", "--dialogues=1", "--tutorial_dialogues=1", "--max_new_tokens=2", f"--output={out}"]
    words += ["--rounds=1", "--peers=vllm", f"--vllm_python={python}"]
    recipe("benchmark", f"--recipe_config={config()}", *words)
    record = json.loads(out.read_text())
    assert record["training"] == {}
    assert record["failed"] == {"vLLM": "vLLM failed: no memory"}
    assert [len(runs) for runs in record["generation"].values()] == [1, 1, 1, 0]
    assert "vLLM failed: no memory" in capsys.readouterr().out
