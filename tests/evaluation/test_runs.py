import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from conftest import sample_dialogues
from dialogsum_sft import InputError, files
from dialogsum_sft.evaluation import runs
from dialogsum_sft.evaluation.runs import check_comparable, read_run, score_run

import numpy as np
import pytest

ROWS = [
    {
        "id": str(number),
        "dialogue": f"#Person1#: Hi, I lost my {thing}.\n#Person2#: I saw it.",
        "references": [f"#Person1# lost the {thing}.", f"The {thing} is lost."],
        "prediction": f"#Person1# lost a {thing}.",
        "finish_reason": "length" if number == 0 else "stop",
    }
    for number, thing in enumerate(["key", "cat", "umbrella"])
]


@pytest.fixture
def run(tmp_path):
    run = score_run("zero-shot", tmp_path / "eval-base", ROWS, data={"split": "test"}, seconds=1.5)
    run.save()
    return run


def test_scoring_imports_neither_evaluate_nor_datasets():
    """Each takes seconds to import, and scoring needs none of them."""
    code = (
        "import sys\n"
        "from dialogsum_sft.evaluation import baselines, diagnostics, rouge, significance\n"
        "print([name for name in ('datasets', 'evaluate', 'torch', 'transformers') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_scores_are_means_over_references(run):
    assert list(run.scores) == ["rouge1", "rouge2", "rougeL", "rougeLsum", "rougeS4", "rougeSU4"]
    for kind, values in run.scores.items():
        assert sum(values) / 3 == pytest.approx(run.record[kind]["mean"], abs=1e-9)
    assert [diagnosis.unfinished for diagnosis in run.diagnoses] == [True, False, False]


def test_record_has_the_format_first_and_the_given_parts_last(run):
    assert list(run.record)[0] == "format"
    assert run.record["format"] == 2
    assert list(run.record)[-2:] == ["data", "seconds"]


def test_saved_run_is_read_back_unchanged(run):
    assert read_run(run.folder, "zero-shot") == run
    assert read_run(run.folder).name == "eval-base"


def test_unfinished_is_the_same_share_everywhere_in_the_record(run):
    assert run.record["unfinished"] == run.record["diagnostics"]["unfinished"] == 1 / 3
    unknown = [{name: value for name, value in row.items() if name != "finish_reason"} for row in ROWS]
    record = score_run("a", run.folder, unknown).record
    assert record["unfinished"] is record["diagnostics"]["unfinished"] is None


def test_count_of_unfinished_summaries_in_format_1_is_read_as_a_share(run):
    edit(run, lambda record: record.update(format=1, unfinished=1))
    assert read_run(run.folder, "zero-shot") == run
    edit(run, lambda record: record.update(format=3))
    with pytest.raises(InputError, match="has format 3, of a newer version"):
        read_run(run.folder)


def edit(run, change):
    record = json.loads((run.folder / "metrics.json").read_text())
    change(record)
    files.write_json(run.folder / "metrics.json", record)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda record: record.pop("baselines"), "is of an older version: score it again"),
        (lambda record: record["rouge2"].pop("mean"), "metrics.json is damaged: score it again"),
        (lambda record: record.update(fingerprint=[]), "metrics.json is damaged: score it again"),
        (lambda record: record["rougeL"].update(mean=1.0), "but metrics.json 1.00: one of them was changed"),
    ],
)
def test_broken_record_is_refused(run, change, message):
    edit(run, change)
    with pytest.raises(InputError, match=message):
        read_run(run.folder)


def test_missing_files_are_refused(run):
    with pytest.raises(InputError, match="has no predictions.jsonl and no metrics.json: give a folder"):
        read_run(run.folder.parent)
    (run.folder / "metrics.json").write_text("{")
    with pytest.raises(InputError, match="metrics.json is not JSON"):
        read_run(run.folder)


def test_predictions_cut_short_are_refused(run):
    path = run.folder / "predictions.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:2]))
    with pytest.raises(InputError, match="predictions.jsonl has 2 rows but metrics.json expects 3: run eval.py again"):
        read_run(run.folder)
    path.write_text("".join(lines)[:-20])
    with pytest.raises(InputError, match="line 3: line is not JSON"):
        read_run(run.folder)


def test_runs_with_another_protocol_or_other_dialogues_are_not_comparable(run):
    check_comparable([run, replace(run, name="other")])
    unicode = score_run("b", run.folder, ROWS, tokenizer="unicode")
    with pytest.raises(InputError, match="tokenizer is 'unicode-1', not 'default'. Evaluate both"):
        check_comparable([run, unicode])
    with pytest.raises(InputError, match="2 predictions, not 3"):
        check_comparable([run, replace(run, rows=ROWS[:2])])
    with pytest.raises(InputError, match="1 dialogues or their references differ, the first on line 2"):
        check_comparable([run, replace(run, rows=[ROWS[0], ROWS[1] | {"dialogue": "A: b"}, ROWS[2]])])


def score(rows, **options):
    return score_run("a", Path(), rows, **options).record


def lead_rows():
    return [row | {"prediction": row["dialogue"].split("\n")[0]} for row in sample_dialogues()]


def test_scores_depend_on_the_seed_and_leave_the_global_random_state():
    rows = lead_rows()
    before = np.random.get_state()[1].copy()
    first = score(rows, seed=1)
    runs._dataset_scores.cache_clear()
    assert json.dumps(score(rows, seed=1)) == json.dumps(first)
    assert score(rows, seed=2)["rouge1"]["ci95"] != first["rouge1"]["ci95"]
    np.testing.assert_array_equal(np.random.get_state()[1], before)


def test_500_dialogues_with_three_references_cost_under_20_seconds():
    rows = lead_rows() * 3
    runs._dataset_scores.cache_clear()
    started = time.process_time()
    score(rows)
    assert time.process_time() - started < 20 * len(rows) / 500
