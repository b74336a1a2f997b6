"""A signal stops a run after its step with a checkpoint, on one process and on two."""

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from dialogsum_sft.training.checkpoints import damage, find_checkpoints
from dialogsum_sft.training.stopping import StopCallback
from sft_runs import (
    DROPOUT,
    Sft,
    WholeRun,
    assert_same_weights,
    names,
    record,
    send,
    sft_args,
    start_training,
    text_of,
)

import psutil
import pytest


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("save_strategy", ["no", "epoch"])
def test_a_signal_saves_a_checkpoint_and_exits_with_75(
    sft: Sft,
    whole_run: WholeRun,
    tiny_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    at_step: Any,
    number: signal.Signals,
    save_strategy: str,
) -> None:
    options = DROPOUT | {"eval_strategy": "epoch", "max_steps": 4}
    whole = whole_run(**options)
    options["save_strategy"] = save_strategy
    before = signal.getsignal(signal.SIGINT)  # a shell starts its background commands with it ignored
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
    assert_same_weights(tmp_path / "cut", whole)


@pytest.mark.parametrize("save_strategy", ["no", "steps"])
def test_a_signal_ends_an_evaluation(
    sft: Sft,
    whole_run: WholeRun,
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    save_strategy: str,
) -> None:
    options = DROPOUT | {"eval_strategy": "steps", "eval_steps": 2, "max_steps": 4, "per_device_eval_batch_size": 1}
    whole = whole_run(**options)
    options["save_strategy"] = save_strategy
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
    assert_same_weights(tmp_path / "cut", whole)


def test_a_signal_in_the_last_step_leaves_no_adapter(
    sft: Sft, tiny_folder: Path, tmp_path: Path, at_step: Any
) -> None:
    at_step(2, send(signal.SIGTERM))
    assert sft(tiny_folder, tmp_path, max_steps=2) == 75
    assert names(tmp_path) == ["checkpoint-1", "checkpoint-2"]
    assert sft(tiny_folder, tmp_path, max_steps=2) == 0
    assert "adapter" in names(tmp_path)


def launch(tiny_folder: Path, output_dir: Path, log: Path) -> tuple[subprocess.Popen[bytes], list[psutil.Process]]:
    """Start two processes by accelerate's launcher and wait until they train; returns the launcher and the two."""
    command = [str(Path(sys.executable).parent / "accelerate"), "launch", "--main_process_port", "0"]
    command += ["--config_file", "accelerate_configs/cpu.yaml", "recipes/sft.py"]
    command += sft_args(tiny_folder, output_dir, num_train_epochs=400, save_strategy="no")
    launcher = start_training(command, log)
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
    assert said.count("exitcode  : 75") == 2  # the launcher exits with 1 for any status of its processes
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
