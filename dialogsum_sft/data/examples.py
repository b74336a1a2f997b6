"""Load a split of any source as examples {id, dialogue, references, topic}, with a count of every row."""

import hashlib
import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from dialogsum_sft import InputError
from dialogsum_sft.arguments import DataArguments
from dialogsum_sft.data.counts import DUPLICATE, IN_OTHER_SPLIT, Counts
from dialogsum_sft.data.dialogue import join_messages
from dialogsum_sft.data.grouping import FEATURES, group, join_neighbours, text_hash
from dialogsum_sft.data.sources import BadRow, Place, Row, one_line, open_source, reason_of

from datasets import Dataset, IterableDataset
from datasets.exceptions import DatasetsError
from trl import ScriptArguments

# Column names that are recognised where no option names a column.
_DIALOGUE_NAMES = ("dialogue", "dialog", "conversation", "conversations", "messages", "turns", "transcript", "chat")
_SUMMARY_NAMES = ("summary", "summaries", "abstract", "highlights", "reference", "references")
_ID_NAMES = ("id", "fname", "dialogue_id", "conversation_id")


@dataclass
class Examples:
    """A split: `rows` with columns id, dialogue, references (list of str) and topic (or null), counts and notes.

    With streaming, `rows` is an IterableDataset, and `counts` grow while it is read.
    """

    rows: Dataset | IterableDataset
    counts: Counts
    notes: list[str] = field(default_factory=list)

    def fingerprint(self) -> str:
        """Hash of all ids, dialogues and references, as 16 hex digits."""
        digest = hashlib.sha256()
        for row in self.rows:
            digest.update("\0".join([row["id"], row["dialogue"], *row["references"], "\n"]).encode())
        return digest.hexdigest()[:16]


def load_examples(
    script_args: ScriptArguments,
    data_args: DataArguments,
    split: str,
    limit: int | None = None,
    *,
    other_split: Examples | None = None,
) -> Examples:
    """Load a split of `dataset_name`: `sample`, a file, a glob, a folder (a file or shards for each split, or one from
    `save_to_disk`), or a dataset on the hub.

    Rows with the same dialogue become one example with several references: the hub's DialogSum has three rows for each
    test dialogue, the authors' files have summary1 to summary3. Equal summaries are kept. A row is a duplicate only if
    its id is equal too, or if it has none. With streaming, only neighbouring rows are joined. Dialogues of
    `other_split` are left out. `limit` counts dialogues.

    A row that cannot be used is dropped and counted with its reason. Raises InputError when more than 1% of the rows
    are dropped (without duplicates, and not with `allow_dropped_rows` or streaming), when no row is left, and for a
    source, split or column that does not exist; the message lists those that do.
    """
    name = script_args.dataset_name
    if not name:
        raise InputError("no dataset: give --dataset_name (a hub id, a file, a folder, a glob, or 'sample')")
    if limit is not None and limit < 1:
        raise InputError(f"a limit of {limit} dialogues leaves none; give 1 or more")

    def source() -> Iterator[tuple[Place, Row]]:
        streaming = script_args.dataset_streaming
        return open_source(name, split, script_args.dataset_config, data_args.dataset_revision, streaming)

    try:
        first = list(itertools.islice(source(), 100))
    except (OSError, ValueError, DatasetsError) as error:
        raise InputError(f"cannot read dataset {name!r}: {reason_of(error)}") from error
    if not first:
        raise InputError(f"{name} ({split}) has no rows")
    bad = [f"row {place}: {row.reason}" for place, row in first if isinstance(row, BadRow)]
    if len(bad) == len(first):
        raise InputError(f"{name} ({split}): none of the first {len(bad)} rows can be read: {'; '.join(bad[:5])}")
    columns, notes = _columns([row for _, row in first if not isinstance(row, BadRow)], name, data_args)
    counts = Counts()
    excluded = {text_hash(row["dialogue"]) for row in other_split.rows} if other_split is not None else set()
    if script_args.dataset_streaming:

        def stream() -> Iterator[dict[str, Any]]:
            counts.clear()  # those of an earlier pass
            return join_neighbours(_kept(source(), columns, counts, excluded), counts)

        rows = IterableDataset.from_generator(stream, features=FEATURES)
        return Examples(rows if limit is None else rows.take(limit), counts, notes)
    rows = group(_kept(source(), columns, counts, excluded), counts)
    lost = counts.read - counts.kept - counts.dropped[DUPLICATE]
    if counts.kept == 0 or (lost > counts.read / 100 and not data_args.allow_dropped_rows):
        more = f"; and {lost - len(counts.named)} more" if lost > len(counts.named) else ""
        raise InputError(
            f"{name} ({split}): {lost} of {counts.read} rows cannot be used: {'; '.join(counts.named)}{more}"
            + ("" if counts.kept == 0 else ". Correct them, or continue without them: --allow_dropped_rows true")
        )
    return Examples(rows.select(range(len(rows))[:limit]), counts, notes)


