"""Labels: what is kept, set aside or dropped, and the files that training reads."""

import json
from pathlib import Path
from typing import Any

from dialogsum_sft import InputError
from dialogsum_sft.arguments import DialogueArguments, LabelArguments
from dialogsum_sft.data.counts import Counts
from dialogsum_sft.data.dialogue_reader import read_dialogue
from dialogsum_sft.labelling.labels import (
    DROPPED,
    KEPT,
    SET_ASIDE,
    Decision,
    check_folder,
    distinct,
    judged,
    read_labels,
    write_decisions,
    write_labels,
    write_rows,
)

import pytest
from made_labels import CHAT, label, row, summary


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.open(encoding="utf-8")] if path.is_file() else []


@pytest.mark.parametrize(
    ("record", "status", "why"),
    [
        (summary("Mila and Oren leave at six."), KEPT, ""),
        (summary("I'm sorry, but I can't do this."), DROPPED, "refusal: I'm sorry, but I can't do this."),
        (summary("I cannot summarize this."), DROPPED, "refusal: I cannot summarize this."),
        (summary("As an AI language model, I ..."), DROPPED, "refusal: As an AI language model, I ..."),
        (summary("抱歉，我不能"), DROPPED, "refusal: 抱歉，我不能"),
        (summary("Sorrel is sold by Mila."), KEPT, ""),
        (summary("Ian can leave."), KEPT, ""),
        (summary("Mila and", finish_reason="length"), DROPPED, "cut off at max_new_tokens: length"),
        (summary("Mila", finish_reason="MAX_TOKENS"), DROPPED, "cut off at max_new_tokens: MAX_TOKENS"),
        (summary("", finish_reason="content_filter"), DROPPED, "content_filter"),
        (summary("", fault="HTTP 400: too long: by far"), DROPPED, "HTTP 400: too long: by far"),
        (summary("", fault="empty answer"), DROPPED, "empty answer"),
        (summary("Here is a summary:"), DROPPED, "empty answer"),
        (summary("```\n```"), DROPPED, "empty answer"),
        (summary("Ada leaves.", unsupported_names=["Ada"]), SET_ASIDE, "names that the dialogue lacks: Ada"),
        (
            summary("Ada, 7, 8.", unsupported_names=["Ada"], unsupported_numbers=["7", "8"]),
            SET_ASIDE,
            "names and numbers that the dialogue lacks: Ada; 7, 8",
        ),
    ],
)
def test_a_summary_is_kept_set_aside_or_dropped(record: dict[str, Any], status: str, why: str) -> None:
    made = judged(row(), record)
    assert (made.status, made.why) == (status, why)


def test_a_preamble_is_taken_off() -> None:
    made = judged(row(), summary("Sure! Here is a summary of the dialogue:\n\nThey leave at six."))
    assert (made.summary, made.had_preamble, made.status) == ("They leave at six.", True, KEPT)


def test_repeated_dialogues_are_one_and_other_fields_are_another() -> None:
    assert len(distinct([row(), row(), row(section="plan"), row("Ann: Hi.\nBen: Hi.")])) == 3


def test_a_share_is_held_out_whatever_the_order(tmp_path: Path) -> None:
    labels = [label(n) for n in range(20)]
    counts = write_rows(tmp_path, labels, 0.2, 42)
    assert (counts["train"], counts["validation"]) == (16, 4)
    held_out = {row["id"] for row in rows_of(tmp_path / "validation.jsonl")}
    assert held_out.isdisjoint(row["id"] for row in rows_of(tmp_path / "train.jsonl"))
    write_rows(tmp_path, labels[::-1], 0.2, 42)
    assert {row["id"] for row in rows_of(tmp_path / "validation.jsonl")} == held_out
    write_rows(tmp_path, labels, 0.2, 7)
    assert {row["id"] for row in rows_of(tmp_path / "validation.jsonl")} != held_out
    assert write_rows(tmp_path, labels, 0.0, 42)["validation"] == 0
    assert not (tmp_path / "validation.jsonl").exists()
    assert write_rows(tmp_path, labels[:1], 0.5, 42)["train"] == 1


