"""What cannot work, or works wrongly without a word, said in one line before a model is loaded."""

import logging
import os
from typing import Any

from dialogsum_sft import InputError

import torch
from transformers.training_args import OptimizerNames
from transformers.utils import is_flash_attn_2_available, is_flash_attn_3_available, is_liger_kernel_available
from trl import ModelConfig, SFTConfig

logger = logging.getLogger(__name__)

_FLASH = {"flash_attention_2": is_flash_attn_2_available, "flash_attention_3": is_flash_attn_3_available}


def check_training(training_args: SFTConfig, model_args: ModelConfig, processes: int) -> None:
    """Raise InputError naming all that stands against these options on this machine, in this kind of launch.

    A bitsandbytes optimizer becomes plain AdamW without a GPU, and says so.
    """
    faults = [
        *_method(training_args, model_args),
        *_sharded(training_args, model_args),
        *_packing(training_args),
        *_kernels(training_args, model_args),
        *_processes(training_args, model_args, processes),
    ]
    if faults:
        raise InputError("; ".join(faults))
    if _of_bitsandbytes(training_args) and not torch.accelerator.is_available():
        logger.warning("no GPU: adamw_torch is used instead of %s", OptimizerNames(training_args.optim).value)
        training_args.optim = "adamw_torch"


def check_generation() -> None:
    """Raise InputError where `accelerate launch` shards models: generation needs the whole one in each process.

    Under FSDP only the first process would load the weights, and the others generate from empty memory.
    """
    if fsdp() or deepspeed():
        raise InputError(
            "an evaluation cannot be launched with FSDP or DeepSpeed: each process generates with the whole model; "
            "launch it with accelerate_configs/ddp.yaml, or with python alone"
        )


def fsdp() -> bool:
    """Whether `accelerate launch` was told to shard by FSDP."""
    return os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"


def deepspeed() -> bool:
    """Whether `accelerate launch` was told to use DeepSpeed."""
    return os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true"


def sharded_by(training_args: SFTConfig) -> str | None:
    """FSDP or ZeRO-3, under which no process holds the whole model; else None."""
    if fsdp():
        return "FSDP"
    return "ZeRO-3" if _zero(training_args).get("stage") == 3 else None


def _zero(training_args: SFTConfig) -> dict[str, Any]:
    plugin = training_args.deepspeed_plugin
    options: dict[str, Any] = {} if plugin is None else plugin.deepspeed_config.get("zero_optimization", {})
    return options


def _of_bitsandbytes(training_args: SFTConfig) -> bool:
    name = OptimizerNames(training_args.optim).value
    return any(word in name for word in ("8bit", "paged", "bnb"))


def _method(training_args: SFTConfig, model_args: ModelConfig) -> list[str]:
    faults = []
    if training_args.model_init_kwargs:
        faults.append(
            f"model_init_kwargs ({', '.join(_keys(training_args))}) has no effect, as the recipe loads the model: "
            "use --dtype, --attn_implementation, --model_revision; a device_map has no place in training"
        )
    if training_args.fsdp:
        faults.append("fsdp belongs to the launch: accelerate launch --config_file accelerate_configs/fsdp2.yaml")
    if not model_args.use_peft and (model_args.load_in_4bit or model_args.load_in_8bit):
        faults.append("a quantised base cannot be trained itself: add use_peft: true")
    if training_args.hub_token is not None:
        faults.append("--hub_token would be written to files in plain text: set HF_TOKEN in the environment instead")
    if training_args.save_only_model:
        faults.append("--save_only_model leaves checkpoints that no run can go on from: leave it out")
    if training_args.restore_callback_states_from_checkpoint:
        faults.append("--restore_callback_states_from_checkpoint is not needed: leave it out")
    modes = [name for name in ("use_rslora", "use_dora") if getattr(model_args, name)]
    if modes and not model_args.use_peft:
        faults.append(f"{' and '.join(modes)} without an adapter: add use_peft: true")
    if training_args.loss_type == "dft" and training_args.label_smoothing_factor > 0:
        faults.append("loss_type: dft takes no label_smoothing_factor: leave one of them out")
    return faults


def _keys(training_args: SFTConfig) -> list[str]:
    kwargs = training_args.model_init_kwargs
    return list(kwargs) if isinstance(kwargs, dict) else [str(kwargs)]


