"""The dialogue of a row: from text in one of the formats, or from a list of turns."""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from dialogsum_sft import InputError
from dialogsum_sft.arguments import DialogueArguments
from dialogsum_sft.data.columns import Columns, dialogue_column, is_empty, text_of, value_of
from dialogsum_sft.data.counts import Counts
from dialogsum_sft.data.dialogue import Dialogue
from dialogsum_sft.data.row_files import one_line
from dialogsum_sft.data.stored_lists import stored_list
from dialogsum_sft.data.transcripts import detect_format, parse, parse_alike, with_line_breaks
from dialogsum_sft.data.turn_lists import keys_of, parse_turns
from dialogsum_sft.data.turn_objects import SPEAKER_KEYS, TurnKeys, plain_key


@dataclass(frozen=True)
class DialogueReader:
    """How the dialogues of a source are read; `format` is one of transcripts.FORMATS, for text: found, or `named`."""

    columns: Columns
    keys: TurnKeys
    format: str
    named: bool
    drop_times: bool = False

    def dialogue(self, row: Mapping[str, Any], counts: Counts) -> Dialogue:
        """The dialogue of a row, parsed once. Raises ValueError where there is none."""
        column = self.columns.dialogue
        value = value_of(row, column)
        speakers = value_of(row, self.columns.speakers) if self.columns.speakers else None
        try:
            stored = stored_list(value) if isinstance(value, str) else value
            if stored is not None:
                dialogue, left_out = parse_turns(stored, self.keys, speakers)
                for name, number in left_out.items():
                    setattr(counts, name, getattr(counts, name) + number)
                return dialogue
        except ValueError as error:
            raise ValueError(f"{column}: {error}") from error
        text = with_line_breaks(text_of(value, column))
        dialogue, dropped = (parse if self.named else parse_alike)(text, self.format)
        counts.drop_system_lines(dropped)
        if not dialogue.turns:
            raise ValueError(f"{column} has no turns")
        stamped = sum(turn.time is not None for turn in dialogue.turns)
        if not self.drop_times:
            counts.time_stamps += stamped
            return dialogue
        counts.dropped_times += stamped
        return dialogue.without_times()


def open_reader(
    rows: list[dict[str, Any]], columns: Columns, data_args: DialogueArguments, source: str
) -> DialogueReader:
    """The reader of a source's dialogues; their format is detected in these first rows unless an option names it.

    Raises InputError for a key of the options that no turn of them has.
    """
    keys = TurnKeys(data_args.speaker_key, data_args.text_key)
    _check_keys(rows, columns, keys, source)
    named = data_args.dialogue_format is not None
    return DialogueReader(columns, keys, _format(rows, columns, data_args), named, data_args.drop_times)


def _check_keys(rows: list[dict[str, Any]], columns: Columns, keys: TurnKeys, source: str) -> None:
    """Raise InputError for a key of the options that no turn of the first rows has."""
    if keys == TurnKeys():
        return
    found: dict[str, None] = {}
    for row in rows:
        value = value_of(row, columns.dialogue)
        if isinstance(value, str):
            value = stored_list(value) if _is_stored(value, whole=True) else None
        found |= dict.fromkeys(keys_of(value, keys))
    for option, key in (("speaker_key", keys.speaker), ("text_key", keys.text)):
        whole = re.split(r"\.\d+\b", key or "")[0]  # before an index of a list
        if key and not any(f"{path}.".startswith(f"{whole}.") for path in found):
            listed = ", ".join(map(one_line, found)) or f"none: {columns.dialogue} is no list of objects"
            raise InputError(f"{source}: no turn of the first rows has the --{option} {key}; there are {listed}")


