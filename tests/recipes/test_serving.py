"""README's commands for serving: a merged model behind an endpoint gives the summaries of the transformers engine."""

import json
import shlex
import sys
from pathlib import Path

from conftest import ROOT, Recipe, recipe_caller, training_args
from served import free_port, server

import pytest

RUN = Path("runs/quickstart")


def commands(section: str) -> list[list[str]]:
    """The commands of the code blocks in a section of README.md."""
    (text,) = [part for part in (ROOT / "README.md").read_text("utf-8").split("\n## ") if part.startswith(section)]
    blocks = text.split("```\n")[1::2]
    return [shlex.split(line.removesuffix(" &")) for block in blocks for line in block.splitlines()]


@pytest.fixture
def trained(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """The current folder has a run of sft.py in runs/quickstart; returns what calls a recipe."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    recipe = recipe_caller(monkeypatch)
    recipe("sft", *training_args(tiny_folder, RUN, "--learning_rate=0.01", "--instruction=Sum up:"))
    return recipe


@pytest.mark.slow
def test_the_commands_of_the_readme(trained: Recipe, capsys: pytest.CaptureFixture[str]) -> None:
    for package in ("fastapi", "openai", "uvicorn"):
        pytest.importorskip(package, reason="transformers serve needs transformers[serving]")
    merge, serve, evaluate, evaluate_served, compare = commands("Publish and serve")
    short = ["--dtype=float32", "--max_eval_samples=3", "--max_new_tokens=8"]
    assert [command[:2] for command in (merge, evaluate, evaluate_served, compare)] == [
        ["dialogsum-sft", name] for name in ("merge", "eval", "eval", "compare")
    ]
    assert serve[:2] == ["transformers", "serve"]

    trained("merge", *merge[2:])
    assert (RUN / "merged" / "model-q8_0.gguf").is_file()
    trained("eval", *evaluate[2:], *short)
    port = free_port()
    more = ["--device", "cpu", "--dtype", "float32", "--host", "127.0.0.1", "--port", str(port)]
    with server([Path(sys.executable).parent / "transformers", *serve[1:], *more], "Uvicorn running"):
        at = [f"http://127.0.0.1:{port}/v1" if "localhost" in word else word for word in evaluate_served[2:]]
        trained("eval", *at, *short)
    said = capsys.readouterr().out
    assert "other prompt tokens" not in said
    folders = [Path(word) for word in compare[2:]]
    assert (folders[0] / "predictions.jsonl").read_text() == (folders[1] / "predictions.jsonl").read_text()
    assert any(json.loads(line)["prediction"] for line in (folders[0] / "predictions.jsonl").open())
    trained("compare", *compare[2:])
    said = capsys.readouterr().out
    assert "+0.00" in said
    assert "0/3/0" in said  # won, tied, lost
