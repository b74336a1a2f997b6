"""Outputs laid out as others publish those of DialogSum: each row of README's "What to expect" by one command.

Six JSON lines files with a line per row of the hub's test set, one CSV with a column for each of three systems, one
text with a line per dialogue. The human ceiling and lead-3 are in the record of each.
"""

import csv
import json

from conftest import SAMPLE, sample_dialogues

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer
from test_predictions_file import evaluate, records  # noqa: F401, a fixture

KINDS = ("rouge1", "rouge2", "rougeL")
COLUMNS = ("original_model_summaries", "instruct_model_summaries", "peft_model_summaries")
LINES = [f"test_{how}_{model}" for how in ("zeroshot", "lora16", "qlora") for model in ("a_0_5b", "b_3b")]
DIALOGUES = 8
SYSTEMS = (*LINES, *COLUMNS, "test_output")


def summary(example, system):
    """A text that differs between the systems, with what CSV quotes; the baseline's lines begin with ##."""
    words, number = example["dialogue"].split(), SYSTEMS.index(system)
    begin, end = ("#", "") if system == "test_output" else ("", '\nShe says "no", or so.')
    return begin + " ".join(words[2 * number : 12 + 4 * number]) + end


def by_hand(summaries, references):
    """Mean over the references of each dialogue, then over dialogues, x 100."""
    scorer = RougeScorer(KINDS, use_stemmer=True)
    scores = [
        [[scorer.score(ref, text)[kind].fmeasure for kind in KINDS] for ref in refs]
        for text, refs in zip(summaries, references, strict=True)
    ]
    return 100 * np.mean(np.mean(scores, axis=1), axis=0)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """The test set as the hub has it, and the files of three repositories: {system: (file, further arguments)}."""
    folder = tmp_path_factory.mktemp("published")
    examples = {example["dialogue"]: example for example in sample_dialogues()[:DIALOGUES]}
    lines = (SAMPLE / "test.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)[: 3 * DIALOGUES]
    (folder / "test.jsonl").write_text("".join(lines), encoding="utf-8")
    rows = list(map(json.loads, lines))
    found = {}
    for system in LINES:
        path = folder / f"{system}.jsonl"
        lines = (
            {"id": row["id"], "dialogue": row["dialogue"], "reference": row["summary"]}
            | {"prediction": summary(examples[row["dialogue"]], system)}
            for row in rows
        )
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        found[system] = (path, [])
    path = folder / "dialogue-summary-training-results.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["", "human_baseline_summaries", *COLUMNS])  # as pandas writes it, with an index
        for number, row in enumerate(rows):
            own = [summary(examples[row["dialogue"]], system) for system in COLUMNS]
            writer.writerow([number, row["summary"], *own])
    found |= {system: (path, [f"--prediction_column={system}"]) for system in COLUMNS}
    path = folder / "test_output.txt"
    path.write_text("".join(summary(example, "test_output") + "\n" for example in examples.values()), encoding="utf-8")
    return folder / "test.jsonl", found | {"test_output": (path, [])}


def test_each_system_is_scored_by_one_command(evaluate, published, tmp_path):  # noqa: F811
    dataset, files = published
    examples = sample_dialogues()[:DIALOGUES]
    references = [example["references"] for example in examples]
    folders = {}
    for system, (path, more) in files.items():
        before = set(tmp_path.glob("eval-*"))
        args = [f"--predictions_file={path}", *more, f"--dataset_name={dataset}", f"--output_dir={tmp_path}"]
        evaluate(*args, "--num_examples=0")
        (folders[system],) = set(tmp_path.glob("eval-*")) - before  # beside the others
    for system, folder in folders.items():
        rows, metrics = records(folder)
        expected = [summary(example, system) for example in examples]
        assert [row["prediction"] for row in rows] == expected
        assert [metrics[kind]["mean"] for kind in KINDS] == pytest.approx(by_hand(expected, references))
        assert (metrics["examples"], metrics["references"]) == (DIALOGUES, 3 * DIALOGUES)

    # The two rows without a file: in the record of every run.
    of_each = [
        by_hand([refs[own] for refs in references], [refs[:own] + refs[own + 1 :] for refs in references])
        for own in range(3)
    ]
    assert [metrics["human"][kind]["mean"] for kind in KINDS] == pytest.approx(np.mean(of_each, axis=0))
    lead = by_hand(["\n".join(example["dialogue"].split("\n")[:3]) for example in examples], references)
    assert [metrics["baselines"]["lead-3"][kind]["mean"] for kind in KINDS] == pytest.approx(lead)
