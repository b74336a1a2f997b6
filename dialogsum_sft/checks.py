"""Combinations of options that fail or silently misbehave, refused before a model is loaded."""

import json
import logging
import os
from typing import Any

from dialogsum_sft import InputError
from dialogsum_sft.arguments import EvalArguments, TrainArguments

import torch
from accelerate import PartialState
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
        *_launch(processes, processes if connected is None else connected),
        *_method(training_args, model_args),
        *_sharded(training_args, model_args),
        *_packing(training_args),
        *_kernels(training_args, model_args),
        *_processes(training_args, model_args, processes),
        *_data(script_args, training_args),
        *_global_batch(training_args, train_args, processes),
        *_resume(training_args, train_args),
        *_trackers(training_args),
        *_evaluation(training_args, train_args),
    ]
    if faults:
        raise InputError(*faults)
    if _uses_bitsandbytes(training_args) and not torch.accelerator.is_available():
        logger.warning("no GPU: adamw_torch is used instead of %s", OptimizerNames(training_args.optim).value)
        training_args.optim = "adamw_torch"


def check_engine(eval_args: EvalArguments, model_args: ModelConfig, processes: int) -> None:
    """Raise InputError naming all that keeps recipes/eval.py from working with these options and this launch."""
    kwargs = json_option("generation_kwargs", eval_args.generation_kwargs)
    json_option("vllm_kwargs", eval_args.vllm_kwargs)
    faults = []
    if fsdp() or deepspeed():  # under FSDP only the first process would load the weights
        faults.append(
            "an evaluation cannot be launched with FSDP or DeepSpeed: each process generates with the whole model; "
            "launch it with accelerate_configs/ddp.yaml, or with python alone"
        )
    if processes != int(os.environ.get("WORLD_SIZE", "1")):
        faults.append("WORLD_SIZE is set, but this process is alone: start it with python, or by accelerate launch")
    if eval_args.num_candidates < 1:
        faults.append(f"--num_candidates {eval_args.num_candidates}: give 1 or more")
    if eval_args.num_candidates > 1 and not kwargs.get("do_sample", True):
        faults.append("--num_candidates chooses among samples: leave do_sample in --generation_kwargs true")
    if "num_return_sequences" in kwargs:
        faults.append("--generation_kwargs num_return_sequences: give --num_candidates instead")
    if eval_args.predictions_file is None:
        faults += _endpoint(eval_args, model_args, processes)
    if faults:
        raise InputError(*faults)


def _endpoint(eval_args: EvalArguments, model_args: ModelConfig, processes: int) -> list[str]:
    faults, quantised = [], model_args.load_in_4bit or model_args.load_in_8bit
    endpoint = eval_args.engine == "openai"
    if eval_args.engine != "transformers" and processes > 1:
        faults.append(f"--engine {eval_args.engine} runs in one process: start it with python")
    if endpoint and not eval_args.base_url:
        faults.append("--engine openai needs --base_url, such as http://localhost:8000/v1")
    if endpoint and eval_args.adapter_path is not None:
        faults.append(
            "--adapter_path: an endpoint evaluates what it serves; name the adapter there by --served_model_name"
        )
    if endpoint and not (eval_args.served_model_name or model_args.model_name_or_path):
        faults.append("--engine openai needs --served_model_name: the model's name at the endpoint")
    if endpoint and eval_args.max_length and not model_args.model_name_or_path:
        faults.append("--max_length counts tokens: give --model_name_or_path, whose tokenizer counts them")
    if not endpoint and (eval_args.base_url or eval_args.served_model_name):
        faults.append(f"--base_url and --served_model_name are for --engine openai, not {eval_args.engine}")
    if not endpoint and not model_args.model_name_or_path:
        faults.append("no model: give --model_name_or_path (a hub id, a folder, or 'embedded') or --adapter_path")
    if eval_args.engine == "vllm" and quantised:
        faults.append("--load_in_4bit with --engine vllm: give the quantisation by --vllm_kwargs instead")
    return faults


