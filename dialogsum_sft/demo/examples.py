"""The dialogues that the page offers: each once, with its references where the input has any."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dialogsum_sft import InputError
from dialogsum_sft.arguments import DataArguments, DialogueArguments
from dialogsum_sft.data.columns import find_columns, references_of
from dialogsum_sft.data.transcripts import dialogue_of

MOST = 200  # a longer list is no help


@dataclasses.dataclass
class Example:
    """A dialogue that the page offers."""

    label: str
    dialogue: str
    references: list[str] = dataclasses.field(default_factory=list)


def examples_of(
    rows: Sequence[Mapping[str, Any]], args: DialogueArguments
) -> tuple[list[Mapping[str, Any]], list[Example]]:
    """The first different dialogues of `rows`, as `data.inputs` reads them, and what the page shows of each."""
    first: dict[str, Mapping[str, Any]] = {}
    examples: dict[str, Example] = {}
    for row in rows:
        text = row["dialogue"]
        if text not in examples:
            if len(examples) == MOST:
                continue
            turns = dialogue_of(row).turns
            opening = " ".join(turns[0].text.split()) if turns else ""
            opening = opening if len(opening) <= 60 else f"{opening[:60].rsplit(' ', 1)[0]} …"
            first[text], examples[text] = row, Example(f"{Path(row['id']).name}: {opening}", text)
        examples[text].references += [one for one in _references(row, args) if one not in examples[text].references]
    return list(first.values()), list(examples.values())


def _references(row: Mapping[str, Any], args: DialogueArguments) -> list[str]:
    try:
        columns, _ = find_columns([row["columns"]], "row", DataArguments(**dataclasses.asdict(args)))
        found = references_of(row["columns"], columns)
    except (InputError, ValueError):  # it has none
        return []
    return [value.strip() for _, value in found if isinstance(value, str) and value.strip()]
