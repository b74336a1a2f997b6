"""Exported chats and transcripts with time stamps: WhatsApp, Telegram, Slack, Discord, Zoom, Teams, Otter, IRC."""

import itertools
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from dialogsum_sft.data.dialogue import Dialogue, Turn
from dialogsum_sft.data.speaker_labels import BIDI, MARKS, is_heading, is_name, label_of, labelled

_B = rf"[{BIDI}]*"
_MONTH = r"[^\W\d_]{3,10}\.?"
_DATE = (
    rf"(?:\d{{1,4}}{_B}[./-]{_B}\s?\d{{1,2}}{_B}[./-]{_B}\s?\d{{1,4}}\.?|\d{{4}}[年년]\s?\d{{1,2}}[月월]\s?\d{{1,2}}[日일]"
    rf"|\d{{1,2}}-{_MONTH}-\d{{2,4}}"
    rf"|\d{{1,2}}\.?\s(?:de\s)?{_MONTH},?\s(?:de\s)?\d{{4}}|{_MONTH}\s\d{{1,2}},?\s\d{{4}}|Today|Yesterday)"
)
_AT = r"(?:\s(?:at|um|à|a las|às|alle|kl\.?|klo|om|o))?"
_CLOCK = (
    r"(?:\d{1,2}[:.]\d{2}(?:[:.]\d{2})?(?:[.,]\d{1,6})?|\d{1,2}\sh\s\d{2}"
    r"|(?:\d+ (?:hours?|Stunden?|heures?|horas?|or[ae]) )?(?:\d+ [Mm]inut\w{0,3} )?"
    r"\d+ (?:[Ss][ei][kcg]\w{0,6}))(?!\d)"
)
_HALF = r"(?:\s?(?:[AaPp]\.?\s?[Mm]\.?|Uhr|h|ص|م)(?![^\W\d_]))?(?:Z|\s(?:UTC|GMT)|[+-]\d{2}:?\d{2})?"
_EAST = r"(?:오전|오후|上午|下午|午前|午後|凌晨|中午|晚上)?\s?"
TIME = rf"(?:(?:{_DATE}[,،]?{_B}{_AT}{_B}[\sT]*{_B})?{_EAST}{_CLOCK}{_HALF}(?:,\s{_DATE})?)"
# "[01/03/2024, 9:10:00 PM] Ines: ...", "01.03.24, 21:10 - Ines: ...", "00:00:13 Mara Olsen: ...", "(10:15) Anna: ..."
_STAMPED = re.compile(
    rf"{_B}\s*(?P<open>[\[(])?\s?{_B}(?P<time>{TIME}|(?<=[\[( ])(?:\d+[hms]\s?){{1,3}}(?=[\])]))"
    rf"(?:\s*(?:-->|-|–|—)\s*{TIME})?\s*[\])]?(?P<gap>\s*[-–—|]\s*|,\s+|[\s{BIDI}]+|\Z|(?<=[\])]))"
)
# The name may hold brackets, quotes and smileys: "Max [Work]", "<3 Lisa", "Ann => Bo", "Tom :)".
_NAMED = re.compile(rf"{_B}(?:~\s?)?{_B}((?:[^\n:：]|:(?=[-()*])){{1,60}}?)\s*(?::(?=\s|\Z|[{BIDI}])|：)")
_NICK = re.compile(r"[<\[]([^<>\[\]\n]{1,40})[>\]]:?\s")
# "Mara Olsen  0:13", "Jon [Work]  0:13" and "Mara Olsen [00:13]:" alone on a line; what was said is on the next ones.
_HEADING = re.compile(
    rf"{_B}\s*(?P<open>\[)?(?P<name>(?:[^\W\d_]|[+(]?\d(?=[\d ().-]{{6}})|[@~\U0001f300-\U0001faff])"
    r"[^\n:：]{0,50}?)(?(open)\])"
    r"(?:\s?:[a-z][\w+'-]*:)*"  # Slack's status: "Carl:palm_tree:  10:17 AM"
    rf"(?P<gap>\s*[,|–—-]\s*|\s*,?\s*(?=[\[(])|\s*:\s*(?=[\[(])|\s+)[\[(]?(?P<time>{TIME})\s*[\])]?\s*:?\s*$"
)
# KakaoTalk: "[민수] [오후 2:05] 안녕".
_NAME_FIRST = re.compile(rf"\[(?P<name>[^\]\n]{{1,40}})\]\s\[(?P<time>{TIME})\]\s")
# "From Mara Olsen to Everyone", "Mara Olsen to Jon Pirie(Direct Message)", "Von Mara Olsen an Alle".
_ZOOM = re.compile(
    r"(?i:From)\s+(?P<name>.+?)(?:\s+(?i:to)\s+.+)?|(?P<direct>.+?)\s+to\s+(?:Everyone|.+\(.+\))"
    r"|(?:Von|De|Da|Van)\s+(?P<other>.+?)\s+(?:an|à|a|para|naar)\s+.+"
)
# What exports contain beside messages: bars with a date, headers of DiscordChatExporter and KakaoTalk, and notes of
# Google Meet, Teams and Otter.
_FRAME = re.compile(
    rf"-{{3,}}\s[^\n]{{,20}}{_DATE}[^\n]{{,20}}\s-{{3,}}|{_DATE},?\s(?:[월화수목금토일]요일|\(?[月火水木金土日](?:曜日)?\)?)"
    r"|Exported [\d,.]+ message\(s\)|(?:저장한 날짜|Date Saved) ?: .*|.{1,60} 카카오톡 대화|KakaoTalk Chats with .*"
    r"|.{1,60}님이 (?:들어왔습니다|나갔습니다|.{1,60}초대했습니다)\.?|This editable transcript was computer .*"
    r"|Meeting ended after \d.*|Transcribed by https://otter\.ai\S*|.{1,60} (?:started|stopped) transcription"
)
_ENCRYPTED = re.compile(
    r"(?i)end-to-end|ende-zu-ende|extremo a extremo|ponta a ponta|bout en bout|uçtan uca|сквозн|端到端|端對端"
)
_UNMARKED = re.compile(r"(?:Messages|Calls|Your messages|This chat|Chats)\b.*end-to-end encrypted")
# "Ines changed the subject to: Flat 3", unlike "Ann from work: hi".
_UP_TO_COLON = re.compile(r"\s[a-zß-ÿ]{3,}\s(?:.*\s)?(?:to|in|zu|auf|a|à|en|naar|para|por|til|till|på|na|на)$")
_QUOTED = re.compile(r"[“”„«»\"][^“”„«»\"]*[“”„«»\"]")
_MEDIA = re.compile(
    r"(?i)\W*<|.*\b(omitted|weggelassen|ausgeschlossen|omitid[ao]|omess[ao]|omise?|absente?|weggelaten|utelämn\w+|"
    r"udeladt|pominięt\w+|пропущен\w*|edilmedi|vynechán\w*)\b|.*(省略|생략|略|تم استبعاد)"
)


