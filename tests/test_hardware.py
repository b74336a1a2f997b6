"""Training defaults of each kind of device; torch is patched to report devices that this machine lacks."""

from types import SimpleNamespace

from dialogsum_sft.cli import parse
from dialogsum_sft.hardware import Device, Undecided, current_device, describe, resolve_dtype, training_defaults

import pytest
import torch
from trl import ModelConfig, SFTConfig, get_quantization_config

CPU, CPU_WITHOUT, MPS = Device("cpu", True), Device("cpu", False), Device("mps", True)
T4, A100 = Device("cuda", False), Device("cuda", True)


@pytest.fixture
def device(monkeypatch):
    """Make torch answer as on another machine: cpu, cpu without bf16, mps, T4, V100 or A100."""

    def pretend(name):
        capability = {"T4": (7, 5), "V100": (7, 0), "A100": (8, 0)}.get(name)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: capability is not None)
        monkeypatch.setattr(torch.xpu, "is_available", lambda: False)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: name == "mps")
        monkeypatch.setattr(torch.backends.mps, "is_macos_or_newer", lambda *version: version <= (14, 0))
        monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: name == "cpu")
        if capability is not None:
            properties = SimpleNamespace(major=capability[0], minor=capability[1], total_memory=16 * 2**30)
            monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
            monkeypatch.setattr(torch.cuda, "get_device_properties", lambda *_: properties)
            monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: name)

    return pretend


@pytest.mark.parametrize(
    ("name", "expected", "dtype"),
    [
        ("cpu", CPU, torch.bfloat16),
        ("cpu without bf16", CPU_WITHOUT, torch.float32),
        ("mps", MPS, torch.bfloat16),
        ("T4", T4, torch.float16),
        ("V100", T4, torch.float16),
        ("A100", A100, torch.bfloat16),
    ],
)
def test_the_device_and_the_dtype_of_auto(device, name, expected, dtype):
    device(name)
    assert current_device() == expected
    assert resolve_dtype("auto") == dtype


def test_use_cpu_takes_the_cpu_of_a_machine_with_a_gpu(device):
    device("A100")
    assert current_device(use_cpu=True).kind == "cpu"


def test_an_explicit_bfloat16_is_emulated_on_a_t4_and_float32_on_a_cpu_without_it(device, caplog):
    device("T4")
    assert resolve_dtype("bfloat16") == torch.bfloat16
    assert "this GPU emulates bfloat16" in caplog.text
    device("cpu without bf16")
    assert resolve_dtype("bfloat16") == torch.float32
    assert "float32 is used instead" in caplog.text


@pytest.mark.parametrize(
    ("name", "dtype"), [("float32", torch.float32), ("float16", torch.float16), (None, torch.float32)]
)
def test_other_dtypes_are_taken_as_given(name, dtype):
    assert resolve_dtype(name) == dtype


def precision(given, device):
    found = training_defaults(given, device)
    return found["dtype"], found["bf16"], found["fp16"]


@pytest.mark.parametrize(
    ("device", "adapter", "full"),
    [
        (CPU, ("bfloat16", False, False), ("float32", True, False)),
        (CPU_WITHOUT, ("float32", False, False), ("float32", False, False)),
        (MPS, ("bfloat16", False, False), ("float32", False, False)),
        (T4, ("float16", False, True), ("float32", False, True)),
        (A100, ("bfloat16", True, False), ("float32", True, False)),
    ],
)
def test_precision_follows_the_device(device, adapter, full):
    assert precision({"use_peft": True}, device) == adapter
    assert precision({}, device) == full


@pytest.mark.parametrize(
    ("device", "given", "expected"),
    [
        (T4, {"bf16": True}, ("bfloat16", True, False)),  # emulated
        (T4, {"dtype": "bfloat16"}, ("bfloat16", True, False)),
        (T4, {"fp16": False}, ("float32", False, False)),
        (T4, {"bf16": False}, ("float16", False, True)),
        (A100, {"fp16": True}, ("float16", False, True)),
        (A100, {"bf16": False}, ("bfloat16", False, False)),
        (CPU, {"bf16": True}, ("bfloat16", True, False)),
        (CPU, {"use_peft": False, "dtype": "bfloat16"}, ("float32", False, False)),
        (CPU, {"use_peft": False, "bf16": False}, ("float32", False, False)),
    ],
)
def test_an_explicit_precision_sets_the_others(device, given, expected):
    assert precision({"use_peft": True} | given, device) == expected


def test_an_adapter_has_a_higher_learning_rate_on_all_linear_layers():
    assert training_defaults({"use_peft": True}, A100)["learning_rate"] == 2e-4
    assert training_defaults({"use_peft": True}, A100)["lora_target_modules"] == ["all-linear"]
    assert "learning_rate" not in training_defaults({}, A100)


def test_only_a_gpu_has_pinned_memory():
    pinned = [training_defaults({}, device)["dataloader_pin_memory"] for device in (CPU, MPS, T4, A100)]
    assert pinned == [False, False, True, True]


def test_activation_checkpointing_is_left_to_the_memory_unless_it_is_given(monkeypatch):
    assert training_defaults({}, A100)["activation_checkpointing"] is Undecided.BY_MEMORY
    for name in ("activation_checkpointing", "gradient_checkpointing"):
        assert "activation_checkpointing" not in training_defaults({name: False}, A100)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_ACTIVATION_CHECKPOINTING", "true")
    assert training_defaults({}, A100)["activation_checkpointing"] is False


@pytest.mark.skipif(torch.accelerator.is_available(), reason="the defaults of a CPU")
@pytest.mark.parametrize("flags", ["", "--use_peft=true", "--use_peft=true --bf16=true", "--load_in_4bit=true"])
def test_this_cpu_accepts_its_defaults(flags):
    argv = ["--output_dir=x", *flags.split()]
    training_args, model_args = parse((SFTConfig, ModelConfig), argv, defaults=training_defaults)
    full = not model_args.use_peft
    assert training_args.bf16 is ("--bf16=true" in flags or (full and current_device().bf16))
    assert training_args.device.type == "cpu"
    assert training_args.to_dict()["activation_checkpointing"] == "by memory"
    if model_args.load_in_4bit:
        compute_dtype = get_quantization_config(model_args).bnb_4bit_compute_dtype
        assert compute_dtype == getattr(torch, model_args.dtype)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("cpu", "CPU with bf16: dtype bfloat16, no autocast"),
        ("A100", "A100 with bf16: dtype bfloat16, bf16 autocast"),
        ("T4", "T4 without bf16: dtype float16, fp16 autocast"),
        ("mps", "Apple GPU with bf16: dtype bfloat16, no autocast"),
    ],
)
def test_the_settings_are_described_in_one_line(device, name, line):
    device(name)
    settings = training_defaults({"use_peft": True}) | {"activation_checkpointing": False, "use_cpu": False}
    arguments = SimpleNamespace(**settings, use_peft=True)
    line += ", activation checkpointing off, learning_rate 0.0002 (adapter)"
    assert describe(arguments, arguments) == line
