"""GGUF files: transformers reads the same logits from them; what is not covered is refused in one line."""

import json
from pathlib import Path
from typing import Any

from conftest import CHATML, trained_bpe
from dialogsum_sft import InputError
from dialogsum_sft.publish import gguf_export
from gguf_models import BYTE_LEVEL, LLAMA3_ROPE, QWEN_SPLIT, SIZES, SPLITS, model_folder, split, tokenizer_with

import pytest
import torch
from gguf import GGUFReader
from tokenizers import Tokenizer, normalizers, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    LlamaConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    SmolLM3Config,
)


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
