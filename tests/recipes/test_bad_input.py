"""Bad and odd files: every row is kept or counted with a reason, or the file is refused in one line that names it."""

import csv
import gzip
import io
import json
import os
import re
from collections import Counter
from pathlib import Path
from typing import Any

from dialogsum_sft import InputError
from dialogsum_sft.arguments import DataArguments
from dialogsum_sft.data.counts import DUPLICATE, IN_OTHER_SPLIT
from dialogsum_sft.data.examples import Examples, load_examples

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trl import ScriptArguments

HELLO = {"id": "hello", "dialogue": "#Person1#: Hello.\n#Person2#: Hi.", "summary": "They greet."}
TEA = {"id": "tea", "dialogue": "#Person1#: Tea?\n#Person2#: Please.", "summary": "Tea is offered."}
GREETING = (HELLO["dialogue"], HELLO["summary"])  # an example as expected: the dialogue, its references
OFFER = (TEA["dialogue"], TEA["summary"])


def load(path: Path, *, streaming: bool = False, other_split: Examples | None = None, **options: Any) -> Examples:
    script_args = ScriptArguments(dataset_name=str(path), dataset_streaming=streaming)
    return load_examples(script_args, DataArguments(**options), "test", other_split=other_split)


def lines(*rows: Any) -> bytes:
    """JSON lines; text stands as it is, so that it need not be JSON."""
    return "".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows).encode()


def records(*rows: str, end: str = "\n") -> bytes:
    """A CSV file of a good row and these."""
    return end.join(["id,dialogue,summary", "1,Hello.,They greet.", *rows, ""]).encode()


def parquet(**columns: Any) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file, row_group_size=50)
    return file.getvalue()


def many() -> list[dict[str, str]]:
    return [{"dialogue": f"#Person1#: {n} {n**5}.", "summary": f"Number {n**3}."} for n in range(300)]


NESTED: Any = json.loads("[" * 300 + "]" * 300)
TOO_DEEP = "[" * 100_000 + "]" * 100_000
LONG = "word " * 40_000 + "end"

