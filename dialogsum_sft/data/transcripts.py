"""Read a dialogue from text: lines with speakers' names, exported chats and transcripts, subtitles.

`detect_format` looks at several texts and names one of FORMATS; `parse` splits a text by it. In every format but
subtitles the turns keep the characters of the text, so that their `raw` parts joined are the text again.
"""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from dialogsum_sft.data.dialogue import Dialogue, Turn

FORMATS = ("labels", "timestamps", "subtitles", "inline", "lines")

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

# Marks of writing direction, which exports put before names and system messages.
_BIDI = "\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff"
_MARKS = "\u200e\u200f\ufeff" + "".join(map(chr, [*range(0x202A, 0x202F), *range(0x2066, 0x206A)]))
# A name in lower case, as of a role: recognised where it labels several lines, or is one of these.
_LOWER = re.compile(rf"\s*[{_BIDI}]*([^\W\d_][\w'’-]*(?:[ _-]\w[\w'’-]*){{0,2}})\s?:(?=\s|\Z)")
_ROLES = frozenset(
    [
        "agent",
        "assistant",
        "user",
        "customer",
        "client",
        "caller",
        "callee",
        "support",
        "operator",
        "human",
        "bot",
        "system",
        "gpt",
        "doctor",
        "patient",
        "nurse",
        "teacher",
        "student",
        "host",
        "guest",
        "interviewer",
        "interviewee",
        "seller",
        "buyer",
        "rep",
        "representative",
        "advisor",
        "employee",
        "clerk",
    ]
)
# Markdown's **Name:** and **Name**:, a name with a time or a role in parentheses, a phone number.
_BOLD = re.compile(rf"\s*(\*\*|__)({_SPEAKER}|\w[\w .'-]{{0,38}})(?::\1|\1\s?:)\s*")
_WITH_NOTE = re.compile(rf"\s*({_SPEAKER}|\w[\w .'-]{{0,38}}?)\s*\(([^()\n]{{1,30}})\)\s?[:：](?=\s|\Z)")
_PHONE = re.compile(r"\s*(\+?\d[\d ()./-]{6,18}\d)\s?:(?=\s)")

_CLOCK = r"\d{1,2}[:.]\d{2}(?:[:.]\d{2})?(?:[.,]\d{1,3})?"
_HALF = r"(?:[\s\u202f\u00a0]?(?:[AaPp]\.?[\s\u00a0]?[Mm]\.?|Uhr|h))?"
_EAST = r"(?:오전|오후|上午|下午|午前|午後|凌晨|中午|晚上)?\s?"
_DATE = r"(?:\d{1,4}[./-]\s?\d{1,2}[./-]\s?\d{1,4}\.?|\d{4}年\d{1,2}月\d{1,2}日|\d{4}-\d{2}-\d{2})"
_TIME = rf"(?:{_DATE}(?:,|\sat|\sum|\sà)?[\sT\u00a0\u202f]*)?{_EAST}{_CLOCK}{_HALF}Z?"
# "[01/03/2024, 9:10:00 PM] Ines: ...", "01.03.24, 21:10 - Ines: ...", "00:00:13 Mara Olsen: ...", "(10:15) Anna: ..."
_STAMPED = re.compile(
    rf"[{_BIDI}]*\s*[\[(]?(?P<time>{_TIME})[\])]?(?:\s*[-–—|]\s*|[\s{_BIDI}]+)"
    rf"(?:[{_BIDI}]*(?:~[\s\u00a0\u202f]?)?(?P<name>[^\n:：\[\]]{{1,60}}?)\s*[:：](?=\s|\Z|[{_BIDI}]))?"
)
# "Mara Olsen  0:13" and "Mara Olsen [00:13]:" alone on a line, with what was said on the next ones.
_HEADING = re.compile(
    rf"[{_BIDI}]*\s*(?P<name>[^\W\d_][^\n:：\[\]()<>]{{0,50}}?)(?:\s{{1,}}|\s*[\[(|,-]\s*)(?P<time>{_TIME})\s*[\])]?\s*:?\s*$"
)
_TIMING = re.compile(r"(?:\d{1,2}:)?\d{1,2}:\d{2}[.,]\d{1,3}\s*-->\s*(?:\d{1,2}:)?\d{1,2}:\d{2}[.,]\d{1,3}.*")
_VOICE = re.compile(r"<v(?:\.[\w.]+)?\s+([^>]+)>")
_BREAKS = ("<br>", "<br/>", "<br />", "</s>", r"\r\n", r"\n")


