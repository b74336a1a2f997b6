"""Read one turn of a list: an object with keys for its speaker and its text, of which there are many names."""

import functools
import html
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dialogsum_sft.data.columns import has, value_of
from dialogsum_sft.data.dialogue import Turn
from dialogsum_sft.data.speaker_labels import ROLES

# Keys without case, `_` and `-`: speakerName is speaker_name.
SPEAKER_KEYS = (
    *("speaker", "name", "author", "user", "sender", "username", "speakername", "displayname", "fromname", "nickname"),
    *("sendername", "authorname", "speakerid", "speakerlabel", "participant", "participantname", "from", "agent"),
    *("role", "speakerrole", "participantrole", "participantid", "userid", "senderid", "channel", "who", "character"),
    *("spk", "isagent", "isuser", "isbot", "iscustomer", "fromme"),
)
TEXT_KEYS = (
    *("text", "content", "value", "utterance", "message", "transcript", "body", "sentence", "utterances", "line"),
    *(
        "parts",
        "msg",
        "say",
        "speech",
        "messagetext",
        "transcription",
        "utt",
        "dialogue",
        "turn",
        "words",
        "sentences",
    ),
)
TIME_KEYS = ("time", "timestamp", "ts", "start", "starttime", "date", "createdat")
# What an assistant does between its texts.
_CALLS = frozenset(("toolcalls", "functioncall", "toolcallid", "toolresponses", "action", "event"))
# What the two values of a speaker's key mean where it is a boolean.
_YES_NO = {
    **{"isagent": ("Agent", "Customer"), "iscustomer": ("Customer", "Agent"), "isuser": ("User", "Agent")},
    **{"isbot": ("Bot", "User"), "fromme": ("Me", "Other")},
}
# Within the object that is a speaker: {"author": {"realName": ...}}, {"from": {"user": {"displayName": ...}}}.
_NAME_KEYS = ("realname", "fullname", "displayname", *SPEAKER_KEYS, "id")

# Joins, leaves, pins, changed topics: the kinds of message under `subtype`, `type`, ... of Slack, Discord, Telegram,
# Zendesk, Mattermost, Matrix, Teams, WhatsApp and Rocket.Chat, without case, `_`, `-` and dots.
_KIND_KEYS = ("subtype", "type", "messagetype", "eventtype", "parttype", "t")
_SYSTEM = re.compile(
    r"(channel|group|mpim|im)(join|leave|topic|purpose|name|archive|unarchive|convert\w*|posting\w*)|(un)?pinneditem"
    r"|(bot|app)(add|remove)|reminder(add|delete)|huddlethread|shroomcreated|tombstone|service(message)?|systemmessage"
    r"|systemevent(message)?|system(join|leave|add|remove|header|purpose|displayname|channel|me|archive|ephemeral)\w*"
    r"|recipient(add|remove)|channel(name|icon)change|channelpinned(message)?|(guild|chat|group|user|member)*"
    r"(join|joined|leave|left|added|removed)|guildboost\w*|premiumguild\w*|userpremium\w*|channelfollowadd"
    r"|threadcreated|threadactivity\S*|(event)?/?call(log)?|event/\w+|mroom(member|topic|name|avatar|create|power\w*)"
    r"|mroom(join\w*|history\w*|pinned\w*|guest\w*|canonical\w*|encryption|redaction)|e2enotification|gp2|u[jl]|[ar]u"
    r"|notification(template)?|roomchanged\w*|(un)?subscribe|groupv2change|keychange|profilechange|assignment"
)
_DISCORD_NUMBERS = frozenset((*range(1, 19), 22, *range(24, 33), 36, 37, 38, 39, 44, 46))  # of its API

_TAGS = r"p|div|span|br|html|body|table|ul|ol|li|a|b|strong|i|em|u|h[1-6]|blockquote|pre|code|img|font|section|article"
_IS_HTML = re.compile(rf"(?is)<({_TAGS})\b[^<>]*>.*(</({_TAGS})\s*>|<(br|img)\b[^<>]*>)")
_LINE_ENDS = re.compile(r"(?i)<br\b[^<>]*>|</(p|div|li|tr|h[1-6]|blockquote|ul|ol|table)\s*>")
_MARKUP = re.compile(r"(?is)<(script|style)\b.*?</\1\s*>|<!--.*?-->|</?[a-z][^<>]*>")


@dataclass(frozen=True)
class TurnKeys:
    """The keys that options name for the speaker and the text of a turn, nested ones with dots (`author.name`).

    None: found among the usual ones.
    """

    speaker: str | None = None
    text: str | None = None


