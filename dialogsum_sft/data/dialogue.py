"""Turns and speakers of a dialogue: parse, join, shorten by whole turns, rename.

All functions are pure and accept any string; none needs a tokenizer or a dataset.
"""

import re
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

GAP = "[...]"

_SPEAKER_KEYS = ("speaker", "role", "from", "name", "author")
_TEXT_KEYS = ("text", "content", "value", "utterance", "message")

# A name has up to five words and 40 characters, and no punctuation but the full stop of a title or an initial. Words
# after the first begin in upper case, except for particles: "One more thing: ..." is no speaker.
_TITLE = r"(?i:mr|mrs|ms|dr|prof|rev|st|sgt|lt|capt|col|gen|jr|sr|sra|dra|fr|hr|[^\W\d_])\."
_INNER = r"""[^\s.,;:!?()\[\]{}<>"“”„«»/\\|=*+~^$%&#@…—–、。，；：！？।،؛؟]{0,39}"""
_NAME = rf"(?:{_TITLE}|[^\W\d_]{_INNER})(?:(?:\s|(?<=\.))(?:{_TITLE}|[^\W_]{_INNER})){{0,4}}"
_PARTICLES = frozenset(
    ["al", "bin", "d", "da", "de", "del", "der", "di", "du", "el", "la", "le", "of", "the", "van", "von"]
)
_SPEAKER = rf"\#\w{{1,39}}\#?|@\w{{1,30}}(?:[.-]\w{{1,30}}){{0,2}}|{_NAME}"
# Brackets contain noises as well as names; SAMSum has <file_photo> in place of photos.
_NOISE = r"laughs?|laughter|laughing|sighs?|pauses?|silence|applause|music|noise|inaudible|crosstalk|file_\w+|br"
_LABEL = re.compile(
    rf"\s*[\[<](?!(?i:{_NOISE})[\]>])(?:(?<=\[)({_SPEAKER})\]|(?<=<)({_SPEAKER})>)(?:\s?[:：]|(?=\s+\S))"
    # A space follows the colon, unlike in an emoticon, URL, time or path; #Person1#: and U+FF1A need none.
    rf"|\s*({_SPEAKER})(?:\s?:(?=\s|\Z)|(?<=\#):|\s?(?:(?<!\d)：|：(?!\d)))"
)

# Letters that continue a word. Letters of scripts without spaces, and Hangul with its particles, do not; the marks of
# Latin and Indic scripts do, though they are no \w for `re`.
_LETTER = (
    r"(?:[^\W\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3]"
    r"|[\u0300-\u036f\u0900-\u0963\u0966-\u0dff])"
)


@dataclass(frozen=True)
class Turn:
    """`text` is the stripped utterance of `speaker`; `raw` the slice of the dialogue, with label and newlines."""

    speaker: str | None
    text: str
    raw: str


@dataclass(frozen=True)
class Shortened:
    """`dropped_turns` counts the removed turns; `cut_turn` is true if the only turn left is incomplete."""

    text: str
    dropped_turns: int
    cut_turn: bool


@dataclass(frozen=True)
class Renamed:
    """A dialogue and its summary with tags in place of names; `names` maps tags to names, in order of appearance."""

    text: str
    summary: str | None
    names: dict[str, str]


def split_turns(dialogue: str) -> list[Turn]:
    """The turns of a dialogue. Their `raw` slices concatenate to the dialogue, for any string.

    A turn begins at a line that begins with `#Person1#:`, `Name:`, `Dr. Name:`, `@handle:`, `[Name]`, `[Name]:` or
    `<name>`; the colon may be U+FF1A. Other lines continue the turn before them. Text before the first label is a turn
    without a speaker. A line within a turn that looks like a label (`Note: ...`) begins a turn.
    """
    starts: list[tuple[int, int, str | None]] = []
    offset = 0
    for line in dialogue.splitlines(keepends=True):
        label = _label(line)
        if label is not None:
            starts.append((offset, offset + label[1], label[0]))
        offset += len(line)
    if not starts or dialogue[: starts[0][0]].strip():
        starts.insert(0, (0, 0, None))
    else:
        starts[0] = (0, *starts[0][1:])  # blank lines before the first label
    ends = [start for start, _, _ in starts[1:]] + [len(dialogue)]
    return [
        Turn(speaker, dialogue[text:end].strip(), dialogue[start:end])
        for (start, text, speaker), end in zip(starts, ends, strict=True)
        if start < end
    ]


