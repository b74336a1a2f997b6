"""What recipes/summarize.py says of files and endpoints that it cannot use, and how it writes what is odd."""

import csv
import gzip
import io
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from conftest import Recipe
from dialogsum_sft.generation import openai_engine
from fake_endpoint import Server, answer

import pytest

CHAT = "Mila: The boat leaves at six.\nOren: Then I set the alarm for fivé.\n"
LAST = "So: Oren: Then I set the alarm for fivé."
TEAMS = (
    "Mila Sand   0:03\nThe boat leaves at six.\n\nOren Fisk   0:09\nThen I set the alarm for five.\n\n"
    "Mila Sand   0:14\nGood.\n"
)
ZOOM = "10:01:02 From Mila Sand to Everyone:\n\tThe boat leaves at six.\n10:01:30 From Oren to Everyone:\n\tGood.\n"
SRT = (
    "1\n00:00:01,000 --> 00:00:03,000\nMila: The boat leaves at six.\n\n"
    "2\n00:00:04,000 --> 00:00:05,000\nOren: Good.\n"
)
WHATSAPP = "12/03/24, 10:15 - Mila: The boat leaves at six.\n12/03/24, 10:17 - Oren: Good.\n"
CUT = "Compressed file ended before the end-of-stream marker was reached"


Summarize = Callable[..., tuple[int, str, list[str]]]


