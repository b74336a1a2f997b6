"""A run with a global batch is the same for any number of processes, accumulation steps and machines."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

from conftest import ROOT, Recipe
from sft_runs import text_of

import pytest
import torch
from safetensors.torch import load_file

ACCELERATE = Path(sys.executable).parent / "accelerate"


def training_args(model: Path, output_dir: Path, **options: Any) -> list[str]:
    """A training in fp32 without dropout, so that runs differ by the arithmetic of the batches only."""
    flags = {
        "model_name_or_path": model,
        "dtype": "float32",
        "dataset_name": "sample",
        "output_dir": output_dir,
        "use_peft": "true",
        "lora_dropout": 0.0,
        "bf16": "false",
        "activation_checkpointing": "false",
        "dataloader_pin_memory": "false",
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "save_strategy": "no",
        "max_train_samples": 13,
    } | options
    return [f"--{name}={value}" for name, value in flags.items()]


def start(*command: str | Path, cwd: Path = ROOT, **env: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        list(map(str, command)),
        cwd=cwd,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"} | env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[str, str]:
    try:
        return process.communicate(timeout=300)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


STUBS = {
    # Runs the command once for each node. On one machine the second node could take the port of the first, so it
    # starts when the first one listens. Writes down the launchers for scancel.
    "srun": """
        import os, socket, subprocess, sys, time
        command = sys.argv[2:]
        port = int(command[command.index("--main_process_port") + 1])
        nodes = []
        for node in range(int(os.environ["SLURM_JOB_NUM_NODES"])):
            nodes.append(subprocess.Popen(command, env=os.environ | {"SLURM_NODEID": str(node)}))
            with open("launchers", "a") as file:
                file.write(f"{nodes[-1].pid}\\n")
            while "WAIT" in os.environ and node == 0 and nodes[0].poll() is None:
                with socket.socket() as s:
                    if s.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.1)
        sys.exit(max(abs(node.wait()) for node in nodes))
    """,
    "scontrol": """
        import sys
        if sys.argv[1] == "show":
            print("127.0.0.1", "127.0.0.2", sep="\\n")
        else:
            open("requeued", "a").write(" ".join(sys.argv[1:]) + "\\n")
    """,
    "scancel": """
        import os, signal, sys
        assert sys.argv[1:] == ["--signal=TERM", "30123"]
        for pid in open("launchers"):
            os.kill(int(pid), signal.SIGTERM)
    """,
    # Writes down its arguments and ends as ENDS_WITH says.
    "python": """
        import os, sys
        with open(f"node{os.environ['SLURM_NODEID']}", "w") as file:
            file.write("\\n".join(sys.argv[1:]))
        sys.exit(int(os.environ["ENDS_WITH"]))
    """,
}


def submit(folder: Path, *command: str, stubs: tuple[str, ...], **env: str) -> subprocess.Popen[str]:
    """Run slurm.sh as a job of two nodes with a GPU each, on stubs of SLURM's commands, in `folder`."""
    for name in stubs:
        (folder / name).write_text(f"#!{sys.executable}\n{textwrap.dedent(STUBS[name])}")
        (folder / name).chmod(0o755)
    job = {"SLURM_JOB_ID": "30123", "SLURM_JOB_NUM_NODES": "2", "SLURM_GPUS_ON_NODE": "1", "SLURM_JOB_NODELIST": "n"}
    path = f"{folder}:{ACCELERATE.parent}:{os.environ['PATH']}"
    return start("bash", ROOT / "recipes" / "slurm.sh", *command, cwd=folder, **job, PATH=path, **env)


def losses(output_dir: Path) -> list[float]:
    (state,) = output_dir.glob("checkpoint-*/trainer_state.json")
    return [log["loss"] for log in json.loads(state.read_text())["log_history"] if "loss" in log]


def same_run(one: Path, other: Path) -> None:
    assert len(losses(one)) == 4
    assert losses(other) == pytest.approx(losses(one), abs=1e-4)
    weights, others = (load_file(folder / "adapter" / "adapter_model.safetensors") for folder in (one, other))
    assert weights.keys() == others.keys()
    for name, weight in weights.items():
        torch.testing.assert_close(others[name], weight, rtol=0, atol=1e-5)


# 13 rows and a global batch of 8: two steps an epoch, the second one filled up; two epochs.
TWO_EPOCHS = {"global_batch_size": 8, "num_train_epochs": 2, "save_strategy": "steps", "save_steps": 4}


