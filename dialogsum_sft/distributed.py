"""What several processes of one run do together: one decides for all, all agree, all leave."""

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


def run_on_main(function: Callable[[], Result]) -> Result:
    """Call on the main process only; every process gets what it returns, or raises what it raises."""
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
    """Whether `flag` is true on any process; every process waits for all others."""
    state = PartialState()
    return bool(all_reduce_max(torch.tensor([flag], device=state.device).int()).item())


def all_reduce_max(flags: torch.Tensor) -> torch.Tensor:
    """The elementwise maximum over all processes."""
    if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
        torch.distributed.all_reduce(flags, op=torch.distributed.ReduceOp.MAX)
    return flags


def exit_process(status: int) -> None:
    """End the process: with several at once, without the destructors in which one may hang."""
    if PartialState._shared_state and PartialState().num_processes > 1:
        # gloo's waits, holding the interpreter's lock, for a thread that may be waiting for that lock: a finished
        # process would hang there now and then (seen with torch 2.13). All is saved, so leave without it.
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    if status:
        sys.exit(status)
