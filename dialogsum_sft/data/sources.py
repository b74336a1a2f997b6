"""Read raw rows from the hub, folders and files, one at a time; a line that cannot be read is a `BadRow`.

`datasets` reads local files too, but stops at the first bad line without its number, reads `N/A` in a CSV as null, and
shifts columns where a comma is not quoted. Memory does not grow with the file, except for a .json array.
"""

import codecs
import csv
import glob
import gzip
import io
import itertools
import json
import re
import sys
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from dialogsum_sft import InputError
from dialogsum_sft.data.counts import EMPTY_ROW

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, IterableDataset, get_dataset_split_names, load_dataset, load_from_disk
from datasets.exceptions import DatasetNotFoundError, DatasetsError

SAMPLE = Path(__file__).parent / "sample"
SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".jsonl.gz", ".json.gz", ".csv.gz", ".tsv.gz")


@dataclass(frozen=True)
class BadRow:
    """The reason why a row cannot be read."""

    reason: str


Row = dict[str, Any] | BadRow
Place = int | str  # number of a row in its file, after the file's name if there are several files
_Bytes = Any  # a binary file; gzip and plain files share no other type
_Content: TypeAlias = Dataset | IterableDataset | list[Path]
# Names of one split, the usual one first.
_SAME_SPLIT = (("train", "training"), ("validation", "valid", "val", "dev", "eval"), ("test", "testing"))
_BOUND = r"-?\d+|-?(?:100|\d?\d)%"
_SLICE = re.compile(rf"(?P<split>[^][+]+)(\[(?P<start>{_BOUND})?:(?P<end>{_BOUND})?\])?")


def suffix_of(path: Path) -> str | None:
    """The supported suffix of a file name, or None."""
    return next((suffix for suffix in reversed(SUFFIXES) if path.name.lower().endswith(suffix)), None)


def open_source(
    name: str, split: str, config: str | None, revision: str | None, streaming: bool
) -> Iterator[tuple[Place, Row]]:
    """Yield (place, row) of a split of `name`, which `examples.load_examples` describes.

    A split may be a slice of rows such as train[:90%], train[100:] or train[:10]+test[-5:], as in
    `datasets.load_dataset`. A single file has its rows under every name. Sliced rows keep their places.

    Raises InputError for a split or file that does not exist (the message lists those that do), and for a malformed
    slice.
    """
    parts = [_SLICE.fullmatch(part.strip()) for part in split.split("+")] if re.search(r"[][+]", split) else []
    if not all(parts):
        raise InputError(f"split {split!r} is no slice: write train[:90%], train[100:] or train[10:20]+test[-5:]")
    try:
        if not parts:
            return _rows(_open_split(name, split, config, revision, streaming))
        slices = []
        for part in filter(None, parts):
            content = _open_split(name, part["split"], config, revision, streaming)
            relative = re.search("[-%]", part[0].removeprefix(part["split"]))
            count = _count(content, name) if relative else sys.maxsize
            slices.append((content, _row_number(part["start"] or "0", count), _row_number(part["end"], count)))
        return itertools.chain.from_iterable(_rows(*place) for place in slices)
    except DatasetNotFoundError as error:
        raise InputError(f"dataset {name!r} is neither a file here nor on the hub: {reason_of(error)}") from error
    except (OSError, ValueError, KeyError, TypeError, DatasetsError) as error:
        # a bad config, no connection, a damaged folder
        raise InputError(f"cannot read dataset {name!r}: {reason_of(error)}") from error


def in_folder(file: str, name: str | None) -> str:
    """The path of a file that may be named without the folder `name` in which it is."""
    beside = Path(name or "").expanduser() / file
    return str(beside) if name and not Path(file).expanduser().exists() and beside.is_file() else file


def serves_both(name: str, split: str, other_name: str, other_split: str) -> bool:
    """Whether two splits share rows because they are the same file, or because one is the other or a slice of it."""
    (path, base, rows), (other_path, other_base, other_rows) = _place(name, split), _place(other_name, other_split)
    return (
        bool(name) and (path, base) == (other_path, other_base) and (rows == other_rows or not rows or not other_rows)
    )


def _place(name: str, split: str) -> tuple[str, str, str]:
    """Path or name, split (none for what has only one) and slice."""
    path = Path(name).expanduser()
    base, rows = re.fullmatch(r"([^][+]*)(.*)", split.strip()).groups()  # type: ignore[union-attr]
    if path.is_file() or (path / "state.json").is_file() or (glob.has_magic(name) and not path.exists()):
        base = ""
    return str(path.resolve()) if path.exists() else name, sorted(_names_of(base))[0], rows


