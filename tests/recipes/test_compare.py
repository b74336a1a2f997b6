import json
import shutil

from conftest import SAMPLE, output_of, recipe_module
from dialogsum_sft import files
from dialogsum_sft.cli import parse
from dialogsum_sft.evaluation.runs import compare_runs, read_run, score_run

import pytest


def write_run(folder, rows, tokenizer="default"):
    score_run(folder.name, folder, rows, tokenizer=tokenizer).save()
    return folder


@pytest.fixture(scope="module")
def rows():
    rows = []
    for line in (SAMPLE / "train.jsonl").read_text(encoding="utf-8").splitlines()[:30]:
        row = json.loads(line)
        first_turn = row["dialogue"].split("\n")[0]
        rows.append(
            {"id": row["id"], "dialogue": row["dialogue"], "references": [row["summary"]], "prediction": first_turn}
        )
    return rows


@pytest.fixture(scope="module")
def runs(rows, tmp_path_factory):
    """Three runs: the first turn; the same with another format of the tags; the reference followed by [a_b & 5%]."""
    folder = tmp_path_factory.mktemp("runs")
    other = [row | {"prediction": row["prediction"].replace("#Person1#", "Person 1")} for row in rows]
    best = [row | {"prediction": f"{row['references'][0]} [a_b & 5%]"} for row in rows]
    return {
        "lead": write_run(folder / "x" / "eval-tuned", rows),
        "other": write_run(folder / "y" / "eval-tuned", other),
        "best": write_run(folder / "eval-best_1", best),
    }


@pytest.fixture
def call(recipe, monkeypatch, capsys, tmp_path):
    def call(*args, status=0):
        args = (*args, f"--output_dir={tmp_path / 'compare'}")
        monkeypatch.setenv("COLUMNS", "100")
        return output_of(recipe, capsys, "compare", *args, status=status)

    return call


def means(folder):
    record = json.loads((folder / "metrics.json").read_text())
    return [f"{record[kind]['mean']:.2f}" for kind in ("rouge1", "rouge2", "rougeL")]


def test_markdown_has_every_run_the_best_in_bold_and_the_paired_tests(call, runs):
    printed = call(runs["lead"], runs["other"], runs["best"], "--format=markdown", "--resamples=500")
    lines = printed.split("\n")
    assert lines[2] == "|  | ROUGE-1 | 95% interval | ROUGE-2 | ROUGE-L |"
    assert lines[3] == "|---|---:|---:|---:|---:|"
    start = lines.index("**Differences from x/eval-tuned, over the same dialogues**")
    scores, differences = (
        {line.split(" | ")[0].strip("| "): line.strip("| ").split(" | ")[1:] for line in part if line[:2] == "| "}
        for part in (lines[4:9], lines[start:])
    )
    rouge1, _, *others = scores["x/eval-tuned"]
    assert [rouge1, *others] == means(runs["lead"])
    rouge1, _, *others = scores["eval-best_1"]
    assert [rouge1, *others] == [f"**{mean}**" for mean in means(runs["best"])]
    assert "human ceiling" not in scores  # one reference each

    expected = compare_runs([read_run(runs[name]) for name in ("lead", "other", "best")], resamples=500)
    test = expected[0]["rouge1"]
    assert differences["y/eval-tuned"] == [
        "ROUGE-1",
        f"**{test.difference:+.2f}**",
        f"{test.ci95[0]:+.2f} to {test.ci95[1]:+.2f}",
        f"{test.p:.3f}",
        f"{test.wins}/{test.ties}/{test.losses}",
    ]
    assert test.p == pytest.approx(6 / 501)  # the smallest possible p, times six tests
    assert "Holm's over the 6 tests" in printed


def test_latex_has_a_tabular_for_each_table_and_escapes(call, runs):
    printed = call("--format", "latex", runs["lead"], runs["best"], "--resamples", "200")
    assert printed.count(r"\begin{tabular}") == printed.count(r"\end{tabular}") == 3
    assert r"eval-best\_1 & \textbf{" in printed
    assert "_1" not in printed.replace(r"\_1", "")
    comment = r"% needs \usepackage{booktabs}"
    assert printed.count(comment) == printed.count(r"\toprule") == 3
    assert "%" not in printed.replace(r"\%", "").replace(comment, "")