def _format(rows: list[dict[str, Any]], columns: Columns, data_args: DialogueArguments) -> str:
    if data_args.dialogue_format is not None:
        return str(data_args.dialogue_format)
    values = [value_of(row, columns.dialogue) for row in rows]
    texts = [value for value in values if isinstance(value, str) and not is_empty(value) and not _is_stored(value)]
    return (
        detect_format([with_line_breaks(text.replace("\r\n", "\n").strip()) for text in texts]) if texts else "labels"
    )


def _is_stored(text: str, whole: bool = False) -> bool:
    """Whether a text holds a list of turns, `whole` or cut off."""
    try:
        return stored_list(text) is not None
    except ValueError:
        return not whole


_LABELLED = re.compile(r"^[^\n:]{1,40}:\s.*\n[^\n:]{1,40}:\s")  # two lines "Name: text"


def dialogues_of(value: Any) -> tuple[list[Any], bool]:
    """The dialogues of a value, and whether it is one alone: a text, an object, or turns (objects or tuples).

    Of any other iterable, also one that gives its items once, each item is a dialogue. Raises InputError for what is
    none: for paths, and for tables, whose rows or names would be taken for turns.
    """
    if isinstance(value, (str, Mapping)):
        return [_no_path(value)], True
    if isinstance(_no_path(value), bytes) or not isinstance(value, Iterable):
        raise InputError(f"{type(value).__name__} is no dialogue: give a text, a list of turns, or a list of these")
    if hasattr(value, "columns") or hasattr(value, "column_names"):  # of pandas, polars; of datasets, pyarrow
        raise InputError(f"{type(value).__name__} is a table: give its column with the dialogues")
    every = [_no_path(one) for one in value]
    are_objects = bool(every) and all(isinstance(one, Mapping) for one in every)
    names = list(dict.fromkeys(name for one in every for name in one)) if are_objects else []
    column = dialogue_column(list(map(str, names)))
    values = [one.get(column) for one in every] if are_objects else []
    if {plain_key(str(name)) for name in names}.isdisjoint(SPEAKER_KEYS):
        are_rows = any(isinstance(value, list) or "\n" in str(value) for value in values)
    else:  # a turn may have several lines
        are_rows = any(_LABELLED.search(str(value)) for value in values)
    if are_rows:
        raise InputError(f"these are rows with the column {column}, not turns: give [row[{column!r}] for row in rows]")
    is_one = bool(every) and all(isinstance(one, (Mapping, tuple)) for one in every)
    return ([every], True) if is_one else (every, False)


def _no_path(value: Any) -> Any:
    """The value. Raises InputError for a path, also as a text that names a file or looks as if it did."""
    is_line = isinstance(value, str) and "\n" not in value
    is_file = is_line and os.path.isfile(value)
    if is_line and not is_file and re.fullmatch(r"\S+\.(txt|json|jsonl|csv|tsv|md|vtt|srt)", value):
        raise InputError(f"{value!r} is a path, not a dialogue, and no such file is there")
    if is_file or isinstance(value, PurePath):
        raise InputError(
            f"{str(value)!r} is a path, not a dialogue: read the file, as in "
            f'summarize(Path({str(value)!r}).read_text(encoding="utf-8"))'
        )
    return value


def read_dialogue(value: Any, args: DialogueArguments, counts: Counts) -> Dialogue:
    """The dialogue of a text in any format, of a list of turns, or of a list of messages; `counts` has what it lost.

    Raises ValueError where there is none, InputError for a key of `args` that no turn has.
    """
    if isinstance(value, (list, tuple)) and value and all(_is_pair(turn) for turn in value):
        value = [{"speaker": speaker, "text": text} for speaker, text in value]
    columns = Columns("dialogue", (), None, None, None, (), " ")
    reader = open_reader([{"dialogue": value}], columns, args, "the dialogue")
    return reader.dialogue({"dialogue": value}, counts)


def _is_pair(turn: Any) -> bool:
    """Whether a turn is a tuple of its speaker and its text."""
    return isinstance(turn, tuple) and len(turn) == 2 and all(isinstance(part, str) for part in turn)
