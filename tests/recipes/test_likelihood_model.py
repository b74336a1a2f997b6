"""recipes/eval.py --likelihood_model measures any predictions; recipes/compare.py compares what was measured alike."""

import json
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from conftest import Recipe, fails, output_of, sample_dialogues
from dialogsum_sft.data.prompts import PromptSettings, encode
from dialogsum_sft.generation import likelihood as measuring
from dialogsum_sft.modeling import load_adapter
from forked_recipe import start
from sft_runs import WholeRun

import pytest
import torch
from accelerate import PartialState
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

Evaluate = Callable[..., str]


def records(folder: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    rows = [json.loads(line) for line in (folder / "predictions.jsonl").open(encoding="utf-8")]
    return rows, json.loads((folder / "metrics.json").read_text(encoding="utf-8"))


@pytest.fixture
def evaluate(recipe: Recipe, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Evaluate:
    monkeypatch.setenv("COLUMNS", "100")
    return lambda *args: output_of(recipe, capsys, "eval", *map(str, args))


@pytest.fixture
def summaries(tmp_path: Path) -> Path:
    """A line for each of the sample's test dialogues; the second is empty."""
    lines = [row["references"][0] for row in sample_dialogues()]
    path = tmp_path / "mine.txt"
    path.write_text("\n".join([lines[0], "", *lines[2:]]) + "\n", encoding="utf-8")
    return path


def of_file(path: Path, folder: Path, *more: str) -> list[str]:
    return [f"--predictions_file={path}", "--dataset_name=sample", f"--output_dir={folder}", *more]


@torch.no_grad()
def naive(model: Any, tokenizer: PreTrainedTokenizerFast, dialogue: str, summary: str) -> float:
    row = encode(tokenizer, dialogue, summary, [tokenizer.eos_token_id], PromptSettings())
    log_probs = model(torch.tensor([row["input_ids"]])).logits[0].double().log_softmax(-1)
    at = range(row["prompt_tokens"], len(row["input_ids"]) - 1)
    return sum(float(log_probs[i - 1, row["input_ids"][i]]) for i in at) / len(at)


def test_any_predictions_are_measured_without_a_change_to_rouge(
    evaluate: Evaluate, tiny_folder: Path, chatml_tokenizer: PreTrainedTokenizerFast, summaries: Path, tmp_path: Path
) -> None:
    plain = evaluate(*of_file(summaries, tmp_path / "plain"))
    assert "Likelihood" not in plain
    model = (f"--likelihood_model={tiny_folder}", "--likelihood_dtype=float32")
    printed = evaluate(*of_file(summaries, tmp_path / "measured", *model))
    assert "Likelihood of the summaries" in printed
    assert "1 summaries have no likelihood: 1 empty summary" in printed
    rows, metrics = records(tmp_path / "measured" / "eval-mine")
    loaded = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)
    for row in [rows[0], rows[7]]:
        given, alone = (naive(loaded, chatml_tokenizer, text, row["prediction"]) for text in (row["dialogue"], ""))
        assert row["log_likelihood"] == pytest.approx(given, abs=1e-4)
        assert row["log_likelihood_gain"] == pytest.approx(given - alone, abs=1e-4)
    assert rows[1]["log_likelihood"] is rows[1]["log_likelihood_gain"] is None
    record = metrics.pop("likelihood")
    values = [row["log_likelihood"] for row in rows if row["log_likelihood"] is not None]
    assert record["log_likelihood"]["mean"] == pytest.approx(sum(values) / 23)
    assert (record["summaries"], record["empty"], record["left_out"], record["shortened"]) == (23, 1, {}, 0)
    assert record["fingerprint"]["model"] == tiny_folder.name
    assert record["fingerprint"]["prompt"] == PromptSettings().sha256(chatml_tokenizer)
    assert metrics == records(tmp_path / "plain" / "eval-mine")[1]
    assert not list((tmp_path / "measured" / "eval-mine").glob("likelihood*"))
    page = (tmp_path / "measured" / "report.html").read_text(encoding="utf-8")
    assert '<option value="support 0">least supported first: mine</option>' in page


def test_an_adapter_brings_its_base_prompt_and_lengths(
    evaluate: Evaluate,
    whole_run: WholeRun,
    chatml_tokenizer: PreTrainedTokenizerFast,
    tiny_folder: Path,
    tmp_path: Path,
) -> None:
    """Both systems are measured by the tuned model; another start measures nothing, another model all."""
    adapter = whole_run(instruction="Say it briefly.", dtype="float32", max_length=160) / "adapter"
    args = (f"--adapter_path={adapter}", f"--output_dir={tmp_path}", "--max_eval_samples=3", "--max_new_tokens=8")
    evaluate(*args, f"--likelihood_adapter={adapter}")
    loaded = load_adapter(AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32), str(adapter))
    for name in ("eval-base", "eval-tuned"):
        rows, metrics = records(tmp_path / name)
        fingerprint = metrics["likelihood"]["fingerprint"]
        assert (fingerprint["max_length"], fingerprint["dtype"]) == (160, "float32")
        assert fingerprint["adapter"] is not None
        assert metrics["likelihood"]["shortened"] > 0
        settings = PromptSettings("Say it briefly.")
        assert fingerprint["prompt"] == settings.sha256(chatml_tokenizer)
        row = encode(chatml_tokenizer, "", rows[0]["prediction"], [chatml_tokenizer.eos_token_id], settings)
        with torch.no_grad():
            log_probs = loaded(torch.tensor([row["input_ids"]])).logits[0].log_softmax(-1)
        at = range(row["prompt_tokens"], len(row["input_ids"]) - 1)
        alone = sum(float(log_probs[i - 1, row["input_ids"][i]]) for i in at) / len(at)
        assert rows[0]["log_likelihood"] - rows[0]["log_likelihood_gain"] == pytest.approx(alone, abs=1e-4)

    before = (tmp_path / "eval-tuned" / "predictions.jsonl").read_text()
    calls: list[int] = []
    original = measuring.log_likelihoods
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measuring, "log_likelihoods", lambda *args: calls.append(1) or original(*args))
        printed = evaluate(*args, f"--likelihood_adapter={adapter}")
        assert not calls
        evaluate(*args)  # without the option, what was measured stays
        assert (tmp_path / "eval-tuned" / "predictions.jsonl").read_text() == before
        assert records(tmp_path / "eval-tuned")[1]["likelihood"]["fingerprint"] == fingerprint
        evaluate(*args, f"--likelihood_model={tiny_folder}")
    assert "eval-tuned: all likelihoods are there, of the same model" in printed.replace("\n", " ")
    assert calls
    assert records(tmp_path / "eval-tuned")[1]["likelihood"]["fingerprint"]["adapter"] is None


