"""Versions of packages, git revision and hardware, as recorded with a result; how records of options differ."""

import hashlib
import json
import os
import platform
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
import torch

try:
    import resource
except ImportError:
    resource = None  # type: ignore[assignment]


def versions() -> dict[str, str]:
    """Installed versions of the packages that affect a result."""
    result = {"python": platform.python_version()}
    libraries = ("trl", "transformers", "datasets", "peft", "bitsandbytes", "accelerate", "evaluate", "rouge_score")
    for package in (*libraries, "torch", "dialogsum_sft"):
        try:
            result[package] = version(package)
        except PackageNotFoundError:
            result[package] = "not installed"
    return result


def hardware() -> dict[str, Any]:
    """The hardware that affects speed, without the name of the machine."""
    return {
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "cpu_cores": psutil.cpu_count(logical=False) or os.cpu_count(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
    }


def peak_memory_gib() -> float | None:
    """The most memory that this process has had: of its GPU where it has used one, else resident; None on Windows."""
    if torch.cuda.is_initialized():
        return round(torch.cuda.max_memory_allocated() / 2**30, 3)
    if resource is None:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**30 if sys.platform == "darwin" else 2**20), 3)


def git_revision() -> str | None:
    """Commit of this package's checkout, with a + for uncommitted changes; None outside a checkout."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout
        changed = subprocess.run([*git, "diff", "--quiet", "HEAD"], capture_output=True).returncode
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.strip() + ("+" if changed else "")


def weights_digest(path: str | None) -> str | None:
    """A hash of the weights in a folder: of an adapter's contents, of a model's file names, sizes and times.

    None where `path` is no folder, such as a hub id.
    """
    if path is None or not Path(path).is_dir():
        return None
    adapter = Path(path) / "adapter_model.safetensors"
    if adapter.is_file():
        with adapter.open("rb") as file:
            weights = hashlib.file_digest(file, "sha256").hexdigest()
        content = weights + (Path(path) / "adapter_config.json").read_text(encoding="utf-8")
    else:
        files = sorted(Path(path).glob("*.safetensors"))
        content = repr([(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files])
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def differences(there: Mapping[str, Any], here: Mapping[str, Any], *, prefix: str = "--") -> list[str]:
    """`--lora_r 16 there, 4 here` for each option whose value in a record is not that of this run."""
    names = [name for name in {**there, **here} if there.get(name) != here.get(name)]
    return [f"{prefix}{name} {_shown(there.get(name))} there, {_shown(here.get(name))} here" for name in names]


def _shown(value: Any) -> str:
    """A value as on the command line, shortened."""
    if value is None:
        return "not given"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return textwrap.shorten(text, 80) if len(text.split()) < 2 else repr(textwrap.shorten(text, 80))
