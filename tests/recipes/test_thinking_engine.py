"""An engine whose model thinks and chats: what recipes/eval.py scores, and keeps."""

import json

from fake_endpoint import answer, serving

import pytest


@pytest.fixture
def server(monkeypatch):
    with serving(monkeypatch) as server:
        yield server


def evaluate(recipe, server, folder, *more):
    args = (f"--base_url={server.url}", "--served_model_name=m", "--dataset_name=sample", "--max_eval_samples=3")
    recipe("eval", "--engine=openai", *args, f"--output_dir={folder}", "--num_examples=0", *more)
    run = folder / ("eval-m-stripped" if "--strip_preamble=true" in more else "eval-m")
    rows = [json.loads(line) for line in (run / "predictions.jsonl").open(encoding="utf-8")]
    return rows, json.loads((run / "metrics.json").read_text(encoding="utf-8"))


def test_thinking_and_preambles_of_an_engine(recipe, server, tmp_path, capsys):
    text = "<think>Hm.</think>Summary: Tom sings."
    server.script = lambda content, number: (200, answer(text), {})
    rows, metrics = evaluate(recipe, server, tmp_path)
    assert {row["prediction"] for row in rows} == {"Summary: Tom sings."}
    assert {row["raw_prediction"] for row in rows} == {text}
    assert (metrics["diagnostics"]["thinking"], metrics["diagnostics"]["preamble"]) == (1, 1)
    asked = len(server.bodies)

    rows, metrics = evaluate(recipe, server, tmp_path, "--strip_preamble=true")
    assert {row["prediction"] for row in rows} == {"Tom sings."}
    assert {row["raw_prediction"] for row in rows} == {text}
    assert metrics["fingerprint"]["preambles"] == "taken off"
    assert len(server.bodies) == asked  # the summaries were there
    assert json.loads((tmp_path / "eval-m" / "metrics.json").read_text())["fingerprint"]["preambles"] == "scored"
    rows, _ = evaluate(recipe, server, tmp_path)
    assert {row["prediction"] for row in rows} == {"Summary: Tom sings."}

    server.script = lambda content, number: (200, answer("<think>Hm. Tom sings"), {})
    rows, metrics = evaluate(recipe, server, tmp_path / "unclosed")
    assert {row["prediction"] for row in rows} == {""}
    assert (metrics["unfinished"], metrics["diagnostics"]["empty"]) == (1, 1)
    assert "with thinking, which is not scored" in capsys.readouterr().out


def test_an_engine_does_not_overwrite_the_run_of_a_file(recipe, server, tmp_path):
    folder = tmp_path / "eval-m"
    evaluate(recipe, server, tmp_path)
    record = json.loads((folder / "metrics.json").read_text())
    record["model"]["predictions_file"] = "m.txt"
    (folder / "metrics.json").write_text(json.dumps(record))
    evaluate(recipe, server, tmp_path)
    assert json.loads((folder / "metrics.json").read_text()) == record
    assert (tmp_path / "eval-m-2" / "metrics.json").is_file()