def parse(text: str, kind: str) -> tuple[Dialogue, int]:
    """The dialogue of a text in one of FORMATS, and the number of dropped system lines. An empty text has no turns."""
    if kind == "subtitles":
        turns = _subtitles(text)
        return (Dialogue.of(turns), 0) if turns else (Dialogue(()), 0)
    if kind == "inline":
        return Dialogue(tuple(_at_starts(text, _inline_starts(text)))), 0
    if kind == "timestamps":
        return _timestamps(text)
    starts = _label_starts(text) if kind == "labels" else []
    return Dialogue(tuple(_at_starts(text, starts) if starts else _lines(text))), 0


def dialogue_of(row: Mapping[str, Any]) -> Dialogue:
    """The dialogue of a row of a dataset or of predictions.jsonl: its stored turns, else the labelled lines."""
    turns = row.get("turns")
    if isinstance(turns, str):  # as examples are stored
        turns = json.loads(turns)
    return Dialogue.from_record(row["dialogue"], turns) if turns else parse(row["dialogue"], "labels")[0]


def with_line_breaks(text: str) -> str:
    r"""The text with real line breaks where a text of one line has `\n`, `<br>` or `</s>` in their place."""
    if "\n" in text:
        return text
    for mark in _BREAKS:
        if text.count(mark) >= 1 and len(_label_starts(text.replace(mark, "\n"))) > 1:
            return re.sub(rf"\s*{re.escape(mark)}\s*", "\n", text).strip()
    return text


def detect_format(texts: Sequence[str]) -> str:
    """The format of most of the texts."""
    votes = Counter(map(_format_of, texts))
    return max(FORMATS, key=lambda kind: votes[kind])


