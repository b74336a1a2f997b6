"""Write a small file of a published shape, load it as a user would, and show what was read."""

import csv
import json
from pathlib import Path
from typing import Any

from dialogsum_sft.arguments import DataArguments
from dialogsum_sft.data.examples import Examples, fields_of, load_examples
from dialogsum_sft.data.transcripts import dialogue_of

from trl import ScriptArguments


def write_json(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1))
    return path


def write_lines(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path


def write_csv(path: Path, *rows: dict[str, Any]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def load(path: Path, **options: Any) -> Examples:
    return load_examples(ScriptArguments(dataset_name=str(path)), DataArguments(**options), "train")


def shown(examples: Examples) -> list[tuple[str, list[tuple[str | None, str]], list[str]]]:
    """(id, turns as (speaker, text), references) of each example, none of which was dropped."""
    assert not examples.counts.dropped
    return [
        (row["id"], [(turn.speaker, turn.text) for turn in dialogue_of(row).turns], row["references"])
        for row in examples.rows
    ]


def fields(examples: Examples) -> list[dict[str, str] | None]:
    """The values of each example for the instruction."""
    return [fields_of(row) for row in examples.rows]
