"""The journal of an evaluation: completions on disk as they are made, so that an interrupted one can be continued."""

import contextlib
import hashlib
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, ClassVar, Self

from dialogsum_sft import InputError
from dialogsum_sft.files import FORMAT
from dialogsum_sft.generation.engine import Completion
from dialogsum_sft.provenance import differences

from filelock import FileLock, Timeout


class Journal:
    """The completions of an unfinished evaluation, in `folder`/predictions.partial.jsonl.

    The first line has a digest of each of the `settings` that decide a prediction, and `options`, of which a note
    names those that differ. Each further line is a completion, with its dialogue's id and the number of the candidate,
    on disk before `append` returns. On opening, `done` holds {index: completion} of an interrupted evaluation with the
    same settings, in `ids` x `candidates` order; an incomplete last line is dropped. Those with a fault that may pass
    are in `again` instead, to be made again. A journal with other settings is set aside. `notes` says both. Of all
    completions with these settings, also of other ids (those of the windows of long dialogues), `kept` is the number
    without such a fault, and `may_pass` whether one has it.

    Each process writes a file of its own and reads those of all: construct it on all processes before entering it on
    any. A subclass with a `kind` of its own, a dataclass with `may_pass`, keeps other results in files of its `name`.
    """

    name: ClassVar[str] = "predictions"
    kind: ClassVar[type[Any]] = Completion

    def __init__(
        self,
        folder: Path,
        settings: dict[str, Any],
        ids: Sequence[str],
        candidates: int = 1,
        *,
        process_index: int = 0,
        num_processes: int = 1,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder = folder
        self.notes: list[str] = []
        self.done: dict[int, Any] = {}
        self.again: list[int] = []
        self._keys = [(name, number) for name in ids for number in range(candidates)]
        self._settings = digests(settings)
        self._options = dict(options or {})
        self._own = self._path(process_index)
        self._length = 0  # bytes of this process's file that are complete
        self._aside: dict[Path, Path] = {}
        index = {key: i for i, key in enumerate(self._keys)}
        known: dict[tuple[str, int], Any] = {}
        for path in sorted(folder.glob(f"{self.name}.partial*.jsonl")):
            header, completions, length = self._read(path)
            ours = path == self._own or (process_index == 0 and path not in map(self._path, range(num_processes)))
            there = header.get("settings", {})
            if there == self._settings:
                known |= dict(completions)
                self._length = length if path == self._own else self._length
            elif ours and completions:
                self._aside[path] = aside = _unused(path)
                why = differences(header["options"], self._options) if "options" in header else []
                changed = sorted(name for name in self._settings if there.get(name) != self._settings[name])
                why = why or [f"other {', '.join(changed)}"]
                self.notes.append(
                    f"{path}: from an evaluation with other settings ({'; '.join(why)}); set aside as {aside.name}"
                )
        self.done = {index[key]: completion for key, completion in known.items() if key in index}
        self.kept = sum(not completion.may_pass for completion in known.values())
        self.may_pass = self.kept < len(known)
        self.again = [i for i, completion in self.done.items() if completion.may_pass]
        for i in self.again:
            del self.done[i]
        if self.again:
            self.notes.append(f"{folder}: {len(self.again)} dialogues that failed are tried again")

    def _path(self, process_index: int) -> Path:
        return self.folder / f"{self.name}.partial{f'.{process_index}' if process_index else ''}.jsonl"

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        for path, aside in self._aside.items():
            path.rename(aside)
        self._file: BinaryIO = self._own.open("r+b" if self._length else "wb")
        self._file.truncate(self._length)
        self._file.seek(self._length)
        if not self._length:
            options = {"options": self._options} if self._options else {}
            self._write([{"format": FORMAT, "settings": self._settings, **options}])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def append(self, batch: Iterable[tuple[int, Any]]) -> None:
        lines = []
        for i, completion in batch:
            lines.append({"id": self._keys[i][0], "candidate": self._keys[i][1], **asdict(completion)})
            if lines[-1].get("fault", "") is None:
                del lines[-1]["fault"]
        self._write(lines)

    def _write(self, lines: list[dict[str, Any]]) -> None:
        self._file.write("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode())
        self._file.flush()
        os.fsync(self._file.fileno())
        self._length = self._file.tell()

    @classmethod
    def remove(cls, folder: Path) -> None:
        """Delete the journals of all processes, when their results are saved; not where faults in them may pass."""
        paths = sorted(folder.glob(f"{cls.name}.partial*.jsonl"))
        last = {key: completion for path in paths for key, completion in cls._read(path)[1]}
        if not any(completion.may_pass for completion in last.values()):
            for path in paths:
                path.unlink(missing_ok=True)

    @classmethod
    def _read(cls, path: Path) -> tuple[dict[str, Any], list[tuple[tuple[str, int], Any]], int]:
        """Header, completions, and the bytes of all complete lines; another format's header is empty."""
        header: dict[str, Any] = {}
        completions = []
        length = 0
        for number, line in enumerate(path.read_bytes().splitlines(keepends=True)):
            try:
                record: dict[str, Any] = json.loads(line) if line.endswith(b"\n") else {}
                if number == 0:
                    header = record if record["format"] == FORMAT else {}
                else:
                    completions.append(((record.pop("id"), record.pop("candidate")), cls.kind(**record)))
            except (ValueError, TypeError, KeyError):  # an incomplete line
                break
            length += len(line)
        return header, completions, length


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a journal alone. Raises InputError where another process has it."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(f"{folder}: another process makes these summaries: wait for its end, or end it") from None
    try:
        yield
    finally:
        lock.release()


def _unused(path: Path) -> Path:
    """A name for a journal that is set aside: NAME.old, or NAME.old2 and so on where others were set aside before."""
    names = (path.with_name(f"{path.name}.old{number if number > 1 else ''}") for number in itertools.count(1))
    return next(name for name in names if not name.exists())


def digests(settings: dict[str, Any]) -> dict[str, str]:
    """A hash of each of the settings that decide a prediction, as 16 hex digits."""
    texts = {name: json.dumps(value, sort_keys=True) for name, value in settings.items()}
    return {name: hashlib.sha256(text.encode()).hexdigest()[:16] for name, text in texts.items()}
