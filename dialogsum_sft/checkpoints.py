"""Files that are whole or not there: atomic writes, the finished folder, the record of a run."""

import json
import os
import platform
import shutil
import subprocess
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
import torch

FORMAT = 1
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
