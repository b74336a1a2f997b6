"""Combinations of options that fail or silently misbehave, refused before a model is loaded."""

import logging
import os
from collections.abc import Iterator, Sized
from typing import Any

from dialogsum_sft import InputError
from dialogsum_sft.arguments import TrainArguments

import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env
from transformers.integrations import WandbCallback, get_reporting_integration_callbacks
from transformers.training_args import OptimizerNames
from transformers.utils import is_flash_attn_2_available, is_flash_attn_3_available, is_liger_kernel_available
from trl import ModelConfig, ScriptArguments, SFTConfig

logger = logging.getLogger(__name__)

_FLASH = {"flash_attention_2": is_flash_attn_2_available, "flash_attention_3": is_flash_attn_3_available}
# The metrics of an evaluation and whether more is better; the second only where it generates summaries.
_LOSS_METRICS = {"loss": False, "aux_loss": False, "entropy": False, "mean_token_accuracy": True}
_SUMMARY_METRICS = {"rouge1_mean": True, "rouge2_mean": True, "rougeL_mean": True, "unfinished": False}


def check_training(
    script_args: ScriptArguments,
    training_args: SFTConfig,
    model_args: ModelConfig,
    train_args: TrainArguments,
    processes: int,
    *,
    connected: int | None = None,
) -> None:
    """Raise InputError with every fault of these options on this machine, one line each.

    `processes` were started; `connected` is how many accelerate sees, None if all. Without a GPU a bitsandbytes
    optimizer is replaced by plain AdamW, with a warning.
    """
    faults = [
        *_launch(training_args, model_args, processes, processes if connected is None else connected),
        *_training(training_args, model_args, train_args),
        *_sharded(training_args, model_args),
        *_rows(script_args, training_args),
        *_without_effect(script_args, training_args),
        *_kernels(training_args, model_args),
        *_global_batch(training_args, train_args, processes),
        *_trackers(training_args),
        *_evaluation(training_args, train_args),
    ]
    if faults:
        raise InputError(*faults)
    optim = _bitsandbytes_optimizer(training_args)
    if optim and not torch.accelerator.is_available():
        logger.warning("no GPU: adamw_torch is used instead of %s", optim)
        training_args.optim = "adamw_torch"


def check_steps(training_args: SFTConfig, rows: Sized, processes: int) -> None:
    """Raise InputError where these rows make no whole step and `dataloader_drop_last` drops the others."""
    if not training_args.dataloader_drop_last or not isinstance(rows, Sized):  # a stream has no length
        return
    step = training_args.per_device_train_batch_size * training_args.gradient_accumulation_steps * processes
    if len(rows) < step:
        raise InputError(
            f"--dataloader_drop_last drops all rows: there are {len(rows)}, and a step takes {step}: leave it out, or "
            "give a smaller --per_device_train_batch_size"
        )


def launched_with() -> str | None:
    """FSDP or DeepSpeed, where `accelerate launch` uses it."""
    names = ("FSDP", "DeepSpeed")
    return next((name for name in names if parse_flag_from_env(f"ACCELERATE_USE_{name.upper()}")), None)


def backend_of(training_args: SFTConfig) -> str | None:
    """What shards a training: FSDP, ZeRO-1, ZeRO-2 or ZeRO-3; None where each process has whole copies."""
    stage = _zero(training_args).get("stage")
    return f"ZeRO-{stage}" if stage else "FSDP" if launched_with() == "FSDP" else None


def sharded_by(training_args: SFTConfig) -> str | None:
    """FSDP or ZeRO-3, under which no process holds the whole model; else None."""
    backend = backend_of(training_args)
    return backend if backend in ("FSDP", "ZeRO-3") else None


def _zero(training_args: SFTConfig) -> dict[str, Any]:
    plugin = training_args.deepspeed_plugin
    return {} if plugin is None else plugin.deepspeed_config.get("zero_optimization", {})


def _bitsandbytes_optimizer(training_args: SFTConfig) -> str | None:
    name: str = OptimizerNames(training_args.optim).value
    return name if any(word in name for word in ("8bit", "paged", "bnb")) else None


