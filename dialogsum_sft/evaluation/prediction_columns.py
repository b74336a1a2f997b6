"""Predictions from files of any program, with the fields of predictions.jsonl.

Known by name or shape: our own predictions.jsonl, LLaMA-Factory's and ChatGLM's generated_predictions.jsonl, lm-eval's
samples_*.jsonl, the OpenAI batch API, dumps of vLLM, tables of pandas, JSON objects of ids and texts, lines of text.
"""

import ast
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dialogsum_sft import InputError
from dialogsum_sft.data.counts import EMPTY_ROW
from dialogsum_sft.data.row_files import BadRow, one_line, suffix_of
from dialogsum_sft.evaluation.prediction_files import INDEX, PREDICTIONS, Numbered, Row, plain, text_or_rows

# Columns that hold predictions in some files, and other things in others.
_UNSURE = ("output", "outputs", "summary", "text", "answer", "content", "result")
# Where servers, vLLM and pipelines put the text.
_PATHS = (
    *("response.body.choices.0.message.content", "response.choices.0.message.content", "choices.0.message.content"),
    *("response.body.output.0.content.0.text", "result.message.content.0.text", "message.content", "outputs.0.text"),
    *("response.body.choices.0.text", "choices.0.text", "candidates.0.content.parts.0.text"),
    *("response.candidates.0.content.parts.0.text", "response.output.0.content.0.text"),
)
_IDS = (
    *("custom_id", "id", "fname", "dialogue_id", "conversation_id", "example_id", "sample_id", "key"),
    *("doc.id", "doc.fname"),
)
_POSITIONS = (INDEX, "unnamed:_0", "doc_id", "index", "idx", "__index_level_0__")
_LABELS = ("label", "labels", "target", "targets", "reference", "references", "gold", "ground_truth", "expected")
_DIALOGUES = ("dialogue", "dialog", "conversation", "transcript", "chat")
_TEXTS = ("text", "content", "generated_text", "summary_text", "output_text")
_COUNTS = ("prompt_tokens", "completion_tokens", "dropped_turns", "cut_turns", "dropped_tokens")
_LISTS = ("candidates", "predictions_by_reference", "raw_predictions_by_reference")
_SURROGATES = re.compile("[\ud800-\udfff]")


@dataclass
class Predictions:
    """Rows of a file: `prediction`, `place` (such as "line 3"), and where the file has them `id`, `label` (texts that
    the file has as references) and the fields of predictions.jsonl. `notes` say what was chosen.
    """

    path: Path
    rows: list[Row]
    column: str
    is_text: bool = False
    label: str | None = None  # the column with the file's own references
    notes: list[str] = field(default_factory=list)


def read_predictions(path: Path, column: str | None = None, id_column: str | None = None) -> Predictions:
    """The predictions of a file. An empty line of a text file is an empty summary.

    The columns of predictions and ids are found by name, or named by `column` and `id_column` (nested ones with dots).
    Raises InputError with the file and its first wrong rows, or with its columns where none is known.
    """
    named, is_text = text_or_rows(path)
    named = _without_empty(named)
    good = [row for _, row in named if not isinstance(row, BadRow)]
    if good or not named:
        column = _prediction_column(good, path, column)
    reader = _Reader(
        str(column),
        _first(good, [*([id_column] if id_column else []), *_IDS]),
        _first(good, _LABELS),
        is_table=(suffix_of(path) or "").startswith((".csv", ".tsv")),
    )
    rows, faults = [], []
    for place, row in named:
        try:
            if isinstance(row, BadRow):
                raise ValueError(row.reason)
            rows.append(reader.read(row) | {"place": place})
        except ValueError as error:
            faults.append(f"{place}: {error}")
    if faults:
        more = f"; and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise InputError(f"{path}: {'; '.join(faults[:5])}{more}")
    notes = []
    if rows and column != "prediction":
        notes.append(f"{path.name}: predictions are taken from {one_line(column)}")
    if reader.surrogates:
        notes.append(f"{path.name}: {reader.surrogates} lone surrogates (half a character) are read as U+FFFD")
    predictions = Predictions(path, rows, str(column), is_text, reader.label, notes)
    if rows and not any("id" in row for row in rows):
        _order_by_index(predictions, good)
    return predictions