def _label(line: str) -> tuple[str, int] | None:
    """The speaker at the beginning of a line, and the end of the label; None without a label."""
    match = _LABEL.match(line)
    if match is None:
        return None
    speaker = match[1] or match[2] or match[3]
    later = (re.split("[-'’]", word)[0] for word in speaker.split()[1:])
    if len(speaker) > 40 or any(word[:1] != word[:1].title() and word not in _PARTICLES for word in later):
        return None
    return speaker, match.end()


def join_messages(turns: Sequence[Mapping[str, Any]]) -> str:
    """A list of turns as one text with a line `Speaker: text` for each turn, or only the text without a speaker.

    The speaker stands under `speaker`, `role`, `from`, `name` or `author`, the text under `text`, `content`, `value`,
    `utterance` or `message`: the first key that is present and not null. A text may be a list of OpenAI's text parts,
    which are joined with spaces. Line breaks within a text become spaces.

    Raises ValueError for an empty list, and for a turn without text or with another type in its place.
    """
    if isinstance(turns, str) or not isinstance(turns, Sequence):
        raise ValueError(f"the dialogue is not a list of turns but {type(turns).__name__}")
    if not turns:
        raise ValueError("the list of turns is empty")
    return "\n".join(_line(turn, number) for number, turn in enumerate(turns, 1))


def _line(turn: Mapping[str, Any], number: int) -> str:
    if not isinstance(turn, Mapping):
        raise ValueError(f"turn {number} is not a mapping with a speaker and a text but {type(turn).__name__}")
    text = next((turn[key] for key in _TEXT_KEYS if turn.get(key) is not None), None)
    if text is None:
        keys = ", ".join(map(str, turn)) or "nothing"
        raise ValueError(f"turn {number} has no text under any of {', '.join(_TEXT_KEYS)}: it has {keys}")
    if isinstance(text, list):
        for part in text:
            if not (isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str)):
                raise ValueError(f"turn {number} has a part that is not {{type: text, text: ...}}: {str(part)[:80]}")
        text = " ".join(part["text"] for part in text)
    speaker = next((turn[key] for key in _SPEAKER_KEYS if turn.get(key) is not None), "")
    for what, value in (("text", text), ("speaker", speaker)):
        if not isinstance(value, str):
            raise ValueError(f"turn {number}: its {what} is not text but {type(value).__name__}")
    text, speaker = (" ".join(value.splitlines()) for value in (text, speaker.strip()))
    return f"{speaker}: {text}" if speaker else text


def shorten(dialogue: str, budget: int, count: Callable[[list[str]], list[int]]) -> Shortened:
    """Shorten a dialogue to `budget` tokens: whole turns from its opening and end, with a line `[...]` in between.

    `count` returns the number of tokens of each text. It is called three times for any number of turns: with the whole
    dialogue, with all turns, and with the candidates. Opening and end get about the same number of tokens; when the
    next turn of one side does not fit, the other side gets the rest. If neither the first nor the last turn fits, the
    first is cut by bisection over its characters, between words where possible.

    Raises ValueError if the budget is too small for `[...]` and the first word.
    """
    whole, gap = count([dialogue, f"{GAP}\n"])
    if whole <= budget:
        return Shortened(dialogue, 0, False)
    turns = split_turns(dialogue)
    if len(turns) > 1:
        sizes = count([turn.raw for turn in turns])
        # Tokens around every text (special tokens, a prompt) are in every size, but only once in the whole dialogue.
        surplus = (sum(sizes) - whole) / (len(turns) - 1)
        steps = _take([size - surplus for size in sizes], budget - gap)
        # The sizes of parts are not exactly additive: candidates drop 0, 1, 2, 4, ... more turns, to one turn.
        back = [0] + [2**power for power in range(len(steps).bit_length())]
        kept = [steps[-1 - n] for n in back if n < len(steps)] + [(1, 0), (0, 1)]
        texts = [_join(turns, opening, end) for opening, end in kept]
        for text, size, (opening, end) in zip(texts, count(texts), kept, strict=True):
            if size <= budget:
                return Shortened(text, len(turns) - opening - end, False)
    return Shortened(_cut(turns[0].raw, budget, count), len(turns) - 1, True)


