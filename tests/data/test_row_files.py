"""Rows of files of every format; bad rows are in test_odd_rows.py and test_refused_files.py."""

import codecs
import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

from dialogsum_sft import InputError
from dialogsum_sft.data.row_files import BadRow, one_line, read_file, reason_of
from dialogsum_sft.data.sources import open_source

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from plain_files import ROWS, content


def read(path: Path) -> list[Any]:
    return [row for _, row in read_file(path)]


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


TABLE = [["id", "dialogue", "summary"], ["1", "Ann: Hi; you, there.\nBob: A|B\tC", 'They, greet; and "talk".']]


def table(delimiter: str, extra: list[str] | None = None, before: str = "", end: str = "\r\n") -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter, lineterminator=end)
    writer.writerows([*row, *(extra or [])] for row in TABLE)
    return (before + text.getvalue()).encode()


SPREADSHEETS = {
    "semicolons": ("a.csv", table(";")),
    "semicolons with a BOM": ("a.csv", codecs.BOM_UTF8 + table(";")),
    "tabs in .csv": ("a.csv", table("\t")),
    "bars": ("a.csv", table("|", end="\n")),
    "commas in .tsv": ("a.tsv", table(",")),
    "tabs": ("a.tsv", table("\t")),
    "Excel's own line": ("a.csv", table(";", before="sep=;\r\n")),
    "trailing columns": ("a.csv", codecs.BOM_UTF8 + table(",", ["", ""])),
    "trailing columns and semicolons": ("a.csv", table(";", [""] * 5)),
    "trailing columns in rows alone": ("a.csv", table(",").replace(b'."\r\n', b'.",,,\r\n')),
    "trailing columns of spaces": ("a.csv", table(",", [" ", ""])),
    "quoted header": ("a.csv", table(";").replace(b"id;dialogue;summary", b'"id";"dialogue";"summary"')),
    "compressed": ("a.csv.gz", gzip.compress(table(";", [""]))),
}


@pytest.mark.parametrize("case", SPREADSHEETS)
def test_tables_as_spreadsheets_write_them(tmp_path: Path, case: str) -> None:
    name, data = SPREADSHEETS[case]
    (tmp_path / name).write_bytes(data)
    assert read(tmp_path / name) == [dict(zip(*TABLE, strict=True))]


def test_a_delimiter_in_a_quoted_name_does_not_count(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('"a; b; c; d",e\n1,2\n')
    assert read(tmp_path / "a.csv") == [{"a; b; c; d": "1", "e": "2"}]


def test_a_name_in_tsv_may_have_commas(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("a, b, c\td\n1\t2\n")
    assert read(tmp_path / "a.tsv") == [{"a, b, c": "1", "d": "2"}]


def test_empty_records_are_counted(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a;b;;\n1;2;;\n;;;\n;;;\n")
    assert read(tmp_path / "a.csv") == [{"a": "1", "b": "2"}, BadRow("row is empty"), BadRow("row is empty")]


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


@pytest.mark.parametrize(
    ("value", "rows"),
    [
        ({"data": [{"a": 1}]}, [{"a": 1}]),
        ({"version": "1.0", "numberOfItems": 1, "data": [{"a": 1}]}, [{"a": 1}]),
        ({"id": "x", "metadata": {"year": 2}, "document": [{"a": 1}, {"a": 2}]}, [{"a": 1}, {"a": 2}]),
        ({"x": {"a": 1}, "y": {"a": 2}}, [{"id": "x", "a": 1}, {"id": "y", "a": 2}]),
        ({"x": {"id": 5, "a": 1}, "y": {"id": 6, "a": 2}}, [{"id": 5, "a": 1}, {"id": 6, "a": 2}]),
        *(
            (row, [row])  # a single row
            for row in (
                {"dialogue": [{"speaker": "Ann", "text": "Hi."}], "summary": "s"},
                {"data": [{"speaker": "Ann", "text": "Hi."}], "summary": "s"},
                {"header": {"id": 1}, "body": {"dialogue": [], "summary": "s"}},
                {"x": {"a": 1}},
            )
        ),
    ],
)
def test_a_json_object_of_rows(tmp_path: Path, value: Any, rows: list[Any]) -> None:
    (tmp_path / "a.json").write_text(json.dumps(value))
    assert read(tmp_path / "a.json") == rows


def test_text_files_of_json_lines_are_read_where_they_are_named_or_alone(tmp_path: Path) -> None:
    path = tmp_path / "long_train.txt"
    path.write_text('{"a": 1}\n{"a": 2}\n')
    assert read(path) == [{"a": 1}, {"a": 2}]

    def split() -> list[Any]:
        return [row for _, row in open_source(str(tmp_path), "train", None, None, False)]

    assert split() == [{"a": 1}, {"a": 2}]
    (tmp_path / "train.jsonl").write_text('{"a": 3}\n')
    assert split() == [{"a": 3}]