# A row that is dropped, and why.
DROPPED: dict[str, tuple[Any, str]] = {
    "null": (TEA | {"dialogue": None}, "dialogue is null"),
    "no such key": ({"id": "tea", "summary": "a"}, "dialogue is null"),
    "no key at all": ({}, "dialogue is null"),
    "NaN": (TEA | {"dialogue": float("nan")}, "dialogue is not text"),
    "infinity": (TEA | {"dialogue": float("-inf")}, "dialogue is not text"),
    "number": (TEA | {"dialogue": 5}, "dialogue is not text"),
    "boolean": (TEA | {"dialogue": False}, "dialogue is not text"),
    "object": (TEA | {"dialogue": {"text": "a"}}, "dialogue is not text"),
    "empty": (TEA | {"dialogue": ""}, "dialogue is empty"),
    "whitespace": (TEA | {"dialogue": " \r\n\t\u2003\u2028"}, "dialogue is empty"),
    "a BOM alone": (TEA | {"dialogue": "\ufeff "}, "dialogue is empty"),
    "half an emoji": (TEA | {"dialogue": "a \ud83d"}, "dialogue is not UTF-8 text"),
    "list of texts": (TEA | {"dialogue": ["Tea?", "Please."]}, "dialogue is not a list of turns"),
    "empty list": (TEA | {"dialogue": []}, "dialogue is not a list of turns"),
    "nested lists": (TEA | {"dialogue": [[{"text": "a"}]]}, "dialogue is not a list of turns"),
    "deep lists": (TEA | {"dialogue": NESTED}, "dialogue is not a list of turns"),
    "null as a turn": (TEA | {"dialogue": [{"text": "a"}, None]}, "dialogue is not a list of turns"),
    "turn without text": (TEA | {"dialogue": [{"role": "user"}]}, "dialogue is not a list of turns"),
    "turn of null": (TEA | {"dialogue": [{"text": None}]}, "dialogue is not a list of turns"),
    "turn of a number": (TEA | {"dialogue": [{"text": 5}]}, "dialogue is not a list of turns"),
    "turn of unknown keys": (TEA | {"dialogue": [{"who": "A", "what": "b"}]}, "dialogue is not a list of turns"),
    "turn of deep lists": (TEA | {"dialogue": [{"content": NESTED}]}, "dialogue is not a list of turns"),
    "turn with an image": (
        TEA | {"dialogue": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}]},
        "dialogue is not a list of turns",
    ),
    "empty turns": (TEA | {"dialogue": [{"text": ""}, {"text": " "}]}, "dialogue is empty"),
    "turn of half an emoji": (TEA | {"dialogue": [{"text": "\ude42"}]}, "dialogue is not UTF-8 text"),
    "null summary": (TEA | {"summary": None}, "summary is null"),
    "number as summary": (TEA | {"summary": 0}, "summary is not text"),
    "object as summary": (TEA | {"summary": {"a": "b"}}, "summary is not text"),
    "empty summary": (TEA | {"summary": " "}, "summary is empty"),
    "empty list as summary": (TEA | {"summary": []}, "summary is empty"),
    "empty summaries": (TEA | {"summary": [None, ""]}, "summary is null"),
    "a summary and a number": (TEA | {"summary": ["a", 5]}, "summary is not text"),
    "turns as summary": (TEA | {"summary": [[{"text": "a"}]]}, "summary is not text"),
    "half an emoji as summary": (TEA | {"summary": "\ud83d"}, "summary is not UTF-8 text"),
    "line break in the id": (TEA | {"id": "a\nb\u2028c\0", "summary": ""}, "summary is empty"),
    "id of 200,000 characters": (TEA | {"id": LONG, "summary": ""}, "summary is empty"),
    "half an emoji as id": (TEA | {"id": "\ud83d", "summary": ""}, "summary is empty"),
    "a line cut": (json.dumps(TEA)[:-9], "line is not JSON"),
    "two objects in a line": (json.dumps(TEA) * 2, "line is not JSON"),
    "single quotes": (str(TEA), "line is not JSON"),
    "a tab within text": ('{"dialogue": "a\tb", "summary": "c"}', "line is not JSON"),
    "NUL bytes": ("\0\0\0\0", "line is not JSON"),
    "very deep nesting": (f'{{"dialogue": {TOO_DEEP}, "summary": "a"}}', "line is not JSON"),
    "number of 5,000 digits": (f'{{"id": {"1" * 5000}, "dialogue": "a", "summary": "b"}}', "line is not JSON"),
    "array in a line": ([TEA], "line is not a JSON object"),
    "null in a line": ("null", "line is not a JSON object"),
    "text in a line": ('"a"', "line is not a JSON object"),
}