def _take(sizes: list[float], room: float) -> list[tuple[int, int]]:
    """Numbers of turns in opening and end after each step, which takes a turn from the side with fewer tokens."""
    taken, used, full = [0, 0], [0.0, 0.0], [False, False]
    steps = []
    while sum(taken) < len(sizes) - 1 and not all(full):
        side = int(full[0] or not full[1] and (used[1], taken[1]) < (used[0], taken[0]))
        size = sizes[-1 - taken[1]] if side else sizes[taken[0]]
        if sum(used) + size > room:
            full[side] = True
        else:
            taken[side] += 1
            used[side] += size
            steps.append((taken[0], taken[1]))
    return steps


def _join(turns: list[Turn], opening: int, end: int) -> str:
    raws = [turn.raw for turn in turns]
    return "".join([*raws[:opening], f"{GAP}\n" if end else GAP, *raws[len(raws) - end :]])


def _cut(turn: str, budget: int, count: Callable[[list[str]], list[int]]) -> str:
    def cut(length: int) -> str:
        return f"{turn[:length].rstrip()} {GAP}"

    def tokens(length: int) -> int:
        return count([cut(length)])[0]

    length = bisect_right(range(1, len(turn) + 1), budget, key=tokens)
    if not turn[:length].strip():
        raise ValueError(f"a budget of {budget} tokens is too small: {GAP} and the first word of a turn do not fit")
    if turn[length : length + 1].strip():  # inside a word of at most 40 characters, unlike a URL
        word = re.search(r"(?<=\S)\s+\S{1,40}\Z", turn[:length])
        if word is not None and tokens(word.start()) <= budget:
            length = word.start()
    return cut(length)


def rename_speakers(dialogue: str, summary: str | None = None) -> Renamed:
    """Replace speakers with #Person1#, #Person2#, ... in order of appearance, in labels and where the name is a word.

    `restore_speakers` restores both texts exactly. If it could not, such as when a tag already occurs in one of them,
    they are returned unchanged with empty `names`. A name that is also an ordinary word (`Will`, `user`) is replaced
    there too.
    """
    tags = {name: f"#Person{number}#" for number, name in enumerate(_speakers(dialogue), 1)}
    names = {tag: name for name, tag in tags.items()}
    texts = [dialogue, summary or ""]
    if any(tag in text for tag in names for text in texts):
        return Renamed(dialogue, summary, {})
    renamed = [_replace(text, tags) for text in texts]
    if [restore_speakers(text, names) for text in renamed] != texts:  # "#Person1" stood before a name
        return Renamed(dialogue, summary, {})
    return Renamed(renamed[0], None if summary is None else renamed[1], names)


def restore_speakers(text: str, names: dict[str, str]) -> str:
    """Replace each tag of `Renamed.names` with its name."""
    return _replace(text, names)


def swap_speakers(dialogue: str, summary: str) -> tuple[str, str]:
    """Exchange the names of the first two speakers in a dialogue and its summary, in labels and where they are words.

    A second swap restores the original. Where it would not, and with fewer than two speakers, both are unchanged. A
    name that is also an ordinary word (`Will`, `user`) is exchanged there too.
    """
    swapped = _swap(dialogue, summary)
    return swapped if _swap(*swapped) == (dialogue, summary) else (dialogue, summary)


def _swap(dialogue: str, summary: str) -> tuple[str, str]:
    names = {name: name for name in _speakers(dialogue)}  # other names are kept whole: Ann Lee is not Ann
    if len(names) > 1:
        first, second = list(names)[:2]
        names |= {first: second, second: first}
    return _replace(dialogue, names), _replace(summary, names)


def _speakers(dialogue: str) -> list[str]:
    return list(dict.fromkeys(turn.speaker for turn in split_turns(dialogue) if turn.speaker is not None))


def _replace(text: str, names: Mapping[str, str]) -> str:
    """Replace each name that occurs as a word; the longest where several match at one place."""
    if not names:
        return text
    pattern = "|".join(_word(name) for name in sorted(names, key=len, reverse=True))
    return re.sub(pattern, lambda match: names[match[0]], text)


def _word(name: str) -> str:
    """A pattern that matches the name as a whole word: Ann in "Ann's", not in "Annie" or "Ann-Sophie".

    A `#` needs no word boundary: #Person1# also matches next to a letter or another tag.
    """
    left = "" if name[0] == "#" else rf"(?<!{_LETTER})(?<!{_LETTER}-)"
    right = "" if name[-1] == "#" else rf"(?!-?{_LETTER})" + ("(?!#)" if name[0] == "#" else "")
    return left + re.escape(name) + right
