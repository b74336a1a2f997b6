"""Signals, what is said of them, and agreement between processes; whole runs are in test_resume.py."""

import os
import signal
import sys
from pathlib import Path

from dialogsum_sft import InputError, Stopped, stopping
from dialogsum_sft.arguments import run
from dialogsum_sft.stopping import StopRequest

import pytest
import torch


@pytest.fixture
def request_(monkeypatch: pytest.MonkeyPatch) -> StopRequest:
    """A request whose second Ctrl-C raises instead of ending this process, on a clock that stands still."""

    def leave(status: int) -> None:
        raise SystemExit(status)

    monkeypatch.setattr(os, "_exit", leave)
    monkeypatch.setattr(stopping.time, "monotonic", lambda: 100.0)
    return StopRequest()


def test_the_first_signal_is_remembered_and_said(request_: StopRequest, capfd: pytest.CaptureFixture[str]) -> None:
    assert request_.signal is None
    request_._receive(signal.SIGTERM, None)
    assert request_.signal is signal.SIGTERM
    assert capfd.readouterr().err == "\nSIGTERM: stopping after this step; Ctrl-C leaves at once\n"


def test_a_second_ctrl_c_leaves_at_once(request_: StopRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    request_._receive(signal.SIGINT, None)
    request_._receive(signal.SIGINT, None)  # the launcher's copy of the same one
    monkeypatch.setattr(stopping.time, "monotonic", lambda: 101.5)
    request_._receive(signal.SIGTERM, None)  # a second SIGTERM changes nothing: it is the launcher's as a rule
    with pytest.raises(SystemExit) as end:
        request_._receive(signal.SIGINT, None)
    assert end.value.code == 130


def test_signals_are_listened_to_and_given_back_by_run() -> None:
    request = StopRequest()
    before = signal.getsignal(signal.SIGTERM)

    def main() -> None:
        request.listen()
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)

    run(main)
    assert request.signal is signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (InputError("no\nsuch file"), 2, "error: no such file"),
        (Stopped("stopped by SIGTERM", 75), 75, "stopped by SIGTERM"),
        (Stopped("the loss is nan"), 1, "error: the loss is nan"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (OSError(28, "No space left on device", "a"), 1, "error: [Errno 28] No space left on device: 'a': make room"),
    ],
)
def test_every_end_has_its_line_and_status(
    capsys: pytest.CaptureFixture[str], error: BaseException, status: int, line: str
) -> None:
    def main() -> None:
        raise error

    with pytest.raises(SystemExit) as end:
        run(main)
    assert end.value.code == status
    said = capsys.readouterr().err
    assert said.startswith(line)
    assert said.count("\n") == 1


def test_other_errors_are_not_hidden() -> None:
    def main() -> None:
        raise FileNotFoundError(2, "No such file")

    with pytest.raises(FileNotFoundError):
        run(main)


def test_the_command_that_goes_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    words = ["recipes/sft.py", "--config", "a b.yaml", "--resume_from_checkpoint", "false", "--seed=3"]
    monkeypatch.setattr(sys, "argv", words)
    assert stopping._command() == "python recipes/sft.py --config 'a b.yaml' --seed=3"
    monkeypatch.setattr(sys, "argv", ["recipes/sft.py", "--resume_from_checkpoint=x", "--seed=3"])
    assert stopping._command() == "python recipes/sft.py --seed=3"
    assert stopping._way_back(tmp_path).startswith("The same command begins at step 0, as no checkpoint was written: ")
    (tmp_path / "checkpoint-3").mkdir()
    (tmp_path / "checkpoint-12").mkdir()
    (tmp_path / "checkpoint-3" / "complete.json").write_text("{}")
    assert stopping._way_back(tmp_path).startswith(f"The same command goes on from {tmp_path}/checkpoint-3: ")


def test_padding_is_not_part_of_a_row() -> None:
    assert stopping._without_padding([1, 0, 2, 0, 0], 0) == (1, 0, 2)
    assert stopping._without_padding([0, 0], 0) == ()


def test_one_process_agrees_with_itself() -> None:
    assert stopping.all_agree(True)
    assert not stopping.all_agree(False)
    assert stopping._maximum(torch.tensor([0, 1])).tolist() == [0, 1]
    assert stopping.together(lambda: 3) == 3
    with pytest.raises(InputError, match="here"):
        stopping.together(fails)


def fails() -> None:
    raise InputError("here")
