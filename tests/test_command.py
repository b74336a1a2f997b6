"""`dialogsum-sft`: verbs, help, and the command as a wheel installs it in another directory."""

import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
import tomllib
from collections.abc import Callable
from pathlib import Path

from conftest import ROOT, training_args
from dialogsum_sft import __version__, command

import pytest

Call = Callable[..., int]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch) -> Call:
    def run(*words: str) -> int:
        monkeypatch.setattr(sys, "argv", ["dialogsum-sft", *words])
        try:
            command.main()
        except SystemExit as end:
            return int(end.code or 0)
        return 0

    return run


@pytest.mark.parametrize("words", [(), ("--help",), ("-h",)])
def test_help_fits_a_screen(call: Call, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]) -> None:
    assert call(*words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 120
    assert {"sft", "eval", "summarize", "quickstart"} <= set(re.findall(r"\w+", " ".join(lines)))


def test_each_verb_is_a_recipe() -> None:
    scripts = {path.stem for path in (ROOT / "recipes").glob("*.py")}
    assert {recipe for recipe, _ in command.VERBS.values()} == scripts


@pytest.mark.parametrize(
    ("verb", "message"), [("summarise", "did you mean summarize?"), ("serve", "there are sft, eval, compare")]
)
def test_an_unknown_verb_is_one_line(call: Call, capsys: pytest.CaptureFixture[str], verb: str, message: str) -> None:
    assert call(verb) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {verb} is no verb of dialogsum-sft: {message}")
    assert error.count("\n") == 1


def test_the_version_of_the_command_and_of_a_verb(call: Call, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (("--version",), ("merge", "--version")):
        assert call(*words) == 0
        assert capsys.readouterr().out == f"dialogsum-sft {__version__}\n"


def test_a_verb_runs_its_recipe(call: Call, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("sft", "--config", "quickstrat") == 2
    assert "config file not found: quickstrat; the package has aci_bench, " in capsys.readouterr().err
    assert call("inspect", "--config", "quickstart", "--learnign_rate", "1") == 2
    assert "unknown option in the command line: learnign_rate" in capsys.readouterr().err


@pytest.mark.parametrize("words", [("--completion",), ("--completion", "tcsh"), ("--completion", "bash", "x")])
def test_completion_names_its_shells(call: Call, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]) -> None:
    assert call(*words) == 2
    assert capsys.readouterr().err == "error: --completion needs the name of a shell: bash, zsh, fish\n"


def test_what_needs_no_model_imports_no_torch() -> None:
    """In a process of its own: `import dialogsum_sft`, the help, the version and an unknown verb."""
    code = """
        import sys
        from dialogsum_sft import command
        for word in ("--help", "--version", "summarise"):
            sys.argv = ["dialogsum-sft", word]
            try:
                command.main()
            except SystemExit:
                pass
        print(sorted({name.split(".")[0] for name in sys.modules} & {"torch", "transformers", "trl", "yaml", "numpy"}))
    """
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    lines = [sys.executable, "-c", textwrap.dedent(code)]
    started = os.times().children_user
    done = subprocess.run(lines, capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert os.times().children_user - started < 0.3


def test_the_wheel_has_every_package() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {path.parent.relative_to(ROOT) for path in (ROOT / "dialogsum_sft").rglob("__init__.py")}
    packages = {".".join(folder.parts) for folder in folders}
    assert set(settings["packages"]) == packages | set(settings["package-dir"])


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package as its wheel installs it, and bin/dialogsum-sft."""
    source, site = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    for name in ("dialogsum_sft", "recipes", "accelerate_configs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", site, source], check=True)
    return site


@pytest.mark.slow
def test_the_wheel_trains_and_summarises_in_another_directory(
    installed: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    environment = os.environ | {"PYTHONPATH": str(installed), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}

    def dialogsum_sft(*words: str, stdin: str = "") -> str:
        script = [sys.executable, installed / "bin" / "dialogsum-sft", *words]
        done = subprocess.run(script, cwd=tmp_path, env=environment, capture_output=True, text=True, input=stdin)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "quickstart" in dialogsum_sft("--help")
    args = training_args(tiny_folder, "runs/x", "--max_steps=1", "--max_length=512", "--max_train_samples=4")
    dialogsum_sft("sft", "--config", "quickstart", *args)
    record = json.loads((tmp_path / "runs" / "x" / "adapter" / "run.json").read_text())
    assert record["arguments"]["lora_r"] == 16
    model = f"--model_name_or_path={tiny_folder}"
    words = ("summarize", "--adapter_path=runs/x/adapter", model, "--max_new_tokens=4", "--output_format=jsonl")
    made = json.loads(dialogsum_sft(*words, stdin="Mila: The boat leaves at six.\nOren: Good."))
    assert made["completion_tokens"] <= 4
    assert made["dropped_turns"] == 0
