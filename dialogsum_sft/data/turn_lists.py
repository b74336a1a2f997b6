"""Read a dialogue from structured values: lists of turns or of texts, parallel lists, the same stored as text."""

import ast
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dialogsum_sft.data.dialogue import Dialogue, Turn
from dialogsum_sft.data.transcripts import parse

SPEAKER_KEYS = (
    *("speaker", "name", "author", "user", "sender", "username", "speaker_name", "display_name", "from_name"),
    *("speaker_id", "participant", "participantid", "names", "from", "agent", "role", "channel"),
    *("is_agent", "is_user", "is_bot", "is_customer", "from_me", "fromme"),
)
TEXT_KEYS = (
    *("text", "content", "value", "utterance", "message", "transcript", "body", "sentence", "utterances", "line"),
    *("parts", "msg", "say", "sentences"),
)
# What the two values of a speaker's key mean where it is a boolean.
_YES_NO = {
    **{"is_agent": ("Agent", "Customer"), "is_customer": ("Customer", "Agent"), "is_user": ("User", "Agent")},
    **{"is_bot": ("Bot", "User"), "from_me": ("Me", "Other"), "fromme": ("Me", "Other")},
}
# Pairs of keys of an object that holds a turn of each of two speakers, as DialogStudio has them.
_EXCHANGES = (
    *(("user utterance", "system response"), ("user", "assistant"), ("user", "system"), ("human", "assistant")),
    *(("human", "bot"), ("customer", "agent")),
)
TIME_KEYS = ("time", "timestamp", "ts", "start", "start_time", "date", "created_at")
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
    these. `speakers` is the list of speakers of a list of texts; without it, texts of which half begin with a label
    (`Ann: Hi.`) have the speakers that these name. Numbers as speakers become `Speaker 0`. Line breaks within a text
    are kept.

    Raises ValueError with the reason: no turns, a turn without a known text key (its keys are listed), another type.
    """
    found = _list_of(value)
    if isinstance(found, Mapping):
        found = _from_parallel(found, keys)
    if isinstance(speakers, str):
        speakers = stored_list(speakers)
    if speakers is not None:
        if not isinstance(speakers, Sequence) or len(speakers) != len(found):
            number = len(speakers) if isinstance(speakers, Sequence) else 0
            raise ValueError(f"the lists of texts and of speakers differ in length ({len(found)} and {number})")
        found = [{"speaker": speaker, "text": text} for speaker, text in zip(speakers, found, strict=True)]
    elif labelled := _labelled(found):
        return labelled, len(found) - len(labelled.turns)
    if not found:
        raise ValueError("the list of turns is empty")
    turns, skipped = [], 0
    for number, turn in enumerate(found, 1):
        for one in _exchange(turn, keys):
            read = _turn(one, number, keys)
            if read is None:
                skipped += 1
            else:
                turns.append(read)
    if not turns:
        raise ValueError("no turn has a text")
    return Dialogue.of(turns), skipped


def stored_list(text: str) -> Any:
    """The list or object that a text holds as JSON or as Python's repr; None for any other text."""
    start = text.lstrip()[:1]
    if start not in ("[", "{"):
        return None
    for load in (json.loads, ast.literal_eval):
        try:
            value = load(text.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
        if isinstance(value, (list, dict)) and value and (isinstance(value, dict) or not isinstance(value[0], int)):
            return value
    return None


def _list_of(value: Any) -> Any:
    """The list of turns that an object holds under one of the usual keys, at any of three levels; else the value."""
    for _ in range(3):
        if not isinstance(value, Mapping) or _is_parallel(value):
            break
        inner = next(
            (value[key] for key in _LIST_KEYS if isinstance(value.get(key), (list, dict)) and value[key]), None
        )
        if inner is None:
            raise ValueError(f"an object without a list of turns: it has {_listed(value)}")
        value = inner
    if not isinstance(value, (list, tuple, Mapping)):
        raise ValueError(f"{_kind(value)}, neither text nor a list of turns")
    return value


def _is_parallel(value: Mapping[str, Any]) -> bool:
    lists = [len(item) for item in value.values() if isinstance(item, (list, tuple))]
    texts = any(isinstance(value.get(key), (list, tuple)) for key in TEXT_KEYS)
    plain = all(
        not isinstance(item, (list, tuple)) or not item or not isinstance(item[0], (list, Mapping))
        for item in value.values()
    )
    return texts and plain and len(lists) > 1 and len(set(lists)) == 1


def _from_parallel(value: Mapping[str, Any], keys: TurnKeys) -> list[dict[str, Any]]:
    lists = {key: item for key, item in value.items() if isinstance(item, (list, tuple))}
    return [dict(zip(lists, items, strict=True)) for items in zip(*lists.values(), strict=True)]


def _labelled(texts: Any) -> Dialogue | None:
    """The dialogue of a list of lines of which two or more, and at least half, begin with a speaker's label; None for
    any other list. Empty lines are left out.
    """
    if not isinstance(texts, list) or not all(isinstance(text, str) and len(text.splitlines()) < 2 for text in texts):
        return None
    lines = [text.strip() for text in texts if text.strip()]
    starts, at = {}, 0
    for turn in parse("\n".join(lines), "labels")[0].turns:
        starts[at] = turn
        at += len(turn.raw)
    turns, at = [], 0
    for number, line in enumerate(lines, 1):
        _clean(line, number, "text")
        start = starts.get(at)
        turns.append(Turn(None, line + "\n") if start is None else replace(start, raw=line + "\n"))
        at += len(line) + 1
    labels = sum(turn.speaker is not None for turn in turns)
    return Dialogue.of(turns) if labels >= max(2, len(turns) / 2) else None


def _exchange(turn: Any, keys: TurnKeys) -> list[Any]:
    """The two turns of an object with a text of each of two speakers; any other turn alone."""
    if isinstance(turn, Mapping) and keys == TurnKeys() and not any(key in turn for key in TEXT_KEYS):
        pair = next((pair for pair in _EXCHANGES if all(key in turn for key in pair)), None)
        if pair is not None:
            return [{"speaker": key.split()[0].capitalize(), "text": turn[key]} for key in pair]
    return [turn]


def _found(turn: Mapping[str, Any], named: str | None, usual: Sequence[str]) -> tuple[str | None, Any]:
    """The first of the keys whose value is not empty, whatever its letter case, and the value."""
    if named is not None:
        return named, turn.get(named)
    present = {str(key).lower(): key for key in reversed(list(turn))}
    for key in usual:
        if key in present and turn[present[key]] not in (None, "", []):
            return key, turn[present[key]]
    return None, None


def _turn(turn: Any, number: int, keys: TurnKeys) -> Turn | None:
    if isinstance(turn, str):
        text = _clean(turn, number, "text")
        return Turn.spoken(None, text) if text else None
    if isinstance(turn, (list, tuple)) and len(turn) == 2 and all(isinstance(part, str) for part in turn):
        turn = {"speaker": turn[0], "text": turn[1]}
    if not isinstance(turn, Mapping):
        raise ValueError(f"turn {number} is {_kind(turn)}, neither an object nor text")
    lowered = {str(key).lower() for key in turn}
    if keys.text not in turn if keys.text else lowered.isdisjoint(TEXT_KEYS):
        hint = f"under {keys.text}" if keys.text else "under a known key"
        raise ValueError(f"turn {number} has no text {hint}: it has {_listed(turn)}; name it with --text_key")
    text = _joined(_found(turn, keys.text, TEXT_KEYS)[1], number)
    if not text:
        return None
    key, speaker = _found(turn, keys.speaker, SPEAKER_KEYS)
    if isinstance(speaker, Mapping):  # {"author": {"name": ...}}
        _, speaker = _found(speaker, None, SPEAKER_KEYS)
    if isinstance(speaker, list) and all(isinstance(one, str) for one in speaker):  # who speak together
        speaker = " and ".join(speaker)
    if isinstance(speaker, bool) and key is not None and (keys.speaker or key in _YES_NO):
        yes, no = _YES_NO.get(key.lower(), (key.removeprefix("is_"), f"not {key.removeprefix('is_')}"))
        speaker = yes if speaker else no
    if isinstance(speaker, bool) or not isinstance(speaker, (str, int, float, type(None))):
        raise ValueError(f"turn {number} has {_kind(speaker)} as its speaker, not text")
    if isinstance(speaker, (int, float)):
        speaker = f"Speaker {speaker:g}"
    name = " ".join(_clean(speaker, number, "speaker").split()) if speaker else None
    time = next((str(turn[key]) for key in TIME_KEYS if isinstance(turn.get(key), (str, int, float))), None)
    return Turn.spoken(name, text, time)


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
        value = re.sub("(?<=[。！？，、；：…])(?<! ) (?=[^ ])", "", " ".join(filter(None, parts)))
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
