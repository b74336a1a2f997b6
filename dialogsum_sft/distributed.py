"""Several processes of one run: run on rank 0 and broadcast, reduce over all, exit cleanly."""

import atexit
import os
import sys
from collections.abc import Callable
from typing import Any, TypeVar

from dialogsum_sft import InputError, Stopped

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

Result = TypeVar("Result")


def started_processes() -> int:
    """How many processes the launcher started. Call it first of all: on a CPU it lets accelerate connect them.

    Raises InputError where WORLD_SIZE says that there are several, but no launcher has started this one.
    """
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    missing = [name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR") if name not in os.environ]
    if processes > 1 and missing:
        raise InputError(
            f"WORLD_SIZE is {processes}, but {', '.join(missing)} not set: unset WORLD_SIZE, or start {processes} "
            "processes by accelerate launch"
        )
    if not torch.accelerator.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # accelerate imports DeepSpeed if it can, which warns otherwise
        if processes > 1:
            os.environ["ACCELERATE_USE_CPU"] = "true"  # otherwise each process takes itself for the only one
    return processes


def run_on_main(function: Callable[[], Result]) -> Result:
    """Call `function` on the main process; all processes return its result, or raise its InputError or Stopped."""
    state = PartialState()
    result: list[Any] = [None, None]
    if state.is_main_process:
        try:
            result[0] = function()
        except (InputError, Stopped) as error:
            result[1] = error
    if state.num_processes > 1:
        broadcast_object_list(result)
    if result[1] is not None:
        raise result[1]
    return result[0]


def on_any_process(flag: bool) -> bool:
    """Whether `flag` is true on any process. All processes must call it, and wait for each other."""
    return bool(all_reduce_max(torch.tensor([flag], device=PartialState().device).int()).item())


def all_reduce_max(flags: torch.Tensor) -> torch.Tensor:
    """The elementwise maximum over all processes."""
    if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
        torch.distributed.all_reduce(flags, op=torch.distributed.ReduceOp.MAX)
    return flags


def lost_another(error: BaseException) -> bool:
    """Whether an error only says that another process has ended, which has said why."""
    by_gloo = isinstance(error, RuntimeError) and "gloo" in str(error) and "Connection" in str(error)
    return by_gloo or isinstance(error, torch.distributed.DistError)


def exit_process(status: int) -> None:
    """End the process; one of several without destructors, in which it may hang."""
    if PartialState._shared_state and PartialState().num_processes > 1:
        # gloo's destructor holds the interpreter's lock and waits for a thread that may wait for that lock, so that a
        # finished process hangs now and then (seen with torch 2.13). Everything is saved, so leave without it.
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    if status:
        sys.exit(status)
