"""Every odd row is kept, or dropped and counted with its reason."""

import gzip
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

from dialogsum_sft.data.counts import DUPLICATE, IN_OTHER_SPLIT

import pytest
from odd_files import (
    GREETING,
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
    rows_of,
    write,
)

NESTED: Any = json.loads("[" * 300 + "]" * 300)
LONG = "word " * 40_000 + "end"

# A row that is dropped, and why.
DROPPED: dict[str, tuple[Any, str]] = {
    "null": (TEA | {"dialogue": None}, "dialogue is null"),
    "no such key": ({"id": "tea", "summary": "a"}, "dialogue is null"),
    "no key at all": ({}, "dialogue is null"),
    "NaN": (TEA | {"dialogue": float("nan")}, "dialogue: a number, neither text nor a list of turns"),
    "infinity": (TEA | {"dialogue": float("-inf")}, "dialogue: a number, neither text nor a list of turns"),
    "number": (TEA | {"dialogue": 5}, "dialogue: a number, neither text nor a list of turns"),
    "boolean": (TEA | {"dialogue": False}, "dialogue: false, neither text nor a list of turns"),
    "object": (TEA | {"dialogue": {"text": "a"}}, "dialogue: an object without a list of turns: it has text"),
    "empty": (TEA | {"dialogue": ""}, "dialogue is empty"),
    "whitespace": (TEA | {"dialogue": " \r\n\t\u2003\u2028"}, "dialogue is empty"),
    "a BOM alone": (TEA | {"dialogue": "\ufeff "}, "dialogue is empty"),
    "half an emoji": (TEA | {"dialogue": "a \ud83d"}, "dialogue is not UTF-8 text"),
    "empty list": (TEA | {"dialogue": []}, "dialogue: the list of turns is empty"),
    "nested lists": (TEA | {"dialogue": [[{"text": "a"}]]}, "dialogue: a turn is a list, neither an object nor text"),
    "deep lists": (TEA | {"dialogue": NESTED}, "dialogue: a turn is a list, neither an object nor text"),
    "null as a turn": (
        TEA | {"dialogue": [{"text": "a"}, None]},
        "dialogue: a turn is null, neither an object nor text",
    ),
    "turn without text": (
        TEA | {"dialogue": [{"role": "user"}]},
        "dialogue: a turn has no text under a known key: it has role; name it with --text_key",
    ),
    "turn of null": (TEA | {"dialogue": [{"text": None}]}, "dialogue: no turn has a text"),
    "turn of a number": (TEA | {"dialogue": [{"text": 5}]}, "dialogue: a turn has a number as its text"),
    "turn of unknown keys": (
        TEA | {"dialogue": [{"who": "A", "what": "b"}]},
        "dialogue: a turn has no text under a known key: it has who, what; name it with --text_key",
    ),
    "turn of deep lists": (
        TEA | {"dialogue": [{"content": NESTED}]},
        "dialogue: a turn has a list as a part of its text",
    ),
    "turn with an image": (
        TEA | {"dialogue": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}]},
        "dialogue: no turn has a text",
    ),
    "empty turns": (TEA | {"dialogue": [{"text": ""}, {"text": " "}]}, "dialogue: no turn has a text"),
    "turn of half an emoji": (
        TEA | {"dialogue": [{"text": "\ude42"}]},
        "dialogue: a turn has a text that is not UTF-8",
    ),
    "a list in a cell as summary, cut": (
        TEA | {"summary": '[{"text": "They gre'},
        "summary: looks like a list of turns, but is neither JSON nor a Python list",
    ),
    "null summary": (TEA | {"summary": None}, "summary is null"),
    "number as summary": (TEA | {"summary": 0}, "summary is not text"),
    "object as summary": (TEA | {"summary": {"a": "b"}}, "summary is not text"),
    "empty summary": (TEA | {"summary": " "}, "summary is empty"),
    "empty list as summary": (TEA | {"summary": []}, "summary is empty"),
    "empty sentences": (TEA | {"summary": [None, ""]}, "summary is empty"),
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
        ("A: Tea?\nNow?\nHm", TEA["summary"]),
    ),
    "list of texts": (TEA | {"dialogue": ["Tea?", "Please."]}, ("Tea?\nPlease.", TEA["summary"])),
    "parts of text": (
        TEA | {"dialogue": [{"role": "user", "content": [{"type": "text", "text": text} for text in ("a", "b")]}]},
        ("user: a b", TEA["summary"]),
    ),
    "list of sentences": (TEA | {"summary": ["a", "", None, "b"]}, (TEA["dialogue"], "a b")),
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
        {f"dialogue: {kind}, neither text nor a list of turns": 1 for kind in ("a number", "false")}
        | {"dialogue: the list of turns is empty": 1},
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
    "columns as lists": ("a.json", lines({name: [HELLO[name], TEA[name]] for name in HELLO}), [GREETING, OFFER], {}),
    "columns by row": (
        "a.json",
        lines({name: {"7": HELLO[name], "9": TEA[name]} for name in HELLO}),
        [GREETING, OFFER],
        {},
    ),
    "one object of lists of two lengths": (
        "a.json",
        lines({"dialogue": ["Tea?", "Please."], "summary": ["a", "b", "c"]}),
        [("Tea?\nPlease.", "a b c")],
        {},
    ),
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
    "ragged CSV": ("a.csv", records("2,a", "3", "4,a,b,c"), [PLAIN], {FIELDS: 3}),
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
        {"dialogue: no turn has a text": 1},
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
    examples = load(write(tmp_path, name, content), streaming=True, allow_dropped_rows=True)
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
    counted = re.sub(r"\bturn [0-9]+", "a turn", message)
    assert all(f": {reason}" in counted for reason in dropped)
    assert message.endswith(". Correct them, or continue without them: --allow_dropped_rows true")


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
    examples = load(write(tmp_path, "a.jsonl", lines(*rows)), streaming=True, allow_dropped_rows=True)
    reasons = dict(Counter(reason for _, reason in DROPPED.values()))
    for _ in range(2):
        assert found(examples) == [example for _, kept in KEPT.values() for example in (kept, GREETING)]
        assert rows_of(examples) == (len(DROPPED) + 2 * len(KEPT), 2 * len(KEPT), reasons)


