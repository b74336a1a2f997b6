"""Columns of a predictions file that hold the dataset's own ids, dialogues or references, whatever their names."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from dialogsum_sft import InputError
from dialogsum_sft.data.row_files import one_line
from dialogsum_sft.evaluation.batch_answers import value_in
from dialogsum_sft.evaluation.prediction_files import ID_WORDS, Row, plain
from dialogsum_sft.evaluation.predictions import OWN_LISTS, Predictions

Place = tuple[int, list[int] | None]  # an example, and the references of its row; None for all
# Fields of predictions.jsonl that may repeat a prediction, which may be a reference itself.
_OWN = ("prediction", "raw_prediction", *OWN_LISTS)


@dataclass
class KnownColumn:
    """`owners` has the examples that the value of each row belongs to; none for one that the dataset does not have."""

    name: str
    kind: str  # ids, dialogues or references
    values: list[Any]
    owners: list[set[int]]

    @property
    def texts(self) -> list[str | None]:
        """The values as text; None for an empty one."""
        return [next(_texts(value), None) for value in self.values]

    @property
    def is_distinct(self) -> bool:
        texts = [text for text in self.texts if text is not None]
        return len(set(texts)) == len(texts)

    @property
    def is_numbers(self) -> bool:
        """Whether these are ids that are numbers, which may count something else."""
        return self.kind == "ids" and all(text is None or text.isdigit() for text in self.texts)


def known_columns(
    predictions: Predictions, examples: Sequence[Row], place_of: Callable[[str], Place | None]
) -> list[KnownColumn]:
    """The columns most of whose values are ids, dialogues or references of the dataset; numbers are ids only under a
    name such as `ticket_id`.
    """
    dialogues, references = _Dialogues(examples), owners_of_references(examples)
    found = []
    for name in dict.fromkeys(path for row in predictions.raw for path in _paths(row)):
        if name.split(".")[0] in _OWN or name == predictions.column or name.startswith(f"{predictions.column}."):
            continue
        values = [value_in(row, name) for row in predictions.raw]
        texts = [list(_texts(value)) for value in values]
        filled = sum(map(bool, texts))
        if not filled:
            continue
        are_ids = all(len(of_row) <= 1 and all(len(text) < 200 for text in of_row) for of_row in texts)
        if are_ids and all(text.isdigit() for of_row in texts for text in of_row):
            are_ids = bool(ID_WORDS.search(plain(name.split(".")[-1])))
        kinds: list[tuple[str, list[set[int]]]] = []
        if are_ids:
            places = [place_of(of_row[0]) if of_row else None for of_row in texts]
            kinds.append(("ids", [{place[0]} if place else set() for place in places]))
        kinds.append(("dialogues", [set().union(*map(dialogues.within, of_row)) for of_row in texts]))
        kinds.append(
            ("references", [set().union(*(references.get(comparable(t), set()) for t in of_row)) for of_row in texts])
        )
        for kind, owners in kinds:
            if sum(map(bool, owners)) > filled / 2:
                found.append(KnownColumn(name, kind, values, owners))
                break
    return found


class _Dialogues:
    """Finds dialogues in texts that contain one, such as prompts."""

    def __init__(self, examples: Sequence[Row]) -> None:
        texts = [comparable(example["dialogue"]) for example in examples]
        self.length = min([60, *(len(text) for text in texts if text)])
        self.by_start: dict[str, list[tuple[str, int]]] = defaultdict(list)
        for i, text in enumerate(texts):
            if text:
                self.by_start[text[: self.length]].append((text, i))

    def within(self, text: str) -> set[int]:
        text = comparable(text[:100_000])
        places = range(len(text) - self.length + 1)
        found = [(at, start) for at in places if (start := text[at : at + self.length]) in self.by_start]
        return {i for at, start in found for whole, i in self.by_start[start] if text.startswith(whole, at)}


def owners_of_references(examples: Sequence[Row]) -> dict[str, set[int]]:
    """The examples that have each reference."""
    owners: dict[str, set[int]] = defaultdict(set)
    for i, example in enumerate(examples):
        for text in example["references"]:
            owners[comparable(text)].add(i)
    owners.pop("", None)
    return owners


def check_columns(
    predictions: Predictions,
    columns: Sequence[KnownColumn],
    matched: Sequence[tuple[int, int]],
    examples: Sequence[Row],
    dataset: str,
    by: str,
) -> None:
    """Refuse rows, each `matched` as (row, example), whose values belong to other examples."""
    for column in columns:
        for at, i in matched:
            owners = column.owners[at]
            if owners and i not in owners:
                raise InputError(
                    f"{predictions.path}: {predictions.rows[at]['place']} is matched with {examples[i]['id']} of "
                    f"{dataset} by its {by}, but its {one_line(column.name)} is that of "
                    f"{examples[min(owners)]['id']}: correct the rows, or remove that column"
                )


def comparable(text: str) -> str:
    """A text without special tokens, case and white space, in which programs change it."""
    return "".join(re.sub(r"<\|[^<>|]+\|>|</?s>|<(?:pad|eos|bos|end_of_turn)>", "", text).casefold().split())


def _texts(value: Any) -> Iterator[str]:
    for one in value if isinstance(value, list) else [value]:
        if isinstance(one, float) and one.is_integer():
            one = int(one)
        if isinstance(one, (str, int)) and not isinstance(one, bool) and (text := str(one).strip()):
            yield text


def _paths(row: Row, depth: int = 4) -> Iterator[str]:
    """The names of a row's columns, and of nested fields with dots."""
    for name, value in row.items():
        if isinstance(value, dict) and depth:
            yield from (f"{name}.{inner}" for inner in _paths(value, depth - 1))
        else:
            yield name
