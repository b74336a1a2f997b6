"""Arguments of runs of recipes/sft.py that are stopped and resumed, and readers of their files."""

import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

Sft = Callable[..., int]
WholeRun = Callable[..., Path]


def sft_args(model: Path, output_dir: Path, **options: Any) -> list[str]:
    """12 rows of the sample in steps of four: 3 steps an epoch, with a checkpoint after each step."""
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


class Crash(BaseException):
    """An exception that no code catches; it stands for a kill."""


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


def start_training(command: list[str], log: Path) -> subprocess.Popen[bytes]:
    """Start a command and wait until it has logged a loss."""
    with log.open("wb") as file:
        env = os.environ | {"HF_HUB_OFFLINE": "1"}
        process = subprocess.Popen(
            command, cwd=Path(__file__).parent.parent, env=env, stdout=file, stderr=subprocess.STDOUT
        )
    while "'loss'" not in text_of(log):
        assert process.poll() is None, text_of(log)[-3000:]
        time.sleep(0.05)
    return process


def text_of(log: Path) -> str:
    return log.read_text(encoding="utf-8") if log.exists() else ""