def test_decisions_change_the_rows_and_move_no_other(tmp_path: Path) -> None:
    labels = [*(label(n) for n in range(10)), label(10, SET_ASIDE, reason="names", found="Ada"), label(11, DROPPED)]
    write_rows(tmp_path, labels, 0.3, 42)
    before = {row["id"] for row in rows_of(tmp_path / "validation.jsonl")}
    assert rows_of(tmp_path / "set_aside.jsonl")[0]["found"] == "Ada"
    held_out = min(before)
    corrected, stale, *_ = (one for one in labels if one.id not in before)
    decided = [
        Decision(labels[10].key, "accepted", labels[10].summary),
        Decision(corrected.key, "corrected", corrected.summary, "A better one."),
        *(Decision(one.key, "rejected", one.summary) for one in labels if one.id == held_out),
        Decision(stale.key, "rejected", "An earlier summary."),
    ]
    write_decisions(tmp_path, {one.key: one for one in decided})
    counts = write_rows(tmp_path, labels, 0.3, 42)
    assert {row["id"] for row in rows_of(tmp_path / "validation.jsonl")} == before - {held_out}
    train = {row["id"]: row["summary"] for row in rows_of(tmp_path / "train.jsonl")}
    assert len(train) == 8
    assert (train["d10"], train[corrected.id], train[stale.id]) == ("Summary 10.", "A better one.", stale.summary)
    assert not (tmp_path / "set_aside.jsonl").exists()
    assert counts["decisions"] == {"accepted": 1, "corrected": 1, "rejected": 1}
    assert counts["notes"] == {"decisions about other summaries": 1}


def test_dialogues_are_texts_where_these_are_read_alike(tmp_path: Path) -> None:
    whatsapp = "[12.03.24, 10:15:30] Mila: The boat leaves at six.\n[12.03.24, 10:16:02] Oren: Good."
    write_rows(tmp_path, [label()], 0, 42)
    assert rows_of(tmp_path / "train.jsonl")[0]["dialogue"] == f"{CHAT}\nMila: Number 0."
    stamped = judged(row(whatsapp), summary("They leave."))
    write_rows(tmp_path, [stamped], 0, 42)
    assert rows_of(tmp_path / "train.jsonl")[0]["dialogue"] == whatsapp
    unlabelled = judged(row("Mila 10:15\nThe boat\n\nOren 10:16\nGood."), summary("They leave."))
    write_rows(tmp_path, [label(), stamped, unlabelled, judged(row("Only one line"), summary("x"))], 0, 42)
    for made, one in zip(rows_of(tmp_path / "train.jsonl"), (label(), stamped, unlabelled), strict=False):
        read = read_dialogue(made["dialogue"], DialogueArguments(), Counts())
        own = read_dialogue(one.dialogue, DialogueArguments(), Counts())
        assert [(turn.speaker, turn.text) for turn in read.turns] == [(turn.speaker, turn.text) for turn in own.turns]


def test_columns_of_the_instruction_stay(tmp_path: Path) -> None:
    write_rows(tmp_path, [judged(row(section="plan", id="7"), summary("x"))], 0, 42)
    (made,) = rows_of(tmp_path / "train.jsonl")
    assert made == {"id": "a", "dialogue": CHAT, "summary": "x", "section": "plan"}


def test_labels_are_read_back(tmp_path: Path) -> None:
    labels = [label(), label(1, SET_ASIDE, reason="names")]
    write_labels(tmp_path, labels)
    assert read_labels(tmp_path) == labels
    with pytest.raises(InputError, match="has no labels yet"):
        read_labels(tmp_path / "none")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"validation_share": 1.0}, "--validation_share 1.0: give a share such as 0.1, or 0 for none"),
        ({"sheet_size": -1}, "--sheet_size -1: give 0 or more"),
        ({"accept": "a.csv", "input_files": ["b"]}, "--accept takes decisions in .*: leave the dialogues out"),
        ({"input_files": ["."]}, "--output_dir out lies in ., which is read: give another"),
        ({"output_dir": "other"}, "other has train.jsonl of another program: give another --output_dir"),
    ],
)
def test_options_that_cannot_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "train.jsonl").write_text("{}")
    args = LabelArguments(**({"output_dir": "out"} | options))
    with pytest.raises(InputError, match=f"^{message}$"):
        check_folder(Path(args.output_dir), args)
