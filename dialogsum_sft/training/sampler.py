"""The global batch: the same rows in the same step, however many processes and accumulation steps share it."""

import math
from collections.abc import Callable, Iterator, Sequence

from dialogsum_sft import InputError

import torch
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import get_length_grouped_indices
from trl import SFTConfig


def accumulation_steps(global_batch_size: int, training_args: SFTConfig, processes: int) -> int:
    """How many batches of `per_device_train_batch_size` each process takes for one step of `global_batch_size` rows.

    Raises InputError where it does not come out even, or where `gradient_accumulation_steps` says something else.
    """
    rows = training_args.per_device_train_batch_size
    given = training_args.gradient_accumulation_steps
    here = f"{processes} process{'es' if processes > 1 else ''}"
    if global_batch_size < 1 or global_batch_size % processes:
        nearest = max(1, round(global_batch_size / processes)) * processes
        raise InputError(
            f"--global_batch_size {global_batch_size} cannot be shared by {here}: "
            f"give a multiple of {processes}, such as {nearest}"
        )
    share = global_batch_size // processes
    if share % rows:
        fitting = [str(size) for size in range(1, min(share, 2 * rows) + 1) if share % size == 0]
        raise InputError(
            f"--global_batch_size {global_batch_size} is not a multiple of {rows} rows on each of {here}: "
            f"give --per_device_train_batch_size {' or '.join(fitting)}, or --global_batch_size "
            f"{max(1, round(share / rows)) * rows * processes}"
        )
    steps = share // rows
    if given not in (1, steps):  # 1 is the default, and so as good as not given
        raise InputError(
            f"--gradient_accumulation_steps {given} makes a global batch of {given * rows * processes} "
            f"({rows} rows on each of {here}), but --global_batch_size is {global_batch_size}: leave one of them out"
        )
    return steps


class GlobalBatchSampler(Sampler[int]):
    """An epoch's order of rows, in which each `batch_size` rows are one step of all processes together.

    transformers' own sampler groups by length what one process takes for a step, and draws from each process's global
    random numbers, so that its order changes with the number of processes, with dropout on a CPU even from rank to
    rank, and after a resume. Here the order depends on seed, epoch and `batch_size` alone.

    `lengths` are grouped as transformers does (the longest row comes first); without them the order is random. The
    last step is filled up with the last, so the shortest, rows once more, or left out with `drop_last`. `epoch` is
    asked for the epoch, from 0: accelerate's set_epoch does not get through when several processes resume in one.
    """

    def __init__(
        self,
        rows: int,
        batch_size: int,
        seed: int,
        *,
        epoch: Callable[[], int],
        lengths: Sequence[int] | None = None,
        drop_last: bool = False,
    ) -> None:
        self.rows = rows
        self.batch_size = batch_size
        self.seed = seed
        self.lengths = lengths
        self.drop_last = drop_last
        self.epoch = epoch

    def __len__(self) -> int:
        whole = self.rows // self.batch_size if self.drop_last else math.ceil(self.rows / self.batch_size)
        return whole * self.batch_size

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch())
        if self.lengths is None:
            order: list[int] = torch.randperm(self.rows, generator=generator).tolist()
        else:
            order = get_length_grouped_indices(list(self.lengths), self.batch_size, generator=generator)
        missing = len(self) - self.rows
        backwards = order[::-1] * math.ceil(missing / self.rows) if missing > 0 else []
        return iter((order + backwards[:missing])[: len(self)])
