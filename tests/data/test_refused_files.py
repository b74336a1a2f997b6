"""A file that cannot be read is refused in one line that names it."""

import gzip
import os
import re
from pathlib import Path

import datasets
import pyarrow as pa
import pytest
from odd_files import (
    HELLO,
    OFFER,
    TEA,
    TOO_DEEP,
    found,
    lines,
    load,
    parquet,
    records,
    refusal,
    write,
)


def many() -> list[dict[str, str]]:
    return [{"dialogue": f"#Person1#: {n} {n**5}.", "summary": f"Number {n**3}."} for n in range(300)]


# A file that is refused, and the message after its path.
CUT_GZ = gzip.compress(lines(*many()))[:-20]
BIG_PARQUET = parquet(dialogue=[row["dialogue"] for row in many()], summary=[row["summary"] for row in many()])
NO_UTF8 = pa.StringArray.from_buffers(2, *pa.array([b"caf\xe9", b"a"]).buffers()[1:])
NO_COLUMNS = " has no column dialogue, summary: there are {}; name yours with --dialogue_column, .+"
NO_JSON = r" is not JSON \(cut short\?\): .+"
NO_GZ = r" is a damaged gz file \(cut short, or not gz at all\): .+"
NO_PARQUET = " is a damaged parquet file, or none at all: .+"
NO_QUOTE = ": line {} has a quote that is not closed or not doubled"
BY_NAME = "name the file by --train_file, --validation_file or --test_file"
NO_ROWS = r" \(test\) has no rows"
UTF_16 = " is UTF-16 text: save it as UTF-8"
REFUSED: dict[str, tuple[str, bytes, str]] = {
    **{f"empty {kind}": (f"a.{kind}", b"", NO_ROWS) for kind in ("jsonl", "csv", "tsv")},
    "empty json": ("a.json", b"", r" is not JSON \(cut short\?\): Expecting value: line 1 column 1 \(char 0\)"),
    "empty parquet": ("a.parquet", b"", NO_PARQUET),
    "empty gz": ("a.csv.gz", b"", NO_ROWS),
    "empty lines": ("a.jsonl", b"\n \r\n\n", NO_ROWS),
    "empty array": ("a.json", b"[]", NO_ROWS),
    "empty list under a key": ("a.json", b'{"data": []}', NO_COLUMNS.format("data")),
    "header alone": ("a.csv", b"id,dialogue,summary\n", NO_ROWS),
    "no rows in parquet": ("a.parquet", parquet(dialogue=[], summary=[]), NO_ROWS),
    "missing header": ("a.csv", b"1,Hello.,Hi.\n2,a,b\n", NO_COLUMNS.format("1, Hello., Hi.")),
    "duplicate columns": (
        "a.csv",
        b"dialogue,summary,summary\na,b,c\n",
        " has two columns of the same name: dialogue, summary, summary",
    ),
    "line break in the header": ("a.csv", b'"a\nb",dialogue\na,b\n', " has no column summary: there are a b, .+"),
    "semicolons alone": ("a.csv", b"id;text;note\n1;a;b\n", NO_COLUMNS.format("id, text, note")),
    "quote in the header": ("a.csv", b'dialogue,"summary\na,b\n', NO_QUOTE.format(1)),
    "quote not doubled in the header": ("a.csv", b'dialogue,"sum"mary"\na,b\n', NO_QUOTE.format(1)),
    "quote not closed": ("a.csv", records('2,a,"b', "3,c,d"), NO_QUOTE.format(3)),
    "quote closed in another row": ("a.csv", records('2,a,"b', "3,c,d", '4,"e",f'), NO_QUOTE.format(3)),
    "UTF-16 lines": ("a.jsonl", lines(HELLO).decode().encode("utf-16"), UTF_16),
    "UTF-16 JSON": ("a.json", lines([HELLO]).decode().encode("utf-16"), UTF_16),
    "UTF-16 CSV": ("a.csv", records().decode().encode("utf-16"), UTF_16),
    "UTF-16 CSV in gz": ("a.csv.gz", gzip.compress(records().decode().encode("utf-16")), UTF_16),
    "UTF-16 lines without BOM": ("a.jsonl", lines(HELLO).decode().encode("utf-16-le"), UTF_16),
    "big-endian UTF-16 lines without BOM": ("a.jsonl", lines(HELLO).decode().encode("utf-16-be"), UTF_16),
    "UTF-16 JSON without BOM": ("a.json", lines([HELLO]).decode().encode("utf-16-be"), UTF_16),
    "UTF-16 CSV without BOM": ("a.csv", records().decode().encode("utf-16-le"), UTF_16),
    "UTF-16 lines in .txt": ("a.txt", lines(HELLO).decode().encode("utf-16"), UTF_16),
    "latin-1 JSON": (
        "a.json",
        '[{"dialogue": "café", "summary": "a"}]'.encode("latin-1"),
        " is not UTF-8 text: invalid continuation byte at byte 18",
    ),
    "cp1252 JSON": ("a.json", '["“"]'.encode("cp1252"), " is not UTF-8 text: invalid start byte at byte 2"),
    "cut array": ("a.json", lines([HELLO, TEA])[:-9], NO_JSON),
    "cut array of lines": ("a.json", b"[\n" + b",\n".join([lines(HELLO), lines(TEA)]), NO_JSON),
    "cut JSON object": ("a.json", lines(HELLO)[:-9], NO_JSON),
    "very deep JSON": ("a.json", TOO_DEEP.encode(), NO_JSON),
    "array of arrays": (
        "a.json",
        b'[["a", "b"], ["c", "d"]]',
        r" \(test\): none of the first 2 rows can be read: row 1: element is not a JSON object; row 2: .+",
    ),
    "text as JSON": ("a.json", b'"dialogue"', " must hold a JSON array of objects, not str"),
    "number as JSON": ("a.json", b"1e999", " must hold a JSON array of objects, not float"),
    "null as JSON": ("a.json", b"null", " must hold a JSON array of objects, not NoneType"),
    "array as lines": (
        "a.jsonl",
        lines([HELLO, TEA]),
        r" \(test\): none of the first 1 rows can be read: row 1: line is not a JSON object",
    ),
    "lone CR between lines": (
        "a.jsonl",
        lines(HELLO, TEA).replace(b"\n", b"\r"),
        r" \(test\): none of the first 1 rows can be read: row 1: line is not JSON",
    ),
    "cut parquet": ("a.parquet", BIG_PARQUET[:-100], NO_PARQUET),
    "no parquet": ("a.parquet", lines(HELLO), NO_PARQUET),
    "parquet of latin-1": (
        "a.parquet",
        parquet(dialogue=NO_UTF8, summary=["a", "b"]),
        " is a damaged parquet file, or none at all: 'utf-8' codec .+",
    ),
    "gz cut after many rows": ("a.jsonl.gz", CUT_GZ, NO_GZ),
    "gz of csv cut early": ("a.csv.gz", gzip.compress(records())[:-20], NO_GZ),
    "no gz": ("a.json.gz", lines(HELLO), NO_GZ),
    "more after the gz": ("a.tsv.gz", gzip.compress(records()) + b"more", NO_GZ),
    "damaged gz": ("a.jsonl.gz", CUT_GZ[:1000] + bytes(9) + CUT_GZ[1009:], NO_GZ),
    "no deflate in gz": ("a.jsonl.gz", CUT_GZ[:10] + bytes([255]) * 100, NO_GZ),
    "document": ("a.docx", b"Hello.", ": cannot read such a file, only .jsonl, .+"),
    "text": ("a.txt", b"Hello.", " is plain text: a .txt file of a dataset has a JSON object a line; .+"),
}


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_file_is_refused(case: str, streaming: bool, tmp_path: Path) -> None:
    name, content, message = REFUSED[case]
    path = write(tmp_path, name, content)
    assert re.fullmatch(re.escape(str(path)) + message, refusal(path, streaming=streaming, allow_dropped_rows=True))


