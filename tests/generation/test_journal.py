"""An interrupted evaluation keeps its completions; those of another evaluation are set aside."""

import json
from pathlib import Path

from dialogsum_sft.generation.engine import Completion
from dialogsum_sft.generation.journal import Journal

import pytest

IDS = ["a", "b", "c"]
SETTINGS = {"model": "tiny", "generation": {"max_new_tokens": 8}}


def completion(text: str) -> Completion:
    return Completion(text, 10, 3, "stop")


def write(folder: Path, texts: dict[int, str], settings: dict[str, object] = SETTINGS, **kwargs: int) -> None:
    with Journal(folder, settings, IDS, **kwargs) as partial:
        for i, text in texts.items():
            partial.append([(i, completion(text))])


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.open(encoding="utf-8")]


def test_appended_completions_are_read_back(tmp_path: Path) -> None:
    write(tmp_path, {2: "C\u2028ç", 0: "A"})
    again = Journal(tmp_path, SETTINGS, IDS)
    assert again.done == {0: completion("A"), 2: completion("C\u2028ç")}
    assert again.notes == []


def test_a_resumed_run_appends_to_the_same_file(tmp_path: Path) -> None:
    write(tmp_path, {0: "A"})
    write(tmp_path, {1: "B"})
    first, *others = lines(tmp_path / "predictions.partial.jsonl")
    assert list(first) == ["format", "settings"]
    assert [(line["id"], line["candidate"], line["text"]) for line in others] == [("a", 0, "A"), ("b", 0, "B")]


def test_completions_are_matched_by_id_and_not_by_order(tmp_path: Path) -> None:
    write(tmp_path, {0: "A", 2: "C"})
    assert Journal(tmp_path, SETTINGS, ["c", "x", "a"]).done == {0: completion("C"), 2: completion("A")}


@pytest.mark.parametrize("cut", [1, 20])
def test_a_truncated_line_is_dropped_and_written_again(tmp_path: Path, cut: int) -> None:
    write(tmp_path, {0: "A", 1: "B"})
    path = tmp_path / "predictions.partial.jsonl"
    path.write_bytes(path.read_bytes()[:-cut])
    assert Journal(tmp_path, SETTINGS, IDS).done == {0: completion("A")}
    write(tmp_path, {1: "B again"})
    assert [line["text"] for line in lines(path)[1:]] == ["A", "B again"]


def test_a_truncated_header_starts_a_new_journal(tmp_path: Path) -> None:
    (tmp_path / "predictions.partial.jsonl").write_text('{"format": 1, "sett')
    write(tmp_path, {0: "A"})
    assert len(lines(tmp_path / "predictions.partial.jsonl")) == 2


def test_the_journal_of_another_evaluation_is_set_aside_with_a_note(tmp_path: Path) -> None:
    write(tmp_path, {0: "A"}, {"model": "other", "generation": {"max_new_tokens": 9}})
    partial = Journal(tmp_path, SETTINGS, IDS)
    assert partial.done == {}
    (note,) = partial.notes
    assert "with other settings (other generation, model); set aside as predictions.partial.jsonl.old" in note
    with partial:
        partial.append([(1, completion("B"))])
    assert [line["text"] for line in lines(tmp_path / "predictions.partial.jsonl")[1:]] == ["B"]
    assert [line["text"] for line in lines(tmp_path / "predictions.partial.jsonl.old")[1:]] == ["A"]


def test_a_journal_that_is_set_aside_names_the_options_that_differ(tmp_path: Path) -> None:
    with Journal(tmp_path, {"model": "other"}, IDS, options={"max_new_tokens": 80, "dtype": None}) as partial:
        partial.append([(0, completion("A"))])
    (note,) = Journal(tmp_path, SETTINGS, IDS, options={"max_new_tokens": 100, "dtype": "float32"}).notes
    assert "(--max_new_tokens 80 there, 100 here; --dtype not given there, float32 here); set aside as" in note


def test_what_was_set_aside_before_stays(tmp_path: Path) -> None:
    for model in ("first", "second", "third"):
        write(tmp_path, {0: model}, {"model": model})
    assert {path.name: lines(path)[1]["text"] for path in sorted(tmp_path.glob("*.jsonl*"))} == {
        "predictions.partial.jsonl": "third",
        "predictions.partial.jsonl.old": "first",
        "predictions.partial.jsonl.old2": "second",
    }


def test_each_process_writes_its_own_file_and_reads_all(tmp_path: Path) -> None:
    write(tmp_path, {0: "A"}, num_processes=2)
    write(tmp_path, {1: "B"}, process_index=1, num_processes=2)
    assert {path.name for path in tmp_path.iterdir()} == {"predictions.partial.jsonl", "predictions.partial.1.jsonl"}
    one_process = Journal(tmp_path, SETTINGS, IDS)
    assert one_process.done == {0: completion("A"), 1: completion("B")}
    Journal.remove(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_candidates_of_a_dialogue_are_distinguished(tmp_path: Path) -> None:
    write(tmp_path, {0: "A0", 5: "C1"}, candidates=2)
    assert Journal(tmp_path, SETTINGS, IDS, 2).done == {0: completion("A0"), 5: completion("C1")}