def _open_split(name: str, split: str, config: str | None, revision: str | None, streaming: bool) -> _Content:
    path = SAMPLE if name == "sample" else Path(name).expanduser()
    if path.is_file():
        return [path]
    if path.is_dir():
        if not (path / "dataset_dict.json").is_file() and not (path / "state.json").is_file():
            return _files_of_split(path, name, split)
        saved = load_from_disk(str(path))
        return saved[_existing(split, list(saved), name)] if isinstance(saved, dict) else saved
    if glob.has_magic(name):
        files = [Path(file) for file in sorted(glob.glob(str(path), recursive=True)) if suffix_of(Path(file))]
        if not files:
            raise InputError(f"no data file matches {name}")
        return files
    if suffix_of(path) or name.startswith((".", "/", "~")):
        raise InputError(f"dataset file not found: {name}")
    split = _existing(split, get_dataset_split_names(name, config, revision=revision), name)
    return load_dataset(name, config, split=split, revision=revision, streaming=streaming)


def _names_of(split: str) -> list[str]:
    """The split itself, then other names of it: valid, val, dev and eval for validation."""
    return list(dict.fromkeys([split, *next((names for names in _SAME_SPLIT if split in names), ())]))


def _existing(split: str, splits: list[str], name: str) -> str:
    for existing in _names_of(split):
        if existing in splits:
            return existing
    raise InputError(f"no split {split!r} in {name}: there are {', '.join(splits)}")


def _files_of_split(folder: Path, name: str, split: str) -> list[Path]:
    """The files of a split; train.jsonl, dialogsum.train.jsonl and train-00000-of-00002.parquet belong to train.

    A file named by the split alone wins over a longer name: valid.csv over valid_metadata.csv.
    """
    files = [file for file in sorted(folder.iterdir()) if suffix_of(file)]
    whole, part = r"{}([._-]?\d+([._-]of[._-]\d+)?)?\.(jsonl|json|csv|tsv|parquet)(\.gz)?", r"(.*[._-])?{}[._-].*"
    patterns = [pattern.format(re.escape(same)) for pattern in (whole, part) for same in _names_of(split)]
    matches = ([file for file in files if re.fullmatch(pattern, file.name, re.IGNORECASE)] for pattern in patterns)
    chosen: list[Path] = next(filter(None, matches), [])
    by_name = "name the file by --train_file, --validation_file or --test_file"
    if not chosen:
        names = ", ".join(file.name for file in files)
        raise InputError(
            f"no split {split!r} in {name}: there are {f'{names}; {by_name}' if files else 'no data files'}"
        )
    if len({re.sub(r"\d+", "", file.name) for file in chosen}) > 1:  # not shards of one file
        names = ", ".join(file.name for file in chosen)
        raise InputError(f"which is the split {split!r} in {name}: {names}? N{by_name[1:]}")
    return chosen


def _count(content: _Content, name: str) -> int:
    """The number of rows; files are read for it."""
    if isinstance(content, Dataset):
        return len(content)
    if isinstance(content, IterableDataset):
        count = (content.info.splits or {}).get(str(content.split))
        if count is None or not count.num_examples:
            raise InputError(f"{name} does not say how many rows it has: give a slice without % and negative numbers")
        return int(count.num_examples)
    return sum(1 for _ in _read_all(content))


def _row_number(text: str | None, count: int) -> int:
    """A bound of a slice, 0 to `count`."""
    if text is None:
        return count
    number = round(int(text[:-1]) * count / 100) if text.endswith("%") else int(text)
    return max(number + count, 0) if number < 0 else min(number, count)


def _rows(content: _Content, start: int = 0, end: int = sys.maxsize) -> Iterator[tuple[Place, Row]]:
    if isinstance(content, Dataset):
        return enumerate(content.select(range(start, max(start, min(end, len(content))))), start + 1)
    if isinstance(content, list):
        return itertools.islice(_read_all(content), start, max(start, end))
    return itertools.islice(enumerate(content, 1), start, max(start, end))


def _read_all(files: list[Path]) -> Iterator[tuple[Place, Row]]:
    for file in files:
        for number, row in read_file(file):
            yield number if len(files) == 1 else f"{file.name}:{number}", row


def one_line(value: object) -> str:
    """A value from the data, shortened and without control characters for a message."""
    return "".join(char if char.isprintable() else " " for char in str(value)[:80])


