"""One global batch, one run: however many processes, accumulation steps and machines share it."""

import importlib.util
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dialogsum_sft.arguments import run

import pytest
import torch
from safetensors.torch import load_file

ROOT = Path(__file__).parent.parent
ACCELERATE = Path(sys.executable).parent / "accelerate"
Recipe = Callable[..., None]


@pytest.fixture
def sft(monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """Run the training recipe's main in this process."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def call(*args: str) -> None:
        spec = importlib.util.spec_from_file_location("recipe_sft", ROOT / "recipes" / "sft.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        monkeypatch.setattr(sys, "argv", ["sft.py", *args])
        run(module.main)

    return call


def training_args(model: Path, output_dir: Path, **options: Any) -> list[str]:
    """A training in fp32 without dropout: what remains is the arithmetic of the batches."""
    flags = {
        "model_name_or_path": model,
        "dtype": "float32",
        "dataset_name": "sample",
        "output_dir": output_dir,
        "use_peft": "true",
        "lora_dropout": 0.0,
        "bf16": "false",
        "activation_checkpointing": "false",
        "dataloader_pin_memory": "false",
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "save_strategy": "no",
        "max_train_samples": 13,
    } | options
    return [f"--{name}={value}" for name, value in flags.items()]


def start(*command: str | Path, **env: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        list(map(str, command)),
        cwd=ROOT,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"} | env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[str, str]:
    try:
        return process.communicate(timeout=300)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def losses(output_dir: Path) -> list[float]:
    (state,) = output_dir.glob("checkpoint-*/trainer_state.json")
    return [log["loss"] for log in json.loads(state.read_text())["log_history"] if "loss" in log]


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def same_run(one: Path, other: Path) -> None:
    assert len(losses(one)) == 4
    assert losses(other) == pytest.approx(losses(one), abs=1e-4)
    weights, others = (load_file(folder / "adapter" / "adapter_model.safetensors") for folder in (one, other))
    assert weights.keys() == others.keys()
    for name, weight in weights.items():
        torch.testing.assert_close(others[name], weight, rtol=0, atol=1e-5)


# 13 rows and a global batch of 8: two steps an epoch, the second one filled up; two epochs.
TWO_EPOCHS = {"global_batch_size": 8, "num_train_epochs": 2, "save_strategy": "steps", "save_steps": 4}


@pytest.mark.slow
def test_two_ranks_train_as_one(sft: Recipe, tiny_folder: Path, tmp_path: Path) -> None:
    options = TWO_EPOCHS | {"per_device_train_batch_size": 2}
    sft(*training_args(tiny_folder, tmp_path / "one", **options))
    ranks = start(
        *(ACCELERATE, "launch", "--config_file", "accelerate_configs/cpu.yaml", "--main_process_port", "0"),
        *("recipes/sft.py", *training_args(tiny_folder, tmp_path / "two", **options)),
    )
    _, errors = finish(ranks)
    assert ranks.returncode == 0, errors[-3000:]
    same_run(tmp_path / "one", tmp_path / "two")
    one, two = (json.loads((tmp_path / name / "adapter" / "run.json").read_text()) for name in ("one", "two"))
    assert [run["hardware"]["processes"] for run in (one, two)] == [1, 2]
    assert [run["arguments"]["gradient_accumulation_steps"] for run in (one, two)] == [4, 2]
    assert one["metrics"]["num_tokens"] == two["metrics"]["num_tokens"]


@pytest.mark.parametrize("strategy", ["group_by_length", "random"])
def test_accumulating_trains_as_one_wide_batch(sft: Recipe, tiny_folder: Path, tmp_path: Path, strategy: str) -> None:
    for rows in (8, 2):
        options = TWO_EPOCHS | {"per_device_train_batch_size": rows, "train_sampling_strategy": strategy}
        sft(*training_args(tiny_folder, tmp_path / str(rows), **options))
    same_run(tmp_path / "8", tmp_path / "2")