@dataclass(frozen=True)
class _Line:
    """`kind`: `named`, `heading` (what was said stands on the next lines), `bare` (no name), `alone` (only a time),
    `frame` (what an app wrote around the messages), or `text`; `sure`: with a date, brackets or a dash, unlike
    "10:30 works: ok".
    """

    raw: str
    kind: str = "text"
    speaker: str | None = None
    label: int = 0
    time: str | None = None
    sure: bool = False

    @property
    def said(self) -> str:
        return self.raw[self.label :]


def is_time_stamped(text: str) -> bool:
    """Whether the turns of a text begin with time stamps."""
    lines = [line for line in _lines(text) if line.raw.strip()]
    framed = lines != (lines := [line for line in lines if line.kind != "frame"])
    named = [line for line in lines if line.kind in ("named", "heading")]
    sure = sum(line.sure for line in named)
    if named and (len(named) == len(lines) or (sure >= 2 and sure >= len(lines) / 10)):
        return True
    labels = sum(line.kind == "text" and label_of(line.raw) is not None for line in lines)
    if len(named) >= 2 and len(named) >= max(labels, len(lines) / 4):
        return True
    bare, alone = ([line for line in lines if line.kind == kind] for kind in ("bare", "alone"))
    if len(bare) > 1 - framed and (len(bare) == len(lines) or (labels == 0 and _are_names(lines))):
        return True
    if labels > 1 and any(re.fullmatch(r"\d\d:\d\d:\d\d", line.raw.strip()) for line in alone):  # Google Meet
        return True
    return len(lines) > 1 and lines[0].kind == "alone" and (labels > 0 or len(alone) > 1)


