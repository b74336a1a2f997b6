"""recipes/eval.py --predictions_file on files as other programs write them."""

import json

from conftest import sample_dialogues

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer
from test_predictions_file import evaluate, records  # noqa: F401, a fixture


@pytest.fixture(scope="module")
def examples():
    return sample_dialogues()


def lead(example):
    return example["dialogue"].split("\n")[0]


def jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def scored(evaluate, tmp_path):  # noqa: F811
    """Score a file beside the bundled test set; returns its rows, its metrics and what was printed."""

    def call(path, *args, name=None, dataset=True):
        args = (f"--predictions_file={path}", f"--output_dir={tmp_path / 'out'}", "--num_examples=0", *args)
        printed = evaluate(*args, *(["--dataset_name=sample"] if dataset else []))
        return *records(tmp_path / "out" / f"eval-{name or path.name.rsplit('.', 1)[0]}"), printed

    return call


def is_lead(metrics):
    baseline = metrics["baselines"]["lead-1"]
    return all(metrics[kind]["mean"] == pytest.approx(baseline[kind]["mean"]) for kind in baseline)


def test_lines_of_json_in_a_text_file(scored, examples, tmp_path):
    path = jsonl(
        tmp_path / "generated_predictions.txt", ({"labels": e["references"][0], "predict": lead(e)} for e in examples)
    )
    _, metrics, printed = scored(path)
    assert is_lead(metrics)
    assert "generated_predictions.txt: predictions are taken from predict" in printed
    assert (metrics["model"]["column"], metrics["model"]["matched_by"]) == ("predict", "order")


def test_a_table_with_a_row_too_few(evaluate, examples, tmp_path):  # noqa: F811
    path = tmp_path / "p.csv"
    path.write_text("id,prediction\n" + "".join(f'{e["id"]},"x"\n' for e in examples[:-1]))
    args = (f"--predictions_file={path}", "--dataset_name=sample", f"--output_dir={tmp_path}")
    assert "1 dialogues of sample (test) have no prediction: test_23" in evaluate(*args, status=2)
    path.write_text("prediction\n" + '"x"\n' * 23)
    assert "p.csv has 23 predictions but sample (test) has 24 dialogues in 72 rows" in evaluate(*args, status=2)
    path.rename(tmp_path / "p.txt")
    args = (f"--predictions_file={tmp_path / 'p.txt'}", *args[1:])
    assert "line 1 (prediction) is the header of a table: name the file .csv" in evaluate(*args, status=2)


@pytest.mark.parametrize("with_ids", [True, False])
def test_a_row_for_each_reference(scored, examples, tmp_path, with_ids):
    rows = [
        {"prediction": lead(e)} | ({"id": f"{e['id']}_{n}"} if with_ids else {}) for e in examples for n in (1, 2, 3)
    ]
    found, metrics, _ = scored(jsonl(tmp_path / "rows.jsonl", rows))
    assert (len(found), is_lead(metrics)) == (24, True)
    assert metrics["model"]["matched_by"] == ("ids of rows" if with_ids else "order of rows")


def test_rows_whose_predictions_differ_are_scored_against_their_own_references(scored, examples, tmp_path):
    texts = [[f"{lead(e)} {'really ' * n}" for n in range(3)] for e in examples]
    rows = [
        {"id": f"{e['id']}_{n + 1}", "prediction": t[n]}
        for e, t in zip(examples, texts, strict=True)
        for n in range(3)
    ]
    found, metrics, printed = scored(jsonl(tmp_path / "sampled.jsonl", rows))
    scorer = RougeScorer(["rouge1"], use_stemmer=True)
    by_hand = [
        100 * scorer.score(ref, text)["rouge1"].fmeasure
        for e, several in zip(examples, texts, strict=True)
        for ref, text in zip(e["references"], several, strict=True)
    ]
    assert metrics["rouge1"]["mean"] == pytest.approx(np.mean(by_hand))
    assert metrics["model"]["dialogues_with_several_predictions"] == 24
    assert found[0]["predictions_by_reference"] == texts[0]
    assert "the predictions for the rows of 24 dialogues differ" in " ".join(printed.split())


def test_a_limit_comes_before_matching(scored, evaluate, examples, tmp_path):  # noqa: F811
    path = jsonl(tmp_path / "first.jsonl", ({"id": e["id"], "prediction": lead(e)} for e in examples[:4]))
    found, metrics, _ = scored(path, "--max_eval_samples=4")
    assert ([row["id"] for row in found], metrics["examples"]) == (["test_0", "test_1", "test_2", "test_3"], 4)
    for limit in ("0", "-3"):
        for own in ([], ["--dataset_name=sample"]):
            said = evaluate(f"--predictions_file={path}", f"--max_eval_samples={limit}", *own, status=2)
            assert f"--max_eval_samples {limit} leaves no dialogue: give 1 or more" in said