@dataclass
class TurnReader:
    """Reads the turns of one list; `counts` has what was left out or changed, by the names of `Counts`.

    `names` are the real names that some turns give for a user's id, and `roles` is whether the kinds of turns are
    their speakers (`"type": "system"` is then no system message).
    """

    keys: TurnKeys
    names: Mapping[str, str] = field(default_factory=dict)
    roles: bool = False
    only_system: bool = False  # every turn seems to be one: then the kind says something else, such as "call"
    counts: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(cls, found: Sequence[Any], keys: TurnKeys) -> "TurnReader":
        turns = [turn for turn in found if isinstance(turn, Mapping)]
        names = {
            turn["user"]: name
            for turn in turns
            if isinstance(turn.get("user"), str) and (name := _real_name(turn)) is not None
        }
        kinds = {kind.lower() for turn in turns for kind in _kinds(turn, keys)}
        reader = cls(keys, names, bool(kinds & (ROLES - {"system"})))
        reader.only_system = all(map(reader._is_system, turns))
        return reader

    def turn(self, turn: Any, number: int) -> Turn | None:
        """The turn; None for one without text and for a system message, which are counted.

        Raises ValueError with the reason for what is no turn.
        """
        if isinstance(turn, (list, tuple)) and len(turn) == 2 and isinstance(turn[1], str):
            turn = {"speaker": turn[0], "text": turn[1]}
        if not isinstance(turn, (str, Mapping)):
            raise ValueError(f"turn {number} is {kind_of(turn)}, neither an object nor text")
        if isinstance(turn, Mapping) and not self.only_system and self._is_system(turn):
            self.counts["system_lines"] += 1
            return None
        value = turn if isinstance(turn, str) else self._text_of(turn)
        text, skipped = self._joined(value, number)
        if not text:
            self.counts["skipped_turns"] += 1
            return None
        if isinstance(turn, str):
            return Turn.spoken(None, text)
        calls = plain_keys(turn)
        self.counts["skipped_parts"] += skipped + sum(bool(calls.get(key)) for key in ("toolcalls", "functioncall"))
        time = _first(turn, TIME_KEYS)
        return Turn.spoken(
            self._speaker(turn, number), text, str(time) if isinstance(time, (str, int, float)) else None
        )

    def _is_system(self, turn: Mapping[str, Any]) -> bool:
        plain = plain_keys(turn)
        if type(plain.get("type")) is int and "channelid" in plain and isinstance(plain.get("author"), Mapping):
            return plain["type"] in _DISCORD_NUMBERS
        kinds = [re.sub(r"[_.\s-]", "", kind.lower()) for kind in _kinds(turn, self.keys)]
        return any(_SYSTEM.fullmatch(kind) or (not self.roles and kind in ("system", "event")) for kind in kinds)

    def _text_of(self, turn: Mapping[str, Any]) -> Any:
        """The first value under a key for texts that is text, else the first one: Whisper's `words` may be a list."""
        if self.keys.text:
            return value_of(turn, self.keys.text)
        plain = plain_keys(turn)
        values = [plain[key] for key in TEXT_KEYS if key in plain and (key != "words" or isinstance(plain[key], str))]
        value = next((value for value in values if isinstance(value, str)), values[0] if values else None)
        if isinstance(value, Mapping):  # {"body": {"contentType": "html", "content": ...}}
            inner = _first(value, TEXT_KEYS)
            return value if inner is None else inner
        return value

    def _speaker(self, turn: Mapping[str, Any], number: int) -> str | None:
        speaker = (
            value_of(turn, self.keys.speaker) if self.keys.speaker else _real_name(turn) or _first(turn, SPEAKER_KEYS)
        )
        for _ in range(3):
            if isinstance(speaker, Mapping):
                speaker = _first(speaker, _NAME_KEYS)
        if isinstance(speaker, list) and all(isinstance(one, str) for one in speaker):  # who speak together
            speaker = " and ".join(speaker)
        if isinstance(speaker, bool):
            speaker = _of_boolean(turn, speaker, self.keys.speaker)
        if isinstance(speaker, bool) or not isinstance(speaker, (str, int, float, type(None))):
            raise ValueError(f"turn {number} has {kind_of(speaker)} as its speaker, not text")
        if isinstance(speaker, (int, float)):
            speaker = f"Speaker {speaker:g}"
        elif speaker and not self.keys.speaker:
            speaker = self.names.get(speaker, speaker)
        return " ".join(clean(speaker, number, "speaker").split()) if speaker else None

    def _joined(self, value: Any, number: int) -> tuple[str, int]:
        """The text of a turn, "" without any, and the number of its parts that are no text (images, tool calls).

        A list of texts or of OpenAI's text parts is joined with spaces.
        """
        skipped = 0
        if value is None:
            return "", 0
        if isinstance(value, list):
            parts = []
            for part in value:
                own = part if isinstance(part, str) else part.get("text") if isinstance(part, Mapping) else None
                other_type = isinstance(part, Mapping) and part.get("type") not in (None, "text")
                if not isinstance(own, str) and not (own is None and other_type):
                    raise ValueError(f"turn {number} has {kind_of(part)} as a part of its text")
                parts.append(own or "")
                skipped += own is None
            between = "" if any(part[:1].isspace() or part[-1:].isspace() for part in parts) else " "
            value = re.sub("(?<=[。！？，、；：…])(?<! ) (?=[^ ])", "", between.join(filter(None, parts)))
        if not isinstance(value, str):
            raise ValueError(f"turn {number} has {kind_of(value)} as its text")
        text = clean(value, number, "text")
        if _IS_HTML.fullmatch(text):
            self.counts["html_texts"] += 1
            text = clean(_without_markup(text), number, "text")
        return text, skipped


