"""What each method of fine-tuning by recipes/sft.py trains and saves."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from conftest import Recipe
from dialogsum_sft.cli import parse
from dialogsum_sft.hardware import training_defaults

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from trl import ModelConfig, ScriptArguments, SFTConfig

Train = Callable[..., dict[str, Any]]


@pytest.fixture
def train(recipe: Recipe, tiny_folder: Path, tmp_path: Path) -> Train:
    """Train two steps in this process; returns run.json."""

    def call(**options: Any) -> dict[str, Any]:
        flags = {
            "model_name_or_path": tiny_folder,
            "dataset_name": "sample",
            "output_dir": tmp_path / "out",
            "use_peft": "true",
            "lora_dropout": 0.0,
            "max_steps": 2,
            "per_device_train_batch_size": 2,
            "bf16": "false",
            "activation_checkpointing": "false",
            "dataloader_pin_memory": "false",
            "learning_rate": 1e-2,
            "logging_steps": 1,
            "save_strategy": "no",
            "overwrite_output_dir": "true",
        } | options
        recipe("sft", *(f"--{name}={value}" for name, value in flags.items()))
        (record,) = [path for path in (tmp_path / "out").glob("*/run.json") if "earlier" not in path.parent.name]
        return json.loads(record.read_text())

    return call


def adapter(tmp_path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    folder = tmp_path / "out" / "adapter"
    return json.loads((folder / "adapter_config.json").read_text()), load_file(folder / "adapter_model.safetensors")


LINEAR = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def test_the_defaults_of_a_training(train: Train, tmp_path: Path) -> None:
    """LoRA on all linear layers of a bfloat16 base, batches grouped by length."""
    record = train()
    config, weights = adapter(tmp_path)
    assert {name.split(".")[-1] for name in config["target_modules"]} == LINEAR
    assert (config["r"], config["lora_alpha"], config["use_rslora"], config["use_dora"]) == (16, 32, False, False)
    assert len(weights) == 2 * len(LINEAR) * 2  # A and B, two layers
    assert all(weight.abs().max() > 0 for weight in weights.values())
    assert record["arguments"]["dtype"] == "bfloat16"
    assert record["arguments"]["train_sampling_strategy"] == "group_by_length"


def test_an_explicit_option_wins_over_its_default() -> None:
    def arguments(*flags: str) -> tuple[SFTConfig, ModelConfig]:
        types = (SFTConfig, ModelConfig)
        training_args, model_args = parse(types, ["--output_dir=out", *flags], defaults=training_defaults)
        return training_args, model_args

    assert arguments("--use_peft=true", "--dtype=float16")[1].dtype == "float16"
    assert arguments("--lora_target_modules", "q_proj", "v_proj")[1].lora_target_modules == ["q_proj", "v_proj"]
    assert arguments("--train_sampling_strategy=random")[0].train_sampling_strategy == "random"
    assert parse((ScriptArguments, ModelConfig), [])[1].dtype == "float32"  # an evaluation is TRL's


def test_rslora(train: Train, tmp_path: Path) -> None:
    train(use_rslora="true")
    assert adapter(tmp_path)[0]["use_rslora"] is True


def test_dora(train: Train, tmp_path: Path) -> None:
    train(use_dora="true")
    _, weights = adapter(tmp_path)
    assert sum("magnitude" in name for name in weights) == 2 * len(LINEAR)


def test_qlora(train: Train, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    record = train(load_in_4bit="true", use_bnb_nested_quant="true", dtype="bfloat16", optim="paged_adamw_8bit")
    assert record["metrics"]["train_loss"] > 0
    _, weights = adapter(tmp_path)
    assert {weight.dtype for weight in weights.values()} == {torch.bfloat16}
    assert all(weight.abs().max() > 0 for weight in weights.values())


def test_full_fine_tuning_saves_a_model_that_caches(train: Train, tmp_path: Path, tiny_folder: Path) -> None:
    record = train(use_peft="false")
    folder = tmp_path / "out" / "model"
    assert json.loads((folder / "config.json").read_text())["use_cache"] is True
    assert record["arguments"]["dtype"] == "float32"
    before, after = load_file(tiny_folder / "model.safetensors"), load_file(folder / "model.safetensors")
    assert {weight.dtype for weight in after.values()} == {torch.float32}
    assert all(not torch.equal(before[name], after[name]) for name in before)
    assert AutoModelForCausalLM.from_pretrained(folder).config.use_cache is True


@pytest.mark.parametrize("options", [{"neftune_noise_alpha": 5.0}, {"loss_type": "dft"}], ids=["NEFTune", "DFT"])
def test_neftune_and_dft(train: Train, options: dict[str, Any]) -> None:
    plain, other = (train(dtype="float32", **more)["metrics"]["train_loss"] for more in ({}, options))
    assert 0 < other != pytest.approx(plain, abs=1e-4)


def test_packing(train: Train) -> None:
    """Each of five rows is packed once: the number of tokens is the same."""
    options = {"max_train_samples": 5, "max_steps": -1, "num_train_epochs": 1, "dtype": "float32"}
    apart = train(**options, per_device_train_batch_size=5)
    packed = train(**options, per_device_train_batch_size=1, packing="true", max_length=2048)
    flat = train(**options, per_device_train_batch_size=5, padding_free="true")
    for record in (packed, flat):
        assert record["metrics"]["num_tokens"] == apart["metrics"]["num_tokens"]
        assert record["metrics"]["train_loss"] == pytest.approx(apart["metrics"]["train_loss"], abs=1e-5)


def test_packing_a_stream(train: Train) -> None:
    record = train(packing="true", dataset_streaming="true", max_length=1024)
    assert record["metrics"]["num_tokens"] > 2 * 2 * 512


def test_faults_end_the_recipe_before_a_model_is_loaded(
    train: Train, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for options, words in (
        ({"attn_implementation": "flash_attention_2"}, "flash_attention_2"),
        ({"global_batch_size": 9}, "--global_batch_size 9 is not a multiple of 2 rows"),
    ):
        with pytest.raises(SystemExit) as exit:
            train(model_name_or_path="nowhere/at/all", **options)
        assert exit.value.code == 2
        assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
