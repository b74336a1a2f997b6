"""Completions on their way to predictions.jsonl: kept as they are made, shared by processes."""

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from dialogsum_sft.files import FORMAT
from dialogsum_sft.generation.transformers_engine import Completion


class PartialPredictions:
    """The completions of an unfinished evaluation, in `folder`/predictions.partial.jsonl.

    Its first line has a digest of each of the `settings` that decide a prediction; each further line is a completion
    under its dialogue's id and the number of the candidate, on disk before `append` returns. On opening, `done` holds
    {index: completion} of what an interrupted evaluation with the same settings left, in `ids` x `candidates` order; a
    line that was cut off while written is dropped. What another evaluation left is set aside, and `notes` says so.

    Each process writes a file of its own and reads those of all: open it in all of them before entering any.
    """

    def __init__(
        self,
        folder: Path,
        settings: dict[str, Any],
        ids: Sequence[str],
        candidates: int = 1,
        *,
        process_index: int = 0,
        num_processes: int = 1,
    ) -> None:
        self.folder = folder
        self.notes: list[str] = []
        self.done: dict[int, Completion] = {}
        self._keys = [(name, number) for name in ids for number in range(candidates)]
        self._settings = {name: _digest(json.dumps(value, sort_keys=True)) for name, value in settings.items()}
        self._own = self._path(process_index)
        self._length = 0  # bytes of our own file that are good
        self._aside: list[Path] = []
        index = {key: i for i, key in enumerate(self._keys)}
        for path in sorted(folder.glob("predictions.partial*.jsonl")):
            header, completions, length = _read(path)
            ours = path == self._own or (process_index == 0 and path not in map(self._path, range(num_processes)))
            if header == self._settings:
                self.done |= {index[key]: completion for key, completion in completions if key in index}
                self._length = length if path == self._own else self._length
            elif ours and completions:
                self._aside.append(path)
                changed = sorted(name for name in self._settings if header.get(name) != self._settings[name])
                self.notes.append(
                    f"{path}: left by an evaluation with another {', '.join(changed)}; set aside as {path.name}.old"
                )

    def _path(self, process_index: int) -> Path:
        return self.folder / f"predictions.partial{f'.{process_index}' if process_index else ''}.jsonl"

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        for path in self._aside:
            path.rename(path.with_name(f"{path.name}.old"))
        self._file: BinaryIO = self._own.open("r+b" if self._length else "wb")
        self._file.truncate(self._length)
        self._file.seek(self._length)
        if not self._length:
            self._write([{"format": FORMAT, "settings": self._settings}])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def append(self, batch: Iterable[tuple[int, Completion]]) -> None:
        self._write(
            [{"id": self._keys[i][0], "candidate": self._keys[i][1], **asdict(completion)} for i, completion in batch]
        )

    def _write(self, lines: list[dict[str, Any]]) -> None:
        self._file.write("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode())
        self._file.flush()
        os.fsync(self._file.fileno())

    def remove(self) -> None:
        """To be called when predictions.jsonl is whole."""
        for path in self.folder.glob("predictions.partial*.jsonl"):
            path.unlink(missing_ok=True)


def _read(path: Path) -> tuple[dict[str, str], list[tuple[tuple[str, int], Completion]], int]:
    """Settings, completions and the length in bytes of all that is whole; another format has no settings."""
    header: dict[str, str] = {}
    completions = []
    length = 0
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True)):
        try:
            record: dict[str, Any] = json.loads(line) if line.endswith(b"\n") else {}
            if number == 0:
                header = record["settings"] if record["format"] == FORMAT else {}
            else:
                completions.append(((record.pop("id"), record.pop("candidate")), Completion(**record)))
        except (ValueError, TypeError, KeyError):  # cut off while it was written
            break
        length += len(line)
    return header, completions, length


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def weights_digest(path: str | None) -> str | None:
    """What tells the weights in a folder from others: the contents of an adapter; of a model names, sizes and times.

    None where `path` is no folder, such as a hub id, which its revision tells from others.
    """
    if path is None or not Path(path).is_dir():
        return None
    adapter = Path(path) / "adapter_model.safetensors"
    if adapter.is_file():
        with adapter.open("rb") as file:
            weights = hashlib.file_digest(file, "sha256").hexdigest()
        return _digest(weights + (Path(path) / "adapter_config.json").read_text(encoding="utf-8"))
    stats = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in Path(path).glob("*.safetensors")]
    return _digest(repr(sorted(stats)))


def share(todo: Iterable[int], lengths: Sequence[int], process_index: int, num_processes: int) -> list[int]:
    """The part of `todo` that a process takes: of like work (`lengths` in tokens) and disjoint from the others'."""
    return sorted(todo, key=lambda i: (-lengths[i], i))[process_index::num_processes]
