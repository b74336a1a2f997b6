"""Each check refuses its combination of options with a line that names the remedy, and nothing else."""

import contextlib
import logging
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

from dialogsum_sft import InputError, checks
from dialogsum_sft.arguments import TrainArguments
from dialogsum_sft.checks import check_steps, check_training
from dialogsum_sft.cli import parse
from dialogsum_sft.modeling import load_model

import pytest
import torch
from accelerate import DeepSpeedPlugin
from transformers import AutoModelForCausalLM, integrations
from trl import ModelConfig, ScriptArguments, SFTConfig

FSDP = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT"}
ZERO3 = {
    "ACCELERATE_USE_DEEPSPEED": "true",
    "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3",
    "ACCELERATE_DEEPSPEED_ZERO3_INIT": "false",
    "ACCELERATE_DEEPSPEED_ZERO3_SAVE_16BIT_MODEL": "true",
}
QLORA = {"use_peft": True, "load_in_4bit": True, "dtype": "bfloat16"}


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch):
    """Pretend to run on a GPU with this environment; tests of the accelerate configs use that of a real launch."""

    def launch(env: dict[str, str] | None = None, *, gpu: bool = True) -> None:
        for name, value in (env or {}).items():
            monkeypatch.setenv(name, value)
        for where in (torch.accelerator, torch.cuda):
            monkeypatch.setattr(where, "is_available", lambda: gpu)

    return launch


def fault(model: dict[str, Any] | None = None, processes: int = 1, **training: Any) -> str:
    # SFTConfig requires the package deepspeed; the plugin that it builds does not.
    under_deepspeed = os.environ.pop("ACCELERATE_USE_DEEPSPEED", None)
    args = SFTConfig(output_dir="out", use_cpu=True, **({"bf16": False} | training))
    if under_deepspeed is not None:
        os.environ["ACCELERATE_USE_DEEPSPEED"] = under_deepspeed
        args.deepspeed_plugin = DeepSpeedPlugin()
    try:
        check_training(ScriptArguments(), args, ModelConfig(**(model or {})), TrainArguments(), processes)
    except InputError as error:
        return str(error)
    return ""


def test_ordinary_options_pass(launched) -> None:
    launched(gpu=False)
    assert fault() == ""
    assert fault(QLORA, 8, packing=True, neftune_noise_alpha=5.0, loss_type="dft") == ""
    assert fault({"use_peft": True, "use_rslora": True, "use_dora": True}) == ""


def test_several_faults_are_reported_one_a_line(launched) -> None:
    launched(gpu=False)
    found = fault({"attn_implementation": "flash_attention_2"}, use_liger_kernel=True, packing=True, max_length=None)
    words = ("give max_length", "use_liger_kernel", "flash_attention_2 needs a GPU", "no float32")
    assert all(word in line for word, line in zip(words, found.splitlines(), strict=True))


@pytest.mark.parametrize(
    ("model", "training", "words"),
    [
        ({}, {"model_init_kwargs": {"device_map": "auto"}}, "a device_map has no place in training"),
        ({"use_dora": True}, {}, "use_dora without an adapter: add use_peft: true"),
        ({}, {"loss_type": "dft", "label_smoothing_factor": 0.1}, "takes no label_smoothing_factor"),
        ({}, {"packing": True, "max_length": None}, "give max_length"),
        ({}, {"packing": True, "packing_strategy": "wrapped"}, "use bfd"),
        ({}, {"eval_packing": True}, "add packing: true"),
        ({}, {"use_liger_kernel": True}, "use_liger_kernel needs a GPU"),
        ({"attn_implementation": "flash_attention_2", "dtype": "auto"}, {}, "flash_attention_2 needs a GPU: use sdpa"),
        ({"attn_implementation": "kernels-community/flash-attn3", "dtype": "auto"}, {}, "needs a GPU: use sdpa"),
    ],
)
def test_refused_on_a_cpu(launched, model: dict[str, Any], training: dict[str, Any], words: str) -> None:
    launched(gpu=False)
    assert words in fault(model, **training)


def test_kernels_that_are_not_installed_are_refused(launched, monkeypatch: pytest.MonkeyPatch) -> None:
    launched()
    monkeypatch.setattr(checks, "is_liger_kernel_available", lambda: False)
    monkeypatch.setitem(checks._FLASH, "flash_attention_2", lambda kernels_fallback_ok: False)
    assert "pip install liger-kernel" in fault(use_liger_kernel=True)
    assert "pip install flash-attn" in fault({"attn_implementation": "flash_attention_2", "dtype": "bfloat16"})
    monkeypatch.setattr(checks, "is_liger_kernel_available", lambda: True)
    monkeypatch.setitem(checks._FLASH, "flash_attention_2", lambda kernels_fallback_ok: True)
    assert fault({"attn_implementation": "flash_attention_2", "dtype": "auto"}, use_liger_kernel=True) == ""
    assert "no float32" in fault({"attn_implementation": "flash_attention_2", "dtype": "float32"})


