"""Random rows of JSON and CSV are kept, grouped and counted as an independent rule says."""

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from odd_files import (
    found,
    lines,
    load,
    refusal,
    write,
)

# Text of every kind of character, numbers, lists, turns, keys that are missing.
any_text = st.sampled_from(["", "\ufeff", "\r", "a", "b"]) | st.text(st.characters(exclude_categories=()), max_size=8)
values = st.recursive(
    any_text | st.none() | st.booleans() | st.integers() | st.floats(),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.sampled_from(["text", "a"]), children),
    max_leaves=5,
)
turns = st.lists(st.fixed_dictionaries({"text": any_text}), min_size=1, max_size=3)
any_row = st.fixed_dictionaries(
    {}, optional={"dialogue": any_text | turns | values, "summary": any_text | values, "id": values}
)
any_record = st.fixed_dictionaries({"id": any_text, "dialogue": any_text, "summary": any_text})


def is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.removeprefix("\ufeff").strip())


def kept_text(value: Any) -> str | None:
    if is_empty(value) or not isinstance(value, str) or re.search("[\ud800-\udfff]", value):
        return None
    return re.sub("\r\n?", "\n", value.removeprefix("\ufeff")).strip()


def spoken(value: Any) -> str | None:
    """A list of turns as text, a line a turn: each is text, or an object with a text and no speaker here."""
    texts = value.get("text") if isinstance(value, dict) else None
    if isinstance(texts, list) and texts and isinstance(texts[0], str):  # an object of parallel lists
        value = [{"text": text} for text in texts]
    if not isinstance(value, list):
        return None
    said = []
    others_have_text = any(not isinstance(turn, dict) or "text" in turn for turn in value)
    for turn in value:
        if isinstance(turn, dict) and "text" not in turn and others_have_text:
            continue  # skipped, and counted
        if isinstance(turn, list) and len(turn) == 2 and all(isinstance(part, str) for part in turn):
            speaker, text = (kept_text(part) or ("" if is_empty(part) else None) for part in turn)
            if speaker is None:
                return None
            turn = f"{' '.join(speaker.split())}: {text}" if speaker and text else text
        elif isinstance(turn, dict) and "text" in turn:
            turn = turn["text"]
            if isinstance(turn, list):
                parts = [part.get("text") if isinstance(part, dict) else part for part in turn]
                if not all(isinstance(part, str) for part in parts):
                    return None
                turn = " ".join(filter(None, parts))
            turn = "" if turn is None else turn
        if not isinstance(turn, str) or re.search("[\ud800-\udfff]", turn):
            return None
        said.append(re.sub("\r\n?", "\n", turn).strip())
    return "\n".join(turn for turn in said if not is_empty(turn)) or None


def kept_id(value: Any) -> str | None:
    return None if is_empty(value) or isinstance(value, (list, dict)) else str(value).encode(errors="replace").decode()


def distinct_pairs(rows: list[dict[str, Any]]) -> list[tuple[str, tuple[str, ...]]]:
    """Dialogue and references of each usable row, those that repeat another (of the same id) left out."""
    pairs = {}
    for row in rows:
        dialogue, summary = row.get("dialogue"), row.get("summary")
        dialogue = kept_text(dialogue) if isinstance(dialogue, str) else spoken(dialogue)
        if isinstance(summary, list) and all(isinstance(part, str | None) for part in summary):  # sentences
            summary = " ".join(part.strip() for part in summary if part and part.strip())
        given = [one for one in (summary if isinstance(summary, list) else [summary]) if not is_empty(one)]
        references = tuple(filter(None, map(kept_text, given)))
        if dialogue and references and len(references) == len(given):
            pairs[kept_id(row.get("id")), dialogue, references] = None
    return [(dialogue, references) for _, dialogue, references in pairs]


def check(path: Path, rows: list[dict[str, Any]]) -> None:
    """What is loaded, or refused, is what `distinct_pairs` says."""
    pairs = distinct_pairs(rows)
    if not pairs:
        refusal(path, allow_dropped_rows=True)
        return
    examples = load(path, allow_dropped_rows=True)
    grouped: dict[str, list[str]] = {}
    for dialogue, references in pairs:
        grouped.setdefault(dialogue, []).extend(references)
    assert found(examples) == [(dialogue, *references) for dialogue, references in grouped.items()]
    assert len(set(examples.rows["id"])) == len(grouped)
    counts = examples.counts
    assert (counts.read, counts.kept) == (len(rows), len(pairs))
    assert counts.read == counts.kept + sum(counts.dropped.values())
    assert (counts.dialogues, counts.references) == (len(grouped), sum(map(len, grouped.values())))


@settings(max_examples=300)
@given(st.lists(any_row))
def test_any_rows_of_json(tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]) -> None:
    content = lines(*rows)
    path = write(tmp_path_factory.getbasetemp(), "any.jsonl", content)
    check(path, [json.loads(line) for line in content.splitlines()])  # where two halves are one emoji


@settings(max_examples=200)
@given(st.lists(any_record))
def test_any_rows_of_csv(tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, str]]) -> None:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, ["id", "dialogue", "summary"], quoting=csv.QUOTE_ALL)
    writer.writeheader()
    writer.writerows(rows)
    content = text.getvalue().encode("utf-8", "surrogatepass")
    check(write(tmp_path_factory.getbasetemp(), "any.csv", content), rows)