# A row that is kept, and the example that it is.
KEPT: dict[str, tuple[Any, tuple[str, ...]]] = {
    "CRLF and CR in text": (TEA | {"dialogue": "A: a\r\nB: b\rA: c"}, ("A: a\nB: b\nA: c", TEA["summary"])),
    "a BOM before text": (TEA | {"dialogue": "\ufeffA: a"}, ("A: a", TEA["summary"])),
    "U+2028 and U+0085 in text": ('{"dialogue": "a\u2028b", "summary": "c\x85d"}', ("a\u2028b", "c\x85d")),
    "NUL in text": (TEA | {"dialogue": "a\0b"}, ("a\0b", TEA["summary"])),
    "200,000 characters": (TEA | {"dialogue": LONG}, (LONG, TEA["summary"])),
    "one turn": (TEA | {"dialogue": "Hm"}, ("Hm", TEA["summary"])),
    "emoji": ('{"dialogue": "👩‍👩‍👧", "summary": "🙂"}', ("👩‍👩‍👧", "🙂")),
    "escaped emoji": ('{"dialogue": "\\ud83d\\ude42", "summary": "a"}', ("🙂", "a")),
    "right to left": (TEA | {"dialogue": "א: שלום\nب: مرحبا\u200f"}, ("א: שלום\nب: مرحبا\u200f", TEA["summary"])),
    "turns": (
        TEA | {"dialogue": [{"from": "A", "value": "Tea?\nNow?"}, {"text": "Hm"}]},
        ("A: Tea? Now?\nHm", TEA["summary"]),
    ),
    "parts of text": (
        TEA | {"dialogue": [{"role": "user", "content": [{"type": "text", "text": text} for text in ("a", "b")]}]},
        ("user: a b", TEA["summary"]),
    ),
    "list of summaries": (TEA | {"summary": ["a", "", None, "b"]}, (TEA["dialogue"], "a", "b")),
    "duplicate id": (TEA | {"id": "hello"}, OFFER),
    "null id": (TEA | {"id": None}, OFFER),
    "number as id": (TEA | {"id": 1.5}, OFFER),
    "deep lists as id": (TEA | {"id": NESTED}, OFFER),
    "half an emoji as an id": (TEA | {"id": "\ud83d"}, OFFER),
    "object as topic": (TEA | {"topic": {"a": "\ud83d"}}, OFFER),
    "half an emoji as topic": (TEA | {"topic": "\ud83d"}, OFFER),
    "another column": (TEA | {"other": NESTED}, OFFER),
}

