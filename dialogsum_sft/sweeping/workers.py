"""The workers of a sweep: threads that take trials from the study until none is left or a signal stops them."""

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from types import FrameType

from dialogsum_sft import RESUMABLE, InputError, Stopped
from dialogsum_sft.arguments import SweepArguments
from dialogsum_sft.sweeping.study import Claimed, SharedStudy
from dialogsum_sft.sweeping.trial import Result, Trial

import psutil
import torch

Begin = Callable[[Claimed], None]
End = Callable[[Claimed, Result], None]
_WAIT = 1.0  # seconds between looks at the trials of other workers


def environments(args: SweepArguments) -> list[dict[str, str]]:
    """The variables of each worker: GPUs of its own, or a share of the cores where there is no GPU.

    The GPUs are those of CUDA_VISIBLE_DEVICES, else all. Raises InputError where there are too few.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = [str(i) for i in range(torch.cuda.device_count())]
    if visible and gpus:
        gpus = [name.strip() for name in visible.split(",")][: len(gpus)]
    needed = args.workers * args.gpus_per_trial
    if gpus and needed > len(gpus):
        raise InputError(
            f"--workers {args.workers} with --gpus_per_trial {args.gpus_per_trial} need {needed} GPUs, and there are "
            f"{len(gpus)}"
        )
    if not gpus and args.gpus_per_trial > 1:
        raise InputError(f"--gpus_per_trial {args.gpus_per_trial}: there is no GPU")
    if gpus:
        own = [gpus[i * args.gpus_per_trial : (i + 1) * args.gpus_per_trial] for i in range(args.workers)]
        return [{"CUDA_VISIBLE_DEVICES": ",".join(names)} for names in own]
    if args.workers == 1 or "OMP_NUM_THREADS" in os.environ:
        return [{}] * args.workers
    cores = psutil.cpu_count(logical=False) or os.cpu_count() or 1
    return [{"OMP_NUM_THREADS": str(max(1, cores // args.workers))}] * args.workers


def run_trials(study: SharedStudy, begin: Begin, end: End, wait: Callable[[], None]) -> None:
    """Run all trials that are left, in `--workers` threads; calls `begin` and `end` for each, one at a time, and
    `wait` where only trials of others are left.

    Raises Stopped after SIGTERM or Ctrl-C, when the running trials are saved.
    """
    stop, printing = threading.Event(), threading.Lock()
    running: set[int] = set()
    faults: list[BaseException] = []

    def receive(number: int, _: FrameType | None) -> None:
        if not stop.is_set():  # no print() in a signal handler: it could interrupt itself
            os.write(2, f"\n{signal.Signals(number).name}: the running trials are stopped and saved\n".encode())
        stop.set()

    def work(environment: Mapping[str, str]) -> None:
        try:
            for claimed in _claims(study, stop, lambda: None if running else wait()):
                running.add(claimed.number)
                try:
                    with printing:
                        begin(claimed)
                    result = Trial(study, claimed, environment, stop).run()
                    study.tell(claimed, result.state, result.score, **result.measured)
                    with printing:
                        end(claimed, result)
                finally:
                    running.discard(claimed.number)
                    study.release(claimed)
        except BaseException as error:
            faults.append(error)
            stop.set()

    before = {number: signal.signal(number, receive) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        threads = [threading.Thread(target=work, args=(own,)) for own in environments(study.plan.args)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        for number, action in before.items():
            signal.signal(number, action)
    for fault in faults:
        if not isinstance(fault, Stopped):
            raise fault
    if stop.is_set() and not study.is_over():
        line = f"stopped: {study.ended()} of {study.number()} trials have ended; the same command goes on"
        raise Stopped(line, RESUMABLE)


def _claims(study: SharedStudy, stop: threading.Event, wait: Callable[[], None]) -> Iterator[Claimed]:
    """Trials until none is left; while others run the last ones it waits, to go on with one whose worker dies."""
    has_waited = False
    while not stop.is_set():
        claimed = study.claim()
        if claimed is not None:
            yield claimed
        elif study.is_over():
            return
        else:
            if not has_waited:
                wait()
            has_waited = True
            stop.wait(_WAIT)