def reason_of(error: BaseException) -> str:
    """First line of the root cause; `datasets` wraps a parser's message in one without a reason."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).strip().split("\n")[0] or type(error).__name__


def read_file(path: Path) -> Iterator[tuple[int, Row]]:
    """Yield (number, row) from 1: the line number of a .jsonl file, the record number of others.

    Raises InputError for a file with another suffix than `SUFFIXES`, for a truncated gz, parquet or JSON array, and
    for text that is not UTF-8.
    """
    suffix = suffix_of(path)
    if suffix is None:
        raise InputError(f"{path}: cannot read such a file, only {', '.join(SUFFIXES)}")
    try:
        if suffix == ".parquet":
            yield from _read_parquet(path)
            return
        with gzip.open(path) if suffix.endswith(".gz") else path.open("rb") as file:
            kind = suffix.removesuffix(".gz")
            if kind == ".jsonl":
                yield from _read_jsonl(file, path)
            elif kind == ".json":
                yield from _read_json(file, path)
            else:
                yield from _read_csv(file, path, "\t" if kind == ".tsv" else ",")
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path} is a damaged gz file (cut short, or not gz at all): {error}") from error
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise InputError(f"{path} is a damaged parquet file, or none at all: {reason_of(error)}") from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or reason_of(error)}") from error


def _refuse_utf16(start: bytes, path: Path) -> None:
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise InputError(f"{path} is UTF-16 text: save it as UTF-8")


def _read_jsonl(file: _Bytes, path: Path) -> Iterator[tuple[int, Row]]:
    # Lines end in \n only; text methods also split at U+2028, which JSON strings may contain.
    for number, line in enumerate(file, 1):
        if number == 1:
            _refuse_utf16(line, path)
            line = line.removeprefix(codecs.BOM_UTF8)
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode("utf-8"))
        except UnicodeDecodeError:
            yield number, BadRow("line is not UTF-8")
        except (ValueError, RecursionError):
            yield number, BadRow("line is not JSON")
        else:
            yield number, row if isinstance(row, dict) else BadRow("line is not a JSON object")


def _read_json(file: _Bytes, path: Path) -> Iterator[tuple[int, Row]]:
    start = file.read()
    _refuse_utf16(start, path)
    try:
        content = json.loads(start.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from error
    except (ValueError, RecursionError) as error:
        if start.removeprefix(codecs.BOM_UTF8).startswith(b"{") and b"\n{" in start:  # JSON lines in a .json file
            yield from _read_jsonl(io.BytesIO(start), path)
            return
        raise InputError(f"{path} is not JSON (cut short?): {error}") from error
    if isinstance(content, dict):  # {"data": [...]}, or a single row
        lists = [
            value for value in content.values() if isinstance(value, list) and value and isinstance(value[0], dict)
        ]
        content = lists[0] if len(lists) == 1 and len(content) == 1 else [content]
    if not isinstance(content, list):
        raise InputError(f"{path} must hold a JSON array of objects, not {type(content).__name__}")
    for number, row in enumerate(content, 1):
        yield number, row if isinstance(row, dict) else BadRow("element is not a JSON object")


def _read_csv(file: _Bytes, path: Path, usual: str) -> Iterator[tuple[int, Row]]:
    """Records as rows, without the empty columns that spreadsheets add after the last one with a name."""
    csv.field_size_limit(sys.maxsize)
    file = io.BufferedReader(file, 2**16)
    _refuse_utf16(file.peek(2), path)
    start = file.peek(2**16).decode("utf-8-sig", errors="replace")
    if named := re.match(r"sep=(.)\r?\n", start):  # Excel's own line before the header
        usual = named[1]
        file.readline()
    else:
        usual = _delimiter(start, usual)
    # Bytes that are not UTF-8 become lone surrogates, which `examples` rejects row by row.
    text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
    reader = csv.reader(text, delimiter=usual, strict=True)
    header: list[str] | None = None
    number = 0
    while True:
        line = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if header is None or reader.line_num > line:  # the number of rows between such quotes is unknown
                raise InputError(f"{path}: line {line} has a quote that is not closed or not doubled") from error
            number += 1
            yield number, BadRow("row has a quote that is not closed or not doubled")
            continue
        if not fields:
            continue
        if header is None:
            header = [name.strip() for name in fields]
            while header and not header[-1]:
                header.pop()
            if len(set(header)) < len(header):
                raise InputError(f"{path} has two columns of the same name: {one_line(', '.join(header))}")
            continue
        number += 1
        while len(fields) > len(header) and not fields[-1].strip():
            fields.pop()
        if not any(fields):
            yield number, BadRow(EMPTY_ROW)
        elif len(fields) != len(header):
            yield number, BadRow("row has another number of fields than the header (a comma without quotes?)")
        else:
            yield number, dict(zip(header, fields, strict=True))


def _delimiter(text: str, usual: str) -> str:
    """The delimiter of the header: of comma, semicolon, tab and bar the most frequent one outside quotes.

    The `usual` one wins a tie, and always where it is a tab.
    """
    header = re.match(r'(?:"[^"]*"|[^"\r\n])*', text.lstrip("\r\n"))
    counts = Counter(re.sub('"[^"]*"', "", header[0] if header else ""))
    if usual == "\t" and counts[usual]:
        return usual
    return max((usual, ",", ";", "\t", "|"), key=lambda char: counts[char])


def _read_parquet(path: Path) -> Iterator[tuple[int, Row]]:
    number = 0
    with pq.ParquetFile(path) as file:
        names = file.schema_arrow.names
        if len(set(names)) < len(names):
            raise InputError(f"{path} has two columns of the same name: {one_line(', '.join(names))}")
        for batch in file.iter_batches(batch_size=1000):
            for row in batch.to_pylist():
                number += 1
                yield number, row
