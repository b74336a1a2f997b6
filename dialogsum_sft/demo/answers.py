"""Summaries for the page: the text as it is written, stopped when asked, with what is wrong in it."""

import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from dialogsum_sft import InputError
from dialogsum_sft.data.counts import Counts
from dialogsum_sft.data.dialogue import Dialogue, rename_speakers
from dialogsum_sft.data.encoding import Prompt
from dialogsum_sft.data.transcripts import dialogue_of
from dialogsum_sft.demo.waiting import Waiting
from dialogsum_sft.evaluation.diagnostics import diagnose
from dialogsum_sft.evaluation.english import is_english
from dialogsum_sft.evaluation.rouge import HEADLINE, rouge_scores
from dialogsum_sft.report.report import FINDINGS, segments
from dialogsum_sft.summarizer import Summarizer, Summary

logger = logging.getLogger(__name__)


class _Stopped(Exception):
    """Raised in a generation to end it."""


@dataclass
class Column:
    """A system and its summary; `state` is "" (not begun), "writing", "done", "stopped", or "failed".

    `pieces` are those of `report.segments`. `rouge` is F1 x 100, the mean over the references. `seconds` are those of
    the generation.
    """

    label: str
    name: str
    base: bool = False
    state: str = ""
    text: str = ""
    fault: str = ""
    seconds: float = 0.0
    summary: Summary | None = None
    pieces: list[list[str]] = field(default_factory=list)
    findings: list[tuple[str, str]] = field(default_factory=list)
    rouge: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class TurnRead:
    """A turn, as pieces (text, whether the model reads it); `state` is "", "cut" or "dropped"."""

    speaker: str | None
    pieces: list[tuple[str, bool]]
    state: str


@dataclass
class Answer:
    """What the page shows of a request; `turns` is None before the dialogue is read."""

    status: str
    columns: Sequence[Column] = ()
    references: int = 0
    turns: list[TurnRead] | None = None
    notes: list[str] = field(default_factory=list)
    failed: bool = False


