"""Counts of the rows of a split: read, kept, and dropped by reason."""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from dialogsum_sft.tables import Table

DUPLICATE = "same dialogue and summary as an earlier row"  # and the same id, where rows have ids
IN_OTHER_SPLIT = "dialogue is in the evaluation split too"
HELD_OUT = "held out for validation"  # by --validation_share
EMPTY_ROW = "row is empty"  # as spreadsheets leave them
TIMES_STAY = "turns keep their time stamps in the prompts; --drop_times true leaves them out"
T = TypeVar("T")
_EXPECTED = (DUPLICATE, HELD_OUT, EMPTY_ROW)  # these do not count as lost

_DETAILS = (
    *("one_speaker", "system_lines", "skipped_turns", "skipped_parts", "html_texts"),
    *("time_stamps", "dropped_times", "dropped_turns", "cut_turns", "dropped_tokens"),
)


@dataclass
class Counts:
    """Counts of the rows of a split, in which `read == kept + sum(dropped.values())`."""

    read: int = 0
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    named: list[str] = field(default_factory=list)  # the first dropped rows with their reasons
    dialogues: int = 0
    references: int = 0
    empty_references: int = 0  # of rows that have others
    one_speaker: int = 0  # kept rows whose dialogue has one speaker or none
    system_lines: int = 0  # of exported chats, dropped: joins, leaves, pins
    system_examples: list[str] = field(default_factory=list)  # the first of them
    skipped_turns: int = 0  # without text, such as tool calls
    skipped_parts: int = 0  # images, tool calls and the like beside a text
    html_texts: int = 0  # turns whose text was taken from HTML
    time_stamps: int = 0  # turns whose time stamp stays in the dialogue's text
    dropped_times: int = 0  # turns without theirs, by --drop_times
    shortened: int = 0  # training rows whose dialogue lost turns or words to fit
    dropped_turns: int = 0
    cut_turns: int = 0
    dropped_tokens: int = 0

    @property
    def lost(self) -> int:
        """Dropped rows that a training refuses when they are more than 1%."""
        return self.dropped.total() - sum(self.dropped[reason] for reason in _EXPECTED)

    def drop(self, row: str, reason: str) -> None:
        """Count a dropped row by its reason. Numbers of turns, and numbers in brackets at the end, are named only."""
        kind = re.sub(r" \(\d[^()]*\)$", "", reason)
        self.dropped[re.sub(r"\bturn \d+", "a turn", kind)] += 1
        if len(self.named) < 5 and reason not in _EXPECTED:
            self.named.append(f"{row}: {reason}")

    def drop_system_lines(self, lines: Sequence[str]) -> None:
        self.system_lines += len(lines)
        self.system_examples += lines[: 5 - len(self.system_examples)]

    def shorten(self, dropped_turns: int, cut_turns: int, dropped_tokens: int) -> None:
        self.shortened += 1
        self.dropped_turns += dropped_turns
        self.cut_turns += cut_turns
        self.dropped_tokens += dropped_tokens

    def record(self) -> dict[str, Any]:
        """As stored in run.json and metrics.json."""
        return {
            "rows_read": self.read,
            "rows_kept": self.kept,
            "rows_dropped": dict(self.dropped),
            "dialogues": self.dialogues,
            "references": self.references,
            "empty_references": self.empty_references,
            "shortened": self.shortened,
            **{name: getattr(self, name) for name in _DETAILS if getattr(self, name)},
        }


def longest_pass(counts: Counts, rows: Callable[[Counts], Iterator[T]]) -> Iterator[T]:
    """A pass over a stream of `rows`; `counts` become those of the pass that has read most."""
    own = Counts()
    for row in rows(own):
        if own.read >= counts.read:
            counts.__dict__.update(vars(own))
        yield row
    if own.read >= counts.read:
        counts.__dict__.update(vars(own))


def counts_table(columns: dict[str, Counts]) -> Table:
    """Rows read, kept and dropped by reason, with a column for each of the given counts."""
    table = Table(header=["rows", *columns])
    lines = {"read": [counts.read for counts in columns.values()]}
    for reason in dict.fromkeys(reason for counts in columns.values() for reason in counts.dropped):
        lines[f"dropped: {reason}"] = [counts.dropped[reason] for counts in columns.values()]
    for name in ("kept", "dialogues", "references", "empty_references", "shortened", *_DETAILS):
        lines[name.replace("_", " ")] = [getattr(counts, name) for counts in columns.values()]
    for line, values in lines.items():
        if any(values) or line == "kept":
            table.add_row(line, *(str(value) if value else "" for value in values))
    return table
