"""Subtitles as dialogues: the cues of WebVTT and SRT."""

import re

from dialogsum_sft.data.dialogue import Turn
from dialogsum_sft.data.labels import SPEAKER, is_name, label_of

_AT = r"(?:\d{1,2}:)?\d{1,2}:\d{1,2}[.,]\d{1,3}"
_TIMING = re.compile(rf"\s*{_AT}\s*-->\s*{_AT}(?:\s.*)?")
_VOICE = re.compile(r"<v(?:\.[\w.]+)?\s+([^>]+)>")
_DASH = re.compile(r"(?:[-–—]|>>)\s*(?=\w)")


def is_subtitles(lines: list[str]) -> bool:
    """Whether every sixth line at least is the timing of a cue."""
    return sum(bool(_TIMING.fullmatch(line)) for line in lines) >= max(1, len(lines) // 6)


def read_subtitles(text: str) -> list[Turn]:
    """The cues of WebVTT or SRT, joined while the speaker stays the same. A cue without a label goes on."""
    cues = _cues(text)
    # Teams writes the name on a line of its own.
    headed = bool(cues) and all(
        len(said) > 1 and re.fullmatch(SPEAKER, said[0]) and is_name(said[0]) for _, said in cues
    )
    turns: list[tuple[str | None, list[str], str]] = []
    for time, said in cues:
        voice = next((match[1] for line in said if (match := _VOICE.search(line))), None)
        speaker = said[0] if headed else voice
        for line in said[1:] if headed else said:
            own = _VOICE.search(line)
            words = re.sub(r"</?[a-zA-Z][^>]*>", "", line).strip()
            dash = _DASH.match(words)
            words = words[dash.end() :] if dash else words
            label = None if speaker else label_of(words)
            name = own[1] if own else speaker or (label[0] if label else None)
            words = words[label[1] :].strip() if label else words
            if turns and (name == turns[-1][0] or name is None) and not dash:
                turns[-1][1].append(words)
            else:
                turns.append((name, [words], time))
    return [Turn.spoken(name, " ".join(filter(None, words)), time) for name, words, time in turns]


def _is_heading(line: str) -> bool:
    return re.fullmatch(SPEAKER, line) is not None and is_name(line)


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
