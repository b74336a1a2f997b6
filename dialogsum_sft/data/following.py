"""A folder that is followed: which of its files are complete and new, and which are done, also after a restart."""

import json
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dialogsum_sft import InputError, files
from dialogsum_sft.data.inputs import is_hidden, is_same

# Names of files that are being written, downloaded or edited.
_PARTIAL = re.compile(r"[~#]|.*(~|\.(part|partial|tmp|temp|download|crdownload|filepart)(\..*)?)$", re.IGNORECASE)
_SUMMARY = re.compile(r".*\.summary\.(txt|jsonl|csv|md)$", re.IGNORECASE)


@dataclass(frozen=True)
class Version:
    """A file as it is at one time: `size` in bytes, `modified` in nanoseconds."""

    size: int
    modified: int


def version_of(path: Path) -> Version | None:
    """The version of a file that is there now; None for one that is gone."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return Version(stat.st_size, stat.st_mtime_ns)


def summary_path(path: Path, suffix: str) -> Path:
    """The file for the summary of a file, beside it, with a suffix such as .txt; it is no input."""
    return path.with_name(f"{path.name}.summary{suffix}")


class Done:
    """The files of `folder` that are done, with their versions, in the JSON lines file `path`.

    With an `output_file` that grows, a line also has the bytes of it that the file's summaries are: it is written
    before them. Where they are not whole when it is read again, they are cut off and the file is not done.
    """

    def __init__(self, path: Path, folder: Path, output_file: Path | None) -> None:
        self.path, self.folder, self.output_file = path, folder, output_file
        self._versions: dict[str, Version] = {}
        lines = _whole_lines(path)
        size = _size(output_file)
        if output_file and lines and lines[-1]["start"] <= size < lines[-1]["end"]:
            start = lines.pop()["start"]
            if size > start:
                os.truncate(output_file, start)
        for line in lines:
            self._versions[line["file"]] = Version(line["size"], line["modified"])
        if path.exists():
            files.write_jsonl(path, lines)

    def has(self, path: Path, version: Version) -> bool:
        return self._versions.get(self._name(path)) == version

    def add(self, path: Path, version: Version, text: str) -> None:
        """Append `text` to the output file, or say that it is written elsewhere, and that the file is done."""
        data = text.encode("utf-8", errors="backslashreplace")
        start = _size(self.output_file)
        line = {"file": self._name(path), "size": version.size, "modified": version.modified}
        _append(self.path, json.dumps(line | {"start": start, "end": start + len(data)}).encode() + b"\n")
        if self.output_file:
            _append(self.output_file, data)
        self._versions[self._name(path)] = version

    def _name(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()


class Watch:
    """Finds files in `folder` and the folders in it that have not changed for `settle_seconds`, by the clock of this
    process. Hidden files, names of partial downloads and of editors, summaries and empty files are left out. `unused`
    are the files that were found, but not summarised as they are.
    """

    def __init__(self, folder: Path, settle_seconds: float, done: Done) -> None:
        self.folder, self.settle_seconds, self.done = folder, settle_seconds, done
        self._since: dict[Path, tuple[Version, float]] = {}
        self._left: dict[Path, Version] = {}
        self.unused: set[Path] = set()

    def settled(self) -> list[tuple[Path, Version]]:
        """The files to look at now, the oldest first."""
        if not self.folder.is_dir():
            raise InputError(f"--follow {self.folder}: there is no such folder")
        now, found = time.monotonic(), {}
        for path in self.folder.rglob("*"):
            if is_hidden(path.relative_to(self.folder)) or not _is_complete_name(path.name) or path.is_dir():
                continue
            if is_same(path, self.done.output_file):
                continue
            version = version_of(path)
            if version is None or not version.size or self.done.has(path, version) or self._left.get(path) == version:
                continue
            before, since = self._since.get(path, (None, now))
            found[path] = (version, since if before == version else now)
        self._since = found
        ready = [(path, version) for path, (version, since) in found.items() if now - since >= self.settle_seconds]
        return sorted(ready, key=lambda one: (one[1].modified, one[0]))

    def leave(self, path: Path, version: Version) -> None:
        """Do not give this version of a file, which is not used, again."""
        self._left[path] = version
        self.unused.add(path)


def _is_complete_name(name: str) -> bool:
    return not _PARTIAL.match(name) and not _SUMMARY.match(name)


def _whole_lines(path: Path) -> list[dict[str, Any]]:
    lines = []
    for line in path.read_bytes().splitlines(keepends=True) if path.exists() else []:
        if not line.endswith(b"\n"):  # a crash has cut it
            break
        lines.append(json.loads(line))
    return lines


def _size(path: Path | None) -> int:
    return path.stat().st_size if path is not None and path.is_file() else 0


def _append(path: Path, data: bytes) -> None:
    """Append to a file; the bytes are on disk when this returns."""
    with path.open("ab") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
