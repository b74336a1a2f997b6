"""A trial of a sweep: the processes of recipes/sft.py and recipes/eval.py, followed to their end, and its result."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dialogsum_sft import RESUMABLE, InputError, Stopped, files
from dialogsum_sft.files import own_folder
from dialogsum_sft.sweeping.plan import Plan, config_text
from dialogsum_sft.sweeping.study import Claimed, SharedStudy

_STOPPED = {RESUMABLE, 130, 143, -signal.SIGTERM, -signal.SIGINT}
_POLL = 0.1  # seconds between looks at a process and its log


@dataclass
class Result:
    """How a trial ended: `state` is done, pruned or failed; a failed one has an `error`, a line."""

    state: str
    score: float | None
    measured: dict[str, Any]


class Trial:
    """Runs a claimed trial in `environment`, the variables that say which GPUs are its own.

    `stop` is set by SIGTERM or Ctrl-C: the process is told to save a checkpoint, and `Stopped` is raised.
    """

    def __init__(
        self, study: SharedStudy, claimed: Claimed, environment: Mapping[str, str], stop: threading.Event
    ) -> None:
        self.study, self.claimed, self.stop = study, claimed, stop
        self.plan: Plan = study.plan
        self.environment = os.environ | environment
        self.folder = claimed.folder
        self.is_pruned = False

    def run(self) -> Result:
        """Train, and summarise where ROUGE is the objective. A finished part is not done again."""
        begun, started = self._seconds_before(), time.time()
        config = self.folder / "config.yaml"
        command = f"python recipes/sft.py --config {config}"
        files.write_text(config, config_text(self.plan.config(self.claimed.values, self.folder), command))
        files.write_json(self.folder / "attempt.json", {"seconds_before": begun, "started": started})
        state, error = "done", self._execute("sft", ["--config", str(config), *self._launch()], self._look_at_log)
        if self.is_pruned and error is None and not self._weights():
            state = "pruned"
        elif error is None and self.plan.args.objective != "loss":
            error = self._execute("eval", self._evaluation())
        seconds = round(begun + time.time() - started, 1)
        score, measured = None, self._measured()
        if state == "done" and error is None:
            score = measured.get("eval_loss" if self.plan.args.objective == "loss" else self.plan.args.objective)
            if score is None or not math.isfinite(score):
                error = f"no score: {self.plan.args.objective} is {score}"
        if error is not None:
            return Result("failed", None, measured | {"seconds": seconds, "error": error})
        for checkpoint in self.folder.glob("checkpoint-*"):  # it is not continued any more
            shutil.rmtree(checkpoint, ignore_errors=True)
        return Result(state, score, measured | {"seconds": seconds})

    def _execute(self, recipe: str, args: list[str], look: Callable[[], bool] = lambda: False) -> str | None:
        """Run a recipe to its end; returns the line of its error. `look` says whether to end it as pruned."""
        log = self.folder / f"{recipe}.log"
        process = start([str(own_folder("recipes") / f"{recipe}.py"), *args], log, self.environment)
        self.study.note_process(self.claimed, process.pid)
        is_told = False
        while (status := process.poll()) is None:
            if not self.is_pruned and look():
                self.is_pruned = True
            if (self.stop.is_set() or self.is_pruned) and not is_told:
                process.send_signal(signal.SIGTERM)
                is_told = True
            time.sleep(_POLL)
        if status in _STOPPED and not self.is_pruned:
            self.stop.set()
            raise Stopped(f"{self.folder}: stopped; its training goes on from the checkpoint", RESUMABLE)
        return None if status == 0 or self.is_pruned else _error_line(log, status)

    def _launch(self) -> list[str]:
        number = self.plan.args.gpus_per_trial
        return ["--accelerate_config", "ddp", "--num_processes", str(number)] if number > 1 else []

    def _evaluation(self) -> list[str]:
        weights = self._weights()
        if weights is None:
            raise InputError(f"{self.folder}: neither adapter nor model is there, although the training ended")
        options, path = self.plan.evaluation_of(weights, self.folder / "validation"), self.folder / "eval.yaml"
        files.write_text(path, config_text(options, f"python recipes/eval.py --config {path}"))
        return ["--config", str(path)]

    def _look_at_log(self) -> bool:
        """Report the evaluations of the training to the study; returns whether the trial is to end here."""
        if self.plan.args.pruner == "none":
            return False
        name = f"eval_{self.plan.args.objective}" + ("" if self.plan.args.objective == "loss" else "_mean")
        events = _events(self.folder / "training.jsonl")
        values = [event[name] for event in events if event.get(name) is not None]
        if not values and self.plan.maximizes:
            values = [-event["eval_loss"] for event in events if event.get("eval_loss") is not None]
        for number in range(self.claimed.reported + 1, len(values) + 1):
            self.claimed.trial.report(values[number - 1], number)
            self.claimed.reported = number
            if self.claimed.trial.should_prune():
                return True
        return False

    def _weights(self) -> Path | None:
        return next((path for name in ("adapter", "model") if (path := self.folder / name).is_dir()), None)

    def _measured(self) -> dict[str, Any]:
        """Loss and ROUGE on the validation split, tokens and peak memory (GiB), as far as the trial came."""
        events, weights = _events(self.folder / "training.jsonl"), self._weights()
        counts = [event["num_tokens"] for event in events if event.get("num_tokens") is not None]
        measured: dict[str, Any] = {"tokens": int(counts[-1])} if counts else {}
        if weights is not None:
            record = json.loads((weights / "run.json").read_text(encoding="utf-8"))
            metrics = record["metrics"]
            measured |= {"tokens": metrics["num_tokens"], "peak_memory_gib": record["peak_memory_gib"]}
            measured |= {name: metrics[name] for name in ("eval_loss",) if name in metrics}
        for path in (self.folder / "validation").glob("eval-*/metrics.json"):
            scores = json.loads(path.read_text(encoding="utf-8"))
            measured |= {name: scores[name]["mean"] for name in ("rouge1", "rouge2", "rougeL")}
        return measured

    def _seconds_before(self) -> float:
        """Seconds of earlier attempts; those of a killed one up to the last line of its log."""
        try:
            last = json.loads((self.folder / "attempt.json").read_text(encoding="utf-8"))
            ended = max(path.stat().st_mtime for path in self.folder.glob("*.log"))
            return float(last["seconds_before"] + max(0.0, ended - last["started"]))
        except (OSError, ValueError, KeyError):
            return 0.0


def start(command: list[str], log: Path, environment: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    """Start a recipe; what it prints is added to a file."""
    with log.open("ab") as file:
        return subprocess.Popen(
            [sys.executable, *command],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=dict(environment),
        )


def _events(log: Path) -> list[dict[str, Any]]:
    """The lines of a training.jsonl that are complete."""
    events = []
    for line in log.read_text(encoding="utf-8").splitlines() if log.is_file() else []:
        try:
            events.append(json.loads(line))
        except ValueError:
            break
    return events


def _error_line(log: Path, status: int) -> str:
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    if status == -signal.SIGKILL:
        return "ended by SIGKILL: see whether memory ran out"
    if status < 0:
        said = [line for line in lines if line.startswith("what():")] or lines or ["it said nothing"]  # of C++
        return f"ended by {signal.Signals(-status).name}: {textwrap.shorten(said[-1], 200)} (see {log})"
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (errors or lines or [f"ended with status {status}"])[-1]
