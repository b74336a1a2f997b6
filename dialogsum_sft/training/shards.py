"""What each process of a sharded training holds: its share of the states, and what it gathers for a while.

Read from accelerate 1.15, torch 2.13 and DeepSpeed 0.19, with the settings of accelerate_configs/:

    DDP     whole copies; buckets with the gradients once more
    FSDP2   a share of weights, gradients and optimizer states; whole in the forward and backward pass are the layer at
            work and the next one, the gradients of one, and the head with what is tied to it
    ZeRO-2  whole weights; a share of gradients, optimizer states and float32 weights; a bucket of gradients
    ZeRO-3  a share of all; up to 1.05e9 parameters stay whole from one use to the next; a bucket of gradients, and
            the copy of it that reduce_scatter_coalesced makes

DeepSpeed allocates its bucket for 5e8 gradients, whatever the size of the model; on a CPU only the pages that are used
count. Activations and logits are those of the process's own rows, and are not shared.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from dialogsum_sft import InputError

import torch
from accelerate.commands.config.config_args import load_config_from_file
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

BUCKET = 500_000_000  # numbers, DeepSpeed's reduce_bucket_size
LIVE = 1_050_000_000  # DeepSpeed's stage3_max_live_parameters and stage3_prefetch_bucket_size


@dataclass(frozen=True)
class Sharding:
    """The `backend` (FSDP, ZeRO-2, ZeRO-3; None: whole copies) of a training, and its number of processes."""

    backend: str | None = None
    processes: int = 1

    @property
    def shards_weights(self) -> bool:
        return self.backend in ("FSDP", "ZeRO-3")

    def share(self, size: int) -> int:
        """The largest part of `size`, in its unit, that one process holds."""
        return math.ceil(size / self.processes)


def sharding_of(accelerate_config: Path | None, processes: int | None) -> Sharding:
    """How a run by this accelerate config would be shared; nothing is started.

    `processes` takes the place of the config's number. Without a config each of them has a whole copy.

    Raises InputError where the config cannot be read, or the number is not positive.
    """
    if processes is not None and processes < 1:
        raise InputError(f"--processes {processes}: give 1 or more")
    if accelerate_config is None:
        return Sharding(None, processes or 1)
    try:
        config = load_config_from_file(str(accelerate_config))
        kind, zero = str(getattr(config.distributed_type, "value", config.distributed_type)), config.deepspeed_config
        number = processes or int(config.num_processes)
    except Exception as error:  # wrong YAML, unknown keys and wrong types each have their own
        raise InputError(f"--accelerate_config {accelerate_config}: {error}") from error
    stage = int(zero.get("zero_stage", 2)) if kind == "DEEPSPEED" else 0
    return Sharding("FSDP" if kind == "FSDP" else f"ZeRO-{stage}" if stage else None, number)


def stored(sizes: dict[int, int], model: nn.Module, sharding: Sharding, half: torch.dtype | None) -> dict[int, int]:
    """Bytes of the whole parameters as a backend stores them, by id; `sizes` are those of the model as loaded.

    Under autocast to `half`, DeepSpeed turns all weights to it, and FSDP what is trained to float32 (not beside
    quantised weights, which are those of less than two bytes a number).
    """
    found, parameters = dict(sizes), list(model.parameters())
    if half is None or sharding.backend is None:
        return found
    quantised = any(sizes[id(p)] < 2 * p.numel() for p in parameters)
    for p in parameters:
        if sharding.backend != "FSDP":
            found[id(p)] = min(sizes[id(p)], half.itemsize * p.numel())
        elif p.requires_grad and not quantised:
            found[id(p)] = 4 * p.numel()
    return found


def master_weights(trained: Iterable[nn.Parameter], sharding: Sharding, half: torch.dtype | None) -> int:
    """Bytes of the float32 copies that DeepSpeed updates; ZeRO-3 needs none of weights that are in float32 already."""
    copies = sharding.backend == "ZeRO-2" or (sharding.backend == "ZeRO-3" and half is not None)
    return 4 * sum(parameter.numel() for parameter in trained) if copies else 0


def gathered(
    model: nn.Module, sizes: dict[int, int], sharding: Sharding, half: torch.dtype | None, device: str
) -> int:
    """Bytes that a process holds for a while of what is sharded, and of buckets of gradients.

    `sizes` are the bytes of the parameters as stored, by id; `half` is the dtype of the computation under autocast.
    """
    parameters = list(model.parameters())
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    if sharding.backend is None:
        return sum(parameter.nbytes for parameter in trained) if sharding.processes > 1 else 0

    def computed(some: Iterable[nn.Parameter]) -> int:
        """Bytes of these parameters in the dtype of the computation; of quantised ones as stored."""
        return sum(min(sizes[id(p)], p.numel() * (half or p.dtype).itemsize) for p in some)

    if sharding.backend == "FSDP":
        layers = [layer for layer in model.modules() if isinstance(layer, GradientCheckpointingLayer)]
        widest = max((computed(layer.parameters()) for layer in layers), default=0)
        own = max((computed(p for p in layer.parameters() if p.requires_grad) for layer in layers), default=0)
        return 2 * widest + own + computed(model.get_output_embeddings().parameters())
    used = min(sum(parameter.numel() for parameter in trained), BUCKET)
    itemsize = (half or max(trained, key=nn.Parameter.numel).dtype).itemsize
    bucket = (used if device == "cpu" else BUCKET) * itemsize
    if sharding.backend == "ZeRO-2":
        return bucket
    return bucket + used * itemsize + min(computed(parameters), LIVE * itemsize)
