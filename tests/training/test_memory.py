"""The memory estimate against formulas, the tensors that autograd saves, and a measured training."""

import json
import os
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

from conftest import ROOT
from dialogsum_sft.kernels.fused_lora import fuse_lora
from dialogsum_sft.kernels.unpadded import ATTENTION
from dialogsum_sft.modeling import embedded_model
from dialogsum_sft.training import memory

import pytest
import torch
from peft import get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig
from trl import ModelConfig, SFTConfig, get_peft_config

ROWS, LENGTH = 4, 50
GIB = 2**30


def llama(layers: int = 2) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=1000,
        hidden_size=64,
        intermediate_size=160,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=False,
    )


def model_args(**options) -> ModelConfig:
    defaults = {"dtype": "bfloat16", "use_peft": True, "lora_r": 8, "lora_dropout": 0.0}
    return ModelConfig(**(defaults | {"lora_target_modules": "all-linear"} | options))


def training_args(**options) -> SFTConfig:
    defaults = {"bf16": False, "use_cpu": True, "activation_checkpointing": False, "report_to": "none"}
    return SFTConfig(output_dir="unused", **(defaults | options))


def estimate(
    config, args, training=None, *, rows=ROWS, length=LENGTH, supervised=10, shared=0, device="cpu", padded=True
):
    model = memory.meta_model(config, args, device=device)
    shape = {"rows": rows, "length": length, "supervised": supervised, "shared": shared}
    with patch.object(memory, "only_causal", lambda config: not padded):
        return memory.estimate(model, args, training or training_args(), device=device, **shape)


def test_a_llama_layer_equals_the_formula():
    """The formula of the module's docstring, in bf16."""
    one_more = estimate(llama(3), model_args()).activations - estimate(llama(2), model_args()).activations
    d, h, heads, f, r = 64, 64, 4, 160, 8
    norms, attention = 8 * d + 8 + 4 * d, 8 * h + 4 * heads + 2 * LENGTH
    assert one_more == ROWS * LENGTH * (norms + attention + 8 * f + 14 * r)


def test_a_checkpointed_layer_keeps_its_input():
    training = training_args(activation_checkpointing=True)
    two, three = (estimate(llama(layers), model_args(), training).activations for layers in (2, 3))
    assert three - two == ROWS * LENGTH * 64 * 2
    all_of_one = (
        estimate(llama(3), model_args()).activations - estimate(llama(2), model_args()).activations
    )  # in the backward pass, one layer is computed again
    assert all_of_one < two < 2 * all_of_one


def kept_by_autograd(config, args, adapter_dtype) -> int:
    """Bytes of all storages that the forward pass of a real model leaves for the backward pass."""
    dtype = getattr(torch, args.dtype)
    model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=args.attn_implementation)
    if args.use_peft:
        model = get_peft_model(model, get_peft_config(args))
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.to(adapter_dtype)
    own = {tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), *model.buffers()]}
    kept = {}

    def keep(tensor):
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    mask = torch.ones(ROWS, LENGTH, dtype=torch.long)
    mask[1:, -7:] = 0  # padding on the right
    backbone = (model.get_base_model() if args.use_peft else model).base_model.train()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = backbone(input_ids=torch.zeros(ROWS, LENGTH, dtype=torch.long), attention_mask=mask, use_cache=False)
    del output
    return sum(storage.nbytes() for storage in kept.values())


@pytest.mark.parametrize(
    ("options", "device"),
    [
        ({}, "cpu"),
        ({"lora_target_modules": ["q_proj", "v_proj"]}, "cpu"),
        ({"lora_dropout": 0.1}, "cpu"),
        ({"use_peft": False}, "cpu"),
        ({"dtype": "float32"}, "cpu"),
        ({"attn_implementation": "eager"}, "cpu"),
        ({}, "cuda"),  # float32 adapters on a bf16 base: each branch keeps its input once more
    ],
)
def test_activations_equal_those_of_a_real_model(options, device):
    args = model_args(**options)
    adapter_dtype = torch.float32 if device == "cuda" else getattr(torch, args.dtype)
    assert estimate(llama(), args, device=device).activations == kept_by_autograd(llama(), args, adapter_dtype)


def test_unpadded_activations_equal_those_of_a_real_step():
    model = get_peft_model(
        AutoModelForCausalLM.from_config(llama(), dtype=torch.bfloat16), get_peft_config(model_args())
    )
    for parameter in model.parameters():
        parameter.data = parameter.data.bfloat16()
    fuse_lora(model)
    own = {tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), *model.buffers()]}
    kept = {}

    def keep(tensor):
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    segments = (10, *[LENGTH - 10] * ROWS)
    batch = {name: torch.zeros(1, sum(segments), dtype=torch.long) for name in ("input_ids", "position_ids")}
    backbone = model.get_base_model().base_model.train()
    backbone.config._attn_implementation = ATTENTION
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = backbone(**batch, segments=segments, use_cache=False)
    del output
    found = estimate(llama(), model_args(), shared=10, padded=False)
    assert found.activations == sum(storage.nbytes() for storage in kept.values())


def test_activations_grow_with_the_rows():
    two, eight = (estimate(llama(), model_args(), rows=rows).activations for rows in (2, 8))
    assert eight == pytest.approx(4 * two, rel=0.01)  # the rotary table is shared


# 7 linear layers of 2 layers: q and o 64 x 64, k and v 32 x 64, gate, up and down 160 x 64
LINEAR = 2 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 160 * 64)
OUTPUTS = 2 * (64 + 32 + 32 + 64 + 160 + 160 + 64)
INPUTS = 2 * (64 + 64 + 64 + 64 + 64 + 64 + 160)
OTHERS = 2 * 1000 * 64 + 5 * 64  # embeddings, head, norms
ROTARY = 8 * 4 * 2  # its frequencies and their copy


