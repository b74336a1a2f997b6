"""The report as a file."""

import base64
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from dialogsum_sft import InputError
from dialogsum_sft.evaluation.diagnostics import Diagnosis
from dialogsum_sft.evaluation.rouge import rouge_scores
from dialogsum_sft.evaluation.runs import Run
from dialogsum_sft.report import report

import pytest
from sample_runs import EVIL, Page, fine_tuned, make_run, planted, sample_rows, write_log, zero_shot


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    """Two runs over 24 dialogues."""
    folder = tmp_path_factory.mktemp("small")
    rows = sample_rows(24)
    return [make_run("zero-shot", folder / "a", rows, zero_shot), make_run("tuned", folder / "b", rows, fine_tuned)]


def write(folder: Path, runs: list[Run], **options: Any) -> Page:
    report.write_report(folder / "report.html", runs, **{"title": "A report"} | options)
    return Page((folder / "report.html").read_text(encoding="utf-8"))


def test_page_refers_to_no_other_file_and_its_policy_allows_its_script_only(small: list[Run], tmp_path: Path):
    page = write(tmp_path, small)
    links = [value for _, attrs in page.tags for name in ("src", "href") if (value := attrs.get(name)) is not None]
    assert all(link.startswith("#") or link == "data:," for link in links)
    assert not {tag for tag, _ in page.tags} & {"img", "iframe", "object", "embed", "base"}
    policy = next(attrs["content"] for _, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy")
    digest = base64.b64encode(hashlib.sha256(page.scripts[0].encode()).digest()).decode()
    assert policy is not None
    assert policy.startswith("default-src 'none'; ")
    assert f"script-src 'sha256-{digest}';" in policy
    assert "url(" not in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_table_has_the_scores_of_the_record(small: list[Run], tmp_path: Path):
    rows = write(tmp_path, small).tables
    for run in small:
        metrics = run.record
        row = next(row for row in rows if row[0] == run.name)
        for cell, kind in zip(row[1:4], ("rouge1", "rouge2", "rougeL"), strict=True):
            low, high = metrics[kind]["ci95"]
            assert cell == f"{metrics[kind]['mean']:.2f}{low:.1f} to {high:.1f}"
        assert row[4] == f"{100 * metrics['share_of_human']['rouge1']:.0f}%"
    human = next(row for row in rows if row[0] == "human")
    assert human[1:4] == [f"{metrics['human'][kind]['mean']:.2f}" for kind in ("rouge1", "rouge2", "rougeL")]
    assert {"lead-1", "lead-3", "longest", "longest-3", "whole dialogue", "constant"} <= {
        row[0] for row in rows if row
    }


def test_reader_has_every_dialogue_with_its_scores(small: list[Run], tmp_path: Path):
    data = json.loads(write(tmp_path, small).scripts[-1])
    rows = small[1].rows
    assert [one["id"] for one in data["dialogues"]] == [row["id"] for row in rows]
    assert data["systems"] == ["zero-shot", "tuned"]
    for one, row in zip(data["dialogues"], rows, strict=True):
        assert "".join(text for text, _ in one["outputs"][1]["text"]) == row["prediction"]
        assert one["references"] == row["references"]
        scores = rouge_scores([row["prediction"]], [row["references"]])
        assert one["outputs"][1]["scores"] == [
            pytest.approx(sum(scores[kind][0]) / 3, abs=0.005) for kind in ("rouge1", "rouge2", "rougeL")
        ]
    assert data["dialogues"][0]["outputs"][1]["findings"] == ["unfinished", "name", "number", "tag"]


def test_planted_markup_stays_text(small: list[Run], tmp_path: Path):
    page = write(tmp_path, planted(tmp_path), title=f"title {EVIL}")
    clean = write(tmp_path, small)
    assert len(page.scripts) == len(clean.scripts) == 2
    assert page.scripts[0] == clean.scripts[0]
    assert not [attrs for tag, attrs in page.tags if tag == "img" or "onerror" in attrs]
    data = json.loads(page.scripts[1])
    assert data["dialogues"][0]["id"] == f"{EVIL}0"
    assert data["dialogues"][0]["references"][1] == "Hello \u2028 there."
    assert "<" not in page.scripts[1]


def test_segments_count_characters_outside_the_basic_plane_once():
    nothing: dict[str, Any] = {name: [] for name in ("wrong_tags", "foreign_tags", "unsupported_numbers")}
    numbers = dict.fromkeys(("length_ratio", "compression", "copied_run", "novel_bigrams", "repeated_trigrams"), 0.0)
    text = "\U0001f600 Ann met Bo"
    found = Diagnosis(
        words=3, unfinished=False, empty=False, unsupported_names=[(2, 5), (10, 12)], **numbers, **nothing
    )
    assert report.segments(text, found) == [["\U0001f600 ", ""], ["Ann", "name"], [" met ", ""], ["Bo", "name"]]


def test_single_run_with_one_reference_has_no_human_and_no_differences(tmp_path: Path):
    rows = [row | {"references": row["references"][:1], "topic": None} for row in sample_rows(3)]
    page = write(tmp_path, [make_run("tuned", tmp_path, rows, zero_shot)])
    sections = [attrs["id"] for tag, attrs in page.tags if tag == "section"]
    assert sections == ["scores", "spread", "faults", "slices", "dialogues", "record"]
    names = [row[0] for row in page.tables if row]
    assert "lead-3" in names
    assert "human" not in names
    assert "ROUGE-1, mean" in names
    assert "ROUGE-1, reference 1" not in names
    assert not [name for name in names if "−" in name]


def test_script_that_the_default_tokenizer_drops_scores_0_and_has_no_share_of_human(tmp_path: Path):
    row = {"id": "1", "dialogue": "甲：你好。\n乙：再见。", "references": ["甲问好。", "乙告别。"]}
    page = write(tmp_path, [make_run("a", tmp_path, [row, row | {"id": "2"}], lambda row, number: "甲走了。")])
    assert next(row for row in page.tables if row[:1] == ["a"])[1:5] == ["0.000.0 to 0.0"] * 3 + ["–"]


def test_names_and_numbers_are_counted_in_english_only(small: list[Run], tmp_path: Path):
    english = report.finding_rows(small)["name"]
    assert english["counts"] == [sum(bool(one.unsupported_names) for one in run.diagnoses) for run in small]
    assert english["references"] is not None
    row = {"id": "1", "dialogue": "Ann: Ich habe den Hund nicht.", "references": ["Ann hat den Hund nicht, und Bob?"]}
    runs = [make_run("a", tmp_path, [row, row | {"id": "2"}], lambda row, number: "Zoe und 5 Hunde sind nicht da.")]
    assert runs[0].record["diagnostics"]["unsupported_names"] is None
    assert report.finding_rows(runs)["name"]["counts"] == [None]
    write(tmp_path, runs)
    assert "not counted, the rules are for English." in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_no_count_of_cut_off_summaries_without_finish_reasons(small: list[Run], tmp_path: Path):
    rows = [{name: value for name, value in row.items() if name != "finish_reason"} for row in small[1].rows]
    row = next(row for row in write(tmp_path, [replace(small[1], rows=rows)]).tables if row[0].startswith("cut off"))
    assert row[1] == ""


def test_training_log_may_miss_values_but_not_whole_lines(tmp_path: Path):
    path = tmp_path / "training.jsonl"
    lines = ['{"format": 1}', '{"step": 1, "loss": 2.5, "grad_norm": null}', '{"loss": 9}', '{"step": 2, "loss": NaN}']
    lines += ['{"step": 2, "eval_loss": 2.0, "note": "text"}', '{"step": 3, "loss": 1.5}', '{"step": 4, "lo']
    path.write_text("\n".join(lines), encoding="utf-8")
    assert report.read_training_log(path) == {"loss": [(1, 2.5), (3, 1.5)], "eval_loss": [(2, 2.0)]}
    path.write_text('{"format": 1}\n{"step"\n{"step": 3}\n', encoding="utf-8")
    with pytest.raises(InputError, match=r"training.jsonl line 2 is not a JSON object: remove it"):
        report.read_training_log(path)


def test_curves_need_two_logged_values(small: list[Run], tmp_path: Path):
    log = write_log(tmp_path / "training.jsonl", 30)
    labels = [str(attrs.get("aria-label")) for _, attrs in write(tmp_path, small, training_log=log).tags]
    drawn = [label.partition(":")[0] for label in labels]
    assert {"Loss", "ROUGE of validation samples", "Learning rate", "Gradient norm"} <= set(drawn)
    assert "Token accuracy" not in drawn
    page = write(tmp_path, small, training_log=tmp_path / "none.jsonl")
    assert "training" not in [attrs.get("id") for _, attrs in page.tags]


def test_runs_that_are_not_comparable_are_refused(small: list[Run], tmp_path: Path):
    rows = [*small[1].rows[:2], small[1].rows[2] | {"references": ["Another."]}, *small[1].rows[3:]]
    with pytest.raises(InputError, match="1 dialogues or their references differ, the first on line 3"):
        write(tmp_path, [small[0], replace(small[1], rows=rows)])
    with pytest.raises(InputError, match="5 predictions, not 24"):
        write(tmp_path, [small[0], replace(small[1], rows=rows[:5])])
    assert not (tmp_path / "report.html").exists()
