"""A loss or gradient that is not finite and a full disk end a run in one line and keep its last checkpoint."""

import resource
from pathlib import Path
from typing import Any

from dialogsum_sft.training import stopping
from dialogsum_sft.training import trainer as resumable
from dialogsum_sft.training.collator import CompletionOnlyCollator
from dialogsum_sft.training.stopping import StopCallback
from sft_runs import Sft, WholeRun, assert_same_weights, names, record

import pytest


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
    whole_run: WholeRun,
    tiny_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    at_step: Any,
    limit: int,
) -> None:
    """The limit cuts off the adapter (69 kB) or the optimizer's state (155 kB), as a full disk does."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    whole = whole_run(max_steps=3, dtype="float32")
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
    assert_same_weights(tmp_path / "cut", whole)


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
