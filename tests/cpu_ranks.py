"""What a process does so that FSDP and DeepSpeed shard on CPUs, and what a test has it write down or suffer.

accelerate 1.15 turns both off without a GPU, but nothing underneath needs one: gloo connects the processes.
"""

import ctypes
import errno
import importlib
import json
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from dialogsum_sft import checks
from dialogsum_sft.training.stopping import StopCallback
from dialogsum_sft.training.trainer import ResumableSFTTrainer

import torch
from accelerate import PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

PROBE = [[5, 9, 300, 17, 44, 8], [7, 401, 12, 3, 90, 2]]  # token ids of which the trained model's logits are compared


def shard_on_cpu(recipe: ModuleType) -> None:
    """Let this process of a run use the FSDP or DeepSpeed that its environment asks for, without a GPU.

    The recipe's trainer is then the one of a GPU, with TRL's own loss.
    """
    launcher = checks.launched_with()
    if launcher is None:
        return
    refuse = checks._sharded
    checks._sharded = lambda *args: (fault for fault in refuse(*args) if "needs GPUs" not in fault)
    recipe.without_triton = lambda: False
    if launcher == "FSDP":
        _fsdp()
    else:
        # Its all-reduce in shared memory is compiled for a minute at first, and GPUs have none.
        importlib.import_module("deepspeed.comm.torch").build_shm_op = lambda: None
        recipe.started_processes = lambda: int(os.environ["WORLD_SIZE"])  # ours would turn to accelerate's CPU mode
        PartialState._prepare_backend = lambda *_, **__: ("gloo", DistributedType.MULTI_GPU)
        PartialState.set_device = lambda state: setattr(state, "device", torch.device("cpu"))


def _fsdp() -> None:
    original = AcceleratorState.__init__

    def init(self: AcceleratorState, *args: Any, fsdp_plugin: Any = None, **kwargs: Any) -> None:
        original(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
        if fsdp_plugin is not None:
            self.distributed_type = DistributedType.FSDP
            self.fsdp_plugin = fsdp_plugin
            PartialState._shared_state["distributed_type"] = DistributedType.FSDP

    AcceleratorState.__init__ = init


def measure_memory(written: dict[str, Any], recipe: ModuleType) -> None:
    """Have the run write down its resident bytes `before` the model is loaded, and the `peak` of its steps.

    Loading is left out of the peak: there rank 0 holds the whole model, sharded or not.
    """
    # Memory that is freed goes back at once, so that holes in malloc's heap do not count; a GPU has none of them.
    malloc = ctypes.CDLL(None)
    malloc.mallopt(-3, 65536)  # M_MMAP_THRESHOLD

    def load(original: Any, *args: Any, **kwargs: Any) -> Any:
        malloc.malloc_trim(0)
        written["before"] = _status("VmRSS")
        return original(*args, **kwargs)

    def train(original: Any, self: ResumableSFTTrainer, *args: Any, **kwargs: Any) -> Any:
        if "peak" not in written:
            Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        result = original(self, *args, **kwargs)
        written["peak"] = _status("VmHWM")
        return result

    _wrap(recipe, "load_model", load)
    _wrap(ResumableSFTTrainer, "training_step", train)


def _status(name: str) -> int:
    """A line of /proc/self/status, in bytes."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) * 1024


def arrange(
    recipe: ModuleType,
    facts: str | None = None,
    name_rows: bool = False,
    memory: bool = False,
    **faults: dict[str, int],
) -> None:
    """Write down facts of the run, and let something go wrong in it.

    `facts` is the path of a file, to which the rank is appended. It holds the `losses` of the steps, their `rows`
    if `name_rows`, its memory `before` and at its `peak` if `memory`, the `shards` of the parameters, and the trained
    model's `logits` for PROBE. `faults` name a `step` and a `rank`: `at_step` sends itself a `signal` before the
    optimizer's step; `in_save` is killed before the random state, the last of its files, is written; `nan` has a loss
    that is not a number; `full_disk` can write nothing more than the weights.
    """
    mine = {name: fault["step"] for name, fault in faults.items() if fault["rank"] == int(os.environ.get("RANK", "0"))}
    written: dict[str, Any] = {"losses": [], "rows": []}
    if memory:
        measure_memory(written, recipe)

    def before_step(original: Any, self: StopCallback, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not written["losses"]:
            written.update(shards(self.trainer))
        written["losses"].append(self.trainer._tr_loss.item())
        written["rows"].append(self._rows_of_step() if name_rows else [])
        if mine.get("at_step") == state.global_step + 1:
            os.kill(os.getpid(), faults["at_step"]["signal"])
        original(self, args, state, control, **kwargs)

    def loss(original: Any, self: ResumableSFTTrainer, *args: Any, **kwargs: Any) -> Any:
        result = original(self, *args, **kwargs)
        return result * float("nan") if mine.get("nan") == self.state.global_step + 1 else result

    def random_state(original: Any, self: ResumableSFTTrainer, folder: str) -> None:
        if mine.get("in_save") == self.state.global_step:
            os.kill(os.getpid(), signal.SIGKILL)
        original(self, folder)

    def checkpoint(original: Any, self: ResumableSFTTrainer, *args: Any) -> None:
        if mine.get("full_disk") == self.state.global_step:
            torch.save = _no_space
        original(self, *args)

    def final(original: Any, self: ResumableSFTTrainer, folder: Path) -> None:
        with torch.no_grad():
            self.model_wrapped.eval()
            written["logits"] = self.model_wrapped(input_ids=torch.tensor(PROBE), use_cache=False).logits.tolist()
        if facts:
            Path(f"{facts}{os.environ.get('RANK', '0')}").write_text(json.dumps(written))
        original(self, folder)

    _wrap(StopCallback, "on_pre_optimizer_step", before_step)
    _wrap(ResumableSFTTrainer, "training_step", loss)
    _wrap(ResumableSFTTrainer, "_save_rng_state", random_state)
    _wrap(ResumableSFTTrainer, "_save_checkpoint", checkpoint)
    _wrap(ResumableSFTTrainer, "save_verified", final)


def _wrap(owner: Any, name: str, around: Callable[..., Any]) -> None:
    original = getattr(owner, name)
    setattr(owner, name, lambda *args, **kwargs: around(original, *args, **kwargs))


def _no_space(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def shards(trainer: ResumableSFTTrainer) -> dict[str, Any]:
    """What this process holds of each parameter, of each trained one's optimizer state, and how it is sharded."""
    local, full, kinds = {}, {}, {}
    for name, parameter in trainer.model.named_parameters():
        if isinstance(parameter, DTensor):
            kind, held, whole = "DTensor", parameter.to_local().numel(), parameter.numel()
        elif hasattr(parameter, "ds_tensor"):
            kind, held, whole = "ds_tensor", parameter.ds_tensor.numel(), parameter.ds_numel
        else:
            kind, held, whole = "whole", parameter.numel(), parameter.numel()
        local[name], full[name], kinds[kind] = held, whole, kinds.get(kind, 0) + 1
    engine = trainer.model_wrapped
    partitions = getattr(getattr(engine, "optimizer", None), "single_partition_of_fp32_groups", [])
    return {
        "local": local,
        "full": full,
        "kinds": kinds,
        "wrapped_by": "DDP" if isinstance(engine, DistributedDataParallel) else type(engine).__name__,
        "optimizer": sum(partition.numel() for partition in partitions),
    }