def _without_empty(named: Numbered) -> Numbered:
    """An empty row of a table with one column is an empty summary; those at the end of other tables are left out."""
    names = {name for _, row in named if isinstance(row, dict) for name in row}
    if len(names) == 1:
        empty: Row = dict.fromkeys(names, "")
        return [(at, empty if isinstance(row, BadRow) and row.reason == EMPTY_ROW else row) for at, row in named]
    while named and isinstance(last := named[-1][1], BadRow) and last.reason == EMPTY_ROW:
        named = named[:-1]
    return named


def _prediction_column(rows: Sequence[Row], path: Path, column: str | None) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))
    listed = f"there are {', '.join(one_line(name) or '(no name)' for name in names[:20])}"
    if column is not None:
        if rows and not any(_has(row, column) for row in rows):
            raise InputError(f"{path} has no column {column} (--prediction_column): {listed}")
        return column
    found = [name for name in names if plain(name) in PREDICTIONS]
    if "prediction" in found or not names:
        return "prediction"
    if nested := next((path for path in _PATHS if any(_has(row, path) for row in rows)), None):
        return nested
    if len(found) == 2 and "filtered_resps" in found:  # of lm-eval: what its filter took from resps
        return "filtered_resps"
    found = found or [name for name in names if plain(name) in _UNSURE]
    known = (*_IDS, *_POSITIONS, *_LABELS, *_COUNTS, "topic", "doc_hash")
    others = [name for name in names if plain(name) not in known]
    if not found and len(others) == 1 and re.fullmatch(r"[\w.-]{1,60}", others[0]):
        found = others
    if found == ["summary"] and any(plain(name) in _DIALOGUES for name in names):
        found = []  # a dataset, whose summary is a reference
    if len(found) != 1:
        which = (
            f"several columns that may be the predictions ({', '.join(found)})" if found else "no column prediction"
        )
        raise InputError(f"{path} has {which}: {listed}; name yours by --prediction_column")
    return found[0]


def _first(rows: Sequence[Row], names: Sequence[str]) -> str | None:
    """The first of the names that a row has, as the row writes it; nested ones with dots."""
    written = {plain(name): name for row in rows for name in row}
    for name in names:
        if name in written:
            return written[name]
        if any(_has(row, name) for row in rows):
            return name
    return None


def _has(row: Row, path: str) -> bool:
    return _at(row, path) is not _MISSING


_MISSING = object()


def _at(row: Row, path: str) -> Any:
    """The value of a column, or of a nested field such as `choices.0.text`; _MISSING if there is none."""
    if path in row:
        return row[path]
    value: Any = row
    for part in path.split("."):
        if isinstance(value, Mapping) and part in value:
            value = value[part]
        elif isinstance(value, list) and re.fullmatch(r"\d{1,9}", part) and int(part) < len(value):
            value = value[int(part)]
        else:
            return _MISSING
    return value


@dataclass
class _Reader:
    """Normalises the fields of rows; `surrogates` counts the lone ones that were replaced."""

    column: str
    id: str | None
    label: str | None
    is_table: bool
    surrogates: int = 0

    def read(self, row: Row) -> Row:
        """Raises ValueError with the field that has a wrong value."""
        value = _at(row, self.column)
        if (error := _refusal(row)) is not None and not isinstance(value, str):
            raise ValueError(f"no answer: {error}")
        if value is _MISSING:
            raise ValueError(f"{one_line(self.column)} is missing")
        read: Row = {"prediction": self._text(self._unwrapped(value), self.column)}
        if self.id is not None and (identity := self._identity(_at(row, self.id))) is not None:
            read["id"] = identity
        if self.label is not None and (label := _at(row, self.label)) is not _MISSING:
            read["label"] = [self._clean(text) for text in _listed(label) if isinstance(text, str)]
        for name in ("dialogue", "raw_prediction"):
            if isinstance(row.get(name), str):
                read[name] = self._text(row[name], name)
        for name in ("topic", "finish_reason", "fault"):
            found = row.get(name, _beside(row, self.column) if name == "finish_reason" else None)
            if found is not None and found != "":
                read[name] = self._identity(found, name)
        for name in _COUNTS:
            if (number := _count(row.get(name), name)) is not None:
                read[name] = number
        for name in _LISTS:
            if name != self.column and isinstance(texts := row.get(name), list) and texts:
                if not all(isinstance(text, str) for text in texts):
                    raise ValueError(f"{name} is not a list of texts")
                read[name] = [self._clean(text) for text in texts]
        if "references" in row:
            read["references"] = [
                self._clean(text) if isinstance(text, str) else text for text in _listed(row["references"])
            ]
        if row.get("turns"):
            read["turns"] = row["turns"]
        return read

    def _unwrapped(self, value: Any) -> Any:
        """The text in lists of one element, in lists of equal texts and in objects such as {"text": ...}."""
        for _ in range(5):
            if self.is_table and isinstance(value, str) and value[:2] in ("['", '["', "[["):
                value = _listed(value)
            if isinstance(value, list) and value and all(item == value[0] for item in value):
                value = value[0]
            elif isinstance(value, dict) and (name := next((n for n in _TEXTS if n in value), None)):
                value = value[name]
        return value

    def _text(self, value: Any, name: str) -> str:
        if not isinstance(value, str):
            kinds = {type(None): "null: write an empty text for an empty summary", list: "a list of several: keep one"}
            raise ValueError(f"{one_line(name)} is {kinds.get(type(value), 'not text')}")
        if self.is_table and re.search("[\udc80-\udcff]", value):  # bytes that are not UTF-8
            raise ValueError(f"{one_line(name)} is not UTF-8 text")
        return self._clean(value)

    def _clean(self, text: str) -> str:
        text, replaced = _SURROGATES.subn("\ufffd", text)
        self.surrogates += replaced
        return text

    def _identity(self, value: Any, name: str = "id") -> str | None:
        """An id, a topic or a reason as text."""
        if value is _MISSING or value is None or value == "" or value != value:
            return None
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise ValueError(f"{name} is neither text nor a number")
        if isinstance(value, float) and value.is_integer():  # as pandas writes numbers beside empty cells
            value = int(value)
        return self._clean(str(value).strip()) or None