# A file: its name and bytes, the examples in it, the reasons why rows are dropped.
FIELDS = "row has another number of fields than the header (a comma without quotes?)"
QUOTE = "row has a quote that is not closed or not doubled"
BOM = b"\xef\xbb\xbf"
PLAIN = ("Hello.", "They greet.")
FILES: dict[str, tuple[str, bytes, list[tuple[str, ...]], dict[str, int]]] = {
    "mixed types": (
        "a.jsonl",
        lines(HELLO, *(TEA | {"dialogue": value} for value in (5, [], [{"text": "a"}], False))),
        [GREETING, ("a", TEA["summary"])],
        {"dialogue is not text": 2, "dialogue is not a list of turns": 1},
    ),
    "other columns in other rows": ("a.jsonl", lines({"a": 1}, HELLO, {"b": 2}), [GREETING], {"dialogue is null": 2}),
    "one of two columns empty": (
        "a.jsonl",
        lines(*({"dialogue": d, "summary1": a, "summary2": b} for d, a, b in [("a", "", "b"), ("c", "d", None)])),
        [("a", "b"), ("c", "d")],
        {},
    ),
    "all of two columns empty": (
        "a.jsonl",
        lines(*({"dialogue": d, "summary1": a, "summary2": b} for d, a, b in [("a", "b", "c"), ("d", "", None)])),
        [("a", "b", "c")],
        {"summary1 is empty": 1},
    ),
    "NUL as a separator of ours": (
        "a.jsonl",
        lines({"dialogue": "a\0b", "summaries": ["c"]}, {"dialogue": "a", "summaries": ["b", "c"]}),
        [("a\0b", "c"), ("a", "b", "c")],
        {},
    ),
    "CRLF": ("a.jsonl", lines(HELLO, TEA).replace(b"\n", b"\r\n"), [GREETING, OFFER], {}),
    "BOM": ("a.jsonl", BOM + lines(HELLO, TEA), [GREETING, OFFER], {}),
    "empty lines": ("a.jsonl", lines("", HELLO, " \t\r", TEA), [GREETING, OFFER], {}),
    "no line break at the end": ("a.jsonl", lines(HELLO, TEA)[:-1], [GREETING, OFFER], {}),
    "line of latin-1": (
        "a.jsonl",
        lines(HELLO) + '{"dialogue": "café", "summary": "a"}'.encode("latin-1"),
        [GREETING],
        {"line is not UTF-8": 1},
    ),
    "line of cp1252": (
        "a.jsonl",
        lines(HELLO) + '{"dialogue": "“a”", "summary": "a"}'.encode("cp1252"),
        [GREETING],
        {"line is not UTF-8": 1},
    ),
    "line of UTF-16": ("a.jsonl", lines(HELLO) + str(TEA).encode("utf-16"), [GREETING], {"line is not UTF-8": 1}),
    "lines in .json": ("a.json", lines(HELLO, TEA), [GREETING, OFFER], {}),
    "lines in .json, the last cut": ("a.json", BOM + lines(HELLO, TEA)[:-9], [GREETING], {"line is not JSON": 1}),
    "list under a key": ("a.json", lines({"data": [HELLO, TEA]}), [GREETING, OFFER], {}),
    "one object": ("a.json", lines(HELLO), [GREETING], {}),
    "BOM in .json": ("a.json", BOM + lines([HELLO]), [GREETING], {}),
    "text and null in an array": (
        "a.json",
        lines([HELLO, "a", None]),
        [GREETING],
        {"element is not a JSON object": 2},
    ),
    "words for null in CSV": (
        "a.csv",
        records("2,N/A,None", "3,null,NaN", "4,nan,NULL"),
        [PLAIN, ("N/A", "None"), ("null", "NaN"), ("nan", "NULL")],
        {},
    ),
    "unquoted comma": ("a.csv", records("2,Well, no,It is."), [PLAIN], {FIELDS: 1}),
    "ragged CSV": ("a.csv", records("2,a", "3", "4,a,b,"), [PLAIN], {FIELDS: 3}),
    "CSV with CRLF": ("a.csv", records('2,"a\r\nb",c', end="\r\n"), [PLAIN, ("a\nb", "c")], {}),
    "CSV with lone CR": ("a.csv", records("2,a,b", end="\r"), [PLAIN, ("a", "b")], {}),
    "CSV with a BOM": ("a.csv", BOM + records("2,a,b"), [PLAIN, ("a", "b")], {}),
    "CSV with empty lines": ("a.csv", records("", "2,a,b", ""), [PLAIN, ("a", "b")], {}),
    "empty fields": (
        "a.csv",
        records("2,,b", "3,a,", "4, ,b"),
        [PLAIN],
        {"dialogue is empty": 2, "summary is empty": 1},
    ),
    "U+2028 in CSV": ("a.csv", records("2,a\u2028b,c"), [PLAIN, ("a\u2028b", "c")], {}),
    "NUL in CSV": ("a.csv", records("2,a\0b,c"), [PLAIN, ("a\0b", "c")], {}),
    "tab in CSV": ("a.csv", records("2,a\tb,c"), [PLAIN, ("a\tb", "c")], {}),
    "200,000 characters in CSV": ("a.csv", records(f"2,{LONG},b"), [PLAIN, (LONG, "b")], {}),
    "quotes in CSV": ("a.csv", records('2,a "b" c,"d ""e"", f"'), [PLAIN, ('a "b" c', 'd "e", f')], {}),
    "quotes not doubled": ("a.csv", records('2,"a "b" c",d', "3,a,b"), [PLAIN, ("a", "b")], {QUOTE: 1}),
    "last quote not closed": ("a.csv", records("2,a,b", '3,a,"b')[:-1], [PLAIN, ("a", "b")], {QUOTE: 1}),
    "CSV rows of latin-1": (
        "a.csv",
        records("2,café,b", "3,a,é", "é,a,b").decode().encode("latin-1"),
        [PLAIN, ("a", "b")],
        {"dialogue is not UTF-8 text": 1, "summary is not UTF-8 text": 1},
    ),
    "CSV row of cp1252": (
        "a.csv",
        records("2,“a”,b").decode().encode("cp1252"),
        [PLAIN],
        {"dialogue is not UTF-8 text": 1},
    ),
    "spaces in the header": ("a.csv", b"id , dialogue,summary \n1,a,b\n", [("a", "b")], {}),
    "a comma at every end": ("a.csv", b"dialogue,summary,\na,b,\n", [("a", "b")], {}),
    "quotes in TSV": ("a.tsv", b'dialogue\tsummary\na, b\tc\n"a" b\tc\n', [("a, b", "c")], {QUOTE: 1}),
    "nulls in parquet": (
        "a.parquet",
        parquet(dialogue=["a", None], summary=["b", "c"]),
        [("a", "b")],
        {"dialogue is null": 1},
    ),
    "turns in parquet": (
        "a.parquet",
        parquet(dialogue=[[{"role": "A", "text": "b"}], [{"role": "A", "text": None}]], summary=["c", "d"]),
        [("A: b", "c")],
        {"dialogue is not a list of turns": 1},
    ),
    "NaN as ids": (
        "a.parquet",
        parquet(id=[float("nan")] * 2, dialogue=["a", "b"], summary=["c", "d"]),
        [("a", "c"), ("b", "d")],
        {},
    ),
    "several parts in gz": (
        "a.jsonl.gz",
        gzip.compress(lines(HELLO)) + gzip.compress(lines(TEA)),
        [GREETING, OFFER],
        {},
    ),
}

