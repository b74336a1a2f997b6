"""The only place where prompt text exists: dialogues become chat messages, messages become token ids.

Training and use render through the same `render`, with the same template arguments, so that the ids that the model is
trained behind are the ids that it sees later.
"""

import hashlib
import re
from collections.abc import Iterable
from datetime import datetime
from functools import lru_cache
from typing import Any

from dialogsum_sft import InputError

from jinja2.exceptions import TemplateError
from transformers import GenerationConfig, PreTrainedTokenizerBase

INSTRUCTION = "Summarize the following dialogue in one or two sentences. Name the speakers as the dialogue does."

# Llama 3 templates print the date of the day: a prompt would change overnight. This is the date that they fall back to
# themselves. Reasoning templates open a thinking block unless told not to.
_DATE = datetime(2024, 7, 26)
TEMPLATE_KWARGS: dict[str, Any] = {"date_string": _DATE.strftime("%d %b %Y"), "enable_thinking": False}

Message = dict[str, str]


def to_messages(
    dialogue: str, summary: str | None = None, *, instruction: str = INSTRUCTION, system_prompt: str | None = None
) -> dict[str, list[Message]]:
    """A dialogue, and its summary when there is one, as TRL's conversational prompt-completion row.

    The instruction stands before the dialogue in the user's turn, or around it where it says `{dialogue}`.
    """
    if "{dialogue}" in instruction:
        text = instruction.replace("{dialogue}", dialogue)
    else:
        text = f"{instruction}\n\n{dialogue}" if instruction else dialogue
    prompt = [{"role": "user", "content": text}]
    if system_prompt:
        prompt.insert(0, {"role": "system", "content": system_prompt})
    row = {"prompt": prompt}
    if summary is not None:
        row["completion"] = [{"role": "assistant", "content": summary}]
    return row


def render(
    tokenizer: PreTrainedTokenizerBase, messages: list[Message], *, add_generation_prompt: bool = False
) -> list[int]:
    """Token ids of chat messages through the tokenizer's chat template.

    A control token that stands in the text of a message is encoded as the plain text that it is, never as the token
    (transformers' `sanitize_control_tokens`). Where the template has no system role, the system message becomes the
    head of the user's turn.

    Raises InputError when there is no chat template, or it cannot render the messages.
    """
    template = tokenizer.chat_template
    if not template:
        raise InputError(
            f"the tokenizer of {tokenizer.name_or_path} has no chat template: use a chat (instruct) model, or give "
            "one with --chat_template_path"
        )
    if not takes_role(tokenizer, template, "user"):
        raise InputError(
            f"the chat template of {tokenizer.name_or_path} leaves out the text of a message: give one for text with "
            "--chat_template_path"
        )
    if messages[0]["role"] == "system" and not takes_role(tokenizer, template, "system"):
        system, user, *rest = messages
        messages = [{"role": "user", "content": f"{system['content']}\n\n{user['content']}"}, *rest]
    try:
        ids: list[int] = tokenizer.apply_chat_template(
            messages,
            chat_template=_dated(template),
            add_generation_prompt=add_generation_prompt,
            sanitize_control_tokens=True,
            return_dict=False,
            **TEMPLATE_KWARGS,
        )
    except TemplateError as error:
        raise InputError(f"the chat template of {tokenizer.name_or_path} refuses the messages: {error}") from error
    for message in messages:  # reasoning templates cut what they take for thinking out of an answer
        text = message["content"].strip()
        if any(token in text for token in tokenizer.get_added_vocab()) and text not in _text(tokenizer, messages):
            raise InputError(
                f"the chat template of {tokenizer.name_or_path} drops part of a text that holds its control tokens: "
                f"{text[:80]!r}"
            )
    return ids


@lru_cache(maxsize=64)
def takes_role(tokenizer: PreTrainedTokenizerBase, template: str, role: str) -> bool:
    """Whether the template renders a message of this role (Gemma's refuses a system message, some drop it)."""
    probe = [{"role": "user", "content": "text"}]
    probe = [{"role": role, "content": "PROBE"}] + (probe if role == "system" else [])
    try:
        return "PROBE" in _text(tokenizer, probe)
    except TemplateError:
        return role == "user"  # then the messages themselves say what is wrong


def _text(tokenizer: PreTrainedTokenizerBase, messages: list[Message]) -> str:
    return tokenizer.apply_chat_template(
        messages, chat_template=_dated(tokenizer.chat_template), tokenize=False, **TEMPLATE_KWARGS
    )


@lru_cache(maxsize=16)
def _dated(template: str) -> str:
    """The template with the pinned date where it asks for today's."""
    return re.sub(r"""strftime_now\((["'])(.*?)\1\)""", lambda call: repr(_DATE.strftime(call[2])), template)


def stop_token_ids(tokenizer: PreTrainedTokenizerBase, generation_config: GenerationConfig | None) -> frozenset[int]:
    """The ids that end an answer: the tokenizer's end of sequence and all that the generation config lists."""
    listed = generation_config.eos_token_id if generation_config is not None else None
    ids = {listed} if isinstance(listed, int) else set(listed or ())
    if tokenizer.eos_token_id is not None:
        ids.add(tokenizer.eos_token_id)
    if not ids:
        raise InputError(f"{tokenizer.name_or_path} has no end-of-sequence token: no stop could be learned")
    return frozenset(ids)


def encode(
    tokenizer: PreTrainedTokenizerBase,
    dialogue: str,
    summary: str,
    stop_ids: Iterable[int],
    *,
    instruction: str = INSTRUCTION,
    system_prompt: str | None = None,
) -> dict[str, Any]:
    """One training row: `input_ids` (prompt, summary, stop token), `labels` (-100 on the prompt), `prompt_tokens`.

    What a template writes after the stop token (ChatML's newline) is left out: it is never generated. Where a template
    writes no stop token after the answer (GLM-4), the tokenizer's end of sequence is added, so that a stop is learned.

    Raises InputError where the rendered prompt is not the beginning of the rendered conversation, as with templates
    that add a thinking block to the prompt alone: the model would be trained on what it never sees in use.
    """
    row = to_messages(dialogue, summary, instruction=instruction, system_prompt=system_prompt)
    prompt_ids = render(tokenizer, row["prompt"], add_generation_prompt=True)
    ids = render(tokenizer, row["prompt"] + row["completion"])
    n = len(prompt_ids)
    if ids[:n] != prompt_ids or len(ids) == n:
        raise InputError(
            f"the chat template of {tokenizer.name_or_path} renders the prompt alone differently from the prompt with "
            f"an answer (the prompt ends in {tokenizer.decode(prompt_ids[-12:])!r}): give a template whose prompt is "
            "a prefix with --chat_template_path"
        )
    stops = set(stop_ids)
    end = next((i for i in range(n, len(ids)) if ids[i] in stops), None)
    ids = [*ids, tokenizer.eos_token_id] if end is None else ids[: end + 1]
    return {"input_ids": ids, "labels": [-100] * n + ids[n:], "prompt_tokens": n}


def template_hash(tokenizer: PreTrainedTokenizerBase, instruction: str, system_prompt: str | None) -> str:
    """What decides a prompt besides the dialogue (template, instruction, system message), as 16 hex digits."""
    text = "\0".join([str(tokenizer.chat_template), TEMPLATE_KWARGS["date_string"], instruction, system_prompt or ""])
    return hashlib.sha256(text.encode()).hexdigest()[:16]
