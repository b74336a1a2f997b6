"""Every kind of source gives the same rows; bad rows are in test_odd_rows.py and test_refused_files.py."""

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

from dialogsum_sft import InputError
from dialogsum_sft.data.sources import BadRow, one_line, open_source, read_file, reason_of

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

ROWS = [{"id": f"r{n}", "dialogue": f'Ann: "Hi, {n}"\nBob: ä 中\u2028.', "summary": "Talk."} for n in range(3)]


def content(kind: str) -> bytes:
    if kind == "jsonl":
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()
    if kind == "json":
        return json.dumps(ROWS).encode()
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(ROWS[0]), delimiter="\t" if kind == "tsv" else ",")
    writer.writeheader()
    writer.writerows(ROWS)
    return text.getvalue().encode()


def read(name: Path | str, split: str = "train") -> list[Any]:
    return [row for _, row in open_source(str(name), split, None, None, False)]


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "tsv"])
def test_text_files_plain_and_compressed(tmp_path: Path, kind: str) -> None:
    plain, packed = tmp_path / f"a.{kind}", tmp_path / f"b.{kind}.gz"
    plain.write_bytes(content(kind))
    packed.write_bytes(gzip.compress(content(kind)))
    assert read(plain) == read(packed) == ROWS
    assert [number for number, _ in read_file(plain)] == [1, 2, 3]


def test_parquet(tmp_path: Path) -> None:
    datasets.Dataset.from_list(ROWS).to_parquet(tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet") == ROWS


def test_a_glob_is_all_files_that_match(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.jsonl"):
        (tmp_path / name).write_bytes(content("jsonl"))
    (tmp_path / "notes.txt").touch()
    assert read(f"{tmp_path}/*") == ROWS * 2


@pytest.mark.parametrize("name", ["train.csv", "my.train.csv", "train-00000-of-00001.csv"])
def test_a_folder_has_files_that_name_their_split(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(content("csv"))
    (tmp_path / "test.csv").write_bytes(b"id,dialogue,summary\n")
    assert read(tmp_path) == ROWS
    assert read(tmp_path, "test") == []


def test_shards_of_a_split_follow_each_other(tmp_path: Path) -> None:
    for number, row in enumerate(ROWS):
        (tmp_path / f"train-{number:05}-of-00003.jsonl").write_text(json.dumps(row))
    assert read(tmp_path) == ROWS


def test_a_folder_from_save_to_disk(tmp_path: Path) -> None:
    split = datasets.Dataset.from_list(ROWS)
    split.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": split}).save_to_disk(tmp_path / "many")
    assert read(tmp_path / "one") == read(tmp_path / "many") == ROWS
    with pytest.raises(InputError, match="no split 'test' in .*many: there are train"):
        read(tmp_path / "many", "test")


def test_rows_keep_their_line_numbers_after_bad_ones(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"id": 1}\n\n{oops\n{"id": 2}\n')
    assert list(read_file(tmp_path / "a.jsonl")) == [(1, {"id": 1}), (3, BadRow("line is not JSON")), (4, {"id": 2})]


def test_rows_are_read_lazily(tmp_path: Path) -> None:
    """The first row of a long file is read without the others."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(content("jsonl") + b"\xff" * 10_000_000)
    assert next(iter(read_file(path))) == (1, ROWS[0])


def test_rows_of_many_parquet_batches_are_numbered_continuously(tmp_path: Path) -> None:
    datasets.Dataset.from_list([{"n": n} for n in range(2500)]).to_parquet(tmp_path / "a.parquet")
    assert list(read_file(tmp_path / "a.parquet")) == [(n + 1, {"n": n}) for n in range(2500)]


def test_columns_of_one_name_in_parquet_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table([["a"], ["b"]], names=["summary", "summary"]), path)
    with pytest.raises(InputError, match="a.parquet has two columns of the same name: summary, summary"):
        list(read_file(path))


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train.jsonl", "train"),
        ("train_sft.jsonl", "train_sft"),
        ("x-dev-2.jsonl.gz", "dev-2"),
        ("a.dev.jsonl", "dev"),
    ],
)
def test_a_split_may_have_any_name(tmp_path: Path, name: str, split: str) -> None:
    data = content("jsonl")
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    (tmp_path / "pretrain.jsonl").touch()
    (tmp_path / "device.jsonl").touch()
    assert read(tmp_path, split) == ROWS


@pytest.mark.parametrize("other", ["train_small.jsonl", "old.train.jsonl", "train.csv"])
def test_files_that_are_not_shards_are_not_joined(tmp_path: Path, other: str) -> None:
    (tmp_path / "train.jsonl").write_bytes(content("jsonl"))
    (tmp_path / other).touch()
    with pytest.raises(InputError, match=r"which is the split 'train' in .*train\.jsonl.*\? Name the file"):
        read(tmp_path)


def test_rows_of_several_files_are_named_by_file(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"id": 1}\n')
    (tmp_path / "b.csv").write_text("id\n2\n3,4\n")
    assert list(open_source(f"{tmp_path}/?.*", "train", None, None, False)) == [
        ("a.jsonl:1", {"id": 1}),
        ("b.csv:1", {"id": "2"}),
        ("b.csv:2", BadRow("row has another number of fields than the header (a comma without quotes?)")),
    ]


def test_a_value_in_a_message_is_printable_and_short() -> None:
    assert one_line("a\nb\u2028c\0d\ud83d") == "a b c d "
    assert one_line(5) == "5"
    assert one_line("a" * 100) == "a" * 80


def test_a_reason_is_the_first_line_of_the_first_cause() -> None:
    error = ValueError("failed")
    error.__cause__ = KeyError()
    assert reason_of(error) == "KeyError"
    error.__cause__.__cause__ = OSError(" no space\nat all")
    assert reason_of(error) == "no space"
