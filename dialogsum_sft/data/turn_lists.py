"""Read a dialogue from structured values: lists of turns or of texts, parallel lists, the same stored as text."""

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dialogsum_sft.data.dialogue import Dialogue
from dialogsum_sft.data.speaker_labels import ROLES, label_starts, turns_at
from dialogsum_sft.data.stored_lists import stored_list
from dialogsum_sft.data.turn_objects import (
    SPEAKER_KEYS,
    TEXT_KEYS,
    TurnKeys,
    TurnReader,
    clean,
    has_text,
    is_call,
    kind_of,
    plain_key,
)

USUAL = TurnKeys()
# Keys that are speakers where an object has no other.
_SPOKEN = ROLES | {"question", "answer", "prompt", "response", "input", "output", "instruction", "q", "a"}
_SPOKEN |= {"user utterance", "system response"}  # DialogStudio
# Where an object holds the list of turns.
_LIST_KEYS = (
    *("turns", "utterances", "messages", "conversation", "conversations", "dialogue", "dialog", "transcript", "log"),
    *("segments", "items", "results", "data", "content"),
)


def parse_turns(value: Any, keys: TurnKeys = USUAL, speakers: Any = None) -> tuple[Dialogue, Counter[str]]:
    """The dialogue of a structured value, and what was left out or changed, counted by the names of `Counts`: turns
    without text (`skipped_turns`), images and tool calls beside a text (`skipped_parts`), messages of the system
    (`system_lines`), texts taken from HTML (`html_texts`).

    `value` is a list of objects (a turn each) or of texts, an object of parallel lists, or an object that holds one of
    these. `speakers` is the list of speakers of a list of texts. Numbers as speakers become `Speaker 0`. Line breaks
    within a text are kept.

    Raises ValueError with the reason: no turns, no turn with a known text key (its keys are listed), another type.
    """
    found = _list_of(value, keys)
    if isinstance(found, Mapping):
        found = _from_parallel(found, keys)
    if isinstance(speakers, str):
        speakers = stored_list(speakers)
    if speakers is not None:
        if not isinstance(speakers, Sequence) or len(speakers) != len(found):
            number = len(speakers) if isinstance(speakers, Sequence) else 0
            raise ValueError(f"the lists of texts and of speakers differ in length ({len(found)} and {number})")
        found = [{"speaker": speaker, "text": text} for speaker, text in zip(speakers, found, strict=True)]
        keys = USUAL
    if not found:
        raise ValueError("the list of turns is empty")
    if all(isinstance(turn, str) for turn in found) and (labelled := _labelled(found)):
        return labelled
    found = _spread(found, keys)
    if not any(has_text(turn, keys) for turn in found):
        others = (number for number, turn in enumerate(found, 1) if not is_call(turn))
        if number := next(others, 0):
            hint = f"under {keys.text}" if keys.text else "under a known key"
            listed = ", ".join(keys_of(found[number - 1 : number])) or "nothing"
            raise ValueError(f"turn {number} has no text {hint}: it has {listed}; name it with --text_key")
    reader = TurnReader.of(found, keys)
    turns = [read for number, turn in enumerate(found, 1) if (read := reader.turn(turn, number)) is not None]
    if not turns:
        raise ValueError("no turn has a text")
    return Dialogue.of(turns), +reader.counts


def keys_of(value: Any, keys: TurnKeys = USUAL) -> list[str]:
    """The keys of the objects in a list of turns, nested ones with dots; none where it has others."""
    try:
        found = _list_of(value, keys)
    except ValueError:
        return []
    turns = [found] if isinstance(found, Mapping) else found
    return list(dict.fromkeys(path for turn in turns if isinstance(turn, Mapping) for path in _paths(turn)))


def _paths(turn: Mapping[str, Any], depth: int = 3) -> Iterator[str]:
    for key, value in turn.items():
        if isinstance(value, Mapping) and value and depth:
            yield from (f"{key}.{path}" for path in _paths(value, depth - 1))
        else:
            yield str(key)


