"""A forked recipe holds no lock of its parent, and outlives what the parent left to the garbage collector."""

import fcntl
import gc
import os
import signal
from collections.abc import Callable
from pathlib import Path

from forked_recipe import leave, replace_files_of_the_parent

import torch
from tqdm import tqdm


def status_of(work: Callable[[], None]) -> int:
    pid = os.fork()
    if not pid:
        leave(work)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_shared_memory_of_the_parent_is_collected_in_a_forked_process() -> None:
    """A tensor in shared memory owns a descriptor; torch aborts where it cannot close it."""
    left: list[object] = [torch.ones(4).share_memory_()]
    left.append(left)

    def work() -> None:
        replace_files_of_the_parent()
        left.clear()
        gc.collect()

    assert status_of(work) == 0


def test_a_lock_of_the_parent_is_free_when_the_parent_lets_go(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    held = os.open(path, os.O_CREAT | os.O_RDWR)
    fcntl.flock(held, fcntl.LOCK_EX)
    told, tell = os.pipe()
    wait, end = os.pipe()
    pid = os.fork()
    if not pid:
        number, ready = os.dup(wait), os.dup(tell)

        def work() -> None:
            os.dup2(number, 0)
            os.dup2(ready, 1)
            replace_files_of_the_parent()
            os.write(1, b"x")
            os.read(0, 1)

        leave(work)
    os.read(told, 1)
    os.close(held)
    other = os.open(path, os.O_RDWR)
    fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises where the forked process holds it still
    os.write(end, b"x")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    for descriptor in (other, told, tell, wait, end):
        os.close(descriptor)


def test_a_process_that_is_killed_in_a_progress_bar_locks_no_other() -> None:
    def killed() -> None:
        with tqdm.get_lock():
            os.kill(os.getpid(), signal.SIGKILL)

    tqdm.get_lock()  # makes it, before the processes are forked
    assert status_of(killed) == -signal.SIGKILL
    assert status_of(lambda: list(tqdm([1]))) == 0
