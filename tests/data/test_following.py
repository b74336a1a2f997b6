"""Which files of a followed folder are ready, and which are done, also after a crash."""

import os
import time
from pathlib import Path

from dialogsum_sft.data.following import Done, Version, Watch, summary_path, version_of

import pytest


def file(path: Path, text: str = "Ann: Hi.", seconds: int = 0) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    os.utime(path, (seconds, seconds))
    return path


def ready(watch: Watch) -> list[str]:
    return [path.name for path, _ in watch.settled()]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Its only value is what time.monotonic returns."""
    value = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: value[0])
    return value


def test_a_file_is_ready_when_it_has_not_changed_for_some_seconds(tmp_path: Path, clock: list[float]) -> None:
    watch = Watch(tmp_path, 3.0, Done(tmp_path / ".done", tmp_path, None))
    file(tmp_path / "a.txt")
    assert ready(watch) == []
    clock[0] = 102.9
    assert ready(watch) == []
    file(tmp_path / "a.txt", "Ann: Hi. Ben")  # it grows: the time starts anew
    clock[0] = 103.0
    assert ready(watch) == []
    clock[0] = 105.9
    assert ready(watch) == []
    clock[0] = 106.0
    assert ready(watch) == ["a.txt"]


def test_the_oldest_come_first_and_partial_names_never(tmp_path: Path) -> None:
    watch = Watch(tmp_path, 0, Done(tmp_path / ".done", tmp_path, tmp_path / "all.jsonl"))
    for seconds, name in enumerate(["c.txt", "inner/b.csv.gz", "a.vtt", "z.txt.gz"]):
        file(tmp_path / name, seconds=seconds)
    for name in (".a.txt", "a.txt.part", "a.part.txt", "~$a.txt", "#a.txt#", "a.txt~", "a.crdownload", "all.jsonl"):
        file(tmp_path / name)
    file(summary_path(tmp_path / "a.vtt", ".md"))
    file(tmp_path / ".git" / "a.txt")
    file(tmp_path / "empty.txt", "")
    assert ready(watch) == ["c.txt", "b.csv.gz", "a.vtt", "z.txt.gz"]


def test_what_is_done_or_left_is_not_ready_until_it_changes(tmp_path: Path) -> None:
    done = Done(tmp_path / ".done", tmp_path, None)
    watch = Watch(tmp_path, 0, done)
    made, bad = file(tmp_path / "a.txt"), file(tmp_path / "b.txt")
    (first, version), (second, other) = watch.settled()
    assert (first, second) == (made, bad)
    done.add(made, version, "")
    watch.leave(bad, other)
    assert ready(watch) == []
    assert ready(Watch(tmp_path, 0, Done(tmp_path / ".done", tmp_path, None))) == ["b.txt"]  # another start
    file(made, "Ann: Bye.", seconds=5)
    file(bad, "Ann: Hello.")
    assert ready(watch) == ["b.txt", "a.txt"]


@pytest.mark.parametrize(
    ("left", "after", "is_done"),
    [("one\ntwo\n", "one\ntwo\n", True), ("one\ntw", "one\n", False), ("one\n", "one\n", False), ("", "", True)],
)
def test_a_piece_that_is_not_whole_is_cut_off(tmp_path: Path, left: str, after: str, is_done: bool) -> None:
    """An output that is shorter than it was at all has been taken away: nothing is made again."""
    output, version = tmp_path / "all.txt", Version(3, 5)
    done = Done(tmp_path / ".done", tmp_path, output)
    done.add(tmp_path / "a.txt", version, "one\n")
    done.add(tmp_path / "b.txt", version, "two\n")
    output.write_text(left)
    again = Done(tmp_path / ".done", tmp_path, output)
    assert output.read_text() == after
    assert (again.has(tmp_path / "a.txt", version), again.has(tmp_path / "b.txt", version)) == (True, is_done)


def test_a_line_that_a_crash_has_cut_is_left_out(tmp_path: Path) -> None:
    done = Done(tmp_path / ".done", tmp_path, None)
    done.add(tmp_path / "ü.txt", Version(3, 5), "")
    with (tmp_path / ".done").open("a") as lines:
        lines.write('{"file": "b.t')
    again = Done(tmp_path / ".done", tmp_path, None)
    again.add(tmp_path / "c.txt", Version(1, 2), "")
    last = Done(tmp_path / ".done", tmp_path, None)
    assert [last.has(tmp_path / name, Version(*at)) for name, at in (("ü.txt", (3, 5)), ("c.txt", (1, 2)))] == [
        True
    ] * 2


def test_a_file_that_is_gone_has_no_version(tmp_path: Path) -> None:
    assert version_of(tmp_path / "a.txt") is None
