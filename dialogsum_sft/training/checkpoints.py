"""Files that are whole or not there: atomic writes, whole checkpoints and adapters, the record of a run."""

import json
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from dialogsum_sft import InputError

import psutil
import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers.trainer_pt_utils import safe_globals

FORMAT = 1
MARKER = "complete.json"  # written into a checkpoint after all else
_PACKAGES = [
    "trl",
    "transformers",
    "datasets",
    "peft",
    "bitsandbytes",
    "accelerate",
    "evaluate",
    "rouge_score",
    "torch",
    "dialogsum_sft",
]


def write_text(path: Path, text: str) -> None:
    """Write beside, fsync, rename: a reader sees the old file or the whole new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def write_json(path: Path, record: dict[str, Any]) -> None:
    write_text(path, json.dumps(record, indent=2, ensure_ascii=False, default=str) + "\n")


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def replace_folder(partial: Path, final: Path) -> None:
    """Put a finished folder in its place; the one it replaces goes only after."""
    old = final.with_name(f".{final.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if final.exists():
        final.rename(old)
    partial.rename(final)
    shutil.rmtree(old, ignore_errors=True)


def public(value: Any) -> Any:
    """A value of JSON's types as others may see it: of an absolute path its last part, in place of a token its name.

    Relative paths and names stay; so do the texts under `instruction` and `system_prompt`, whatever they begin with.
    """
    if isinstance(value, dict):
        return {key: _public_item(key, item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [public(item) for item in value]
    if isinstance(value, (str, Path)) and (Path(value).is_absolute() or str(value).startswith("~")):
        return Path(value).name
    return value


def _public_item(key: str, item: Any) -> Any:
    if key in ("instruction", "system_prompt"):
        return item
    if item is not None and (key == "token" or key.endswith("_token")) and key not in ("eos_token", "pad_token"):
        return f"<{key.upper()}>"
    return public(item)


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
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


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


def set_aside(checkpoint: Path, word: str) -> Path:
    """Rename checkpoint-30 to `word`-checkpoint-30 (-2, ...), which no rotation deletes; returns the new path."""
    target, n = checkpoint.with_name(f"{word}-{checkpoint.name}"), 1
    while target.exists():
        n += 1
        target = checkpoint.with_name(f"{word}-{checkpoint.name}-{n}")
    checkpoint.rename(target)
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


def size_of(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def expected_size(model: nn.Module) -> int:
    """Bytes of a checkpoint of this model: what is trained, two moments of it, 32 MiB for the tokenizer and so on."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    weights = sum(int(getattr(p, "ds_numel", p.numel())) * p.element_size() for p in trained)
    return 3 * weights + 2**25


def free_space(folder: Path) -> int:
    """Bytes free where `folder` is or will be made."""
    while not folder.exists():
        folder = folder.absolute().parent
    return shutil.disk_usage(folder).free


def versions() -> dict[str, str]:
    """Installed versions of the packages that decide a result."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def hardware() -> dict[str, Any]:
    """What a speed depends on; no name of the machine."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "gpus": gpus,
        "cpu_cores": psutil.cpu_count(logical=False) or os.cpu_count(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
    }


def git_revision() -> str | None:
    """Commit of the checkout this package runs from, with a + when it was changed; None outside a checkout."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout
        changed = subprocess.run([*git, "diff", "--quiet", "HEAD"], capture_output=True).returncode
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.strip() + ("+" if changed else "")