@pytest.mark.parametrize("env", [FSDP, ZERO3], ids=["FSDP", "ZeRO-3"])
def test_sharded_4_bit_weights_are_stored_in_the_models_dtype(launched, env: dict[str, str]) -> None:
    launched(env)
    assert "is uint8: set bnb_4bit_quant_storage: bfloat16" in fault(QLORA)
    assert "set bnb_4bit_quant_storage: float16" in fault(
        QLORA | {"dtype": "float16", "bnb_4bit_quant_storage": "bfloat16"}
    )
    assert fault(QLORA | {"bnb_4bit_quant_storage": "bfloat16"}) == ""
    assert fault(QLORA | {"bnb_4bit_quant_storage": "bfloat16", "dtype": "auto"}) == ""
    assert "load_in_4bit: true" in fault({"use_peft": True, "load_in_8bit": True})
    assert "DoRA" in fault(QLORA | {"bnb_4bit_quant_storage": "bfloat16", "use_dora": True})


def test_an_unsharded_quantised_base_needs_no_storage_dtype(launched) -> None:
    launched(ZERO3 | {"ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"})
    assert fault(QLORA, 2) == ""


def test_fsdp_refuses_8_bit_optimizers(launched) -> None:
    launched(FSDP)
    for optim in ("paged_adamw_8bit", "adamw_bnb_8bit", "paged_adamw_32bit"):
        assert "adamw_torch_fused" in fault(optim=optim)
    assert fault(optim="adamw_torch_fused") == ""


@pytest.mark.parametrize("kind", ["SHARDED_STATE_DICT", ""])
def test_fsdp_must_gather_the_model_it_saves(launched, kind: str) -> None:
    launched(FSDP | {"FSDP_STATE_DICT_TYPE": kind})
    assert "fsdp_state_dict_type: FULL_STATE_DICT" in fault()


def test_zero3_must_gather_the_model_it_saves(launched) -> None:
    launched(ZERO3 | {"ACCELERATE_DEEPSPEED_ZERO3_SAVE_16BIT_MODEL": "false"})
    assert "zero3_save_16bit_model: true" in fault()


def test_checkpointing_activations_twice_is_refused(launched) -> None:
    launched(FSDP | {"FSDP_ACTIVATION_CHECKPOINTING": "true"})
    assert "activation_checkpointing: false" in fault()
    assert fault(activation_checkpointing=False) == ""


@pytest.mark.parametrize("env", [FSDP, ZERO3], ids=["FSDP", "DeepSpeed"])
def test_sharding_without_gpus_is_refused(launched, env: dict[str, str]) -> None:
    launched(env, gpu=False)
    assert "needs GPUs: on a CPU use accelerate_configs/cpu.yaml" in fault()


def test_reentrant_checkpointing_only_for_peft_under_zero3(launched) -> None:
    reentrant = {"activation_checkpointing_kwargs": {"use_reentrant": True}}
    launched()
    assert fault(**reentrant) == ""
    assert "use_reentrant" in fault(processes=2, **reentrant)
    assert fault(processes=2, activation_checkpointing_kwargs={"use_reentrant": False}) == ""
    launched(ZERO3)
    assert fault({"use_peft": True}, 2, **reentrant) == ""
    assert "use_reentrant" in fault(processes=2, **reentrant)


def test_a_bitsandbytes_optimizer_becomes_adamw_without_a_gpu(launched, caplog: pytest.LogCaptureFixture) -> None:
    for gpu, expected in ((True, "paged_adamw_8bit"), (False, "adamw_torch")):
        launched(gpu=gpu)
        args = SFTConfig(output_dir="out", use_cpu=True, bf16=False, optim="paged_adamw_8bit")
        with caplog.at_level(logging.WARNING):
            check_training(ScriptArguments(), args, ModelConfig(), TrainArguments(), 1)
        assert args.optim == expected
    assert caplog.messages[-1] == "no GPU: adamw_torch is used instead of paged_adamw_8bit"


@pytest.mark.parametrize(
    ("mode", "login", "outcome"),
    [
        ("online", False, pytest.raises(InputError, match="--report_to wandb: nobody is logged in: run wandb login")),
        ("online", RuntimeWarning("no way"), pytest.raises(InputError, match="--report_to wandb: no way: run wandb")),
        ("online", True, contextlib.nullcontext()),
        ("offline", False, contextlib.nullcontext()),
    ],
)
def test_wandb_without_a_login_is_refused_unless_offline(
    monkeypatch: pytest.MonkeyPatch,
    mode: str,
    login: bool | Exception,
    outcome: contextlib.AbstractContextManager[Any],
) -> None:
    settings = SimpleNamespace(settings=SimpleNamespace(mode=mode))
    wandb = SimpleNamespace(setup=lambda: settings, login=Mock(side_effect=[login]), Error=RuntimeWarning)
    monkeypatch.setattr(integrations.integration_utils, "is_wandb_available", lambda: True)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    args = SFTConfig(output_dir="out", use_cpu=True, bf16=False, report_to=["wandb"])
    with outcome:
        check_training(ScriptArguments(), args, ModelConfig(), TrainArguments(), 1)


