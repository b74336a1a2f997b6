"""A run that was cut off goes on where it was: the same weights in the end as if nothing had happened."""

import contextlib
import importlib.util
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from dialogsum_sft.arguments import run
from dialogsum_sft.checkpoints import step_of
from dialogsum_sft.stopping import StopTogether

import pytest
import torch
from safetensors.torch import load_file

ROOT = Path(__file__).parent.parent
Sft = Callable[..., int]


def sft_args(model: Path, output_dir: Path, **options: Any) -> list[str]:
    """12 rows of the sample in steps of four: 3 steps an epoch, and a checkpoint each."""
    flags = {
        "model_name_or_path": model,
        "dataset_name": "sample",
        "dataset_test_split": "validation",
        "output_dir": output_dir,
        "use_peft": True,
        "lora_target_modules": "all-linear",
        "max_train_samples": 12,
        "max_eval_samples": 4,
        "num_train_epochs": 2,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "bf16": False,
        "activation_checkpointing": False,
        "dataloader_pin_memory": False,
        "disable_tqdm": True,
        "save_strategy": "steps",
        "save_steps": 1,
        "logging_steps": 1,
    }
    return [f"--{name}={value}" for name, value in (flags | options).items()]


@pytest.fixture
def sft(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sft]:
    """Run recipes/sft.py in this process; returns its exit status."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    spec = importlib.util.spec_from_file_location("recipe_sft", ROOT / "recipes" / "sft.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def call(model: Path, output_dir: Path, **options: Any) -> int:
        monkeypatch.setattr(sys, "argv", ["sft.py", *sft_args(model, output_dir, **options)])
        try:
            run(module.main)
        except SystemExit as end:
            return int(end.code or 0)
        return 0

    return call


class Crash(BaseException):
    """What no code catches, as a kill."""


@pytest.fixture
def at_step(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[], None]], None]:
    """Have something happen in the middle of a step; the steps are counted from 1."""

    def arrange(step: int, happening: Callable[[], None]) -> None:
        original = StopTogether.on_pre_optimizer_step

        def patched(self: StopTogether, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step + 1 == step:
                monkeypatch.setattr(StopTogether, "on_pre_optimizer_step", original)
                happening()
            original(self, args, state, control, **kwargs)

        monkeypatch.setattr(StopTogether, "on_pre_optimizer_step", patched)

    return arrange


def crash() -> None:
    raise Crash


def send(number: int) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


def weights(output_dir: Path) -> dict[str, torch.Tensor]:
    return load_file(output_dir / "adapter" / "adapter_model.safetensors")


def assert_same_weights(one: Path, two: Path) -> None:
    ours, theirs = weights(one), weights(two)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir())


def record(output_dir: Path) -> dict[str, Any]:
    return json.loads((output_dir / "adapter" / "run.json").read_text(encoding="utf-8"))


DROPOUT = {"lora_dropout": 0.2}


@pytest.mark.parametrize(
    "options",
    [
        DROPOUT,
        DROPOUT | {"train_sampling_strategy": "group_by_length", "gradient_accumulation_steps": 2, "max_steps": 6}
        | {"per_device_train_batch_size": 2, "max_train_samples": 10, "eval_strategy": "steps", "eval_steps": 2},
        DROPOUT | {"eval_strategy": "epoch", "save_strategy": "epoch", "num_train_epochs": 3, "dtype": "bfloat16"},
        DROPOUT | {"eval_strategy": "epoch", "train_sampling_strategy": "group_by_length"},
        {"use_peft": False, "save_steps": 2},
    ],
    ids=["random", "accumulated", "epochs_bf16", "grouped_eval", "full"],
)  # fmt: skip
def test_a_run_that_crashed_ends_with_the_weights_of_one_that_did_not(
    sft: Sft, at_step: Any, tiny_folder: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert sft(tiny_folder, whole, **options) == 0
    for step in (2, 4, 6):  # in the first epoch, just behind its end, and in the last step
        at_step(step, crash)
        with pytest.raises(Crash):
            sft(tiny_folder, cut, **options)
        assert not (cut / "adapter").exists()
    assert sft(tiny_folder, cut, **options) == 0
    if options.get("use_peft", True):
        assert_same_weights(cut, whole)
        assert record(cut)["metrics"]["num_tokens"] == record(whole)["metrics"]["num_tokens"]
    else:
        ours, theirs = (load_file(folder / "model" / "model.safetensors") for folder in (cut, whole))
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


# Real processes, really killed.


class ForkedSft:
    """tests/forked_sft.py: runs of recipes/sft.py as processes that start in no time."""

    def __init__(self, model: Path) -> None:
        command = [sys.executable, str(ROOT / "tests" / "forked_sft.py"), str(model)]
        self.server = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT
        )
        self.model = model

    def start(self, output_dir: Path, log: Path, **options: Any) -> int:
        assert self.server.stdin is not None
        request = {"args": sft_args(self.model, output_dir, **options), "log": str(log)}
        self.server.stdin.write(json.dumps(request) + "\n")
        self.server.stdin.flush()
        return self._number()

    def wait(self) -> int:
        """Exit status of the run."""
        return self._number()

    def _number(self) -> int:
        assert self.server.stdout is not None
        return int(self.server.stdout.readline())

    def close(self) -> None:
        assert self.server.stdin is not None
        self.server.stdin.close()
        self.server.wait(timeout=60)


@pytest.fixture
def forked(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ForkedSft]:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    server = ForkedSft(tiny_folder)
    yield server
    server.close()


def marked(output_dir: Path) -> list[int]:
    return sorted(step_of(path.parent) for path in output_dir.glob("checkpoint-*/complete.json"))


def unmarked(output_dir: Path) -> list[Path]:
    found = [path for path in output_dir.glob("checkpoint-*") if not (path / "complete.json").exists()]
    return [path for path in found if any(path.glob("*"))]


@pytest.mark.slow
def test_thirty_kills_at_any_moment_do_not_change_the_weights(forked: ForkedSft, tmp_path: Path) -> None:
    """kill -9 at random moments and in the midst of saves: each time it goes on from the newest whole checkpoint."""
    options = {"lora_dropout": 0.2, "num_train_epochs": 14, "save_total_limit": 2, "max_length": 150}
    chance = random.Random(0)
    started = time.monotonic()
    forked.start(tmp_path / "whole", tmp_path / "log", **options)
    assert forked.wait() == 0
    seconds = time.monotonic() - started
    kills, in_saves, rounds = 0, 0, 0
    while kills < 30:
        rounds += 1
        output_dir = tmp_path / f"cut{rounds}"
        status = None
        while status != 0:
            log = tmp_path / f"log-{rounds}-{kills}"
            before = marked(output_dir)
            pid = forked.start(output_dir, log, **options)
            in_save = False
            if kills < 30 and kills % 2:
                in_save = kill_in_save(pid, output_dir, log, chance.randint(1, 2))
            elif kills < 30:
                time.sleep(chance.uniform(0, seconds / 2))
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            status = forked.wait()
            assert status in (0, -signal.SIGKILL), text_of(log)[-2000:]
            if status:
                kills += 1
                in_saves += in_save
            said = re.findall(r"going on from \S+checkpoint-(\d+)$", text_of(log), re.MULTILINE)
            assert said in ([], [str(max(before, default=0))])
            assert said or not before or status  # killed before it could say so
        assert_same_weights(output_dir, tmp_path / "whole")
    assert in_saves >= 10


def kill_in_save(pid: int, output_dir: Path, log: Path, number: int) -> bool:
    """Kill when a `number`th checkpoint has been begun and not been finished."""
    seen: set[str] = set()
    left_behind = {path.name for path in unmarked(output_dir)}
    while "saved to" not in text_of(log):
        for path in unmarked(output_dir):
            # What an earlier kill left behind is set aside before training, and may be begun anew under its name.
            if path.name in left_behind and "going on from" not in text_of(log):
                continue
            seen.add(path.name)
            if len(seen) == number:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                return True
        time.sleep(0.002)
    return False


def text_of(log: Path) -> str:
    return log.read_text(encoding="utf-8") if log.exists() else ""
