"""Windows of whole turns, for dialogues that are longer than a prompt."""

import bisect
import itertools
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from dialogsum_sft import InputError
from dialogsum_sft.data.dialogue import Dialogue, Turn
from dialogsum_sft.data.shortening import Count

_SENTENCE_END = re.compile(r"[.!?]+[\"')\]”’»]*\s+|[。｡！？।॥؟۔]+[”’」』）]*\s*")


@dataclass(frozen=True)
class Window:
    """A part of a dialogue that was cut into pieces, most of them whole turns: `pieces` are the numbers of its pieces,
    `turns` the numbers of their turns.
    """

    dialogue: Dialogue
    pieces: range
    turns: tuple[int, ...]


def windows(
    dialogue: Dialogue, limit: int, lengths_of: Callable[[list[str]], list[int]], count: Count, overlap: float
) -> list[Window]:
    """Windows of whole turns, of about equal size, in whose prompts all turns are; no prompt is longer than `limit`.

    A window begins with the last `overlap` turns of the one before, or with that share of its turns where `overlap` is
    below 1; with fewer where the next turn would not fit. A turn that is longer than a window is cut into pieces, each
    with its speaker. `lengths_of` counts the tokens of the prompts with these texts, `count` those of texts alone.

    Raises InputError where a window has no room for a speaker's label and a word.
    """
    room = limit - lengths_of([""])[0]
    for _ in range(8):
        pieces = cut_turns(dialogue, room, count)
        sizes = count([turn.raw for _, turn in pieces])
        found = [
            Window(
                Dialogue.of([turn for _, turn in pieces[start:end]]),
                range(start, end),
                tuple(number for number, _ in pieces[start:end]),
            )
            for start, end in even_spans(sizes, room, overlap)
        ]
        surplus = max(lengths_of([window.dialogue.text for window in found])) - limit
        if surplus <= 0:
            return found
        room -= surplus  # tokens do not add up exactly
    raise InputError(f"no windows of {limit} tokens could be made: give a greater --max_length")


def even_spans(sizes: Sequence[int], room: int, overlap: float) -> list[tuple[int, int]]:
    """`spans` in the smallest number, with their sizes made about equal: a last window of one turn has no context."""
    number = len(spans(sizes, room, room, overlap))
    fill = bisect.bisect_left(range(room), True, key=lambda fill: len(spans(sizes, room, fill, overlap)) <= number)
    return spans(sizes, room, fill, overlap)


def spans(sizes: Sequence[int], room: int, fill: int, overlap: float) -> list[tuple[int, int]]:
    """(start, end) of windows that have each of `sizes`, of at most `room`, each at least once.

    A window repeats `overlap` of the one before, as many as leave room for the next, and is filled up to `fill`.
    """
    total = [0, *itertools.accumulate(sizes)]
    found: list[tuple[int, int]] = []
    start = end = 0
    while end < len(sizes):
        end += 1  # at least one that no window has yet
        while end < len(sizes) and total[end + 1] - total[start] <= fill:
            end += 1
        found.append((start, end))
        number = math.ceil(overlap * (end - start)) if overlap < 1 else int(overlap)
        number = min(number, end - start - 1)
        while number and end < len(sizes) and total[end + 1] - total[end - number] > room:
            number -= 1
        start = end - number
    return found


def cut_turns(dialogue: Dialogue, room: int, count: Count) -> list[tuple[int, Turn]]:
    """The turns with their numbers; those of more than `room` tokens in pieces of a quarter of it.

    Raises InputError where a piece has no room for the speaker's label and a word.
    """
    pieces: list[tuple[int, Turn]] = []
    for number, (turn, size) in enumerate(
        zip(dialogue.turns, count([turn.raw for turn in dialogue.turns]), strict=True)
    ):
        if size <= room:
            pieces.append((number, turn))
            continue
        label = turn.raw[: turn.label]
        budget = max(room // 4, min(room, 2 * count([label])[0] + 8)) - count([f"{label}\n"])[0]
        if budget < 1:
            raise InputError(
                f"turn {number + 1}: its label leaves no room for its text in a window of {room} tokens: give a "
                "greater --max_length"
            )
        parts = cut_text(turn.raw[turn.label :], budget, count)
        pieces += [(number, replace(turn, raw=f"{label}{part.strip()}\n")) for part in parts if part.strip()]
    return pieces


def cut_text(text: str, budget: int, count: Count) -> list[str]:
    """Pieces of at most `budget` tokens, which joined are the text: cut after a sentence, else after a word."""
    parts = []
    while text:
        most = min(len(text), 16 * budget)
        fits = bisect.bisect_right(range(1, most + 1), budget, key=lambda n: count([text[:n]])[0])
        end = max(fits, 1)
        if end < len(text):
            ends = [match.end() for match in _SENTENCE_END.finditer(text[:end])]
            spaces = [match.end() for match in re.finditer(r"\s+", text[: end + 1])]
            end = next((at for at in [*ends[-1:], *spaces[-1:]] if end // 3 < at <= end), end)
        parts.append(text[:end])
        text = text[end:]
    return parts
