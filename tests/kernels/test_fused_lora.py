"""The fused LoRA forward equals PEFT's and is used for plain layers only."""

from typing import Any

from dialogsum_sft.kernels.fused_lora import fuse_lora

import pytest
import torch
from peft import LoraConfig, get_peft_model
from test_unpadded import IDS, run, tiny


@pytest.mark.parametrize("bias", [False, True])
def test_fused_lora_equals_peft(bias: bool) -> None:
    model = get_peft_model(
        tiny("llama", attention_bias=bias), LoraConfig(r=4, lora_alpha=12, target_modules="all-linear")
    )
    generator = torch.Generator().manual_seed(2)
    for name, parameter in model.named_parameters():
        if "lora_B" in name or name.endswith("bias"):
            parameter.data.normal_(generator=generator, std=0.2)
    shape = {"lengths": [17, 13], "beginning": 3}
    theirs = run(model, without_padding=False, **shape)
    with model.disable_adapter():
        base = model(IDS).logits
    assert fuse_lora(model) == 14
    for a, b in zip(run(model, without_padding=False, **shape), theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
    with model.disable_adapter():
        torch.testing.assert_close(model(IDS).logits, base, atol=0, rtol=0)
    adapted = model(IDS).logits
    model.merge_adapter()
    torch.testing.assert_close(model(IDS).logits, adapted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("options", [{"lora_dropout": 0.1}, {"use_dora": True}, {"lora_bias": True}], ids=str)
def test_other_lora_layers_keep_their_forward(options: dict[str, Any]) -> None:
    model = tiny("llama", attention_bias=True, mlp_bias=True)
    assert fuse_lora(get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", **options))) == 0
