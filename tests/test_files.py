import contextlib
import json
import os
import resource
import shutil
from pathlib import Path

from dialogsum_sft import files

import pytest


@contextlib.contextmanager
def full_disk():
    """Files cannot grow beyond 4 KiB, as on a disk that is full: a longer write fails halfway.

    Not a fixture: pytest itself writes while one is in force, and its output may be a file.
    """
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_text_is_written_into_a_new_folder(tmp_path):
    path = tmp_path / "a" / "b" / "text.txt"
    files.write_text(path, "Grüße, 中文\n")
    assert path.read_bytes() == "Grüße, 中文\n".encode()
    assert os.listdir(path.parent) == ["text.txt"]


def test_text_replaces_the_old_file(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("a longer old text")
    files.write_text(path, "new")
    assert path.read_text() == "new"


@pytest.mark.parametrize(
    ("write", "content"),
    [
        (files.write_text, "x" * 100_000),
        (files.write_json, {"key": "x" * 100_000}),
        (files.write_jsonl, [{"key": "x" * 1000}] * 100),
    ],
)
def test_a_failed_write_keeps_the_old_file(tmp_path, write, content):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(OSError, match="File too large"), full_disk():
        write(path, content)
    assert path.read_text() == "old"


def test_a_failed_write_leaves_no_new_file(tmp_path):
    path = tmp_path / "file"
    with pytest.raises(OSError, match="File too large"), full_disk():
        files.write_text(path, "x" * 100_000)
    assert not path.exists()


def test_a_row_that_is_not_json_keeps_the_old_file(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("old")
    with pytest.raises(TypeError):
        files.write_jsonl(path, [{"a": 1}, {"a": object()}])
    assert path.read_text() == "old"


def test_json_keeps_characters_and_order(tmp_path):
    path = tmp_path / "record.json"
    files.write_json(path, {"b": "Zoë 中", "a": [1, 2.5, None, True], "path": Path("runs/x")})
    assert "Zoë 中" in path.read_text(encoding="utf-8")
    assert list(json.loads(path.read_bytes()).items()) == [
        ("b", "Zoë 中"),
        ("a", [1, 2.5, None, True]),
        ("path", "runs/x"),
    ]


def test_jsonl_has_one_line_a_row_for_any_line_separator(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [{"text": "one\u2028two\u2029three\x85four\nfive\r\nsix"}, {"text": "Zoë 中"}]
    files.write_jsonl(path, rows)
    assert path.read_bytes().count(b"\n") == 2
    with path.open(encoding="utf-8") as file:
        assert [json.loads(line) for line in file] == rows
    assert "Zoë 中" in path.read_text(encoding="utf-8")


def make_folder(path, name):
    path.mkdir()
    (path / name).write_text(name)
    return path


def test_a_folder_is_moved(tmp_path):
    partial, final = make_folder(tmp_path / ".adapter.partial", "new"), tmp_path / "adapter"
    files.replace_folder(partial, final)
    assert os.listdir(tmp_path) == ["adapter"]
    assert os.listdir(final) == ["new"]


def test_a_folder_replaces_the_old_one(tmp_path):
    partial, final = make_folder(tmp_path / ".adapter.partial", "new"), make_folder(tmp_path / "adapter", "old")
    files.replace_folder(partial, final)
    assert os.listdir(tmp_path) == ["adapter"]
    assert os.listdir(final) == ["new"]


def test_a_folder_replaces_leftovers_of_an_interrupted_replacement(tmp_path):
    partial, final = make_folder(tmp_path / ".adapter.partial", "new"), make_folder(tmp_path / "adapter", "old")
    make_folder(tmp_path / ".adapter.old", "older")
    files.replace_folder(partial, final)
    assert os.listdir(tmp_path) == ["adapter"]
    assert os.listdir(final) == ["new"]


def test_a_missing_new_folder_keeps_the_old_one(tmp_path):
    final = make_folder(tmp_path / "adapter", "old")
    with pytest.raises(FileNotFoundError):
        files.replace_folder(tmp_path / "nothing", final)
    assert [path.name for path in tmp_path.rglob("old")] == ["old"]


@pytest.mark.parametrize(
    ("value", "seen"),
    [
        ("/home/ana/runs/one", "one"),
        ("~/runs/one", "one"),
        (Path("/data/rows.jsonl"), "rows.jsonl"),
        ("runs/one", "runs/one"),
        ("Qwen/Qwen3-8B", "Qwen/Qwen3-8B"),
        (["/data/a.csv", 3, None], ["a.csv", 3, None]),
        (
            {"model_init_kwargs": {"cache_dir": "/home/ana", "token": "hf_x"}},
            {"model_init_kwargs": {"cache_dir": "ana", "token": "<TOKEN>"}},
        ),
        (
            {"hub_token": "hf_x", "push_token": None, "eos_token": "</s>"},
            {"hub_token": "<HUB_TOKEN>", "push_token": None, "eos_token": "</s>"},
        ),
        (
            {"instruction": "/no_think Sum up", "system_prompt": "/a/b"},
            {"instruction": "/no_think Sum up", "system_prompt": "/a/b"},
        ),
    ],
)
def test_public_cuts_paths_and_tokens(value: object, seen: object) -> None:
    assert files.public(value) == seen


def test_free_space_of_a_folder_that_does_not_exist_yet(tmp_path):
    assert files.free_space(tmp_path / "a" / "b") == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.1)


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o007, 0o660)])
def test_a_folder_that_takes_its_name_has_files_of_the_usual_mode(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        (tmp_path / ".a.partial" / "inner").mkdir(parents=True)
        for name in ("model.safetensors", "inner/b"):
            os.close(os.open(tmp_path / ".a.partial" / name, os.O_CREAT, 0o600))
        files.replace_folder(tmp_path / ".a.partial", tmp_path / "a")
    finally:
        os.umask(before)
    assert {(tmp_path / "a" / name).stat().st_mode & 0o777 for name in ("model.safetensors", "inner/b")} == {mode}
