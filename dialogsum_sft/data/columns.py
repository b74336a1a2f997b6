"""The columns of a source: found by name, or named by options; nested fields and fan-out by dotted paths."""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import NoneType
from typing import Any

from dialogsum_sft import InputError
from dialogsum_sft.arguments import DataArguments, DialogueArguments
from dialogsum_sft.data.prompts import PromptSettings
from dialogsum_sft.data.row_files import one_line
from dialogsum_sft.data.stored_lists import stored_list

# Column names that are recognised where no option names a column.
_DIALOGUE_NAMES = (
    *("dialogue", "dialog", "conversation", "conversations", "messages", "turns", "transcript", "chat", "utterances"),
    *("log", "dialogue_turns"),
)
_SUMMARY_NAMES = ("summary", "summaries", "abstract", "highlights", "reference", "references")
_ID_NAMES = ("id", "fname", "dialogue_id", "conversation_id")
# Lists under these names are several references; lists under others are the sentences of one summary.
_PLURAL = re.compile(r"(?i)summaries|references|abstracts|highlights|annotations|labels|targets|outputs|answers")


@dataclass(frozen=True)
class Columns:
    dialogue: str
    summaries: tuple[str, ...]
    id: str | None
    topic: str | None
    speakers: str | None
    fields: tuple[str, ...]  # that the instruction or the system prompt names
    sentence_join: str

    @property
    def fan_outs(self) -> tuple[str, ...]:
        """The paths of the lists of which each element makes a row of its own, before `[]`."""
        return tuple(dict.fromkeys(path.split("[]")[0] for path in self.summaries if "[]" in path))


def find_columns(rows: list[dict[str, Any]], source: str, data_args: DataArguments) -> tuple[Columns, list[str]]:
    """The columns that the options name, or that are recognised by their names; and notes on the recognised ones.

    Raises InputError for a column that no row has; the message lists those there are.
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    notes = []
    dialogue, summaries = data_args.dialogue_column, data_args.summary_columns
    if dialogue is None:
        dialogue = dialogue_column(names)
        if dialogue != "dialogue":
            notes.append(f"{source}: dialogues taken from {dialogue}")
    possible = list(summaries or ())  # without --summary_columns all that are named like summaries
    if summaries is None:
        numbered = sorted((n for n in names if re.fullmatch(r"summary_?\d+", n)), key=lambda n: int(n[7:].strip("_")))
        found = [name for name in names if name.lower() in _SUMMARY_NAMES]
        summaries = ["summary"] if "summary" in found else numbered or (found if len(found) == 1 else ["summary"])
        possible = [*summaries, *numbered, *found]
        if summaries != ["summary"]:
            notes.append(f"{source}: summaries taken from {', '.join(summaries)}")
    named = named_fields(data_args)
    lists = dict.fromkeys(path.split("[]")[0] for path in summaries if "[]" in path)
    elements = {name for path in lists for row in rows for one in _list_at(row, path) for name in _names_of(one)}
    fields = [name for name in named if name in elements or any(has(row, name) for row in rows)]
    if given_away := [name for name in fields if _overlaps(name, possible, names)]:
        raise InputError(
            f"{source}: the instruction or the system prompt contains {{{given_away[0]}}}, a summary, which the model "
            "is to write: leave it out, or name the columns of the true summaries with --summary_columns"
        )
    if dialogue in fields:
        raise InputError(f"{source}: the instruction contains {{{dialogue}}}: for the dialogue write {{dialogue}}")
    if unknown := [f"{{{name}}}" for name in named if name not in fields]:
        notes.append(f"{source}: {', '.join(unknown)} in the instruction is no column and stays as it is written")
    optional = (data_args.id_column, data_args.topic_column, data_args.speaker_column)
    wanted = [dialogue, *summaries, *(name for name in optional if name)]
    missing = [column for column in wanted if not any(has(row, column) for row in rows)]
    if missing:
        choices = ""
        for option, known in (("dialogue_column", _DIALOGUE_NAMES), ("summary_columns", _SUMMARY_NAMES)):
            found = [name for name in names if name.lower() in known]
            if getattr(data_args, option) is None and len(found) > 1 and option.split("_")[0] in missing:
                choices += f" {' and '.join(found)} are candidates: choose by --{option} {found[0]};"
        raise InputError(
            f"{source} has no column {', '.join(missing)}: there are {', '.join(map(one_line, names)) or 'none'};"
            f"{choices} name yours with --dialogue_column, --summary_columns, --id_column (nested ones with dots: "
            "input.turns, queries[].answer)"
        )
    identity = data_args.id_column or id_column(names)
    topic = data_args.topic_column or next((name for name in names if re.fullmatch("topic1?", name)), None)
    join = " " if data_args.summary_join is None else data_args.summary_join
    columns = Columns(dialogue, tuple(summaries), identity, topic, data_args.speaker_column, tuple(fields), join)
    return columns, notes


def dialogue_column(names: Collection[str]) -> str:
    """The column with the dialogues by its name; "dialogue" where none or several are named so."""
    found = [name for name in names if name.lower() in _DIALOGUE_NAMES]
    return "dialogue" if "dialogue" in found or len(found) != 1 else found[0]


def id_column(names: Iterable[str]) -> str | None:
    return next((name for name in names if name in _ID_NAMES), None)


def named_fields(args: DialogueArguments | PromptSettings) -> list[str]:
    """The names in braces in the instruction and the system prompt, but for {dialogue}."""
    texts = (args.instruction or "", args.system_prompt or "")
    found = (name for text in texts for name in re.findall(r"\{([\w. /-]+(?:\[\])?[\w. /-]*)\}", text))
    return [name for name in dict.fromkeys(found) if name != "dialogue"]


def _overlaps(name: str, summaries: Iterable[str], columns: Collection[str]) -> bool:
    """Whether a field of the instruction is a summary, a part of one, an object that holds one, or names the field of
    a fan-out without its path.
    """
    path = name.replace("[]", "")
    for summary in summaries:
        whole = summary.replace("[]", "")
        if path == whole or path.startswith(f"{whole}.") or whole.startswith(f"{path}."):
            return True
        if "[]." in summary and name not in columns and name.split(".")[0] == summary.split("[].")[1].split(".")[0]:
            return True
    return False


def has(row: Mapping[str, Any], path: str) -> bool:
    """Whether a row has the column, or the nested field."""
    if path in row:
        return True
    try:
        value_at(row, path.split("[]")[0] if "[]" in path else path)
    except KeyError:
        return False
    return "." in path or "[]" in path


def value_at(row: Mapping[str, Any], path: str) -> Any:
    """The value of a column, or of a nested field such as `input.turns` or `queries.0.answer`. KeyError if absent."""
    if path in row:
        return row[path]
    value: Any = row
    for part in path.split("."):
        if isinstance(value, str):  # JSON in a cell
            try:
                value = stored_list(value)
            except ValueError as error:  # cut off
                raise KeyError(path) from error
        if isinstance(value, Mapping) and part in value:
            value = value[part]
        elif isinstance(value, (list, tuple)) and re.fullmatch(r"\d+", part) and int(part) < len(value):
            value = value[int(part)]
        else:
            raise KeyError(path)
    return value


def fanned_out(row: Mapping[str, Any], columns: Columns) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows that a row makes: with `queries[].answer` one for each query, whose fields have the path `queries[]`.

    The instruction may name these fields without the path, unless there is a column of that name. Several lists give
    their rows one after the other. Yields (suffix of the id, row); a row without fan-out is yielded as it is, with an
    empty suffix.
    """
    if not columns.fan_outs:
        yield "", dict(row)
        return
    elements = [(path, element) for path in columns.fan_outs for element in _list_at(row, path)]
    for number, (path, element) in enumerate(elements, 1):
        own = {f"{path}[]": element}
        if isinstance(element, Mapping):
            own |= {f"{path}[].{name}": value for name, value in element.items()}
            own |= {name: element[name] for name in columns.fields if name in element and name not in row}
        yield f"_{number}", {**row, **own}


