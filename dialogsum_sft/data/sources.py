"""Open a split of a dataset: the hub, folders, globs, files and saved datasets, whole or in slices."""

import glob
import itertools
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

from dialogsum_sft import InputError
from dialogsum_sft.data.row_files import BadRow, Place, Row, one_line, read_file, reason_of, suffix_of

from datasets import Dataset, IterableDataset, get_dataset_split_names, load_dataset, load_from_disk
from datasets.exceptions import DatasetNotFoundError, DatasetsError

SAMPLE = Path(__file__).parent / "sample"


_Content: TypeAlias = Dataset | IterableDataset | list[Path]
# Names of one split, the usual one first.
_SAME_SPLIT = (("train", "training"), ("validation", "valid", "val", "dev", "eval"), ("test", "testing"))
_BOUND = r"-?\d+|-?(?:100|\d?\d)%"
_SLICE = re.compile(rf"(?P<split>[^][+]+)(\[(?P<start>{_BOUND})?:(?P<end>{_BOUND})?\])?")


def open_source(
    name: str, split: str, config: str | None, revision: str | None, streaming: bool
) -> Iterator[tuple[Place, Row]]:
    """Yield (place, row) of a split of `name`, which `examples.load_examples` describes.

    A split may be a slice of rows such as train[:90%], train[100:] or train[:10]+test[-5:], as in
    `datasets.load_dataset`. A single file has its rows under every name. Sliced rows keep their places.

    Raises InputError for a split or file that does not exist (the message lists those that do), and for a malformed
    slice.
    """
    parts = [_SLICE.fullmatch(part.strip()) for part in split.split("+")] if re.search(r"[][+]", split) else []
    if not all(parts):
        raise InputError(f"split {split!r} is no slice: write train[:90%], train[100:] or train[10:20]+test[-5:]")
    try:
        if not parts:
            return _rows(_open_split(name, split, config, revision, streaming))
        slices = []
        for part in filter(None, parts):
            content = _open_split(name, part["split"], config, revision, streaming)
            relative = re.search("[-%]", part[0].removeprefix(part["split"]))
            count = _count(content, name) if relative else sys.maxsize
            slices.append((content, _row_number(part["start"] or "0", count), _row_number(part["end"], count)))
        return itertools.chain.from_iterable(_rows(*place) for place in slices)
    except DatasetNotFoundError as error:
        raise InputError(f"dataset {name!r} is neither a file here nor on the hub: {reason_of(error)}") from error
    except (OSError, ValueError, KeyError, TypeError, DatasetsError) as error:
        # a bad config, no connection, a damaged folder
        raise InputError(f"cannot read dataset {name!r}: {reason_of(error)}") from error


def with_dialogues(rows: Iterator[tuple[Place, Row]], file: str, id_column: str) -> Iterator[tuple[Place, Row]]:
    """The rows, each with the columns that the row of the same id has in `file`, which is held in memory.

    A row without one there is a `BadRow`. Raises InputError where the rows of `file` have no such id.
    """
    others: dict[str, dict[str, Any]] = {}
    for number, row in read_file(Path(file).expanduser()):
        if isinstance(row, BadRow):
            raise InputError(f"{file}: row {number}: {row.reason}")
        if id_column not in row:
            raise InputError(f"{file}: row {number} has no {id_column}: name the id of both files by --id_column")
        others[str(row[id_column])] = row
    for place, row in rows:
        if isinstance(row, BadRow):
            yield place, row
        elif str(row.get(id_column)) in others:
            yield place, others[str(row[id_column])] | row
        else:
            yield place, BadRow(f"no dialogue of {id_column} {one_line(row.get(id_column))} in {Path(file).name}")


def in_folder(file: str, name: str | None) -> str:
    """The path of a file that may be named without the folder `name` in which it is."""
    beside = Path(name or "").expanduser() / file
    return str(beside) if name and not Path(file).expanduser().exists() and beside.is_file() else file


def serves_both(name: str, split: str, other_name: str, other_split: str) -> bool:
    """Whether two splits share rows because they are the same file, or because one is the other or a slice of it."""
    (path, base, rows), (other_path, other_base, other_rows) = _place(name, split), _place(other_name, other_split)
    return (
        bool(name) and (path, base) == (other_path, other_base) and (rows == other_rows or not rows or not other_rows)
    )


def _place(name: str, split: str) -> tuple[str, str, str]:
    """Path or name, split (none for what has only one) and slice."""
    path = Path(name).expanduser()
    base, rows = re.fullmatch(r"([^][+]*)(.*)", split.strip()).groups()  # type: ignore[union-attr]
    if path.is_file() or (path / "state.json").is_file() or (glob.has_magic(name) and not path.exists()):
        base = ""
    return str(path.resolve()) if path.exists() else name, sorted(_names_of(base))[0], rows


