"""A training script watched from within its process: its start-up time, speed and peak memory.

    python -m dialogsum_sft.benchmarking.watched FIGURES.json PROFILE STARTED SCRIPT [options of the script]

PROFILE is a file for the profile of the second step, or empty; STARTED is when the process was started.
"""

import runpy
import sys
import time
from pathlib import Path
from typing import Any

from dialogsum_sft import files
from dialogsum_sft.benchmarking.figures import peak_memory

import torch
from transformers import Trainer


def watch() -> None:
    """Run a training script in this process, and write its start-up time, speed and peak memory."""
    result, profile, started, *sys.argv = sys.argv[1:]
    begun: list[float] = []  # when each step began
    done: list[tuple[float, float]] = []  # when it was over, and the tokens until then
    log, training_step = Trainer.log, Trainer.training_step

    def watched_log(self: Trainer, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if "loss" in logs:
            done.append((time.perf_counter(), logs["num_tokens"]))
        log(self, logs, *args, **kwargs)

    def watched_step(self: Trainer, *args: Any, **kwargs: Any) -> Any:
        begun.append(time.time())
        if not profile or len(begun) != 2:
            return training_step(self, *args, **kwargs)
        with torch.profiler.profile() as profiler:
            loss = training_step(self, *args, **kwargs)
        sort = "self_cuda_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
        table = profiler.key_averages().table(sort_by=sort, row_limit=20, max_name_column_width=45)
        Path(profile).write_text(table, encoding="utf-8")
        return loss

    Trainer.log, Trainer.training_step = watched_log, watched_step
    with peak_memory() as peak:
        runpy.run_path(sys.argv[0], run_name="__main__")
    (start, before), (end, after) = done[0], done[-1]  # the first step allocates, compiles and warms up
    tokens, seconds = after - before, end - start
    figures = {"tokens": tokens, "seconds": seconds, "tokens_per_second": tokens / seconds}
    files.write_json(Path(result), figures | {"start_up_seconds": begun[0] - float(started)} | peak)


if __name__ == "__main__":
    watch()