def has_text(turn: Any, keys: TurnKeys) -> bool:
    """Whether a turn has a key for its text, or is a text itself."""
    if not isinstance(turn, Mapping):
        return True
    return has(turn, keys.text) if keys.text else not set(TEXT_KEYS).isdisjoint(map(plain_key, turn))


def is_call(turn: Mapping[str, Any]) -> bool:
    return not _CALLS.isdisjoint(map(plain_key, turn))


@functools.lru_cache(1000)
def plain_key(key: Any) -> str:
    """A key without case, `_`, `-` and the plural's s: `Speaker_IDs` is speakerid."""
    plain = str(key).lower().replace("_", "").replace("-", "")
    return plain[:-1] if plain[-1:] == "s" and plain[:-1] in (*SPEAKER_KEYS, *TEXT_KEYS) else plain


def plain_keys(turn: Mapping[str, Any]) -> dict[str, Any]:
    """The values that are not empty, by their plain keys."""
    return {plain_key(key): value for key, value in turn.items() if value not in (None, "")}


def _first(turn: Mapping[str, Any], wanted: Sequence[str]) -> Any:
    """The value of the first of the wanted keys that is there and not empty."""
    plain = plain_keys(turn)
    return next((plain[key] for key in wanted if key in plain), None)


def _real_name(turn: Mapping[str, Any]) -> str | None:
    """The name in Slack's `user_profile`."""
    profile = turn.get("user_profile")
    name = _first(profile, ("realname", "displayname", "name")) if isinstance(profile, Mapping) else None
    return name if isinstance(name, str) else None


def _kinds(turn: Mapping[str, Any], keys: TurnKeys) -> list[str]:
    """What an object says of its kind, unless that is the speaker's or the text's key."""
    named = (keys.speaker, keys.text)
    own = {key: value for key, value in turn.items() if isinstance(value, str) and key not in named}
    return [value for key, value in own.items() if plain_key(key) in _KIND_KEYS]


def _of_boolean(turn: Mapping[str, Any], value: bool, named: str | None) -> str | bool:
    """The speaker whom a key such as is_agent tells; the value itself where the key does not tell it."""
    plain = {plain_key(key): str(key) for key in turn}
    key = plain_key(named) if named else next(key for key in SPEAKER_KEYS if key in plain)
    name = plain.get(key, key).removeprefix("is_")
    if key not in _YES_NO and not named:
        return value
    return _YES_NO.get(key, (name, f"not {name}"))[0 if value else 1]


def _without_markup(text: str) -> str:
    """The text of HTML, with the line breaks of its paragraphs."""
    text = html.unescape(_MARKUP.sub("", _LINE_ENDS.sub("\n", text.replace("\n", " "))))
    return "\n".join(filter(None, (" ".join(line.split()) for line in text.split("\n"))))


def clean(text: str, number: int, what: str) -> str:
    """The text with \\n line ends, without white space around it. Raises ValueError where it is not UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError as error:  # lone surrogates, such as half an emoji
        raise ValueError(f"turn {number} has a {what} that is not UTF-8") from error
    text = text.replace("\r\n", "\n").replace("\r", "\n").strip()
    return text if text.strip("\ufeff \n\t") else ""


def kind_of(value: Any) -> str:
    """The type of a value in the words of JSON."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return "a number"
    if isinstance(value, (list, tuple)):
        return "a list"
    return "an object" if isinstance(value, Mapping) else type(value).__name__