ALL_FILES = {
    **{name: ("a.jsonl", lines(HELLO, row), [GREETING], {reason: 1}) for name, (row, reason) in DROPPED.items()},
    **{name: ("a.jsonl", lines(HELLO, row), [GREETING, kept], {}) for name, (row, kept) in KEPT.items()},
    **FILES,
}

TOKENS = [
    *("<|im_end|>", "<|eot_id|>", "</s>", "<end_of_turn>", "<|end|>", "<|endoftext|>", "[INST]", "<|user|>"),
    *("<|END_OF_TURN_TOKEN|>", "<｜end▁of▁sentence｜>"),
]

# A file that is refused, and the message after its path.
CUT_GZ = gzip.compress(lines(*many()))[:-20]
BIG_PARQUET = parquet(dialogue=[row["dialogue"] for row in many()], summary=[row["summary"] for row in many()])
NO_UTF8 = pa.StringArray.from_buffers(2, *pa.array([b"caf\xe9", b"a"]).buffers()[1:])
NO_COLUMNS = " has no column dialogue, summary: there are {}; name yours with --dialogue_column, .+"
NO_JSON = r" is not JSON \(cut short\?\): .+"
NO_GZ = r" is a damaged gz file \(cut short, or not gz at all\): .+"
NO_PARQUET = " is a damaged parquet file, or none at all: .+"
NO_QUOTE = ": line {} has a quote that is not closed or not doubled"
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
    "semicolons": ("a.csv", b"id;dialogue;summary\n1;a;b\n", NO_COLUMNS.format("id;dialogue;summary")),
    "tabs": ("a.csv", b"dialogue\tsummary\na\tb\n", NO_COLUMNS.format("dialogue summary")),
    "quote in the header": ("a.csv", b'dialogue,"summary\na,b\n', NO_QUOTE.format(1)),
    "quote not doubled in the header": ("a.csv", b'dialogue,"sum"mary"\na,b\n', NO_QUOTE.format(1)),
    "quote not closed": ("a.csv", records('2,a,"b', "3,c,d"), NO_QUOTE.format(3)),
    "quote closed in another row": ("a.csv", records('2,a,"b', "3,c,d", '4,"e",f'), NO_QUOTE.format(3)),
    "UTF-16 lines": ("a.jsonl", lines(HELLO).decode().encode("utf-16"), UTF_16),
    "UTF-16 JSON": ("a.json", lines([HELLO]).decode().encode("utf-16"), UTF_16),
    "UTF-16 CSV": ("a.csv", records().decode().encode("utf-16"), UTF_16),
    "UTF-16 CSV in gz": ("a.csv.gz", gzip.compress(records().decode().encode("utf-16")), UTF_16),
    "UTF-16 without BOM": (
        "a.jsonl",
        lines(HELLO).decode().encode("utf-16-le"),
        r" \(test\): none of the first 2 rows can be read: row 1: line is not JSON; row 2: line is not JSON",
    ),
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
    "text": ("a.txt", b"Hello.", ": cannot read such a file, only .jsonl, .+"),
}


