"""An unpadded batch has the logits and gradients of the padded one."""

from typing import Any

from dialogsum_sft.kernels import unpadded
from dialogsum_sft.kernels.unpadded import ATTENTION, can_unpad, prefill, unpad

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

IDS = torch.tensor([[7, 8, 9, 1, 2, 3], [7, 8, 9, 4, 0, 0], [7, 8, 9, 1, 5, 0]])
MASK = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 0]])
LABELS = torch.tensor(
    [[-100, -100, -100, -100, 2, 3], [-100, -100, -100, 4, -100, -100], [-100, -100, -100, -100, 5, -100]]
)


def tiny(model_type: str, **options: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0}
    config = AutoConfig.for_model(model_type, **(sizes | options))
    return AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")


def batch_of(lengths: list[int], beginning: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Random rows with a common beginning, supervised on their last three tokens, padded on the right."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(1, 64, (len(lengths), max(lengths)), generator=generator)
    ids[:, :beginning] = ids[0, :beginning]
    at = torch.arange(max(lengths))
    mask = (at < torch.tensor(lengths)[:, None]).long()
    supervised = (mask == 1) & (at >= torch.tensor(lengths)[:, None] - 3)
    return ids * mask, mask, torch.where(supervised, ids, -100)


def run(model: PreTrainedModel, *, without_padding: bool, lengths: list[int], beginning: int) -> list[torch.Tensor]:
    """The logits that predict a label, and the gradients of their sum of squares."""
    ids, mask, labels = batch_of(lengths, beginning)
    predicting = labels[:, 1:] != -100
    if without_padding:
        inputs, index = unpad(ids, mask, labels)
        config = model.config
        config._attn_implementation = ATTENTION
        output = model(**inputs)
        config._attn_implementation = "sdpa"
        logits = output.logits[0, index[:, :-1][predicting]]
    else:
        logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1][predicting]
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [logits.detach(), *torch.autograd.grad(logits.square().mean(), parameters)]


def test_unpad_keeps_the_shared_beginning_once_and_no_padding() -> None:
    inputs, index = unpad(IDS, MASK, LABELS)
    # Of the second row only two tokens can be shared: its first label, 4, is predicted from its own 9.
    assert inputs["segments"] == (2, 4, 2, 3)
    assert inputs["input_ids"].tolist() == [[7, 8, 9, 1, 2, 3, 9, 4, 9, 1, 5]]
    assert inputs["position_ids"].tolist() == [[0, 1, 2, 3, 4, 5, 2, 3, 2, 3, 4]]
    assert index.tolist() == [[-1, -1, 2, 3, 4, 5], [-1, -1, 6, 7, -1, -1], [-1, -1, 8, 9, 10, -1]]


def test_a_single_row_shares_nothing() -> None:
    inputs, _ = unpad(IDS[1:2], MASK[1:2], LABELS[1:2])
    assert inputs["segments"] == (0, 4)
    assert inputs["input_ids"].tolist() == [[7, 8, 9, 4]]


@pytest.mark.parametrize("beginning", [0, 1, 9])
@pytest.mark.parametrize("model_type", sorted(unpadded.MODEL_TYPES))
def test_unpadded_equals_padded(model_type: str, beginning: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpadded, "_BLOCK", 4)  # so that rows have several blocks, the last one not full
    model = tiny(model_type, **({"sliding_window": None} if model_type == "mistral" else {}))
    assert can_unpad(model)
    padded = run(model, without_padding=False, lengths=[17, 13, 20], beginning=beginning)
    ours = run(model, without_padding=True, lengths=[17, 13, 20], beginning=beginning)
    for a, b in zip(ours, padded, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_models_with_other_attention_keep_their_padding() -> None:
    assert not can_unpad(tiny("mistral", sliding_window=8))
    assert not can_unpad(tiny("phi3"))
    model = tiny("llama")
    model.gradient_checkpointing_enable()
    assert not can_unpad(model)
    model.gradient_checkpointing_disable()
    with torch.autocast("cpu", torch.bfloat16):
        assert not can_unpad(model)
    assert can_unpad(model)


@pytest.mark.parametrize("model_type", ["llama", "mistral", "qwen2", "qwen3"])
@pytest.mark.parametrize("prompts", [[[5, 6, 7, 8, 9], [5, 6, 1], [5, 6, 7, 2]], [[5, 6], [5, 6]], [[4, 3, 2]]])
def test_prefill_equals_left_padded_prompts(model_type: str, prompts: list[list[int]]) -> None:
    model = tiny(model_type).eval()
    width = max(map(len, prompts)) - 1
    ids = torch.tensor([[0] * (width - len(prompt) + 1) + prompt[:-1] for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt) + 1) + [1] * (len(prompt) - 1) for prompt in prompts])
    with torch.inference_mode():
        cache = prefill(model, prompts)
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        expected = model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=True).past_key_values
    assert model.config._attn_implementation == "sdpa"
    for layer, wanted in zip(cache.layers, expected.layers, strict=True):
        real = mask.bool()[:, None, :, None].expand_as(wanted.keys)
        torch.testing.assert_close(layer.keys[real], wanted.keys[real], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(layer.values[real], wanted.values[real], atol=1e-5, rtol=1e-5)
