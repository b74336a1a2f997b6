"""Read the rows of a file, one at a time; a line that cannot be read is a `BadRow`.

`datasets` reads local files too, but stops at the first bad line without its number, reads `N/A` in a CSV as null, and
shifts columns where a comma is not quoted. Memory does not grow with the file, except for a .json array.
"""

import codecs
import csv
import gzip
import io
import json
import re
import sys
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dialogsum_sft import InputError
from dialogsum_sft.data.counts import EMPTY_ROW

import pyarrow as pa
import pyarrow.parquet as pq

SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".jsonl.gz", ".json.gz", ".csv.gz", ".tsv.gz", ".txt")


# Where an object holds rows beside other fields.
_ROWS_KEYS = ("data", "rows", "examples", "dialogues", "documents", "document")


@dataclass(frozen=True)
class BadRow:
    """The reason why a row cannot be read, and its value where that is JSON, but no object."""

    reason: str
    value: Any = field(default=None, compare=False)


Row = dict[str, Any] | BadRow
Place = int | str  # number of a row in its file, after the file's name if there are several files
_Bytes = Any  # a binary file; gzip and plain files share no other type


def suffix_of(path: Path) -> str | None:
    """The supported suffix of a file name, or None."""
    return next((suffix for suffix in reversed(SUFFIXES) if path.name.lower().endswith(suffix)), None)


def one_line(value: object) -> str:
    """A value from the data, shortened and without control characters for a message."""
    return "".join(char if char.isprintable() else " " for char in str(value)[:80])


def some(names: Sequence[Any]) -> str:
    """The first three of these, for a message."""
    return ", ".join(map(one_line, names[:3])) + (", ..." if len(names) > 3 else "")


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
        raise InputError(
            f"{path}: cannot read such a file, only {', '.join(SUFFIXES)}; a row has a dialogue and its summary"
        )
    try:
        if suffix == ".parquet":
            yield from _read_parquet(path)
            return
        with gzip.open(path) if suffix.endswith(".gz") else path.open("rb") as file:
            kind = suffix.removesuffix(".gz")
            if kind in (".jsonl", ".txt"):
                _refuse_utf16(file.peek(200), path)
                if kind == ".txt" and not file.peek(3).removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"{"):
                    raise InputError(
                        f"{path} is plain text: a .txt file of a dataset has a JSON object a line; make one with the "
                        "dialogue and the summary of each row"
                    )
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
    """Raise InputError where a file starts with UTF-16: its mark, or where every other byte is mostly zero."""
    line = start[:200].split(b"\n")[0]
    zeros = (line[::2].count(0), line[1::2].count(0))
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or max(zeros) > len(line) / 4:
        raise InputError(f"{path} is UTF-16 text: save it as UTF-8")


def _read_jsonl(file: _Bytes, path: Path) -> Iterator[tuple[int, Row]]:
    # Lines end in \n only; text methods also split at U+2028, which JSON strings may contain.
    for number, line in enumerate(file, 1):
        if number == 1:
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
            yield number, row if isinstance(row, dict) else BadRow("line is not a JSON object", row)


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
    if isinstance(content, dict):
        content = _rows_of_object(content)
    if not isinstance(content, list):
        raise InputError(f"{path} must hold a JSON array of objects, not {type(content).__name__}")
    for number, row in enumerate(content, 1):
        yield number, row if isinstance(row, dict) else BadRow("element is not a JSON object", row)


def _rows_of_object(content: dict[str, Any]) -> list[Any]:
    """The rows of an object: {"data": [...]}, also beside a version or a number; rows by their ids; columns as pandas
    writes them, as lists or by the rows' numbers; a single row.
    """
    lists = [key for key, value in content.items() if isinstance(value, list) and value and isinstance(value[0], dict)]
    if len(lists) == 1 and (len(content) == 1 or lists[0] in _ROWS_KEYS and not any("summ" in key for key in content)):
        rows: list[Any] = content[lists[0]]
        return rows
    values = list(content.values())
    objects = len(values) > 1 and all(isinstance(value, dict) and value for value in values)
    numbered = objects and all(key.isdigit() for value in values for key in value)
    if numbered and all(value.keys() == values[0].keys() for value in values):
        values, objects = [list(value.values()) for value in values], False
    if objects and all(value.keys() & values[0].keys() for value in values):
        return [{"id": key} | value for key, value in content.items()]
    lengths = {len(value) if isinstance(value, list) else 0 for value in values}
    cells = [cell for value in values if isinstance(value, list) for cell in value]
    # A list of objects or of lists is the turns of a single row.
    if len(values) < 2 or len(lengths) > 1 or not cells or any(isinstance(cell, (list, dict)) for cell in cells):
        return [content]
    return [dict(zip(content, row, strict=True)) for row in zip(*values, strict=True)]


def _read_csv(file: _Bytes, path: Path, usual: str) -> Iterator[tuple[int, Row]]:
    """Records as rows, without the empty columns that spreadsheets add after the last one with a name."""
    csv.field_size_limit(sys.maxsize)
    file = io.BufferedReader(file, 2**16)
    _refuse_utf16(file.peek(200), path)
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
