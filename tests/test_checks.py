"""Each guard refuses what it is there for, by a line that names the remedy, and nothing else."""

import logging
import os
from pathlib import Path
from typing import Any

from dialogsum_sft import InputError, checks
from dialogsum_sft.checks import check_generation, check_training
from dialogsum_sft.modeling import load_model

import pytest
import torch
from accelerate import DeepSpeedPlugin
from transformers import AutoModelForCausalLM
from trl import ModelConfig, SFTConfig

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
    """Pretend to be on a GPU, launched with this environment; the real launch's is tested with the configs."""

    def launch(env: dict[str, str] | None = None, *, gpu: bool = True) -> None:
        for name, value in (env or {}).items():
            monkeypatch.setenv(name, value)
        for where in (torch.accelerator, torch.cuda):
            monkeypatch.setattr(where, "is_available", lambda: gpu)

    return launch


def fault(model: dict[str, Any] | None = None, processes: int = 1, **training: Any) -> str:
    # SFTConfig wants the package deepspeed to be there; the plugin that it makes can be made without.
    under_deepspeed = os.environ.pop("ACCELERATE_USE_DEEPSPEED", None)
    args = SFTConfig(output_dir="out", use_cpu=True, **({"bf16": False} | training))
    if under_deepspeed is not None:
        os.environ["ACCELERATE_USE_DEEPSPEED"] = under_deepspeed
        args.deepspeed_plugin = DeepSpeedPlugin()
    try:
        check_training(args, ModelConfig(**(model or {})), processes)
    except InputError as error:
        return str(error)
    return ""


def test_ordinary_options_pass(launched) -> None:
    launched(gpu=False)
    assert fault() == ""
    assert fault(QLORA, 8, packing=True, neftune_noise_alpha=5.0, loss_type="dft") == ""
    assert fault({"use_peft": True, "use_rslora": True, "use_dora": True}) == ""


def test_several_faults_are_named_together(launched) -> None:
    launched(gpu=False)
    found = fault({"attn_implementation": "flash_attention_2"}, use_liger_kernel=True, packing=True, max_length=None)
    assert len(found.split("; ")) == 4
    assert all(word in found for word in ("use_liger_kernel", "needs a GPU", "no float32", "give max_length"))


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


def test_kernels_that_are_not_installed(launched, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_quantised_base_needs_no_storage_dtype_where_nothing_is_sharded(launched) -> None:
    launched(ZERO3 | {"ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"})
    assert fault(QLORA, 2) == ""


def test_fsdp_takes_no_8_bit_optimizer(launched) -> None:
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


def test_activations_are_checkpointed_once(launched) -> None:
    launched(FSDP | {"FSDP_ACTIVATION_CHECKPOINTING": "true"})
    assert "activation_checkpointing: false" in fault()
    assert fault(activation_checkpointing=False) == ""


@pytest.mark.parametrize("env", [FSDP, ZERO3], ids=["FSDP", "DeepSpeed"])
def test_without_gpus_nothing_is_sharded(launched, env: dict[str, str]) -> None:
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


def test_the_optimizer_becomes_adamw_without_a_gpu(launched, caplog: pytest.LogCaptureFixture) -> None:
    for gpu, expected in ((True, "paged_adamw_8bit"), (False, "adamw_torch")):
        launched(gpu=gpu)
        args = SFTConfig(output_dir="out", use_cpu=True, bf16=False, optim="paged_adamw_8bit")
        with caplog.at_level(logging.WARNING):
            check_training(args, ModelConfig(), 1)
        assert args.optim == expected
    assert caplog.messages[-1] == "no GPU: adamw_torch is used instead of paged_adamw_8bit"


def test_no_evaluation_in_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    check_generation()
    for name in ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"):
        with monkeypatch.context() as patch:
            patch.setenv(name, "true")
            with pytest.raises(InputError, match=r"ddp\.yaml"):
                check_generation()


def test_a_model_is_loaded_without_a_device_map(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    load = AutoModelForCausalLM.from_pretrained
    monkeypatch.setattr(
        AutoModelForCausalLM, "from_pretrained", lambda *args, **kwargs: given.update(kwargs) or load(*args, **kwargs)
    )
    load_model(ModelConfig(model_name_or_path=str(tiny_folder), dtype="bfloat16"))
    assert "device_map" not in given
    assert given["dtype"] is torch.bfloat16
