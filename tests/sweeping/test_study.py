"""Trials in a study: each is taken once, an interrupted one again, in any number of workers."""

import json
import os
from pathlib import Path
from typing import Any

from dialogsum_sft import InputError
from dialogsum_sft.arguments import SweepArguments
from dialogsum_sft.sweeping.plan import Plan
from dialogsum_sft.sweeping.space import grid, read_space
from dialogsum_sft.sweeping.study import Claimed, SharedStudy

import psutil
import pytest

GRID = {"lora_r": [8, 16], "use_rslora": [False, True]}
RANGE = {"learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}, "lora_r": [8, 16, 32]}


def opened(
    folder: Path, search: dict[str, Any] = GRID, fixed: dict[str, Any] | None = None, **args: Any
) -> SharedStudy:
    space = read_space(search, {"lora_r", "use_rslora", "learning_rate"})
    arguments = SweepArguments(output_dir=str(folder), search=json.dumps(search), **args)
    points = grid(space, {}) if arguments.method == "grid" else []
    return SharedStudy(Plan(arguments, space, fixed or {}, points, {}, []))


def all_of(study: SharedStudy) -> list[Claimed]:
    claimed = []
    while one := study.claim():
        claimed.append(one)
    return claimed


def test_two_workers_take_each_trial_once(tmp_path: Path) -> None:
    one, two = opened(tmp_path), opened(tmp_path)
    taken = [study.claim() for study in (one, two, one, two)]
    assert [claimed.number for claimed in taken if claimed] == [1, 2, 3, 4]
    assert [claimed.values for claimed in taken if claimed] == [
        {"lora_r": r, "use_rslora": rslora} for r in (8, 16) for rslora in (False, True)
    ]
    assert one.claim() is None
    assert not two.is_over()
    for claimed in taken:
        one.tell(claimed, "done", 2.5, seconds=3.0)
        one.release(claimed)
    assert two.is_over()
    assert [(record["state"], record["score"], record["seconds"]) for record in two.records()] == [
        ("done", 2.5, 3.0)
    ] * 4


def test_a_trial_whose_worker_is_gone_is_taken_again(tmp_path: Path) -> None:
    one, two = opened(tmp_path), opened(tmp_path)
    claimed = one.claim()
    one.release(claimed)  # as the system does when a process ends
    again = two.claim()
    assert (again.number, again.is_continued, again.values) == (claimed.number, True, claimed.values)
    assert one.claim().number == 2


def test_a_trial_that_ends_between_the_list_and_its_lock_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = opened(tmp_path), opened(tmp_path)
    first = one.claim()
    listed = two._lock

    def lock(folder: Path) -> Any:
        if not first.lock.is_locked:
            return listed(folder)
        one.tell(first, "done", 1.0)
        one.release(first)
        return listed(folder)

    monkeypatch.setattr(two, "_lock", lock)
    assert two.claim().number == 2


def test_a_process_that_outlived_its_worker_keeps_its_trial(tmp_path: Path) -> None:
    study = opened(tmp_path)
    claimed = study.claim()
    study.note_process(claimed, os.getpid())
    study.release(claimed)
    assert study.claim().number == 2
    assert psutil.pid_exists(os.getpid())
    (claimed.folder / "process.json").write_text('{"pid": 1, "created": 1.0}')  # the id belongs to another by now
    assert study.claim().number == 1


def test_another_sweep_in_the_folder_is_refused_and_more_trials_are_not(tmp_path: Path) -> None:
    first = opened(tmp_path, RANGE, method="random", trials=3)
    points = [claimed.values for claimed in all_of(first)]
    others = [
        ({"search": GRID}, r"--search learning_rate .* there, not given here; --search lora_r .*8, 16, 32.* there, "),
        ({"fixed": {"lora_alpha": 1}}, "--options lora_alpha not given there, 1 here"),
        ({"seed": 1}, "--seed 42 there, 1 here"),
        ({"objective": "rouge1"}, "--objective loss there, rouge1 here"),
    ]
    for other, why in others:
        with pytest.raises(InputError, match=rf"holds another sweep \({why}"):
            opened(tmp_path, **({"search": RANGE, "method": "random"} | other))
    more = opened(tmp_path, RANGE, method="random", trials=5)
    assert more.number() == 5
    values = [record["values"] for record in more.records()]
    assert values[:3] == points
    assert len(set(map(str, values))) == 5
    same = opened(tmp_path / "same", RANGE, method="random", trials=5)
    assert [record["values"] for record in same.records()] == values


def test_random_takes_no_setting_twice(tmp_path: Path) -> None:
    study = opened(tmp_path, GRID, method="random", trials=50)
    assert sorted(str(record["values"]) for record in study.records()) == sorted(
        str({"lora_r": r, "use_rslora": rslora}) for r in (8, 16) for rslora in (False, True)
    )


def test_tpe_asks_for_one_after_the_other(tmp_path: Path) -> None:
    study = opened(tmp_path, RANGE, method="tpe", trials=3)
    for number in range(1, 4):
        assert not study.is_over()
        claimed = study.claim()
        assert claimed.number == number
        study.tell(claimed, "done", claimed.values["learning_rate"])
        study.release(claimed)
    assert study.claim() is None
    assert study.is_over()


def test_failed_trials_are_begun_again_in_their_folders(tmp_path: Path) -> None:
    study = opened(tmp_path)
    for state, score in (("failed", None), ("done", 1.0), ("pruned", None), ("failed", None)):
        claimed = study.claim()
        study.tell(claimed, state, score, error="no memory")
        study.release(claimed)
    assert opened(tmp_path).is_over()
    again = opened(tmp_path, retry_failed=True)
    assert again.number() == 4
    assert [(one.number, one.folder.name) for one in all_of(again)] == [(1, "trial-001"), (4, "trial-004")]
    assert [record["state"] for record in again.records()] == ["running", "done", "pruned", "running"]
