"""Every kind of source gives the same rows; bad rows are in test_odd_rows.py and test_refused_files.py."""

import csv
import gzip
import json
import re
from pathlib import Path
from typing import Any

from dialogsum_sft import InputError
from dialogsum_sft.data import sources as sources_module
from dialogsum_sft.data.row_files import BadRow
from dialogsum_sft.data.sources import open_source, serves_both

import datasets
import pytest
from plain_files import ROWS, content


def read(name: Path | str, split: str = "train") -> list[Any]:
    return [row for _, row in open_source(str(name), split, None, None, False)]


def test_a_glob_is_all_files_that_match(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.jsonl"):
        (tmp_path / name).write_bytes(content("jsonl"))
    (tmp_path / "notes.txt").touch()
    assert read(f"{tmp_path}/*") == ROWS * 2


@pytest.mark.parametrize("name", ["train.csv", "my.train.csv", "train-00000-of-00001.csv"])
def test_a_folder_has_files_that_name_their_split(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(content("csv"))
    (tmp_path / "test.csv").write_bytes(b"id,dialogue,summary\n")
    assert read(tmp_path) == ROWS
    assert read(tmp_path, "test") == []


def test_shards_of_a_split_follow_each_other(tmp_path: Path) -> None:
    for number, row in enumerate(ROWS):
        (tmp_path / f"train-{number:05}-of-00003.jsonl").write_text(json.dumps(row))
    assert read(tmp_path) == ROWS


def test_a_folder_from_save_to_disk(tmp_path: Path) -> None:
    split = datasets.Dataset.from_list(ROWS)
    split.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": split}).save_to_disk(tmp_path / "many")
    assert read(tmp_path / "one") == read(tmp_path / "many") == ROWS
    with pytest.raises(InputError, match="no split 'test' in .*many: there are train"):
        read(tmp_path / "many", "test")


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train.jsonl", "train"),
        ("train_sft.jsonl", "train_sft"),
        ("x-dev-2.jsonl.gz", "dev-2"),
        ("a.dev.jsonl", "dev"),
    ],
)
def test_a_split_may_have_any_name(tmp_path: Path, name: str, split: str) -> None:
    data = content("jsonl")
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    (tmp_path / "pretrain.jsonl").touch()
    (tmp_path / "device.jsonl").touch()
    assert read(tmp_path, split) == ROWS


@pytest.mark.parametrize(
    "names", [("train.jsonl", "train.csv"), ("train_a.jsonl", "train_b.jsonl"), ("old.train.jsonl", "new.train.jsonl")]
)
def test_files_that_are_not_shards_are_not_joined(tmp_path: Path, names: tuple[str, str]) -> None:
    for name in names:
        (tmp_path / name).write_bytes(content("jsonl"))
    with pytest.raises(InputError, match=r"which is the split 'train' in .*\? Name the file by --train_file, "):
        read(tmp_path)


@pytest.mark.parametrize(
    ("split", "name"),
    [
        ("train", "train.jsonl"),
        ("validation", "valid.jsonl"),
        ("validation", "dev.jsonl"),
        ("valid", "validation.jsonl"),
        ("dev", "val-00000-of-00001.jsonl"),
        ("validation", "Validation.JSONL"),
        ("test", "test.jsonl"),
    ],
)
def test_a_file_named_by_its_split_alone_wins(tmp_path: Path, split: str, name: str) -> None:
    (tmp_path / name).write_bytes(content("jsonl"))
    for other in (f"{split}_metadata.jsonl", f"old.{split}.jsonl", "valid_metadata.csv", "notes.csv"):
        (tmp_path / other).touch()
    assert read(tmp_path, split) == ROWS


def test_other_names_of_a_saved_split(tmp_path: Path) -> None:
    datasets.DatasetDict({"dev": datasets.Dataset.from_list(ROWS)}).save_to_disk(tmp_path)
    assert read(tmp_path, "validation") == read(tmp_path, "dev") == ROWS


MANY = [{"id": str(number), "dialogue": f"Ann: {number}", "summary": "s"} for number in range(84)]
SLICES = {
    "train[:9]": range(9),
    "train[9:]": range(9, 84),
    "train[:90%]": range(76),
    "train[90%:]": range(76, 84),
    "train[-5:]": range(79, 84),
    "train[10:-10%]": range(10, 76),
    "train[80:200]": range(80, 84),
    "train[:2] + train[-2:]": [0, 1, 82, 83],
    "train[50:40]": [],
    "train[:]": range(84),
}


def sources(folder: Path) -> dict[str, str]:
    """The same rows as a file, files, a glob and saved datasets."""
    saved = datasets.Dataset.from_list(MANY)
    saved.save_to_disk(folder / "one")
    datasets.DatasetDict({"train": saved}).save_to_disk(folder / "many")
    (folder / "shards").mkdir()
    saved.to_parquet(folder / "a.parquet")
    for number, rows in enumerate((MANY[:30], MANY[30:])):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "shards" / f"train-{number}.jsonl").write_text(text)
    with (folder / "a.csv").open("w") as file:
        writer = csv.DictWriter(file, list(MANY[0]))
        writer.writeheader()
        writer.writerows(MANY)
    names = {name: str(folder / name) for name in ("one", "many", "shards", "a.parquet", "a.csv")}
    return names | {"glob": str(folder / "shards" / "*.jsonl")}