BAD = {"id": "bad", "dialogue": 5, "summary": "Five."}


@pytest.mark.parametrize(
    ("rows", "lost", "read"),
    [
        ([HELLO] * 4 + [BAD] * 96, 96, 100),
        ([BAD] * 60 + [TEA] * 1000, 60, 100),
        ([BAD] * 100 + [TEA] * 50, 100, 100),
        ([BAD, BAD, TEA], 2, 3),
        (["{oops"] * 70 + [TEA] * 50, 70, 100),
        ([TEA | {"summary": None}] * 99 + [TEA], 99, 100),
    ],
)
def test_a_stream_that_begins_with_bad_rows_is_refused(tmp_path: Path, rows: list[Any], lost: int, read: int) -> None:
    path = write(tmp_path, "a.jsonl", lines(*rows))
    message = refusal(path, streaming=True)
    assert message.startswith(f"{path} (test): {lost} of the first {read} rows cannot be used: row ")
    assert message.endswith("--allow_dropped_rows true") == (lost < read)
    if lost < read:
        assert found(load(path, streaming=True, allow_dropped_rows=True))
    else:
        assert refusal(path, streaming=True, allow_dropped_rows=True) == message


def test_a_short_pass_over_a_stream_keeps_the_counts_of_a_longer_one(tmp_path: Path) -> None:
    examples = load(write(tmp_path, "a.jsonl", lines(HELLO, TEA, BAD)), streaming=True)
    assert len(list(examples.rows)) == 2
    next(iter(examples.rows))
    assert rows_of(examples) == (3, 2, {"dialogue: a number, neither text nor a list of turns": 1})


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


def test_a_file_without_usable_rows_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "a.json", json.dumps(HELLO | {"dialogue": 5}).encode())
    assert refusal(path, allow_dropped_rows=True) == (
        f"{path} (test): 1 of 1 rows cannot be used: row 1 (hello): "
        "dialogue: a number, neither text nor a list of turns"
    )


def test_a_bad_row_among_several_files_is_named_with_its_file(tmp_path: Path) -> None:
    write(tmp_path, "test-1.jsonl", lines(HELLO))
    write(tmp_path, "test-2.jsonl", lines(TEA, "no row"))
    assert "rows cannot be used: row test-2.jsonl:2: line is not JSON. " in refusal(tmp_path)
