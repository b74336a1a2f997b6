"""Subtitles as dialogues: the cues of WebVTT and SRT."""

import html
import re

from dialogsum_sft.data.dialogue import Turn
from dialogsum_sft.data.speaker_labels import is_heading, label_starts

_AT = r"(?:\d{1,2}:)?\d{1,2}:\d{1,2}[.,]\d{1,3}"
_TIMING = re.compile(rf"\s*{_AT}\s*-->\s*{_AT}(?:\s.*)?")
_VOICE = re.compile(r"<v(?:\.[\w.]+)?\s+([^>]+)>")
_TAG = re.compile(r"</?(?=[a-zA-Z])((?:p|br|div)\b)?[^>]*>")
_DASH = re.compile(r"(?:[-–—]|>>)\s*(?=\w)")


def is_subtitles(lines: list[str]) -> bool:
    """Whether every sixth line at least is the timing of a cue."""
    return sum(bool(_TIMING.fullmatch(line)) for line in lines) >= max(1, len(lines) // 6)


def read_subtitles(text: str) -> list[Turn]:
    """The cues of WebVTT or SRT, joined while the speaker stays the same. A cue without a label goes on."""
    cues = _cues(text)
    # Teams writes the name on a line of its own.
    headed = bool(cues) and all(len(said) > 1 and is_heading(said[0]) for _, said in cues)
    labels = {} if headed else _labels(cues)
    turns: list[tuple[str | None, list[str], str]] = []
    for time, said in cues:
        voice = next((match[1] for line in said if (match := _VOICE.search(line))), None)
        speaker = said[0] if headed else voice
        for line in said[1:] if headed else said:
            own = _VOICE.search(line)
            words = _plain(line)
            dash = _DASH.match(words)
            words = words[dash.end() :] if dash else words
            label = None if speaker else labels.get(words)
            name = own[1] if own else speaker or (label[0] if label else None)
            words = words[label[1] :].strip() if label else words
            if turns and (name == turns[-1][0] or name is None) and not dash:
                turns[-1][1].append(words)
            else:
                turns.append((name, [words], time))
    return [Turn.spoken(name, " ".join(filter(None, words)), time) for name, words, time in turns]


def _plain(line: str) -> str:
    """A line without tags and entities."""
    return html.unescape(_TAG.sub(lambda tag: " " if tag[1] else "", line)).strip()


def _labels(cues: list[tuple[str, list[str]]]) -> dict[str, tuple[str, int]]:
    """Speaker and end of the label of each line that has one, as lines without timings have them: looked for in the
    first lines of the cues, and in all of them.
    """
    every = [[_DASH.sub("", _plain(line), count=1) for line in said] for _, said in cues]
    labels = {}
    for lines in ([said[0] for said in every], [line for said in every for line in said]):
        text = "\n".join(lines)
        for at, begin, speaker, _ in label_starts(text):
            end = text.find("\n", at)
            if speaker:
                labels[text[at : len(text) if end < 0 else end]] = (speaker, begin - at)
    return labels


def _cues(text: str) -> list[tuple[str, list[str]]]:
    """Time and lines of each cue. In WebVTT an empty line ends a cue; notes and styles follow."""
    lines = [line.strip() for line in text.replace("\r", "").split("\n")]
    timings = [i for i, line in enumerate(lines) if _TIMING.fullmatch(line)]
    cues = []
    for at, following in zip(timings, [*timings[1:], len(lines) + 1], strict=True):
        said = lines[at + 1 : following]
        if following < len(lines) and said and said[-1] and (said[-1].isdecimal() or said[-2:-1] in ([""], [])):
            said.pop()  # the identifier of the next cue
        if text.lstrip("\ufeff").startswith("WEBVTT") and "" in said:
            said = said[: said.index("")]
        if any(said):
            cues.append((lines[at].split("-->")[0].strip(), [line for line in said if line]))
    return cues
