"""An interrupted run resumes and ends with the same weights as an uninterrupted one."""

import contextlib
import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from conftest import ROOT, Recipe
from dialogsum_sft.training import stopping
from dialogsum_sft.training import trainer as resumable
from dialogsum_sft.training.checkpoints import damage, find_checkpoints, step_of
from dialogsum_sft.training.collator import CompletionOnlyCollator
from dialogsum_sft.training.stopping import StopCallback
from dialogsum_sft.training.trainer import ResumableSFTTrainer

import psutil
import pytest
import torch
from safetensors.torch import load_file

Sft = Callable[..., int]


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


@pytest.fixture
def sft(recipe: Recipe) -> Sft:
    """Run recipes/sft.py in this process; returns its exit status."""

    def call(model: Path, output_dir: Path, **options: Any) -> int:
        try:
            recipe("sft", *sft_args(model, output_dir, **options))
        except SystemExit as end:
            return int(end.code or 0)
        return 0

    return call


class Crash(BaseException):
    """An exception that no code catches; it stands for a kill."""


@pytest.fixture
def at_step(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[], None]], None]:
    """Call a function in the middle of a step; steps are counted from 1."""

    def arrange(step: int, action: Callable[[], None]) -> None:
        original = StopCallback.on_pre_optimizer_step

        def patched(self: StopCallback, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step + 1 == step:
                monkeypatch.setattr(StopCallback, "on_pre_optimizer_step", original)
                action()
            original(self, args, state, control, **kwargs)

        monkeypatch.setattr(StopCallback, "on_pre_optimizer_step", patched)

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
def test_a_crashed_run_resumes_to_the_same_weights(
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


@pytest.mark.parametrize("save_strategy", ["steps", "no"])
def test_a_finished_run_does_nothing(
    sft: Sft, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], save_strategy: str
) -> None:
    assert sft(tiny_folder, tmp_path, max_steps=2, save_strategy=save_strategy) == 0
    before = (tmp_path / "adapter" / "run.json").read_text()
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert json.loads(before)["manifest_sha256"] == manifest["sha256"]
    assert manifest["paths"] == {"model_name_or_path": str(tiny_folder)}
    (tmp_path / "report.html").touch()
    capsys.readouterr()
    assert sft(tiny_folder, tmp_path, max_steps=2, save_strategy=save_strategy) == 0
    said = capsys.readouterr().out
    assert f"nothing to do: this run finished at step 2 and its adapter is {tmp_path}/adapter, its report is" in said
    assert (tmp_path / "adapter" / "run.json").read_text() == before


def test_a_run_stopped_after_its_last_step_only_saves(
    sft: Sft, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert sft(tiny_folder, tmp_path / "whole", max_steps=2, eval_strategy="steps", eval_steps=1) == 0
    with monkeypatch.context() as patch:
        patch.setattr(ResumableSFTTrainer, "save_verified", lambda self, folder: crash())
        with pytest.raises(Crash):
            sft(tiny_folder, tmp_path / "cut", max_steps=2, eval_strategy="steps", eval_steps=1)
    assert sft(tiny_folder, tmp_path / "cut", max_steps=2, eval_strategy="steps", eval_steps=1) == 0
    assert_same_weights(tmp_path / "cut", tmp_path / "whole")
    ours, theirs = record(tmp_path / "cut"), record(tmp_path / "whole")
    assert (ours["resumed_from_step"], theirs["resumed_from_step"]) == (2, None)
    assert ours["metrics"]["eval_loss"] == theirs["metrics"]["eval_loss"]


@pytest.mark.parametrize("save_strategy", ["steps", "no"])
def test_another_run_in_the_folder_is_refused(
    sft: Sft, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], save_strategy: str
) -> None:
    assert sft(tiny_folder, tmp_path, max_steps=1, save_strategy=save_strategy) == 0
    before = names(tmp_path)
    other = {"lora_r": 4, "max_train_samples": 11, "force_resume": True, "save_strategy": save_strategy}
    assert sft(tiny_folder, tmp_path, max_steps=1, **other) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"error: {tmp_path} holds another run (data_fingerprint ")
    assert "lora_r 16 -> 4): give another --output_dir, or --overwrite_output_dir true to begin anew" in error
    assert names(tmp_path) == before


