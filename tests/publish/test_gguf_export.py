"""GGUF files: transformers reads the same logits from them; what is not covered is refused in one line."""

import json
from pathlib import Path
from typing import Any

from conftest import CHATML, trained_bpe
from dialogsum_sft import InputError
from dialogsum_sft.publish import gguf_export

import pytest
import torch
from gguf import GGUFReader
from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    LlamaConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
    SmolLM3Config,
)

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "bos_token_id": None,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 128,
}
QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CONFIGS = {
    "llama": (LlamaConfig, {"tie_word_embeddings": True}),
    "llama3": (LlamaConfig, {"rope_parameters": LLAMA3_ROPE, "attention_bias": True}),
    "qwen2": (Qwen2Config, {"tie_word_embeddings": True}),
    "qwen3": (Qwen3Config, {"head_dim": 128, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}),
    "smollm3": (SmolLM3Config, {}),
}


def tokenizer_with(step: Any, normalizer: Any = None, **model: Any) -> PreTrainedTokenizerFast:
    """The tests' vocabulary with another way of dividing texts."""
    parts = json.loads(trained_bpe())
    parts["model"] |= model
    backend = Tokenizer.from_str(json.dumps(parts))
    backend.pre_tokenizer = step
    if normalizer is not None:
        backend.normalizer = normalizer
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tokenizer.chat_template = CHATML
    return tokenizer


BYTE_LEVEL = pre_tokenizers.ByteLevel(add_prefix_space=False)


def split(pattern: str) -> Any:
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), byte_level])


def model_folder(folder: Path, name: str, tokenizer: PreTrainedTokenizerFast, **more: Any) -> Path:
    """A random model of a family, with norms and biases that are not all alike."""
    torch.manual_seed(0)
    kind, own = CONFIGS[name]
    model = AutoModelForCausalLM.from_config(kind(vocab_size=len(tokenizer) + 3, **SIZES | own | more))
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.data += torch.rand_like(parameter) / 2
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def logits(model: Any, tokenizer: PreTrainedTokenizerFast) -> torch.Tensor:
    ids = torch.tensor(
        [tokenizer("#Person1#: Is the printer broken again, at 12:45?\n#Person2#: It is!")["input_ids"]]
    )
    with torch.inference_mode():
        return model.eval()(input_ids=ids).logits[0]


@pytest.mark.parametrize("name", ["llama", "llama3", "qwen2", "qwen3"])
def test_transformers_reads_the_same_logits(
    name: str, chatml_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    folder = model_folder(tmp_path, name, chatml_tokenizer)
    expected = logits(AutoModelForCausalLM.from_pretrained(folder), chatml_tokenizer)
    largest = expected.abs().max()
    for kind, allowed in {"f32": 1e-5, "f16": 2e-3, "bf16": 5e-2, "q8_0": 5e-2}.items():
        path = gguf_export.write(folder, "tiny", kind, chatml_tokenizer, {2}, False)
        assert path == folder / f"model-{kind}.gguf"
        model = gguf_export.load(path)
        assert model is not None
        difference = (logits(model, chatml_tokenizer) - expected).abs().max()
        assert difference < allowed * largest
        assert (difference > 1e-6 * largest) == (kind != "f32")  # each type rounds


def test_rope_factors_of_llama_3_are_written(chatml_tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    """transformers takes them from the config, llama.cpp from the file: frequencies are divided by 1 up to 8."""
    folder = model_folder(tmp_path, "llama3", chatml_tokenizer)
    reader = GGUFReader(gguf_export.write(folder, "tiny", "q8_0", chatml_tokenizer, {2}, False))
    (factors,) = [tensor.data for tensor in reader.tensors if tensor.name == "rope_freqs.weight"]
    assert factors.shape == (8,)
    assert factors[0] == 1
    assert 1 < factors[1] < 1.1
    assert factors[2:] == pytest.approx(8)


def test_the_file_has_settings_vocabulary_and_template(
    chatml_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    folder = model_folder(tmp_path, "smollm3", chatml_tokenizer)
    path = gguf_export.write(folder, "summaries", "q8_0", chatml_tokenizer, {2, 0}, False)
    reader = GGUFReader(path)
    found = {key: field.contents() for key, field in reader.fields.items()}
    tokens = found.pop("tokenizer.ggml.tokens")
    types = found.pop("tokenizer.ggml.token_type")
    assert len(found.pop("tokenizer.ggml.merges")) == len(json.loads(trained_bpe())["model"]["merges"])
    assert tokens[:3] == ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    assert tokens[-1] == f"[PAD{len(chatml_tokenizer) + 2}]"
    assert (types[:3], types[3], types[-1]) == ([3, 3, 3], 1, 5)  # control, normal, unused
    assert {key: value for key, value in found.items() if not key.startswith("GGUF.")} == {
        "general.architecture": "smollm3",
        "general.type": "model",
        "general.name": "summaries",
        "general.file_type": 7,
        "general.quantization_version": 2,
        "smollm3.block_count": 4,
        "smollm3.context_length": 512,
        "smollm3.embedding_length": 64,
        "smollm3.feed_forward_length": 96,
        "smollm3.attention.head_count": 4,
        "smollm3.attention.head_count_kv": 2,
        "smollm3.attention.layer_norm_rms_epsilon": pytest.approx(1e-6),
        "smollm3.attention.key_length": 16,
        "smollm3.attention.value_length": 16,
        "smollm3.vocab_size": len(chatml_tokenizer) + 3,
        "smollm3.rope.dimension_count": 16,
        "smollm3.rope.freq_base": 2000000.0,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.eot_token_id": 0,
        "tokenizer.ggml.padding_token_id": 0,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": CHATML,
    }
    assert gguf_export.load(path) is None  # transformers does not read smollm3 from GGUF


SPLITS: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "gpt-2": ((BYTE_LEVEL,), {}),
    "smollm": ((pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), BYTE_LEVEL]),), {}),
    "qwen2": ((split(QWEN_SPLIT), normalizers.NFC()), {}),
    "llama-bpe": ((split(QWEN_SPLIT.replace(r"|\p{N}|", r"|\p{N}{1,3}|")),), {"ignore_merges": True}),
}