def _refusal(row: Row) -> str | None:
    """Why a row of a batch has no answer."""
    status = _at(row, "response.status_code")
    error = row.get("error") or _at(row, "response.body.error")
    if error and error is not _MISSING and isinstance(error, (str, dict)):
        return one_line(error.get("message", error) if isinstance(error, dict) else error)
    return f"HTTP {status}" if isinstance(status, int) and status >= 400 else None


def _beside(row: Row, column: str) -> Any:
    """The finish reason beside a nested text: choices.0.finish_reason for choices.0.message.content."""
    parts = column.split(".")
    for end in range(len(parts) - 1, 0, -1):
        for name in ("finish_reason", "finishReason", "stop_reason"):
            if isinstance(found := _at(row, ".".join([*parts[:end], name])), str):
                return found
    return None


def _count(value: Any, name: str) -> int | None:
    if value is None or value == "" or value != value:
        return None
    try:
        number = float(value) if isinstance(value, (str, int, float)) and not isinstance(value, bool) else -1
    except (ValueError, OverflowError):
        number = -1
    if not 0 <= number < 2**53 or number % 1:
        raise ValueError(f"{name} is {one_line(value)!r}, not a number of 0 or more")
    return int(number)


def _listed(value: Any) -> list[Any]:
    """A list as it is, or as JSON or Python's repr in a cell; any other value as a list of it."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        for load in (json.loads, ast.literal_eval):
            try:
                if isinstance(found := load(value.strip()), list):
                    return found
            except (ValueError, SyntaxError, MemoryError, RecursionError):
                continue
    return value if isinstance(value, list) else [value]


def _order_by_index(predictions: Predictions, rows: Sequence[Row]) -> None:
    """Put rows without ids in the order of an index column (of pandas, of lm-eval), which counts from 0 or 1.

    A column that does not count the rows holds ids, or is refused where it has no name.
    """
    name = _first(rows, _POSITIONS)
    if name is None:
        return
    values = [row.get(name) for row in rows]
    shown = one_line(name) if name else "the index column"
    numbers = [int(str(value)) if re.fullmatch(r"\d{1,9}", str(value)) else -1 for value in values]
    start = min(numbers)
    if start in (0, 1) and sorted(numbers) == list(range(start, start + len(numbers))):
        if numbers != sorted(numbers):
            predictions.notes.append(f"{predictions.path.name}: its rows are put in the order of {shown}")
            order = sorted(range(len(numbers)), key=numbers.__getitem__)
            predictions.rows = [predictions.rows[i] for i in order]
    elif len(set(map(str, values))) < len(values):
        raise InputError(f"{predictions.path}: {shown} has a number twice: give one row (one filter, one run) of each")
    elif plain(name) in _POSITIONS[:2] and min(numbers) >= 0:
        raise InputError(f"{predictions.path}: {shown} does not count the rows from 0 or 1: give all rows, or ids")
    else:
        for row, value in zip(predictions.rows, values, strict=True):
            row["id"] = str(value)
