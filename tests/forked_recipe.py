"""Runs a recipe in a process that is forked from this one: it imports nothing, so it starts at once."""

import atexit
import contextlib
import faulthandler
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from conftest import recipe_module
from dialogsum_sft.cli import run

import torch
from tqdm import tqdm


@dataclass
class Forked:
    """`err` is the file with what it writes to standard error."""

    pid: int
    err: Path
    status: int | None = None

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def wait(self) -> int:
        """The exit status; -9: killed."""
        if self.status is None:
            self.status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.status

    def kill(self) -> None:
        if self.status is None:
            self.send(signal.SIGKILL)
            self.wait()

    def lines(self) -> list[str]:
        """Lines of standard error without progress bars."""
        text = self.err.read_text(encoding="utf-8").replace("\r", "\n")
        return [line for line in text.splitlines() if line and "it/s]" not in line and "?it" not in line]


def start(
    folder: Path, name: str, args: Sequence[Any], *, out: int | Path | str | None = None, stdin: int | None = None
) -> Forked:
    """Start recipes/`name`.py, with standard output in `folder`/out or in a file or descriptor `out`."""
    err = folder / "err"
    target = out if isinstance(out, int) else os.open(out or folder / "out", os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    errors = os.open(err, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    source = os.open(os.devnull, os.O_RDONLY) if stdin is None else stdin
    pid = os.fork()
    if pid:
        for descriptor in {target, errors, source}:
            os.close(descriptor)
        return Forked(pid, err)

    def work() -> None:
        for number, descriptor in enumerate((source, target, errors)):
            os.dup2(descriptor, number)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        run_recipe([f"{name}.py", *map(str, args)])

    leave(work)


def replace_files_of_the_parent() -> None:
    """Let go of the parent's locks and sockets in a forked process: /dev/null takes their descriptors.

    None is closed. An object of the parent may close its own later, and torch aborts the process when that fails.
    """
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in map(int, os.listdir("/dev/fd")):
        if descriptor > 2:
            with contextlib.suppress(OSError):  # the descriptor that listed the folder
                os.fstat(descriptor)
                os.dup2(null, descriptor, inheritable=False)


def run_recipe(argv: list[str]) -> None:
    """Run the recipe that `argv` begins with in this forked process, whose descriptors 0 to 2 are its own."""
    replace_files_of_the_parent()
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w", buffering=1)  # noqa: SIM115
    faulthandler.enable()  # pytest's own writes to a descriptor that was replaced
    atexit._clear()  # what was registered before belongs to the tests
    torch.set_num_threads(1)
    sys.argv = argv
    run(recipe_module(Path(argv[0]).stem).main)


def leave(work: Callable[[], None]) -> NoReturn:
    """Do the work of a forked process, and end it with the work's exit status.

    Its progress bars have a lock of their own: tqdm's is shared by all forked processes, and stays locked when one is
    killed that holds it.
    """
    status = 1
    tqdm.set_lock(threading.RLock())
    try:
        work()
        sys.stdout.flush()
        status = 0
    except SystemExit as end:
        status = int(end.code or 0)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        with contextlib.suppress(OSError):  # a closed pipe, of which `status` tells already
            sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
