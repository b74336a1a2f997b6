"""Only the finished adapter is pushed to the hub; here uploads are collected in a list."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from conftest import Recipe, fails, files, training_args
from dialogsum_sft.publish import hub

import pytest
from huggingface_hub import HfApi
from huggingface_hub.utils import filter_repo_objects


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture
def pushed(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The arguments of each upload_folder, with the names of the files in the folder."""
    calls: list[dict[str, Any]] = []

    def create_repo(self: HfApi, name: str, **kwargs: Any) -> SimpleNamespace:
        return SimpleNamespace(repo_id=f"ana/{name}")

    def upload_folder(self: HfApi, **kwargs: Any) -> SimpleNamespace:
        calls.append(kwargs | {"files": files(Path(kwargs["folder_path"]))})
        return SimpleNamespace(commit_url="https://hub/commit")

    monkeypatch.setattr(HfApi, "create_repo", create_repo)
    monkeypatch.setattr(HfApi, "upload_folder", upload_folder)
    return calls


def test_the_finished_adapter_is_pushed_and_nothing_else(
    recipe: Recipe,
    pushed: list[dict[str, Any]],
    tiny_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    more = ["--push_to_hub=true", "--hub_model_id=sums", "--save_strategy=steps", "--save_steps=1", "--max_steps=2"]
    recipe("sft", *training_args(tiny_folder, tmp_path, *more))
    (call,) = pushed
    assert (call["repo_id"], call["folder_path"]) == ("ana/sums", tmp_path / "adapter")
    assert "README.md" in call["files"]
    assert "training_args.bin" not in call["files"]
    assert "token" not in call
    assert str(tmp_path) not in call["commit_message"]
    assert "pushed: https://hub/commit" in capsys.readouterr().out
    assert 'path = "ana/sums"' in (tmp_path / "adapter" / "README.md").read_text()


def test_pushing_without_a_hub_is_refused_before_training(
    recipe: Recipe,
    capsys: pytest.CaptureFixture[str],
    tiny_folder: Path,
    tmp_path: Path,
) -> None:
    error = fails(recipe, capsys, "sft", *training_args(tiny_folder, tmp_path / "out", "--push_to_hub=true"))
    assert "cannot push to the hub as 'out'" in error
    assert "hf auth login" in error
    assert files(tmp_path) == set()


@pytest.mark.parametrize(
    "name", ["training_args.bin", "optimizer.pt", "checkpoint-2/model.safetensors", ".partial", "a/.b"]
)
def test_pickles_checkpoints_and_unfinished_files_are_never_pushed(tmp_path: Path, name: str) -> None:
    kept = list(
        filter_repo_objects([name, "README.md", "adapter_model.safetensors"], ignore_patterns=hub.NEVER_PUSHED)
    )
    assert kept == ["README.md", "adapter_model.safetensors"]
