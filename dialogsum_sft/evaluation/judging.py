"""What a judge is asked about the summaries of runs, and what its answers say; no model is asked here.

Pairwise, as in Zheng et al. 2023 (arXiv:2306.05685): two summaries of a dialogue are compared in both orders. Single,
after FineSurE (Song et al. 2024, arXiv:2407.00908): each sentence of a summary is checked against the dialogue, and
each sentence of the references, FineSurE's key facts, against the summary. The prompts are judge_prompts/*.jinja.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from dialogsum_sft.data.answers import is_cut_off, is_refusal, read_answer
from dialogsum_sft.data.transcripts import dialogue_of
from dialogsum_sft.evaluation.rouge import split_sentences
from dialogsum_sft.evaluation.runs import Run

import jinja2

KINDS = ("pairwise", "faithfulness", "coverage")
_PROMPTS = Path(__file__).parent / "judge_prompts"


@dataclass(frozen=True)
class Question:
    """One request to a judge: `text` is the user's message.

    `row` is the number of the dialogue, `runs` are those of the runs in the order in which their summaries are shown:
    two of a pairwise question. `sentences` is the number of sentences of the summary, `points` the number of those of
    each reference.
    """

    kind: str
    row: int
    runs: tuple[int, ...]
    text: str
    sentences: int = 0
    points: tuple[int, ...] = ()

    @property
    def digest(self) -> str:
        """The name of the question in journals and judge.jsonl."""
        return hashlib.sha256(self.text.encode(errors="replace")).hexdigest()[:24]


@dataclass(frozen=True)
class Verdict:
    """What an answer says, or the kind of its `failure`.

    `value` of a pairwise question is 0, 1 (the summary shown first or second is better) or "tie"; of faithfulness a
    bool for each sentence; of coverage for each point the numbers, from 1, of the sentences that convey it.
    """

    value: Any = None
    failure: str | None = None


def pairwise_questions(runs: Sequence[Run]) -> Iterator[Question]:
    """Each later run against the first, both orders; none of summaries that are equal."""
    for number in range(1, len(runs)):
        for at, row in enumerate(runs[0].rows):
            texts = {index: runs[index].rows[at]["prediction"].strip() for index in (0, number)}
            if texts[0] == texts[number]:
                continue
            for order in ((0, number), (number, 0)):
                first, second = (texts[index] or "(no summary)" for index in order)
                dialogue = dialogue_of(row).text
                text = _prompt("pairwise").render(dialogue=dialogue, summary_a=first, summary_b=second)
                yield Question("pairwise", at, order, text)


def single_questions(runs: Sequence[Run]) -> Iterator[Question]:
    """Two questions about each summary of each run, none about an empty one."""
    for number, run in enumerate(runs):
        for at, row in enumerate(run.rows):
            said = sentences(row["prediction"])
            if not said:
                continue
            text = _prompt("faithfulness").render(dialogue=dialogue_of(row).text, sentences=said)
            yield Question("faithfulness", at, (number,), text, len(said))
            by_reference = [points for reference in row["references"] if (points := sentences(reference))]
            if by_reference:
                points = [point for of_one in by_reference for point in of_one]
                text = _prompt("coverage").render(sentences=said, points=points)
                yield Question("coverage", at, (number,), text, len(said), tuple(map(len, by_reference)))


def sentences(text: str) -> list[str]:
    return [sentence.strip() for sentence in split_sentences(text).split("\n") if sentence.strip()]


def prompt_record() -> dict[str, dict[str, str]]:
    """File and SHA-256 of the prompt of each kind of question."""
    paths = {kind: _PROMPTS / f"{kind}.jinja" for kind in KINDS}
    return {
        kind: {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        for kind, path in paths.items()
    }


@cache
def _prompt(kind: str) -> jinja2.Template:
    loader, undefined = jinja2.FileSystemLoader(_PROMPTS), jinja2.StrictUndefined
    environment = jinja2.Environment(loader=loader, undefined=undefined, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template(f"{kind}.jinja")


def read_verdict(question: Question, text: str, finish_reason: str | None, fault: str | None) -> Verdict:
    """The verdict in an answer: that of its last JSON object, after thinking, prose or within a fence.

    Kinds of failure: "cut off", "filtered", "refusal", "no JSON", "bad JSON" (broken, or broken after the last whole
    object), "no verdict", "sentences left out" (or said twice), "thinking without an end", and the first words of an
    endpoint's `fault`, such as "HTTP 500 at each try".
    """
    if finish_reason == "content_filter":
        return Verdict(failure="filtered")
    if is_cut_off(finish_reason):
        return Verdict(failure="cut off")
    if fault is not None:
        return Verdict(failure=fault.partition(":")[0])
    answer = read_answer(text)
    if answer.is_unclosed:
        return Verdict(failure="thinking without an end")
    objects = list(_objects(answer.summary))
    if not objects:
        return Verdict(failure="refusal" if is_refusal(answer.summary.strip()) else "no JSON")
    if objects[-1] is None:
        return Verdict(failure="bad JSON")
    verdicts = [_READ[question.kind](question, one) for one in objects if one is not None]
    whole = [verdict for verdict in verdicts if verdict.failure is None]
    if not whole and None in objects:  # the parts of a broken object
        return Verdict(failure="bad JSON")
    return whole[-1] if whole else verdicts[-1]


def _objects(text: str) -> Iterator[dict[str, Any] | None]:
    """The JSON objects in a text, in order; None for a brace with which none begins."""
    decoder = json.JSONDecoder(strict=False)
    at = text.find("{")
    while at >= 0:
        try:
            value, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            yield None
            end = at + 1
        else:
            yield value
        at = text.find("{", end)


def _better(question: Question, answer: dict[str, Any]) -> Verdict:
    word = str(answer.get("verdict")).strip().strip(".").lower().removeprefix("summary").strip(" _")
    values = {"a": 0, "b": 1, "tie": "tie"}
    return Verdict(values[word]) if word in values else Verdict(failure="no verdict")


def _faithful(question: Question, answer: dict[str, Any]) -> Verdict:
    entries = _numbered(answer, "sentences", "sentence")
    if not entries or not all(isinstance(entry.get("faithful"), bool) for _, entry in entries):
        return Verdict(failure="no verdict")
    if sorted(number for number, _ in entries) != list(range(1, question.sentences + 1)):
        return Verdict(failure="sentences left out")
    return Verdict([entry["faithful"] for _, entry in sorted(entries, key=lambda item: item[0])])


def _conveyed(question: Question, answer: dict[str, Any]) -> Verdict:
    entries = _numbered(answer, "points", "point")
    if not entries or not all(_are_numbers(entry.get("sentences"), question.sentences) for _, entry in entries):
        return Verdict(failure="no verdict")
    if sorted(number for number, _ in entries) != list(range(1, sum(question.points) + 1)):
        return Verdict(failure="sentences left out")
    return Verdict([entry["sentences"] for _, entry in sorted(entries, key=lambda item: item[0])])


def _numbered(answer: dict[str, Any], name: str, number: str) -> list[tuple[int, dict[str, Any]]]:
    """(number, entry) of the list `name`; empty where it is none, or an entry has no number."""
    entries = answer.get(name)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        return []
    return [(entry[number], entry) for entry in entries] if all(type(e.get(number)) is int for e in entries) else []


def _are_numbers(value: Any, most: int) -> bool:
    return isinstance(value, list) and all(type(number) is int and 1 <= number <= most for number in value)


_READ = {"pairwise": _better, "faithfulness": _faithful, "coverage": _conveyed}
