"""recipes/eval.py --predictions_file scores the predictions of any system, without a model."""

import json
import socket
from pathlib import Path

from conftest import SAMPLE, output_of, recipe_module, sample_dialogues
from dialogsum_sft import modeling
from dialogsum_sft.evaluation.runs import score_run

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer

SCORES = ("rouge1", "rouge2", "rougeL", "rougeLsum", "rougeS4", "rougeSU4")


@pytest.fixture(scope="module")
def examples():
    return sample_dialogues()


@pytest.fixture
def evaluate(recipe, monkeypatch, capsys):
    """Run recipes/eval.py in this process, without models and connections; returns what it printed."""

    def refuse(*_, **__):
        raise AssertionError("a model, a tokenizer or a connection was opened")

    recipe_module("eval")  # a module of the library that is imported after this would keep the replacements
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setenv("COLUMNS", "100")
    for name in ("load_model", "load_tokenizer", "load_adapter"):
        monkeypatch.setattr(modeling, name, refuse)

    def call(*args, status=0):
        return output_of(recipe, capsys, "eval", *args, status=status)

    return call


def records(folder):
    rows = [
        json.loads(line) for line in (folder / "predictions.jsonl").read_text(encoding="utf-8").split("\n") if line
    ]
    return rows, json.loads((folder / "metrics.json").read_text(encoding="utf-8"))


def score(rows, **options):
    return score_run("a", Path(), rows, **options).record


def lead(examples):
    return [example["dialogue"].split("\n")[0] for example in examples]


def test_text_file_is_scored_without_a_model(evaluate, examples, tmp_path):
    path = tmp_path / "lead.v1.txt"
    path.write_text("\n".join(lead(examples)) + "\n", encoding="utf-8")
    printed = evaluate(f"--predictions_file={path}", "--dataset_name=sample", f"--output_dir={tmp_path / 'out'}")
    rows, metrics = records(tmp_path / "out" / "eval-lead.v1")
    assert [row["id"] for row in rows] == [example["id"] for example in examples]
    assert [row["prediction"] for row in rows] == lead(examples)
    assert [row["references"] for row in rows] == [example["references"] for example in examples]
    assert metrics["unfinished"] is metrics["diagnostics"]["unfinished"] is None
    assert metrics["lengths"]["completion_tokens"] is None
    for name in SCORES:
        baseline = metrics["baselines"]["lead-1"][name]
        assert (metrics[name]["mean"], metrics[name]["max"]) == (baseline["mean"], baseline["max"])
    for text in (
        "baseline:",
        "human ceiling",
        "longest run copied from the dialogue",
        "eval-lead.v1: predictions.jsonl",
    ):
        assert text in printed


def test_metrics_computed_again_from_predictions_jsonl_are_identical(evaluate, examples, tmp_path):
    rows = [
        example | {"prediction": text, "prompt_tokens": 9, "completion_tokens": 8 + i, "finish_reason": reason}
        for i, (example, text) in enumerate(zip(examples, lead(examples), strict=True))
        for reason in (["length"] if i % 3 else ["stop"])
    ]
    first = json.loads(json.dumps(score(rows, seed=7)))
    path = tmp_path / "eval-tuned" / "predictions.jsonl"
    path.parent.mkdir()
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    evaluate(f"--predictions_file={path}", f"--output_dir={tmp_path}", "--seed=7")  # it brings its own references
    again, metrics = records(tmp_path / "eval-tuned-rescored")
    assert again == rows
    assert {name: metrics[name] for name in first} == first
    assert metrics["unfinished"] == 16 / 24
    assert set(SCORES) < set(first)


def test_scores_equal_an_independent_script(evaluate, examples, tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text(
        "".join(json.dumps({"id": e["id"], "prediction": e["references"][1]}) + "\n" for e in reversed(examples))
    )
    evaluate(f"--predictions_file={path}", "--dataset_name=sample", f"--output_dir={tmp_path}")
    _, metrics = records(tmp_path / "eval-mine")

    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    rows = {}
    for line in (SAMPLE / "test.jsonl").open(encoding="utf-8"):
        row = json.loads(line)
        rows.setdefault(row["dialogue"], []).append(row["summary"])
    for name in ("rouge1", "rouge2", "rougeL"):
        scores = np.array(
            [[100 * scorer.score(ref, refs[1])[name].fmeasure for ref in refs] for refs in rows.values()]
        )
        assert metrics[name]["mean"] == pytest.approx(scores.mean(), abs=1e-9)
        assert metrics[name]["max"] == pytest.approx(scores.max(axis=1).mean(), abs=1e-9)
        assert metrics[name]["per_reference"] == pytest.approx(scores.mean(axis=0), abs=1e-9)
        pairs = [[0, 1], [0, 2], [1, 2]]
        left_out = np.mean([scores[:, pair].max(axis=1) for pair in pairs])
        assert metrics[name]["max_leave_one_out"] == pytest.approx(left_out, abs=1e-9)


def test_summary_columns_choose_the_references(evaluate, examples, tmp_path):
    data = tmp_path / "test.jsonl"
    rows = [{"dialogue": e["dialogue"], "a": e["references"][0], "b": e["references"][1]} for e in examples]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "p.txt").write_text("".join(e["references"][1] + "\n" for e in examples))
    args = (f"--predictions_file={tmp_path / 'p.txt'}", f"--dataset_name={data}", f"--output_dir={tmp_path}")
    evaluate(*args, "--summary_columns", "b", "--max_eval_samples=5")
    metrics = records(tmp_path / "eval-p")[1]
    assert (metrics["examples"], metrics["references"]) == (5, 5)
    assert metrics["rouge1"]["mean"] == pytest.approx(100)
    assert metrics["human"] is metrics["share_of_human"] is None


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.txt", "a\nb\n", "p.txt has 2 predictions but sample (test) has 24 dialogues"),
        ("p.txt", "\n" * 25, "has 25 predictions but"),
        ("p.txt", b"\xff\n" * 24, "is not UTF-8 text"),
        (
            "p.jsonl",
            '{"id": "x", "prediction": "a"}\n{"id": "y"}\n[]\n',
            "line 2: prediction is missing; line 3: line is",
        ),
        ("p.jsonl", '{"prediction": 3}\n', "line 1: prediction is not text"),
        ("p.jsonl", '{"id": "test_0", "prediction": "a"}\n{"prediction": "b"}\n', "1 of 2 rows have an id"),
        (
            "p.jsonl",
            "".join(f'{{"id": "{name}", "prediction": "a"}}\n' for name in ("test_0", "test_0", "nowhere")),
            "do not match: 1 ids are repeated: test_0; 1 ids are not in sample (test): nowhere; "
            "23 dialogues of sample (test) have no prediction: test_1, test_2, test_3, ...",
        ),
    ],
)
def test_file_that_does_not_match_the_dataset(evaluate, tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    args = (f"--predictions_file={path}", "--dataset_name=sample", f"--output_dir={tmp_path / 'out'}")
    assert message in evaluate(*args, status=2)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.txt", "a\n", "line 1 has no references, so the dataset must be named: give --dataset_name"),
        ("p.jsonl", '{"prediction": "a", "references": ["b"]}\n', "line 1 has no dialogue"),
        ("p.jsonl", '{"prediction": "a", "dialogue": "A: b", "references": []}\n', "line 1 has no references"),
        ("p.jsonl", "", "has no predictions"),
        (None, "", "there is no such file"),
    ],
)
def test_file_without_its_references(evaluate, tmp_path, name, content, message):
    if name:
        (tmp_path / name).write_text(content)
    assert message in evaluate(f"--predictions_file={tmp_path / str(name)}", status=2)
