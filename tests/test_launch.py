"""`--accelerate_config`: the statuses of the processes arrive, and standard error has one line."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from conftest import ROOT, Recipe
from dialogsum_sft.launch import start_processes
from ranks import CONFIGS
from sft_runs import sft_args, start_training, text_of

import psutil
import pytest

# A recipe that ends as its first argument says, once both of its processes have started.
RECIPE = """
import os, signal, sys, time
from pathlib import Path
from dialogsum_sft import InputError, Stopped
from dialogsum_sft.cli import run

def main():
    rank, how = os.environ["RANK"], sys.argv[1]
    Path(f"started{rank}").touch()
    while not (Path("started0").exists() and Path("started1").exists()):
        time.sleep(0.01)
    if how == "mistake":
        raise InputError(f"mistake on {rank}")
    if how == "nan":
        raise Stopped(f"the loss is nan on {rank}")
    if how == "killed" and rank == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    if how in ("stop", "killed"):
        asked = []
        signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
        Path(f"waiting{rank}").touch()
        while not asked:
            time.sleep(0.01)
        raise Stopped(f"stopped on {rank}", status=75)

run(main, launches=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "status", "said"),
    [
        ("end", 0, ""),
        ("mistake", 2, "error: mistake on 0\n"),
        ("nan", 1, "error: the loss is nan on 0\n"),
        ("stop", 75, "stopped on 0\n"),
    ],
)
def test_the_status_of_the_processes_arrives(tmp_path: Path, how: str, status: int, said: str) -> None:
    process = launch(tmp_path, how)
    if how == "stop":
        while not all((tmp_path / f"waiting{rank}").exists() for rank in (0, 1)):
            time.sleep(0.01)
        process.terminate()
    output, errors = process.communicate(timeout=120)
    assert (process.returncode, errors) == (status, said)


@pytest.mark.slow
def test_a_process_that_was_killed_is_named(tmp_path: Path) -> None:
    process = launch(tmp_path, "killed")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "error: process 1 was ended by SIGKILL, so all were" in errors.splitlines()[-1]
    assert "Traceback" not in errors


def launch(folder: Path, how: str) -> subprocess.Popen[str]:
    (folder / "recipe.py").write_text(RECIPE, encoding="utf-8")
    command = [sys.executable, "recipe.py", how, "--accelerate_config", str(CONFIGS / "cpu.yaml")]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8"
    )


@pytest.mark.slow
def test_sft_starts_its_processes_and_says_how_to_go_on(tiny_folder: Path, tmp_path: Path) -> None:
    command = [sys.executable, "recipes/sft.py", "--accelerate_config", "cpu"]
    command += sft_args(tiny_folder, tmp_path / "out", num_train_epochs=400, save_strategy="no")
    log = tmp_path / "log"
    process = start_training(command, log)
    ranks = [child.environ()["RANK"] for child in psutil.Process(process.pid).children() if "RANK" in child.environ()]
    assert sorted(ranks) == ["0", "1"]
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 75
    last = text_of(log).splitlines()[-1]
    assert last.startswith("stopped by SIGTERM after step ")
    assert ": python recipes/sft.py --accelerate_config cpu --model_name_or_path=" in last


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ["--accelerate_config", "fsdp3"],
            "--accelerate_config fsdp3: there is no such file, and",
        ),
        (["--accelerate_config=cpu", "--num_processes", "two"], "argument --num_processes: invalid int value: 'two'"),
        (["--accelerate_config"], "argument --accelerate_config: expected one argument"),
        (
            ["--num_processes=2"],
            "num_processes; it goes beside --accelerate_config",
        ),
        (["--confg=x"], "confg; did you mean config"),
        (["--config=quickstart.yaml"], "not found: quickstart.yaml; --config quickstart is in the package"),
        (["--accelerate_config=cpu", "--num_processes=0"], "--num_processes and --num_machines begin at 1"),
        (["--accelerate_config=cpu", "--machine_rank=1"], "--machine_rank 1: there is one machine"),
        (["--accelerate_config=single_gpu", "--num_processes=2"], "--num_processes 2: single_gpu.yaml starts one"),
        (["--accelerate_config=multi_node"], "2 machines need --main_process_ip and, on each, a --machine_rank"),
        (
            ["--accelerate_config=ddp", "--num_processes=9", "--num_machines=2"],
            "--num_processes 9 counts those of all 2 machines: give a multiple of it",
        ),
        (["--accelerate_config", str(ROOT / "LICENSE")], "LICENSE is no"),
        (
            ["--accelerate_config", str(CONFIGS.parent / "recipes/configs/quickstart.yaml")],
            "it has no distributed_type",
        ),
    ],
)
def test_mistakes_of_the_launch(
    recipe: Recipe, capsys: pytest.CaptureFixture[str], options: list[str], said: str
) -> None:
    with pytest.raises(SystemExit) as end:
        recipe("sft", *options)
    assert end.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("word", ["-h", "--help", "--help_all", "--version"])
def test_help_starts_no_processes(word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["sft.py", "--accelerate_config", "ddp", word])
    assert start_processes() is None


def test_a_launch_within_a_launch(
    recipe: Recipe, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(SystemExit) as end:
        recipe("sft", "--accelerate_config", "cpu")
    assert end.value.code == 2
    assert "a launcher has started this process already" in capsys.readouterr().err
