"""recipes/summarize.py when it is killed, interrupted, or cannot write: what is kept, said and made again."""

import json
import os
import random
import resource
import signal
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from fake_endpoint import Server
from forked_recipe import Forked, start

import pytest

NUMBER = 200


def endpoint(server: Server) -> list[str]:
    return ["--engine=openai", f"--base_url={server.url}", "--served_model_name=m"]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "many.jsonl"
    rows = [{"id": number, "dialogue": f"Ann: {number}?\nBen: Number {number}."} for number in range(NUMBER)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def journal_of(output: Path) -> list[dict[str, Any]]:
    lines = (output.parent / f".{output.name}.journal" / "predictions.partial.jsonl").read_bytes().splitlines(True)
    return [json.loads(line) for line in lines[1:] if line.endswith(b"\n")]


def is_complete(output: Path) -> None:
    """200 summaries in order, none made twice."""
    made = [json.loads(line) for line in output.open(encoding="utf-8")]
    assert [row["id"] for row in made] == list(range(NUMBER))
    lines = journal_of(output)
    assert len({line["id"] for line in lines}) == len(lines) == NUMBER


def test_200_dialogues_killed_six_times(server: Server, table: Path, tmp_path: Path) -> None:
    """With an endpoint, each time in the middle of some request."""
    output, moments = tmp_path / "summaries.jsonl", random.Random(0)
    own, running, kills = server.script, [], [0, 3, 40, 41, 120, 190]

    def killing(content: str, number: int) -> Any:
        with server.lock:
            if len(set(server.contents)) > dict(enumerate(kills, 1)).get(len(running), NUMBER):
                time.sleep(moments.uniform(0, 0.01))
                running[-1].send(signal.SIGKILL)
        return own(content, number)

    server.script = killing
    statuses = []
    while not statuses or statuses[-1]:
        with server.lock:
            running.append(start(tmp_path, "summarize", [table, "--output_file", output, *endpoint(server)]))
        statuses.append(running[-1].wait())
        assert output.exists() == (statuses[-1] == 0)
    assert statuses == [-9] * 6 + [0]
    is_complete(output)
    assert [json.loads(line)["summary"] for line in output.open()] == [f"So: Ben: Number {n}." for n in range(NUMBER)]
    asked = Counter(server.contents)
    assert sum(asked.values()) - NUMBER <= 6 * 8  # those that were under way


def test_200_dialogues_killed_while_a_model_generates(table: Path, tiny_folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "summaries.jsonl"
    args = [table, "--output_file", output, "--model_name_or_path", tiny_folder, "--max_new_tokens=4"]
    args.append("--max_batch_tokens=400")
    for least in (1, 60, 130):
        running = start(tmp_path, "summarize", args)
        until = time.monotonic() + 60
        while not (output.parent / f".{output.name}.journal").exists() or len(_journal(output)) < least:
            assert time.monotonic() < until
            time.sleep(0.001)
        running.send(signal.SIGKILL)
        assert running.wait() == -9
        assert not output.exists()
    assert start(tmp_path, "summarize", args).wait() == 0
    is_complete(output)


def _journal(output: Path) -> list[dict[str, Any]]:
    try:
        return journal_of(output)
    except FileNotFoundError:
        return []


def interrupted(server: Server, folder: Path, number: signal.Signals, *args: Any) -> Forked:
    """A run that gets a signal when half of the dialogues are summarised; the others hang."""
    own = server.script
    server.script = lambda content, _: own(content, _) if len(set(server.contents)) < NUMBER // 2 else "hang"
    running = start(folder, "summarize", [*args, *endpoint(server)])
    while len(set(server.contents)) < NUMBER // 2:
        time.sleep(0.01)
    running.send(number)
    server.script = own
    return running


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_a_signal_ends_it_with_a_line(
    server: Server, table: Path, tmp_path: Path, number: signal.Signals, status: int
) -> None:
    output = tmp_path / "summaries.jsonl"
    running = interrupted(server, tmp_path, number, table, "--output_file", output)
    assert running.wait() == status
    assert running.lines() == ["interrupted: the summaries so far are kept, the same command goes on"]
    assert not list(tmp_path.glob("*summaries.jsonl*"))[1:]  # the journal alone
    assert start(tmp_path, "summarize", [table, "--output_file", output, *endpoint(server)]).wait() == 0
    is_complete(output)


def test_ctrl_c_without_a_file_leaves_whole_lines(server: Server, table: Path, tmp_path: Path) -> None:
    running = interrupted(server, tmp_path, signal.SIGINT, table)
    assert running.wait() == 130
    assert running.lines() == ["interrupted"]
    made = (tmp_path / "out").read_text().split("\n")
    assert made.pop() == ""
    assert made == [f"So: Ben: Number {number}." for number in range(len(made))]


def test_each_summary_is_written_as_soon_as_it_is_made(server: Server, table: Path, tmp_path: Path) -> None:
    own, passed = server.script, threading.Event()

    def waiting(content: str, number: int) -> Any:
        if "Number 20." in content:
            assert passed.wait(20)
        return own(content, number)

    server.script = waiting
    running = start(tmp_path, "summarize", [table, *endpoint(server)])
    until = time.monotonic() + 20
    while (tmp_path / "out").read_text() != "".join(f"So: Ben: Number {number}.\n" for number in range(20)):
        assert time.monotonic() < until
        time.sleep(0.01)
    passed.set()
    assert running.wait() == 0


def test_a_closed_pipe_ends_it_quietly(server: Server, table: Path, tmp_path: Path) -> None:
    """As of `| head -1`: the reader ends after the first line."""
    own, reading, writing = server.script, *os.pipe()
    closed = threading.Event()

    def waiting(content: str, number: int) -> Any:
        if "Number 0." not in content:
            assert closed.wait(20)
        return own(content, number)

    server.script = waiting
    running = start(tmp_path, "summarize", [table, *endpoint(server)], out=writing)
    with open(reading, encoding="utf-8") as reader:
        assert reader.readline() == "So: Ben: Number 0.\n"
    closed.set()
    assert running.wait() == 141
    assert running.lines() == []


@pytest.mark.parametrize("as_file", [True, False])
def test_a_full_disk_is_a_line(server: Server, table: Path, tmp_path: Path, as_file: bool) -> None:
    file = ["--output_file=/dev/full", "--output_format=jsonl"] if as_file else []
    out = None if as_file else "/dev/full"
    running = start(tmp_path, "summarize", [table, *file, *endpoint(server)], out=out)
    assert running.wait() == 1
    assert running.lines() == ["error: [Errno 28] No space left on device: make room and start again"]


def test_a_file_that_may_not_grow_is_a_line(server: Server, table: Path, tmp_path: Path) -> None:
    """The journal's limit is reached; with room it goes on."""
    output = tmp_path / "summaries.jsonl"
    args = [table, "--output_file", output, *endpoint(server)]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6000, limits[1]))
    try:
        running = start(tmp_path, "summarize", args)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert running.wait() == 1
    assert running.lines() == ["error: [Errno 27] File too large: make room and start again"]
    assert not output.exists()
    assert start(tmp_path, "summarize", args).wait() == 0
    is_complete(output)


def test_two_at_once_are_refused(server: Server, table: Path, tmp_path: Path) -> None:
    output, passed = tmp_path / "summaries.jsonl", threading.Event()
    own = server.script
    server.script = lambda content, number: own(content, number) if passed.wait(20) else None
    args = [table, "--output_file", output, *endpoint(server)]
    first = start(tmp_path, "summarize", args)
    while not server.contents:
        time.sleep(0.01)
    (tmp_path / "second").mkdir()
    second = start(tmp_path / "second", "summarize", args)
    assert second.wait() == 2
    assert "another process makes these summaries" in second.lines()[0]
    passed.set()
    assert first.wait() == 0
    is_complete(output)
