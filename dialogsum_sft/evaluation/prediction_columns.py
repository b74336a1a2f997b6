"""Predictions from files of any program, with the fields of predictions.jsonl.

Known by name or shape: our own predictions.jsonl, LLaMA-Factory's and ChatGLM's generated_predictions.jsonl, lm-eval's
samples_*.jsonl, the OpenAI batch API, dumps of vLLM, tables of pandas, JSON objects of ids and texts, lines of text.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dialogsum_sft import InputError
from dialogsum_sft.data.answers import read_answer, without_preamble
from dialogsum_sft.data.counts import EMPTY_ROW
from dialogsum_sft.data.row_files import BadRow, one_line, suffix_of
from dialogsum_sft.evaluation.batch_answers import (
    MISSING,
    PATHS,
    fault_of,
    finish_reason,
    first,
    has,
    listed,
    unwrapped,
    value_in,
)
from dialogsum_sft.evaluation.likelihood import own_likelihoods
from dialogsum_sft.evaluation.prediction_files import PREDICTIONS, Numbered, Row, plain, text_or_rows
from dialogsum_sft.evaluation.predictions import OWN_LISTS, Predictions, turns_fit
from dialogsum_sft.evaluation.row_order import POSITIONS, order_by_index

# Columns that hold predictions in some files, and other things in others.
_UNSURE = ("output", "outputs", "summary", "text", "answer", "content", "result")
_IDS = (
    *("custom_id", "id", "fname", "dialogue_id", "conversation_id", "example_id", "sample_id", "key", "recordid"),
    *("doc.id", "doc.fname"),
)
_LABELS = ("label", "labels", "target", "targets", "reference", "references", "gold", "ground_truth", "expected")
_DIALOGUES = ("dialogue", "dialog", "conversation", "transcript", "chat")
_COUNTS = ("prompt_tokens", "completion_tokens", "dropped_turns", "cut_turns", "dropped_tokens")
_COVERAGE = ("windows", "calls", "turns_seen", "tokens_seen")  # of our own files alone
_SURROGATES = re.compile("[\ud800-\udfff]")


def read_predictions(path: Path, column: str | None = None, id_column: str | None = None) -> Predictions:
    """The predictions of a file. An empty line of a text file is an empty summary.

    The columns of predictions and ids are found by name, or named by `column` and `id_column` (nested ones with dots).
    Raises InputError with the file and its first wrong rows, or with its columns where none is known.
    """
    named, is_text = text_or_rows(path)
    named = _without_empty(named)
    good = [row for _, row in named if not isinstance(row, BadRow)]
    if (
        column is None
        and good
        and all(fault_of(row, "") and not any(has(row, path) for path in PATHS) for row in good)
    ):
        raise InputError(f"{path}: none of its {len(good)} rows has an answer: {fault_of(good[0], '')}")
    if good or not named:
        column = _prediction_column(good, path, column)
    reader = _Reader(
        str(column),
        first(good, [*([id_column] if id_column else []), *_IDS]),
        first(good, _LABELS),
        is_table=(suffix_of(path) or "").startswith((".csv", ".tsv")),
        is_ours=column == "prediction" and all({"dialogue", "references"} <= row.keys() for row in good),
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
    without = Counter(row["fault"].split(":")[0] for row in rows if row.get("fault") and not row["prediction"])
    if rows and sum(without.values()) == len(rows):
        raise InputError(f"{path}: none of its {len(rows)} rows has an answer: {rows[0]['place']}: {rows[0]['fault']}")
    notes = [f"predictions are taken from {one_line(column)}"] if rows and column != "prediction" else []
    notes += [f"{one_line(what)} in {number} rows: ignored" for what, number in reader.ignored.items()]
    if reader.surrogates:
        notes.append(f"{reader.surrogates} lone surrogates (half a character) are read as U+FFFD")
    if without:
        counts = ", ".join(f"{number} {one_line(reason)}" for reason, number in without.items())
        notes.append(f"{sum(without.values())} rows have no answer and an empty summary: {counts}")
    notes = [f"{path.name}: {note}" for note in notes]
    predictions = Predictions(path, rows, str(column), is_text, reader.label, notes, good)
    predictions.id_is_named = id_column is not None and any(has(row, id_column) for row in good)
    if rows and not any("id" in row for row in rows):
        order_by_index(predictions, good)
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
        if rows and not any(has(row, column) for row in rows):
            raise InputError(f"{path} has no column {column} (--prediction_column): {listed}")
        return column
    found = [name for name in names if plain(name) in PREDICTIONS]
    if "prediction" in found or not names:
        return "prediction"
    if nested := next((path for path in PATHS if any(has(row, path) for row in rows)), None):
        return nested
    if len(found) == 2 and "filtered_resps" in found:  # of lm-eval: what its filter took from resps
        return "filtered_resps"
    if [plain(name) for name in found] == ["raw_output"] and not any(plain(name) in _DIALOGUES for name in names):
        found += [name for name in names if plain(name) in _UNSURE]  # which may be what was made of it
    found = found or [name for name in names if plain(name) in _UNSURE]
    known = (*_IDS, *POSITIONS, *_LABELS, *_COUNTS, "topic", "doc_hash")
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


@dataclass
class _Reader:
    """Normalises the fields of rows; `surrogates` counts the lone ones that were replaced, `ignored` the values of
    columns that are called as ours are, but are something else.
    """

    column: str
    id: str | None
    label: str | None
    is_table: bool
    is_ours: bool  # a predictions.jsonl, in which a wrong field is refused
    surrogates: int = 0
    ignored: Counter[str] = field(default_factory=Counter)

    def read(self, row: Row) -> Row:
        """Raises ValueError with the field that has a wrong value."""
        value = value_in(row, self.column)
        text = unwrapped(value, self.column, self.is_table)
        fault = None if isinstance(text, str) and text else fault_of(row, self.column)
        if value is MISSING and fault is None:
            raise ValueError(f"{one_line(self.column)} is missing")
        read: Row = {"prediction": "" if fault is not None else self._text(text, self.column)}
        if self.id is not None and (identity := self._identity(value_in(row, self.id))) is not None:
            read["id"] = identity
        if self.label is not None and (label := value_in(row, self.label)) is not MISSING:
            read["label"] = [self._clean(text) for text in listed(label) if isinstance(text, str)]
        for name in ("dialogue", "raw_prediction"):
            if isinstance(row.get(name), str):
                read[name] = self._text(row[name], name)
        beside = {"finish_reason": finish_reason(row, self.column)}
        for name in ("topic", "finish_reason", "fault"):
            self._add(read, name, row.get(name, beside.get(name)), self._identity)
        if fault is not None:
            read["fault"] = fault
        for name in _COUNTS:
            self._add(read, name, row.get(name), _count)
        if self.is_ours:
            read |= {name: row[name] for name in _COVERAGE if isinstance(row.get(name), (int, float))}
            read |= own_likelihoods(row)
        for name in OWN_LISTS:
            if name != self.column and isinstance(row.get(name), list) and row[name]:
                self._add(read, name, row[name], self._texts)
        if "references" in row:
            read["references"] = [
                self._clean(text) if isinstance(text, str) else text for text in listed(row["references"])
            ]
        if turns := row.get("turns"):
            if self.is_ours or ("dialogue" in read and turns_fit(read | {"turns": turns})):
                read["turns"] = turns
            else:
                self.ignored["turns that are not of predictions.jsonl"] += 1
        self._drop_other_answers(read)
        return read

    def _add(self, read: Row, name: str, value: Any, normalise: Callable[[Any, str], Any]) -> None:
        """Add a field; one that is not as in predictions.jsonl is refused there, and ignored in another file."""
        try:
            if (found := normalise(value, name)) is not None:
                read[name] = found
        except ValueError as error:
            if self.is_ours:
                raise
            what = re.sub(r" is '.*', not a number", " is not a number", str(error))
            self.ignored[what] += 1

    def _drop_other_answers(self, read: Row) -> None:
        """Keep what a model wrote only where the prediction was made from it: it would be scored instead."""
        named = self.column != "prediction"
        for raw, name in (("raw_prediction", "prediction"), (OWN_LISTS[2], OWN_LISTS[1])):
            made = read.get(name)
            if raw in read and (named or not _is_made_from(made, read[raw])):
                if named or read[raw] != made:
                    self.ignored[f"{raw}, from which {one_line(self.column)} is not made,"] += 1
                del read[raw]
        if OWN_LISTS[1] in read and (named or not self.is_ours or read["prediction"] not in read[OWN_LISTS[1]]):
            self.ignored[f"{OWN_LISTS[1]}, which are not of {one_line(self.column)},"] += 1
            for name in OWN_LISTS[1:]:
                read.pop(name, None)

    def _texts(self, value: Any, name: str) -> list[str]:
        if not all(isinstance(text, str) for text in value):
            raise ValueError(f"{name} is not a list of texts")
        return [self._clean(text) for text in value]

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
        if value is MISSING or value is None or value == "" or value != value:
            return None
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise ValueError(f"{name} is neither text nor a number")
        if isinstance(value, float) and value.is_integer():  # as pandas writes numbers beside empty cells
            value = int(value)
        return self._clean(str(value).strip()) or None


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


def _is_made_from(made: Any, raw: Any) -> bool:
    """Whether a prediction, or each of a list, is what is left of the raw text without thinking or a preamble."""
    if isinstance(raw, list):
        return isinstance(made, list) and len(made) == len(raw) and all(map(_is_made_from, made, raw))
    summary = read_answer(raw).summary
    return made in (summary, without_preamble(summary))