def found(examples: Examples) -> list[tuple[str, ...]]:
    return [(row["dialogue"], *row["references"]) for row in examples.rows]


def rows_of(examples: Examples) -> tuple[int, int, dict[str, int]]:
    return examples.counts.read, examples.counts.kept, dict(examples.counts.dropped)


def refusal(path: Path, **options: Any) -> str:
    """The message with which a source is refused, at the latest while its rows are read."""
    with pytest.raises(InputError) as error:
        list(load(path, **options).rows)
    message = str(error.value)
    assert message.isprintable()  # so it is one line
    assert len(message) < 1000
    return message


def write(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("case", ALL_FILES)
def test_every_row_is_kept_or_counted(case: str, tmp_path: Path) -> None:
    name, content, kept, dropped = ALL_FILES[case]
    examples = load(write(tmp_path, name, content), allow_dropped_rows=True)
    assert found(examples) == kept
    assert rows_of(examples) == (len(kept) + sum(dropped.values()), len(kept), dropped)
    assert examples.counts.dialogues == len(kept)
    assert examples.counts.references == sum(len(references) for _, *references in kept)


@pytest.mark.parametrize("case", FILES)
def test_a_stream_counts_the_same_in_every_pass(case: str, tmp_path: Path) -> None:
    name, content, kept, dropped = FILES[case]
    examples = load(write(tmp_path, name, content), streaming=True)
    for _ in range(2):
        assert found(examples) == kept
        assert rows_of(examples) == (len(kept) + sum(dropped.values()), len(kept), dropped)
        assert examples.counts.dialogues == len(kept)
        assert examples.counts.references == sum(len(references) for _, *references in kept)


@pytest.mark.parametrize("case", [case for case, (*_, dropped) in ALL_FILES.items() if dropped])
def test_dropped_rows_are_refused_unless_allowed(case: str, tmp_path: Path) -> None:
    name, content, kept, dropped = ALL_FILES[case]
    path = write(tmp_path, name, content)
    message = refusal(path)
    lost = sum(dropped.values())
    first = "row 2" if case in DROPPED else "row "
    assert message.startswith(f"{path} (test): {lost} of {len(kept) + lost} rows cannot be used: {first}")
    assert all(f": {reason}" in message for reason in dropped)
    assert message.endswith(". Correct them, or continue without them: --allow_dropped_rows true")


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_file_is_refused(case: str, streaming: bool, tmp_path: Path) -> None:
    name, content, message = REFUSED[case]
    path = write(tmp_path, name, content)
    assert re.fullmatch(re.escape(str(path)) + message, refusal(path, streaming=streaming, allow_dropped_rows=True))


@pytest.mark.parametrize("column", ["dialogue", "summary"])
@pytest.mark.parametrize("token", TOKENS)
def test_control_tokens_stay_as_they_are(token: str, column: str, tmp_path: Path) -> None:
    row = TEA | {column: f"A: a{token} {token}\nB: b\n{token}"}
    examples = load(write(tmp_path, "a.jsonl", lines(row)))
    assert found(examples) == [(row["dialogue"], row["summary"])]


def test_a_second_summary_is_kept_and_a_repeated_row_is_not(tmp_path: Path) -> None:
    rows = [HELLO, TEA, HELLO | {"summary": "Hi."}, HELLO | {"id": 2}, HELLO | {"id": 2}]
    examples = load(write(tmp_path, "a.jsonl", lines(*rows)))  # a repeated row is no loss
    assert found(examples) == [(*GREETING, "Hi.", GREETING[1]), OFFER]
    assert rows_of(examples) == (5, 4, {DUPLICATE: 1})


def test_a_stream_of_all_odd_rows_counts_the_same_in_every_pass(tmp_path: Path) -> None:
    rows = [row for row, _ in DROPPED.values()] + [row for kept, _ in KEPT.values() for row in (kept, HELLO)]
    examples = load(write(tmp_path, "a.jsonl", lines(*rows)), streaming=True)
    reasons = dict(Counter(reason for _, reason in DROPPED.values()))
    for _ in range(2):
        assert found(examples) == [example for _, kept in KEPT.values() for example in (kept, GREETING)]
        assert rows_of(examples) == (len(DROPPED) + 2 * len(KEPT), 2 * len(KEPT), reasons)


def test_a_stream_joins_neighbours(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", lines(HELLO, HELLO | {"summary": "Hi."}, TEA, HELLO))
    examples = load(path, streaming=True)
    for _ in range(2):
        assert found(examples) == [(*GREETING, "Hi."), OFFER, GREETING]
        assert rows_of(examples) == (4, 4, {})
        assert (examples.counts.dialogues, examples.counts.references) == (3, 4)


@pytest.mark.parametrize("streaming", [False, True])
def test_dialogues_of_the_other_split_are_left_out(streaming: bool, tmp_path: Path) -> None:
    evaluation = load(write(tmp_path, "test.jsonl", lines(TEA | {"dialogue": f" {TEA['dialogue']}\r\n"})))
    path = write(tmp_path, "train.jsonl", lines(HELLO, TEA | {"summary": "Another one."}))
    examples = load(path, streaming=streaming, other_split=evaluation, allow_dropped_rows=True)
    assert found(examples) == [GREETING]
    assert rows_of(examples) == (2, 1, {IN_OTHER_SPLIT: 1})


def test_a_split_within_the_other_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", lines(HELLO))
    message = refusal(path, other_split=load(path), allow_dropped_rows=True)
    assert message == f"{path} (test): 1 of 1 rows cannot be used: row 1 (hello): {IN_OTHER_SPLIT}"


def test_nothing_usable_is_refused(tmp_path: Path) -> None:
    columns = {"dialogue": ["Hello.", "Tea?"], "summary": ["They greet.", "Tea is offered."]}
    path = write(tmp_path, "a.json", json.dumps(columns).encode())
    assert refusal(path, allow_dropped_rows=True) == (
        f"{path} (test): 1 of 1 rows cannot be used: row 1: dialogue is not a list of turns"
    )


def test_a_parquet_file_damaged_in_the_middle(tmp_path: Path) -> None:
    path = write(tmp_path, "a.parquet", BIG_PARQUET[:2000] + bytes(1000) + BIG_PARQUET[3000:])
    assert refusal(path) == f"cannot read {path}: Corrupt snappy compressed data."


def test_bytes_are_no_text(tmp_path: Path) -> None:
    path = write(tmp_path, "a.parquet", parquet(dialogue=[b"a"], summary=["b"]))
    assert refusal(path) == f"{path} (test): 1 of 1 rows cannot be used: row 1: dialogue is not text"


def test_a_folder_without_the_split(tmp_path: Path) -> None:
    write(tmp_path, "train.jsonl", lines(HELLO))
    write(tmp_path, "README.md", b"# Data\n")
    assert refusal(tmp_path) == f"no split 'test' in {tmp_path}: there are train.jsonl"


def test_a_folder_without_data(tmp_path: Path) -> None:
    assert refusal(tmp_path) == f"no split 'test' in {tmp_path}: there are no data files"


def test_a_folder_with_two_files_of_a_split(tmp_path: Path) -> None:
    write(tmp_path, "test.json", lines([HELLO]))
    write(tmp_path, "test.jsonl", lines(HELLO))
    assert refusal(tmp_path) == f"which is the split 'test' in {tmp_path}: test.json, test.jsonl? Name the file"


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


def test_a_link_to_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.symlink_to(tmp_path / "nothing.jsonl")
    assert refusal(path) == f"dataset file not found: {path}"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", lines(HELLO))
    path.chmod(0)
    assert refusal(path) == f"cannot read {path}: Permission denied"


def test_a_bad_row_among_several_files_is_named_with_its_file(tmp_path: Path) -> None:
    write(tmp_path, "test-1.jsonl", lines(HELLO))
    write(tmp_path, "test-2.jsonl", lines(TEA, "no row"))
    assert "rows cannot be used: row test-2.jsonl:2: line is not JSON. " in refusal(tmp_path)


# Text of every kind of character, numbers, lists, turns, keys that are missing.
any_text = st.sampled_from(["", "\ufeff", "\r", "a", "b"]) | st.text(st.characters(exclude_categories=()), max_size=8)
values = st.recursive(
    any_text | st.none() | st.booleans() | st.integers() | st.floats(),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.sampled_from(["text", "a"]), children),
    max_leaves=5,
)
turns = st.lists(st.fixed_dictionaries({"text": any_text}), min_size=1, max_size=3)
any_row = st.fixed_dictionaries(
    {}, optional={"dialogue": any_text | turns | values, "summary": any_text | values, "id": values}
)
any_record = st.fixed_dictionaries({"id": any_text, "dialogue": any_text, "summary": any_text})


def is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.removeprefix("\ufeff").strip())