def _launch(training_args: SFTConfig, model_args: ModelConfig, processes: int, connected: int) -> Iterator[str]:
    if processes != connected:
        yield f"{processes} processes were started but accelerate sees {connected}: start them by accelerate launch"
    if training_args.fsdp:
        yield "fsdp belongs to the launch: accelerate launch --config_file accelerate_configs/fsdp2.yaml"
    kwargs = training_args.activation_checkpointing_kwargs
    reentrant = isinstance(kwargs, dict) and kwargs.get("use_reentrant") is True
    # PEFT under ZeRO-3 needs it, and TRL sets it there. Elsewhere DDP would mark a parameter of a checkpointed layer
    # as ready twice.
    if processes > 1 and reentrant and not (sharded_by(training_args) == "ZeRO-3" and model_args.use_peft):
        yield "use_reentrant: true fails with several processes: leave it out of activation_checkpointing_kwargs"


def _training(training_args: SFTConfig, model_args: ModelConfig, train_args: TrainArguments) -> Iterator[str]:
    if kwargs := training_args.model_init_kwargs:
        names = ", ".join(kwargs) if isinstance(kwargs, dict) else kwargs
        yield (
            f"model_init_kwargs ({names}) has no effect, as the recipe loads the model: "
            "use --dtype, --attn_implementation, --model_revision; a device_map has no place in training"
        )
    for name in ("per_device_train_batch_size", "per_device_eval_batch_size"):
        if getattr(training_args, name) < 1:
            yield f"--{name} {getattr(training_args, name)}: give 1 or more"
    if model_args.use_peft and model_args.lora_r < 1:
        yield f"--lora_r {model_args.lora_r}: give 1 or more"
    targets = model_args.lora_target_modules or []
    targets = [targets] if isinstance(targets, str) else targets  # as ModelConfig makes of a single one
    if model_args.use_peft and (heads := [name for name in targets if name.split(".")[-1] == "lm_head"]):
        yield (
            f"lora_target_modules: {heads[0]}: TRL computes the loss from the head's own weight, so an adapter on it "
            "is not trained: leave it out"
        )
    if not model_args.use_peft:
        if model_args.load_in_4bit or model_args.load_in_8bit:
            yield "a quantised base cannot be trained itself: add use_peft: true"
        if modes := [name for name in ("use_rslora", "use_dora") if getattr(model_args, name)]:
            yield f"{' and '.join(modes)} without an adapter: add use_peft: true"
    if training_args.hub_token is not None:
        yield "--hub_token would be written to files in plain text: set HF_TOKEN in the environment instead"
    if training_args.loss_type == "dft" and training_args.label_smoothing_factor > 0:
        yield "loss_type: dft takes no label_smoothing_factor: leave one of them out"
    if training_args.save_only_model:
        yield "--save_only_model writes checkpoints from which no run can be resumed: leave it out"
    if training_args.restore_callback_states_from_checkpoint:
        yield "--restore_callback_states_from_checkpoint is not needed: leave it out"
    resume = training_args.resume_from_checkpoint
    if train_args.overwrite_output_dir and resume is not None and resume.lower() not in ("false", "no", "0"):
        yield f"--overwrite_output_dir begins anew, --resume_from_checkpoint {resume} resumes: leave one out"


def _sharded(training_args: SFTConfig, model_args: ModelConfig) -> Iterator[str]:
    launcher, by = launched_with(), sharded_by(training_args)
    if launcher and not torch.accelerator.is_available():
        # accelerate would continue without sharding, and each process would hold the whole model.
        yield f"{launcher} needs GPUs: on a CPU use accelerate_configs/cpu.yaml"
    if by is None:
        return
    dtype = "bfloat16" if model_args.dtype == "auto" else model_args.dtype
    if model_args.load_in_8bit:
        yield f"{by} cannot shard 8-bit weights: use load_in_4bit: true"
    if model_args.load_in_4bit and model_args.bnb_4bit_quant_storage != dtype:
        yield (
            f"{by} shards 4-bit weights only where they are stored in the model's dtype, and bnb_4bit_quant_storage "
            f"is {model_args.bnb_4bit_quant_storage or 'uint8'}: set bnb_4bit_quant_storage: {dtype}"
        )
    if model_args.load_in_4bit and model_args.use_dora:
        yield f"{by} shards trained weights of one dtype, and DoRA on a 4-bit base has two: use LoRA or rsLoRA"
    if by == "ZeRO-3":
        if not _zero(training_args).get("stage3_gather_16bit_weights_on_model_save"):
            yield "ZeRO-3 would save no model: set zero3_save_16bit_model: true in the accelerate config"
        return
    if optim := _bitsandbytes_optimizer(training_args):
        yield f"FSDP cannot shard the states of optim: {optim}: use optim: adamw_torch_fused"
    # FSDP2 falls back to SHARDED_STATE_DICT, with which the Trainer saves no model.
    if os.environ.get("FSDP_STATE_DICT_TYPE", "").upper() != "FULL_STATE_DICT":
        yield "FSDP would save no model: set fsdp_state_dict_type: FULL_STATE_DICT in the accelerate config"
    if parse_flag_from_env("FSDP_ACTIVATION_CHECKPOINTING") and training_args.activation_checkpointing:
        yield (
            "activations would be checkpointed twice: set activation_checkpointing: false, or "
            "fsdp_activation_checkpointing: false in the accelerate config"
        )


