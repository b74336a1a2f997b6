"""A dialogue as a list of turns: rename its speakers, exchange them."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

# Letters that continue a word. Letters of scripts without spaces, and Hangul with its particles, do not; the marks of
# Latin and Indic scripts do, though they are no \w for `re`.
_LETTER = (
    r"(?:[^\W\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3]"
    r"|[\u0300-\u036f\u0900-\u0963\u0966-\u0dff])"
)


@dataclass(frozen=True)
class Turn:
    """`raw` is the turn as it stands in the dialogue's text, with its line break; the first `label` characters of it
    are the speaker's label, empty without a speaker. `time` is the time stamp in the label, if there is one.
    """

    speaker: str | None
    raw: str
    label: int = 0
    time: str | None = None

    @classmethod
    def spoken(cls, speaker: str | None, text: str, time: str | None = None) -> Self:
        """A turn that is rendered as a line `speaker: text`."""
        label = f"{speaker}: " if speaker else ""
        return cls(speaker or None, f"{label}{text}\n", len(label), time)

    @property
    def text(self) -> str:
        """What the speaker says."""
        return self.raw[self.label :].strip()


@dataclass(frozen=True)
class Dialogue:
    """Turns in their order; `text` is what a prompt contains."""

    turns: tuple[Turn, ...]

    @cached_property
    def text(self) -> str:
        return "".join(turn.raw for turn in self.turns)

    @cached_property
    def speakers(self) -> list[str]:
        """The distinct speakers in order of appearance."""
        return list(dict.fromkeys(turn.speaker for turn in self.turns if turn.speaker is not None))

    @classmethod
    def of(cls, turns: Sequence[Turn]) -> Self:
        """A dialogue of these turns, without the line break after the last."""
        *others, last = turns
        return cls((*others, Turn(last.speaker, last.raw.rstrip("\n"), last.label, last.time)))

    def without_times(self) -> Self:
        """The same turns, in which a label with a time stamp is the speaker's name alone: `Name: text`."""
        turns = [turn if turn.time is None else Turn.spoken(turn.speaker, turn.text) for turn in self.turns]
        return type(self).of(turns) if turns else self

    def record(self) -> list[dict[str, Any]]:
        """The turns beside `text`, as stored in datasets and in predictions.jsonl: `from_record` reads them."""
        return [
            {"speaker": turn.speaker, "label": turn.label, "length": len(turn.raw), "time": turn.time}
            for turn in self.turns
        ]

    @classmethod
    def from_record(cls, text: str, record: Sequence[Mapping[str, Any]]) -> Self:
        turns, start = [], 0
        for turn in record:
            end = start + turn["length"]
            turns.append(Turn(turn["speaker"], text[start:end], turn["label"], turn.get("time")))
            start = end
        return cls(tuple(turns))


@dataclass(frozen=True)
class Renamed:
    """A dialogue and its summary with tags in place of names; `names` maps tags to names, in order of appearance."""

    dialogue: Dialogue
    summary: str | None
    names: dict[str, str]


def rename_speakers(dialogue: Dialogue, summary: str | None = None) -> Renamed:
    """Replace each speaker by #Person1#, #Person2#, ... in order of appearance: in labels, and where a name is a word.

    `restore_speakers` reverses it exactly. Where it could not, such as with these tags in the text already, both are
    returned unchanged with `names` empty. A name that is also an ordinary word (`Will`, `user`) is replaced there too.
    """
    tags = {name: f"#Person{number}#" for number, name in enumerate(dialogue.speakers, 1)}
    names = {tag: name for name, tag in tags.items()}
    if any(tag in text for tag in names for text in (dialogue.text, summary or "")):
        return Renamed(dialogue, summary, {})
    renamed, new_summary = _with_names(dialogue, tags), _replace(summary or "", tags)
    restored = _with_names(renamed, names), restore_speakers(new_summary, names)
    if restored != (dialogue, summary or ""):  # as where "#Person1" precedes a name
        return Renamed(dialogue, summary, {})
    return Renamed(renamed, None if summary is None else new_summary, names)


def restore_speakers(text: str, names: Mapping[str, str]) -> str:
    """The text with each tag of `Renamed.names` replaced by its name."""
    return _replace(text, names)


def swap_speakers(dialogue: Dialogue, summary: str) -> tuple[Dialogue, str]:
    """Dialogue and summary with the names of the first two speakers exchanged, in labels and where they are words.

    Swapping again gives the original. Where it would not, and with fewer than two speakers, both are unchanged. The
    same names are exchanged where they are ordinary words (`Will`, `user`).
    """
    swapped = _swap(dialogue, summary)
    return swapped if _swap(*swapped) == (dialogue, summary) else (dialogue, summary)


def _swap(dialogue: Dialogue, summary: str) -> tuple[Dialogue, str]:
    names = {name: name for name in dialogue.speakers}  # the others map to themselves: Ann Lee is not Ann
    if len(names) > 1:
        first, second = list(names)[:2]
        names |= {first: second, second: first}
    return _with_names(dialogue, names), _replace(summary, names)


def _with_names(dialogue: Dialogue, names: Mapping[str, str]) -> Dialogue:
    turns = []
    for turn in dialogue.turns:
        label, text = turn.raw[: turn.label], _replace(turn.raw[turn.label :], names)
        old = turn.speaker
        speaker = None if old is None else names[old]
        if old is not None and speaker is not None and (at := label.rfind(old)) >= 0:  # after a time stamp
            label = label[:at] + speaker + label[at + len(old) :]
        turns.append(Turn(speaker, label + text, len(label), turn.time))
    return Dialogue(tuple(turns))


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
