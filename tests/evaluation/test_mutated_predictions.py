"""Random mutations of predictions files: each ends in a right score, or in a line that names the file's fault."""

import csv
import io
import json
import random

from conftest import sample_dialogues
from dialogsum_sft import InputError
from dialogsum_sft.evaluation.matching import match_examples
from dialogsum_sft.evaluation.prediction_columns import read_predictions
from dialogsum_sft.evaluation.predictions import own_references
from dialogsum_sft.evaluation.runs import read_run, score_run

import pytest

COUNT = 12
EXAMPLES = [
    row | {"reference_rows": json.dumps([[3 * i + j, f"{row['id']}_{j + 1}"] for j in range(3)])}
    for i, row in enumerate(sample_dialogues()[:COUNT])
]
SUMMARIES = [row["references"][i % 3] for i, row in enumerate(EXAMPLES)]
VALUES = [None, 0, -1, 1.5, 1e400, float("nan"), True, "", " ", [], {}, ["a"], ["a", "b"], {"text": "a"}, [None]]
VALUES += ["\ud83d", "\0", "\u2028", "a\nb", "<think>", "</think>", "[1]", "['x', 'y']", "9" * 400, "test_3", [[[]]]]
SCORES = {"prompt_tokens": 40, "completion_tokens": 9, "finish_reason": "stop", "candidates": ["a", "b"]}


def rows():
    return [
        row
        | SCORES
        | {"prediction": text, "label": "x"}
        | {"turns": [{"speaker": None, "label": 0, "length": len(row["dialogue"]), "time": None}]}
        for row, text in zip(EXAMPLES, SUMMARIES, strict=True)
    ]


def as_table(rows, delimiter):
    file = io.StringIO()
    names = ["id", "prediction", "finish_reason", "completion_tokens"]
    writer = csv.DictWriter(file, names, delimiter=delimiter, extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def written(rng, table):
    """The file's name and its text, in one of the shapes."""
    kind = rng.choice(["jsonl", "jsonl", "json", "csv", "tsv", "txt", "ids.json", "lines.txt"])
    if kind in ("csv", "tsv"):
        return f"p.{kind}", as_table(table, "\t" if kind == "tsv" else ",")
    if kind == "txt":
        return "p.txt", "".join(f"{row.get('prediction')}\n" for row in table)
    if kind == "json":
        return "p.json", json.dumps(table)
    if kind == "ids.json":
        return "p.json", json.dumps({str(row.get("id")): row.get("prediction") for row in table})
    lines = [json.dumps(row) for row in table]
    return ("p.txt" if kind == "lines.txt" else "p.jsonl"), "\n".join(lines) + "\n"


def mutated(rng):
    table = rows()
    for _ in range(rng.choice([0, 1, 1, 2])):  # of types and rows
        row = rng.choice(table)
        field = rng.choice([*row, "error", "response", "predictions_by_reference", "raw_prediction", "doc_id", ""])
        match rng.choice(["value", "value", "value", "delete", "rename", "drop", "repeat", "column", "shuffle"]):
            case "value":
                row[field] = rng.choice(VALUES)
            case "delete":
                row.pop(field, None)
            case "rename":
                row["Prediction "] = row.pop(field, None)
            case "drop":
                table.remove(row) if len(table) > 1 else None
            case "repeat":
                table.insert(rng.randrange(len(table)), dict(row))
            case "column":
                value = rng.choice(VALUES)
                table = [one | {field: value} for one in table]
            case "shuffle":
                rng.shuffle(table)
    name, text = written(rng, table)
    content = text.encode("utf-8", "surrogatepass")
    for _ in range(rng.choice([0, 0, 1, 1])):  # of bytes
        at = rng.randrange(len(content)) if content else 0
        match rng.choice(["cut", "flip", "insert", "utf-16", "bom", "crlf", "latin-1", "lines", "suffix"]):
            case "cut":
                content = content[:at]
            case "flip":
                content = content[:at] + bytes([rng.randrange(256)]) + content[at + 1 :]
            case "insert":
                content = content[:at] + rng.choice([b"\n", b"\0", b'"', b"\xff", b"{", b",", b"\r"]) + content[at:]
            case "utf-16":
                content = content.decode("utf-8", "replace").encode("utf-16")
            case "bom":
                content = b"\xef\xbb\xbf" + content
            case "crlf":
                content = content.replace(b"\n", b"\r\n")
            case "latin-1":
                content = content.decode("utf-8", "replace").encode("latin-1", "replace")
            case "lines":
                content = content.replace(b"\n", b"\n\n", 1)
            case "suffix":
                name = rng.choice(["p.txt", "p", "p.csv", "p.jsonl", "p.json", "p.tsv", "p.parquet", "p.csv.gz"])
    return name, content


def outcome(path, beside_dataset):
    """The matched rows, or the error."""
    try:
        found = read_predictions(path)
        return (
            match_examples(EXAMPLES, found, "data", rows_read=3 * COUNT) if beside_dataset else own_references(found)
        )
    except InputError as error:
        return error


@pytest.mark.parametrize("seed", range(200))
def test_no_mutation_ends_in_a_traceback(tmp_path, seed):
    rng = random.Random(seed)
    name, content = mutated(rng)
    path = tmp_path / name
    path.write_bytes(content)
    beside_dataset = rng.random() < 0.6
    found = outcome(path, beside_dataset)
    if isinstance(found, InputError):
        assert str(path) in str(found)
        assert len(str(found).splitlines()) == 1
        return
    run = score_run("a", tmp_path / "eval-a", found.rows)
    run.save()
    assert read_run(tmp_path / "eval-a", "a").scores == run.scores
    if beside_dataset:  # each dialogue has its own summary, but for the two or three that were changed, or it is said
        assert [row["id"] for row in run.rows] == [row["id"] for row in EXAMPLES]
        kept = [row["prediction"].strip() == text for row, text in zip(run.rows, SUMMARIES, strict=True)]
        same = len({row["prediction"] for row in run.rows}) == 1
        assert sum(kept) >= COUNT - 3 or same or any("is the order the dataset's?" in note for note in found.notes)