def _list_at(row: Mapping[str, Any], path: str) -> list[Any]:
    """The list at a path; empty where there is none."""
    value = value_of(row, path)
    return value if isinstance(value, list) else []


def _names_of(value: Any) -> Iterable[str]:
    return value if isinstance(value, Mapping) else ()


def references_of(row: Mapping[str, Any], columns: Columns) -> list[tuple[str, Any]]:
    """(column, value) of each reference: several of a list under a plural name, whose items may be lists of sentences;
    the sentences of any other list are joined. Raises ValueError for a list in a cell that was cut off.
    """

    def joined(value: Any) -> Any:
        if isinstance(value, (list, tuple)) and all(isinstance(item, (str, NoneType)) for item in value):
            return columns.sentence_join.join(item.strip() for item in value if item and item.strip())
        return value

    found: list[tuple[str, Any]] = []
    for column in columns.summaries:
        path, *element = column.split("[]")
        if element and f"{path}[]" not in row:
            continue  # of another list than this row
        value = value_of(row, column)
        try:
            stored = stored_list(value) if isinstance(value, str) else None
        except ValueError as error:
            raise ValueError(f"{column}: {error}") from error
        value = stored if isinstance(stored, list) else value
        several = _PLURAL.search(column.rsplit(".", 1)[-1])
        if not isinstance(value, (list, tuple)):
            found.append((column, value))
        elif several or not all(isinstance(item, (str, NoneType)) for item in value):
            found += [(column, joined(item) if several else item) for item in value] or [(column, "")]
        else:
            found.append((column, joined(value)))
    return found


def value_of(row: Mapping[str, Any], path: str) -> Any:
    """As `value_at`, but None for what is absent."""
    try:
        return value_at(row, path)
    except KeyError:
        return None


def is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.removeprefix("\ufeff").strip())


def name_of(value: Any) -> str | None:
    """An id or a topic as text; None for an empty one, a list or an object."""
    return None if is_empty(value) or isinstance(value, (list, dict)) else str(value).encode(errors="replace").decode()


def field_of(value: Any, name: str) -> str:
    """A value for the instruction as text: a list of texts with commas. Raises ValueError where there is none: a row
    without its query or section cannot be learnt from.
    """
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        value = ", ".join(filter(str.strip, value))
    if is_empty(value) or value != value:  # NaN
        raise ValueError(f"{name}, which the instruction contains, is empty")
    text = name_of(value)
    if text is None:
        raise ValueError(f"{name}, which the instruction contains, is no text")
    return text


def text_of(value: Any, column: str) -> str:
    """A value as text with \\n line ends. Raises ValueError if it is not usable."""
    if value is None:
        raise ValueError(f"{column} is null")
    if not isinstance(value, str):
        raise ValueError(f"{column} is not text")
    text = value.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n").strip()
    if not text:
        raise ValueError(f"{column} is empty")
    try:
        text.encode()
    except UnicodeEncodeError as error:  # lone surrogates, such as half an emoji
        raise ValueError(f"{column} is not UTF-8 text") from error
    return text