def test_an_unknown_tracker_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--report_to tensorbord: .* tensorboard"):
        check(tmp_path, "--report_to=tensorbord")


def test_no_tracker_is_the_default(tmp_path: Path) -> None:
    assert SFTConfig(str(tmp_path), bf16=False).report_to == []


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--eval_generate_samples=4"], "--eval_generate_samples without evaluations: add --eval_strategy epoch"),
        (["--eval_generate_samples=-1"], "--eval_generate_samples -1: give 0"),
        (["--eval_max_new_tokens=0"], "--eval_max_new_tokens 0: give 1 or more"),
        (["--eval_strategy=epoch", "--eval_generate_samples=4", "--fsdp"], "with FSDP: each process holds a part"),
        (["--metric_for_best_model=rouge1_mean"], "measures it (give --eval_generate_samples for it)"),
        (["--metric_for_best_model=eval_bleu"], "bleu: no evaluation measures it; use loss,"),
        (
            ["--eval_strategy=epoch", "--eval_generate_samples=4", "--metric_for_best_model=unfinished"],
            "unfinished: the worst would be kept, give --greater_is_better false",
        ),
        (["--early_stopping_patience=0", "--metric_for_best_model=loss", "--eval_strategy=epoch"], "patience 0: give"),
        (["--early_stopping_patience=1", "--metric_for_best_model=loss"], "patience without evaluations"),
        (["--early_stopping_patience=1", "--eval_strategy=epoch"], "needs the metric to improve"),
    ],
)
def test_evaluation_options_that_fail_later_are_refused(tmp_path: Path, flags: list[str], message: str) -> None:
    with pytest.raises(InputError) as refused:
        check(tmp_path, *flags)
    assert message in str(refused.value)


@pytest.mark.parametrize("metric", ["rouge1_mean", "eval_rougeL_mean"])
def test_greater_rouge_is_better_by_default(tmp_path: Path, metric: str) -> None:
    check(
        tmp_path,
        *("--eval_strategy=epoch", "--save_strategy=epoch", "--load_best_model_at_end=true"),
        *("--eval_generate_samples=4", f"--metric_for_best_model={metric}", "--early_stopping_patience=2"),
    )


@pytest.mark.parametrize(
    ("stage", "outcome"),
    [(2, contextlib.nullcontext()), (3, pytest.raises(InputError, match="with ZeRO-3: each process holds"))],
)
def test_generating_in_training_needs_unsharded_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: int, outcome: contextlib.AbstractContextManager[Any]
) -> None:
    args = SFTConfig(str(tmp_path), bf16=False, eval_strategy="epoch")
    zero = {"stage": stage, "stage3_gather_16bit_weights_on_model_save": True}
    monkeypatch.setattr(args, "deepspeed_plugin", SimpleNamespace(deepspeed_config={"zero_optimization": zero}))
    with outcome:
        check_training(ScriptArguments(), args, ModelConfig(), TrainArguments(eval_generate_samples=4), 1)


@pytest.mark.parametrize(
    ("size", "rows", "processes", "words"),
    [
        (64, 8, 3, "cannot be shared by 3 processes: give a multiple of 3, such as 63"),
        (2, 8, 4, "give a multiple of 4, such as 4"),
        (0, 8, 1, "give a multiple of 1, such as 1"),
        (12, 8, 1, "8 rows on each of 1 process: give --per_device_train_batch_size 1 or 2 or 3 or 4 or 6 or 12, or"),
        (64, 24, 2, "--per_device_train_batch_size 1 or 2 or 4 or 8 or 16 or 32, or --global_batch_size 48"),
        (4, 8, 2, "--per_device_train_batch_size 1 or 2, or --global_batch_size 16"),
    ],
)
def test_an_impossible_global_batch_is_refused(
    tmp_path: Path, size: int, rows: int, processes: int, words: str
) -> None:
    flags = (f"--global_batch_size={size}", f"--per_device_train_batch_size={rows}")
    with pytest.raises(InputError, match=f"--global_batch_size {size} .*{words}"):
        check(tmp_path, *flags, processes=processes)


def test_an_accumulation_that_contradicts_the_global_batch_is_refused(tmp_path: Path) -> None:
    flags = ("--global_batch_size=32", "--per_device_train_batch_size=8")
    check(tmp_path, *flags, "--gradient_accumulation_steps=2", processes=2)
    with pytest.raises(InputError, match="makes a global batch of 64 .*but --global_batch_size is 32: leave one"):
        check(tmp_path, *flags, "--gradient_accumulation_steps=4", processes=2)


