"""From dialogues without summaries to a better model: label, train and evaluate, each killed once and run again."""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from conftest import ROOT, SAMPLE
from fake_endpoint import answer, serving

import pytest


def killed_and_run_again(command: list[Any], log: Path, is_time: Callable[[], bool]) -> str:
    """Start a recipe, end it with kill -9 when it `is_time`, run it again to its end; returns what that prints."""
    words = [sys.executable, ROOT / "recipes" / command[0], *map(str, command[1:])]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    with log.open("wb") as file, subprocess.Popen(words, env=environment, stdout=file, stderr=file) as process:
        while not is_time():
            assert process.poll() is None, log.read_text(encoding="utf-8")[-3000:]
            time.sleep(0.02)
        process.kill()
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


def lines_of(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.is_file() else 0


@pytest.mark.slow
def test_label_train_evaluate_each_killed_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The endpoint knows the bundled references. The tuned model is better than zero-shot on the bundled test."""
    rows = [json.loads(line) for line in (SAMPLE / "train.jsonl").open(encoding="utf-8")]
    references = {row["dialogue"]: row["summary"] for row in rows}
    dialogues, log = tmp_path / "calls.jsonl", tmp_path / "log"
    dialogues.write_text("".join(json.dumps({"dialogue": text}) + "\n" for text in references), encoding="utf-8")
    folder, run = tmp_path / "labels", tmp_path / "run"
    with serving(monkeypatch) as server:
        first = True

        def script(content: str, number: int) -> Any:
            if first and len(server.contents) > 60:
                return "hang"
            return 200, answer(references[content.split("\n\n", 1)[1]]), {}

        def is_time() -> bool:
            nonlocal first
            is_over = len(server.contents) >= 60 + 8 and lines_of(folder / ".label/predictions.partial.jsonl") > 60
            first = first and not is_over
            return is_over

        server.script = script
        command = ["label.py", dialogues, "--engine=openai", f"--base_url={server.url}", "--served_model_name=m"]
        killed_and_run_again([*command, f"--output_dir={folder}"], log, is_time)
        asked = Counter(server.contents)
    assert len(asked) == len(references)
    assert sum(asked.values()) == len(references) + 8  # those in flight
    counts = json.loads((folder / "label.json").read_text(encoding="utf-8"))["counts"]
    assert counts["train"] + counts["validation"] + sum(counts["set_aside"].values()) == len(references)
    assert counts["train"] > 100

    options = [f"--dataset_name={folder}", f"--output_dir={run}", "--max_steps=12", "--eval_strategy=no"]
    options += ["--save_strategy=steps", "--save_steps=4"]
    command = ["sft.py", f"--config={ROOT / 'recipes' / 'configs' / 'quickstart.yaml'}", *options]
    said = killed_and_run_again(command, log, (run / "checkpoint-4" / "complete.json").exists)
    assert "resuming from" in said

    command = ["eval.py", f"--adapter_path={run / 'adapter'}", "--dataset_name=sample", "--dataset_test_split=test"]
    command += ["--max_new_tokens=40", "--max_batch_tokens=3000"]
    killed_and_run_again(command, log, lambda: lines_of(run / "eval-base" / "predictions.partial.jsonl") > 4)
    base, tuned = (json.loads((run / f"eval-{s}" / "metrics.json").read_text()) for s in ("base", "tuned"))
    assert tuned["examples"] == 24
    assert tuned["rouge1"]["mean"] > base["rouge1"]["mean"] + 3