def _format_of(text: str) -> str:
    lines = [line for line in text.split("\n") if line.strip()]
    if sum(bool(_TIMING.fullmatch(line.strip())) for line in lines) >= max(1, len(lines) // 6):
        return "subtitles"
    stamped = sum(bool(_STAMPED.match(line) or _HEADING.match(line)) for line in lines)
    if stamped >= 2 and stamped >= len(lines) / 4 or (stamped and stamped == len(lines)):
        return "timestamps"
    labels = len(_label_starts(text))
    if len(lines) == 1 and len(_inline_starts(text)) > max(1, labels):
        return "inline"
    return "labels" if labels else "lines"


Start = tuple[int, int, str | None, str | None]  # offsets of the turn and of its text, speaker, time


def _at_starts(text: str, starts: Sequence[Start]) -> list[Turn]:
    """The turns that begin at `starts`; text before the first is a turn without a speaker."""
    found = list(starts)
    if not found or text[: found[0][0]].strip():
        found.insert(0, (0, 0, None, None))
    else:
        found[0] = (0, *found[0][1:])  # blank lines before the first label
    ends = [start for start, *_ in found[1:]] + [len(text)]
    pairs = zip(found, ends, strict=True)
    return [Turn(who, text[at:end], said - at, time) for (at, said, who, time), end in pairs if at < end]


def _lines(text: str) -> list[Turn]:
    return [Turn(None, line) for line in text.splitlines(keepends=True)]


def _label_starts(text: str) -> list[Start]:
    """The lines that begin with a label: `#Person1#:`, `Name:`, `Dr. Name:`, `@handle:`, `[Name]`, `[Name]:`,
    `<name>`, `**Name:**`, `Name (note):`, a phone number or a role in lower case; the colon may be U+FF1A.

    A line within a turn that looks like a label (`Note: ...`) begins a turn.
    """
    starts: list[Start] = []
    lower: list[tuple[str, Start]] = []
    offset = 0
    for line in text.splitlines(keepends=True):
        label = _label(line)
        if label is not None:
            speaker, end, time = label
            starts.append((offset, offset + end, speaker, time))
        elif (match := _LOWER.match(line)) and match[1].islower():
            lower.append((match[1], (offset, offset + match.end(), match[1], None)))
        offset += len(line)
    often = Counter(name for name, _ in lower)
    accepted = {name for name, number in often.items() if number > 1 or set(re.split(r"[\W_]+", name)) & _ROLES}
    return sorted(starts + [start for name, start in lower if name in accepted])


def _label(line: str) -> tuple[str, int, str | None] | None:
    """Speaker, end of the label, and time of a line that begins with a label; None without one."""
    shift = len(line) - len(line.lstrip(_MARKS))
    bare = line[shift:]
    if bare[:1] == "#":
        match = _LABEL.match(bare)
        return (match[3], shift + match.end(), None) if match else None
    if match := _BOLD.match(bare):
        return match[2].strip(), shift + match.end(), None
    if match := _WITH_NOTE.match(bare):
        time = match[2] if re.fullmatch(_TIME, match[2]) else None
        if _is_name(match[1]):
            return match[1], shift + match.end(), time
    if match := _PHONE.match(bare):
        return match[1], shift + match.end(), None
    match = _LABEL.match(bare)
    if match is None:
        return None
    speaker = match[1] or match[2] or match[3]
    return (speaker, shift + match.end(), None) if _is_name(speaker) else None


def _is_name(speaker: str) -> bool:
    """Whether words after the first begin in upper case, except for particles."""
    later = (re.split("[-'’]", word)[0] for word in speaker.split()[1:])
    return len(speaker) <= 40 and all(word[:1] == word[:1].title() or word in _PARTICLES for word in later)


def _inline_starts(text: str) -> list[Start]:
    """Labels within one line: of the words before a colon, those that stand before several, and roles."""
    found = []
    for match in re.finditer(r"(?<!\S)((?:[^\s:]+ ){0,3}[^\s:]+)\s?:(?=\s)", text):
        words = match[1].split(" ")
        names = [" ".join(words[-n:]) for n in range(1, len(words) + 1)]
        found.append((match, [name for name in names if _is_inline_name(name)]))
    often = Counter(name for _, names in found for name in names)
    starts: list[Start] = []
    for match, names in found:
        accepted = [name for name in names if often[name] > 1 or name.lower() in _ROLES or re.match(r"#\w+#?$", name)]
        if accepted:
            name = max(accepted, key=lambda name: (often[name], len(name)))
            starts.append((match.end(1) - len(name), match.end(), name, None))
    return starts


def _is_inline_name(name: str) -> bool:
    return re.fullmatch(rf"{_SPEAKER}", name) is not None and (_is_name(name) or name.islower())


def _timestamps(text: str) -> tuple[Dialogue, int]:
    """Lines that begin with a time stamp and a name, or a name and a time stamp above what was said.

    A stamped line without a name is a system line of an export (`Ines added Tomas`), as is one whose text is marked as
    such; they are dropped and counted.
    """
    turns: list[Turn] = []
    dropped, system = 0, False
    for line in text.splitlines(keepends=True):
        stamp = _STAMPED.match(line)
        heading = None if stamp else _HEADING.match(line)
        if stamp and (stamp["name"] is None or _is_system(line[stamp.end() :])):
            dropped, system = dropped + 1, True
        elif stamp:
            turns.append(Turn(stamp["name"].strip(), line, stamp.end(), stamp["time"]))
            system = False
        elif heading:
            turns.append(Turn(heading["name"].strip(), line, len(line), heading["time"]))
            system = False
        elif turns and not system:
            turns[-1] = replace(turns[-1], raw=turns[-1].raw + line)
        elif not system and line.strip():
            turns.append(Turn(None, line))
    return Dialogue(tuple(turns)), dropped


def _is_system(text: str) -> bool:
    return text[:2].strip()[:1] in ("\u200e",) and "omitted" not in text or "end-to-end encrypted" in text


def _subtitles(text: str) -> list[Turn]:
    """The cues of WebVTT or SRT, joined while the speaker stays the same."""
    turns: list[tuple[str | None, list[str], str | None]] = []
    for block in re.split(r"\n\s*\n", text.replace("\r", "")):
        lines = [line.strip() for line in block.split("\n") if line.strip()]
        at = next((i for i, line in enumerate(lines) if _TIMING.fullmatch(line)), None)
        if at is None:  # WEBVTT, NOTE, STYLE
            continue
        time, said = lines[at].split("-->")[0].strip(), lines[at + 1 :]
        voice = next((m[1] for line in said if (m := _VOICE.search(line))), None)
        for line in said:
            own = _VOICE.search(line)
            words = re.sub(r"</?[a-zA-Z][^>]*>", "", line).strip()
            label = None if voice else _label(words)
            speaker = (own[1] if own else voice) if voice else label[0] if label else None
            words = words[label[1] :].strip() if label else words
            continues = speaker is None and label is None and line is not said[0]
            if turns and (speaker == turns[-1][0] or continues):
                turns[-1][1].append(words)
            else:
                turns.append((speaker, [words], time))
    return [Turn.spoken(speaker, " ".join(filter(None, words)), time) for speaker, words, time in turns]
