import json
import platform
import subprocess
from pathlib import Path

from conftest import ROOT
from dialogsum_sft import provenance

import pytest
import trl


def git(folder, *command):
    config = ["-c", "user.name=nobody", "-c", "user.email=nobody@example.com"]
    return subprocess.run(["git", "-C", folder, *config, *command], capture_output=True, text=True, check=True).stdout


def test_versions():
    found = provenance.versions()
    assert set(found) == {
        "python",
        "trl",
        "transformers",
        "datasets",
        "peft",
        "bitsandbytes",
        "accelerate",
        "evaluate",
        "rouge_score",
        "torch",
        "dialogsum_sft",
    }
    assert "not installed" not in found.values()
    assert (found["python"], found["trl"]) == (platform.python_version(), trl.__version__)


def test_hardware_has_no_host_name(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    found = provenance.hardware()
    assert set(found) == {"gpus", "cpu_cores", "cpu_capability", "memory_gib", "processes"}
    assert found["cpu_cores"] >= 1
    assert found["memory_gib"] > 0.5
    assert found["processes"] == 3
    assert platform.node() not in json.dumps(found)


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a checkout")
def test_revision_of_this_checkout():
    assert provenance.git_revision().removesuffix("+") == git(ROOT, "rev-parse", "HEAD").strip()


def test_revision_of_a_changed_checkout_ends_in_a_plus(monkeypatch, tmp_path):
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "provenance.py"))
    (tmp_path / "file").write_text("one")
    git(tmp_path, "init")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "-m", "one")
    head = git(tmp_path, "rev-parse", "HEAD").strip()
    assert len(head) == 40
    assert provenance.git_revision() == head
    (tmp_path / "file").write_text("two")
    assert provenance.git_revision() == head + "+"


def test_no_revision_outside_a_checkout(monkeypatch, tmp_path):
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "provenance.py"))
    assert provenance.git_revision() is None


def test_the_digest_of_weights_follows_their_contents(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "adapter_model.safetensors").write_bytes(b"one")
    before = provenance.weights_digest(str(tmp_path))
    (tmp_path / "adapter_model.safetensors").write_bytes(b"two")
    assert provenance.weights_digest(str(tmp_path)) != before
    assert provenance.weights_digest("some/hub-id") is None