@dataclass(frozen=True)
class _Columns:
    dialogue: str
    summaries: tuple[str, ...]
    id: str | None
    topic: str | None


def _columns(rows: list[dict[str, Any]], source: str, data_args: DataArguments) -> tuple[_Columns, list[str]]:
    """The columns that the options name, or that are recognised by their names; and notes on the recognised ones."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    notes = []
    dialogue, summaries = data_args.dialogue_column, data_args.summary_columns
    if dialogue is None:
        found = [name for name in names if name.lower() in _DIALOGUE_NAMES]
        dialogue = "dialogue" if "dialogue" in found or len(found) != 1 else found[0]
        if dialogue != "dialogue":
            notes.append(f"{source}: dialogues taken from {dialogue}")
    if summaries is None:
        numbered = sorted((n for n in names if re.fullmatch(r"summary_?\d+", n)), key=lambda n: int(n[7:].strip("_")))
        found = [name for name in names if name.lower() in _SUMMARY_NAMES]
        summaries = ["summary"] if "summary" in found else numbered or (found if len(found) == 1 else ["summary"])
        if summaries != ["summary"]:
            notes.append(f"{source}: summaries taken from {', '.join(summaries)}")
    wanted = [dialogue, *summaries] + [name for name in (data_args.id_column, data_args.topic_column) if name]
    missing = [column for column in wanted if column not in names]
    if missing:
        raise InputError(
            f"{source} has no column {', '.join(missing)}: there are {', '.join(map(one_line, names)) or 'none'}; "
            "name yours with --dialogue_column, --summary_columns, --id_column"
        )
    identity = data_args.id_column or next((name for name in names if name in _ID_NAMES), None)
    topic = data_args.topic_column or next((name for name in names if re.fullmatch("topic1?", name)), None)
    return _Columns(dialogue, tuple(summaries), identity, topic), notes


def _kept(
    source: Iterable[tuple[Place, Row]], columns: _Columns, counts: Counts, excluded: set[int]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The usable rows, normalised, each after a hash of its id (if any) and content; the others are counted."""
    for place, row in source:
        counts.read += 1
        if isinstance(row, BadRow):
            counts.drop(f"row {place}", row.reason)
            continue
        identity = _name(row.get(columns.id)) if columns.id else None
        label = f"row {place}" if identity is None else f"row {place} ({one_line(identity)})"
        values = [(column, value) for column in columns.summaries for value in _listed(row.get(column))]
        present = [(column, value) for column, value in values if not _empty(value)]
        try:
            dialogue = _text(row.get(columns.dialogue), columns.dialogue, turns=True)
            references = [_text(value, column) for column, value in present or values[:1]]
        except ValueError as error:
            counts.drop(label, str(error))
            continue
        if text_hash(dialogue) in excluded:
            counts.drop(label, IN_OTHER_SPLIT)
            continue
        counts.empty_references += len(values) - len(present)
        counts.kept += 1
        yield (
            text_hash(identity or "", dialogue, *references),
            {
                "id": str(place) if identity is None else identity,
                "dialogue": dialogue,
                "references": references,
                "topic": _name(row.get(columns.topic)) if columns.topic else None,
            },
        )


def _listed(value: Any) -> list[Any]:
    return (value or [""]) if isinstance(value, list) else [value]


def _empty(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.removeprefix("\ufeff").strip())


def _name(value: Any) -> str | None:
    """An id or a topic as text; None for an empty one, a list or an object."""
    return None if _empty(value) or isinstance(value, (list, dict)) else str(value).encode(errors="replace").decode()


def _text(value: Any, column: str, turns: bool = False) -> str:
    """A value, or a list of `turns`, as text with \\n line ends. Raises ValueError if it is not usable."""
    if value is None:
        raise ValueError(f"{column} is null")
    if turns and isinstance(value, list):
        try:
            value = join_messages(value)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{column} is not a list of turns") from error
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