class Answers:
    """Answers the page's requests with `summarizer`, one at a time.

    `systems` are (label, name, whether it is the model without its adapter). `rows` are dialogues that the page
    offers, whose turns and columns are known.
    """

    def __init__(
        self,
        summarizer: Summarizer,
        systems: Sequence[tuple[str, str, bool]],
        waiting: Waiting,
        *,
        max_characters: int,
        rows: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        self.summarizer, self.systems, self.waiting, self.max_characters = summarizer, systems, waiting, max_characters
        self.rows = {row["dialogue"]: row for row in rows}
        self._worker, self._closed = ThreadPoolExecutor(1), threading.Event()

    def stream(self, text: str, references: str, stopped: threading.Event) -> Iterator[Answer]:
        """Yield what is to be shown, whenever it changes, until the summaries are written or `stopped` is set.

        `references` are separated by empty lines. Closing the iterator ends the generation too.
        """
        try:
            row, notes = self._read(text)
            ticket = self.waiting.enter()
        except InputError as error:
            yield Answer(str(error), failed=True)
            return
        wanted = [part.strip() for part in references.replace("\r\n", "\n").split("\n\n") if part.strip()]
        answer = Answer("", [Column(*system) for system in self.systems], len(wanted), notes=notes)
        try:
            while ahead := self.waiting.ahead(ticket):
                others = "1 request is" if ahead == 1 else f"{ahead} requests are"
                answer.status = f"In the queue: {others} served before this one."
                yield answer
                if stopped.wait(0.25) or self._closed.is_set():
                    yield Answer("Stopped before it began.")
                    return
            answer.status = "Writing …"
            prompt = self.summarizer.prompts([row])[0]
            answer.turns = turns_read(self._as_given(row), prompt)
            for column in answer.columns:
                yield from self._write(answer, column, row, prompt, wanted, stopped)
                if column.state == "stopped":
                    break
            states = {column.state for column in answer.columns}
            seconds = sum(column.seconds for column in answer.columns)
            ends = "Stopped after" if states & {"", "stopped"} else "Failed after" if "failed" in states else "Done in"
            answer.status = f"{ends} {seconds:.1f} s."
            yield answer
        except InputError as error:
            yield Answer(str(error), failed=True)
        finally:
            self.waiting.leave(ticket)

    def _read(self, text: str) -> tuple[Mapping[str, Any], list[str]]:
        text = text.replace("\r\n", "\n")
        if not text.strip():
            raise InputError("There is no dialogue yet: paste one, or choose an example.")
        if len(text) > self.max_characters:
            raise InputError(
                f"The dialogue has {len(text):,} characters, and the page takes {self.max_characters:,} "
                "(--max_characters)."
            )
        if known := self.rows.get(text):
            return known, []
        counts = Counts()
        try:
            row = self.summarizer.read(text, counts)
        except ValueError as error:
            raise InputError(f"This cannot be read as a dialogue: {error}") from error
        notes = [] if dialogue_of(row).speakers else ["No speakers were found: each line is a turn."]
        if counts.system_lines:
            notes.append(f"{counts.system_lines} lines that an app wrote are left out.")
        return row, notes

    def _as_given(self, row: Mapping[str, Any]) -> Dialogue:
        dialogue = dialogue_of(row)
        return rename_speakers(dialogue).dialogue if self.summarizer.settings.rename_speakers else dialogue

    def _write(
        self,
        answer: Answer,
        column: Column,
        row: Mapping[str, Any],
        prompt: Prompt,
        references: list[str],
        stopped: threading.Event,
    ) -> Iterator[Answer]:
        def watch(text: str) -> None:
            if stopped.is_set() or self._closed.is_set():
                raise _Stopped
            column.text = text or column.text

        column.state, start = "writing", time.monotonic()
        future = self._worker.submit(self.summarizer.write, row, prompt, watch, base=column.base)
        done = threading.Event()
        future.add_done_callback(lambda _: done.set())
        shown: str | None = None
        try:
            while not done.wait(0.08):
                if column.text != shown:
                    shown = column.text
                    yield answer
        finally:
            if not done.is_set():  # the page is gone
                stopped.set()
                done.wait()
        column.seconds = time.monotonic() - start
        _finish(column, future, row, references)
        yield answer

    def close(self) -> None:
        """End what is being written."""
        self._closed.set()
        self._worker.shutdown(wait=False, cancel_futures=True)


def _finish(column: Column, future: Future[Summary], row: Mapping[str, Any], references: list[str]) -> None:
    """Put the outcome of a generation into its column."""
    try:
        summary = future.result()
    except _Stopped:
        column.state = "stopped"
        return
    except InputError as error:
        column.state, column.fault = "failed", str(error)
        return
    except Exception as error:
        logger.exception("no summary")
        column.state, column.fault = "failed", " ".join(f"{type(error).__name__}: {error}".split())[:300]
        return
    column.text, column.summary = summary.text, summary
    column.state, column.fault = ("done", "") if summary.fault is None else ("failed", summary.fault)
    judged = {**row, "prediction": summary.text, "references": references or [""]}
    diagnosis = diagnose(judged | {"finish_reason": summary.finish_reason})
    column.pieces = segments(summary.text, diagnosis)
    column.findings = [(name, label) for name, (label, what) in FINDINGS.items() if getattr(diagnosis, what)]
    if references:
        tokenizer = "default" if is_english(summary.text, row["dialogue"]) else "unicode"
        scores = rouge_scores([summary.text], [references], tokenizer)
        column.rouge = {label: sum(scores[kind][0]) / len(references) for kind, label in HEADLINE.items()}


def turns_read(dialogue: Dialogue, prompt: Prompt) -> list[TurnRead]:
    """The turns of a dialogue, with the characters between the opening and the end that its prompt keeps marked."""
    whole, start = dialogue.text, len(dialogue.text)
    end = start
    if any(prompt.lost.values()):
        start = len(os.path.commonprefix([whole, prompt.text]))
        rest, kept = whole[start:], prompt.text[start:]
        end = len(whole) - len(os.path.commonprefix([rest[::-1], kept[::-1]]))
    turns, at = [], 0
    for turn in dialogue.turns:
        cuts = [at + turn.label, start, end, at + len(turn.raw)]
        at += len(turn.raw)
        first, last = cuts[0], cuts[-1]
        before, lost, after = (
            whole[max(first, a) : min(last, b)] for a, b in ((first, start), (start, end), (end, last))
        )
        state = "" if not lost.strip() else "cut" if (before + after).strip() else "dropped"
        pieces = [(text, read) for text, read in ((before, True), (lost, False), (after, True)) if text.strip()]
        if pieces:
            pieces[0] = (pieces[0][0].lstrip(), pieces[0][1])
            pieces[-1] = (pieces[-1][0].rstrip(), pieces[-1][1])
        turns.append(TurnRead(turn.speaker, pieces, state))
    return turns
