"""Every config, parsed as recipes/sft.py does, gives the adapter and quantisation that it describes."""

import functools
import re
from types import SimpleNamespace

from conftest import ROOT
from dialogsum_sft.arguments import DataArguments, TrainArguments
from dialogsum_sft.cli import parse
from dialogsum_sft.hardware import Device, training_defaults

import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from trl import ModelConfig, ScriptArguments, SFTConfig, get_peft_config, get_quantization_config

CONFIGS = sorted((ROOT / "recipes" / "configs").rglob("*.yaml"))
ACCELERATE = sorted((ROOT / "accelerate_configs").glob("*.yaml"))


GPU = Device("cuda", bf16=True)


def each(paths):
    return pytest.mark.parametrize("path", paths, ids=[path.stem for path in paths])


def options(path, device=GPU):
    """All options of a config as its recipe parses them on a GPU, and the ModelConfig among them."""
    types = (ScriptArguments, SFTConfig, ModelConfig, DataArguments, TrainArguments)
    # transformers refuses the bf16 of a GPU on a machine without one, unless it is to use the CPU.
    argv = ["--config", str(path), "--use_cpu", str(not torch.cuda.is_available())]
    parts = parse(types, argv, defaults=functools.partial(training_defaults, device=device))
    model_args = next(part for part in parts if isinstance(part, ModelConfig))
    merged = {name: value for part in parts for name, value in vars(part).items()}
    return SimpleNamespace(**merged), model_args


def test_the_main_configs_exist():
    assert {"quickstart", "llama2_7b_qlora", "qwen3_8b_qlora"} <= {path.stem for path in CONFIGS}
    assert {"single_gpu", "ddp", "cpu"} <= {path.stem for path in ACCELERATE}


@each(CONFIGS)
def test_every_key_of_a_config_is_parsed(path):
    found, _ = options(path)
    for key, value in yaml.safe_load(path.read_text()).items():
        assert getattr(found, key) in (value, [value]), key  # report_to becomes a list


@each(CONFIGS)
def test_the_first_line_is_the_command_of_the_config(path):
    command = path.read_text().split("\n")[0]
    name = path.relative_to(ROOT).as_posix()
    match = re.fullmatch(
        rf"# (?:python|accelerate launch(?: --config_file (\S+))?) recipes/sft.py --config {name}", command
    )
    assert match, command
    assert match[1] is None or ROOT / match[1] in ACCELERATE


@each(CONFIGS)
def test_quantisation_is_what_the_yaml_says(path):
    written = yaml.safe_load(path.read_text())
    quantization = get_quantization_config(options(path)[1])
    if not written.get("load_in_4bit"):
        assert quantization is None
        return
    assert quantization.load_in_4bit
    assert quantization.bnb_4bit_quant_type == "nf4"
    assert quantization.bnb_4bit_compute_dtype == torch.bfloat16
    assert quantization.bnb_4bit_use_double_quant == written.get("use_bnb_nested_quant", False)


@each(CONFIGS)
def test_the_adapter_is_what_the_yaml_says(path):
    written = yaml.safe_load(path.read_text())
    adapter = get_peft_config(options(path)[1])
    if not written["use_peft"]:
        assert adapter is None
        return
    assert (adapter.r, adapter.lora_alpha, adapter.lora_dropout, adapter.task_type) == (
        written["lora_r"],
        written["lora_alpha"],
        written["lora_dropout"],
        "CAUSAL_LM",
    )
    modules = written.get("lora_target_modules", "all-linear")
    assert adapter.target_modules == (set(modules) if isinstance(modules, list) else modules)


def test_llama2_has_the_values_of_the_tutorial():
    path = ROOT / "recipes" / "configs" / "llama2_7b_qlora.yaml"
    training, model_args = options(path)
    assert (training.lora_r, training.lora_alpha, training.lora_dropout) == (8, 16, 0.05)
    assert (training.optim, training.learning_rate, training.warmup_steps) == ("paged_adamw_8bit", 2e-4, 1)
    assert (training.per_device_train_batch_size, training.gradient_accumulation_steps) == (1, 4)
    assert training.train_sampling_strategy == "group_by_length"
    assert training.report_to == ["tensorboard"]
    assert get_quantization_config(model_args).bnb_4bit_use_double_quant is False
    assert training.eval_max_new_tokens == 200


@each(ACCELERATE)
def test_accelerate_parses_its_configs(path):
    found = load_config_from_file(str(path))
    for key, value in yaml.safe_load(path.read_text()).items():
        assert getattr(found, key) == value, key


@each(ACCELERATE)
def test_an_accelerate_config_names_an_existing_config(path):
    match = re.fullmatch(
        rf"# accelerate launch --config_file accelerate_configs/{path.name} recipes/sft\.py --config (\S+)(?: --.*)?",
        path.read_text().split("\n")[0],
    )
    assert match
    assert ROOT / match[1] in CONFIGS