def test_in_4_bits(evaluate: Evaluate, tiny_folder: Path, summaries: Path, tmp_path: Path) -> None:
    options = (f"--likelihood_model={tiny_folder}", "--likelihood_dtype=float32", "--max_eval_samples=2")
    evaluate(*of_file(summaries, tmp_path, *options))
    whole = records(tmp_path / "eval-mine")
    evaluate(*of_file(summaries, tmp_path, *options, "--likelihood_load_in_4bit=true"))
    quantised = records(tmp_path / "eval-mine")
    assert [one[1]["likelihood"]["fingerprint"]["load_in_4bit"] for one in (whole, quantised)] == [False, True]
    values = [one[0][0]["log_likelihood"] for one in (whole, quantised)]
    assert values[0] != values[1]
    assert values[0] == pytest.approx(values[1], abs=0.2)


def test_compare_has_the_paired_test(
    evaluate: Evaluate, recipe: Recipe, capsys: pytest.CaptureFixture[str], tiny_folder: Path, tmp_path: Path
) -> None:
    for name, number in (("a", 0), ("b", 1)):
        path = tmp_path / f"{name}.txt"
        path.write_text("".join(row["references"][number] + "\n" for row in sample_dialogues()), encoding="utf-8")
        evaluate(*of_file(path, tmp_path, f"--likelihood_model={tiny_folder}"))
    folders = [tmp_path / f"eval-{name}" for name in "ab"]
    args = [*map(str, folders), "--resamples=200", f"--output_dir={tmp_path / 'compare'}"]
    printed = output_of(recipe, capsys, "compare", *args, "--format=markdown")
    means = [records(folder)[1]["likelihood"]["log_likelihood"]["mean"] for folder in folders]
    assert f"| likelihood | {means[1] - means[0]:+.2f} |" in printed
    assert "p is Holm's over the 5 tests" in printed
    page = (tmp_path / "compare" / "report.html").read_text(encoding="utf-8")
    assert f"<td>{means[1] - means[0]:+.2f}<small>p " in page
    metrics = records(folders[1])[1]
    metrics["likelihood"]["fingerprint"]["dtype"] = "other"
    (folders[1] / "metrics.json").write_text(json.dumps(metrics))
    printed = output_of(recipe, capsys, "compare", *args, "--format=markdown")
    assert "Of different measures, so they are not compared" in printed
    assert "| likelihood |" not in printed