@pytest.fixture
def summarize(
    recipe: Recipe, server: Server, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Summarize:
    """Status, standard output and the lines of errors."""

    def call(*args: Any, stdin: bytes = b"") -> tuple[int, str, list[str]]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        endpoint = ["--engine=openai", f"--base_url={server.url}", "--served_model_name=m"]
        status = 0
        try:
            recipe("summarize", *args, *endpoint)
        except SystemExit as end:
            status = int(end.code or 0)
        captured = capsys.readouterr()
        return status, captured.out, [line for line in captured.err.splitlines() if line.startswith("error: ")]

    return call


@pytest.mark.parametrize(
    "content",
    [
        CHAT.encode(),
        CHAT.replace("\n", "\r\n").encode(),
        b"\xef\xbb\xbf" + CHAT.encode(),
        *(CHAT.encode(encoding) for encoding in ("utf-16", "utf-32")),
        gzip.compress(CHAT.encode()),
    ],
    ids=["utf-8", "crlf", "bom", "utf-16", "utf-32", "gz"],
)
def test_texts_are_read_in_these_encodings(
    summarize: Summarize, server: Server, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "chat.txt").write_bytes(content)
    assert summarize(tmp_path / "chat.txt") == (0, f"{LAST}\n", [])
    assert server.contents[0].endswith(CHAT.strip())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the text is empty"),
        (b"%PDF-1.7\n%\xe2", "this is a PDF: save its text as .txt"),
        (b"\x89PNG\r\n\x1a\n", "this is an image, not text"),
        (b"PK\x03\x04\x14\0", "this is a zip, Word or Excel file: save it as .txt, or a table as .csv"),
        (b"OggS\0\2", "this is a recording, not text: transcribe it first"),
        (b"{\\rtf1", "this is an RTF document: save it as .txt"),
        (b"a\0b\0", "this is no text, but a binary file (or UTF-16 without a mark: save it as UTF-8)"),
        (CHAT.encode("latin-1"), "this is no UTF-8 text (byte 64): save it as UTF-8"),
        (b"\x1f\x8b\x08\0", f"FILE is a damaged gz file: {CUT}"),
    ],
)
@pytest.mark.parametrize("name", ["bad.txt", "bad"])
def test_what_is_no_text_is_named_and_others_are_summarised(
    summarize: Summarize, tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    bad, good = tmp_path / name, tmp_path / "good.txt"
    bad.write_bytes(content)
    good.write_text(CHAT, encoding="utf-8")
    expected = message.replace("FILE", str(bad)) if "FILE" in message else f"{bad}: {message}"
    status, out, (line,) = summarize(bad, good)
    assert (status, out) == (2, f"{LAST}\n")
    assert line == f"error: {expected}"


def test_a_table_that_is_an_excel_file_is_named(summarize: Summarize, tmp_path: Path) -> None:
    (tmp_path / "calls.csv").write_bytes(b"PK\x03\x04\x14\0")
    status, out, (line,) = summarize(tmp_path / "calls.csv")
    assert (status, out) == (2, "")
    assert line.endswith("calls.csv: this is a zip, Word or Excel file: save it as .txt, or a table as .csv")


def test_links_folders_and_devices(summarize: Summarize, tmp_path: Path) -> None:
    (tmp_path / "gone.txt").symlink_to("nowhere")
    (tmp_path / "folder.txt").mkdir()
    (tmp_path / "folder.txt" / "a.txt").write_text(CHAT, encoding="utf-8")
    os.mkfifo(tmp_path / "pipe.txt")  # nobody writes to it: it would be waited for
    gone = f"error: {tmp_path}/gone.txt is a link to nowhere, which does not exist"
    assert summarize(tmp_path / "gone.txt", tmp_path / "folder.txt") == (2, "", [gone])
    assert summarize(tmp_path) == (
        2,
        f"{LAST}\n",
        [f"error: cannot read {tmp_path}/gone.txt: No such file or directory"],
    )
    assert summarize("/proc/self/mem")[2] == ["error: cannot read /proc/self/mem: Input/output error"]


def test_two_files_of_one_name_are_told_apart(summarize: Summarize, tmp_path: Path) -> None:
    names = [tmp_path / folder / "chat.txt" for folder in ("a", "b")]
    for number, name in enumerate(names):
        name.parent.mkdir()
        name.write_text(f"Ann: {number}?\nBen: {number}!")
    rows = [json.loads(line) for line in summarize(*names, "--output_format=jsonl")[1].splitlines()]
    assert [(row["file"], row["summary"]) for row in rows] == [
        (str(names[0]), "So: Ben: 0!"),
        (str(names[1]), "So: Ben: 1!"),
    ]


def test_the_output_is_no_input(summarize: Summarize, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(CHAT, encoding="utf-8")
    output = tmp_path / "out.txt"
    for names in ([tmp_path], [f"{tmp_path}/*.txt"], [tmp_path]):
        assert summarize(*names, "--output_file", output)[0] == 0
        assert output.read_text(encoding="utf-8") == f"{LAST}\n"
    (tmp_path / "link.txt").symlink_to("out.txt")
    assert "is an input too" in summarize(tmp_path / "link.txt", "--output_file", output)[2][0]
    (tmp_path / "link.txt").unlink()
    (tmp_path / "other").symlink_to("out.txt")  # what a link leads to is written, and the link stays
    assert summarize(tmp_path / "a.txt", "--output_file", tmp_path / "other", "--output_format=jsonl")[0] == 0
    assert (tmp_path / "other").is_symlink()
    assert json.loads(output.read_text(encoding="utf-8"))["summary"] == LAST


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("FOLDER", "--output_file FOLDER is a folder: name a file in it"),
        ("FOLDER/chat.txt/x.jsonl", "cannot write --output_file FOLDER/chat.txt/x.jsonl: Not a directory"),
        ("/proc/x.jsonl", "cannot write --output_file /proc/x.jsonl: No such file or directory"),
        (f"FOLDER/{'x' * 250}.jsonl", f"cannot write --output_file FOLDER/{'x' * 250}.jsonl: File name too long"),
    ],
)
def test_a_place_that_cannot_be_written_is_named_before_a_summary_is_made(
    summarize: Summarize, server: Server, tmp_path: Path, output: str, message: str
) -> None:
    (tmp_path / "chat.txt").write_text(CHAT, encoding="utf-8")
    args = (tmp_path / "chat.txt", "--output_format=jsonl", "--output_file", output.replace("FOLDER", str(tmp_path)))
    assert summarize(*args) == (2, "", [f"error: {message.replace('FOLDER', str(tmp_path))}"])
    assert not server.contents


