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
    assert run.record["format"] == 3
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
    edit(run, lambda record: record.update(format=4))
    with pytest.raises(InputError, match="has format 4, of a newer version"):
        read_run(run.folder)


def test_rougesu4_of_format_2_is_computed_again(run):
    def older(record):
        record.update(format=2)
        for scores in (record["rougeSU4"], record["human"]["rougeSU4"], record["baselines"]["lead-1"]["rougeSU4"]):
            scores["mean"] = 99.0  # every single word was counted
        for name in ("rougeSU4", "preambles"):
            del record["fingerprint"][name]
        for name in ("thinking", "preamble"):
            del record["diagnostics"][name], record["diagnostics_of_references"][name]

    edit(run, older)
    assert read_run(run.folder, "zero-shot") == run


def test_thinking_in_a_run_of_format_2_stays_scored_as_it_was(tmp_path):
    thought = [row | {"prediction": f"<think>lost</think> {row['prediction']}"} for row in ROWS]
    run = runs._scored("a", tmp_path, thought, "default", 42, False, None, {})
    run.record["format"] = 2
    run.save()
    again = read_run(tmp_path, "a")
    assert again.rows == thought
    assert again.record["rouge1"] == run.record["rouge1"]


def test_thinking_is_no_part_of_a_prediction(tmp_path):
    thought = [row | {"prediction": f"<think>lost</think> {row['prediction']}"} for row in ROWS]
    plain, run = score_run("a", tmp_path, ROWS), score_run("a", tmp_path, thought)
    assert run.scores == plain.scores
    assert run.rows == [a | {"raw_prediction": b["prediction"]} for a, b in zip(ROWS, thought, strict=True)]
    assert (run.record["diagnostics"]["thinking"], plain.record["diagnostics"]["thinking"]) == (1, None)
    run.save()
    assert read_run(tmp_path, "a") == run
    assert score_run("a", tmp_path, run.rows) == run


def test_thinking_that_does_not_end_is_an_unfinished_empty_summary(tmp_path):
    rows = [{key: value for key, value in row.items() if key != "finish_reason"} for row in ROWS]
    rows[1] = rows[1] | {"prediction": "<think>The umbrella is lost."}
    run = score_run("a", tmp_path, rows)
    assert (run.rows[1]["prediction"], run.scores["rouge1"][1]) == ("", 0)
    assert (run.record["unfinished"], run.record["diagnostics"]["empty"]) == (1 / 3, 1 / 3)
    assert [diagnosis.unfinished for diagnosis in run.diagnoses] == [False, True, False]


def test_preamble_is_counted_and_taken_off_on_request(tmp_path):
    rows = [row | {"prediction": f"Here is a summary:\n{row['prediction']}"} for row in ROWS]
    plain = score_run("a", tmp_path, ROWS)
    kept, stripped = (score_run("a", tmp_path, rows, strip_preamble=strip) for strip in (False, True))
    assert stripped.scores == plain.scores != kept.scores
    assert kept.record["diagnostics"]["preamble"] == stripped.record["diagnostics"]["preamble"] == 1
    assert [run.record["fingerprint"]["preambles"] for run in (kept, stripped)] == ["scored", "taken off"]
    with pytest.raises(InputError, match="preambles is 'taken off', not 'scored'"):
        check_comparable([kept, stripped])


def test_each_of_several_predictions_is_scored_against_its_own_reference(tmp_path):
    several = [{"prediction": row["references"][0], "predictions_by_reference": row["references"]} for row in ROWS]
    rows = [row | own for row, own in zip(ROWS, several, strict=True)]
    run = score_run("a", tmp_path, rows)
    assert run.scores["rouge1"] == pytest.approx([100] * 3)
    assert run.record["human"] == score_run("a", tmp_path, ROWS).record["human"]
    run.save()
    assert read_run(tmp_path, "a") == run


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