@pytest.mark.parametrize(
    ("options", "linear"),
    [
        ({}, 2 * LINEAR),
        ({"load_in_8bit": True}, LINEAR + 4 * OUTPUTS),
        ({"load_in_4bit": True}, LINEAR // 2 + 4 * LINEAR // 64),
    ],
)
def test_weights(options, linear):
    assert estimate(llama(), model_args(**options)).weights == linear + 2 * OTHERS + ROTARY


def test_nested_quantisation():
    args = model_args(load_in_4bit=True, use_bnb_nested_quant=True)
    scales = estimate(llama(), args).weights - (LINEAR // 2 + 2 * OTHERS + ROTARY)
    assert scales == pytest.approx(LINEAR / 64 * (1 + 4 / 256), abs=28)  # rounded down for each of 14


@pytest.mark.parametrize(
    ("options", "device", "number"),
    [
        ({}, "cpu", 2),
        ({}, "cuda", 4),
        ({"load_in_4bit": True}, "cuda", 2),
        ({"dtype": "float32"}, "cpu", 4),
    ],
)
def test_adapter_and_gradients(options, device, number):
    """A rank r adapter has r x (inputs + outputs) numbers; their dtype is PEFT's, TRL's or our trainer's."""
    found = estimate(llama(), model_args(**options), device=device)
    assert found.adapter == found.gradients == number * 8 * (INPUTS + OUTPUTS)


def test_full_fine_tuning():
    found = estimate(llama(), model_args(use_peft=False))
    assert (found.adapter, found.gradients) == (0, 2 * (LINEAR + OTHERS))


@pytest.mark.parametrize(
    ("optim", "share"),
    [
        ("adamw_torch", 2 * 2),
        ("adamw_torch_fused", 2 * 2),
        ("paged_adamw_32bit", 2 * 4),
        ("paged_adamw_8bit", 2 * (1 + 4 / 256)),
        ("lion_8bit", 1 + 4 / 256),
        ("sgd", 0),
    ],
)
def test_optimizer_states(optim, share):
    found = estimate(llama(), model_args(use_peft=False), training_args(optim=optim))
    small = 2 * 2 * 32 * 64 + 5 * 64  # k and v, and the norms: bitsandbytes keeps those of under 4,096 in 32 bits
    states = {"paged_adamw_8bit": 2, "lion_8bit": 1}.get(optim)
    expected = share * (LINEAR + OTHERS)
    if states is not None:
        expected += (4 * states - share) * small
    assert found.optimizer == pytest.approx(expected, abs=1)


def test_logits_of_the_supervised_positions():
    assert estimate(llama(), model_args(), supervised=10).logits == ROWS * 10 * 1000 * (2 + 4 * 4)
    assert estimate(llama(), model_args(dtype="float32"), supervised=10).logits == ROWS * 10 * 1000 * 4 * 4
    fused = estimate(llama(), model_args(), supervised=10, device="cuda")
    assert fused.logits == ROWS * 10 * (32768 * 2 + 64 * 4)


def test_total_and_fit():
    parts = dict.fromkeys(("weights", "adapter", "gradients", "optimizer", "activations", "logits", "overhead"), GIB)
    found = memory.MemoryEstimate(**parts)
    assert found.total == 7 * GIB
    assert found.fits(7 * GIB)
    assert not found.fits(7 * GIB - 1)


def test_parameters_of_the_embedded_model():
    config = AutoConfig.from_pretrained(embedded_model())
    found = estimate(config, model_args(lora_r=16))
    assert found.weights == pytest.approx(2 * 134_515_008, rel=1e-4)  # tied embeddings count once
    assert found.adapter == 2 * 4_884_480


# Runs the recipe and prints the process's memory before the model was loaded and at its peak, in KiB. `ru_maxrss`
# of a child starts at the peak of its parent, which is the process of all these tests; VmHWM does not.
MEASURED = """
import json, re, runpy, sys
from pathlib import Path
import psutil
from dialogsum_sft import modeling

before = []
load_model = modeling.load_model

def measure_and_load(*args, **kwargs):
    before.append(psutil.Process().memory_info().rss // 1024)
    return load_model(*args, **kwargs)

modeling.load_model = measure_and_load
runpy.run_path("recipes/sft.py", run_name="__main__")
peak = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())
print(json.dumps([*before, int(peak[1])]))
"""


@pytest.mark.slow
@pytest.mark.skipif(torch.accelerator.is_available(), reason="measures a training on the CPU")
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="reads the peak from /proc")
def test_the_measured_peak_of_the_quickstart(tmp_path: Path):
    """The longest batch comes first, so that two steps show the peak of the whole training."""
    options = ["--config=recipes/configs/quickstart.yaml", f"--output_dir={tmp_path}", "--max_steps=2"]
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *options, "--eval_strategy=no", "--report_to=none"],
        cwd=ROOT,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    before, peak = json.loads(done.stdout.splitlines()[-1])
    args = model_args(lora_r=16)
    # The four longest rows begin with the same 51 tokens, the first has 462.
    shape = {"rows": 4, "length": 462, "supervised": 38, "shared": 51}
    found = estimate(AutoConfig.from_pretrained(embedded_model()), args, padded=False, **shape)
    assert before * 1024 == pytest.approx(memory.PROCESS["cpu"], rel=0.15)
    assert found.total - memory.PROCESS["cpu"] == pytest.approx((peak - before) * 1024, rel=0.15)
