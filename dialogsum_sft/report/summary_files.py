"""Summaries of new dialogues as text, JSON lines, CSV or Markdown."""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dialogsum_sft import InputError

FORMATS = {".txt": "text", ".jsonl": "jsonl", ".csv": "csv", ".md": "markdown"}


def format_of(output_file: Path | None, named: str | None) -> str:
    """The format that is named, or that of the file's name. Raises InputError where the name has none."""
    if named is not None or output_file is None:
        return named or "text"
    if output_file.suffix.lower() not in FORMATS:
        raise InputError(f"--output_file {output_file}: end its name in {', '.join(FORMATS)}, or give --output_format")
    return FORMATS[output_file.suffix.lower()]


def written(kind: str, rows: Sequence[Mapping[str, Any]], records: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Yield a piece of the file for each row {id, columns} and its record {text, ...}, as the records come.

    The summary is in the column `summary`, or `prediction` where the input has a `summary`. Text has the summary as it
    is where there is one dialogue, and a line for each of several.
    """
    columns = list(dict.fromkeys(name for row in rows for name in row["columns"]))
    column = "prediction" if "summary" in columns else "summary"
    header: list[str] = []
    for row, record in zip(rows, records, strict=True):
        text = str(record["text"])
        if kind == "text":
            yield (text if len(rows) == 1 else " ".join(text.split())) + "\n"
        elif kind == "markdown":
            yield (f"## {row['id']}\n\n" if len(rows) > 1 else "") + f"{text}\n" + ("\n" if len(rows) > 1 else "")
        else:
            own = {f"summary_{name}" if name in columns else name: value for name, value in record.items()}
            own.pop("text", None)
            made = {**row["columns"], column: text, **own}
            if kind == "jsonl":
                yield json.dumps(made, ensure_ascii=False, default=str) + "\n"
                continue
            start = not header
            header = header or [*columns, column, *own]
            yield (_csv_line(header) if start else "") + _csv_line([_cell(made.get(name)) for name in header])


def _cell(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, (list, dict)) else value


def _csv_line(cells: Sequence[Any]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(cells)
    return line.getvalue()
