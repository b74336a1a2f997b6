import io
from dataclasses import replace
from pathlib import Path

from dialogsum_sft.evaluation.runs import Run, compare_runs, score_run
from dialogsum_sft.report.run_tables import (
    diagnostics_table,
    dialogue_panel,
    difference_table,
    likelihood_table,
    score_table,
    tables,
)

import pytest
from rich.console import Console

DIALOGUES = [f"#Person1#: I lost my {thing} today.\n#Person2#: Look at home." for thing in ("key", "cat", "hat")]


def make_run(name: str, predictions: list[str], references: int = 2) -> Run:
    rows = [
        {
            "id": f"test_{i}",
            "dialogue": dialogue,
            "references": ["#Person1# lost something.", "Something is lost [b]."][:references],
            "prediction": prediction,
            "finish_reason": "stop",
        }
        for i, (dialogue, prediction) in enumerate(zip(DIALOGUES, predictions, strict=True))
    ]
    return score_run(name, Path(), rows)


@pytest.fixture
def runs() -> list[Run]:
    return [
        make_run("zero-shot", ["A day.", "A cat.", "A hat."]),
        make_run("tuned", ["#Person1# lost something."] * 3),
    ]


def test_score_table_frames_the_runs_by_baseline_and_human_ceiling(runs: list[Run]):
    table = score_table(runs)
    assert table.title == "ROUGE F1 x 100: 3 dialogues, mean over 2 references each"
    assert table.header == ["", "ROUGE-1", "95% interval", "ROUGE-2", "ROUGE-L", "of human"]
    assert [row[0] for row in table.rows][1:] == ["zero-shot", "tuned", "human ceiling", "difference"]
    tuned = runs[1].record
    low, high = tuned["rouge1"]["ci95"]
    assert table.rows[2][1:3] == [f"{tuned['rouge1']['mean']:.2f}", f"{low:.1f} to {high:.1f}"]
    assert table.rows[2][5] == f"{tuned['share_of_human']['rouge1']:.0%}"
    assert {cell for cell, style in table.styles.items() if style == "bold"} == {(2, 1), (2, 3), (2, 4)}
    assert table.rows[4][1] == f"{tuned['rouge1']['mean'] - runs[0].record['rouge1']['mean']:+.2f}"


@pytest.mark.parametrize("count", [1, 3])
def test_difference_is_shown_for_two_runs_only(runs: list[Run], count: int):
    some = [runs[0], runs[1], replace(runs[1], name="third")][:count]
    assert [row[0] for row in score_table(some).rows][-1] == "human ceiling"


def test_one_reference_has_no_human_ceiling():
    table = score_table([make_run("a", ["lost"] * 3, references=1)])
    assert table.title.endswith("3 dialogues, against one reference")
    assert "of human" not in table.header
    assert [row[0] for row in table.rows][1:] == ["a"]


def test_bertscore_is_noted_where_all_runs_have_it(runs: list[Run]):
    assert score_table(runs).note == ""
    for run, mean in zip(runs, (80.0, 90.5), strict=True):
        run.record["bertscore"] = {"mean": mean, "model": "roberta-large", "layer": 17}
    note = "BERTScore F1 x 100 of roberta-large, layer 17: zero-shot 80.00, tuned 90.50"
    assert score_table(runs).note == note


def test_diagnostics_of_runs_and_references(runs: list[Run]):
    table = diagnostics_table(runs)
    assert table.header == ["", "zero-shot", "tuned", "references"]
    by_label = {row[0]: row[1:] for row in table.rows}
    assert by_label["words"] == ["2.0", "3.0", "3.5"]
    assert by_label["cut off at max_new_tokens"] == ["0.0%", "0.0%", ""]


def test_references_that_the_rules_flag_are_in_the_note(runs: list[Run]):
    runs[0].record["diagnostics_of_references"] |= {"unsupported_names": 0.021, "unsupported_numbers": 0.01}
    note = "by rules for English, which flag 2.1% and 1.0% of the references."
    assert diagnostics_table(runs).note.endswith(note)
    by_label = {row[0]: row[1:] for row in diagnostics_table(runs).rows}
    assert by_label["with a name the dialogue lacks"] == ["0.0%", "0.0%", "2.1%"]
    for record in [*(run.record["diagnostics"] for run in runs), runs[0].record["diagnostics_of_references"]]:
        record |= {"unsupported_names": None, "unsupported_numbers": None}
    assert diagnostics_table(runs).note.endswith("not counted, the rules are for English.")
    assert "with a name the dialogue lacks" not in {row[0] for row in diagnostics_table(runs).rows}


def test_likelihoods_have_a_table_where_they_were_measured(runs: list[Run]):
    assert [table.title for table in tables(runs)][1:] == ["Beyond ROUGE"]
    value = {"mean": -2.346, "ci95": [-2.5, -2.1]}
    known = {"log_likelihood": value, "log_likelihood_gain": {"mean": 0.5, "ci95": None}}
    runs[1].record["likelihood"] = known | {"fingerprint": {"model": "m", "adapter": "12ab"}}
    (table,) = likelihood_table(runs)
    assert tables(runs)[2] == table
    assert table.header == ["", "per token", "95% interval", "gained by the dialogue", "95% interval"]
    assert table.rows == [["zero-shot", "", "", "", ""], ["tuned", "-2.35", "-2.50 to -2.10", "0.50", ""]]
    assert table.note == "Of different measures, so they are not compared: tuned under m with an adapter."
    runs[0].record["likelihood"] = runs[1].record["likelihood"]
    assert "under m with an adapter. It says which" in likelihood_table(runs)[0].note


def test_difference_table_marks_significant_differences(runs: list[Run]):
    tests = compare_runs(runs, resamples=99)
    tests[0]["rouge1"] = replace(tests[0]["rouge1"], p=0.0004)
    table = difference_table(runs, tests, 99)
    assert table.title == "Differences from zero-shot, over the same dialogues"
    assert [row[:2] for row in table.rows] == [["tuned", "ROUGE-1"], ["", "ROUGE-2"], ["", "ROUGE-L"]]
    assert table.rows[0][4:] == ["< 0.001", "3/0/0"]
    assert table.styles[0, 2] == "bold"
    assert "of 99 resamples; p is Holm's over the 3 tests" in table.note
    assert table.note.endswith(" With 3 dialogues no p can be below 0.75, whatever the systems: evaluate on more.")


def test_dialogue_panel_has_the_summaries_and_their_scores(runs: list[Run]):
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(dialogue_panel(runs, 1))
    plain = console.export_text()
    assert "test_1" in plain
    assert "I lost my cat today." in plain
    assert "zero-shot  A cat." in plain
    assert "ROUGE-1" not in plain
    console.print(dialogue_panel(runs, 1, with_scores=True))
    scored = console.export_text()
    scores = [run.scores["rouge1"][1] for run in runs]
    assert f"test_1: tuned - zero-shot = {scores[1] - scores[0]:+.1f} ROUGE-1" in scored
    assert f"{scores[1]:.1f}" in scored