def _rows(script_args: ScriptArguments, training_args: SFTConfig) -> Iterator[str]:
    if training_args.packing:
        if training_args.max_length is None:
            yield "packing fills rows of max_length tokens: give max_length"
        if training_args.packing_strategy == "wrapped":
            yield "packing_strategy: wrapped cuts dialogues apart and lets one see the next: use bfd"
    elif training_args.eval_packing:
        yield "eval_packing without packing lets one dialogue see the next: add packing: true"
    if script_args.dataset_streaming and training_args.max_steps <= 0:
        yield "with --dataset_streaming the number of rows is not known: give --max_steps"
    if script_args.dataset_streaming and training_args.dataloader_num_workers > 0:
        yield "--dataloader_num_workers with --dataset_streaming reads rows where they are not counted: leave it out"
    if training_args.max_steps <= 0 and training_args.num_train_epochs <= 0:
        yield f"--num_train_epochs {training_args.num_train_epochs:g} trains nothing: give more than 0"


def _without_effect(script_args: ScriptArguments, training_args: SFTConfig) -> Iterator[str]:
    """Options of TRL that have no effect on rows of token ids with labels, or fail on them."""
    summary = "the loss is on the summary and its end alone"
    own_collator = not (training_args.packing or training_args.padding_free)
    refused = {
        "assistant_only_loss": (training_args.assistant_only_loss, summary),
        "completion_only_loss: false": (training_args.completion_only_loss is False, summary),
        "eos_token": (training_args.eos_token, "a summary ends with the stop token of the chat template"),
        "pad_token": (training_args.pad_token, "the tokenizer has one, which is never trained on"),
        "dataset_text_field": (training_args.dataset_text_field != "text", "the dialogue is named by dialogue_column"),
        "dataset_kwargs": (training_args.dataset_kwargs, "the recipe encodes the rows"),
        "truncation_mode": (training_args.truncation_mode != "keep_start", "a long dialogue loses turns, not its end"),
        "shuffle_dataset": (training_args.shuffle_dataset, "rows are shuffled in each epoch"),
        "pad_to_multiple_of": (training_args.pad_to_multiple_of and own_collator, "rows are padded to the longest"),
        "ignore_bias_buffers": (script_args.ignore_bias_buffers, "no supported model needs it"),
    }
    for name, (is_given, reason) in refused.items():
        if is_given:
            yield f"{name} has no place here, as {reason}: leave it out"


def _kernels(training_args: SFTConfig, model_args: ModelConfig) -> Iterator[str]:
    on_gpu = torch.cuda.is_available() or torch.xpu.is_available()
    if training_args.use_liger_kernel and not on_gpu:
        yield "use_liger_kernel needs a GPU: leave it out"
    elif training_args.use_liger_kernel and not is_liger_kernel_available():
        yield "use_liger_kernel needs its package: pip install liger-kernel"
    attention = model_args.attn_implementation or ""
    if "flash" not in attention:
        return
    if not on_gpu:
        yield f"attn_implementation: {attention} needs a GPU: use sdpa"
    elif attention in _FLASH and not _FLASH[attention](kernels_fallback_ok=True):
        yield (
            f"attn_implementation: {attention} is not installed: pip install flash-attn --no-build-isolation, "
            "or pip install kernels; or use sdpa"
        )
    if model_args.dtype == "float32":
        yield f"attn_implementation: {attention} has no float32: set dtype: bfloat16"