def test_text_has_the_tables_and_the_dialogues_that_differ_most(call, runs):
    printed = call(runs["lead"], runs["best"], "--num_examples=1", "--resamples=200")
    assert "ROUGE F1 x 100: 30 dialogues, against one reference" in printed
    assert "Beyond ROUGE" in printed
    assert "eval-best_1 - eval-tuned = +" in printed
    assert "[a_b & 5%]" in printed  # not taken for markup
    assert printed.count("╭") == 1  # the second run is worse in no dialogue
    *tables, page = printed.splitlines()
    assert page.endswith("report.html: scores, charts and every dialogue")
    assert max(map(len, tables)) <= 100


def test_runs_are_compared_with_the_first(call, runs):
    printed = call("--runs", runs["best"], runs["lead"], "--format=markdown", "--resamples=200")
    assert "Differences from eval-best_1" in printed
    assert "0/0/30" in printed


@pytest.mark.parametrize(
    "argv",
    [
        ["a", "b"],
        ["a", "--format", "latex", "b"],
        ["--format=latex", "a", "b"],
        ["--runs", "a", "b", "--seed", "1"],
        ["--seed", "1", "a", "b"],
    ],
)
def test_positional_arguments_are_runs(argv):
    (args,) = parse((recipe_module("compare").CompareArguments,), argv, positional="runs")
    assert args.runs == ["a", "b"]


def test_page_has_the_tests_of_the_seed_and_the_resamples(call, runs, tmp_path):
    """With 199 resamples no p can be below 0.005."""
    page = tmp_path / "compare" / "report.html"
    call(runs["lead"], runs["best"], "--resamples=199", "--seed=1")
    first = page.read_text(encoding="utf-8")
    assert "p = 0.015" in first  # 1 of 200, times three tests
    call(runs["lead"], runs["best"], "--resamples=199", "--seed=2")
    assert page.read_text(encoding="utf-8") != first


def changed(folder, target, change):
    shutil.copytree(folder, target)
    record = json.loads((target / "metrics.json").read_text())
    change(record)
    files.write_json(target / "metrics.json", record)
    return target


def test_runs_with_other_references_are_refused_with_the_difference(call, rows, runs, tmp_path):
    other = write_run(tmp_path / "other", [row | {"references": [row["references"][0] + "!"]} for row in rows])
    message = call(runs["lead"], other, status=2)
    assert "other cannot be compared with" in message
    assert "references_sha256 is '" in message
    fewer = write_run(tmp_path / "fewer", rows[:20])
    assert "dialogues is 20, not 30; references is 20, not 30" in call(runs["lead"], fewer, status=2)


def test_runs_with_another_tokenizer_are_refused(call, rows, runs, tmp_path):
    other = write_run(tmp_path / "other", rows, tokenizer="unicode")
    assert "tokenizer is 'unicode-1', not 'default'. Evaluate both" in call(runs["lead"], other, status=2)


def test_runs_on_other_dialogues_are_refused(call, rows, runs, tmp_path):
    other = write_run(tmp_path / "other", rows[:3] + [rows[3] | {"dialogue": "A: b"}] + rows[4:])
    assert "1 dialogues or their references differ, the first on line 4" in call(runs["lead"], other, status=2)


def test_edited_predictions_are_refused(call, rows, runs, tmp_path):
    edited = write_run(tmp_path / "edited", rows)
    files.write_jsonl(edited / "predictions.jsonl", [rows[0] | {"prediction": "x"}, *rows[1:]])
    assert "one of them was changed, so score it again" in call(runs["lead"], edited, status=2)


def test_predictions_cut_short_end_in_one_line(call, runs, tmp_path):
    cut = changed(runs["best"], tmp_path / "cut", lambda record: None)
    path = cut / "predictions.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:20]))
    assert f"{path} has 20 rows but metrics.json expects 30" in call(runs["lead"], cut, status=2)


def test_mistakes_end_in_one_line(call, runs, tmp_path):
    needed = "a comparison needs two or more folders of runs, with a judge one or more; given: "
    assert f"{needed}{runs['lead']}\n" in call(runs["lead"], status=2)
    assert f"{needed}none\n" in call(status=2)
    assert "given twice" in call(runs["lead"], runs["lead"], status=2)
    assert "has no predictions.jsonl and no metrics.json" in call(runs["lead"], tmp_path, status=2)
    old = changed(runs["best"], tmp_path / "old", lambda record: record.pop("baselines"))
    assert "is of an older version: score it again" in call(runs["lead"], old, status=2)
    (old / "metrics.json").write_text("{")
    assert "is not JSON" in call(runs["lead"], old, status=2)
    assert "unknown option in the command line: fromat" in call(runs["lead"], old, "--fromat=latex", status=2)