def test_a_parquet_file_damaged_in_the_middle(tmp_path: Path) -> None:
    path = write(tmp_path, "a.parquet", BIG_PARQUET[:2000] + bytes(1000) + BIG_PARQUET[3000:])
    assert refusal(path) == f"cannot read {path}: Corrupt snappy compressed data."


def test_bytes_are_not_text(tmp_path: Path) -> None:
    path = write(tmp_path, "a.parquet", parquet(dialogue=[b"a"], summary=["b"]))
    assert (
        refusal(path)
        == f"{path} (test): 1 of 1 rows cannot be used: row 1: dialogue: bytes, neither text nor a list of turns"
    )


def test_a_folder_without_the_split(tmp_path: Path) -> None:
    write(tmp_path, "train.jsonl", lines(HELLO))
    write(tmp_path, "README.md", b"# Data\n")
    assert refusal(tmp_path) == f"no split 'test' in {tmp_path}: there are train.jsonl; {BY_NAME}"


def test_a_folder_without_data(tmp_path: Path) -> None:
    assert refusal(tmp_path) == f"no split 'test' in {tmp_path}: there are no data files"


def test_a_folder_with_two_files_of_a_split(tmp_path: Path) -> None:
    write(tmp_path, "test.json", lines([HELLO]))
    write(tmp_path, "test.jsonl", lines(HELLO))
    files = "test.json, test.jsonl"
    assert refusal(tmp_path) == f"which is the split 'test' in {tmp_path}: {files}? N{BY_NAME[1:]}"


def test_a_folder_named_like_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.mkdir()
    assert refusal(path) == f"no split 'test' in {path}: there are no data files"


def test_a_folder_in_the_place_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "test.jsonl"
    path.mkdir()
    assert refusal(tmp_path) == f"cannot read {path}: Is a directory"


@pytest.mark.parametrize("damage", ["{}", "[]", "{", '{"_data_files": [{"filename": "nothing.arrow"}]}'])
def test_a_damaged_folder_of_save_to_disk(damage: str, tmp_path: Path) -> None:
    datasets.Dataset.from_list([HELLO]).save_to_disk(str(tmp_path / "saved"))
    write(tmp_path / "saved", "state.json", damage.encode())
    assert refusal(tmp_path / "saved").startswith(f"cannot read dataset '{tmp_path / 'saved'}': ")


def test_a_pattern_without_a_match(tmp_path: Path) -> None:
    assert refusal(tmp_path / "*.jsonl") == f"no data file matches {tmp_path / '*.jsonl'}"


def test_a_pattern_that_is_the_name_of_a_file(tmp_path: Path) -> None:
    write(tmp_path, "a1.jsonl", lines(HELLO))
    assert found(load(write(tmp_path, "a[1].jsonl", lines(TEA)))) == [OFFER]


def test_a_broken_link_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.symlink_to(tmp_path / "nothing.jsonl")
    assert refusal(path) == f"dataset file not found: {path}"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", lines(HELLO))
    path.chmod(0)
    assert refusal(path) == f"cannot read {path}: Permission denied"