@pytest.mark.parametrize("name", SPLITS)
def test_each_way_of_dividing_texts_has_llama_cpps_name(name: str, tmp_path: Path) -> None:
    steps, options = SPLITS[name]
    tokenizer = tokenizer_with(*steps, **options)
    folder = model_folder(tmp_path, "llama", tokenizer)
    reader = GGUFReader(gguf_export.write(folder, "tiny", "f16", tokenizer, {2}, False))
    assert reader.fields["tokenizer.ggml.pre"].contents() == name


@pytest.mark.parametrize(
    "tokenizer",
    [
        lambda: tokenizer_with(pre_tokenizers.ByteLevel(add_prefix_space=True)),
        lambda: tokenizer_with(split(QWEN_SPLIT + r"|x")),
        lambda: tokenizer_with(split(QWEN_SPLIT), ignore_merges=True),
        lambda: tokenizer_with(BYTE_LEVEL, normalizers.Lowercase()),
        lambda: tokenizer_with(pre_tokenizers.Metaspace()),
    ],
    ids=["prefix space", "other pattern", "merges ignored", "lowercase", "metaspace"],
)
def test_other_tokenizers_are_refused(tokenizer: Any) -> None:
    config = LlamaConfig(**SIZES)
    with pytest.raises(InputError, match=r"covers byte-level BPE tokenizers .* try llama.cpp's own"):
        gguf_export.check(config, tokenizer())


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (AutoConfig.for_model("gemma3_text"), "covers llama, qwen2, qwen3, smollm3, and this model is gemma3_text"),
        (AutoConfig.for_model("mistral"), "and this model is mistral"),
        (
            LlamaConfig(rope_parameters={"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}),
            "no rope of the type yarn for llama",
        ),
        (Qwen2Config(rope_parameters=LLAMA3_ROPE), "no rope of the type llama3 for qwen2"),
        (Qwen2Config(use_sliding_window=True, sliding_window=64, max_window_layers=2), "no sliding window for qwen2"),
        (SmolLM3Config(no_rope_layer_interval=2), "no rope in each fourth layer"),
    ],
)
def test_other_models_are_refused(config: Any, message: str, chatml_tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(InputError, match=message) as info:
        gguf_export.check(config, chatml_tokenizer)
    assert str(info.value).endswith("try llama.cpp's own convert_hf_to_gguf.py on the merged folder")


def test_bos_is_added_where_the_tokenizer_and_the_prompt_begin_with_it(
    chatml_tokenizer: PreTrainedTokenizerFast,
) -> None:
    assert not gguf_export.adds_bos(chatml_tokenizer, [1, 5])  # no BOS token
    llama3 = Tokenizer.from_str(trained_bpe())
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=llama3, bos_token="<|im_start|>", add_bos_token=True)
    assert tokenizer("text")["input_ids"][0] == 1
    assert gguf_export.adds_bos(tokenizer, [1, 5])
    assert not gguf_export.adds_bos(tokenizer, [5, 1])
