"""Evaluations that are interrupted, run on two processes, sample several candidates or use an endpoint."""

import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from conftest import ROOT, Recipe
from dialogsum_sft.generation import transformers_engine as generation
from fake_endpoint import KEY, serving

import pytest
from rouge_score.rouge_scorer import RougeScorer

Evaluate = Callable[..., None]


@pytest.fixture
def evaluate(recipe: Recipe) -> Evaluate:
    return functools.partial(recipe, "eval")


def arguments(model: Path, output_dir: Path, *more: str) -> list[str]:
    return [
        f"--model_name_or_path={model}",
        "--dataset_name=sample",
        f"--output_dir={output_dir}",
        "--max_eval_samples=9",
        "--max_new_tokens=6",
        "--max_batch_tokens=800",  # two dialogues
        *more,
    ]


def predictions(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "predictions.jsonl").open(encoding="utf-8")]


def start(*command: str | Path) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"}
    return subprocess.run(list(map(str, command)), cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)


def killed_after(batches: int) -> str:
    """A program that runs recipes/eval.py and is killed after some batches, during the next one."""
    return f"""
import os, runpy, signal, sys
from dialogsum_sft.generation import transformers_engine as generation

def generate_batches(*args, original=generation.generate_batches, **kwargs):
    for number, batch in enumerate(original(*args, **kwargs)):
        if number == {batches}:
            os.kill(os.getpid(), signal.SIGKILL)
        yield batch

generation.generate_batches = generate_batches
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.slow
def test_after_kill_9_only_missing_summaries_are_generated(
    evaluate: Evaluate,
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    done = start(
        sys.executable, "-c", killed_after(2), "recipes/eval.py", *arguments(tiny_folder, tmp_path / "killed")
    )
    assert done.returncode == -9
    partial = tmp_path / "killed" / "eval-base" / "predictions.partial.jsonl"
    kept = [json.loads(line)["id"] for line in partial.read_text().splitlines()[1:]]
    assert 2 <= len(kept) < 9

    generated: list[int] = []
    original = generation.generate_batches

    def counted(model: Any, tokenizer: Any, prompts: list[list[int]], *args: Any, **kwargs: Any) -> Any:
        generated.append(len(prompts))
        return original(model, tokenizer, prompts, *args, **kwargs)

    monkeypatch.setattr(generation, "generate_batches", counted)
    evaluate(*arguments(tiny_folder, tmp_path / "killed"))
    evaluate(*arguments(tiny_folder, tmp_path / "whole"))
    assert generated == [9 - len(kept), 9]
    assert f"{len(kept)} of 9 summaries are there" in capsys.readouterr().out.replace("\n", " ")
    assert predictions(tmp_path / "killed" / "eval-base") == predictions(tmp_path / "whole" / "eval-base")
    assert not partial.exists()
    metrics = json.loads((tmp_path / "killed" / "eval-base" / "metrics.json").read_text())
    assert metrics["engine"]["resumed"] == len(kept)


@pytest.mark.slow
def test_two_processes_summarise_each_dialogue_once_and_in_order(
    evaluate: Evaluate, tiny_folder: Path, tmp_path: Path
) -> None:
    done = start(
        Path(sys.executable).parent / "accelerate",
        *("launch", "--config_file", "accelerate_configs/cpu.yaml", "--main_process_port", "0", "recipes/eval.py"),
        *arguments(tiny_folder, tmp_path / "two"),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("ROUGE F1 x 100") == 1
    evaluate(*arguments(tiny_folder, tmp_path / "one"))
    assert [row["id"] for row in predictions(tmp_path / "two" / "eval-base")] == [f"test_{n}" for n in range(9)]
    assert predictions(tmp_path / "two" / "eval-base") == predictions(tmp_path / "one" / "eval-base")
    assert {path.name for path in (tmp_path / "two" / "eval-base").iterdir()} == {"predictions.jsonl", "metrics.json"}
    metrics = json.loads((tmp_path / "two" / "eval-base" / "metrics.json").read_text())
    assert metrics["hardware"]["processes"] == 2


def test_an_evaluation_with_other_options_does_not_resume(
    evaluate: Evaluate, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: Any, original: Any = generation.generate_batches, **kwargs: Any) -> Any:
        yield next(original(*args, **kwargs))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(generation, "generate_batches", interrupted)
        with pytest.raises(SystemExit):  # 130, of Ctrl-C
            evaluate(*arguments(tiny_folder, tmp_path))
    evaluate(*arguments(tiny_folder, tmp_path, "--max_new_tokens=5"))
    assert {path.name for path in (tmp_path / "eval-base").iterdir()} == {
        "predictions.jsonl",
        "metrics.json",
        "predictions.partial.jsonl.old",
    }
    assert json.loads((tmp_path / "eval-base" / "metrics.json").read_text())["engine"]["resumed"] == 0


def test_the_prediction_is_the_consensus_of_the_candidates(
    evaluate: Evaluate, tiny_folder: Path, tmp_path: Path
) -> None:
    for name in ("one", "two"):
        evaluate(*arguments(tiny_folder, tmp_path / name, "--num_candidates=4", "--max_eval_samples=3"))
    rows = predictions(tmp_path / "one" / "eval-base-mbr4")
    assert predictions(tmp_path / "two" / "eval-base-mbr4") == rows
    scorer = RougeScorer(["rouge1"], use_stemmer=True)
    for row in rows:
        texts = row["candidates"]
        assert len(texts) == len(set(texts)) == 4
        means = [
            sum(scorer.score(other, text)["rouge1"].fmeasure for other in texts) for text in texts
        ]  # each includes its score against itself, equal for all
        assert means[texts.index(row["prediction"])] == pytest.approx(max(means))
    engine = json.loads((tmp_path / "one" / "eval-base-mbr4" / "metrics.json").read_text())["engine"]
    assert (engine["num_candidates"], engine["generation"]["temperature"]) == (4, 0.7)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--num_candidates=0"], "--num_candidates 0: give 1 or more"),
        (["--num_candidates=2", '--generation_kwargs={"do_sample": false}'], "chooses among samples"),
        (['--generation_kwargs={"num_return_sequences": 2}'], "give --num_candidates instead"),
        (["--generation_kwargs=4"], "--generation_kwargs must be a JSON object"),
        (["--engine=openai"], "needs --base_url, such as http://localhost:8000/v1"),
        (["--engine=openai", "--base_url=x", "--adapter_path=y"], "evaluates what it serves"),
        (["--engine=openai", "--base_url=localhost:8000"], "give a URL such as http://localhost:8000/v1"),
        (["--engine=openai", "--base_url=http://me:key@localhost/v1"], "set OPENAI_API_KEY"),
        (
            ["--engine=openai", "--base_url=http://localhost/v1", '--generation_kwargs={"num_beams": 4}'],
            "--engine openai has no num_beams",
        ),
        (["--base_url=http://localhost:8000/v1"], "are for --engine openai, not transformers"),
        (["--engine=vllm", "--load_in_4bit=true"], "give the quantisation by --vllm_kwargs"),
        (["--engine=sglang"], "invalid choice: 'sglang'"),
    ],
)
def test_contradictory_options_are_refused_in_one_line(
    evaluate: Evaluate,
    tiny_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    message: str,
) -> None:
    with pytest.raises(SystemExit) as exit_info:
        evaluate(*arguments(tiny_folder, tmp_path, *flags))
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert exit_info.value.code == 2
    assert message in error
    assert "me:key" not in error


def test_an_endpoint_without_a_tokenizer_resumes_after_an_error(
    evaluate: Evaluate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(monkeypatch) as server:
        flags = ["--dataset_name=sample", "--max_eval_samples=4", f"--output_dir={tmp_path}", "--concurrency=1"]
        flags += ["--engine=openai", f"--base_url={server.url}", "--served_model_name=gpt-x"]
        server.script = lambda content, number: (401, "no", {}) if len(server.contents) > 2 else None
        with pytest.raises(SystemExit):
            evaluate(*flags)
        assert "HTTP 401: no" in capsys.readouterr().err
        server.script = lambda content, number: None
        evaluate(*flags)
        assert len(server.contents) == 3 + 2
    rows = predictions(tmp_path / "eval-gpt-x")
    assert [row["prediction"].endswith(row["dialogue"].upper().strip()) for row in rows] == [True] * 4
    assert rows[0]["prompt_tokens"] == 7
    record = (tmp_path / "eval-gpt-x" / "metrics.json").read_text()
    assert KEY not in record + capsys.readouterr().out
    assert json.loads(record)["model"]["base"] == "gpt-x"
    assert json.loads(record)["engine"]["resumed"] == 2


def test_equal_candidates_give_a_warning(
    evaluate: Evaluate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(monkeypatch) as server:
        flags = ["--dataset_name=sample", "--max_eval_samples=2", f"--output_dir={tmp_path}", "--num_candidates=3"]
        evaluate(*flags, "--engine=openai", f"--base_url={server.url}", "--served_model_name=gpt-x")
    assert {(body["seed"], body["temperature"]) for body in server.bodies} == {(42 + n, 0.7) for n in range(6)}
    lines = capsys.readouterr().out.splitlines()
    assert "warning: all candidates of every dialogue are alike: the engine does not sample" in lines
