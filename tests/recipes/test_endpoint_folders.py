"""Where the runs of an endpoint's models are written: none replaces another's."""

import json
from collections.abc import Iterator
from pathlib import Path

from conftest import Recipe
from fake_endpoint import Server, serving

import pytest


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with serving(monkeypatch) as server:
        yield server


def evaluate(recipe: Recipe, folder: Path, base_url: str, model: str, *more: str) -> None:
    flags = ["--dataset_name=sample", "--max_eval_samples=3", f"--output_dir={folder}", "--num_examples=0"]
    flags += ["--engine=openai", f"--base_url={base_url}", f"--served_model_name={model}", "--concurrency=1"]
    recipe("eval", *flags, *more)


def models(folder: Path) -> dict[str, tuple[str, str]]:
    """{name of the run's folder: (model, base_url)}"""
    found = {}
    for path in folder.glob("eval-*/metrics.json"):
        record = json.loads(path.read_text())
        found[path.parent.name] = record["model"]["base"], record["engine"]["base_url"]
    return found


def test_the_runs_of_models_and_endpoints_stand_side_by_side(
    recipe: Recipe, server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other_url = server.url.replace("/v1", "/other/v1")
    runs = [(server.url, name) for name in ("modelA", "modelB", "org/Model 7B", "org-Model-7B", "base", "模型")]
    runs += [(other_url, "modelA")]
    for base_url, model in runs * 2:
        evaluate(recipe, tmp_path, base_url, model)
    assert models(tmp_path) == {
        "eval-modelA": ("modelA", server.url),
        "eval-modelB": ("modelB", server.url),
        "eval-org-Model-7B": ("org/Model 7B", server.url),
        "eval-org-Model-7B-2": ("org-Model-7B", server.url),
        "eval-base-served": ("base", server.url),
        "eval-served": ("模型", server.url),
        "eval-modelA-2": ("modelA", other_url),
    }
    assert len(server.contents) == 3 * len(runs)  # the second time all are there
    said = capsys.readouterr().out
    assert "modelB" in said
    assert "│ served" not in said
    assert "modelA" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_an_interrupted_run_beside_the_run_of_another_endpoint_goes_on(
    recipe: Recipe, server: Server, tmp_path: Path
) -> None:
    evaluate(recipe, tmp_path, server.url, "m")
    server.contents.clear()
    server.script = lambda content, number: (401, "no", {}) if len(server.contents) > 2 else None
    other_url = server.url.replace("/v1", "/other/v1")
    with pytest.raises(SystemExit):
        evaluate(recipe, tmp_path, other_url, "m")
    server.script = lambda content, number: None
    evaluate(recipe, tmp_path, other_url, "m")
    assert len(server.contents) == 3 + 1
    assert models(tmp_path) == {"eval-m": ("m", server.url), "eval-m-2": ("m", other_url)}