def test_thinking_is_not_scored(scored, examples, tmp_path):
    texts = [e["references"][0] for e in examples]
    thought = [f"<think>\n#Person1# and so on: {i}.\n</think>\n\n{text}" for i, text in enumerate(texts)]
    plain = scored(jsonl(tmp_path / "plain.jsonl", ({"prediction": text} for text in texts)))[1]
    found, metrics, printed = scored(jsonl(tmp_path / "think.jsonl", ({"prediction": text} for text in thought)))
    assert metrics["rouge1"] == plain["rouge1"]
    assert [row["prediction"] for row in found] == texts
    assert [row["raw_prediction"] for row in found] == thought
    assert "with thinking, which is not scored" in printed
    assert metrics["diagnostics"]["thinking"] == 1


def test_preambles_are_counted_and_taken_off_on_request(scored, examples, tmp_path):
    texts = [e["references"][0] for e in examples]
    chatty = [f"Sure! Here is a summary of the dialogue:\n\n{text}" for text in texts]
    path = jsonl(tmp_path / "chatty.jsonl", ({"prediction": text} for text in chatty))
    found, kept, printed = scored(path)
    assert [row["prediction"] for row in found] == chatty
    assert "with a preamble" in printed
    assert kept["diagnostics"]["preamble"] == 1
    found, stripped, _ = scored(path, "--strip_preamble=true", name="chatty-stripped")
    assert [row["prediction"] for row in found] == texts
    assert stripped["rouge1"]["mean"] > kept["rouge1"]["mean"]
    assert stripped["fingerprint"]["preambles"] == "taken off" != kept["fingerprint"]["preambles"]


def test_half_an_emoji(scored, examples, tmp_path):
    rows = [{"id": e["id"], "prediction": f"{lead(e)} \ud83d"} for e in examples]
    found, metrics, printed = scored(jsonl(tmp_path / "emoji.jsonl", rows))
    assert found[0]["prediction"] == f"{lead(examples[0])} \ufffd"
    assert is_lead(metrics)
    assert "24 lone surrogates" in printed


def test_own_rows_with_numbers_as_ids_and_texts_as_references(scored, examples, tmp_path):
    rows = [e | {"id": i, "references": e["references"][0], "prediction": lead(e)} for i, e in enumerate(examples[:4])]
    found, metrics, _ = scored(jsonl(tmp_path / "own.jsonl", rows), dataset=False)
    assert [row["id"] for row in found] == ["0", "1", "2", "3"]
    assert found[0]["references"] == [examples[0]["references"][0]]
    assert metrics["references"] == 4


@pytest.mark.parametrize("reason", ["MAX_TOKENS", "max_tokens", "length"])
def test_reasons_of_servers(scored, examples, tmp_path, reason):
    rows = [{"id": e["id"], "prediction": lead(e), "finish_reason": reason} for e in examples]
    found, metrics, _ = scored(jsonl(tmp_path / "cut.jsonl", rows))
    assert (metrics["unfinished"], found[0]["finish_reason"]) == (1, reason)


def test_a_script_that_the_default_tokenizer_drops(scored, tmp_path):
    data = [
        {
            "id": f"zh{i}",
            "dialogue": f"王芳：{i}点开会吗？\n李明：是的。",
            "summary1": "王芳问时间。",
            "summary2": "李明说是。",
        }
        for i in range(2)
    ]
    path = tmp_path / "zh.txt"
    path.write_text("王芳问时间。\n李明说是。\n", encoding="utf-8")
    source = f"--dataset_name={jsonl(tmp_path / 'data.jsonl', data)}"
    _, metrics, printed = scored(path, source, dataset=False)
    assert metrics["human"]["rouge1"] == {"mean": 0, "max": 0}
    assert metrics["share_of_human"] == {}
    assert "give --rouge_tokenizer unicode" in " ".join(printed.split())
    _, metrics, _ = scored(path, source, "--rouge_tokenizer=unicode", name="zh-2", dataset=False)
    assert metrics["rouge1"]["mean"] == pytest.approx(50, abs=9)


def names(tmp_path):
    return sorted(path.name for path in (tmp_path / "out").glob("eval-*"))


