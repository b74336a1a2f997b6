"""Speakers' labels at the beginning of lines: `Name:`, `[Name]`, `**Name:**`, `Name (10:15):`, `NAME, HOST:`."""

import re
from collections import Counter
from collections.abc import Sequence

from dialogsum_sft.data.dialogue import Dialogue, Turn

# A name has up to five words and 40 characters, and no punctuation but the full stop of a title or an initial. Words
# after the first begin in upper case, except for particles: "One more thing: ..." is no speaker.
_TITLE = r"(?i:mr|mrs|ms|dr|prof|rev|hon|st|sgt|lt|capt|col|gen|sen|rep|jr|sr|sra|dra|fr|hr|[^\W\d_])\."
_INNER = r"""[^\s.,;:!?()\[\]{}<>"“”„«»/\\|=*+~^$%&#@…—–、。，；：！？।،؛؟【】]{0,39}"""
_NAME = rf"(?:{_TITLE}|[^\W\d_]{_INNER})(?:(?:\s|(?<=\.))(?:{_TITLE}|[^\W_]{_INNER}|\#\d{{1,3}})){{0,4}}"
_PARTICLES = frozenset(
    ["al", "bin", "d", "da", "de", "del", "der", "di", "du", "el", "la", "le", "of", "the", "van", "von"]
)
# Of an e-mail's header.
_HEADER = frozenset(["from", "to", "subject", "date", "sent", "cc", "bcc", "reply-to", "von", "an", "betreff"])
_DEVICE = re.compile("i(?:Phone|Pad|Mac)")  # the name that somebody has in a meeting: "Jo's iPhone"
SPEAKER = rf"\#\w{{1,39}}\#?|@\w{{1,30}}(?:[.-]\w{{1,30}}){{0,2}}|{_NAME}"
# Brackets contain noises as well as names; SAMSum has <file_photo> in place of photos.
NOISE = r"laughs?|laughter|laughing|sighs?|pauses?|silence|applause|music|noise|inaudible|crosstalk|file_\w+|br"
WIDE = r"\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3"  # scripts that write no space after a colon
_LABEL = re.compile(
    rf"\s*[\[<【](?!(?i:{NOISE})[\]>】])(?:(?<=\[)({SPEAKER})\]|(?<=<)({SPEAKER})>|(?<=【)({SPEAKER})】(?=\S))"
    rf"(?:\s?[:：]|(?=\s+\S)|(?<=】))"
    # A space follows the colon, unlike in an emoticon, URL, time or path; #Person1#: and U+FF1A need none.
    rf"|\s*({SPEAKER})(?:\s?:(?=\s|\Z)|(?<=\#):|(?<=[{WIDE}]):(?=[{WIDE}])|\s?(?:(?<!\d)：|：(?!\d)))"
)

# Marks of writing direction, which exports put before names and system messages.
BIDI = "\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff"
MARKS = "\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff"
ROLES = frozenset(
    [
        *("agent", "assistant", "user", "customer", "client", "caller", "callee", "support", "operator", "human"),
        *("bot", "system", "gpt", "doctor", "patient", "nurse", "teacher", "student", "host", "guest", "interviewer"),
        *("interviewee", "seller", "buyer", "rep", "representative", "advisor", "employee", "clerk"),
    ]
)
# **Name:**, *Name*: and <b>Name:</b>, also with a time; a name with a time or a role in brackets; a phone number or an
# address; several names; a name in capitals with a role; the Q. and A. of a court.
_BOLD = re.compile(
    rf"\s*(?:(?P<mark>\*\*|__|\*|_)|<(?P<tag>b|strong|em|i)>)(?P<name>{SPEAKER}|\w[\w .'-]{{0,38}})"
    r"(?:\s?:(?(mark)(?P=mark)|</(?P=tag)>)|(?(mark)(?P=mark)|</(?P=tag)>)(?:\s*[\[(][^\])\n]{1,20}[\])])?\s?:)\s*"
)
_WITH_NOTE = re.compile(
    rf"\s*({SPEAKER}|{_NAME}, {_NAME}|\w[\w .'-]{{0,38}}?)(?:\s?[(\[][^()\[\]\n]{{1,40}}[)\]])?"
    r"\s*(?:\(([^()\n]{1,40})\)|\[([^\[\]\n]{1,40})\])\s?[:：](?=\s|\Z)"
)
_PHONE = re.compile(r"\s*(\+?\d[\d ()./-]{6,18}\d|[\w.+-]{1,30}@[\w-]+(?:\.\w+)+)\s?:(?=\s)")
_SEVERAL = re.compile(rf"\s*({_NAME}(?:(?:\s?[/&+]\s?|\s(?:and|und|et|y|e|i|en|och)\s){_NAME}){{1,3}})\s?:(?=\s|\Z)")
_CAPITALS = re.compile(rf"\s*({_NAME}, \w[\w '-]{{1,40}}):(?=\s|\Z)")
_COURT = re.compile(r"\s*([QA])\.(?=\s+\S)")
# What stands before a colon, which is a name where it labels several lines, or where all lines have such labels.
_LOOSE = re.compile(rf"[{BIDI}]*\s*([^\s:：!?;\"“”][^\n:：!?;\"“”]{{0,59}}?)\s?[:：](?:(?=\s|\Z)|(?=[^\W\d_]))")
# A name on a line of its own: "Olsen, Mara (Guest)", "Jon [Work]", "+49 170 1234567".
_NOTES = r"(?:\s?(?:\([^()\n]{1,40}\)|\[[^\[\]\n]{1,40}\])){0,2}"
_HEADING = re.compile(rf"{SPEAKER}{_NOTES}|{_NAME}, {_NAME}{_NOTES}|\+?\d[\d ()-]{{6,18}}")
# Before labels in a list: "- Anna: ...", "1. Anna: ...".
_BULLET = re.compile(r"\s*(?:(?:[-*•·–—]|\d{1,4}[.)])\s+|>{1,2}\s*)(?=\S)")
_HASHES = re.compile(r"#{1,6}\s+([^\n:]{1,40}?)\s*$")
_COLUMN = re.compile(r"\s*([^\t|\n]{1,40}?)(?:\t+|\s[|–—-]\s|>\s)\s*(?=\S)")
CLOCK = re.compile(r"\d{1,2}[:.]\d{2}(?:[:.]\d{2})?(?:[.,]\d{1,3})?(?:\s?[AaPp]\.?[Mm]\.?)?")

