"""The sheet on which a person accepts, corrects or rejects summaries: CSV and HTML out, decisions in."""

import csv
import hashlib
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dialogsum_sft import InputError, files
from dialogsum_sft.data.columns import is_empty, text_of
from dialogsum_sft.data.counts import EMPTY_ROW
from dialogsum_sft.data.dialogue import Dialogue
from dialogsum_sft.data.grouping import text_hash
from dialogsum_sft.data.row_files import BadRow, one_line, read_file
from dialogsum_sft.data.training_data import drawn
from dialogsum_sft.labelling.labels import DROPPED, KEPT, SET_ASIDE, Decision, Label

import jinja2

_HEADER = ("key", "id", "dialogue", "summary", "why", "decision", "corrected")
_WORDS = {
    **dict.fromkeys(("accept", "accepted", "ok", "yes"), "accepted"),
    **dict.fromkeys(("correct", "corrected"), "corrected"),
    **dict.fromkeys(("reject", "rejected", "no"), "rejected"),
}
_FORMULA = re.compile(r"\s*[=+\-@]")  # what a spreadsheet takes for a formula, after white space too
_LONGEST_CELL = 30_000  # characters; Excel spreads a cell of more than 32,767 over several


def chosen(labels: Sequence[Label], size: int, seed: int) -> list[Label]:
    """The labels for a sheet, in their order: up to half of them set aside, the others drawn from those kept.

    The choice depends on the dialogues and the seed alone.
    """
    keys = {status: [text_hash(one.key) for one in labels if one.status == status] for status in (KEPT, SET_ASIDE)}
    aside = min(len(keys[SET_ASIDE]), max(size // 2, size - len(keys[KEPT])))
    among = drawn(keys[SET_ASIDE], aside, seed) | drawn(keys[KEPT], size - aside, seed)
    return [one for one in labels if one.status != DROPPED and text_hash(one.key) in among]


def write_sheet(folder: Path, labels: Sequence[Label], written: str | None) -> tuple[str | None, bool]:
    """Write sheet.csv and sheet.html; returns the digest of sheet.csv, and whether a sheet that was changed by hand
    since it was `written` (its digest then) has been left as it is."""
    path = folder / "sheet.csv"
    if path.is_file() and _digest(path.read_text(encoding="utf-8", errors="replace")) != written:
        return written, True
    if not labels:
        for name in ("sheet.csv", "sheet.html"):
            (folder / name).unlink(missing_ok=True)
        return None, False
    text = _csv(labels)
    files.write_text(path, text)
    files.write_text(folder / "sheet.html", _html(labels))
    return _digest(text), False


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()[:16]


def _csv(labels: Sequence[Label]) -> str:
    """With the mark by which Excel knows UTF-8; texts that would be formulas begin with an apostrophe."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(_HEADER)
    for label in labels:
        cells = (label.id, label.dialogue, label.summary, label.why)
        writer.writerow([label.key, *map(_cell, cells), "", ""])
    return "\ufeff" + table.getvalue()


def _cell(text: str) -> str:
    text = f"'{text}" if _FORMULA.match(text) else text
    return text if len(text) <= _LONGEST_CELL else f"{text[:_LONGEST_CELL]} [...: the whole is in sheet.html]"


def _html(labels: Sequence[Label]) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    rows = [
        {
            "key": label.key,
            "id": label.id,
            "summary": label.summary,
            "why": label.why,
            "turns": [
                (turn.speaker or "", turn.text) for turn in Dialogue.from_record(label.dialogue, label.turns).turns
            ],
        }
        for label in labels
    ]
    return environment.get_template("sheet.html.jinja").render(rows=rows)


def read_sheet(path: Path, labels: Sequence[Label]) -> tuple[list[Decision], list[str]]:
    """The decisions of an edited sheet, and a line for each row that does not match a label or says nothing clear.

    A row without a decision says nothing, as does one that is missing. Raises InputError for a file that is no sheet.
    """
    rows = list(read_file(path))
    names = next((list(row) for _, row in rows if not isinstance(row, BadRow)), [])
    if not {"key", "decision"} <= set(names):
        there = f"there are {', '.join(map(one_line, names))}" if names else "it has no rows"
        raise InputError(f"{path} has no columns key and decision: {there}. Give the sheet.csv that label.py wrote")
    own = {label.key: label for label in labels if label.status != DROPPED}
    made: dict[str, tuple[int, Decision]] = {}
    faults = []
    for place, row in rows:
        if isinstance(row, BadRow):
            faults += [] if row.reason == EMPTY_ROW else [f"{path}: row {place}: {row.reason}"]
            continue
        try:
            decision = _decision(row, own)
            if decision is None:
                continue
            first, other = made.setdefault(decision.key, (int(place), decision))
            if other != decision:
                raise ValueError(f"row {first} decides otherwise on {decision.key}")
        except ValueError as error:
            faults.append(f"{path}: row {place} ({one_line(row.get('id') or row['key'])}): {error}")
    return [decision for _, decision in made.values()], faults


def _decision(row: dict[str, Any], own: dict[str, Label]) -> Decision | None:
    """Raises ValueError for a row that does not match a label, or whose decision is not clear."""
    word = str(row["decision"] or "").strip()
    corrected, summary = (_text(row, name) for name in ("corrected", "summary"))
    label = own.get(str(row["key"]).strip())
    if label is None:
        raise ValueError(f"no summary has the key {one_line(row['key'])!r}: is the sheet of another --output_dir?")
    if summary is not None and _plain(summary) != _plain(_cell(label.summary)):
        raise ValueError("its summary is another than the one written: put a corrected text into the column corrected")
    if not word and corrected is None:
        return None
    decision = _WORDS.get(word.lower()) if word else "corrected"
    if decision is None:
        raise ValueError(f"the decision {one_line(word)!r} is none of accept, reject, corrected, or nothing")
    if decision == "rejected" and corrected is not None:
        raise ValueError("it is rejected and has a corrected text: leave one out")
    if decision == "corrected" and corrected is None:
        raise ValueError("it is corrected, but the column corrected is empty")
    if corrected is not None:
        corrected = corrected[1:] if corrected[0] == "'" and _FORMULA.match(corrected[1:]) else corrected
        decision = "accepted" if _plain(corrected) == _plain(label.summary) else "corrected"
    return Decision(label.key, decision, label.summary, corrected if decision == "corrected" else None)


def _text(row: dict[str, Any], column: str) -> str | None:
    if is_empty(row.get(column)):
        return None
    try:
        return text_of(row[column], column)
    except ValueError as error:
        raise ValueError(f"{error}: save the sheet as CSV in UTF-8") from error


def _plain(text: str) -> str:
    return " ".join(text.split())
