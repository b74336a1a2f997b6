"""Checkpoints and adapters that are complete: marked, checked, found, set aside."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

from dialogsum_sft import InputError
from dialogsum_sft.files import FORMAT, sync_folder, write_json

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers.trainer_pt_utils import safe_globals

MARKER = "complete.json"  # written into a checkpoint after all else


def weight_shapes(model: nn.Module) -> dict[str, tuple[int, ...]] | None:
    """Name and shape of every tensor that saving this PEFT model must leave in its adapter; None for a plain model.

    A parameter that is sharded (ZeRO-3, FSDP2) counts with its whole shape.
    """
    if not isinstance(model, PeftModel):
        return None
    whole = {
        name: torch.empty(tuple(getattr(parameter, "ds_shape", parameter.shape)), device="meta")
        for name, parameter in model.named_parameters()
    }
    saved = get_peft_model_state_dict(model, state_dict=whole, save_embedding_layers=False)
    return {name: tuple(tensor.shape) for name, tensor in saved.items()}


def verify_adapter(folder: Path, expected: nn.Module | Mapping[str, tuple[int, ...]] | None = None) -> None:
    """Raise InputError unless the weights saved in `folder` can be read, are finite and none of them is missing.

    `expected` is the PEFT model that was saved, or its `weight_shapes`: each must be there in its shape. The weights
    are `adapter_model.safetensors`, or `model*.safetensors` with full fine-tuning; they are read one at a time.
    """
    shapes = weight_shapes(expected) if isinstance(expected, nn.Module) else expected
    files = sorted(folder.glob("adapter_model*.safetensors")) or sorted(folder.glob("model*.safetensors"))
    if not files:
        raise InputError(f"{folder} holds no weights: adapter_model.safetensors is missing there")
    found: dict[str, tuple[int, ...]] = {}
    for path in files:
        try:
            with safe_open(path, framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118 (no mapping)
                    tensor = tensors.get_tensor(name)
                    found[name] = tuple(tensor.shape)
                    if tensor.is_floating_point() and not tensor.isfinite().all():
                        raise InputError(f"{path}: {name} has values that are not finite")
        except (SafetensorError, OSError) as error:
            raise InputError(f"{path} cannot be read: {error}") from error
    if not found:
        raise InputError(f"{folder}: the weights file has no weights in it")
    missing = [name for name in shapes or {} if name not in found]
    if missing:
        raise InputError(f"{folder}: {len(missing)} of {len(shapes or {})} weights are missing, such as {missing[0]}")
    other = [name for name, shape in (shapes or {}).items() if found[name] != shape]
    if other:
        wanted = (shapes or {})[other[0]]
        raise InputError(f"{folder}: {other[0]} has the shape {list(found[other[0]])} where {list(wanted)} belongs")


def step_of(checkpoint: Path) -> int:
    """30 of checkpoint-30."""
    return int(checkpoint.name.rpartition("-")[2])


def find_checkpoints(output_dir: Path) -> list[Path]:
    """The folders checkpoint-N, whole or not, newest first."""
    found = [path for path in output_dir.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    return sorted((path for path in found if path.is_dir()), key=step_of, reverse=True)


def mark_complete(checkpoint: Path, processes: int) -> None:
    """Say that a checkpoint is whole, by a file with the size of all others, once these are on the disk.

    Call it on one process, when every one has written its part.
    """
    sizes = {}
    (checkpoint / MARKER).unlink(missing_ok=True)
    for path in sorted(path for path in checkpoint.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            os.fsync(file.fileno())
        sizes[str(path.relative_to(checkpoint))] = path.stat().st_size
    record = {"format": FORMAT, "step": step_of(checkpoint), "processes": processes, "files": sizes}
    write_json(checkpoint / MARKER, record)
    for folder in (checkpoint, checkpoint.parent):  # the names themselves
        sync_folder(folder)


def damage(checkpoint: Path, shapes: Mapping[str, tuple[int, ...]] | None = None) -> str | None:
    """What keeps a run from being resumed from a checkpoint, or None: every file is there, whole and readable.

    `shapes` are the `weight_shapes` of the model that is to be resumed.
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
    ranks = ["rng_state.pth"] if processes == 1 else [f"rng_state_{rank}.pth" for rank in range(processes)]
    required = ["scheduler.pt", *ranks]
    # FSDP keeps the optimizer in a folder of its own, DeepSpeed with the scheduler in global_step<N>.
    if any(checkpoint.glob("global_step*")):
        required = ranks
    elif not any(path.is_dir() for path in checkpoint.glob("optimizer*")):
        required.append("optimizer.pt")
    for name in required:
        try:
            with safe_globals():
                torch.load(checkpoint / name, map_location="cpu", weights_only=True, mmap=True)
        except FileNotFoundError:
            return f"{name} is missing"
        except Exception:  # what a damaged pickle raises can be anything
            return f"{name} cannot be read"
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


def set_aside(folder: Path, word: str) -> Path:
    """Rename checkpoint-30 to `word`-checkpoint-30 (-2, ...), which no rotation deletes; returns the new path."""
    target, n = folder.with_name(f"{word}-{folder.name}"), 1
    while target.exists():
        n += 1
        target = folder.with_name(f"{word}-{folder.name}-{n}")
    folder.rename(target)
    return target


def newest_whole(
    output_dir: Path, shapes: Mapping[str, tuple[int, ...]] | None = None
) -> tuple[Path | None, list[str]]:
    """The newest checkpoint that a run can be resumed from, and what was said of newer ones: those are set aside."""
    notes: list[str] = []
    for checkpoint in find_checkpoints(output_dir):
        fault = damage(checkpoint, shapes)
        if fault is None:
            return checkpoint, notes
        notes.append(f"{checkpoint} is damaged and set aside as {set_aside(checkpoint, 'damaged').name}: {fault}")
    return None, notes


def expected_size(model: nn.Module) -> int:
    """Bytes of a checkpoint of this model: what is trained, two moments of it, 32 MiB for the tokenizer and so on."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    weights = sum(int(getattr(p, "ds_numel", p.numel())) * p.element_size() for p in trained)
    return 3 * weights + 2**25
