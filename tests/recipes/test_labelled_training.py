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

from conftest import ROOT, SAMPLE, Recipe
from fake_endpoint import answer, serving

import pytest


def kill_when(is_time: Callable[[], bool], log: Path, name: str, *args: Any) -> None:
    """Start a recipe in a process of its own and end it with kill -9 when it `is_time`."""
    words = [sys.executable, ROOT / "recipes" / f"{name}.py", *map(str, args)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    with log.open("wb") as file, subprocess.Popen(words, env=environment, stdout=file, stderr=file) as process:
        while not is_time():
            assert process.poll() is None, log.read_text(encoding="utf-8")[-3000:]
            time.sleep(0.02)
        process.kill()


def lines_of(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.is_file() else 0


@pytest.mark.slow
def test_label_train_evaluate_each_killed_once(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each is run again in this process. The endpoint knows the bundled references; the bundled test is scored."""
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
        command = ["label", dialogues, "--engine=openai", f"--base_url={server.url}", "--served_model_name=m"]
        command += [f"--output_dir={folder}"]
        kill_when(is_time, log, *command)
        recipe(*command)
        asked = Counter(server.contents)
    assert len(asked) == len(references)
    assert sum(asked.values()) == len(references) + 8  # those in flight
    counts = json.loads((folder / "label.json").read_text(encoding="utf-8"))["counts"]
    assert counts["train"] + counts["validation"] + sum(counts["set_aside"].values()) == len(references)
    assert counts["train"] > 100

    command = ["sft", f"--config={ROOT / 'recipes' / 'configs' / 'quickstart.yaml'}", f"--dataset_name={folder}"]
    command += [f"--output_dir={run}", "--max_steps=10", "--eval_strategy=no"]
    command += ["--save_strategy=steps", "--save_steps=2"]
    kill_when((run / "checkpoint-2" / "complete.json").exists, log, *command)
    recipe(*command)
    assert "resuming from" in capsys.readouterr().out

    command = ["eval", f"--adapter_path={run / 'adapter'}", "--dataset_name=sample", "--dataset_test_split=test"]
    command += ["--max_new_tokens=40", "--max_batch_tokens=3000"]
    kill_when(lambda: lines_of(run / "eval-base" / "predictions.partial.jsonl") > 4, log, *command)
    recipe(*command)
    base, tuned = (json.loads((run / f"eval-{s}" / "metrics.json").read_text()) for s in ("base", "tuned"))
    assert tuned["examples"] == 24
    assert tuned["rouge1"]["mean"] > base["rouge1"]["mean"] + 1
    assert tuned["rougeL"]["mean"] > base["rougeL"]["mean"] + 1.5
    assert tuned["unfinished"] < base["unfinished"]
