"""Sweeps of recipes/sweep.py over a tiny model, whose trials are forked: they import nothing and start at once."""

import json
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from forked_recipe import leave, run_recipe
from sft_runs import sft_args


class ForkedTrial:
    """What `trial.start` returns, as far as a sweep uses it."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.status: int | None = None

    def poll(self) -> int | None:
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.status = os.waitstatus_to_exitcode(status) if pid else None
        return self.status

    def send_signal(self, number: int) -> None:
        if self.status is None:
            os.kill(self.pid, number)


def start(command: list[str], log: Path, environment: Mapping[str, str]) -> ForkedTrial:
    """In place of `dialogsum_sft.sweeping.trial.start`."""
    pid = os.fork()
    if pid:
        return ForkedTrial(pid)
    _old = sys.stdin, sys.stdout, sys.stderr  # which would close these descriptors when they are deleted

    def work() -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        descriptor = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        for number in (1, 2):
            os.dup2(descriptor, number)
        os.environ.clear()
        os.environ.update(environment)
        run_recipe(command)  # without the locks of the worker, which are descriptors

    leave(work)


def write_base(model: Path, folder: Path, **options: Any) -> Path:
    """A config of 12 rows in steps of four, evaluated on four after each epoch."""
    base = folder / "base.yaml"
    options = {"eval_strategy": "epoch", "save_strategy": "no", "disable_tqdm": True} | options
    words = sft_args(model, folder / "unused", **options)
    lines = [word.removeprefix("--").replace("=", ": ", 1) for word in words if not word.startswith("--save_steps")]
    base.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return base


def sweep_args(base: Path, output_dir: Path, search: Mapping[str, Any], **options: Any) -> list[str]:
    given = {"base": base, "output_dir": output_dir, "search": json.dumps(search)} | options
    return [
        f"--{name}={json.dumps(value) if isinstance(value, dict | bool) else value}" for name, value in given.items()
    ]


def sweep_record(output_dir: Path) -> dict[str, Any]:
    return json.loads((output_dir / "sweep.json").read_text(encoding="utf-8"))
