"""Activation checkpointing is on only where a step is estimated not to fit the memory."""

import json
import logging

from conftest import ROOT
from dialogsum_sft.arguments import DataArguments, TrainArguments
from dialogsum_sft.cli import parse
from dialogsum_sft.hardware import current_device, training_defaults
from dialogsum_sft.modeling import embedded_model
from dialogsum_sft.training import activation_checkpointing, memory
from dialogsum_sft.training.activation_checkpointing import needs_checkpointing, set_activation_checkpointing

import pytest
import torch
from datasets import Dataset, IterableDataset
from trl import ModelConfig, ScriptArguments, SFTConfig

GPU = 80 * 2**30
ROWS = Dataset.from_list([{"length": n, "prompt_tokens": n - 10} for n in (100, 300, 200)])


def settings(folder, *flags):
    argv = ["--output_dir=x", f"--model_name_or_path={folder}", "--use_peft=true", "--use_cpu=true", *flags]
    return parse((SFTConfig, ModelConfig), argv, defaults=training_defaults)


@pytest.fixture
def estimate(monkeypatch):
    """The largest step with its estimate, of every call."""
    calls = []
    original = activation_checkpointing.memory.estimate

    def recorded(model, model_args, training_args, **step):
        assert training_args.activation_checkpointing is False
        calls.append((step, original(model, model_args, training_args, **step).total))
        return original(model, model_args, training_args, **step)

    monkeypatch.setattr(activation_checkpointing.memory, "estimate", recorded)
    return calls


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_checkpointing_is_on_where_the_longest_rows_do_not_fit(tiny_folder, estimate, kind):
    args = settings(tiny_folder, "--per_device_train_batch_size=2")
    assert not needs_checkpointing(*args, ROWS, kind=kind, total_memory=GPU)
    step, total = estimate[0]
    assert step == {"rows": 2, "length": 300, "supervised": 10.0, "device": kind, "sharding": memory.WHOLE}
    share = activation_checkpointing.SHARE[kind]
    assert needs_checkpointing(*args, ROWS, kind=kind, total_memory=int(total / share) - 2)
    assert not needs_checkpointing(*args, ROWS, kind=kind, total_memory=int(total / share) + 2)


def test_packed_rows_count_as_max_length(tiny_folder, estimate):
    args = settings(tiny_folder, "--packing=true", "--max_length=512")
    needs_checkpointing(*args, ROWS, kind="cuda", total_memory=GPU)
    packed = {"rows": 8, "length": 512, "supervised": 512 * 30 / 600, "device": "cuda", "sharding": memory.WHOLE}
    assert estimate[0][0] == packed


def test_rows_of_a_stream_count_as_max_length(tiny_folder, estimate):
    stream = ROWS.to_iterable_dataset()
    assert isinstance(stream, IterableDataset)
    needs_checkpointing(*settings(tiny_folder, "--max_length=512"), stream, kind="cuda", total_memory=GPU)
    assert estimate[0][0]["length"] == 512
    args = settings(tiny_folder)
    args[0].max_length = None
    assert needs_checkpointing(*args, stream, kind="cuda")


@pytest.mark.parametrize(("kind", "flags"), [("mps", []), ("cpu", ["--load_in_4bit=true"])])
def test_checkpointing_is_on_without_an_estimate(tiny_folder, estimate, kind, flags):
    assert needs_checkpointing(*settings(tiny_folder, *flags), ROWS, kind=kind)
    assert estimate == []


def test_checkpointing_is_on_after_a_failed_estimate(tiny_folder, monkeypatch, caplog):
    def fails(*args, **kwargs):
        raise NotImplementedError("no meta kernel")

    monkeypatch.setattr(activation_checkpointing.memory, "meta_model", fails)
    with caplog.at_level(logging.INFO):
        assert needs_checkpointing(*settings(tiny_folder), ROWS)
    assert "no meta kernel" in caplog.text


def test_checkpointing_is_on_with_sharded_weights(tiny_folder, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert needs_checkpointing(*settings(tiny_folder), ROWS, kind="cuda")


@pytest.mark.parametrize("value", ["true", "false"])
def test_an_explicit_option_is_kept(tiny_folder, estimate, value):
    training_args, model_args = settings(tiny_folder, f"--activation_checkpointing={value}")
    assert set_activation_checkpointing(training_args, model_args, ROWS) is (value == "true")
    assert estimate == []


def test_both_names_of_the_option_are_set(tiny_folder):
    training_args, model_args = settings(tiny_folder)
    random_state = torch.get_rng_state()
    assert set_activation_checkpointing(training_args, model_args, ROWS) is False
    assert training_args.activation_checkpointing is training_args.gradient_checkpointing is False
    assert torch.equal(torch.get_rng_state(), random_state)  # the run's random numbers are as without the estimate


@pytest.mark.slow
@pytest.mark.skipif(torch.accelerator.is_available(), reason="trains on the CPU")
def test_the_embedded_model_trains_on_this_cpu_with_default_precision(recipe, tmp_path, capsys):
    flags = ["--model_name_or_path=embedded", "--dataset_name=sample", f"--output_dir={tmp_path}", "--max_steps=1"]
    recipe("sft", *flags, "--max_train_samples=1")
    out = capsys.readouterr().out
    autocast = "bf16 autocast" if current_device().bf16 else "no autocast"
    assert f"dtype float32, {autocast}, activation checkpointing off, learning_rate 2e-05 (all weights)" in out
    arguments = json.loads((tmp_path / "model" / "run.json").read_text())["arguments"]
    assert arguments["activation_checkpointing"] is arguments["gradient_checkpointing"] is False
    assert arguments["bf16"] is current_device().bf16


@pytest.mark.slow
def test_quickstart_needs_no_checkpointing():
    """On its two cores with 8 GiB; a batch of its longest rows is estimated in about a second."""
    embedded_model()
    argv = ["--config", str(ROOT / "recipes" / "configs" / "quickstart.yaml"), "--use_cpu=true"]
    types = (ScriptArguments, SFTConfig, ModelConfig, DataArguments, TrainArguments)
    _, training_args, model_args, *_ = parse(types, argv, defaults=training_defaults)
    rows = Dataset.from_list([{"length": 480, "prompt_tokens": 440}] * 4)
    assert not needs_checkpointing(training_args, model_args, rows, total_memory=8 * 2**30)
