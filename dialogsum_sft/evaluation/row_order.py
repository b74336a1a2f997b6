"""The order of rows that are numbered by an index column instead of ids."""

import re
from collections.abc import Sequence
from typing import Any

from dialogsum_sft import InputError
from dialogsum_sft.data.row_files import one_line
from dialogsum_sft.evaluation.batch_answers import first
from dialogsum_sft.evaluation.prediction_files import ID_WORDS, INDEX, Row, plain
from dialogsum_sft.evaluation.predictions import Predictions

POSITIONS = (INDEX, "unnamed:_0", "doc_id", "index", "idx", "__index_level_0__")


def order_by_index(predictions: Predictions, rows: Sequence[Row]) -> None:
    """Put rows without ids in the order of an index column (of pandas, of lm-eval), which counts from 0 or 1.

    A column that does not count the rows holds ids, or is refused where it has no name.
    """
    name = first(rows, POSITIONS)
    if name is None:
        name = next((name for name in rows[0] if ID_WORDS.search(plain(name)) and _count_rows(rows, name)), None)
    if name is None:
        for other in rows[0]:
            if len(rows) > 2 and _count_rows(rows, other) and rows[0][other] != min(row[other] for row in rows):
                predictions.notes.append(
                    f"{predictions.path.name}: {one_line(other)} counts the rows in another order, which is not used: "
                    f"if it is the dataset's, give --id_column {one_line(other)}"
                )
        return
    values = [row.get(name) for row in rows]
    shown = one_line(name) if name else "the index column"
    numbers = numbers_of(values)
    if is_count(numbers):
        if numbers != sorted(numbers):
            predictions.notes.append(f"{predictions.path.name}: its rows are put in the order of {shown}")
            predictions.sort(numbers)
    elif len(set(map(str, values))) < len(values):
        raise InputError(f"{predictions.path}: {shown} has a number twice: give one row (one filter, one run) of each")
    elif plain(name) in POSITIONS[:2] and min(numbers) >= 0:
        raise InputError(f"{predictions.path}: {shown} does not count the rows from 0 or 1: give all rows, or ids")
    else:
        for row, value in zip(predictions.rows, values, strict=True):
            row["id"] = str(value)


def _count_rows(rows: Sequence[Row], name: str) -> bool:
    return is_count(numbers_of([row.get(name) for row in rows]))


def numbers_of(values: Sequence[Any]) -> list[int]:
    """Whole numbers, also as pandas writes them beside empty cells (3.0); -1 for anything else."""
    return [int(match[1]) if (match := re.fullmatch(r"(\d{1,9})(?:\.0)?", str(value))) else -1 for value in values]


def is_count(numbers: Sequence[int]) -> bool:
    """Whether numbers count from 0 or 1, in any order."""
    start = min(numbers, default=-1)
    return start in (0, 1) and sorted(numbers) == list(range(start, start + len(numbers)))
