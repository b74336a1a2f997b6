"""The options of generation that every engine takes."""

import re
from typing import Any

from dialogsum_sft import InputError
from dialogsum_sft.generation.engine import Completion, generation_config, to_completion

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


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"temperature": 0.7}, "`temperature`: `do_sample` is not set"),
        ({"top_p": 0.5}, "`top_p`: `do_sample` is not set"),
        ({"length_penalty": 2.0}, "`length_penalty`: `num_beams` is set to 1"),
        ({"cache_implementation": "none"}, "Invalid `cache_implementation`"),
        ({"early_stopping": "soon", "num_beams": 2}, "`early_stopping` must be"),
        ({"_from_model_config": True}, "GenerationConfig has no option _from_model_config"),
        ({"validate": True}, "GenerationConfig has no option validate"),
        ({"eos_token_id": None}, "a summary needs an end"),
    ],
)
def test_an_option_without_effect_or_with_a_bad_value_is_one_line(
    chatml_tokenizer: PreTrainedTokenizerFast, kwargs: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=re.escape(message)) as error:
        generation_config(chatml_tokenizer, frozenset([2]), 5, **kwargs)
    assert "\n" not in str(error.value)


def test_one_stop_token_is_a_list_of_one(chatml_tokenizer: PreTrainedTokenizerFast) -> None:
    assert generation_config(chatml_tokenizer, frozenset([2]), 5, eos_token_id=7).eos_token_id == [7]


@pytest.mark.parametrize("padding", [0, 3])
def test_a_text_ends_before_its_first_stop_string(chatml_tokenizer: PreTrainedTokenizerFast, padding: int) -> None:
    config = generation_config(chatml_tokenizer, frozenset([2]), 50, stop_strings=["park", " has"])
    ids = chatml_tokenizer("the dog has run")["input_ids"]
    through = len(chatml_tokenizer("the dog has")["input_ids"])
    completion = to_completion(chatml_tokenizer, [1], ids + [chatml_tokenizer.pad_token_id] * padding, config)
    assert completion == Completion("the dog", 1, through, "stop")
    config.stop_strings = "cat"
    assert to_completion(chatml_tokenizer, [1], ids, config) == Completion("the dog has run", 1, len(ids), "length")