def test_runs_are_named_after_the_whole_file_name(scored, examples, tmp_path):
    rows = [{"prediction": lead(e)} for e in examples]
    for name in ("Qwen2.5-7B.jsonl", "Qwen2.5-14B.jsonl"):
        scored(jsonl(tmp_path / name, rows))
    text = tmp_path / "bart.large.v2.hyp"
    text.write_text("".join(f"{lead(e)}\n" for e in examples))
    scored(text, name="bart.large.v2.hyp")
    assert names(tmp_path) == ["eval-Qwen2.5-14B", "eval-Qwen2.5-7B", "eval-bart.large.v2.hyp"]


def test_a_run_of_another_file_or_of_an_engine_is_never_overwritten(scored, examples, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one = jsonl(tmp_path / "a" / "bart.jsonl", ({"prediction": lead(e)} for e in examples))
    two = jsonl(tmp_path / "b" / "bart.jsonl", ({"prediction": "Nothing."} for e in examples))
    scored(one)
    scored(two, name="bart-2")
    scored(one)  # again in its own folder
    scored(two, name="bart-2")
    scored(jsonl(tmp_path / "base.jsonl", ({"prediction": "x"} for e in examples)), name="base-file")
    engine = tmp_path / "out" / "eval-checkpoint-20"
    engine.mkdir()
    (engine / "metrics.json").write_text('{"model": {"base": "m"}}')
    scored(jsonl(tmp_path / "checkpoint-20.jsonl", ({"prediction": "x"} for e in examples)), name="checkpoint-20-2")
    assert names(tmp_path) == [
        "eval-bart",
        "eval-bart-2",
        "eval-base-file",
        "eval-checkpoint-20",
        "eval-checkpoint-20-2",
    ]
    assert records(tmp_path / "out" / "eval-bart")[0][0]["prediction"] == lead(examples[0])


def test_a_column_is_named(scored, evaluate, examples, tmp_path):  # noqa: F811
    path = jsonl(tmp_path / "two.jsonl", ({"bart": "x", "t5": lead(e), "x": 1} for e in examples))
    said = evaluate(f"--predictions_file={path}", "--dataset_name=sample", status=2)
    assert "there are bart, t5, x; name yours by --prediction_column" in said
    assert is_lead(scored(path, "--prediction_column=t5", name="two-t5")[1])


SWAPPED = [i + 1 - 2 * (i % 2) for i in range(24)]


@pytest.mark.parametrize("name", ["dialog_id", "case"])
def test_ids_under_any_name(scored, examples, tmp_path, name):
    rows = [{name: examples[i]["id"], "prediction": lead(examples[i])} for i in SWAPPED]
    _, metrics, printed = scored(jsonl(tmp_path / "p.jsonl", rows))
    assert is_lead(metrics)
    assert metrics["model"]["matched_by"] == "ids"
    assert f"p.jsonl: ids are taken from {name}\np.jsonl: matched by ids\n" in printed


def test_id_column_of_the_predictions_or_of_the_dataset(scored, evaluate, examples, tmp_path):  # noqa: F811
    rows = [{"id": f"x{i}", "request_id": examples[i]["id"], "prediction": lead(examples[i])} for i in SWAPPED]
    path = jsonl(tmp_path / "p.jsonl", rows)
    assert is_lead(scored(path, "--id_column=request_id")[1])
    whole = ({"ticket": e["id"], "dialogue": e["dialogue"], "summary": e["references"][0]} for e in examples)
    args = (f"--dataset_name={jsonl(tmp_path / 'data.jsonl', whole)}", "--id_column=ticket")
    path = jsonl(path, [{"id": row["request_id"], "prediction": row["prediction"]} for row in rows])
    _, metrics, _ = scored(path, *args, dataset=False)
    assert is_lead(metrics)
    args = (f"--predictions_file={path}", "--dataset_name=sample", "--id_column=nowhere")
    assert "sample has no column nowhere" in evaluate(*args, status=2)


def test_predictions_that_fit_other_dialogues_are_warned_of(scored, examples, tmp_path):
    path = tmp_path / "p.txt"
    path.write_text("".join(f"{examples[i]['references'][0]}\n" for i in SWAPPED))
    _, _, printed = scored(path)
    assert "warning: p.txt: 24 of 24 predictions fit another dialogue" in printed
    assert "p.txt: matched by order" in printed


def test_special_tokens_are_not_scored_and_counted(scored, examples, tmp_path):
    rows = [{"prediction": f"<|begin_of_text|>{lead(e)}<|eot_id|>\n<|endoftext|>"} for e in examples]
    found, metrics, printed = scored(jsonl(tmp_path / "p.jsonl", rows))
    assert is_lead(metrics)
    assert metrics["diagnostics"]["marks"] == 1
    assert "with special tokens, which are not" in printed
    assert found[0]["raw_prediction"] == rows[0]["prediction"]