def kept_text(value: Any) -> str | None:
    if is_empty(value) or not isinstance(value, str) or re.search("[\ud800-\udfff]", value):
        return None
    return re.sub("\r\n?", "\n", value.removeprefix("\ufeff")).strip()


def spoken(turns: list[Any]) -> str | None:
    """A list of turns as text; here no turn has a speaker or parts."""
    texts = [turn.get("text") if isinstance(turn, dict) else None for turn in turns]
    if not all(text == [] or isinstance(text, str) for text in texts):
        return None
    return "\n".join(" ".join(text.splitlines()) if text else "" for text in texts)


def kept_id(value: Any) -> str | None:
    return None if is_empty(value) or isinstance(value, (list, dict)) else str(value).encode(errors="replace").decode()


def distinct_pairs(rows: list[dict[str, Any]]) -> list[tuple[str, tuple[str, ...]]]:
    """Dialogue and references of each usable row, those that repeat another (of the same id) left out."""
    pairs = {}
    for row in rows:
        dialogue, summary = row.get("dialogue"), row.get("summary")
        dialogue = kept_text(spoken(dialogue) if isinstance(dialogue, list) else dialogue)
        given = [one for one in (summary if isinstance(summary, list) else [summary]) if not is_empty(one)]
        references = tuple(filter(None, map(kept_text, given)))
        if dialogue and references and len(references) == len(given):
            pairs[kept_id(row.get("id")), dialogue, references] = None
    return [(dialogue, references) for _, dialogue, references in pairs]


