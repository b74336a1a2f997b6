"""Read a dialogue from text: lines with speakers' names, exported chats and transcripts, subtitles.

`detect_format` looks at several texts and names one of FORMATS; `parse` splits a text by it. In every format but
subtitles the turns keep the characters of the text, so that their `raw` parts joined are the text again, up to dropped
system lines.
"""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from dialogsum_sft.data.dialogue import Dialogue
from dialogsum_sft.data.speaker_labels import (
    NOISE,
    ROLES,
    SPEAKER,
    WIDE,
    Start,
    is_name,
    label_starts,
    labelled,
    lines_of,
    turns_at,
)
from dialogsum_sft.data.subtitles import is_subtitles, read_subtitles
from dialogsum_sft.data.time_stamps import TIME, is_time_stamped, read_time_stamped

FORMATS = ("labels", "timestamps", "subtitles", "inline", "lines")

# Marks that stand for line breaks; the last ones wherever they occur twice, the others where labels follow them.
_BREAKS = (r"(?i:<br\s*/?>)", r"\\r\\n", r"\\n", r"\|\|?", "</s>", r"\[SEP\]", "__eou__")
_SURE_BREAKS = frozenset(_BREAKS[-3:])

_BEFORE_COLON = re.compile(r"(?<!\S)((?:[^\s:]+ ){0,3}[^\s:]+)\s?:(?=\s|[^\W\d_])")
_WIDE_LABEL = re.compile(
    rf"(?:\A|(?<=[\s。！？!?；，,.]))([^\s:：。！？!?；，,./]{{1,12}})(?:：|(?<=[{WIDE}]):)(?!\d)(?=\S)"
)
_BRACKETS = re.compile(rf"(?<!\S)[\[<](?!(?i:{NOISE})[\]>])({SPEAKER})[\]>](?:\s?:)?(?=\s)")
# "[00:05] Agent: hello [00:09] Customer: hi" on one line.
_STAMPED = re.compile(rf"(?<!\S)[\[(]?{TIME}[\])]?\s(?:[-–—]\s)?({SPEAKER})\s?:(?=\s)")


def parse(text: str, kind: str) -> tuple[Dialogue, list[str]]:
    """The dialogue of a text in one of FORMATS, and the dropped system lines. An empty text has no turns."""
    if kind == "subtitles":
        turns = read_subtitles(text)
        return (Dialogue.of(turns) if turns else Dialogue(())), []
    if kind == "inline":
        return Dialogue(tuple(turns_at(text, _inline_starts(text)))), []
    if kind == "timestamps":
        return read_time_stamped(text)
    return (labelled(text) if kind == "labels" else Dialogue(tuple(lines_of(text)))), []


def parse_alike(text: str, kind: str) -> tuple[Dialogue, list[str]]:
    """As `parse`, for a text among others of a format: one in which that finds fewer speakers is read by its own."""
    dialogue, dropped = parse(text, kind)
    if len(dialogue.speakers) < 2 and (own := _format_of(text)) != kind:
        other, own_dropped = parse(text, own)
        if len(other.speakers) > len(dialogue.speakers):
            return other, own_dropped
    return dialogue, dropped


def dialogue_of(row: Mapping[str, Any]) -> Dialogue:
    """The dialogue of a row of a dataset or of predictions.jsonl: its stored turns, else the labelled lines."""
    turns = row.get("turns")
    if isinstance(turns, str):  # as examples are stored
        turns = json.loads(turns)
    return Dialogue.from_record(row["dialogue"], turns) if turns else parse(row["dialogue"], "labels")[0]


def with_line_breaks(text: str) -> str:
    r"""The text with real line breaks where a text of one line has `\n`, `<br>`, `</s>`, `__eou__` or `|` instead, and
    before time stamps with names.
    """
    if "\n" in text:
        return text
    if _STAMPED.match(text):
        begins = [match.start() for match in _STAMPED.finditer(text) if is_name(match[1]) or _is_role(match[1])]
        if len(begins) > 1 and begins[0] == 0:
            ends = [*begins[1:], len(text)]
            return "\n".join(text[begin:end].strip() for begin, end in zip(begins, ends, strict=True))
    for mark in _BREAKS:
        parts = [part for part in re.split(mark, text) if part.strip()]
        if len(parts) < 2:
            continue
        broken = re.sub(rf"\s*{mark}\s*", "\n", text).strip()
        labels = len(label_starts(broken))
        if mark in _SURE_BREAKS and len(parts) > 2 or labels > 1 and (labels == len(parts) or "|" not in mark):
            return broken
    return text


def detect_format(texts: Sequence[str]) -> str:
    """The format of most of the texts."""
    votes = Counter(map(_format_of, texts))
    return max(FORMATS, key=lambda kind: votes[kind])


def _format_of(text: str) -> str:
    lines = [line for line in text.split("\n") if line.strip()]
    if is_subtitles(lines):
        return "subtitles"
    if is_time_stamped(text):
        return "timestamps"
    labels = len(label_starts(text))
    if len(lines) == 1 and len(_inline_starts(text)) > max(1, labels):
        return "inline"
    return "labels" if labels else "lines"


def _inline_starts(text: str) -> list[Start]:
    """Labels within one line: of the words before a colon, those that stand before several, and roles.

    The text begins with one, or has two roles: "He said: no. She said: yes." has none.
    """
    found: list[tuple[int, int, list[str]]] = []  # offsets of the end of the name and of the text, possible names
    for match in _BEFORE_COLON.finditer(text):
        words = match[1].split(" ")
        names = [" ".join(words[-n:]) for n in range(1, len(words) + 1)]
        found.append((match.end(1), match.end(), [name for name in names if _is_inline_name(name)]))
    found += [(match.end(1), match.end(), [match[1]]) for match in _BRACKETS.finditer(text)]
    taken = {end for end, *_ in found}
    found += [(m.end(1), m.end(), [m[1]]) for m in _WIDE_LABEL.finditer(text) if m.end(1) not in taken]
    often = Counter(_kind_of(name) for *_, names in found for name in names)
    starts: list[Start] = []
    for end, said, names in sorted(found):
        accepted = [name for name in names if often[_kind_of(name)] > 1 or _is_role(name)]
        if accepted:
            name = max(accepted, key=lambda name: (often[_kind_of(name)], len(name)))
            at = end - len(name) - (text[end - len(name) - 1 : end - len(name)] in ("[", "<"))
            if not starts or at >= starts[-1][1]:
                starts.append((at, said, name, None))
    roles = {name for *_, name, _ in starts if name and _is_role(name)}
    return starts if starts and (not text[: starts[0][0]].strip() or len(roles) > 1) else []


def _kind_of(name: str) -> str:
    """Speaker 1 and Speaker 2 are of a kind."""
    return re.sub(r"\d+", "0", name)


def _is_role(name: str) -> bool:
    return name.lower() in ROLES or re.fullmatch(r"#\w+#?", name) is not None


def _is_inline_name(name: str) -> bool:
    return re.fullmatch(SPEAKER, name) is not None and (is_name(name) or name.islower())
