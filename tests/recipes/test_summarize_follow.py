"""summarize --follow: files are summarised as they appear, once, also after a restart."""

import csv
import json
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from conftest import Recipe, fails
from dialogsum_sft.data.file_kinds import KINDS
from fake_endpoint import Server
from forked_recipe import Forked, start

import pytest

CHAT = "Mila: The boat leaves at {}.\nOren: Then I set the alarm for {}.\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "calls"
    path.mkdir()
    return path


@pytest.fixture
def follow(server: Server, folder: Path, tmp_path: Path) -> Iterator[Callable[..., Forked]]:
    running: list[Forked] = []

    def call(*args: Any, settle: float = 0.2) -> Forked:
        flags = ["--follow", folder, f"--settle_seconds={settle}", "--engine=openai", f"--base_url={server.url}"]
        running.append(start(tmp_path, "summarize", [*flags, "--served_model_name=m", *args]))
        return running[-1]

    yield call
    for one in running:
        one.kill()


def until(is_so: Callable[[], Any]) -> None:
    end = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.01)


def chat(path: Path, when: object) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(CHAT.format(when, when), encoding="utf-8")
    return path


def summary(path: Path) -> Path:
    return path.with_name(f"{path.name}.summary.txt")


def test_files_that_are_there_and_that_appear(follow: Any, folder: Path, server: Server) -> None:
    early = chat(folder / "a.txt", "six")
    for name in (".hidden.txt", "b.txt.part", "~$c.txt", "d.txt~", "e.tmp.txt", ".git/g.txt"):
        chat(folder / name, "no")
    (folder / "empty.txt").touch()
    (folder / "nothing.txt").symlink_to("no-such-file")
    running = follow()
    until(summary(early).exists)
    late = chat(folder / "inner" / "b.vtt", "nine")
    until(lambda: "b.vtt: 1 of 1" in running.err.read_text())
    running.send(signal.SIGTERM)
    assert running.wait() == 0
    assert summary(early).read_text() == "So: Oren: Then I set the alarm for six.\n"
    assert len(server.contents) == 2
    assert (folder.parent / "out").read_text() == ""
    assert running.lines() == [
        f"following {folder}: Ctrl-C ends it",
        f"{early}: 1 of 1 summaries in {summary(early)}",
        f"{late}: 1 of 1 summaries in {summary(late)}",
        "stopped: 2 files were summarised; started again, it goes on",
    ]
    assert {path.name for path in folder.rglob("*.summary*")} == {"a.txt.summary.txt", "b.vtt.summary.txt"}


def test_each_file_that_is_not_used_is_named_once_with_the_reason(follow: Any, folder: Path, server: Server) -> None:
    contents = {"a.png": b"\x89PNG\r\n", "b.pdf": b"%PDF-1.7", "c.docx": b"PK\x03\x04", "d.mov": b"moov"}
    for name, content in (contents | {"e.txt": b"%PDF-1.4"}).items():
        (folder / name).write_bytes(content)
    running = follow()
    until(lambda: running.err.read_text().count("\n") == 6)
    chat(folder / "f.txt", "six")
    until(lambda: "f.txt: 1 of 1" in running.err.read_text())
    with (folder / "d.mov").open("ab") as file:  # it is not named again
        file.write(b"more")
    chat(folder / "g.txt", "seven")
    until(lambda: "g.txt: 1 of 1" in running.err.read_text())
    running.send(signal.SIGTERM)
    assert running.wait() == 0
    lines = running.lines()
    assert sorted(lines[1:6]) == [
        f"{folder}/a.png: not used: this is an image, not text",
        f"{folder}/b.pdf: not used: this is a PDF: save its text as .txt",
        f"{folder}/c.docx: not used: this is a zip, Word or Excel file: save it as .txt, or a table as .csv",
        f"{folder}/d.mov: not used: its name has none of the endings {KINDS}",
        f"{folder}/e.txt: this is a PDF: save its text as .txt",
    ]
    assert len(lines) == 9
    assert lines[-1] == "stopped: 2 files were summarised, 5 were not used; started again, it goes on"


def test_a_file_that_is_being_written_is_waited_for(follow: Any, folder: Path, server: Server) -> None:
    follow(settle=0.6)
    path = folder / "a.txt"
    with path.open("w", encoding="utf-8") as file:
        for number in range(10):
            file.write(f"Ann: Line {number}.\n")
            file.flush()
            time.sleep(0.15)
            assert not server.contents
    until(summary(path).exists)
    assert summary(path).read_text() == "So: Ann: Line 9.\n"
    assert len(server.contents) == 1


