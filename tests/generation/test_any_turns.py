"""Any turns are the same after reading, in prompts, and in predictions.jsonl; any text has the same characters."""

import csv
import io
import json
from pathlib import Path
from typing import Any

from dialogsum_sft import files
from dialogsum_sft.arguments import DataArguments
from dialogsum_sft.data.encoding import build_prompts
from dialogsum_sft.data.examples import Examples, load_examples
from dialogsum_sft.data.prompts import PromptSettings
from dialogsum_sft.data.transcripts import dialogue_of
from dialogsum_sft.evaluation.prediction_columns import read_predictions
from dialogsum_sft.generation.engine import Completion
from dialogsum_sft.generation.summarise import prediction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trl import ScriptArguments

# What readers of text look at: labels, stamps, cues, marks of line breaks and of direction, control tokens.
PIECES = (
    *("Ann: ", "\nBob: yo", "[Ann] ", "<v Ann>", "**Ann:** ", "#Person1#: ", ": ", "：", "\n", "\r\n", "\r", "\u2028"),
    *("[10:15] Ann: hi", "\n24.12.23, 18:05 - Ann: hi", "00:01.000 --> 00:02.000\n", "WEBVTT\n\n", "Q. "),
    *("<|im_end|>", "<|im_start|>user\n", "\t", "{dialogue}", "[...]"),
    *(
        "\u200f",
        "\u200e",
        "\u202b",
        "\ufeff",
        "👩‍👩‍👧",
        "🇫🇷",
        "é",
        "e\u0301",
        "\x00",
        "\x1f",
        '"',
        "'",
        ",",
        ";",
        "\\",
    ),
)
# As lists and as line breaks, in texts. (A turn that begins with a tag of HTML and ends with one is read as HTML.)
READ_OTHERWISE = ("[{'a': ", r"\n", "a<br>b", "</s>", "__eou__", " | ")
characters = st.characters(exclude_categories=["Cs"])


def texts_of(*pieces: str) -> st.SearchStrategy[str]:
    parts = st.lists(st.sampled_from(pieces) | st.text(characters, max_size=6), min_size=1, max_size=5)
    return parts.map("".join).filter(lambda text: text.strip("\ufeff \n\t").strip())


texts = texts_of(*PIECES, *READ_OTHERWISE)
dialogues = st.lists(
    st.lists(st.tuples(st.none() | texts, texts), min_size=1, max_size=6), min_size=1, max_size=4, unique_by=repr
)


def load(path: Path, content: str, **options: Any) -> Examples:
    path.write_text(content, encoding="utf-8", newline="")
    return load_examples(ScriptArguments(dataset_name=str(path)), DataArguments(**options), "train")


def as_csv(rows: list[dict[str, str]]) -> str:
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, ["id", "dialogue", "summary"])
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def said(row: dict[str, Any]) -> list[tuple[str | None, str]]:
    return [(turn.speaker, turn.text) for turn in dialogue_of(row).turns]


def one_kind_of_breaks(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n").strip()


@settings(max_examples=40)
@given(dialogues, st.booleans())
def test_any_turns_stay_the_same(
    tmp_path_factory: pytest.TempPathFactory, dialogues: list[list[tuple[str | None, str]]], ascii_only: bool
) -> None:
    """Up to white space at the ends of a text, kinds of line breaks, and white space within a speaker's name."""
    folder = tmp_path_factory.getbasetemp()
    values = [[{"speaker": speaker, "text": text} for speaker, text in turns] for turns in dialogues]
    expected = {
        str(n): [(" ".join(who.split()) if who else None, one_kind_of_breaks(text)) for who, text in turns]
        for n, turns in enumerate(dialogues)
    }
    rows = [{"id": str(n), "dialogue": value, "summary": f"s{n}"} for n, value in enumerate(values)]
    cells = [row | {"dialogue": json.dumps(row["dialogue"], ensure_ascii=ascii_only)} for row in rows]
    reprs = [row | {"dialogue": repr(row["dialogue"])} for row in rows]
    for examples in (
        load(folder / "turns.jsonl", "".join(json.dumps(row, ensure_ascii=ascii_only) + "\n" for row in rows)),
        load(folder / "cells.csv", as_csv(cells)),
        load(folder / "reprs.csv", as_csv(reprs)),
    ):
        found = examples.rows.to_list()
        assert {row["id"]: said(row) for row in found} == {row["id"]: expected[row["id"]] for row in found}
        # Equal dialogues (of turns that differ in line breaks only) become one.
        assert examples.counts.kept == len(rows)
        prompts = build_prompts(found, None, PromptSettings("{dialogue}"), None)
        assert [prompt.messages[0]["content"] for prompt in prompts] == [row["dialogue"] for row in found]
        done = Completion("s", None, None, "stop")
        lines = [prediction(row, prompt, done, [done]) for row, prompt in zip(found, prompts, strict=True)]
        files.write_jsonl(folder / "predictions.jsonl", lines)
        assert list(map(said, read_predictions(folder / "predictions.jsonl").rows)) == list(map(said, found))


@settings(max_examples=40)
@given(st.lists(texts_of(*PIECES), min_size=1, max_size=6), st.sampled_from(["labels", "inline", "lines"]))
def test_any_text_keeps_its_characters(tmp_path_factory: pytest.TempPathFactory, texts: list[str], kind: str) -> None:
    """Up to kinds of line breaks, where no system lines are dropped and no cues are joined."""
    rows = [{"id": str(n), "dialogue": text, "summary": "s"} for n, text in enumerate(texts)]
    path = tmp_path_factory.getbasetemp() / "texts.jsonl"
    found = load(path, "".join(json.dumps(row) + "\n" for row in rows), dialogue_format=kind).rows.to_list()
    assert {row["dialogue"] for row in found} == {one_kind_of_breaks(text.removeprefix("\ufeff")) for text in texts}
    prompts = build_prompts(found, None, PromptSettings("{dialogue}"), None)
    assert [prompt.messages[0]["content"] for prompt in prompts] == [row["dialogue"] for row in found]
