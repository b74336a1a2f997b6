"""Any source of dialogues becomes rows {id, dialogue, references}, one row a dialogue; every row is accounted for."""

import glob
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dialogsum_sft import InputError
from dialogsum_sft.arguments import DataArguments

from datasets import Dataset, IterableDataset, get_dataset_split_names, load_dataset
from datasets.exceptions import DatasetNotFoundError, DatasetsError
from trl import ScriptArguments

SAMPLE = Path(__file__).parent / "sample"
_BUILDERS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}


@dataclass
class Examples:
    """A split: `rows` with columns id, dialogue, references (list of str), and how many there were of what."""

    rows: Dataset
    counts: dict[str, int]

    def fingerprint(self) -> str:
        """Hash of all ids, dialogues and references, as 16 hex digits."""
        digest = hashlib.sha256()
        for row in self.rows:
            digest.update("\0".join([row["id"], row["dialogue"], *row["references"], "\n"]).encode())
        return digest.hexdigest()[:16]


def load_examples(
    script_args: ScriptArguments, data_args: DataArguments, split: str, limit: int | None = None
) -> Examples:
    """Load a split of `dataset_name`: `sample`, a local file, a folder with a file a split, or a dataset on the hub.

    Rows with the same dialogue become one example with several references (the hub's DialogSum spreads its test set
    over three rows a dialogue; the authors' files have summary1 to summary3). `limit` counts dialogues. A local file
    is one split, whatever the split's name.

    Raises InputError for a source, split or column that is not there (naming those that are), and for rows with an
    empty or missing dialogue or summary (naming the rows).
    """
    name = script_args.dataset_name
    if not name:
        raise InputError("no dataset: give --dataset_name (a hub id, a .jsonl/.json/.csv/.parquet file, or 'sample')")
    if limit is not None and limit < 1:
        raise InputError(f"a limit of {limit} dialogues leaves none; give 1 or more")
    source = _open(name, split, script_args.dataset_config, data_args.dataset_revision)
    columns = _columns(source.column_names, name, data_args)
    examples: dict[str, dict[str, Any]] = {}
    problems: list[str] = []
    read = references = 0
    for number, row in enumerate(_read(source, name), 1):
        read += 1
        faults = list(_faults(row, columns, number))
        if faults:
            problems += faults
            continue
        dialogue = row[columns["dialogue"][0]]
        identity = str(row[columns["id"][0]]) if columns["id"] else str(number)
        example = examples.setdefault(dialogue, {"ids": [], "dialogue": dialogue, "references": []})
        example["ids"].append(identity)
        example["references"] += [row[column] for column in columns["summaries"]]
        references += len(columns["summaries"])
    if problems:
        more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise InputError(f"{name} ({split}) has rows that cannot be used: {'; '.join(problems[:5])}{more}")
    if not examples:
        raise InputError(f"{name} ({split}) has no rows")
    kept = list(examples.values())[:limit]
    rows = [
        {"id": identity, "dialogue": example["dialogue"], "references": example["references"]}
        for identity, example in zip(_unique_ids(kept), kept, strict=True)
    ]
    counts = {"rows": read, "dialogues": len(examples), "references": references, "used_dialogues": len(rows)}
    return Examples(Dataset.from_list(rows), counts)


def _open(name: str, split: str, config: str | None, revision: str | None) -> Dataset | IterableDataset:
    path = SAMPLE if name == "sample" else Path(name)
    try:
        if path.is_dir():
            files = {file.stem: file for file in sorted(path.iterdir()) if file.suffix in _BUILDERS}
            if split not in files:
                raise InputError(f"no split {split!r} in {name}: there are {', '.join(files) or 'no data files'}")
            path = files[split]
        if path.is_file():
            if path.suffix not in _BUILDERS:
                raise InputError(
                    f"{name}: cannot read {path.suffix or 'this kind of'} files, only {', '.join(_BUILDERS)}"
                )
            return load_dataset(_BUILDERS[path.suffix], data_files=glob.escape(str(path)), split="train")
        if path.suffix in _BUILDERS or name.startswith((".", "/", "~")):
            raise InputError(f"dataset file not found: {name}")
        splits = get_dataset_split_names(name, config, revision=revision)
        if split not in splits:
            raise InputError(f"no split {split!r} in {name}: there are {', '.join(splits)}")
        return load_dataset(name, config, split=split, revision=revision)
    except DatasetNotFoundError as error:
        raise InputError(f"dataset {name!r} is neither a file here nor on the hub: {_reason(error)}") from error
    except (OSError, ValueError, DatasetsError, StopIteration) as error:  # a bad file, a bad config, no connection
        raise InputError(f"cannot read dataset {name!r}: {_reason(error)}") from error


def _read(source: Dataset | IterableDataset, name: str) -> Iterator[dict[str, Any]]:
    try:
        yield from source
    except ValueError as error:  # text that is not UTF-8 shows only here
        raise InputError(f"cannot read dataset {name!r}: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    """The root cause's first line: datasets wraps a parser's message in one that only says that it failed."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).strip().split("\n")[0] or "it is empty"


def _columns(names: list[str] | None, source: str, data_args: DataArguments) -> dict[str, list[str]]:
    names, summaries, identity = names or [], data_args.summary_columns, data_args.id_column
    if summaries is None:
        numbered = sorted((n for n in names if re.fullmatch(r"summary\d+", n)), key=lambda n: int(n[7:]))
        summaries = ["summary"] if "summary" in names or not numbered else numbered
    wanted = [data_args.dialogue_column, *summaries] + ([identity] if identity else [])
    missing = [column for column in wanted if column not in names]
    if missing:
        raise InputError(
            f"{source} has no column {', '.join(missing)}: there are {', '.join(names)}; name yours with "
            "--dialogue_column, --summary_columns, --id_column"
        )
    ids = [identity] if identity else [name for name in names if name in ("id", "fname")][:1]
    return {"dialogue": [data_args.dialogue_column], "summaries": summaries, "id": ids}


def _faults(row: dict[str, Any], columns: dict[str, list[str]], number: int) -> Iterator[str]:
    identity = f" ({row[columns['id'][0]]})" if columns["id"] else ""
    for column in columns["dialogue"] + columns["summaries"]:
        value = row[column]
        if value is None:
            yield f"row {number}{identity}: {column} is null"
        elif not isinstance(value, str):
            yield f"row {number}{identity}: {column} is not text but {type(value).__name__}"
        elif not value.strip():
            yield f"row {number}{identity}: {column} is empty"


def _unique_ids(examples: list[dict[str, Any]]) -> list[str]:
    """One id for each example: of test_0_1, test_0_2, test_0_3 it is test_0, of other rows the first one's id."""
    seen: set[str] = set()
    ids = []
    for example in examples:
        stems = {match[1] if (match := re.fullmatch(r"(.*\d)[_.-]\d+", i)) else i for i in example["ids"]}
        identity = stems.pop() if len(example["ids"]) > 1 and len(stems) == 1 else example["ids"][0]
        unique, n = identity, 1
        while unique in seen:
            n += 1
            unique = f"{identity}-{n}"
        seen.add(unique)
        ids.append(unique)
    return ids