@pytest.mark.slow
def test_two_ranks_equal_one_process(recipe: Recipe, tiny_folder: Path, tmp_path: Path) -> None:
    options = TWO_EPOCHS | {"per_device_train_batch_size": 2}
    recipe("sft", *training_args(tiny_folder, tmp_path / "one", **options))
    ranks = start(
        *(ACCELERATE, "launch", "--config_file", "accelerate_configs/cpu.yaml", "--main_process_port", "0"),
        *("recipes/sft.py", *training_args(tiny_folder, tmp_path / "two", **options)),
    )
    output, errors = finish(ranks)
    assert ranks.returncode == 0, errors[-3000:]
    assert output.count("saved to") == 1
    same_run(tmp_path / "one", tmp_path / "two")
    one, two = (json.loads((tmp_path / name / "adapter" / "run.json").read_text()) for name in ("one", "two"))
    assert [run["hardware"]["processes"] for run in (one, two)] == [1, 2]
    assert [run["arguments"]["gradient_accumulation_steps"] for run in (one, two)] == [4, 2]
    assert one["metrics"]["num_tokens"] == two["metrics"]["num_tokens"]


@pytest.mark.parametrize("strategy", ["group_by_length", "random"])
def test_accumulation_equals_one_wide_batch(recipe: Recipe, tiny_folder: Path, tmp_path: Path, strategy: str) -> None:
    for rows in (8, 2):
        options = TWO_EPOCHS | {"per_device_train_batch_size": rows, "train_sampling_strategy": strategy}
        recipe("sft", *training_args(tiny_folder, tmp_path / str(rows), **options))
    same_run(tmp_path / "8", tmp_path / "2")


SLURM = ("srun", "scontrol", "scancel")


@pytest.mark.slow
def test_slurm_launches_each_node(tmp_path: Path) -> None:
    job = submit(tmp_path, "recipes/sft.py", "--config", "a b.yaml", stubs=(*SLURM, "python"), ENDS_WITH="0")
    output, errors = finish(job)
    assert (job.returncode, output, errors) == (0, "", "")
    assert not (tmp_path / "requeued").exists()
    for rank in "01":
        assert (tmp_path / f"node{rank}").read_text().split("\n") == [
            *("recipes/sft.py", "--config", "a b.yaml", "--accelerate_config", "multi_node"),
            *("--num_machines", "2", "--num_processes", "2", "--main_process_ip", "127.0.0.1"),
            *("--main_process_port", "30123", "--rdzv_backend", "c10d", "--machine_rank", rank),
        ]


@pytest.mark.slow
@pytest.mark.parametrize(("status", "requeued"), [("1", False), ("2", False), ("75", True)])
def test_slurm_requeues_a_run_that_can_resume(tmp_path: Path, status: str, requeued: bool) -> None:
    job = submit(tmp_path, "recipes/sft.py", stubs=(*SLURM, "python"), ENDS_WITH=status)
    finish(job)
    assert job.returncode == int(status)
    assert (tmp_path / "requeued").exists() is requeued


@pytest.mark.slow
def test_two_machines_equal_one_process(recipe: Recipe, tiny_folder: Path, tmp_path: Path) -> None:
    """Two launchers find each other through recipes/slurm.sh and multi_node.yaml; here both are on this machine."""
    options = TWO_EPOCHS | {"per_device_train_batch_size": 2}
    recipe("sft", *training_args(tiny_folder, tmp_path / "one", **options))
    job = submit_training(tiny_folder, tmp_path, **options)
    _, errors = finish(job)
    assert job.returncode == 0, errors[-3000:]
    same_run(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
def test_slurm_stops_the_ranks_before_the_time_limit(tiny_folder: Path, tmp_path: Path) -> None:
    job = submit_training(tiny_folder, tmp_path, num_train_epochs=400)
    while job.poll() is None and "loss" not in text_of(tmp_path / "two" / "training.jsonl"):
        time.sleep(0.05)
    job.send_signal(signal.SIGTERM)
    output, errors = finish(job)
    assert job.returncode == 75, errors[-3000:]
    assert output.splitlines()[-1] == "stopped with status 75: job 30123 goes back into the queue"
    assert (tmp_path / "requeued").read_text() == "requeue 30123\n"
    assert len(list((tmp_path / "two").glob("checkpoint-*/complete.json"))) == 1


def submit_training(model: Path, folder: Path, **options: Any) -> subprocess.Popen[str]:
    # The launcher's mixed_precision takes the place of the run's bf16: false.
    config = (ROOT / "accelerate_configs" / "multi_node.yaml").read_text()
    (folder / "fp32.yaml").write_text(config.replace("mixed_precision: bf16", 'mixed_precision: "no"'))
    script = str(ROOT / "recipes" / "sft.py")
    training = training_args(model, folder / "two", **options)
    return submit(folder, script, *training, stubs=SLURM, ACCELERATE_CONFIG="fp32.yaml", WAIT="yes")
