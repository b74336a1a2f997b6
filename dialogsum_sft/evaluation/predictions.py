"""Read predictions from files, and match them with a dataset."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dialogsum_sft import InputError
from dialogsum_sft.data.row_files import BadRow, one_line, read_file, suffix_of

Row = dict[str, Any]


def read_predictions(path: Path) -> list[Row]:
    """The rows of a .jsonl with `prediction` and optionally `id`; {"prediction": line} for the lines of other files.

    An empty line of a text file is an empty summary. Raises InputError with the file and its first wrong lines.
    """
    if not path.is_file():
        raise InputError(f"--predictions_file {path}: there is no such file")
    if suffix_of(path) != ".jsonl":
        try:
            lines = path.read_bytes().decode("utf-8-sig").split("\n")  # only \n ends a line
        except UnicodeDecodeError as error:
            raise InputError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from error
        return [{"prediction": line.rstrip("\r")} for line in (lines if lines[-1] else lines[:-1])]
    rows, bad = [], []
    for number, row in read_file(path):
        if isinstance(row, BadRow):
            bad.append(f"line {number}: {row.reason}")
        elif not isinstance(row.get("prediction"), str):
            bad.append(f"line {number}: prediction is {'not text' if 'prediction' in row else 'missing'}")
        else:
            rows.append(row)
    if bad:
        more = f"; and {len(bad) - 5} more" if len(bad) > 5 else ""
        raise InputError(f"{path}: {'; '.join(bad[:5])}{more}. Each line needs prediction, a string")
    return rows


def own_references(rows: Sequence[Row], path: Path) -> list[Row]:
    """The rows of a predictions.jsonl, which has its own dialogues and references; InputError if one lacks them."""
    for number, row in enumerate(rows, 1):
        references = row.get("references")
        listed = isinstance(references, list) and references and all(isinstance(text, str) for text in references)
        if not listed or not isinstance(row.get("dialogue"), str):
            raise InputError(
                f"{path}: row {number} has no {'dialogue' if listed else 'references'}, so the dataset must be named: "
                "give --dataset_name"
            )
    if not rows:
        raise InputError(f"{path} has no predictions")
    return [{"id": str(row.get("id", number))} | row for number, row in enumerate(rows, 1)]


def match_examples(examples: Sequence[Row], predictions: Sequence[Row], path: Path, dataset: str) -> list[Row]:
    """Each example {id, dialogue, references, topic} with its prediction, matched by id, or by order without ids.

    Other fields of a prediction (tokens, finish_reason, dropped_turns, ...) are kept. Raises InputError when the
    numbers differ, or ids are missing, unknown or repeated.
    """
    with_id = sum(row.get("id") is not None for row in predictions)
    if with_id not in (0, len(predictions)):
        raise InputError(f"{path}: {with_id} of {len(predictions)} rows have an id: give all of them one, or none")
    if not with_id:
        if len(predictions) != len(examples):
            raise InputError(
                f"{path} has {len(predictions)} predictions but {dataset} has {len(examples)} dialogues: give one for "
                "each dialogue in the dataset's order (rows that share a dialogue are one), or ids"
            )
        return [_joined(example, row) for example, row in zip(examples, predictions, strict=True)]
    ids, known = [str(row["id"]) for row in predictions], dict.fromkeys(example["id"] for example in examples)
    by_id = dict(zip(ids, predictions, strict=True))
    faults = {
        "ids are repeated": list((Counter(ids) - Counter(by_id.keys())).elements()),
        f"ids are not in {dataset}": [identity for identity in by_id if identity not in known],
        f"dialogues of {dataset} have no prediction": [identity for identity in known if identity not in by_id],
    }
    problems = [
        f"{len(several)} {what}: {', '.join(map(one_line, several[:3]))}{', ...' if len(several) > 3 else ''}"
        for what, several in faults.items()
        if several
    ]
    if problems:
        raise InputError(f"{path} and {dataset} do not match: {'; '.join(problems)}")
    return [_joined(example, by_id[example["id"]]) for example in examples]


def _joined(example: Row, prediction: Row) -> Row:
    own = {name: example[name] for name in ("id", "dialogue", "references")}
    topic = {"topic": example["topic"]} if example.get("topic") is not None else {}
    return own | {name: value for name, value in prediction.items() if name not in own and name != "topic"} | topic