def test_a_stream_needs_max_steps(tmp_path: Path) -> None:
    check(tmp_path, "--dataset_streaming=true", "--max_steps=3")
    with pytest.raises(InputError, match="give --max_steps"):
        check(tmp_path, "--dataset_streaming=true")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--assistant_only_loss=true"], "assistant_only_loss has no place here, as the loss is on the summary"),
        (["--completion_only_loss=false"], "completion_only_loss: false has no place here"),
        (["--eos_token=</s>"], "eos_token has no place here, as a summary ends with the stop token"),
        (["--pad_token=</s>"], "pad_token has no place here"),
        (["--dataset_text_field=dialogue"], "dataset_text_field has no place here, as the dialogue is named by"),
        (['--dataset_kwargs={"skip_prepare_dataset": true}'], "dataset_kwargs has no place here"),
        (["--truncation_mode=keep_end"], "truncation_mode has no place here"),
        (["--shuffle_dataset=true"], "shuffle_dataset has no place here"),
        (["--pad_to_multiple_of=8"], "pad_to_multiple_of has no place here"),
        (["--ignore_bias_buffers=true"], "ignore_bias_buffers has no place here"),
        (["--use_peft=true", "--lora_target_modules=lm_head"], "lora_target_modules: lm_head: TRL computes"),
        (["--use_peft=true", "--lora_target_modules", "q_proj", "lm_head"], "lora_target_modules: lm_head: TRL"),
        (["--num_train_epochs=0"], "--num_train_epochs 0 trains nothing: give more than 0"),
        (["--dataset_streaming=true", "--max_steps=3", "--dataloader_num_workers=2"], "where they are not counted"),
    ],
)
def test_options_that_trl_refuses_late_or_ignores(tmp_path: Path, flags: list[str], message: str) -> None:
    with pytest.raises(InputError) as refused:
        check(tmp_path, *flags)
    assert message in str(refused.value)
    assert len(refused.value.args) == 1


def test_options_that_trl_honours_pass(tmp_path: Path) -> None:
    check(tmp_path, "--completion_only_loss=true", "--use_peft=true", "--lora_target_modules", "q_proj", "v_proj")
    check(tmp_path, "--pad_to_multiple_of=8", "--packing=true", "--num_train_epochs=0.1")
    check(tmp_path, "--num_train_epochs=0", "--max_steps=2", "--lora_target_modules=lm_head")


@pytest.mark.parametrize(
    ("rows", "batch", "accumulation", "processes"), [(3, 4, 1, 1), (7, 4, 2, 1), (7, 4, 1, 2), (0, 1, 1, 1)]
)
def test_rows_that_do_not_fill_a_step_are_not_dropped_in_silence(
    tmp_path: Path, rows: int, batch: int, accumulation: int, processes: int
) -> None:
    options = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation, "bf16": False}
    args = SFTConfig(str(tmp_path), use_cpu=True, dataloader_drop_last=True, **options)
    step = batch * accumulation * processes
    with pytest.raises(InputError, match=f"drop_last drops all rows: there are {rows}, and a step takes {step}"):
        check_steps(args, range(rows), processes)
    check_steps(args, range(step), processes)
    check_steps(args, iter(()), processes)
    args.dataloader_drop_last = False
    check_steps(args, range(rows), processes)


def test_a_run_cannot_begin_anew_and_resume(tmp_path: Path) -> None:
    check(tmp_path, "--overwrite_output_dir=true", "--resume_from_checkpoint=false")
    with pytest.raises(InputError, match="--overwrite_output_dir begins anew"):
        check(tmp_path, "--overwrite_output_dir=true", "--resume_from_checkpoint=true")


def test_processes_that_are_not_connected_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="2 processes were started but accelerate sees 1"):
        check(tmp_path, processes=2, connected=1)


def check(folder: Path, *flags: str, processes: int = 1, connected: int | None = None) -> None:
    types = (ScriptArguments, SFTConfig, ModelConfig, TrainArguments)
    arguments = parse(types, [f"--output_dir={folder}", "--use_cpu=true", "--bf16=no", *flags])
    check_training(*arguments, processes, connected=connected)


def test_a_model_is_loaded_without_a_device_map(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    load = AutoModelForCausalLM.from_pretrained
    monkeypatch.setattr(
        AutoModelForCausalLM, "from_pretrained", lambda *args, **kwargs: given.update(kwargs) or load(*args, **kwargs)
    )
    load_model(ModelConfig(model_name_or_path=str(tiny_folder), dtype="bfloat16"))
    assert "device_map" not in given
    assert given["dtype"] is torch.bfloat16
