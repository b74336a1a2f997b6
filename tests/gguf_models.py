"""Random models and tokenizers of the kinds that are written as GGUF."""

import json
from functools import cache
from pathlib import Path
from typing import Any

from conftest import CHATML, sample_dialogues, trained_bpe

import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import (
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


HARD = "\n#Person1#: 1234.5 kg and 12345, don't  you'LL\tsee?! (so) ÉCOLE 北京\n\n  Ok"
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


SPLITS: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "gpt-2": ((BYTE_LEVEL,), {}),
    "smollm": ((pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), BYTE_LEVEL]),), {}),
    "qwen2": ((split(QWEN_SPLIT), normalizers.NFC()), {}),
    "llama-bpe": ((split(QWEN_SPLIT.replace(r"|\p{N}|", r"|\p{N}{1,3}|")),), {"ignore_merges": True}),
}


@cache
def undivided_bpe() -> dict[str, Any]:
    """Vocabulary and merges over whole lines, so that the ids of a text show how it was divided before merging."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    trainer = trainers.BpeTrainer(
        vocab_size=1000,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    lines = [line + "\n" for row in sample_dialogues()[:12] for line in row["dialogue"].splitlines()]
    tokenizer.train_from_iterator([*lines, *(HARD.splitlines(keepends=True) * 4)], trainer)
    return {key: json.loads(tokenizer.to_str())["model"][key] for key in ("vocab", "merges")}
