"""Columns by name and by path: nested fields, fan-out, summaries as lists, columns in the instruction."""

import json
import re
from pathlib import Path
from typing import Any

from dialogsum_sft import InputError
from dialogsum_sft.arguments import DataArguments
from dialogsum_sft.data.encoding import build_prompts
from dialogsum_sft.data.examples import Examples, fields_of, load_examples
from dialogsum_sft.data.prompts import PromptSettings
from dialogsum_sft.data.transcripts import dialogue_of

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trl import ScriptArguments

TURNS = [{"speaker": "Ann", "text": "Hi."}, {"speaker": "Ben", "text": "Hello."}]


def load(folder: Path, *rows: dict[str, Any], **options: Any) -> Examples:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_examples(ScriptArguments(dataset_name=str(path)), DataArguments(**options), "train")


def test_nested_fields_by_dotted_paths(tmp_path: Path) -> None:
    row = {"input": {"conversation": TURNS}, "general": [{"answer": "They greet."}], "meta": {"id": 7, "topic": "hi"}}
    examples = load(
        tmp_path,
        row,
        dialogue_column="input.conversation",
        summary_columns=["general.0.answer"],
        id_column="meta.id",
        topic_column="meta.topic",
    )
    (example,) = examples.rows
    assert (example["id"], example["dialogue"], example["references"], example["topic"]) == (
        *("7", "Ann: Hi.\nBen: Hello.", ["They greet."], "hi"),
    )


def test_each_element_of_a_list_makes_a_row(tmp_path: Path) -> None:
    """With the query in the instruction they are different examples, though they share the dialogue."""
    row = {"id": "m", "turns": TURNS, "queries": [{"q": "Who?", "answer": "Ann."}, {"q": "What?", "answer": "Hi."}]}
    options = {"dialogue_column": "turns", "summary_columns": ["queries[].answer"]}
    instruction = "Answer: {queries[].q}\n\n{dialogue}"
    examples = load(tmp_path, row, instruction=instruction, **options)
    assert [(one["id"], one["references"]) for one in examples.rows] == [("m_1", ["Ann."]), ("m_2", ["Hi."])]
    prompts = build_prompts(examples.rows.to_list(), None, PromptSettings(instruction), None)
    assert [prompt.messages[0]["content"].split("\n")[0] for prompt in prompts] == ["Answer: Who?", "Answer: What?"]
    together = load(tmp_path, row, **options)
    assert [(one["id"], one["references"]) for one in together.rows] == [("m_1", ["Ann.", "Hi."])]


def test_the_elements_of_several_lists_make_rows(tmp_path: Path) -> None:
    """Their fields are named in the instruction with or without the path."""
    row = {
        "turns": TURNS,
        "general": [{"query": "All?", "answer": "They greet."}],
        "special": [{"query": "Who?", "answer": "Ann."}, {"query": "What?", "answer": "Hi."}],
    }
    options = {
        "summary_columns": ["general[].answer", "special[].answer"],
        "instruction": "Answer: {query}",
        "allow_dropped_rows": True,
    }
    examples = load(tmp_path, row, row | {"turns": TURNS[:1], "special": []}, {"turns": TURNS}, **options)
    assert [(one["id"], fields_of(one), one["references"]) for one in examples.rows] == [
        ("1_1", {"query": "All?"}, ["They greet."]),
        ("1_2", {"query": "Who?"}, ["Ann."]),
        ("1_3", {"query": "What?"}, ["Hi."]),
        ("2_1", {"query": "All?"}, ["They greet."]),
    ]


def test_json_in_a_cell_has_nested_fields(tmp_path: Path) -> None:
    info = json.dumps({"summaries": [["One.", "Two."], ["Three."], None], "tags": ["a", "b"]})
    options = {"summary_columns": ["info.summaries"], "instruction": "Write of {info.tags}."}
    (one,) = load(tmp_path, {"log": TURNS, "info": info}, allow_dropped_rows=True, **options).rows
    assert (one["references"], fields_of(one)) == (["One. Two.", "Three."], {"info.tags": "a, b"})


def test_a_cell_with_json_that_was_cut_off_has_no_nested_field(tmp_path: Path) -> None:
    rows = [
        {"call": json.dumps({"text": "Ann: Hi.\nBob: Yo."}), "summary": "a"},
        {"call": '{"text": "An', "summary": "b"},
    ]
    examples = load(tmp_path, *rows, dialogue_column="call.text", allow_dropped_rows=True)
    assert examples.counts.record()["rows_dropped"] == {"call.text is null": 1}


def test_columns_in_the_instruction_and_the_system_prompt(tmp_path: Path) -> None:
    rows = [
        {"id": n, "dialogue": "Ann: {section}", "summary": "s", "section": n, "lang": "fr"} for n in ("HPI", "ROS")
    ]
    options = {"instruction": "Write the {section}.", "system_prompt": "Answer in {lang}, {unknown}."}
    examples = load(tmp_path, *rows, **options)
    assert len(examples.rows) == 2
    assert any("{unknown} in the instruction is no column and stays as it is" in note for note in examples.notes)
    first, _ = build_prompts(examples.rows.to_list(), None, PromptSettings(**options), None)
    assert [message["content"] for message in first.messages] == [
        "Answer in fr, {unknown}.",
        "Write the HPI.\n\nAnn: {section}",
    ]