def read_time_stamped(text: str) -> tuple[Dialogue, list[str]]:
    """The dialogue of lines that begin with a time stamp and a name, or of names and time stamps above what was said;
    and the dropped lines.

    Dropped are system lines: stamped lines without a name (`Ines added Tomas`), and those whose text or name are
    marked as such. Where no line has a name, names are looked for in the lines after the stamps; else each stamped
    line is a turn without a speaker.
    """
    lines = _lines(text)
    if not any(line.kind in ("named", "heading") for line in lines):
        if any(line.kind == "alone" for line in lines):
            others = "".join(line.raw for line in lines if line.kind not in ("alone", "frame"))
            return labelled(others.lstrip("\n")), [
                line.raw.strip() for line in lines if line.kind in ("alone", "frame")
            ]
        headed = _are_names([line for line in lines if line.raw.strip() and line.kind != "frame"])
        lines = [_as_turn(line, headed) for line in lines]
    system = _system_lines(lines)
    turns: list[Turn] = []
    dropped: list[str] = []
    within = False
    for number, line in enumerate(lines):
        if line.kind == "frame":
            dropped += [line.raw.strip()] if line.raw.strip() else []
        elif number in system:
            dropped.append(line.raw.strip())
            within = True
        elif line.kind in ("named", "heading"):
            turns.append(Turn(line.speaker, line.raw, line.label, line.time))
            within = False
        elif turns and not within:
            turns[-1] = replace(turns[-1], raw=turns[-1].raw + line.raw)
        elif not within and line.raw.strip():
            turns.append(Turn(None, line.raw))
        elif within and line.raw.strip():
            dropped.append(line.raw.strip())
    return Dialogue(tuple(turns)), dropped


def _lines(text: str) -> list[_Line]:
    lines = [_line(line) for line in text.splitlines(keepends=True)]
    bars = [i for i, line in enumerate(lines) if line.raw.startswith("=====")]
    for begin, end in itertools.pairwise(bars):  # DiscordChatExporter: "Guild: ...", "Channel: ..."
        header = any(line.raw.startswith(("Guild:", "Channel:", "Exported ")) for line in lines[begin + 1 : end])
        if header and end - begin < 10 and all(line.kind in ("text", "frame") for line in lines[begin : end + 1]):
            lines[begin : end + 1] = [replace(line, kind="frame") for line in lines[begin : end + 1]]
    if not bars and [line.raw.split(":")[0] for line in lines[:2]] == ["Guild", "Channel"]:
        end = next((i for i, line in enumerate(lines) if line.kind != "text" or not line.raw.strip()), 0)
        lines[:end] = [replace(line, kind="frame") for line in lines[:end]]
    for i in range(len(lines) - 1, 0, -1):  # a name, below it the time, below it what was said
        above, line = lines[i - 1], lines[i]
        first = i == 1 or not lines[i - 2].raw.strip()
        name = above.raw.strip()
        raw = above.raw + line.raw
        if line.kind == "alone" and above.kind == "text" and first and _is_heading(name):
            lines[i - 1 : i + 1] = [_Line(raw, "heading", name, len(raw), line.time)]
        elif line.kind == "alone" and above.kind == "heading" and (above.time or "")[-1:].isalpha() and not line.sure:
            lines[i - 1 : i + 1] = [replace(above, raw=raw, label=len(raw))]  # "0 minutes 3 seconds", below it "0:03"
    top = next((i for i, line in enumerate(lines) if line.kind != "text" or label_of(line.raw)), len(lines))
    heads = [i for i, line in enumerate(lines[:top]) if re.fullmatch(r"Attendees[^:]*|Transcript", line.raw.strip())]
    if heads and lines[heads[0]].raw.startswith("Attendees"):  # Google Meet
        begin, end = heads[0], max(heads[-1], min(heads[0] + 1, top - 1)) + 1
        lines[begin:end] = [replace(line, kind="frame") for line in lines[begin:end]]
    names = Counter(line.speaker for line in lines if line.kind in ("named", "heading"))
    return [line if _is_plausible(line, names) else _Line(line.raw) for line in lines]


def _is_heading(line: str) -> bool:
    return is_heading(line) or (line[:1].isupper() and is_name(line))


