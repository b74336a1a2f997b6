"""Starts the processes of a run of recipes/sft.py, with the environment that accelerate gives them for a config."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

from sft_runs import sft_args

from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env

TESTS = Path(__file__).parent
CONFIGS = TESTS.parent / "accelerate_configs"


def launched(name: str, *flags: str) -> tuple[Namespace, dict[str, str]]:
    """The launcher's arguments for accelerate_configs/`name`.yaml, and what it adds to the processes' environment."""
    config = str(CONFIGS / f"{name}.yaml")
    command = ["--config_file", config, "--main_process_port", "0", *flags, "recipes/sft.py"]
    args, _, _ = _validate_launch_command(launch_command_parser().parse_args(command))
    args.deepspeed_fields_from_accelerate_config = ""
    env = prepare_deepspeed_cmd_env(args)[1] if args.use_deepspeed else prepare_multi_gpu_env(args)
    return args, {key: value for key, value in env.items() if os.environ.get(key) != value}


def rank_environments(name: str, processes: int, machines: int = 1) -> list[dict[str, str]]:
    """The environment of each rank that torchrun starts for accelerate_configs/`name`.yaml, in fp32.

    Each of several machines has as many ranks; here all are on this one.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    flags = ["--num_processes", str(processes), "--mixed_precision", "no"]
    local = processes // machines
    ranks = []
    for rank in range(processes):
        where = ["--num_machines", str(machines), "--machine_rank", str(rank // local)]
        where += ["--main_process_ip", "127.0.0.1"]
        _, env = launched(name, *flags, *(where if machines > 1 else []))
        env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "GROUP_RANK": str(rank // local)}
        env |= {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(local)}
        ranks.append(env | {"RANK": str(rank), "LOCAL_RANK": str(rank % local)})
    return ranks


class ForkedSft:
    """Runs recipes/sft.py as processes that start without importing anything, by tests/forked_sft.py."""

    def __init__(self, model: Path) -> None:
        self.server = subprocess.Popen(
            [sys.executable, str(TESTS / "forked_sft.py"), str(model)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=TESTS.parent,
            start_new_session=True,
            env=os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        )
        self.model = model

    def start(
        self,
        output_dir: Path,
        log: Path,
        *,
        config: str | None = None,
        processes: int = 2,
        machines: int = 1,
        faults: dict[str, Any] | None = None,
        **options: Any,
    ) -> list[int]:
        """Start a run and return the ids of its processes: one, or the ranks of an accelerate config."""
        assert self.server.stdin is not None
        request = {
            "args": sft_args(self.model, output_dir, **options),
            "log": str(log),
            "ranks": rank_environments(config, processes, machines) if config else [{}],
            "faults": faults or {},
        }
        self.server.stdin.write(json.dumps(request) + "\n")
        self.server.stdin.flush()
        return self._numbers()

    def wait(self) -> list[int]:
        """Exit statuses of the processes; negative: the signal that ended it."""
        return self._numbers()

    def _numbers(self) -> list[int]:
        assert self.server.stdout is not None
        while not (line := self.server.stdout.readline()).startswith("["):
            assert line, "tests/forked_sft.py has ended"
        return list(json.loads(line))

    def close(self) -> None:
        assert self.server.stdin is not None
        self.server.stdin.close()
        try:
            self.server.wait(timeout=60)
        finally:  # a test that failed may have left processes that wait for each other
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.server.pid, signal.SIGKILL)