def test_a_restart_makes_nothing_twice(follow: Any, folder: Path, server: Server, tmp_path: Path) -> None:
    """Ended by Ctrl-C, then by kill -9 at any moment."""
    output = tmp_path / "all.jsonl"
    running = follow("--output_file", output, settle=0.05)
    for number in range(3):
        chat(folder / f"{number}.txt", number)
    until(lambda: output.exists() and output.read_text().count("\n") == 3)
    running.send(signal.SIGINT)
    assert running.wait() == 130
    for number in range(3, 40):
        chat(folder / f"{number}.txt", number)
    for least in (5, 10, 30):
        running = follow("--output_file", output, settle=0.05)
        until(lambda: output.read_text().count("\n") >= least)  # noqa: B023
        running.send(signal.SIGKILL)
        assert running.wait() == -9
    chat(folder / "1.txt", "new")  # a file that changes is summarised again
    follow("--output_file", output, settle=0.05)
    until(lambda: output.read_text().count("\n") == 41)
    rows = [json.loads(line) for line in output.open(encoding="utf-8")]
    assert len({(row["file"], row["summary"]) for row in rows}) == 41
    assert rows[-1]["summary"] == "So: Oren: Then I set the alarm for new." or rows[-1]["file"] != "1.txt"
    assert {row["file"] for row in rows} == {str(folder / f"{number}.txt") for number in range(40)}


def test_what_a_kill_left_half_written_is_cut_off(follow: Any, folder: Path, server: Server, tmp_path: Path) -> None:
    output = tmp_path / "all.jsonl"
    chat(folder / "a.txt", "six")
    running = follow("--output_file", output)
    until(lambda: output.exists() and output.read_text().endswith("\n"))
    running.send(signal.SIGKILL)
    running.wait()
    whole = output.read_bytes()
    output.write_bytes(whole[:-20])
    follow("--output_file", output)
    until(lambda: output.read_bytes() == whole)


def test_a_csv_has_one_header(follow: Any, folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "all.csv"
    chat(folder / "a.txt", "six")
    running = follow("--output_file", output)
    until(lambda: output.exists() and output.read_text().endswith("\n"))
    (folder / "t.csv").write_text("ticket,transcript\n1,Ann: Hi. Ben: Hello.\n")
    chat(folder / "ü.txt", "=1+1")
    until(lambda: output.read_text().count("alarm") == 2)
    until(lambda: "the CSV has no column" in running.err.read_text())
    rows = list(csv.DictReader(output.open(encoding="utf-8-sig", newline="")))
    assert [row["file"] for row in rows] == [str(folder / "a.txt"), str(folder / "ü.txt")]


def test_bad_files_are_named_once_and_others_go_on(follow: Any, folder: Path, server: Server) -> None:
    own = server.script
    refusal = 400, {"error": {"message": "against the policy"}}, {}
    server.script = lambda content, number: refusal if "poison" in content else own(content, number)
    running = follow()
    (folder / "a.txt").write_bytes(b"%PDF-1.7\n")
    good = chat(folder / "b.txt", "six")
    until(summary(good).exists)
    bad = chat(folder / "c.txt", "poison")
    until(lambda: "against the policy" in running.err.read_text())
    last = chat(folder / "d.txt", "ten")
    until(summary(last).exists)
    lines = running.lines()
    assert lines.count(f"{folder / 'a.txt'}: this is a PDF: save its text as .txt") == 1
    assert sum("against the policy" in line for line in lines) == 1
    assert not summary(bad).exists()


def test_an_endpoint_that_refuses_the_key_ends_it(follow: Any, folder: Path, server: Server) -> None:
    server.script = lambda content, number: (401, {"error": {"message": "no such key"}}, {})
    running = follow()
    chat(folder / "a.txt", "six")
    assert running.wait() == 2
    assert "401" in running.lines()[-1]
    assert not summary(folder / "a.txt").exists()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--follow=nowhere",), "--follow nowhere: there is no such folder"),
        (("--follow=.", "a.txt"), "give files, --dataset_name or --follow, one of them"),
        (("--follow=.", "--output_file=/dev/null", "--output_format=jsonl"), "with --follow give a file"),
        (("--follow=.", "--settle_seconds=-1"), "--settle_seconds -1.0: give 0 or more"),
    ],
)
def test_options_that_cannot_work(recipe: Recipe, capsys: Any, args: tuple[str, ...], message: str) -> None:
    endpoint = ("--engine=openai", "--base_url=http://localhost:1/v1", "--served_model_name=m")
    assert message in fails(recipe, capsys, "summarize", *args, *endpoint)
