"""Runs that are killed dozens of times end with the weights of an uninterrupted one."""

import contextlib
import os
import random
import re
import signal
import time
from pathlib import Path

from conftest import SAMPLE
from dialogsum_sft.training.checkpoints import step_of
from ranks import ForkedSft
from sft_runs import DROPOUT, assert_same_weights, text_of

import pytest


def marked(output_dir: Path) -> list[int]:
    return sorted(step_of(path.parent) for path in output_dir.glob("checkpoint-*/complete.json"))


def unmarked(output_dir: Path) -> list[Path]:
    found = [path for path in output_dir.glob("checkpoint-*") if not (path / "complete.json").exists()]
    return [path for path in found if any(path.glob("*"))]


@pytest.mark.slow
def test_thirty_kills_do_not_change_the_weights(forked: ForkedSft, tmp_path: Path) -> None:
    """After each kill -9, at a random moment or in a save, the run resumes from the newest complete checkpoint."""
    rows = (SAMPLE / "train.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    dataset = tmp_path / "rows.jsonl"
    dataset.write_text("".join(rows[:6]), encoding="utf-8")
    options = DROPOUT | {"dataset_name": dataset, "max_length": 150, "num_train_epochs": 6, "save_total_limit": 2}
    options |= {"per_device_train_batch_size": 2}  # 18 steps
    chance = random.Random(0)
    forked.start(tmp_path / "whole", tmp_path / "log", **options)
    started = time.monotonic()  # when the server has started, too
    assert forked.wait() == [0]
    seconds = time.monotonic() - started
    kills, in_saves, rounds = 0, 0, 0
    while kills < 30:
        rounds += 1
        output_dir = tmp_path / f"cut{rounds}"
        status = None
        while status != 0:
            log = tmp_path / f"log-{rounds}-{kills}"
            before = marked(output_dir)
            (pid,) = forked.start(output_dir, log, **options)
            in_save = False
            if kills < 30 and kills % 2:
                in_save = kill_in_save(pid, output_dir, log, chance.randint(1, 2))
            elif kills < 30:
                time.sleep(chance.uniform(0, seconds / 2))
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            (status,) = forked.wait()
            assert status in (0, -signal.SIGKILL), text_of(log)[-2000:]
            if status:
                kills += 1
                in_saves += in_save
            said = re.findall(r"resuming from \S+checkpoint-(\d+)$", text_of(log), re.MULTILINE)
            assert said in ([], [str(max(before, default=0))])
            assert said or not before or status  # killed before it printed that line
        assert_same_weights(output_dir, tmp_path / "whole")
    assert in_saves >= 10


def kill_in_save(pid: int, output_dir: Path, log: Path, number: int) -> bool:
    """Kill while the `number`th checkpoint is being written."""
    seen: set[str] = set()
    left_behind = {path.name for path in unmarked(output_dir)}
    while "saved to" not in text_of(log):
        for path in unmarked(output_dir):
            # An unfinished checkpoint of an earlier kill is set aside before training; its name may be used again.
            if path.name in left_behind and "resuming from" not in text_of(log):
                continue
            seen.add(path.name)
            if len(seen) == number:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                return True
        time.sleep(0.005)
    return False
