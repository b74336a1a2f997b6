"""Files of the shapes in which people's data came, from the file to the turns; every word is invented.

Tables of spreadsheets are in test_row_files.py, slices in test_sources.py, files beside their metadata in
test_sources.py and recipes/test_splits.py, `max_length: null` in test_cli.py, facts in test_unsupported.py.
"""

import csv
import json
from pathlib import Path
from typing import Any

from dialogsum_sft.arguments import DataArguments
from dialogsum_sft.data.examples import Examples, load_examples
from dialogsum_sft.data.transcripts import dialogue_of
from dialogsum_sft.evaluation.rouge import rouge_scores

import pytest
from trl import ScriptArguments

TURNS = [("Mara", "Is the lift mended?"), ("Jon", "On Monday."), ("Mara", "Then I take the stairs: all five.")]


def named(first: str, second: str) -> list[tuple[str, str]]:
    return [({"Mara": first, "Jon": second}[who], text) for who, text in TURNS]


def objects(speaker: str, text: str, turns: list[tuple[str, str]] = TURNS, **more: Any) -> list[dict[str, Any]]:
    return [more | {speaker: who, text: words} for who, words in turns]


def load(path: Path, rows: list[dict[str, Any]], *, streaming: bool = False, **options: Any) -> Examples:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    script_args = ScriptArguments(dataset_name=str(path), dataset_streaming=streaming)
    return load_examples(script_args, DataArguments(**options), "train")


def said(example: dict[str, Any]) -> list[tuple[str | None, str]]:
    return [(turn.speaker, turn.text) for turn in dialogue_of(example).turns]


WHATSAPP = (
    "\u200e[05/06/2024, 8:01:02\u202fAM] House 9: \u200eMessages and calls are end-to-end encrypted.\n"
    "[05/06/2024, 8:02:03\u202fAM] Mara: Is the lift mended?\n[05/06/2024, 8:03:04\u202fAM] ~ Jon: On Monday.\n"
    "[06/06/2024, 8:04:05\u202fAM] Mara: Then I take the stairs: all five."
)
ZOOM = "\n".join(f"00:0{n}:13 {who} Holt: {text}" for n, (who, text) in enumerate(TURNS))
VTT = "WEBVTT\n" + "".join(
    f"\n{n}\n00:0{n}:00.000 --> 00:0{n}:00.900\n<v {who} Holt>{text}</v>\n" for n, (who, text) in enumerate(TURNS, 1)
)
HOLT = named("Mara Holt", "Jon Holt")
FILES: dict[str, tuple[str, str, Any, list[tuple[str, str]]]] = {  # file, column, value, turns
    "whatsapp": ("a.jsonl", "dialogue", WHATSAPP, TURNS),
    "zoom": ("a.jsonl", "dialogue", ZOOM, HOLT),
    "vtt": ("a.jsonl", "dialogue", VTT, HOLT),
    "inline": (
        "a.csv",
        "dialogue",
        "customer: the lift is stuck. support: since when? customer: since Monday, all day.",
        [("customer", "the lift is stuck."), ("support", "since when?"), ("customer", "since Monday, all day.")],
    ),
    "slack": ("a.jsonl", "messages", objects("user", "text", type="message", ts="17.1"), TURNS),
    "deepgram": (
        "a.jsonl",
        "transcript",
        {"utterances": [{"speaker": int(w == "Jon"), "channel": 0, "start": 0.5, "transcript": t} for w, t in TURNS]},
        named("Speaker 0", "Speaker 1"),
    ),
    "lists": (
        "a.jsonl",
        "turns",
        {"speaker": [who for who, _ in TURNS], "utterance": [text for _, text in TURNS]},
        TURNS,
    ),
    "name beside role": ("a.jsonl", "messages", objects("name", "content", role="user"), TURNS),
    "repr in a cell": ("a.csv", "messages", repr(objects("role", "content")), TURNS),
    "JSON in a cell": ("a.csv", "messages", json.dumps(objects("role", "content")), TURNS),
    "two words": (
        "a.jsonl",
        "turns",
        objects("speaker", "text", named("Help desk", "Caller")),
        named("Help desk", "Caller"),
    ),
    **{
        f"names that no parser finds: {first}": (
            "a.jsonl",
            "turns",
            objects("speaker", "text", named(first, second)),
            named(first, second),
        )
        for first, second in [
            ("Help desk", "Caller"),
            ("MARA HOLT, HOST", "Dr. JON HOLT (Author)"),
            ("Hon. Mara Holt", "Right Hon. Jon Holt"),
            ("Mara/Jon", "Khách quen"),
            ("LAURA and LIAM", "10:15"),
        ]
    },
}