def _global_batch(training_args: SFTConfig, train_args: TrainArguments, processes: int) -> Iterator[str]:
    size, rows = train_args.global_batch_size, training_args.per_device_train_batch_size
    if size is None:
        return
    given, share = training_args.gradient_accumulation_steps, size // processes
    here = f"{processes} process{'es' if processes > 1 else ''}"
    if size < 1 or size % processes:
        near = max(1, round(size / processes)) * processes
        yield f"--global_batch_size {size} cannot be shared by {here}: give a multiple of {processes}, such as {near}"
    elif share % rows:
        fitting = [str(n) for n in range(1, min(share, 2 * rows) + 1) if share % n == 0]
        yield (
            f"--global_batch_size {size} is not a multiple of {rows} rows on each of {here}: "
            f"give --per_device_train_batch_size {' or '.join(fitting)}, or --global_batch_size "
            f"{max(1, round(share / rows)) * rows * processes}"
        )
    elif given not in (1, share // rows):  # 1 is the default and cannot be told from an option that was left out
        yield (
            f"--gradient_accumulation_steps {given} makes a global batch of {given * rows * processes} "
            f"({rows} rows on each of {here}), but --global_batch_size is {size}: leave one of them out"
        )


def _trackers(training_args: SFTConfig) -> Iterator[str]:
    for name in training_args.report_to:
        try:
            # Each looks for its package; the trainer would make them do so after the model is loaded.
            (tracker,) = (kind() for kind in get_reporting_integration_callbacks([name]))
        except ValueError as error:
            yield f"--report_to {name}: {error}"
        except (RuntimeError, ImportError):
            yield f"--report_to {name}: the package is not installed: pip install {name}, or leave it out"
        else:
            if isinstance(tracker, WandbCallback) and PartialState().is_main_process:
                yield from _wandb_login(tracker._wandb)


def _wandb_login(wandb: Any) -> Iterator[str]:
    """Without a login `wandb.init` would prompt for one, or fail, after the model is loaded."""
    try:
        if wandb.setup().settings.mode != "online" or wandb.login(prompt=False):
            return
        fault = "nobody is logged in"
    except wandb.Error as error:  # a wrong key, or no connection to the server
        fault = str(error).rstrip(".")
    yield f"--report_to wandb: {fault}: run wandb login, or set WANDB_API_KEY, or WANDB_MODE=offline"


def _evaluation(training_args: SFTConfig, train_args: TrainArguments) -> Iterator[str]:
    """Options of evaluation, best model and early stopping that would fail hours into a run."""
    evaluates, generates = training_args.eval_strategy != "no", train_args.eval_generate_samples > 0
    if train_args.eval_generate_samples < 0:
        yield f"--eval_generate_samples {train_args.eval_generate_samples}: give 0 (off) or more"
    if train_args.eval_max_new_tokens < 1:
        yield f"--eval_max_new_tokens {train_args.eval_max_new_tokens}: give 1 or more"
    if generates and not evaluates:
        yield "--eval_generate_samples without evaluations: add --eval_strategy epoch (or steps)"
    if generates and (sharding := "FSDP" if training_args.fsdp else sharded_by(training_args)):
        yield (
            f"--eval_generate_samples with {sharding}: each process holds a part of every weight there, and "
            "generating needs them whole; leave it out and summarise with recipes/eval.py"
        )
    name = (training_args.metric_for_best_model or "").removeprefix("eval_")
    metrics = _LOSS_METRICS | (_SUMMARY_METRICS if generates else {})
    if name and name not in metrics:
        hint = " (give --eval_generate_samples for it)" if name in _SUMMARY_METRICS else f"; use {', '.join(metrics)}"
        yield f"--metric_for_best_model {name}: no evaluation measures it{hint}"
    elif name and training_args.greater_is_better != metrics[name]:
        wanted = str(metrics[name]).lower()
        yield f"--metric_for_best_model {name}: the worst would be kept, give --greater_is_better {wanted}"
    if train_args.early_stopping_patience is not None:
        if train_args.early_stopping_patience < 1:
            yield f"--early_stopping_patience {train_args.early_stopping_patience}: give 1 or more"
        if not evaluates:
            yield "--early_stopping_patience without evaluations: add --eval_strategy epoch (or steps)"
        if not name:
            yield "--early_stopping_patience needs the metric to improve: add --metric_for_best_model loss"