def _sharded(training_args: SFTConfig, model_args: ModelConfig) -> list[str]:
    faults: list[str] = []
    if (fsdp() or deepspeed()) and not torch.accelerator.is_available():
        # accelerate would go on without either, and each process hold all.
        faults.append(f"{'FSDP' if fsdp() else 'DeepSpeed'} needs GPUs: on a CPU use accelerate_configs/cpu.yaml")
    by = sharded_by(training_args)
    if by is None:
        return faults
    dtype = "bfloat16" if model_args.dtype == "auto" else model_args.dtype
    if model_args.load_in_8bit:
        faults.append(f"{by} cannot shard 8-bit weights: use load_in_4bit: true")
    if model_args.load_in_4bit and model_args.bnb_4bit_quant_storage != dtype:
        faults.append(
            f"{by} shards 4-bit weights only where they are stored in the model's dtype, and bnb_4bit_quant_storage "
            f"is {model_args.bnb_4bit_quant_storage or 'uint8'}: set bnb_4bit_quant_storage: {dtype}"
        )
    if model_args.load_in_4bit and model_args.use_dora:
        faults.append(
            f"{by} shards trained weights of one dtype, and DoRA on a 4-bit base has two: use LoRA or rsLoRA"
        )
    if by == "ZeRO-3" and not _zero(training_args).get("stage3_gather_16bit_weights_on_model_save"):
        faults.append("ZeRO-3 would save no model: set zero3_save_16bit_model: true in the accelerate config")
    if by == "FSDP":
        if _of_bitsandbytes(training_args):
            name = OptimizerNames(training_args.optim).value
            faults.append(f"FSDP cannot shard the states of optim: {name}: use optim: adamw_torch_fused")
        # FSDP2 falls back to SHARDED_STATE_DICT, of which the Trainer saves no model.
        if os.environ.get("FSDP_STATE_DICT_TYPE", "").upper() != "FULL_STATE_DICT":
            faults.append(
                "FSDP would save no model: set fsdp_state_dict_type: FULL_STATE_DICT in the accelerate config"
            )
        twice = os.environ.get("FSDP_ACTIVATION_CHECKPOINTING", "false").lower() == "true"
        if twice and training_args.activation_checkpointing:
            faults.append(
                "activations would be checkpointed twice: set activation_checkpointing: false, or "
                "fsdp_activation_checkpointing: false in the accelerate config"
            )
    return faults


def _packing(training_args: SFTConfig) -> list[str]:
    faults = []
    if training_args.packing and training_args.max_length is None:
        faults.append("packing fills rows of max_length tokens: give max_length")
    if training_args.packing and training_args.packing_strategy == "wrapped":
        faults.append("packing_strategy: wrapped cuts dialogues apart and lets one see the next: use bfd")
    if training_args.eval_packing and not training_args.packing:
        faults.append("eval_packing without packing lets one dialogue see the next: add packing: true")
    return faults


def _kernels(training_args: SFTConfig, model_args: ModelConfig) -> list[str]:
    faults = []
    on_gpu = torch.cuda.is_available() or torch.xpu.is_available()
    if training_args.use_liger_kernel and not on_gpu:
        faults.append("use_liger_kernel needs a GPU: leave it out")
    elif training_args.use_liger_kernel and not is_liger_kernel_available():
        faults.append("use_liger_kernel needs its package: pip install liger-kernel")
    attention = model_args.attn_implementation or ""
    if "flash" in attention:
        known = _FLASH.get(attention)
        if not on_gpu:
            faults.append(f"attn_implementation: {attention} needs a GPU: use sdpa")
        elif known is not None and not known(kernels_fallback_ok=True):
            faults.append(
                f"attn_implementation: {attention} is not installed: pip install flash-attn --no-build-isolation, "
                "or pip install kernels; or use sdpa"
            )
        if model_args.dtype == "float32":
            faults.append(f"attn_implementation: {attention} has no float32: set dtype: bfloat16")
    return faults


def _processes(training_args: SFTConfig, model_args: ModelConfig, processes: int) -> list[str]:
    kwargs = training_args.activation_checkpointing_kwargs
    reentrant = isinstance(kwargs, dict) and kwargs.get("use_reentrant") is True
    # PEFT under ZeRO-3 needs it, and TRL sets it there. Elsewhere a parameter of a checkpointed layer that several
    # processes share is marked ready twice.
    if processes > 1 and reentrant and not (sharded_by(training_args) == "ZeRO-3" and model_args.use_peft):
        return ["use_reentrant: true fails with several processes: leave it out of activation_checkpointing_kwargs"]
    return []
