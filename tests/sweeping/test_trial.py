"""The line that a failed trial is recorded with."""

from pathlib import Path

from dialogsum_sft.sweeping.trial import _error_line

import pytest

CPP = "terminate called after throwing an instance of 'c10::Error'\n  what():  could not close file descriptor 12\n"


@pytest.mark.parametrize(
    ("log", "status", "line"),
    [
        ("error: --lora_r 0: give 1 or more\n", 2, "--lora_r 0: give 1 or more"),
        ("error: first\nloading\nerror: second\nbye\n", 1, "second"),
        ("", 3, "ended with status 3"),
        ("step 3\n", -9, "ended by SIGKILL: see whether memory ran out"),
        (CPP + "frame #0: x\n\n", -6, "ended by SIGABRT: what(): could not close file descriptor 12 (see {log})"),
        ("step 3\n" + "module, " * 99, -11, "ended by SIGSEGV: " + "module, " * 24 + "[...] (see {log})"),
        ("", -15, "ended by SIGTERM: it said nothing (see {log})"),
    ],
)
def test_a_failed_trial_has_one_line(tmp_path: Path, log: str, status: int, line: str) -> None:
    path = tmp_path / "sft.log"
    path.write_text(log, encoding="utf-8")
    assert _error_line(path, status) == line.format(log=path)