def test_overwriting_sets_the_old_adapter_aside(sft: Sft, tiny_folder: Path, tmp_path: Path, at_step: Any) -> None:
    """No adapter stays beside the manifest of another run, even if that run is stopped half-way."""
    assert sft(tiny_folder, tmp_path, max_steps=2, save_strategy="no") == 0
    first = weights(tmp_path)
    at_step(2, crash)
    with pytest.raises(Crash):
        sft(tiny_folder, tmp_path, max_steps=2, lora_r=4, save_strategy="no", overwrite_output_dir=True)
    assert names(tmp_path) == ["earlier-adapter"]
    saved = load_file(tmp_path / "earlier-adapter" / "adapter_model.safetensors")
    assert all(torch.equal(first[name], saved[name]) for name in first)
    assert sft(tiny_folder, tmp_path, max_steps=2, lora_r=4, save_strategy="no") == 0
    assert record(tmp_path)["arguments"]["lora_r"] == 4


def test_a_changed_option_needs_force_resume(
    sft: Sft, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = {"lr_scheduler_type": "constant", "eval_strategy": "no"}
    assert sft(tiny_folder, tmp_path, max_steps=2, learning_rate=1e-2, **common) == 0
    assert sft(tiny_folder, tmp_path, max_steps=4, learning_rate=2e-3, seed=7, **common) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "other values: learning_rate 0.01 -> 0.002, max_steps 2 -> 4, seed 42 -> 7; " in error
    assert "--force_resume true" in error
    assert sft(tiny_folder, tmp_path, max_steps=4, learning_rate=2e-3, seed=7, **common, force_resume=True) == 0
    state = json.loads((tmp_path / "checkpoint-4" / "trainer_state.json").read_text())
    rates = {log["step"]: log["learning_rate"] for log in state["log_history"] if "learning_rate" in log}
    assert rates == {1: 0.01, 2: 0.01, 3: 0.002, 4: 0.002}
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["changed"][0] == "from step 2: learning_rate 0.01 -> 0.002"
    assert manifest["finished_at_step"] == 4


def test_options_without_effect_may_change(sft: Sft, tiny_folder: Path, tmp_path: Path, at_step: Any) -> None:
    at_step(2, crash)
    with pytest.raises(Crash):
        sft(tiny_folder, tmp_path, max_steps=2)
    assert sft(tiny_folder, tmp_path, max_steps=2, save_steps=2, logging_steps=5, eval_strategy="epoch") == 0
    assert record(tmp_path)["resumed_from_step"] == 1


def test_beginning_anew_sets_checkpoints_and_adapter_aside(sft: Sft, tiny_folder: Path, tmp_path: Path) -> None:
    assert sft(tiny_folder, tmp_path, max_steps=2) == 0
    assert sft(tiny_folder, tmp_path, max_steps=1, lora_r=4, overwrite_output_dir=True) == 0
    assert sft(tiny_folder, tmp_path, max_steps=1, lora_r=4, resume_from_checkpoint=False) == 0
    earlier = ["adapter", "adapter-2", "checkpoint-1", "checkpoint-1-2", "checkpoint-2"]
    assert names(tmp_path) == ["adapter", "checkpoint-1", *(f"earlier-{name}" for name in earlier)]
    assert record(tmp_path)["resumed_from_step"] is None


def test_resuming_from_a_named_checkpoint_sets_later_ones_aside(
    sft: Sft, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sft(tiny_folder, tmp_path, max_steps=3) == 0
    before = weights(tmp_path)
    assert sft(tiny_folder, tmp_path, max_steps=3, resume_from_checkpoint=tmp_path / "checkpoint-1") == 0
    assert record(tmp_path)["resumed_from_step"] == 1
    assert all(torch.equal(before[name], after) for name, after in weights(tmp_path).items())
    assert names(tmp_path)[-2:] == ["earlier-checkpoint-2", "earlier-checkpoint-3"]
    (tmp_path / "checkpoint-1" / "optimizer.pt").unlink()
    assert sft(tiny_folder, tmp_path, max_steps=3, resume_from_checkpoint=tmp_path / "checkpoint-1") == 2
    assert "checkpoint-1 is damaged: optimizer.pt is missing" in capsys.readouterr().err
    assert sft(tiny_folder, tmp_path, max_steps=3, resume_from_checkpoint=tmp_path / "nowhere") == 2
    assert "--resume_from_checkpoint: no such folder" in capsys.readouterr().err


def test_a_damaged_checkpoint_is_reported_and_the_previous_one_used(
    sft: Sft, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], at_step: Any
) -> None:
    assert sft(tiny_folder, tmp_path / "whole", max_steps=3) == 0
    at_step(3, crash)
    with pytest.raises(Crash):
        sft(tiny_folder, tmp_path / "cut", max_steps=3)
    adapter = tmp_path / "cut" / "checkpoint-2" / "adapter_model.safetensors"
    adapter.write_bytes(adapter.read_bytes()[:40])
    assert sft(tiny_folder, tmp_path / "cut", max_steps=3) == 0
    said = capsys.readouterr().out
    assert (
        "checkpoint-2 is damaged and set aside as damaged-checkpoint-2: adapter_model.safetensors has 40 bytes" in said
    )
    assert record(tmp_path / "cut")["resumed_from_step"] == 1
    assert_same_weights(tmp_path / "cut", tmp_path / "whole")


def test_rotation_waits_for_a_complete_newer_checkpoint(
    sft: Sft, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = resumable.mark_complete

    def mark(folder: Path, processes: int) -> None:
        if folder.name == "checkpoint-2":
            raise Crash
        original(folder, processes)

    with monkeypatch.context() as patch:
        patch.setattr(resumable, "mark_complete", mark)
        with pytest.raises(Crash):
            sft(tiny_folder, tmp_path, max_steps=3, save_total_limit=1)
    assert names(tmp_path) == ["checkpoint-1", "checkpoint-2"]
    assert damage(tmp_path / "checkpoint-1") is None
    assert sft(tiny_folder, tmp_path, max_steps=3, save_total_limit=1) == 0
    assert record(tmp_path)["resumed_from_step"] == 1
    assert names(tmp_path) == ["adapter", "checkpoint-3", "damaged-checkpoint-2"]


def test_damaged_checkpoints_are_kept(
    sft: Sft, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sft(tiny_folder, tmp_path, max_steps=2) == 0
    for step in (1, 2):
        (tmp_path / f"checkpoint-{step}" / "complete.json").unlink()
    assert sft(tiny_folder, tmp_path, max_steps=2, force_resume=True, weight_decay=0.1) == 0
    assert "beginning at step 0" in capsys.readouterr().out
    earlier = ["damaged-checkpoint-1", "damaged-checkpoint-2", "earlier-adapter"]
    assert names(tmp_path) == ["adapter", "checkpoint-1", "checkpoint-2", *earlier]


# Signals.


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("save_strategy", ["no", "epoch"])
def test_a_signal_saves_a_checkpoint_and_exits_with_75(
    sft: Sft,
    tiny_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    at_step: Any,
    number: signal.Signals,
    save_strategy: str,
) -> None:
    options = DROPOUT | {"save_strategy": save_strategy, "eval_strategy": "epoch", "max_steps": 4}
    before = signal.getsignal(signal.SIGINT)  # a shell starts its background commands with it ignored
    assert sft(tiny_folder, tmp_path / "whole", **options) == 0
    at_step(3, send(number))  # the last of its epoch
    assert sft(tiny_folder, tmp_path / "cut", **options) == 75
    assert names(tmp_path / "cut") == ["checkpoint-3"]
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"stopped by {number.name} after step 3 of 4. The same command resumes from {tmp_path}")
    assert "checkpoint-3: " in error
    assert "sft.py --model_name_or_path=" in error
    assert signal.getsignal(signal.SIGINT) is before
    assert sft(tiny_folder, tmp_path / "cut", **options) == 0
    assert record(tmp_path / "cut")["resumed_from_step"] == 3
    assert_same_weights(tmp_path / "cut", tmp_path / "whole")


@pytest.mark.parametrize("save_strategy", ["no", "steps"])
def test_a_signal_ends_an_evaluation(
    sft: Sft, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save_strategy: str
) -> None:
    options = DROPOUT | {"save_strategy": save_strategy, "eval_strategy": "steps", "eval_steps": 2, "max_steps": 4}
    options |= {"per_device_eval_batch_size": 1}
    assert sft(tiny_folder, tmp_path / "whole", **options) == 0
    original = StopCallback.on_prediction_step
    seen = []

    def patched(self: StopCallback, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        seen.append(state.global_step)
        if len(seen) == 2:
            send(signal.SIGTERM)()
        original(self, args, state, control, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(StopCallback, "on_prediction_step", patched)
        assert sft(tiny_folder, tmp_path / "cut", **options) == 75
    assert seen == [2, 2]  # of four rows
    assert not (tmp_path / "cut" / "adapter").exists()
    assert sft(tiny_folder, tmp_path / "cut", **options) == 0
    assert record(tmp_path / "cut")["resumed_from_step"] == 2
    assert_same_weights(tmp_path / "cut", tmp_path / "whole")


def test_a_signal_in_the_last_step_leaves_no_adapter(
    sft: Sft, tiny_folder: Path, tmp_path: Path, at_step: Any
) -> None:
    at_step(2, send(signal.SIGTERM))
    assert sft(tiny_folder, tmp_path, max_steps=2) == 75
    assert names(tmp_path) == ["checkpoint-1", "checkpoint-2"]
    assert sft(tiny_folder, tmp_path, max_steps=2) == 0
    assert "adapter" in names(tmp_path)


# Errors in a step or a save.


def test_a_loss_that_is_not_finite_is_reported_with_step_and_rows(
    sft: Sft, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[list[str]] = []
    original, step = CompletionOnlyCollator.torch_call, StopCallback.on_step_end

    def collate(self: CompletionOnlyCollator, examples: list[dict[str, Any]]) -> dict[str, Any]:
        batches.append([example["id"] for example in examples])
        return original(self, examples)

    def break_weights(self: StopCallback, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 2:
            next(p for p in self.trainer.model.parameters() if p.requires_grad).data.fill_(float("nan"))
            control.should_save = False
        else:
            step(self, args, state, control, **kwargs)

    monkeypatch.setattr(CompletionOnlyCollator, "torch_call", collate)
    monkeypatch.setattr(StopCallback, "on_step_end", break_weights)
    options = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    assert sft(tiny_folder, tmp_path, **options) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: the loss is nan at step 3, in which these rows were trained on: ")
    rows = error.partition("trained on: ")[2].partition(". ")[0].split(", ")
    assert sorted(rows) == sorted(batches[4] + batches[5])
    assert len(rows) == 4
    assert "The same command resumes from" in error
    assert names(tmp_path) == ["checkpoint-1"]


def test_packed_rows_are_named(
    sft: Sft, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_weights(self: StopCallback, *_: Any, **__: Any) -> None:
        next(p for p in self.trainer.model.parameters() if p.requires_grad).data.fill_(float("nan"))

    monkeypatch.setattr(StopCallback, "on_step_begin", break_weights)
    options = {"packing": "true", "max_length": 1024, "max_train_samples": 2, "per_device_train_batch_size": 1}
    assert sft(tiny_folder, tmp_path, **options) == 1
    assert (
        "the loss is nan at step 1, in which these rows were trained on: train_0, train_1. "
        in (capsys.readouterr().err.splitlines()[-1])
    )


def test_a_gradient_that_is_not_finite_is_not_applied(
    sft: Sft, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = StopCallback.on_pre_optimizer_step

    def break_gradient(self: StopCallback, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 1:
            next(p for p in self.trainer.model.parameters() if p.grad is not None).grad[0] = float("inf")
        original(self, args, state, control, **kwargs)

    monkeypatch.setattr(StopCallback, "on_pre_optimizer_step", break_gradient)
    assert sft(tiny_folder, tmp_path) == 1
    assert "error: the gradient is not finite at step 2, in which these rows" in capsys.readouterr().err
    assert names(tmp_path) == ["checkpoint-1"]


@pytest.mark.parametrize("limit", [60_000, 100_000])
def test_a_failed_checkpoint_keeps_the_previous_one(
    sft: Sft,
    tiny_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    at_step: Any,
    limit: int,
) -> None:
    """The limit cuts off the adapter (69 kB) or the optimizer's state (155 kB), as a full disk does."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    assert sft(tiny_folder, tmp_path / "whole", max_steps=3, dtype="float32") == 0
    at_step(2, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limits[1])))
    try:
        assert sft(tiny_folder, tmp_path / "cut", max_steps=3, dtype="float32", save_total_limit=1) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"error: {tmp_path}/cut/checkpoint-2 could not be written (is the disk full?): ")
    assert "resumes from" in error
    assert sft(tiny_folder, tmp_path / "cut", max_steps=3, dtype="float32") == 0
    assert record(tmp_path / "cut")["resumed_from_step"] == 1
    assert_same_weights(tmp_path / "cut", tmp_path / "whole")


def test_too_small_a_disk_is_refused_before_the_first_step(
    sft: Sft, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stopping, "free_space", lambda folder: 2**26)
    assert sft(tiny_folder, tmp_path, max_steps=3) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(
        f"error: {tmp_path} has 64 MiB free, and this run takes about 107 MiB (3 checkpoints of 32 MiB"
    )
    assert not any("checkpoint" in name for name in names(tmp_path))


def test_a_full_disk_is_reported_before_a_save(
    sft: Sft, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], at_step: Any, monkeypatch: Any
) -> None:
    at_step(2, lambda: monkeypatch.setattr(resumable, "free_space", lambda folder: 2**17))
    assert sft(tiny_folder, tmp_path, max_steps=3) == 1
    assert (
        "checkpoint-2 could not be written (is the disk full?): it takes about 0 MiB and 0 MiB are free"
        in capsys.readouterr().err
    )
    assert names(tmp_path) == ["checkpoint-1"]


def test_no_token_is_written(
    sft: Sft, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "hf_aSecretThatNobodyShouldRead"
    assert sft(tiny_folder, tmp_path, hub_token=secret) == 2
    assert "--hub_token would be written to files" in capsys.readouterr().err
    monkeypatch.setenv("HF_TOKEN", secret)
    assert sft(tiny_folder, tmp_path, max_steps=1) == 0
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) > 10
    assert [path for path in written if secret.encode() in path.read_bytes()] == []
    assert [path for path in written if path.name == "training_args.bin"] == []


# Processes that are killed.


class ForkedSft:
    """Runs recipes/sft.py as processes that start without importing anything, by tests/forked_sft.py."""

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
def test_thirty_kills_do_not_change_the_weights(forked: ForkedSft, tmp_path: Path) -> None:
    """After each kill -9, at a random moment or in a save, the run resumes from the newest complete checkpoint."""
    rows = [
        json.loads(line)
        for line in (ROOT / "dialogsum_sft" / "data" / "sample" / "train.jsonl").open(encoding="utf-8")
    ]
    dataset = tmp_path / "rows.jsonl"
    dataset.write_text("".join(json.dumps(row) + "\n" for row in rows[:6]), encoding="utf-8")
    options = DROPOUT | {"dataset_name": dataset, "max_length": 150, "num_train_epochs": 10, "save_total_limit": 2}
    options |= {"per_device_train_batch_size": 2}  # 30 steps
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


def text_of(log: Path) -> str:
    return log.read_text(encoding="utf-8") if log.exists() else ""


def launch(tiny_folder: Path, output_dir: Path, log: Path) -> tuple[subprocess.Popen[bytes], list[psutil.Process]]:
    """Start two processes by accelerate's launcher and wait until they train; returns the launcher and the two."""
    command = [str(Path(sys.executable).parent / "accelerate"), "launch", "--main_process_port", "0"]
    command += ["--config_file", "accelerate_configs/cpu.yaml", "recipes/sft.py"]
    command += sft_args(tiny_folder, output_dir, num_train_epochs=400, save_strategy="no")
    with log.open("wb") as file:
        env = os.environ | {"HF_HUB_OFFLINE": "1"}
        launcher = subprocess.Popen(command, cwd=ROOT, env=env, stdout=file, stderr=subprocess.STDOUT)
    while "'loss'" not in text_of(log):
        assert launcher.poll() is None, text_of(log)[-3000:]
        time.sleep(0.05)
    ranks = sorted(psutil.Process(launcher.pid).children(), key=lambda process: int(process.environ()["RANK"]))
    return launcher, ranks


@pytest.mark.slow
def test_two_processes_stop_at_the_same_step(tiny_folder: Path, tmp_path: Path) -> None:
    """SIGTERM to the second process only, then to the launcher, as a batch system or a container does."""
    log = tmp_path / "log-rank"
    launcher, ranks = launch(tiny_folder, tmp_path / "out", log)
    ranks[1].terminate()
    launcher.wait(timeout=20)
    assert [process.is_running() for process in ranks] == [False, False]
    said = text_of(log)
    assert said.count("stopped by SIGTERM after step ") == 1
    assert "resumes from " in said
    assert ": accelerate launch --main_process_port 0 --config_file accelerate_configs/cpu.yaml recipes/sft.py" in said
    assert said.count("exitcode  : 75") == 2  # the launcher's own status is 1 whatever its processes' are
    (checkpoint,) = find_checkpoints(tmp_path / "out")
    assert damage(checkpoint) is None
    assert {"rng_state_0.pth", "rng_state_1.pth"} <= {path.name for path in checkpoint.iterdir()}

    log = tmp_path / "log-launcher"
    launcher, ranks = launch(tiny_folder, tmp_path / "out", log)
    assert f"resuming from {checkpoint}" in text_of(log)
    launcher.terminate()
    launcher.wait(timeout=20)
    assert [process.is_running() for process in ranks] == [False, False]
    assert text_of(log).count("stopped by SIGTERM after step ") == 1
    later = find_checkpoints(tmp_path / "out")
    assert len(later) == 2
    assert damage(later[0]) is None
    assert not (tmp_path / "out" / "adapter").exists()
