"""Load a split of any source as examples {id, dialogue, references, topic}, with a count of every row."""

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from typing import Any

from dialogsum_sft import InputError
from dialogsum_sft.arguments import DataArguments
from dialogsum_sft.data.columns import (
    fanned_out,
    field_of,
    find_columns,
    is_empty,
    name_of,
    references_of,
    text_of,
    value_of,
)
from dialogsum_sft.data.counts import HELD_OUT, IN_OTHER_SPLIT, TIMES_STAY, Counts, longest_pass
from dialogsum_sft.data.dialogue_reader import DialogueReader, open_reader
from dialogsum_sft.data.grouping import FEATURES, group, join_neighbours, text_hash
from dialogsum_sft.data.row_files import BadRow, Place, Row, one_line, reason_of
from dialogsum_sft.data.sources import in_folder, open_source, with_dialogues
from dialogsum_sft.data.turn_lists import keys_of

from datasets import Dataset, IterableDataset
from datasets.exceptions import DatasetsError
from trl import ScriptArguments


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
    file: str | None = None,
    only: Set[int] | None = None,
    held_out: Set[int] = frozenset(),
) -> Examples:
    """Load a split of `dataset_name`: `sample`, a file, a glob, a folder (a file or shards for each split, or one from
    `save_to_disk`), or a dataset on the hub.

    Rows with the same dialogue become one example with several references: the hub's DialogSum has three rows for each
    test dialogue, the authors' files have summary1 to summary3. Equal summaries are kept. A row is a duplicate only if
    its id is equal too, or if it has none. With streaming, only neighbouring rows are joined. Dialogues of
    `other_split` are left out. `limit` counts dialogues.

    `training_data` has the splits as the options describe them: `file` stands in for `dataset_name`; `only` these
    dialogues (by `text_hash`) are loaded and counted; those `held_out` are left out.

    A row that cannot be used is dropped and counted with its reason. Raises InputError when more than 1% of the rows
    are dropped (without duplicates, and not with `allow_dropped_rows` or streaming), when no row is left, and for a
    source, split or column that does not exist; the message lists those that do.
    """
    name = file or script_args.dataset_name
    if not name:
        raise InputError("no dataset: give --dataset_name (a hub id, a file, a folder, a glob, or 'sample')")
    if limit is not None and limit < 1:
        raise InputError(f"a limit of {limit} dialogues leaves none; give 1 or more")

    def source() -> Iterator[tuple[Place, Row]]:
        streaming = script_args.dataset_streaming
        rows = open_source(name, split, script_args.dataset_config, data_args.dataset_revision, streaming)
        if data_args.dialogue_file is None:
            return rows
        dialogues = in_folder(data_args.dialogue_file, script_args.dataset_name)
        return with_dialogues(rows, dialogues, data_args.id_column or "id")

    try:
        first = list(itertools.islice(source(), 100))
    except (OSError, ValueError, DatasetsError) as error:
        raise InputError(f"cannot read dataset {name!r}: {reason_of(error)}") from error
    if not first:
        raise InputError(f"{name} ({split}) has no rows")
    bad = [f"row {place}: {row.reason}" for place, row in first if isinstance(row, BadRow)]
    if len(bad) == len(first):
        raise InputError(f"{name} ({split}): none of the first {len(bad)} rows can be read: {'; '.join(bad[:5])}")
    good = [row for _, row in first if not isinstance(row, BadRow)]
    columns, notes = find_columns(good, name, data_args)
    reader = open_reader(good, columns, data_args, name)
    if reader.format not in ("labels", "lines") and not reader.named:
        notes.append(f"{name}: dialogues read as {reader.format}; choose another with --dialogue_format")
    counts = Counts()
    excluded = {text_hash(row["dialogue"]) for row in other_split.rows} if other_split is not None else set()
    if script_args.dataset_streaming:
        begin = Counts()
        list(_kept(first, reader, begin, excluded))
        lost = begin.lost - begin.dropped[IN_OTHER_SPLIT]
        if lost == begin.read or (lost > begin.read / 2 and not data_args.allow_dropped_rows):
            raise InputError(
                f"{name} ({split}): {lost} of the first {begin.read} rows cannot be used: {'; '.join(begin.named)}"
                + ("" if lost == begin.read else ". Correct them, or continue: --allow_dropped_rows true")
            )

        def stream() -> Iterator[dict[str, Any]]:
            return longest_pass(counts, lambda own: join_neighbours(_kept(source(), reader, own, excluded), own))

        rows = IterableDataset.from_generator(stream, features=FEATURES)
        return Examples(rows if limit is None else rows.take(limit), counts, notes)
    kept = _kept(source(), reader, counts if only is None else Counts(), excluded, held_out)
    rows = group(kept if only is None else _only(kept, only, counts), counts)
    lost = counts.lost
    if counts.kept == 0 or (lost > counts.read / 100 and not data_args.allow_dropped_rows):
        more = f"; and {lost - len(counts.named)} more" if lost > len(counts.named) else ""
        raise InputError(
            f"{name} ({split}): {lost} of {counts.read} rows cannot be used: {'; '.join(counts.named)}{more}"
            + ("" if counts.kept == 0 else ". Correct them, or continue without them: --allow_dropped_rows true")
        )
    if counts.system_lines:
        such = ", such as: " + "; ".join(map(one_line, counts.system_examples)) if counts.system_examples else ""
        notes.append(f"{name} ({split}): {counts.system_lines} lines that an app wrote are left out{such}")
    if counts.time_stamps:
        notes.append(f"{name} ({split}): {counts.time_stamps} {TIMES_STAY}")
    if counts.one_speaker > counts.kept / 2:
        named = keys_of(value_of(good[0], columns.dialogue))
        notes.append(
            f"{name} ({split}): {counts.one_speaker} of {counts.kept} dialogues have one speaker or none: if that is "
            "wrong (recipes/inspect_data.py lists the speakers found), give --dialogue_format, --speaker_key or "
            "--speaker_column" + (f"; turns have the keys {', '.join(map(one_line, named))}" if named else "")
        )
    return Examples(rows.select(range(len(rows))[:limit]), counts, notes)


