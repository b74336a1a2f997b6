"""What a result depends on: versions of packages, git revision, hardware."""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
import torch

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