Start = tuple[int, int, str | None, str | None]  # offsets of the turn and of its text, speaker, time
_Lines = Sequence[tuple[int, str]]  # with the offset of each line


def labelled(text: str) -> Dialogue:
    """The turns that begin with labels; without any, every line is a turn."""
    starts = label_starts(text)
    return Dialogue(tuple(turns_at(text, starts) if starts else lines_of(text)))


def turns_at(text: str, starts: Sequence[Start]) -> list[Turn]:
    """The turns that begin at `starts`; text before the first is a turn without a speaker."""
    found = list(starts)
    if not found or text[: found[0][0]].strip():
        found.insert(0, (0, 0, None, None))
    else:
        found[0] = (0, *found[0][1:])  # blank lines before the first label
    ends = [start for start, *_ in found[1:]] + [len(text)]
    pairs = zip(found, ends, strict=True)
    return [Turn(who, text[at:end], said - at, time) for (at, said, who, time), end in pairs if at < end]


def lines_of(text: str) -> list[Turn]:
    return [Turn(None, line) for line in text.splitlines(keepends=True)]


def label_starts(text: str) -> list[Start]:
    """The lines that begin with a label, such as `#Person1#:`, `Name:`, `Dr. Name:`, `@handle:`, `[Name]`, `<name>`,
    `**Name:**`, `Name (note):`, `NAME, HOST:`, a phone number, or a role in lower case; the colon may be U+FF1A.

    Other words before a colon are a label where they stand before several lines, or where all lines have labels. Only
    in a text without such labels are `- Name:`, `1. Name:`, `### Name`, `Name | ` and a name before a tab labels. A
    line within a turn that looks like a label (`Note: ...`) begins a turn.
    """
    lines, offset = [], 0
    for line in text.splitlines(keepends=True):
        if line.strip():
            lines.append((offset, line))
        offset += len(line)
    return _plain(lines) or _with_bullets(lines) or _with_hashes(lines) or _in_columns(lines)


def label_of(line: str) -> tuple[str, int, str | None] | None:
    """Speaker, end of the label, and time of a line that begins with a label; None without one."""
    shift = len(line) - len(line.lstrip(MARKS))
    bare = line[shift:]
    if bare[:1] == "#":
        match = _LABEL.match(bare)
        return (match[4], shift + match.end(), None) if match else None
    if match := _BOLD.match(bare):
        return match["name"].strip(), shift + match.end(), None
    if (match := _WITH_NOTE.match(bare)) and is_name(match[1]):
        note = match[2] or match[3]
        return match[1], shift + match.end(), note if CLOCK.fullmatch(note) else None
    if match := _PHONE.match(bare):
        return match[1], shift + match.end(), None
    if (match := _SEVERAL.match(bare)) and all(map(is_name, re.split(r"\s?[/&+]\s?|\s\w{1,3}\s", match[1]))):
        return match[1], shift + match.end(), None
    if (match := _CAPITALS.match(bare)) and match[1].split(",")[0].isupper():
        return match[1], shift + match.end(), None
    match = _LABEL.match(bare)
    if match is None:
        return None
    speaker = next(filter(None, match.groups()))
    return (speaker, shift + match.end(), None) if is_name(speaker) else None