def _list_of(value: Any, keys: TurnKeys) -> Any:
    """The list of turns that an object holds under one of the usual keys, at any of three levels; else the value."""
    for _ in range(3):
        if not isinstance(value, Mapping) or _is_parallel(value, keys):
            break
        if value and all(str(key).isdecimal() for key in value):  # turns by their numbers
            return [value[key] for key in sorted(value, key=int)]
        inner = next((value[key] for key in _LIST_KEYS if isinstance(value.get(key), (list, dict))), None)
        if inner is None:
            raise ValueError(f"an object without a list of turns: it has {_listed(value)}")
        value = inner
    if not isinstance(value, (list, tuple, Mapping)):
        raise ValueError(f"{kind_of(value)}, neither text nor a list of turns")
    return value


def _is_parallel(value: Mapping[str, Any], keys: TurnKeys) -> bool:
    return any(
        (key == keys.text if keys.text else plain_key(key) in TEXT_KEYS) and _is_list_of_texts(item)
        for key, item in value.items()
    )


def _is_list_of_texts(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and bool(value) and isinstance(value[0], str)


def _from_parallel(value: Mapping[str, Any], keys: TurnKeys) -> list[dict[str, Any]]:
    """The turns of an object of parallel lists. Raises ValueError where texts and speakers differ in number."""
    lists = {key: item for key, item in value.items() if isinstance(item, (list, tuple))}
    plain = {plain_key(key): key for key, item in lists.items() if _is_list_of_texts(item)}
    count = len(lists[keys.text or next(plain[key] for key in TEXT_KEYS if key in plain)])
    for key, item in lists.items():
        if len(item) != count and (key == keys.speaker if keys.speaker else plain_key(key) in SPEAKER_KEYS):
            raise ValueError(f"the lists of texts and of speakers differ in length ({count} and {len(item)})")
    alike = {key: item for key, item in lists.items() if len(item) == count}
    return [{key: item[number] for key, item in alike.items()} for number in range(count)]


def _labelled(texts: Sequence[str]) -> tuple[Dialogue, Counter[str]] | None:
    """The turns of texts of which most begin with labels; None where they do not. Each text begins a turn."""
    kept = [said for number, text in enumerate(texts, 1) if (said := clean(text, number, "text"))]
    starts = {start[0]: start for start in label_starts("\n".join(kept))}
    begins = list(itertools.accumulate((len(text) + 1 for text in kept), initial=0))[:-1]
    if sum(begin in starts for begin in begins) < max(2, len(kept) / 2):
        return None
    starts |= {begin: (begin, begin, None, None) for begin in begins if begin not in starts}
    turns = turns_at("\n".join(kept), sorted(starts.values(), key=lambda start: start[0]))
    return Dialogue(tuple(turns)), +Counter(skipped_turns=len(texts) - len(kept))


def _spread(found: Any, keys: TurnKeys) -> Any:
    """The turns; one for each key where keys are speakers: {"user": "Hi.", "bot": "Yes?"}, or {"Ann": "Hi."}."""
    if keys != USUAL or not all(isinstance(turn, Mapping) for turn in found):
        return found
    names = list(dict.fromkeys(str(key) for turn in found for key in turn))
    if len(names) < 2 or any(plain_key(name) in TEXT_KEYS for name in names):
        return found
    alone = all(len(turn) == 1 for turn in found)
    spoken = [name for name in names if alone or name.lower() in _SPOKEN]
    if len(spoken) < 2 or not all(isinstance(turn.get(name, ""), str) for turn in found for name in spoken):
        return found
    return [{"speaker": _role(name), "text": turn[name]} for turn in found for name in spoken if name in turn]


def _role(key: str) -> str:
    return key.split()[0].capitalize() if key.lower() in _SPOKEN else key


def _listed(value: Mapping[str, Any]) -> str:
    return ", ".join(map(str, value)) or "nothing"