def _only(
    kept: Iterable[tuple[int, dict[str, Any]]], dialogues: Set[int], counts: Counts
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of these dialogues, which alone are counted."""
    for key, row in kept:
        if text_hash(row["dialogue"]) in dialogues:
            counts.read += 1
            counts.kept += 1
            yield key, row


def _kept(
    source: Iterable[tuple[Place, Row]],
    reader: DialogueReader,
    counts: Counts,
    excluded: set[int],
    held_out: Set[int] = frozenset(),
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The usable rows, normalised, each after a hash of its id (if any) and content; the others are counted."""
    columns = reader.columns
    for place, raw in source:
        if isinstance(raw, BadRow):
            counts.read += 1
            counts.drop(f"row {place}", raw.reason)
            continue
        made = list(fanned_out(raw, columns))
        if not made:
            counts.read += 1
            counts.drop(f"row {place}", f"{' and '.join(columns.fan_outs)} is empty or no list")
        for suffix, row in made:
            counts.read += 1
            identity = name_of(value_of(row, columns.id)) if columns.id else None
            label = f"row {place}{suffix}" if identity is None else f"row {place}{suffix} ({one_line(identity)})"
            try:
                values = references_of(row, columns)
                present = [(column, value) for column, value in values if not is_empty(value)]
                dialogue = reader.dialogue(row, counts)
                references = [text_of(value, column) for column, value in present or values[:1]]
                fields = {name: field_of(value_of(row, name), name) for name in columns.fields}
            except (ValueError, RecursionError) as error:
                counts.drop(label, str(error))
                continue
            digest = text_hash(dialogue.text)
            if digest in held_out or digest in excluded:
                counts.drop(label, HELD_OUT if digest in held_out else IN_OTHER_SPLIT)
                continue
            counts.empty_references += len(values) - len(present)
            counts.kept += 1
            counts.one_speaker += len(dialogue.speakers) < 2
            own_fields = json.dumps(fields, ensure_ascii=False) if fields else None
            yield (
                text_hash(identity or "", suffix, dialogue.text, *references, *fields.values()),
                {
                    "id": (str(place) if identity is None else identity) + suffix,
                    "dialogue": dialogue.text,
                    "turns": json.dumps(dialogue.record(), ensure_ascii=False),
                    "references": references,
                    "reference_rows": json.dumps([[counts.read - 1, identity]] * len(references)),
                    "topic": name_of(value_of(row, columns.topic)) if columns.topic else None,
                    "fields": own_fields,
                },
            )


def fields_of(example: Mapping[str, Any]) -> dict[str, str] | None:
    """The values of an example for `{column}` in the instruction; None without any."""
    fields = example.get("fields")
    return None if fields is None else json.loads(fields)
