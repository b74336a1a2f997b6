"""Read a dialogue from structured values: lists of turns or of texts, parallel lists, the same stored as text."""

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dialogsum_sft.data.dialogue import Dialogue, Turn
from dialogsum_sft.data.labels import ROLES, label_starts, turns_at
from dialogsum_sft.data.stored_lists import stored_list

# Keys without case, `_` and `-`: speakerName is speaker_name.
SPEAKER_KEYS = (
    *("speaker", "name", "author", "user", "sender", "username", "speakername", "displayname", "fromname", "nickname"),
    *("authorname", "speakerid", "speakerlabel", "participant", "participantname", "from", "agent", "role"),
    *("speakerrole", "participantrole", "participantid", "userid", "senderid", "channel", "who", "character", "spk"),
    *("isagent", "isuser", "isbot", "iscustomer", "fromme"),
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
# Keys that are speakers where an object has no other.
_SPOKEN = ROLES | {"question", "answer", "prompt", "response", "input", "output", "instruction", "q", "a"}
_SPOKEN |= {"user utterance", "system response"}  # DialogStudio
# Where an object holds the list of turns.
_LIST_KEYS = (
    *("turns", "utterances", "messages", "conversation", "conversations", "dialogue", "dialog", "transcript", "log"),
    *("segments", "items", "results", "data", "content"),
)


@dataclass(frozen=True)
class TurnKeys:
    """The keys that options name for the speaker and the text of a turn; None: found among the usual ones."""

    speaker: str | None = None
    text: str | None = None


def parse_turns(value: Any, keys: TurnKeys = TurnKeys(), speakers: Any = None) -> tuple[Dialogue, int]:
    """The dialogue of a structured value, and the number of turns without text, such as tool calls, that were skipped.

    `value` is a list of objects (a turn each) or of texts, an object of parallel lists, or an object that holds one of
    these. `speakers` is the list of speakers of a list of texts. Numbers as speakers become `Speaker 0`. Line breaks
    within a text are kept.

    Raises ValueError with the reason: no turns, a turn without a known text key (its keys are listed), another type.
    """
    found = _list_of(value)
    if isinstance(found, Mapping):
        found = _from_parallel(found)
    if isinstance(speakers, str):
        speakers = stored_list(speakers)
    if speakers is not None:
        if not isinstance(speakers, Sequence) or len(speakers) != len(found):
            number = len(speakers) if isinstance(speakers, Sequence) else 0
            raise ValueError(f"the lists of texts and of speakers differ in length ({len(found)} and {number})")
        found = [{"speaker": speaker, "text": text} for speaker, text in zip(speakers, found, strict=True)]
    if not found:
        raise ValueError("the list of turns is empty")
    if all(isinstance(turn, str) for turn in found) and (labelled := _labelled(found)):
        return labelled
    found = _spread(found, keys)
    turns, skipped = [], 0
    for number, turn in enumerate(found, 1):
        read = _turn(turn, number, keys)
        if read is None:
            skipped += 1
        else:
            turns.append(read)
    if not turns:
        raise ValueError("no turn has a text")
    return Dialogue.of(turns), skipped


def keys_of(value: Any) -> list[str]:
    """The keys of the objects in a list of turns; none where it has others."""
    try:
        found = _list_of(value)
    except ValueError:
        return []
    return list(dict.fromkeys(str(key) for turn in found if isinstance(turn, Mapping) for key in turn))


def _list_of(value: Any) -> Any:
    """The list of turns that an object holds under one of the usual keys, at any of three levels; else the value."""
    for _ in range(3):
        if not isinstance(value, Mapping) or _is_parallel(value):
            break
        if value and all(str(key).isdecimal() for key in value):  # turns by their numbers
            return [value[key] for key in sorted(value, key=int)]
        inner = next((value[key] for key in _LIST_KEYS if isinstance(value.get(key), (list, dict))), None)
        if inner is None:
            raise ValueError(f"an object without a list of turns: it has {_listed(value)}")
        value = inner
    if not isinstance(value, (list, tuple, Mapping)):
        raise ValueError(f"{_kind(value)}, neither text nor a list of turns")
    return value


def _is_parallel(value: Mapping[str, Any]) -> bool:
    return any(
        _plain(key) in TEXT_KEYS and isinstance(item, (list, tuple)) and item and isinstance(item[0], str)
        for key, item in value.items()
    )


def _from_parallel(value: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The turns of an object of parallel lists. Raises ValueError where texts and speakers differ in number."""
    lists = {_plain(key): item for key, item in value.items() if isinstance(item, (list, tuple))}
    text = next(key for key in TEXT_KEYS if key in lists and lists[key] and isinstance(lists[key][0], str))
    turns = []
    for key, item in lists.items():
        if len(item) != len(lists[text]) and key in SPEAKER_KEYS:
            numbers = f"{len(lists[text])} and {len(item)}"
            raise ValueError(f"the lists of texts and of speakers differ in length ({numbers})")
    for number in range(len(lists[text])):
        turns.append({key: item[number] for key, item in lists.items() if len(item) == len(lists[text])})
    return turns


def _plain(key: Any) -> str:
    """A key without case, `_`, `-` and the plural's s: `Speaker_IDs` is speakerid."""
    plain = str(key).lower().replace("_", "").replace("-", "")
    return plain[:-1] if plain[-1:] == "s" and plain[:-1] in (*SPEAKER_KEYS, *TEXT_KEYS) else plain


def _labelled(texts: Sequence[str]) -> tuple[Dialogue, int] | None:
    """The turns of texts of which most begin with labels; None where they do not. Each text begins a turn."""
    kept = [clean for number, text in enumerate(texts, 1) if (clean := _clean(text, number, "text"))]
    starts = {start[0]: start for start in label_starts("\n".join(kept))}
    begins = list(itertools.accumulate((len(text) + 1 for text in kept), initial=0))[:-1]
    if sum(begin in starts for begin in begins) < max(2, len(kept) / 2):
        return None
    starts |= {begin: (begin, begin, None, None) for begin in begins if begin not in starts}
    turns = turns_at("\n".join(kept), sorted(starts.values(), key=lambda start: start[0]))
    return Dialogue(tuple(turns)), len(texts) - len(kept)


def _spread(found: Any, keys: TurnKeys) -> Any:
    """The turns; one for each key where keys are speakers: {"user": "Hi.", "bot": "Yes?"}, or {"Ann": "Hi."}."""
    if keys != TurnKeys() or not all(isinstance(turn, Mapping) for turn in found):
        return found
    names = list(dict.fromkeys(str(key) for turn in found for key in turn))
    if len(names) < 2 or any(_plain(name) in TEXT_KEYS for name in names):
        return found
    alone = all(len(turn) == 1 for turn in found)
    spoken = [name for name in names if alone or name.lower() in _SPOKEN]
    if len(spoken) < 2 or not all(isinstance(turn.get(name, ""), str) for turn in found for name in spoken):
        return found
    return [{"speaker": _role(name), "text": turn[name]} for turn in found for name in spoken if name in turn]


def _role(key: str) -> str:
    return key.split()[0].capitalize() if key.lower() in _SPOKEN else key


def _first(turn: Mapping[str, Any], wanted: Sequence[str]) -> Any:
    """The value of the first of the wanted keys that is there and not empty."""
    plain = {_plain(key): value for key, value in turn.items() if value not in (None, "")}
    return next((plain[key] for key in wanted if key in plain), None)


def _text_of(turn: Mapping[str, Any]) -> Any:
    """The first value under a key for texts that is text, else the first one: Whisper's `words` may be a list."""
    plain = {_plain(key): value for key, value in turn.items() if value not in (None, "")}
    values = [plain[key] for key in TEXT_KEYS if key in plain and (key != "words" or isinstance(plain[key], str))]
    return next((value for value in values if isinstance(value, str)), values[0] if values else None)


def _turn(turn: Any, number: int, keys: TurnKeys) -> Turn | None:
    if isinstance(turn, str):
        text = _clean(turn, number, "text")
        return Turn.spoken(None, text) if text else None
    if isinstance(turn, (list, tuple)) and len(turn) == 2 and isinstance(turn[1], str):
        turn = {"speaker": turn[0], "text": turn[1]}
    if not isinstance(turn, Mapping):
        raise ValueError(f"turn {number} is {_kind(turn)}, neither an object nor text")
    names = set(map(_plain, turn))
    if not (keys.text in turn if keys.text else names & set(TEXT_KEYS)):
        if names & _CALLS:
            return None
        hint = f"under {keys.text}" if keys.text else "under a known key"
        raise ValueError(f"turn {number} has no text {hint}: it has {_listed(turn)}; name it with --text_key")
    text = _joined(turn[keys.text] if keys.text else _text_of(turn), number)
    if not text:
        return None
    speaker = turn.get(keys.speaker) if keys.speaker else _first(turn, SPEAKER_KEYS)
    if isinstance(speaker, Mapping):  # {"author": {"name": ...}}
        speaker = _first(speaker, (*SPEAKER_KEYS, "id"))
    if isinstance(speaker, list) and all(isinstance(one, str) for one in speaker):  # who speak together
        speaker = " and ".join(speaker)
    if isinstance(speaker, bool):
        speaker = _of_boolean(turn, speaker, keys.speaker)
    if isinstance(speaker, bool) or not isinstance(speaker, (str, int, float, type(None))):
        raise ValueError(f"turn {number} has {_kind(speaker)} as its speaker, not text")
    if isinstance(speaker, (int, float)):
        speaker = f"Speaker {speaker:g}"
    name = " ".join(_clean(speaker, number, "speaker").split()) if speaker else None
    time = _first(turn, TIME_KEYS)
    return Turn.spoken(name, text, str(time) if isinstance(time, (str, int, float)) else None)


def _of_boolean(turn: Mapping[str, Any], value: bool, named: str | None) -> str | bool:
    """The speaker whom a key such as is_agent tells; the value itself where the key does not tell it."""
    plain = {_plain(key): str(key) for key in turn}
    key = _plain(named) if named else next(key for key in SPEAKER_KEYS if key in plain)
    name = plain.get(key, key).removeprefix("is_")
    if key not in _YES_NO and not named:
        return value
    return _YES_NO.get(key, (name, f"not {name}"))[0 if value else 1]


def _joined(value: Any, number: int) -> str:
    """The text of a turn: text, or a list of texts or of OpenAI's text parts, joined with spaces; "" without any."""
    if value is None:
        return ""
    if isinstance(value, list):
        parts = []
        for part in value:
            own = part if isinstance(part, str) else part.get("text") if isinstance(part, Mapping) else None
            other_type = isinstance(part, Mapping) and part.get("type") not in (None, "text")  # an image, a tool call
            if not isinstance(own, str) and not (own is None and other_type):
                raise ValueError(f"turn {number} has {_kind(part)} as a part of its text")
            parts.append(own or "")
        between = "" if any(part[:1].isspace() or part[-1:].isspace() for part in parts) else " "
        value = re.sub("(?<=[。！？，、；：…])(?<! ) (?=[^ ])", "", between.join(filter(None, parts)))
    if not isinstance(value, str):
        raise ValueError(f"turn {number} has {_kind(value)} as its text")
    return _clean(value, number, "text")


def _clean(text: str, number: int, what: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:  # lone surrogates, such as half an emoji
        raise ValueError(f"turn {number} has a {what} that is not UTF-8") from error
    text = text.replace("\r\n", "\n").replace("\r", "\n").strip()
    return text if text.strip("\ufeff \n\t") else ""


def _kind(value: Any) -> str:
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


def _listed(value: Mapping[str, Any]) -> str:
    return ", ".join(map(str, value)) or "nothing"
