"""A process that has imported everything and forks the processes of each requested run of recipes/sft.py.

    python tests/forked_sft.py MODEL

A line of JSON on standard input, {"args": [...], "log": PATH, "ranks": [{...}, ...]}, starts a process for each
environment in `ranks`, with its output in that file. Their ids are written to standard output as a list, and, when all
have ended, their exit statuses (-9: killed). When one ends with another status than 0 the others get SIGTERM, as from
torchrun, and a second later SIGKILL. A start imports nothing, so that dozens of processes can be killed in a minute.

`faults` are those of `cpu_ranks.arrange`. FSDP and DeepSpeed shard without a GPU, see `cpu_ranks.shard_on_cpu`.
"""

import atexit
import gc
import importlib.util
import json
import os
import signal
import sys
import time
from typing import Any

import cpu_ranks
from conftest import recipe_module
from dialogsum_sft.cli import run
from forked_recipe import leave

from transformers import AutoModelForCausalLM

AutoModelForCausalLM.from_pretrained(sys.argv[1])  # fills transformers' caches, once
if importlib.util.find_spec("deepspeed"):
    os.environ["DS_ACCELERATOR"] = "cpu"
    import deepspeed  # noqa: F401, PLC0415
recipe = recipe_module("sft")
gc.freeze()  # as in conftest.py: the processes do not collect, and so copy, what they share


def train(request: dict[str, Any], environment: dict[str, str]) -> None:
    """The run of one process, in that process; it does not return."""
    log = os.open(request["log"], os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    for descriptor in (1, 2):
        os.dup2(log, descriptor)
    atexit._clear()  # what was registered before belongs to the server, such as removing its scratch folder
    os.environ.update(environment)
    sys.argv = ["sft.py", *request["args"]]

    def work() -> None:
        cpu_ranks.shard_on_cpu(recipe)
        cpu_ranks.arrange(recipe, **request.get("faults", {}))
        run(recipe.main)

    leave(work)


def wait(pids: list[int]) -> list[int]:
    """The exit statuses of these processes."""
    statuses: dict[int, int] = {}
    while len(statuses) < len(pids):
        if any(statuses.values()) and len(pids) > 1:
            stop(pids, statuses)
            continue
        pid, status = os.wait()
        statuses[pid] = os.waitstatus_to_exitcode(status)
    return [statuses[pid] for pid in pids]


def stop(pids: list[int], statuses: dict[int, int]) -> None:
    """End the processes that are left, as torchrun does."""
    for number, seconds in ((signal.SIGTERM, 1.0), (signal.SIGKILL, 60.0)):
        for pid in (pid for pid in pids if pid not in statuses):
            os.kill(pid, number)
        until = time.monotonic() + seconds
        while len(statuses) < len(pids) and time.monotonic() < until:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid:
                statuses[pid] = os.waitstatus_to_exitcode(status)
            time.sleep(0.01)


for line in sys.stdin:
    request = json.loads(line)
    pids: list[int] = []
    for environment in request["ranks"]:
        pid = os.fork()
        if pid == 0:
            train(request, environment)
        pids.append(pid)
    print(json.dumps(pids), flush=True)
    print(json.dumps(wait(pids)), flush=True)
