"""Atomic writes, and removal of paths and tokens from values that are published."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

FORMAT = 1


def own_folder(name: str) -> Path:
    """The folder recipes or accelerate_configs: within the installed package, beside it in a checkout."""
    package = Path(__file__).parent
    return package / name if (package / name).is_dir() else package.parent / name


def write_text(path: Path, text: str) -> None:
    """Write a file atomically: a reader sees the old file or the complete new one."""
    with writing(path) as file:
        file.write(text)


@contextlib.contextmanager
def writing(path: Path, *, newline: str | None = None, errors: str | None = None) -> Iterator[TextIO]:
    """A file that takes its name when all is written, and is `.NAME.partial` before; after an error there is none.

    What is no regular file, such as /dev/stdout or a named pipe, is written to directly.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    direct = path.exists() and not path.is_file()
    partial = path if direct else partial_of(path)
    try:
        with partial.open("w", encoding="utf-8", newline=newline, errors=errors) as file:
            yield file
            file.flush()
            if not direct:
                os.fsync(file.fileno())
    except BaseException:
        if not direct:
            partial.unlink(missing_ok=True)
        raise
    if not direct:
        partial.replace(path)


def partial_of(path: Path) -> Path:
    """The name of a file while it is written."""
    return path.with_name(f".{path.name}.partial")


def set_aside(folder: Path, word: str) -> Path:
    """Rename checkpoint-30 to `word`-checkpoint-30 (-2, ...), which no rotation deletes; returns the new path."""
    target, n = folder.with_name(f"{word}-{folder.name}"), 1
    while target.exists():
        n += 1
        target = folder.with_name(f"{word}-{folder.name}-{n}")
    folder.rename(target)
    return target


def sync_folder(folder: Path) -> None:
    """Write the names of a folder's files to disk. Windows cannot open a folder, and does so itself."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, record: dict[str, Any]) -> None:
    write_text(path, json.dumps(record, indent=2, ensure_ascii=False, default=str) + "\n")


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def share_files(folder: Path) -> None:
    """Give the files of a folder the mode that the folder has by the umask: libraries write weights for their owner
    alone (0600), through temporary files.
    """
    mode = folder.stat().st_mode & 0o666
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.chmod(mode)


def replace_folder(partial: Path, final: Path) -> None:
    """Rename a complete folder to its final name, with files of the usual modes; an older one is deleted then."""
    share_files(partial)
    old = final.with_name(f".{final.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if final.exists():
        final.rename(old)
    partial.rename(final)
    shutil.rmtree(old, ignore_errors=True)


def public(value: Any) -> Any:
    """A JSON value without paths and tokens: the last part of an absolute path, the name of a token's option.

    Relative paths and names are kept, as are the texts of `instruction` and `system_prompt`.
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


def size_of(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def free_space(folder: Path) -> int:
    """Free bytes on the disk of `folder`, which need not exist."""
    while not folder.exists():
        folder = folder.absolute().parent
    return shutil.disk_usage(folder).free
