"""Predictions as they are read from a file, and with their dialogues and references: those of a predictions.jsonl."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dialogsum_sft import InputError
from dialogsum_sft.data.row_files import some
from dialogsum_sft.evaluation.prediction_files import Row

OWN_LISTS = ("candidates", "predictions_by_reference", "raw_predictions_by_reference")
# What rows have besides the fields of predictions.jsonl.
_AUXILIARY = ("label", "place")


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
    raw: list[Row] = field(default_factory=list)  # the rows as the file has them, in the same order
    id_is_named: bool = False  # by --id_column, which the file has

    def sort(self, numbers: Sequence[int]) -> None:
        """Put the rows in the order of their numbers."""
        order = sorted(range(len(numbers)), key=numbers.__getitem__)
        self.rows, self.raw = ([each[i] for i in order] for each in (self.rows, self.raw))


@dataclass
class Matched:
    """`rows` of predictions.jsonl, one a dialogue. `by` is how they were matched: by "ids", "dialogues" or "order", or
    these "of rows". `warnings` say that the order may be wrong.

    `differing` dialogues have several predictions that differ: `predictions_by_reference` has one for each reference.
    """

    rows: list[Row]
    by: str = "its own references"
    differing: int = 0
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def own_references(predictions: Predictions, limit: int | None = None) -> Matched:
    """The rows of a predictions.jsonl, which has its own dialogues and references; InputError if one lacks them."""
    check_limit(limit)
    if not predictions.rows:
        raise InputError(f"{predictions.path} has no predictions")
    rows: list[Row] = [{"references": row.get("label")} | row for row in predictions.rows]
    for row in rows:
        if wrong := fault(row):
            raise InputError(f"{predictions.path}: {row['place']} {wrong}")
    ids = [row.get("id", str(number)) for number, row in enumerate(rows, 1)]
    if several := repeated(ids):
        raise InputError(f"{predictions.path}: {len(several)} ids are repeated: {some(several)}")
    return Matched(
        [{"id": name} | public(row) for name, row in zip(ids, rows, strict=True)][:limit], notes=predictions.notes
    )


def check_limit(limit: int | None) -> None:
    if limit is not None and limit < 1:
        raise InputError(f"--max_eval_samples {limit} leaves no dialogue: give 1 or more")


def fault(row: Row) -> str | None:
    """What is wrong with a row that is to have its dialogue and references; None for nothing."""
    references = row.get("references")
    missing = "so the dataset must be named: give --dataset_name"
    if not references:
        return f"has no references, {missing}"
    if not all(isinstance(text, str) for text in references):
        return "has references that are not text"
    if "dialogue" not in row:
        return f"has no dialogue, {missing}"
    for name in OWN_LISTS[1:]:
        if name in row and len(row[name]) != len(references):
            return f"has {len(row[name])} {name} but {len(references)} references"
    return "has turns that do not fit its dialogue" if "turns" in row and not turns_fit(row) else None


def turns_fit(row: Row) -> bool:
    try:
        lengths = [turn["length"] for turn in row["turns"]]
        fit = all(
            isinstance(turn.get("speaker"), (str, type(None)))
            and isinstance(turn.get("time"), (str, type(None)))
            and isinstance(turn["label"], int)
            and 0 <= turn["label"] <= turn["length"]
            for turn in row["turns"]
        )
        return fit and sum(lengths) == len(row["dialogue"])
    except (TypeError, KeyError, AttributeError):
        return False


def public(row: Row) -> Row:
    """The fields of predictions.jsonl."""
    return {name: value for name, value in row.items() if name not in _AUXILIARY}


def repeated(ids: Sequence[str]) -> list[str]:
    """Each id that has occurred before, as often as it does."""
    seen: set[str] = set()
    return [name for name in ids if name in seen or seen.add(name)]  # type: ignore[func-returns-value]