def _line(raw: str) -> _Line:
    if len(raw) < 200 and _FRAME.fullmatch(raw.strip()):
        return _Line(raw, "frame")
    if stamp := _STAMPED.match(raw):
        sure = bool(stamp["open"] or re.search(r"[-–—|]", stamp["gap"]) or re.match(_B + _DATE, stamp["time"]))
        rest = raw[stamp.end() :]
        if not rest.strip():
            return _Line(raw, "alone", None, len(raw), stamp["time"], sure)
        nick, match = _NICK.match(rest), _NAMED.match(rest)
        if nick and match and re.match(_B + _DATE, stamp["time"]) and re.match(r"\[.*?\]\s[^\W\d_a-z]", rest):
            nick = None  # "12/3/24, 14:06 - [Work] Max: hi"
        if match := nick or match:
            name, end = match[1], match.end()
        elif (mark := stamp["gap"].strip(" ")) in ("\t", "|") and mark in rest:
            name, end = rest.split(mark)[0], rest.index(mark) + 1
        else:
            return _Line(raw, "bare", None, stamp.end(), stamp["time"], sure or rest.startswith(("*", "-")))
        zoom = None if stamp["open"] else _ZOOM.fullmatch(name.strip())
        speaker = (zoom["name"] or zoom["direct"] or zoom["other"] if zoom else name).strip(MARKS + " \t\u00a0\u202f")
        named = sure or zoom is not None or nick is not None
        return _Line(raw, "named", speaker, stamp.end() + end, stamp["time"], named)
    if first := _NAME_FIRST.match(raw):
        return _Line(raw, "named", first["name"].strip(), first.end(), first["time"], True)
    if heading := _HEADING.match(raw):
        dated = re.match(_DATE, heading["time"]) is not None
        sure = dated or len(heading["gap"]) > 1 or raw.rstrip(": \n").endswith(("]", ")"))
        return _Line(raw, "heading", heading["name"].strip(), len(raw), heading["time"], sure)
    return _Line(raw)


def _is_plausible(line: _Line, names: Counter[str | None]) -> bool:
    """Whether a stamp is one: a clock time alone may be what somebody says ("10:30 works: ok")."""
    if line.kind in ("text", "alone", "frame") or line.sure:
        return True
    name = line.speaker or ""
    if line.kind == "heading" and " " not in name and max(names.values()) > 1:
        return True
    return line.kind == "bare" or names[name] > 1 or (is_name(name) and not name[:1].islower())


def _are_names(lines: Sequence[_Line]) -> bool:
    """Whether what follows the stamps are names: each stands above a line without a stamp."""
    return all(
        line.kind == "text"
        or (line.sure or is_name(line.said.strip()))
        and (below is not None and below.kind == "text" and len(line.said) <= 40)
        for line, below in zip(lines, [*lines[1:], None], strict=True)
    )


def _as_turn(line: _Line, headed: bool) -> _Line:
    if line.kind != "bare":
        return line
    if headed:
        return replace(line, kind="heading", speaker=line.said.strip(MARKS + " \n"), label=len(line.raw))
    return replace(line, kind="named")


def _system_lines(lines: Sequence[_Line]) -> set[int]:
    """The numbers of the lines that an app wrote."""
    named = [line for line in lines if line.kind == "named" and line.speaker]
    people = {line.speaker for line in named if line.said.strip(" ")[:1] != "\u200e"}
    times = Counter(line.speaker for line in named)
    system = set()
    for number, line in enumerate(lines):
        if line.kind in ("bare", "alone") and line.sure:
            system.add(number)
        if line.kind != "named" or not line.speaker:
            continue
        name, said = line.speaker, line.said.strip(" ")
        marked = said[:1] == "\u200e"
        own = re.match(r"(?:You|Du|Vous|Você|Tú|Hai)\s[^\W\d_A-Z]", name) is not None
        about = _UP_TO_COLON.search(name) and any(other and name.startswith(f"{other} ") for other in times)
        if (
            (times[name] == 1 and (own or about or _is_in_quotes(name, said)))
            or (len(said) < 400 and _ENCRYPTED.search(said) and (marked or _UNMARKED.match(said)))
            or (marked and not _MEDIA.match(said) and (name not in people or said.lstrip(MARKS).startswith(name)))
        ):
            system.add(number)
    return system


def _is_in_quotes(name: str, said: str) -> bool:
    """Whether the colon stands within quotes: `Ines created group “Flat 3: bills”`, unlike `Max "Maxi" M: hi`."""
    begin = _QUOTED.sub("", name)
    return re.search(r"\w\s[“„«\"]", begin) is not None and re.search(r"[”“»\"]", said) is not None