def is_name(speaker: str) -> bool:
    """Whether words after the first begin in upper case, except for particles."""
    return len(speaker) <= 40 and _is_capitalised(speaker)


def _is_capitalised(name: str) -> bool:
    later = (re.split("[-'’]", word)[0] for word in name.split()[1:])
    return all(word[:1] == word[:1].title() or word in _PARTICLES or _DEVICE.fullmatch(word) for word in later)


def is_heading(line: str) -> bool:
    """Whether a line is a name and nothing else."""
    return _HEADING.fullmatch(line) is not None and is_name(re.split(r"\s?[\[(]", line)[0]) and not line[0].islower()


def _plain(lines: _Lines) -> list[Start]:
    starts: list[Start] = []
    loose: list[tuple[str, Start]] = []
    court: list[Start] = []
    for offset, line in lines:
        if (label := label_of(line)) is not None:
            speaker, end, time = label
            starts.append((offset, offset + end, speaker, time))
        elif match := _COURT.match(line):
            court.append((offset, offset + match.end(), match[1], None))
        elif (match := _LOOSE.match(line)) and _may_be_name(match[1]):
            loose.append((match[1], (offset, offset + match.end(), match[1], None)))
    starts = _without_headers(lines, starts)
    if len({speaker for *_, speaker, _ in court}) == 2:
        starts += court
    often = Counter(name for name, _ in loose)
    everywhere = len(lines) > 1 and len(starts) + len(loose) == len(lines)
    capitals = all(is_name(name) and name[:1].isupper() for name in often)
    everywhere = everywhere and (max(often.values(), default=0) > 1 or (len(often) + bool(starts) > 1 and capitals))
    sure = bool(starts)
    accepted = {name for name, times in often.items() if _is_loose_name(name, times, sure)}
    if everywhere:
        accepted |= {name for name in often if not name.islower()}
    return sorted(starts + [start for name, start in loose if name in accepted], key=lambda start: start[0])


def _without_headers(lines: _Lines, starts: list[Start]) -> list[Start]:
    """The labels without those of an e-mail's header: two or more such lines below each other."""
    names = {at: (speaker or "").lower() for at, _, speaker, _ in starts}
    fields = [names.get(at, "") in _HEADER for at, _ in lines]
    header = {
        at
        for (at, _), above, own, below in zip(lines, [False, *fields], fields, [*fields[1:], False], strict=False)
        if own and (above or below)
    }
    kinds = {names[at] for at in header}
    return [start for start in starts if start[0] not in header] if kinds & {"from", "subject", "betreff"} else starts


def _may_be_name(words: str) -> bool:
    """Whether words before a colon are few enough for a name: five, or eight that begin in upper case."""
    count = len(words.split())
    return (count <= 5 and len(words) <= 40) or (count <= 8 and _is_capitalised(words) and words[:1].isupper())


def _is_loose_name(name: str, times: int, sure: bool) -> bool:
    """Whether words before a colon, which stand there `times`, are a name; `sure`: others of the text are for sure."""
    words = name.split()
    if set(re.split(r"[\W_]+", name.lower())) & ROLES and len(words) <= 3:
        return True
    if name.islower():
        return times > 1 and len(words) <= 3 and re.fullmatch(r"[\w'’ .@#/&-]+", name) is not None
    long = len(words) > 5 and _is_capitalised(name)  # "María José de la Cruz García"
    return times > (2 if sure and not long and name[0].isalpha() and re.fullmatch(r"[\w' ]+", name) else 1)


def _with_bullets(lines: _Lines) -> list[Start]:
    marks = [_BULLET.match(line) for _, line in lines]
    if sum(map(bool, marks)) < max(2, len(lines) / 2):
        return []
    begin: dict[int, int] = {}  # of a line, by the offset of what follows its bullet
    own = []
    for (offset, line), mark in zip(lines, marks, strict=True):
        if mark:
            begin[offset + mark.end()] = offset
            own.append((offset + mark.end(), line[mark.end() :]))
    return [(begin[at], said, speaker, time) for at, said, speaker, time in _plain(own)]


def _with_hashes(lines: _Lines) -> list[Start]:
    found = [(offset, offset + len(line), match[1]) for offset, line in lines if (match := _HASHES.match(line))]
    names = Counter(name for *_, name in found)
    if not names or names.most_common(1)[0][1] < 2 or not all(map(is_name, names)):
        return []
    return [(at, end, name, None) for at, end, name in found]


def _in_columns(lines: _Lines) -> list[Start]:
    found = [(offset, match) for offset, line in lines if (match := _COLUMN.match(line))]
    names = Counter(match[1] for _, match in found)
    if len(found) < len(lines) or len(names) > len(found) * 2 / 3:
        return []
    return [(offset, offset + match.end(), match[1], None) for offset, match in found]