@pytest.mark.parametrize("case", FILES)
def test_the_turns_of_a_file(tmp_path: Path, case: str) -> None:
    name, column, value, turns = FILES[case]
    rows = [{"id": "1", column: value, "summary": "The lift is stuck."}]
    examples = load(tmp_path / name, rows)
    (example,) = examples.rows
    assert said(example) == turns
    assert (examples.counts.one_speaker, examples.counts.system_lines) == (0, int(case == "whatsapp"))
    (streamed,) = load(tmp_path / name, rows, streaming=True).rows
    assert said(streamed) == turns


def test_nested_columns(tmp_path: Path) -> None:
    row = {"id": "1", "input": {"conversation": objects("speaker", "utterance")}, "output": "Stairs."}
    options = {"dialogue_column": "input.conversation", "summary_columns": ["output"]}
    (example,) = load(tmp_path / "a.jsonl", [row], **options).rows
    assert (said(example), example["references"]) == (TURNS, ["Stairs."])


def test_a_perfect_system_scores_100_on_summaries_in_sentences(tmp_path: Path) -> None:
    rows = [
        {"id": n, "turns": objects("speaker", "text"), "summary": [f"mara asks about lift {n}.", "jon says monday."]}
        for n in "ab"
    ]
    options = {"instruction": "Lift {id}.\n\n{dialogue}"}  # one dialogue, two examples
    references = load(tmp_path / "a.jsonl", rows, **options).rows["references"]
    assert references == [["mara asks about lift a. jon says monday."], ["mara asks about lift b. jon says monday."]]
    scores = rouge_scores([one for (one,) in references], references)
    assert {kind: sum(map(sum, values)) / 2 for kind, values in scores.items()} == dict.fromkeys(scores, 100)


@pytest.mark.parametrize("streaming", [False, True])
def test_texts_and_lists_in_one_column(tmp_path: Path, streaming: bool) -> None:
    """Four rows of text, then ninety-six lists: none is lost."""
    text = "\n".join(f"{who}: {words}" for who, words in TURNS)
    values = [text] * 4 + [objects("speaker", "text")] * 96
    rows = [{"id": str(n), "dialogue": value, "summary": f"s{n}"} for n, value in enumerate(values)]
    rows = [row | {"dialogue": f"{text}{n}"} if n < 4 else row for n, row in enumerate(rows)]
    examples = load(tmp_path / "a.jsonl", rows, streaming=streaming)
    list(examples.rows)
    assert (examples.counts.kept, examples.counts.dropped.total()) == (100, 0)


def test_rows_of_another_format_than_most(tmp_path: Path) -> None:
    texts = ["Mara: Hi.\nJon: Yes?", "Mara: So.\nJon: No.", ZOOM, VTT, "customer: so. support: what? customer: that."]
    rows = [{"dialogue": text, "summary": "s"} for text in texts]
    examples = load(tmp_path / "a.jsonl", rows)
    assert [len(said(example)) for example in examples.rows] == [2, 2, 3, 3, 3]
    assert examples.counts.one_speaker == 0
    named = load(
        tmp_path / "a.jsonl", [{"dialogue": text, "summary": "s"} for text in texts], dialogue_format="labels"
    )
    assert [len(said(example)) for example in named.rows][-1] == 1


def test_keys_without_a_speaker_are_named(tmp_path: Path) -> None:
    examples = load(tmp_path / "a.jsonl", [{"turns": objects("party", "text"), "summary": "s"}])
    assert examples.counts.one_speaker == 1
    assert any(note.endswith("; turns have the keys party, text") for note in examples.notes)
    (example,) = load(
        tmp_path / "a.jsonl", [{"turns": objects("party", "text"), "summary": "s"}], speaker_key="party"
    ).rows
    assert said(example) == TURNS
