"""Defaults of training that follow from the device: precision, memory, and the learning rate of an adapter."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from accelerate.utils import parse_flag_from_env
from accelerate.utils.memory import should_reduce_batch_size
from trl import ModelConfig, SFTConfig

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Device:
    """`kind` is cpu, mps, cuda or xpu; `bf16` is whether it computes in bfloat16 natively."""

    kind: str
    bf16: bool

    @property
    def half(self) -> str:
        """The dtype of weights that are not trained. On a CPU or Apple's GPU without bf16 it is float32."""
        return "bfloat16" if self.bf16 else "float16" if self.autocasts else "float32"

    @property
    def autocasts(self) -> bool:
        """Whether every training uses autocast. On a CPU an adapter is faster over weights in bfloat16 alone."""
        return self.kind in ("cuda", "xpu")

    def __str__(self) -> str:
        name = {"cpu": "CPU", "mps": "Apple GPU"}.get(self.kind)
        name = name or torch.get_device_module(self.kind).get_device_name()
        return f"{name} {'with' if self.bf16 else 'without'} bf16"


class Undecided(Enum):
    """The value of an option that was not given and is settled once the lengths of the rows are known."""

    BY_MEMORY = "by memory"


def current_device(*, use_cpu: bool = False) -> Device:
    """The device that a training uses. A GPU that emulates bfloat16 (before Ampere) counts as without it."""
    for kind in () if use_cpu else ("cuda", "xpu"):
        module = torch.get_device_module(kind)
        if module.is_available():
            return Device(kind, module.is_bf16_supported(including_emulation=False))
    if torch.backends.mps.is_available() and not use_cpu:
        return Device("mps", torch.backends.mps.is_macos_or_newer(14, 0))
    # oneDNN's operators are missing where torch is built without it, as on a Mac.
    bf16 = torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return Device("cpu", bf16)


def resolve_dtype(name: str | None) -> torch.dtype:
    """The dtype to load weights in: for `auto`, bfloat16 or what the device has in its place.

    transformers' own meaning of `auto`, the dtype of the checkpoint, would load a float16 checkpoint in float16, in
    which training diverges. An explicit bfloat16 becomes float32 on a CPU or an Apple GPU without it, and is slow on
    a GPU that emulates it; both are logged.
    """
    if name in ("auto", "bfloat16"):
        device = current_device()
        if name == "bfloat16" and not device.bf16:
            if device.autocasts:
                logger.warning("this GPU emulates bfloat16, slowly: use dtype: float16")
                return torch.bfloat16
            logger.warning("no bfloat16 on this machine: float32 is used instead")
        name = device.half
    return getattr(torch, name or "float32")


def training_defaults(given: Mapping[str, Any], device: Device | None = None) -> dict[str, Any]:
    """Defaults of SFTConfig and ModelConfig for `cli.parse`, where `given` are the options that were given.

    An adapter is on all linear layers and learns at 2e-4, as TRL's documentation advises; batches are grouped by
    length. The base of an adapter is loaded in half precision (which is the compute dtype of a 4-bit one too). Full
    fine-tuning has float32 weights, as bfloat16 loses its small updates; autocast makes its step 1.4 times as fast on
    a CPU with bf16 too. `device` replaces this machine's.
    """
    device = device or current_device(use_cpu=bool(given.get("use_cpu")))
    fp16 = given.get("fp16", device.half == "float16" and not given.get("bf16"))
    full_on_cpu = device.kind == "cpu" and not given.get("use_peft") and given.get("dtype", "float32") == "float32"
    bf16 = given.get("bf16", (device.autocasts or full_on_cpu) and device.bf16 and not fp16)
    if given.get("dtype") == "bfloat16" and not device.bf16 and not {"bf16", "fp16"} & given.keys():
        fp16, bf16 = False, device.autocasts  # emulated, as asked
    defaults: dict[str, Any] = {
        "lora_target_modules": ["all-linear"],
        "train_sampling_strategy": "group_by_length",
        "dtype": "float32",
        "bf16": bf16,
        "fp16": fp16,
        "dataloader_pin_memory": device.autocasts,
    }
    if given.get("use_peft"):
        defaults["learning_rate"] = 2e-4
        defaults["dtype"] = device.half
        if device.autocasts and (bf16 or fp16):
            defaults["dtype"] = "bfloat16" if bf16 else "float16"
        elif device.half == "float16":  # without autocast and its loss scaling, small gradients become zero
            defaults["dtype"] = "float32"
    if device.kind == "cpu":
        defaults["ddp_find_unused_parameters"] = False
        defaults["use_cpu"] = bool(bf16)  # without it transformers refuses bf16 on a CPU
    if not {"activation_checkpointing", "gradient_checkpointing"} & given.keys():
        # FSDP itself checkpoints activations with `fsdp_activation_checkpointing` of the accelerate config.
        by_fsdp = all(map(parse_flag_from_env, ("ACCELERATE_USE_FSDP", "FSDP_ACTIVATION_CHECKPOINTING")))
        defaults["activation_checkpointing"] = False if by_fsdp else Undecided.BY_MEMORY
    return defaults


def describe(training_args: SFTConfig, model_args: ModelConfig) -> str:
    """The device and the settings that follow it, in one line."""
    device = current_device(use_cpu=training_args.use_cpu)
    autocast = "bf16 autocast" if training_args.bf16 else "fp16 autocast" if training_args.fp16 else "no autocast"
    what = "adapter" if model_args.use_peft else "all weights"
    checkpointing = "on" if training_args.activation_checkpointing else "off"
    return (
        f"{device}: dtype {model_args.dtype}, {autocast}, activation checkpointing {checkpointing}, "
        f"learning_rate {training_args.learning_rate:g} ({what})"
    )


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether a GPU or the machine ran out of memory; torch reports some of it as a plain RuntimeError."""
    return (
        isinstance(error, torch.OutOfMemoryError)
        or should_reduce_batch_size(error)
        or any(words in str(error) for words in ("out of memory", "not enough memory"))
    )
