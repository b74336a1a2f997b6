"""Tokens that configs and tokenizers name and weights do not have are left out of what is written."""

from conftest import tiny_gemma3
from dialogsum_sft import InputError
from dialogsum_sft.token_ids import drop_pad_token, fit_tokenizer, greedy_config

import pytest
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast


@pytest.mark.parametrize(("pad", "kept"), [(None, None), (0, 0), (99, 99), (100, None), (32000, None), (-1, None)])
def test_a_pad_token_without_an_embedding_is_dropped(pad: int | None, kept: int | None) -> None:
    config = LlamaConfig(vocab_size=100, hidden_size=8, num_attention_heads=1, num_hidden_layers=0, pad_token_id=pad)
    drop_pad_token(config)
    assert config.pad_token_id == kept
    LlamaForCausalLM(config)


def test_the_language_model_of_a_multimodal_model_has_the_embeddings() -> None:
    config = tiny_gemma3(vocab_size=8).config
    config.get_text_config().pad_token_id = config.pad_token_id = 9
    drop_pad_token(config)
    assert (config.pad_token_id, config.get_text_config().pad_token_id) == (None, None)


def test_a_merged_model_names_no_token_beyond_its_weights(chatml_tokenizer: PreTrainedTokenizerFast) -> None:
    size = len(chatml_tokenizer)
    config = LlamaConfig(vocab_size=size, pad_token_id=-1, eos_token_id=[2, size], bos_token_id=size + 1)
    written = greedy_config(config, size, chatml_tokenizer, {2, 5, size + 3})
    pad = chatml_tokenizer.pad_token_id
    assert (written.pad_token_id, written.eos_token_id, written.bos_token_id) == (pad, [2, 5], None)
    assert (config.pad_token_id, config.eos_token_id, config.bos_token_id) == (pad, [2, 5], None)
    config = LlamaConfig(vocab_size=size, pad_token_id=3, eos_token_id=2, bos_token_id=1)
    greedy_config(config, size, chatml_tokenizer, {2})
    assert (config.pad_token_id, config.eos_token_id, config.bos_token_id) == (pad, 2, 1)


def test_the_tokenizer_of_a_larger_model_is_refused(chatml_tokenizer: PreTrainedTokenizerFast) -> None:
    size = len(chatml_tokenizer)
    with pytest.raises(InputError, match=f"10 ordinary tokens in its tokenizer, up to {size - 1}, that are beyond"):
        fit_tokenizer(chatml_tokenizer, size - 10, lambda: None)
    fit_tokenizer(chatml_tokenizer, size, lambda: None)
    fit_tokenizer(chatml_tokenizer, None, lambda: None)