@pytest.mark.parametrize(
    ("row", "options", "references"),
    [
        ({"summary": ["One.", "Two."]}, {}, ["One. Two."]),
        ({"summary": ["One.", "Two."]}, {"summary_join": "\n"}, ["One.\nTwo."]),
        ({"summaries": ["One.", "Two."]}, {}, ["One.", "Two."]),
        ({"references": ["One.", "Two."]}, {}, ["One.", "Two."]),
        ({"summary1": "One.", "summary2": "Two."}, {}, ["One.", "Two."]),
        ({"a": "One.", "b": "Two."}, {"summary_columns": ["a", "b"]}, ["One.", "Two."]),
    ],
)
def test_lists_of_sentences_and_lists_of_references(
    tmp_path: Path, row: dict[str, Any], options: dict[str, Any], references: list[str]
) -> None:
    (example,) = load(tmp_path, {"dialogue": "Ann: Hi.\nBen: Hi."} | row, **options).rows
    assert example["references"] == references


@pytest.mark.parametrize(
    ("name", "row", "options"),
    [
        ("summary", {"summary": "s"}, {}),
        ("highlights", {"highlights": "s"}, {}),
        ("summary2", {"summary1": "s", "summary2": "t"}, {}),
        ("summary2", {"summary": "s", "summary2": "t"}, {}),
        ("abstract", {"summary": "s", "abstract": "t"}, {}),
        ("gist", {"gist": "s"}, {"summary_columns": ["gist"]}),
        ("summaries.0", {"summaries": ["s"]}, {}),
        ("info", {"info": '{"gist": "s"}'}, {"summary_columns": ["info.gist"]}),
        ("qs[].answer", {"qs": [{"answer": "s"}]}, {"summary_columns": ["qs[].answer"]}),
        ("answer", {"qs": [{"answer": "s"}]}, {"summary_columns": ["qs[].answer"]}),
        ("answer", {"qs": [{"answer": {"text": "s"}}]}, {"summary_columns": ["qs[].answer.text"]}),
    ],
)
@pytest.mark.parametrize("option", ["instruction", "system_prompt"])
def test_a_summary_in_the_prompt_is_refused(
    tmp_path: Path, name: str, row: dict[str, Any], options: dict[str, Any], option: str
) -> None:
    with pytest.raises(InputError, match=rf"contains {{{re.escape(name)}}}, a summary, which the model"):
        load(tmp_path, {"dialogue": "Ann: Hi."} | row, **options, **{option: f"Write {{{name}}}"})


def test_a_column_beside_the_summary_may_be_in_the_prompt(tmp_path: Path) -> None:
    row = {"dialogue": "Ann: Hi.", "summary": "s", "gist": "t", "summary_style": "short"}
    (one,) = load(tmp_path, row, summary_columns=["gist"], instruction="{summary} {summary_style}").rows
    assert fields_of(one) == {"summary": "s", "summary_style": "short"}
    with pytest.raises(InputError, match=r"contains {chat}: for the dialogue write {dialogue}"):
        load(tmp_path, {"chat": "Ann: Hi.", "summary": "s"}, instruction="Sum up: {chat}")


@pytest.mark.parametrize("value", ["", " ", None, [], [""], float("nan"), "absent"])
def test_rows_without_a_column_of_the_instruction_are_dropped_and_counted(tmp_path: Path, value: Any) -> None:
    rows = [{"id": n, "dialogue": f"Ann: {n}.", "summary": "s", "query": "Who?"} for n in range(2)]
    rows[1]["query"] = value
    if value == "absent":
        del rows[1]["query"]
    examples = load(tmp_path, *rows, instruction="Answer: {query}", allow_dropped_rows=True)
    assert examples.rows["id"][:] == ["0"]
    assert examples.counts.dropped == {"query, which the instruction contains, is empty": 1}


def test_two_candidates_for_a_column_are_named_with_the_option(tmp_path: Path) -> None:
    row = {"conversation": "Ann: Hi.", "transcript": "x", "summary": "s", "abstract": "t"}
    with pytest.raises(InputError, match="conversation and transcript are candidates: choose by --dialogue_column"):
        load(tmp_path, row)
    row = {"dialogue": "Ann: Hi.", "highlights": "s", "abstract": "t"}
    with pytest.raises(InputError, match="highlights and abstract are candidates: choose by --summary_columns"):
        load(tmp_path, row)


def test_parallel_columns(tmp_path: Path) -> None:
    row = {"texts": ["Hi.", "Hello."], "who": ["Ann", "Ben"], "summary": "They greet."}
    (example,) = load(tmp_path, row, dialogue_column="texts", speaker_column="who").rows
    assert example["dialogue"] == "Ann: Hi.\nBen: Hello."


def test_a_missing_path_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no column input.turns: there are input, summary; .*queries\[\].answer"):
        load(tmp_path, {"input": {"x": 1}, "summary": "s"}, dialogue_column="input.turns")


def test_most_dialogues_without_speakers_are_pointed_out(tmp_path: Path) -> None:
    examples = load(tmp_path, {"dialogue": "no labels\nat all", "summary": "s"})
    assert examples.counts.one_speaker == 1
    assert "1 of 1 dialogues have one speaker or none" in examples.notes[0]
    assert [turn.text for turn in dialogue_of(examples.rows[0]).turns] == ["no labels", "at all"]


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda text: text.strip())


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.none() | texts, texts), min_size=1, max_size=8))
def test_any_turns_are_the_same_after_reading(tmp_path: Path, turns: list[tuple[str | None, str]]) -> None:
    value = [{"speaker": speaker, "text": text} for speaker, text in turns]
    (example,) = load(tmp_path, {"id": "a", "turns": value, "summary": "s"}).rows
    expected = [
        (
            " ".join(speaker.split()) or None if speaker else None,
            text.replace("\r\n", "\n").replace("\r", "\n").strip(),
        )
        for speaker, text in turns
    ]
    assert [(turn.speaker, turn.text) for turn in dialogue_of(example).turns] == expected
    (prompt,) = build_prompts([example], None, PromptSettings("{dialogue}"), None)
    assert prompt.messages[0]["content"] == example["dialogue"]
