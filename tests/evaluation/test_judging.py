"""What a judge is asked, and what its answers say."""

import json
from pathlib import Path
from typing import Any

from dialogsum_sft.evaluation.judging import (
    KINDS,
    Question,
    pairwise_questions,
    prompt_record,
    read_verdict,
    single_questions,
)
from dialogsum_sft.evaluation.runs import score_run

import pytest

PAIR = Question("pairwise", 0, (0, 1), "")
SENTENCES = Question("faithfulness", 0, (0,), "", 2)
POINTS = Question("coverage", 0, (0,), "", 2, (1, 1))


def runs(*predictions: str) -> Any:
    row = {"id": "a", "dialogue": "Ann: {{ x }}?\nBen: Ignore <b>that</b>.", "references": ["She asks. He refuses."]}
    return [score_run(f"zebra{n}", Path(), [row | {"prediction": text}]) for n, text in enumerate(predictions)]


def test_both_orders_are_asked_without_the_names_of_the_runs() -> None:
    asked = list(pairwise_questions(runs("Ann asks.", "Ben refuses.")))
    assert [question.runs for question in asked] == [(0, 1), (1, 0)]
    first, second = (question.text for question in asked)
    assert "Ann: {{ x }}?\nBen: Ignore <b>that</b>." in first
    assert "<summary_A>\nAnn asks.\n</summary_A>\n\n<summary_B>\nBen refuses.\n</summary_B>" in first
    assert "<summary_A>\nBen refuses.\n</summary_A>\n\n<summary_B>\nAnn asks.\n</summary_B>" in second
    assert "zebra" not in first + second
    assert "Length does not count" in first
    assert first.index('"reason"') < first.index('"verdict"')


def test_equal_summaries_are_not_asked_about_and_every_later_run_meets_the_first() -> None:
    assert list(pairwise_questions(runs("Ann asks.", " Ann asks."))) == []
    asked = list(pairwise_questions(runs("a", "b", "c")))
    assert [question.runs for question in asked] == [(0, 1), (1, 0), (0, 2), (2, 0)]
    assert "<summary_B>\n(no summary)\n</summary_B>" in next(iter(pairwise_questions(runs("a", "")))).text


def test_sentences_are_numbered_and_empty_summaries_left_out() -> None:
    faithfulness, coverage = single_questions(runs("Ann asks. Ben refuses!", ""))
    assert (faithfulness.kind, faithfulness.runs, faithfulness.sentences) == ("faithfulness", (0,), 2)
    assert "<summary>\n1. Ann asks.\n2. Ben refuses!\n</summary>" in faithfulness.text
    assert (coverage.kind, coverage.sentences, coverage.points) == ("coverage", 2, (2,))
    assert "<points>\n1. She asks.\n2. He refuses.\n</points>" in coverage.text
    assert "{{ x }}" not in coverage.text


def test_prompts_are_recorded_by_their_hash() -> None:
    record = prompt_record()
    assert list(record) == list(KINDS)
    assert {len(one["sha256"]) for one in record.values()} == {64}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"reason": "x", "verdict": "A"}', 0),
        ('{"reason": "x", "verdict": "B"}', 1),
        ('{"verdict": "tie"}', "tie"),
        ('{"reason": "two\nlines", "verdict": "Summary b."}', 1),
        ('```json\n{"reason": "x {y}", "verdict": "B"}\n```', 1),
        ('Both are short. {A or B}? I say:\n{"reason": "x", "verdict": "A"} That is all.', 0),
        ('First {"verdict": "A"}, but then again {"reason": "x", "verdict": "B"}', 1),
        ('<think>{"verdict": "A"}</think>{"reason": "x", "verdict": "tie"}', "tie"),
    ],
)
def test_the_last_object_decides(text: str, value: Any) -> None:
    verdict = read_verdict(PAIR, text, "stop", None)
    assert (verdict.value, verdict.failure) == (value, None)


@pytest.mark.parametrize(
    ("text", "reason", "fault", "kind"),
    [
        ("A is better.", "stop", None, "no JSON"),
        ("I'm sorry, but I can't compare these.", "stop", None, "refusal"),
        ("", "stop", "refusal: I will not.", "refusal"),
        ('{"reason": "x", "verdict": "A"', "stop", None, "bad JSON"),
        ('{"reason": "says "no"", "verdict": "A"}', "stop", None, "bad JSON"),
        ('{"verdict": "A"} or rather {"verdict": ', "stop", None, "bad JSON"),
        ('{"reason": "x", "verdict": "A"}', "length", None, "cut off"),
        ('{"reason": "x", "verdict": "A"}', "MAX_TOKENS", None, "cut off"),
        ('{"reason": "x", "verdict": "neither"}', "stop", None, "no verdict"),
        ('{"reason": "A"}', "stop", None, "no verdict"),
        ("<think>A seems", "stop", None, "thinking without an end"),
        ("", "content_filter", "HTTP 400: policy", "filtered"),
        ("", "error", "HTTP 500 at each try: down", "HTTP 500 at each try"),
        ("", "stop", "empty answer", "empty answer"),
    ],
)
def test_what_is_no_verdict_is_named(text: str, reason: str, fault: str | None, kind: str) -> None:
    assert read_verdict(PAIR, text, reason, fault).failure == kind


def test_every_sentence_and_point_needs_its_verdict() -> None:
    def read(question: Question, value: Any) -> Any:
        verdict = read_verdict(question, json.dumps(value), "stop", None)
        return verdict.failure or verdict.value

    def said(*pairs: Any) -> Any:
        return {"sentences": [{"sentence": number, "reason": "x", "faithful": value} for number, value in pairs]}

    def points(*pairs: Any) -> Any:
        return {"points": [{"point": number, "reason": "x", "sentences": value} for number, value in pairs]}

    assert read(SENTENCES, said((2, False), (1, True))) == [True, False]
    assert read(SENTENCES, said((1, True))) == "sentences left out"
    assert read(SENTENCES, said((1, True), (2, True), (2, False))) == "sentences left out"
    assert read(SENTENCES, said((1, True), (2, "maybe"))) == "no verdict"
    assert read(SENTENCES, {"sentences": [True, False]}) == "no verdict"
    assert read(POINTS, points((1, [1, 2]), (2, []))) == [[1, 2], []]
    assert read(POINTS, points((1, [3]), (2, []))) == "no verdict"  # there is no third sentence
    assert read(POINTS, points((1, [1]))) == "sentences left out"
    broken = json.dumps(said((1, True), (2, True)))[:-2]
    assert read_verdict(SENTENCES, broken, "stop", None).failure == "bad JSON"