def check(path: Path, rows: list[dict[str, Any]]) -> None:
    """What is loaded, or refused, is what `distinct_pairs` says."""
    pairs = distinct_pairs(rows)
    if not pairs:
        refusal(path, allow_dropped_rows=True)
        return
    examples = load(path, allow_dropped_rows=True)
    grouped: dict[str, list[str]] = {}
    for dialogue, references in pairs:
        grouped.setdefault(dialogue, []).extend(references)
    assert found(examples) == [(dialogue, *references) for dialogue, references in grouped.items()]
    assert len(set(examples.rows["id"])) == len(grouped)
    counts = examples.counts
    assert (counts.read, counts.kept) == (len(rows), len(pairs))
    assert counts.read == counts.kept + sum(counts.dropped.values())
    assert (counts.dialogues, counts.references) == (len(grouped), sum(map(len, grouped.values())))


@settings(deadline=None, max_examples=300)
@given(st.lists(any_row))
def test_any_rows_of_json(tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]) -> None:
    content = lines(*rows)
    path = write(tmp_path_factory.getbasetemp(), "any.jsonl", content)
    check(path, [json.loads(line) for line in content.splitlines()])  # where two halves are one emoji


@settings(deadline=None, max_examples=200)
@given(st.lists(any_record))
def test_any_rows_of_csv(tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, str]]) -> None:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, ["id", "dialogue", "summary"], quoting=csv.QUOTE_ALL)
    writer.writeheader()
    writer.writerows(rows)
    content = text.getvalue().encode("utf-8", "surrogatepass")
    check(write(tmp_path_factory.getbasetemp(), "any.csv", content), rows)
