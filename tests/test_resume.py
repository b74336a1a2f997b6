"""A run that was cut off goes on where it was: the same weights in the end as if nothing had happened."""

import importlib.util
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from dialogsum_sft.arguments import run
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
