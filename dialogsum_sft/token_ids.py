"""Token ids that a tokenizer or a config names and the embeddings of the model do not have."""

import contextlib
import logging
from collections.abc import Callable, Collection

from dialogsum_sft import InputError

from jinja2.exceptions import TemplateError
from transformers import GenerationConfig, PreTrainedConfig, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)


def fit_tokenizer(
    tokenizer: PreTrainedTokenizerBase, size: int | None, load_generation_config: Callable[[], GenerationConfig | None]
) -> None:
    """Choose a pad token that the model has one of its `size` embeddings for (None: not known).

    Padding is masked by length, so the pad token may be a stop token, of which the generation config lists more.
    Raises InputError where another token without an embedding may be in a prompt.
    """
    vocabulary = set(tokenizer.get_vocab().values())
    size = max(vocabulary, default=0) + 1 if size is None else size
    pad = tokenizer.pad_token
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id >= size:
        config = load_generation_config()
        listed = config.eos_token_id if config is not None else None
        stops = [tokenizer.eos_token_id, *([listed] if isinstance(listed, int) else listed or ())]
        stop = next((token for token in stops if token is not None and token < size), None)
        tokenizer.pad_token = None if stop is None else tokenizer.convert_ids_to_tokens(stop)
        if pad is not None:
            text = "the pad token %r of %s is beyond the model's %d embeddings: %r pads instead"
            logger.warning(text, pad, tokenizer.name_or_path, size, tokenizer.pad_token)
    added = tokenizer.added_tokens_decoder
    if beyond := [number for number in vocabulary if number >= size and number not in added]:
        raise InputError(
            f"{tokenizer.name_or_path} has {len(beyond)} ordinary tokens in its tokenizer, up to {max(beyond)}, that "
            f"are beyond its {size} embeddings: the tokenizer is that of another model"
        )
    written = {tokenizer.eos_token_id}
    with contextlib.suppress(TemplateError, TypeError, ValueError):  # rendering the prompts reports the fault
        chat = [{"role": "user", "content": "text"}, {"role": "assistant", "content": "text"}]
        written.update(tokenizer.apply_chat_template(chat, return_dict=False))
    for number, token in added.items():
        # Other special tokens, such as that of an image, are in no prompt.
        if number >= size and token.content != pad and (number in written or not token.special):
            raise InputError(
                f"{tokenizer.name_or_path} has {token.content!r} as token {number} of its tokenizer, but {size} "
                "embeddings: save the model again after model.resize_token_embeddings(len(tokenizer)), or take the "
                "token out of the tokenizer"
            )


def drop_pad_token(config: PreTrainedConfig) -> None:
    """Take a pad token without an embedding out of `config`, with which no model can be made; a tokenizer has one."""
    size = getattr(config.get_text_config(), "vocab_size", None)
    for part in (config, config.get_text_config()):
        pad = getattr(part, "pad_token_id", None)
        if size and pad is not None and not 0 <= pad < size:
            part.pad_token_id = None


def greedy_config(
    config: PreTrainedConfig, rows: int, tokenizer: PreTrainedTokenizerBase, stop_ids: Collection[int]
) -> GenerationConfig:
    """A greedy generation config for weights with `rows` embeddings, with no token beyond them.

    `config` is changed to name no others either, and the same pad token.
    """
    pad, bos = (
        number if number is not None and number < rows else None
        for number in (tokenizer.pad_token_id, tokenizer.bos_token_id)
    )
    stops = sorted(number for number in stop_ids if number < rows)
    for part in (config, config.get_text_config()):
        part.pad_token_id = pad
        for name, instead in (("bos_token_id", bos), ("eos_token_id", stops)):
            named = getattr(part, name, None)
            if any(not 0 <= number < rows for number in ([named] if isinstance(named, int) else named or ())):
                setattr(part, name, instead)
    return GenerationConfig(do_sample=False, eos_token_id=stops, pad_token_id=pad, bos_token_id=bos)