def test_mistakes_end_in_one_line_before_anything_is_generated(
    recipe: Recipe,
    capsys: pytest.CaptureFixture[str],
    tiny_folder: Path,
    whole_run: WholeRun,
    summaries: Path,
    tmp_path: Path,
) -> None:
    def error(*options: str) -> str:
        return fails(recipe, capsys, "eval", *of_file(summaries, tmp_path / "out", *options))

    assert "of --likelihood_model: give it" in error("--likelihood_dtype=float32")
    assert "no adapter in" in error(f"--likelihood_adapter={tmp_path}")
    assert "cannot load" in error(f"--likelihood_model={tmp_path}")
    adapter = whole_run() / "adapter"
    assert "give --likelihood_model" in error("--likelihood_model=other/base", f"--likelihood_adapter={adapter}")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_after_kill_9_the_same_command_goes_on(
    evaluate: Evaluate, tiny_folder: Path, summaries: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = of_file(summaries, tmp_path / "runs", f"--likelihood_model={tiny_folder}", "--max_batch_tokens=800")
    batches: list[int] = []
    original = measuring.log_likelihoods

    def counted(model: Any, sequences: Any) -> list[float]:
        if len(batches) == 3 and os.getpid() != own:
            os.kill(os.getpid(), signal.SIGKILL)
        batches.append(len(sequences))
        return original(model, sequences)

    own = os.getpid()
    monkeypatch.setattr(measuring, "log_likelihoods", counted)
    assert start(tmp_path, "eval", args).wait() == -9
    partial = tmp_path / "runs" / "eval-mine" / "likelihood.partial.jsonl"
    kept = len(partial.read_text().splitlines()) - 1
    assert 3 <= kept < 46
    printed = evaluate(*args)
    assert f"eval-mine: {kept} likelihoods were there from an earlier evaluation" in printed
    assert sum(batches) == 46 - kept
    assert {path.name for path in partial.parent.iterdir()} == {"predictions.jsonl", "metrics.json"}
    assert records(partial.parent)[1]["likelihood"]["summaries"] == 23


@pytest.mark.slow
def test_two_processes_share_the_work(
    evaluate: Evaluate, tiny_folder: Path, summaries: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = (f"--likelihood_model={tiny_folder}", "--likelihood_dtype=float32", "--max_batch_tokens=800")
    PartialState._reset_state()  # which the processes would inherit
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1]), "WORLD_SIZE": "2"}
    ranks = []
    for rank in "01":
        (folder := tmp_path / rank).mkdir()
        with monkeypatch.context() as patch:
            for name, value in (where | {"RANK": rank, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": "2"}).items():
                patch.setenv(name, value)
            ranks.append(start(folder, "eval", of_file(summaries, tmp_path / "two", *model)))
    assert [one.wait() for one in ranks] == [0, 0], ranks[0].lines()[-3:]
    assert (tmp_path / "0" / "out").read_text().count("Likelihood of the summaries") == 1
    assert (tmp_path / "1" / "out").read_text() == ""
    evaluate(*of_file(summaries, tmp_path / "one", *model))
    two, one = (records(tmp_path / name / "eval-mine")[0] for name in ("two", "one"))
    assert [row["id"] for row in two] == [row["id"] for row in one]
    for a, b in zip(two, one, strict=True):
        assert a["log_likelihood"] == pytest.approx(b["log_likelihood"], abs=1e-5)
    assert {path.name for path in (tmp_path / "two" / "eval-mine").iterdir()} == {"predictions.jsonl", "metrics.json"}


@pytest.mark.slow
def test_the_embedded_model_finds_summaries_of_other_dialogues_less_supported(
    evaluate: Evaluate, tmp_path: Path
) -> None:
    dialogues = sample_dialogues()[:2]
    rows = [
        row | {"id": f"{row['id']}, summary {number}", "prediction": other["references"][0]}
        for row in dialogues
        for number, other in enumerate(dialogues)
    ]
    path = tmp_path / "mixed.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    evaluate(f"--predictions_file={path}", f"--output_dir={tmp_path}", "--likelihood_model=embedded")
    gains = [row["log_likelihood_gain"] for row in records(tmp_path / "eval-mixed")[0]]
    assert gains[0] > 1 + gains[1], gains
    assert gains[3] > 1 + gains[2], gains
