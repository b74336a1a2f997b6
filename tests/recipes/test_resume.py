"""An interrupted run resumes and ends with the same weights as an uninterrupted one."""

import json
from pathlib import Path
from shutil import copytree
from typing import Any

from dialogsum_sft.training import checkpoints
from dialogsum_sft.training.trainer import ResumableSFTTrainer
from sft_runs import DROPOUT, Crash, Sft, WholeRun, assert_same_weights, crash, names, record, weights

import pytest
import torch
from safetensors.torch import load_file


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
    sft: Sft, whole_run: WholeRun, at_step: Any, tiny_folder: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    whole, cut = whole_run(**options), tmp_path / "cut"
    for step in (2, 4, 6):  # in the first epoch, just after its end, and in the last step
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
    sft: Sft,
    whole_run: WholeRun,
    tiny_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    save_strategy: str,
) -> None:
    copytree(whole_run(max_steps=2, save_strategy=save_strategy), tmp_path, dirs_exist_ok=True)
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
    sft: Sft, whole_run: WholeRun, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = whole_run(max_steps=2, eval_strategy="steps", eval_steps=1)
    with monkeypatch.context() as patch:
        patch.setattr(ResumableSFTTrainer, "save_verified", lambda self, folder: crash())
        with pytest.raises(Crash):
            sft(tiny_folder, tmp_path / "cut", max_steps=2, eval_strategy="steps", eval_steps=1)
    assert sft(tiny_folder, tmp_path / "cut", max_steps=2, eval_strategy="steps", eval_steps=1) == 0
    assert_same_weights(tmp_path / "cut", whole)
    ours, theirs = record(tmp_path / "cut"), record(whole)
    assert (ours["resumed_from_step"], theirs["resumed_from_step"]) == (2, None)
    assert ours["metrics"]["eval_loss"] == theirs["metrics"]["eval_loss"]


@pytest.mark.parametrize("save_strategy", ["steps", "no"])
def test_another_run_in_the_folder_is_refused(
    sft: Sft,
    whole_run: WholeRun,
    tiny_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    save_strategy: str,
) -> None:
    copytree(whole_run(max_steps=2, save_strategy=save_strategy), tmp_path, dirs_exist_ok=True)
    before = names(tmp_path)
    other = {"lora_r": 4, "max_train_samples": 11, "force_resume": True, "save_strategy": save_strategy}
    assert sft(tiny_folder, tmp_path, max_steps=2, **other) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    why = "--lora_r 16 there, 4 here; --max_train_samples 12 there, 11 here"
    assert error.startswith(f"error: {tmp_path} holds another run ({why}): give another --output_dir, or --overwrite_")
    assert names(tmp_path) == before


def test_overwriting_sets_the_old_adapter_aside(
    sft: Sft, whole_run: WholeRun, tiny_folder: Path, tmp_path: Path, at_step: Any
) -> None:
    """No adapter stays beside the manifest of another run, even if that run is stopped half-way."""
    copytree(whole_run(max_steps=2, save_strategy="no"), tmp_path, dirs_exist_ok=True)
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


def test_beginning_anew_sets_checkpoints_and_adapter_aside(
    sft: Sft, whole_run: WholeRun, tiny_folder: Path, tmp_path: Path
) -> None:
    copytree(whole_run(max_steps=2, save_strategy="steps"), tmp_path, dirs_exist_ok=True)
    assert sft(tiny_folder, tmp_path, max_steps=1, lora_r=4, overwrite_output_dir=True) == 0
    assert sft(tiny_folder, tmp_path, max_steps=1, lora_r=4, resume_from_checkpoint=False) == 0
    earlier = ["adapter", "adapter-2", "checkpoint-1", "checkpoint-1-2", "checkpoint-2"]
    assert names(tmp_path) == ["adapter", "checkpoint-1", *(f"earlier-{name}" for name in earlier)]
    assert record(tmp_path)["resumed_from_step"] is None


def test_resuming_from_a_named_checkpoint_sets_later_ones_aside(
    sft: Sft, whole_run: WholeRun, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copytree(whole_run(max_steps=3), tmp_path, dirs_exist_ok=True)
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
    sft: Sft, whole_run: WholeRun, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], at_step: Any
) -> None:
    whole = whole_run(max_steps=3)
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
    assert_same_weights(tmp_path / "cut", whole)


def test_rotation_waits_for_a_complete_newer_checkpoint(
    sft: Sft, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = checkpoints.mark_complete

    def mark(folder: Path, *by: Any) -> None:
        if folder.name == "checkpoint-2":
            raise Crash
        original(folder, *by)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "mark_complete", mark)
        with pytest.raises(Crash):
            sft(tiny_folder, tmp_path, max_steps=3, save_total_limit=1)
    assert names(tmp_path) == ["checkpoint-1", "checkpoint-2"]
    assert checkpoints.damage(tmp_path / "checkpoint-1") is None
    assert sft(tiny_folder, tmp_path, max_steps=3, save_total_limit=1) == 0
    assert record(tmp_path)["resumed_from_step"] == 1
    assert names(tmp_path) == ["adapter", "checkpoint-3", "damaged-checkpoint-2"]


def test_damaged_checkpoints_are_kept(
    sft: Sft, whole_run: WholeRun, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copytree(whole_run(max_steps=2, save_strategy="steps"), tmp_path, dirs_exist_ok=True)
    for step in (1, 2):
        (tmp_path / f"checkpoint-{step}" / "complete.json").unlink()
    assert sft(tiny_folder, tmp_path, max_steps=3, force_resume=True) == 0
    assert "beginning at step 0" in capsys.readouterr().out
    earlier = ["damaged-checkpoint-1", "damaged-checkpoint-2", "earlier-adapter"]
    assert names(tmp_path) == ["adapter", "checkpoint-1", "checkpoint-2", "checkpoint-3", *earlier]


def test_no_token_and_no_pickle_is_written(
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


def test_other_values_are_not_put_on_the_weights_of_a_finished_run(
    sft: Sft, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sft(tiny_folder, tmp_path, max_steps=1) == 0
    before = (tmp_path / "adapter" / "run.json").read_bytes()
    for options in ({}, {"force_resume": True}):
        assert sft(tiny_folder, tmp_path, max_steps=1, weight_decay=0.1, **options) == 2
        error = capsys.readouterr().err
        assert "weight_decay 0.0 -> 0.1" in error
        assert "--overwrite_output_dir true" in error
        assert "--force_resume" not in error
    assert (tmp_path / "adapter" / "run.json").read_bytes() == before