@pytest.mark.parametrize("split", SLICES)
def test_a_slice_is_the_same_of_every_source(tmp_path: Path, split: str) -> None:
    for name in sources(tmp_path).values():
        assert [int(row["id"]) for row in read(name, split)] == list(SLICES[split]), name


def test_slices_are_those_of_datasets(tmp_path: Path) -> None:
    name = sources(tmp_path)["a.parquet"]
    for split in (split for split in SLICES if "50:40" not in split and "-10%" not in split):
        ours = [row["id"] for row in read(name, split)]
        assert ours == datasets.load_dataset("parquet", data_files=name, split=split.replace(" ", ""))["id"], split


def test_sliced_rows_keep_their_places(tmp_path: Path) -> None:
    for kind, name in sources(tmp_path).items():
        (place, _), *_ = open_source(name, "train[40:]", None, None, False)
        assert place == ("train-1.jsonl:11" if kind in ("shards", "glob") else 41)


@pytest.mark.parametrize(
    "split",
    ["train[:9", "train[9]", "train[::2]", "train[:12.5%]", "train[:150%]", "train[a:b]", "[:9]"],
)
def test_a_malformed_slice_is_refused_everywhere(tmp_path: Path, split: str) -> None:
    for name in [*sources(tmp_path).values(), "org/dataset"]:
        with pytest.raises(InputError, match=rf"split {re.escape(repr(split))} is no slice: write train\[:90%\], "):
            read(name, split)


@pytest.mark.parametrize("streaming", [False, True])
def test_a_slice_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, streaming: bool) -> None:
    rows = datasets.Dataset.from_list(MANY)
    monkeypatch.setattr(sources_module, "get_dataset_split_names", lambda *_, **__: ["train", "dev"])
    given = []

    def load(name: str, config: None, *, split: str, revision: None, streaming: bool) -> Any:
        given.append(split)
        return rows.to_iterable_dataset() if streaming else rows

    monkeypatch.setattr(sources_module, "load_dataset", load)
    read_hub = [int(row["id"]) for _, row in open_source("org/d", "validation[9:20]", None, None, streaming)]
    assert read_hub == list(range(9, 20))
    assert given == ["dev"]
    if streaming:
        with pytest.raises(InputError, match="org/d does not say how many rows it has: give a slice without %"):
            open_source("org/d", "train[:90%]", None, None, streaming)


@pytest.mark.parametrize(
    ("name", "split", "other", "other_split", "expected"),
    [
        ("a.csv", "train", "a.csv", "test", True),
        ("a.csv", "train", "./a.csv", "test", True),
        ("a.csv", "train[:9]", "a.csv", "train[9:]", False),
        ("a.csv", "train[:9]", "a.csv", "test", True),
        ("a.csv", "train", "b.csv", "test", False),
        ("*.csv", "train", "*.csv", "test", True),
        (".", "train", ".", "test", False),
        (".", "valid", ".", "validation", True),
        ("org/d", "train", "org/d", "test", False),
        ("org/d", "train", "org/d", "train[:10%]", True),
        ("", "train", "", "train", False),
    ],
)
def test_splits_that_share_rows_by_their_names(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    split: str,
    other: str,
    other_split: str,
    expected: bool,
) -> None:
    monkeypatch.chdir(tmp_path)
    for file in ("a.csv", "b.csv"):
        (tmp_path / file).touch()
    assert serves_both(name, split, other, other_split) is expected


def test_rows_of_several_files_are_named_by_file(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"id": 1}\n')
    (tmp_path / "b.csv").write_text("id\n2\n3,4\n")
    assert list(open_source(f"{tmp_path}/?.*", "train", None, None, False)) == [
        ("a.jsonl:1", {"id": 1}),
        ("b.csv:1", {"id": "2"}),
        ("b.csv:2", BadRow("row has another number of fields than the header (a comma without quotes?)")),
    ]


def test_a_folder_for_each_split(tmp_path: Path) -> None:
    """As QMSum and DialogStudio have them; a file of the split's name wins."""
    (tmp_path / "val").mkdir()
    for name in ("a.json", "b.json"):
        (tmp_path / "val" / name).write_text(f'[{{"name": "{name}"}}]')

    def split() -> list[Any]:
        return list(open_source(str(tmp_path), "validation", None, None, False))

    assert split() == [("a.json:1", {"name": "a.json"}), ("b.json:1", {"name": "b.json"})]
    (tmp_path / "validation.jsonl").write_text('{"name": "c"}\n')
    assert split() == [(1, {"name": "c"})]
