"""Activation checkpointing only where a training step would not fit the device's memory without it."""

import copy
import logging
import os
from typing import Any

from dialogsum_sft import InputError
from dialogsum_sft.checks import sharded_by
from dialogsum_sft.distributed import run_on_main
from dialogsum_sft.hardware import Undecided, current_device
from dialogsum_sft.modeling import load_config
from dialogsum_sft.training import memory
from dialogsum_sft.training.shards import Sharding

import numpy as np
import psutil
import torch
from datasets import Dataset, IterableDataset
from trl import ModelConfig, SFTConfig

logger = logging.getLogger(__name__)

# Of a device's total memory; the rest is for fragments, and on a CPU for other processes.
SHARE = {"cuda": 0.9, "cpu": 0.8}


def set_activation_checkpointing(
    training_args: SFTConfig, model_args: ModelConfig, rows: Dataset | IterableDataset, **device: Any
) -> bool:
    """Settle `activation_checkpointing` in `training_args` if it was not given; returns its value.

    `rows` are `training_rows`, `device` is for `needs_checkpointing`. The same machine, options and rows give the same
    value: total memory counts, not what is free.
    """
    if training_args.activation_checkpointing is Undecided.BY_MEMORY:
        needed = run_on_main(lambda: needs_checkpointing(training_args, model_args, rows, **device))
        # TRL reads the option under its older name.
        training_args.activation_checkpointing = training_args.gradient_checkpointing = needed
    return bool(training_args.activation_checkpointing)


def needs_checkpointing(
    training_args: SFTConfig,
    model_args: ModelConfig,
    rows: Dataset | IterableDataset,
    *,
    kind: str | None = None,
    total_memory: int | None = None,
    sharding: Sharding = memory.WHOLE,
) -> bool:
    """Whether the largest step is estimated not to fit a device without checkpointing.

    `kind` (cpu, cuda, ...), `total_memory` (bytes for one process) and `sharding` are by default those of this
    process. True where there is no estimate: on Apple's GPU, with FSDP and ZeRO-3, with a quantised base on a CPU,
    for a stream without max_length, and for a model that cannot be built on the meta device.
    """
    kind = kind or current_device(use_cpu=training_args.use_cpu).kind.replace("xpu", "cuda")
    quantised = model_args.load_in_4bit or model_args.load_in_8bit
    step = _largest_step(training_args, rows)
    sharded = sharded_by(training_args) or sharding.shards_weights
    if kind not in SHARE or sharded or (quantised and kind == "cpu") or step is None:
        return True
    without: Any = copy.copy(training_args)
    without.activation_checkpointing = False
    trust = bool(training_args.trust_remote_code)
    try:
        config = load_config(model_args, trust_remote_code=trust)
        model = memory.meta_model(config, model_args, device=kind, trust_remote_code=trust)
        estimate = memory.estimate(model, model_args, without, device=kind, sharding=sharding, **step)
    except InputError:
        raise
    except Exception as error:  # remote code and new architectures fail on the meta device in many ways
        logger.info("no memory estimate: %s", error)
        return True
    if total_memory is None and kind == "cpu":
        total_memory = psutil.virtual_memory().total // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    elif total_memory is None:
        total_memory = torch.get_device_module().get_device_properties().total_memory
    return not estimate.fits(int(SHARE[kind] * total_memory))


def _largest_step(training_args: SFTConfig, rows: Dataset | IterableDataset) -> dict[str, Any] | None:
    """The step with the longest rows, which comes first when batches are grouped by length; None if not known."""
    size, limit = training_args.per_device_train_batch_size, training_args.max_length
    if isinstance(rows, IterableDataset):
        return None if limit is None else {"rows": size, "length": limit, "supervised": limit}
    lengths = np.array(rows["length"])
    supervised = lengths - np.array(rows["prompt_tokens"])
    if training_args.packing and limit is not None:
        return {"rows": size, "length": limit, "supervised": limit * supervised.sum() / lengths.sum()}
    longest = np.argsort(-lengths, kind="stable")[:size]
    length = min(int(lengths[longest].max()), limit or int(lengths.max()))
    return {"rows": len(longest), "length": length, "supervised": float(supervised[longest].mean())}
