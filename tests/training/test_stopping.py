"""Signals, exit statuses and their messages; whole runs are in test_signals.py."""

import os
import signal

from dialogsum_sft import InputError, Stopped
from dialogsum_sft.cli import run
from dialogsum_sft.training import stopping
from dialogsum_sft.training.stopping import StopRequest

import numpy as np
import pytest


@pytest.fixture
def request_(monkeypatch: pytest.MonkeyPatch) -> StopRequest:
    """A request whose second Ctrl-C raises instead of ending this process, with a constant clock."""

    def leave(status: int) -> None:
        raise SystemExit(status)

    monkeypatch.setattr(os, "_exit", leave)
    monkeypatch.setattr(stopping.time, "monotonic", lambda: 100.0)
    return StopRequest()


def test_the_first_signal_is_kept_and_announced(request_: StopRequest, capfd: pytest.CaptureFixture[str]) -> None:
    assert request_.signal is None
    request_._receive(signal.SIGTERM, None)
    assert request_.signal is signal.SIGTERM
    assert capfd.readouterr().err == "\nSIGTERM: stopping after this step; Ctrl-C exits at once\n"


def test_a_second_ctrl_c_exits_at_once(request_: StopRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    request_._receive(signal.SIGINT, None)
    request_._receive(signal.SIGINT, None)  # the launcher forwards the same signal
    monkeypatch.setattr(stopping.time, "monotonic", lambda: 101.5)
    request_._receive(signal.SIGTERM, None)  # the launcher forwards SIGTERM too, so it never exits at once
    with pytest.raises(SystemExit) as end:
        request_._receive(signal.SIGINT, None)
    assert end.value.code == 130


def test_run_restores_the_signal_handlers() -> None:
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
        (InputError("no\nsuch file"), 2, "error: no such file\n"),
        (InputError("no file", "no\ncolumn"), 2, "error: no file\nerror: no column\n"),
        (Stopped("stopped by SIGTERM", 75), 75, "stopped by SIGTERM"),
        (Stopped("the loss is nan"), 1, "error: the loss is nan"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (OSError(28, "No space left on device", "a"), 1, "error: [Errno 28] No space left on device: 'a': make room"),
    ],
)
def test_error_line_and_exit_status(
    capsys: pytest.CaptureFixture[str], error: BaseException, status: int, line: str
) -> None:
    def main() -> None:
        raise error

    with pytest.raises(SystemExit) as end:
        run(main)
    assert end.value.code == status
    said = capsys.readouterr().err
    assert said.startswith(line)
    assert said.count("\n") == max(1, line.count("\n"))


def test_other_errors_are_raised() -> None:
    def main() -> None:
        raise FileNotFoundError(2, "No such file")

    with pytest.raises(FileNotFoundError):
        run(main)


def test_a_row_is_matched_at_the_start_of_an_id() -> None:
    batch = np.array([0, 7, 1, 2, 3, 0, 0]).tobytes()
    assert stopping._contains_ids(batch, np.array([1, 2, 3]).tobytes())
    assert not stopping._contains_ids(batch, np.array([1, 3]).tobytes())
    assert not stopping._contains_ids(np.array([256 * 5, 0]).tobytes(), np.array([5]).tobytes())  # a byte further on
