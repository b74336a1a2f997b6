"""Complete checkpoints: mark, verify, find, set aside."""

import fnmatch
import json
import os
import re
import zipfile
from collections.abc import Iterable
from pathlib import Path

from dialogsum_sft import InputError
from dialogsum_sft.files import FORMAT, set_aside, share_files, sync_folder, write_json

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers.trainer_pt_utils import safe_globals

MARKER = "complete.json"  # written into a checkpoint after all else
Shapes = dict[str, tuple[int, ...]]


def weight_shapes(model: nn.Module) -> Shapes | None:
    """Name and shape of every tensor in the saved adapter of this PEFT model; None for a plain model.

    A sharded parameter (ZeRO-3, FSDP2) counts with its full shape.
    """
    if not isinstance(model, PeftModel):
        return None
    full = {
        name: torch.empty(tuple(getattr(parameter, "ds_shape", parameter.shape)), device="meta")
        for name, parameter in model.named_parameters()
    }
    saved = get_peft_model_state_dict(model, state_dict=full, save_embedding_layers=False)
    return {name: tuple(tensor.shape) for name, tensor in saved.items()}


def verify_adapter(folder: Path, shapes: Shapes | None = None) -> None:
    """Raise InputError unless the weights saved in `folder` are readable, finite and complete.

    `shapes` are the `weight_shapes` of the model that was saved. The weights are `adapter_model.safetensors`, or
    `model*.safetensors` with full fine-tuning; they are read one at a time.
    """
    shapes = shapes or {}
    files = sorted(folder.glob("adapter_model*.safetensors")) or sorted(folder.glob("model*.safetensors"))
    if not files:
        raise InputError(f"{folder} holds no weights: adapter_model.safetensors is missing there")
    saved: Shapes = {}
    for path in files:
        try:
            with safe_open(path, framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118 (no mapping)
                    tensor = tensors.get_tensor(name)
                    saved[name] = tuple(tensor.shape)
                    if tensor.is_floating_point() and not tensor.isfinite().all():
                        raise InputError(f"{path}: {name} has values that are not finite")
        except (SafetensorError, OSError) as error:
            raise InputError(f"{path} cannot be read: {error}") from error
    if not saved:
        raise InputError(f"{folder}: the weights file has no weights in it")
    missing = [name for name in shapes if name not in saved]
    if missing:
        raise InputError(f"{folder}: {len(missing)} of {len(shapes)} weights are missing, such as {missing[0]}")
    for name, shape in shapes.items():
        if saved[name] != shape:
            raise InputError(f"{folder}: {name} has the shape {list(saved[name])} where {list(shape)} belongs")


def step_of(checkpoint: Path) -> int:
    """30 of checkpoint-30."""
    return int(checkpoint.name.rpartition("-")[2])


def find_checkpoints(output_dir: Path) -> list[Path]:
    """The folders checkpoint-N, complete or not, newest first."""
    paths = [path for path in output_dir.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    return sorted((path for path in paths if path.is_dir()), key=step_of, reverse=True)


def mark_complete(checkpoint: Path, processes: int, backend: str | None = None) -> None:
    """Flush a checkpoint to the disk, then write the marker: who wrote it, and the sizes of its files.

    Call it on one process when all have written their parts. `backend` is that of `checks.backend_of`.
    """
    share_files(checkpoint)
    sizes = {}
    (checkpoint / MARKER).unlink(missing_ok=True)
    for path in sorted(path for path in checkpoint.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            os.fsync(file.fileno())
        sizes[str(path.relative_to(checkpoint))] = path.stat().st_size
    record = {"format": FORMAT, "step": step_of(checkpoint), "processes": processes, "backend": backend}
    write_json(checkpoint / MARKER, record | {"files": sizes})
    for folder in (checkpoint, checkpoint.parent):  # the names themselves
        sync_folder(folder)


def damage(checkpoint: Path, shapes: Shapes | None = None) -> str | None:
    """Why a run cannot be resumed from a checkpoint; None if every file is there, complete and readable.

    `shapes` are the `weight_shapes` of the model that resumes.
    """
    try:
        marker = json.loads((checkpoint / MARKER).read_text(encoding="utf-8"))
        sizes, processes = dict(marker["files"]), int(marker["processes"])
    except FileNotFoundError:
        return f"it was not written to its end ({MARKER} is missing)"
    except (OSError, ValueError, KeyError, TypeError):
        return f"{MARKER} cannot be read"
    for name, size in sizes.items():
        path = checkpoint / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} bytes of {size}"
    for pattern in _required(marker.get("backend", _backend_of(sizes)), processes):
        names = fnmatch.filter(sizes, pattern)
        if not names:
            return f"{pattern} is missing"
        if not all(_is_readable(checkpoint / name) for name in names):
            return f"{', '.join(names)} cannot be read"
    try:
        step = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))["global_step"]
    except (OSError, ValueError, KeyError, TypeError):
        return "trainer_state.json cannot be read"
    if not step == marker["step"] == step_of(checkpoint):
        return f"trainer_state.json is that of step {step}"
    try:
        verify_adapter(checkpoint, shapes)
    except InputError as error:
        return str(error).removeprefix(f"{checkpoint}/").removeprefix(f"{checkpoint}: ")
    return None