@pytest.mark.parametrize(
    ("status", "record", "message"),
    [
        (401, {"error": {"message": "no such key"}}, "HTTP 401: no such key"),
        (429, {"error": {"message": "slow down"}}, "HTTP 429: slow down"),
        (500, {"error": {"message": "oh"}}, "HTTP 500: oh"),
        (200, "", "the answer is no chat completion"),
        (None, None, ""),
    ],
)
def test_an_endpoint_without_answers_is_one_line(
    summarize: Summarize,
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    status: int | None,
    record: Any,
    message: str,
) -> None:
    """Nothing is kept without a file, and nothing says so."""
    client = openai_engine.Client
    monkeypatch.setattr(openai_engine, "Client", lambda *args: client(*args[:4], 2, 0.01))
    server.script = lambda content, number: "close" if status is None else (status, record, {})
    output = tmp_path / "out.txt"
    for args in ((), ("--output_file", output)):
        code, out, (line,) = summarize(*args, stdin=CHAT.encode())
        assert (code, out, output.exists()) == (2, "", False)
        assert message in line
        assert args or "are kept" not in line


@pytest.mark.parametrize(("name", "text"), [("a.txt", TEAMS), ("b.txt", ZOOM), ("c.srt", SRT), ("d.txt", WHATSAPP)])
def test_transcripts_and_exports(summarize: Summarize, server: Server, tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    status, _, errors = summarize(tmp_path / name)
    assert (status, errors) == (0, [])
    (content,) = server.contents
    assert "The boat leaves at six." in content
    assert "-->" not in content


def test_a_csv_is_safe_for_spreadsheets(summarize: Summarize, server: Server, tmp_path: Path) -> None:
    texts = ['=HYPERLINK("x")', "- a list\n- of two", "Größe 木\r\rx", "-5", "@home"]
    server.script = lambda content, number: (200, answer(texts[int(content[-1])]), {})
    rows = [{"id": n, "phone": "+49 171 5", "dialogue": f'Ann: "{n}", she said;\nBen: {n}'} for n in range(5)]
    table, output = tmp_path / "t.jsonl", tmp_path / "out.csv"
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert summarize(table, "--output_file", output) == (0, "", [])
    assert output.read_bytes().startswith(b"\xef\xbb\xbfid,phone,dialogue,summary,")
    with output.open(encoding="utf-8-sig", newline="") as file:
        made = list(csv.DictReader(file, strict=True))
    assert [row["summary"] for row in made] == [f"'{texts[0]}", f"'{texts[1]}", texts[2], "-5", "'@home"]
    assert [(row["phone"], row["dialogue"]) for row in made] == [(row["phone"], row["dialogue"]) for row in rows]


def test_half_an_emoji_of_the_input_is_written(summarize: Summarize, tmp_path: Path) -> None:
    row = json.dumps({"note": "\ud83d", "dialogue": CHAT})
    (made,) = summarize("--output_format=jsonl", stdin=row.encode())[1].splitlines()
    assert json.loads(made)["note"] == "\ud83d"


def test_fields_of_later_rows_are_in_a_csv(summarize: Summarize, server: Server, tmp_path: Path) -> None:
    own = server.script
    refusal = 400, {"error": {"message": "against the policy"}}, {}
    server.script = lambda content, number: refusal if "alarm" in content else own(content, number)
    (tmp_path / "a.txt").write_text("Ann: Hi.\nBen: Ho.")
    (tmp_path / "b.txt").write_text(CHAT, encoding="utf-8")
    status, out, (line,) = summarize(tmp_path, "--output_format=csv")
    assert status == 2
    first, second = csv.DictReader(io.StringIO(out))
    assert (first["fault"], second["summary"]) == ("", "")
    assert "against the policy" in second["fault"]
    assert "b.txt: no summary" in line


def test_the_journal_is_whole_when_the_folder_is_moved(summarize: Summarize, server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(CHAT, encoding="utf-8")
    (tmp_path / "one").mkdir()
    assert summarize(tmp_path / "a.txt", "--output_file", tmp_path / "one" / "out.txt")[0] == 0
    shutil.move(tmp_path / "one", tmp_path / "two")
    assert summarize(tmp_path / "a.txt", "--output_file", tmp_path / "two" / "out.txt")[0] == 0
    assert len(server.contents) == 1
