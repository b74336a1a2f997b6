"""What is said of going on; the checkpoints themselves are in test_checkpoints.py, whole runs in test_resume.py."""

import sys
from pathlib import Path

from dialogsum_sft.training import trainer as resumable

import pytest


def test_the_command_that_goes_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    words = ["recipes/sft.py", "--config", "a b.yaml", "--resume_from_checkpoint", "false", "--seed=3"]
    monkeypatch.setattr(sys, "argv", words)
    assert resumable._command() == "python recipes/sft.py --config 'a b.yaml' --seed=3"
    monkeypatch.setattr(sys, "argv", ["recipes/sft.py", "--resume_from_checkpoint=x", "--seed=3"])
    assert resumable._command() == "python recipes/sft.py --seed=3"
    assert resumable.way_back(tmp_path).startswith("The same command begins at step 0, as no checkpoint was written: ")
    (tmp_path / "checkpoint-3").mkdir()
    (tmp_path / "checkpoint-12").mkdir()
    (tmp_path / "checkpoint-3" / "complete.json").write_text("{}")
    assert resumable.way_back(tmp_path).startswith(f"The same command goes on from {tmp_path}/checkpoint-3: ")