def _backend_of(files: Iterable[str]) -> str | None:
    """The backend that wrote a checkpoint of an earlier version, whose marker does not name it."""
    names = set(files)
    return "FSDP" if "optimizer.bin" in names else "ZeRO" if "latest" in names else None


def _required(backend: str | None, processes: int) -> list[str]:
    """Patterns of the files without which a backend cannot resume, beside the weights and trainer_state.json."""
    ranks = range(processes)
    random_states = ["rng_state.pth"] if processes == 1 else [f"rng_state_{rank}.pth" for rank in ranks]
    if backend is None:
        return ["optimizer.pt", "scheduler.pt", *random_states]
    if backend == "FSDP":  # all ranks read the files that rank 0 wrote
        return ["optimizer.bin", "pytorch_model_fsdp.bin", "scheduler.pt", *random_states]
    shards = [f"global_step*/*zero_pp_rank_{rank}_mp_rank_*_optim_states.pt" for rank in ranks]
    return ["global_step*/*_model_states.pt", *shards, *random_states]


def _is_readable(path: Path) -> bool:
    try:
        if path.parent.name.startswith("global_step"):  # DeepSpeed's pickles hold more than weights
            with zipfile.ZipFile(path) as archive:
                return bool(archive.namelist())
        with safe_globals():
            torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception:  # a damaged pickle can raise anything
        return False
    return True


def newest_complete(output_dir: Path, shapes: Shapes | None = None) -> tuple[Path | None, list[str]]:
    """The newest checkpoint from which a run can be resumed, and notes on newer ones, which are set aside."""
    notes: list[str] = []
    for checkpoint in find_checkpoints(output_dir):
        fault = damage(checkpoint, shapes)
        if fault is None:
            return checkpoint, notes
        notes.append(f"{checkpoint} is damaged and set aside as {set_aside(checkpoint, 'damaged').name}: {fault}")
    return None, notes


def expected_size(model: nn.Module, backend: str | None = None) -> int:
    """Bytes of a checkpoint of this model: trained weights, two moments of each, and 32 MiB for other files.

    FSDP writes the weights twice; DeepSpeed too, and float32 copies of them beside the moments.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    numbers = [int(getattr(p, "ds_numel", p.numel())) for p in trained]
    weights = sum(n * p.element_size() for n, p in zip(numbers, trained, strict=True))
    if backend is None or backend == "FSDP":
        return (3 if backend is None else 4) * weights + 2**25
    return 2 * weights + 12 * sum(numbers) + 2**25