def json_option(option: str, text: str | None) -> dict[str, Any]:
    """The JSON object of a command-line option. Raises InputError where it is none."""
    try:
        value = json.loads(text or "{}")
    except json.JSONDecodeError as error:
        raise InputError(f"--{option} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise InputError(f'--{option} must be a JSON object such as {{"num_beams": 4}}')
    return value


def fsdp() -> bool:
    """Whether `accelerate launch` shards by FSDP."""
    return os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"


def deepspeed() -> bool:
    """Whether `accelerate launch` uses DeepSpeed."""
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


def _uses_bitsandbytes(training_args: SFTConfig) -> bool:
    name = OptimizerNames(training_args.optim).value
    return any(word in name for word in ("8bit", "paged", "bnb"))


def _launch(processes: int, connected: int) -> list[str]:
    if processes != connected:
        return [f"{processes} processes were started but accelerate sees {connected}: start them by accelerate launch"]
    return []


def _method(training_args: SFTConfig, model_args: ModelConfig) -> list[str]:
    faults = []
    if training_args.model_init_kwargs:
        kwargs = training_args.model_init_kwargs
        names = ", ".join(kwargs) if isinstance(kwargs, dict) else kwargs
        faults.append(
            f"model_init_kwargs ({names}) has no effect, as the recipe loads the model: "
            "use --dtype, --attn_implementation, --model_revision; a device_map has no place in training"
        )
    if training_args.fsdp:
        faults.append("fsdp belongs to the launch: accelerate launch --config_file accelerate_configs/fsdp2.yaml")
    if not model_args.use_peft and (model_args.load_in_4bit or model_args.load_in_8bit):
        faults.append("a quantised base cannot be trained itself: add use_peft: true")
    if training_args.hub_token is not None:
        faults.append("--hub_token would be written to files in plain text: set HF_TOKEN in the environment instead")
    if training_args.save_only_model:
        faults.append("--save_only_model writes checkpoints from which no run can be resumed: leave it out")
    if training_args.restore_callback_states_from_checkpoint:
        faults.append("--restore_callback_states_from_checkpoint is not needed: leave it out")
    modes = [name for name in ("use_rslora", "use_dora") if getattr(model_args, name)]
    if modes and not model_args.use_peft:
        faults.append(f"{' and '.join(modes)} without an adapter: add use_peft: true")
    if training_args.loss_type == "dft" and training_args.label_smoothing_factor > 0:
        faults.append("loss_type: dft takes no label_smoothing_factor: leave one of them out")
    return faults


def _sharded(training_args: SFTConfig, model_args: ModelConfig) -> list[str]:
    faults: list[str] = []
    if (fsdp() or deepspeed()) and not torch.accelerator.is_available():
        # accelerate would continue without sharding, and each process would hold the whole model.
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
        if _uses_bitsandbytes(training_args):
            name = OptimizerNames(training_args.optim).value
            faults.append(f"FSDP cannot shard the states of optim: {name}: use optim: adamw_torch_fused")
        # FSDP2 falls back to SHARDED_STATE_DICT, with which the Trainer saves no model.
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
        is_installed = _FLASH.get(attention)
        if not on_gpu:
            faults.append(f"attn_implementation: {attention} needs a GPU: use sdpa")
        elif is_installed is not None and not is_installed(kernels_fallback_ok=True):
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
    # PEFT under ZeRO-3 needs it, and TRL sets it there. Elsewhere DDP would mark a parameter of a checkpointed layer
    # as ready twice.
    if processes > 1 and reentrant and not (sharded_by(training_args) == "ZeRO-3" and model_args.use_peft):
        return ["use_reentrant: true fails with several processes: leave it out of activation_checkpointing_kwargs"]
    return []


def _data(script_args: ScriptArguments, training_args: SFTConfig) -> list[str]:
    if script_args.dataset_streaming and training_args.max_steps <= 0:
        return ["with --dataset_streaming the number of rows is not known: give --max_steps"]
    return []


def _global_batch(training_args: SFTConfig, train_args: TrainArguments, processes: int) -> list[str]:
    size, rows = train_args.global_batch_size, training_args.per_device_train_batch_size
    if size is None:
        return []
    given = training_args.gradient_accumulation_steps
    here = f"{processes} process{'es' if processes > 1 else ''}"
    if size < 1 or size % processes:
        nearest = max(1, round(size / processes)) * processes
        return [
            f"--global_batch_size {size} cannot be shared by {here}: give a multiple of {processes}, such as {nearest}"
        ]
    share = size // processes
    if share % rows:
        fitting = [str(n) for n in range(1, min(share, 2 * rows) + 1) if share % n == 0]
        return [
            f"--global_batch_size {size} is not a multiple of {rows} rows on each of {here}: "
            f"give --per_device_train_batch_size {' or '.join(fitting)}, or --global_batch_size "
            f"{max(1, round(share / rows)) * rows * processes}"
        ]
    if given not in (1, share // rows):  # 1 is the default and cannot be told from an option that was left out
        return [
            f"--gradient_accumulation_steps {given} makes a global batch of {given * rows * processes} "
            f"({rows} rows on each of {here}), but --global_batch_size is {size}: leave one of them out"
        ]
    return []


def _resume(training_args: SFTConfig, train_args: TrainArguments) -> list[str]:
    resume = training_args.resume_from_checkpoint
    if train_args.overwrite_output_dir and resume is not None and resume.lower() not in ("false", "no", "0"):
        return [f"--overwrite_output_dir begins anew, --resume_from_checkpoint {resume} resumes: leave one out"]
    return []


def _trackers(training_args: SFTConfig) -> list[str]:
    faults = []
    for name in training_args.report_to:
        try:
            # Each looks for its package; the trainer would make them do so after the model is loaded.
            (tracker,) = (kind() for kind in get_reporting_integration_callbacks([name]))
        except ValueError as error:
            faults.append(f"--report_to {name}: {error}")
        except (RuntimeError, ImportError):
            faults.append(f"--report_to {name}: the package is not installed: pip install {name}, or leave it out")
        else:
            if isinstance(tracker, WandbCallback) and PartialState().is_main_process:
                faults += _wandb_login(tracker._wandb)
    return faults


def _wandb_login(wandb: Any) -> list[str]:
    """Without a login `wandb.init` would prompt for one, or fail, after the model is loaded."""
    try:
        if wandb.setup().settings.mode != "online" or wandb.login(prompt=False):
            return []
        fault = "nobody is logged in"
    except wandb.Error as error:  # a wrong key, or no connection to the server
        fault = str(error).rstrip(".")
    return [f"--report_to wandb: {fault}: run wandb login, or set WANDB_API_KEY, or WANDB_MODE=offline"]


def _evaluation(training_args: SFTConfig, train_args: TrainArguments) -> list[str]:
    """Options of evaluation, best model and early stopping that would fail hours into a run."""
    faults = []
    evaluates, generates = training_args.eval_strategy != "no", train_args.eval_generate_samples > 0
    if train_args.eval_generate_samples < 0:
        faults.append(f"--eval_generate_samples {train_args.eval_generate_samples}: give 0 (off) or more")
    if train_args.eval_max_new_tokens < 1:
        faults.append(f"--eval_max_new_tokens {train_args.eval_max_new_tokens}: give 1 or more")
    if generates and not evaluates:
        faults.append("--eval_generate_samples without evaluations: add --eval_strategy epoch (or steps)")
    if generates and (sharding := "FSDP" if training_args.fsdp else sharded_by(training_args)):
        faults.append(
            f"--eval_generate_samples with {sharding}: each process holds a part of every weight there, and "
            "generating needs them whole; leave it out and summarise with recipes/eval.py"
        )
    name = (training_args.metric_for_best_model or "").removeprefix("eval_")
    metrics = _LOSS_METRICS | (_SUMMARY_METRICS if generates else {})
    if name and name not in metrics:
        hint = " (give --eval_generate_samples for it)" if name in _SUMMARY_METRICS else f"; use {', '.join(metrics)}"
        faults.append(f"--metric_for_best_model {name}: no evaluation measures it{hint}")
    elif name and training_args.greater_is_better != metrics[name]:
        wanted = str(metrics[name]).lower()
        faults.append(f"--metric_for_best_model {name}: the worst would be kept, give --greater_is_better {wanted}")
    if train_args.early_stopping_patience is not None:
        if train_args.early_stopping_patience < 1:
            faults.append(f"--early_stopping_patience {train_args.early_stopping_patience}: give 1 or more")
        if not evaluates:
            faults.append("--early_stopping_patience without evaluations: add --eval_strategy epoch (or steps)")
        if not name:
            faults.append("--early_stopping_patience needs the metric to improve: add --metric_for_best_model loss")
    return faults
