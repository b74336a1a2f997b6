"""Rows of one dialogue become one example with several references."""

import hashlib
import itertools
import json
import os
import re
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

from dialogsum_sft.data.counts import DUPLICATE, Counts

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Features, IterableDataset, List, Value
from tqdm import tqdm

FEATURES = Features(
    {
        "id": Value("string"),
        "dialogue": Value("string"),
        "turns": Value("string"),  # JSON of Dialogue.record, which is read faster than a list of structs
        "references": List(Value("string")),
        "reference_rows": Value("string"),  # JSON of [number in the order read, id] of each reference's row
        "topic": Value("string"),
        "fields": Value("string"),  # JSON of the columns that the instruction names
    }
)


def text_hash(*texts: str) -> int:
    return int.from_bytes(hashlib.blake2b(repr(texts).encode(), digest_size=8).digest(), "big")


def _distinct(kept: Iterable[tuple[int, dict[str, Any]]], counts: Counts) -> Iterator[dict[str, Any]]:
    """The rows without duplicates, which are counted."""
    seen: set[int] = set()
    for key, row in kept:
        if key in seen:
            counts.kept -= 1
            counts.dropped[DUPLICATE] += 1
        else:
            seen.add(key)
            yield row


def group(kept: Iterator[tuple[int, dict[str, Any]]], counts: Counts) -> Dataset:
    """All rows as examples with unique ids, on disk; memory holds a hash of each row."""
    place: dict[int, int] = {}
    others: dict[int, list[int]] = defaultdict(list)

    def placed() -> Iterator[dict[str, Any]]:
        for written, row in enumerate(_distinct(kept, counts)):
            at = place.setdefault(text_hash(row["dialogue"], row["fields"] or ""), written)
            if at != written:
                others[at].append(written)
            counts.references += len(row["references"])
            yield row

    def joined() -> Iterator[dict[str, Any]]:
        later = {at for group in others.values() for at in group}
        ids: dict[str, int] = {}
        for at, row in enumerate(rows):
            if at not in later:
                group = [row, *(rows[other] for other in others.get(at, ()))]
                identity = _unique(_shared_id([member["id"] for member in group]), ids)
                yield row | {"id": identity} | _all_references(group)

    rows = on_disk(placed(), FEATURES, "reading")
    counts.dialogues = len(place)
    if others or pc.count_distinct(rows.data["id"]).as_py() < len(rows):
        rows = on_disk(joined(), FEATURES, "grouping")
    return rows


def in_order(rows: Dataset | IterableDataset) -> Iterator[dict[str, Any]]:
    """The rows of a dataset or of a stream; those of a dataset are decoded in batches, which is faster."""
    if isinstance(rows, IterableDataset):
        yield from rows
        return
    for batch in rows.with_format("arrow").iter(batch_size=256):
        yield from batch.to_pylist()


def _all_references(rows: list[dict[str, Any]]) -> dict[str, Any]:
    places = [place for row in rows for place in json.loads(row["reference_rows"])]
    references = [reference for row in rows for reference in row["references"]]
    return {"references": references, "reference_rows": json.dumps(places)}


def _shared_id(ids: list[str]) -> str:
    """test_0 for test_0_1, test_0_2 and test_0_3; the first id for others."""
    stems = {match[1] if (match := re.fullmatch(r"(.*\d)[_.-]\d+", name)) else name for name in ids}
    return stems.pop() if len(ids) > 1 and len(stems) == 1 else ids[0]


def _unique(name: str, taken: dict[str, int]) -> str:
    unique = name
    while unique in taken:
        taken[name] += 1
        unique = f"{name}-{taken[name]}"
    taken[unique] = 1
    return unique


def join_neighbours(kept: Iterator[tuple[int, dict[str, Any]]], counts: Counts) -> Iterator[dict[str, Any]]:
    """Neighbouring rows of one dialogue as examples, without memory of the others."""
    for _, group in itertools.groupby(kept, key=lambda item: (item[1]["dialogue"], item[1]["fields"])):
        rows = list(_distinct(group, counts))
        example = rows[0] | {"id": _shared_id([row["id"] for row in rows])} | _all_references(rows)
        counts.dialogues += 1
        counts.references += len(example["references"])
        yield example


# Memory-mapped Arrow files; the folder is deleted when the process ends.
_SCRATCH = tempfile.TemporaryDirectory(prefix="dialogsum_sft-", ignore_cleanup_errors=True)


def on_disk(rows: Iterator[dict[str, Any]], features: Features, what: str) -> Dataset:
    """A dataset of generated rows in a file that exists as long as this process.

    `Dataset.from_generator` writes row by row and takes about three times as long. A progress bar, labelled `what`,
    appears after five seconds.
    """
    handle, path = tempfile.mkstemp(suffix=".arrow", dir=_SCRATCH.name)
    rows = iter(tqdm(rows, desc=what, unit=" rows", delay=5))
    with os.fdopen(handle, "wb") as file, pa.ipc.new_stream(file, features.arrow_schema) as writer:
        while batch := list(itertools.islice(rows, 1000)):
            writer.write_table(pa.Table.from_pylist(batch, schema=features.arrow_schema))
    return Dataset.from_file(path)
