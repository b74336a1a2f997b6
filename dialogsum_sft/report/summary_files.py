"""Summaries of new dialogues as text, JSON lines, CSV or Markdown."""

import csv
import io
import json
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dialogsum_sft import InputError

_FORMULA = re.compile(r"[=+@\t\r-]")
_NUMBER = re.compile(r"[-+]?[\d\s().,:/%-]+(e[-+]?\d+)?", re.IGNORECASE)
FORMATS = {".txt": "text", ".jsonl": "jsonl", ".csv": "csv", ".md": "markdown"}


def format_of(output_file: Path | None, named: str | None) -> str:
    """The format that is named, or that of the file's name. Raises InputError where the name has none."""
    if named is not None or output_file is None:
        return named or "text"
    if output_file.suffix.lower() not in FORMATS:
        raise InputError(f"--output_file {output_file}: end its name in {', '.join(FORMATS)}, or give --output_format")
    return FORMATS[output_file.suffix.lower()]


def output_path(name: str) -> Path:
    """The file to write, where a link leads to it. Raises InputError where it cannot be written."""
    path = Path(name).expanduser()
    try:
        path = path.resolve() if path.is_symlink() else path
        if path.is_dir():
            raise InputError(f"--output_file {name} is a folder: name a file in it")
        if not path.parent.exists():
            path.parent.mkdir(parents=True)
        if path.is_file() or not path.exists():  # not /dev/stdout or the like
            with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}."):
                pass
    except OSError as error:
        raise InputError(f"cannot write --output_file {name}: {error.strerror}") from error
    return path


def written(
    kind: str,
    rows: Sequence[Mapping[str, Any]],
    records: Iterable[Mapping[str, Any]],
    *,
    several: bool | None = None,
    header: Sequence[str] = (),
    mark: str = "",
) -> Iterator[str]:
    """Yield a piece of the file for each row {id, columns} and its record {text, ...}, as the records come.

    The summary is in the column `summary`, or `prediction` where the input has a `summary`. Text has the summary as it
    is where there is one dialogue, and a line for each of `several`. `header` is that of a CSV to which lines are
    added; `mark` stands before the header of a new one. Raises InputError for a column that the header lacks.
    """
    columns = list(dict.fromkeys(name for row in rows for name in row["columns"]))
    column = "prediction" if "summary" in columns else "summary"
    several = len(rows) > 1 if several is None else several
    for row, record in zip(rows, records, strict=True):
        text = str(record["text"])
        if kind == "text":
            yield (" ".join(text.split()) if several else text) + "\n"
        elif kind == "markdown":
            yield f"## {row['id']}\n\n{text}\n\n" if several else f"{text}\n"
        else:
            own = {f"summary_{name}" if name in columns else name: value for name, value in record.items()}
            own.pop("text", None)
            made = {**row["columns"], column: text, **own}
            if kind == "jsonl":
                made = {name: value for name, value in made.items() if name != "fault" or value or name in columns}
                yield json.dumps(made, ensure_ascii=False, default=str) + "\n"
                continue
            start = "" if header else mark + _csv_line([*columns, column, *own])
            header = header or [*columns, column, *own]
            if missing := [name for name in made if name not in header]:
                raise InputError(f"the CSV has no column {', '.join(missing)}: give another --output_file, or .jsonl")
            yield start + _csv_line([_cell(made.get(name)) for name in header])


def csv_header(path: Path) -> list[str]:
    """The columns of a CSV that is there; none where it is empty or missing."""
    if not path.is_file():
        return []
    with path.open(encoding="utf-8-sig", newline="") as file:
        return next(csv.reader(file), [])


def _cell(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, (list, dict)) else value


def _csv_line(cells: Sequence[Any]) -> str:
    line = io.StringIO()
    # A cell is quoted where it has a character of the line's end: with \r\n also one with a bare \r.
    csv.writer(line, lineterminator="\r\n").writerow(map(_inert, cells))
    return line.getvalue().removesuffix("\r\n") + "\n"


def _inert(cell: Any) -> Any:
    """A cell that a spreadsheet does not take for a formula: with an apostrophe before = + - @."""
    return f"'{cell}" if isinstance(cell, str) and _FORMULA.match(cell) and not _NUMBER.fullmatch(cell) else cell
