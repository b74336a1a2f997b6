"""Shorten a dialogue to a token budget: its opening and its end stay, the middle goes."""

import re
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, replace

from dialogsum_sft.data.dialogue import Dialogue, Turn

GAP = "[...]"
_FULL = 0.9  # of the budget: with less used, a part of the turns at the gap is kept too

Count = Callable[[list[str]], list[int]]


@dataclass(frozen=True)
class Shortened:
    """`dropped_turns` are gone, `cut_turns` lost a part; the dialogue lost `dropped_tokens` of its `tokens`."""

    dialogue: Dialogue
    dropped_turns: int = 0
    cut_turns: int = 0
    dropped_tokens: int = 0
    tokens: int = 0

    def record(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in ("dropped_turns", "cut_turns", "dropped_tokens")}

    def shares(self, turns: int) -> dict[str, float]:
        """The shares of the dialogue's turns, of which it had `turns`, and of its tokens that are left, 0 to 1."""
        tokens_seen = 1 - self.dropped_tokens / self.tokens if self.tokens else 1.0
        return {"turns_seen": 1 - self.dropped_turns / turns, "tokens_seen": tokens_seen}


def shorten(dialogue: Dialogue, budget: int, count: Count) -> Shortened:
    """The dialogue within `budget` tokens: whole turns of its opening and its end, with `[...]` for the middle.

    `count` gives the number of tokens of each text. Opening and end get about as many tokens each, unless the next
    turn of one does not fit: then the other has what is left. Where whole turns would leave a tenth of the budget
    unused, the turns at the gap keep their first and last words. The end of the last turn is always kept.

    Raises ValueError where the budget has no room for `[...]` and a word before and after it.
    """
    whole, gap = count([dialogue.text, f"{GAP}\n"])
    if whole <= budget:
        return Shortened(dialogue, tokens=whole)
    turns = list(dialogue.turns)
    sizes = count([turn.raw for turn in turns])
    # A text's fixed costs (special tokens, a prompt around it) are in every size, but in the whole only once.
    surplus = (sum(sizes) - whole) / (len(turns) - 1) if len(turns) > 1 else 0.0
    opening, end = _whole_turns([size - surplus for size in sizes], budget - gap)

    def size_of(candidate: Dialogue) -> int:
        return count([candidate.text])[0]

    while True:
        middle = turns[opening : len(turns) - end]
        kept = _joined(turns[:opening], turns[len(turns) - end :])
        if size_of(kept) <= budget or not (opening or end):
            break
        opening, end = (opening - 1, end) if opening else (opening, end - 1)  # tokens do not add up exactly
    used = size_of(kept) if opening or end else 0
    cut = 0
    if used < _FULL * budget or not (opening and end):
        kept, cut = _with_cut_turns(turns[:opening], middle, turns[len(turns) - end :], budget, size_of)
    return Shortened(kept, len(middle) - cut, cut, whole - size_of(kept), whole)


def _whole_turns(sizes: list[float], room: float) -> tuple[int, int]:
    """How many turns opening and end have within `room` tokens, each turn taken from the side with fewer tokens.

    The end comes first. Where the last turn does not fit, half of the room is left for its end.
    """
    taken, used, full = [0, 0], [0.0, 0.0], [False, False]
    while sum(taken) < len(sizes) - 1 and not all(full):
        side = int(full[0] or not full[1] and (used[1], taken[1]) <= (used[0], taken[0]))
        size = sizes[-1 - taken[1]] if side else sizes[taken[0]]
        if sum(used) + size > room:
            full[side] = True
            room = room / 2 if side and not taken[1] else room
        else:
            taken[side] += 1
            used[side] += size
    return taken[0], taken[1]


def _with_cut_turns(
    opening: list[Turn], middle: list[Turn], end: list[Turn], budget: int, size_of: Callable[[Dialogue], int]
) -> tuple[Dialogue, int]:
    """Keep the first words of the first turn in the gap and the last words of the last, as many as fit.

    Returns the dialogue and the number of cut turns: 1 where both are parts of one turn.
    """
    first, last = middle[0], middle[-1]
    head_text, tail_text = first.raw[first.label :], last.raw[last.label :]
    space = tail_text[: len(tail_text) - len(tail_text.lstrip())]  # after the label

    def with_parts(head: int, tail: int) -> Dialogue:
        """`head` and `tail` are characters of the turns' texts."""
        start, rest = head_text[:head].rstrip(), tail_text[len(tail_text) - tail :].lstrip()
        if first is last:  # one turn that loses its middle
            between = [replace(first, raw=f"{first.raw[: first.label]}{start} {GAP} {rest}".rstrip(" "))]
            return Dialogue((*opening, *between, *end)) if rest or end else Dialogue((*opening, *between))
        before = [replace(first, raw=f"{first.raw[: first.label]}{start}\n")] if start else []
        after = [replace(last, raw=f"{last.raw[: last.label]}{space}{rest}")] if rest else []
        return _joined([*opening, *before], [*after, *end])

    def fitting_tail(head: int, limit: int) -> int:
        most = len(tail_text) - (head if first is last else 0)
        tail = bisect_right(range(1, most + 1), limit, key=lambda n: size_of(with_parts(head, n)))
        return _at_word(tail_text, tail, from_end=True)

    # The tail gets half of the free tokens, the head what is left, and the tail what a short head leaves.
    free = budget - (size_of(_joined(opening, end)) if opening or end else 0)
    tail = fitting_tail(0, budget - free // 2)
    most = len(head_text) - (tail if first is last else 0)
    head = bisect_right(range(1, most + 1), budget, key=lambda n: size_of(with_parts(n, tail)))
    head = _at_word(head_text, head)
    tail = max(tail, fitting_tail(head, budget))
    while head + tail and size_of(with_parts(head, tail)) > budget:  # tokens do not add up exactly
        head, tail = (head // 2, tail) if head else (0, tail // 2)
    if not (head or tail or opening or end) or not (head_text[:head].strip() or tail or opening or end):
        raise ValueError(f"a budget of {budget} tokens is too small: {GAP} and the first word of a turn do not fit")
    cut = min(bool(head) + bool(tail), len(middle))
    return (with_parts(head, tail), cut) if cut else (_joined(opening, end), 0)


def _joined(opening: list[Turn], end: list[Turn]) -> Dialogue:
    return Dialogue((*opening, Turn(None, f"{GAP}\n" if end else GAP), *end))


def _at_word(text: str, characters: int, *, from_end: bool = False) -> int:
    """Fewer characters, so that no word is cut; a run of more than 40 characters (Chinese, a URL) may be cut."""
    part = text[len(text) - characters :] if from_end else text[:characters]
    if not part.strip() or characters >= len(text):
        return characters
    inside = text[len(text) - characters - 1] if from_end else text[characters]
    if inside.isspace():
        return characters
    word = re.match(r"\S{1,40}\s+(?=\S)", part) if from_end else re.search(r"(?<=\S)\s+\S{1,40}\Z", part)
    if word is None:
        return characters
    return characters - len(word[0])
