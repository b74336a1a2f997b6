"""The options of generation that every engine takes."""

from dialogsum_sft import InputError
from dialogsum_sft.generation.engine import generation_config

import pytest
from transformers import PreTrainedTokenizerFast


def test_beam_search_options_are_kept(chatml_tokenizer: PreTrainedTokenizerFast) -> None:
    config = generation_config(chatml_tokenizer, frozenset([2]), 5, num_beams=4, length_penalty=0.5)
    assert (config.num_beams, config.length_penalty, config.do_sample) == (4, 0.5, False)


def test_an_unknown_generation_option_is_named(chatml_tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(InputError, match="no option num_beam$"):
        generation_config(chatml_tokenizer, frozenset([2]), 5, num_beam=4)


def test_a_bad_generation_value_is_one_line(chatml_tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(InputError, match="generation options"):
        generation_config(chatml_tokenizer, frozenset([2]), -1)
