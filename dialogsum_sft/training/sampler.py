"""The global batch: a step has the same rows for any number of processes and accumulation steps."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from dialogsum_sft.arguments import TrainArguments

import torch
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import get_length_grouped_indices
from trl import SFTConfig


def accumulation_steps(training_args: SFTConfig, train_args: TrainArguments, processes: int) -> int:
    """How many batches each process takes for a step: those that make up `global_batch_size`, if it is given.

    `check_training` refuses a `global_batch_size` that is no multiple of the rows of all processes.
    """
    if train_args.global_batch_size is None:
        return int(training_args.gradient_accumulation_steps)
    return train_args.global_batch_size // (training_args.per_device_train_batch_size * processes)


@dataclass(eq=False)
class GlobalBatchSampler(Sampler[int]):
    """The order of rows in an epoch, in which each `batch_size` rows are one step of all processes.

    transformers' sampler groups by length the rows of one process's step and draws from the global generator of each
    process. Its order changes with the number of processes, after a resume, and with dropout on a CPU even from rank
    to rank. This order depends on seed, epoch and `batch_size` only.

    `lengths` are grouped as transformers does (the longest row comes first); without them the order is random. The
    last step is filled up with the last rows once more (the shortest, if grouped), or left out with `drop_last`.
    `epoch` returns the epoch, from 0: accelerate's set_epoch does not reach the sampler when several processes resume.
    """

    rows: int
    batch_size: int
    seed: int
    epoch: Callable[[], int] = field(kw_only=True)
    lengths: Sequence[int] | None = field(default=None, kw_only=True)
    drop_last: bool = field(default=False, kw_only=True)

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