def _open_split(name: str, split: str, config: str | None, revision: str | None, streaming: bool) -> _Content:
    path = SAMPLE if name == "sample" else Path(name).expanduser()
    if path.is_file():
        return [path]
    if path.is_dir():
        if not (path / "dataset_dict.json").is_file() and not (path / "state.json").is_file():
            return _files_of_split(path, name, split)
        saved = load_from_disk(str(path))
        return saved[_existing(split, list(saved), name)] if isinstance(saved, dict) else saved
    if glob.has_magic(name):
        files = _data_files(map(Path, glob.glob(str(path), recursive=True)))
        if not files:
            raise InputError(f"no data file matches {name}")
        return files
    if suffix_of(path) or name.startswith((".", "/", "~")):
        raise InputError(f"dataset file not found: {name}")
    split = _existing(split, get_dataset_split_names(name, config, revision=revision), name)
    return load_dataset(name, config, split=split, revision=revision, streaming=streaming)


def _names_of(split: str) -> list[str]:
    """The split itself, then other names of it: valid, val, dev and eval for validation."""
    return list(dict.fromkeys([split, *next((names for names in _SAME_SPLIT if split in names), ())]))


def _existing(split: str, splits: list[str], name: str) -> str:
    for existing in _names_of(split):
        if existing in splits:
            return existing
    raise InputError(f"no split {split!r} in {name}: there are {', '.join(splits)}")


def _data_files(paths: Iterable[Path]) -> list[Path]:
    """The files that can be read, sorted; .txt files, which may be notes, only where there are no others."""
    files = [file for file in sorted(paths) if suffix_of(file)]
    return [file for file in files if suffix_of(file) != ".txt"] or files


def _files_of_split(folder: Path, name: str, split: str) -> list[Path]:
    """The files of a split; train.jsonl, dialogsum.train.jsonl, train-00000-of-00002.parquet and all files of a folder
    train belong to train.

    A file named by the split alone wins over a longer name: valid.csv over valid_metadata.csv.
    """
    files = _data_files(folder.iterdir())
    whole, part = r"{}([._-]?\d+([._-]of[._-]\d+)?)?\.(jsonl|json|csv|tsv|parquet)(\.gz)?", r"(.*[._-])?{}[._-].*"
    patterns = [pattern.format(re.escape(same)) for pattern in (whole, part) for same in _names_of(split)]
    matches = ([file for file in files if re.fullmatch(pattern, file.name, re.IGNORECASE)] for pattern in patterns)
    chosen: list[Path] = next(filter(None, matches), [])
    by_name = "name the file by --train_file, --validation_file or --test_file"
    inner = next((path for same in _names_of(split) if (path := folder / same).is_dir()), None)
    if not chosen and inner is not None and (chosen := _data_files(inner.iterdir())):
        return chosen
    if not chosen:
        names = ", ".join(file.name for file in files)
        raise InputError(
            f"no split {split!r} in {name}: there are {f'{names}; {by_name}' if files else 'no data files'}"
        )
    if len({re.sub(r"\d+", "", file.name) for file in chosen}) > 1:  # not shards of one file
        names = ", ".join(file.name for file in chosen)
        raise InputError(f"which is the split {split!r} in {name}: {names}? N{by_name[1:]}")
    return chosen


def _count(content: _Content, name: str) -> int:
    """The number of rows; files are read for it."""
    if isinstance(content, Dataset):
        return len(content)
    if isinstance(content, IterableDataset):
        count = (content.info.splits or {}).get(str(content.split))
        if count is None or not count.num_examples:
            raise InputError(f"{name} does not say how many rows it has: give a slice without % and negative numbers")
        return int(count.num_examples)
    return sum(1 for _ in _read_all(content))


def _row_number(text: str | None, count: int) -> int:
    """A bound of a slice, 0 to `count`."""
    if text is None:
        return count
    number = round(int(text[:-1]) * count / 100) if text.endswith("%") else int(text)
    return max(number + count, 0) if number < 0 else min(number, count)


def _rows(content: _Content, start: int = 0, end: int = sys.maxsize) -> Iterator[tuple[Place, Row]]:
    if isinstance(content, Dataset):
        return enumerate(content.select(range(start, max(start, min(end, len(content))))), start + 1)
    if isinstance(content, list):
        return itertools.islice(_read_all(content), start, max(start, end))
    return itertools.islice(enumerate(content, 1), start, max(start, end))


def _read_all(files: list[Path]) -> Iterator[tuple[Place, Row]]:
    for file in files:
        for number, row in read_file(file):
            yield number if len(files) == 1 else f"{file.name}:{number}", row
