"""Sampling options and checks of the vLLM engine; test_vllm.py runs it."""

import importlib.util
import json
from pathlib import Path
from typing import Any

from dialogsum_sft import InputError
from dialogsum_sft.generation.engine import generation_config
from dialogsum_sft.generation.vllm_engine import VllmEngine, lora_rank, sampling_options

import pytest
from transformers import PreTrainedTokenizerFast
from trl import ModelConfig


def options(tokenizer: PreTrainedTokenizerFast, **kwargs: Any) -> dict[str, Any]:
    return sampling_options(generation_config(tokenizer, frozenset([2, 5]), 9, **kwargs))


def test_greedy_is_temperature_zero(chatml_tokenizer: PreTrainedTokenizerFast) -> None:
    found = options(chatml_tokenizer)
    assert found.pop("repetition_penalty", 1.0) == 1.0
    assert found == {"max_tokens": 9, "temperature": 0.0, "stop_token_ids": [2, 5], "detokenize": False}


def test_sampling_options_are_renamed_for_vllm(chatml_tokenizer: PreTrainedTokenizerFast) -> None:
    found = options(chatml_tokenizer, do_sample=True, temperature=0.5, top_k=7, min_new_tokens=3)
    assert (found["temperature"], found["top_k"], found["min_tokens"]) == (0.5, 7, 3)


def test_options_unknown_to_vllm_are_refused(chatml_tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(InputError, match="--engine vllm has no no_repeat_ngram_size, num_beams;"):
        options(chatml_tokenizer, num_beams=4, no_repeat_ngram_size=3)


def adapter(folder: Path, **config: Any) -> str:
    (folder / "adapter_config.json").write_text(json.dumps({"r": 8, "bias": "none"} | config))
    return str(folder)


@pytest.mark.parametrize(
    ("config", "rank"), [({"r": 8}, 8), ({"r": 20}, 32), ({"r": 16, "rank_pattern": {"q_proj": 100}}, 128)]
)
def test_max_lora_rank_is_one_that_vllm_allows(tmp_path: Path, config: dict[str, Any], rank: int) -> None:
    assert lora_rank(adapter(tmp_path, **config)) == rank


@pytest.mark.parametrize(
    ("config", "fault"),
    [
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"use_dora": True}, "use_dora"),
        ({"bias": "all"}, "bias"),
        ({"r": 1024}, "rank 1024"),
    ],
)
def test_an_adapter_that_vllm_cannot_load_is_refused(tmp_path: Path, config: dict[str, Any], fault: str) -> None:
    with pytest.raises(InputError, match=rf"\({fault}\): merge it into its base first"):
        lora_rank(adapter(tmp_path, **config))


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vllm is installed")
def test_a_missing_vllm_is_one_line(chatml_tokenizer: PreTrainedTokenizerFast) -> None:
    config = generation_config(chatml_tokenizer, frozenset([2]), 9)
    with pytest.raises(InputError, match="--engine vllm needs the package vllm, in an environment of its own"):
        VllmEngine(ModelConfig(), chatml_tokenizer, config)
