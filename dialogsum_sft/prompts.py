"""The only place where prompt text exists: dialogues become chat messages, messages become token ids.

Training and use render through the same `render`, with the same template arguments, so that the ids that the model is
trained behind are the ids that it sees later.
"""

import hashlib
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from dialogsum_sft import InputError

from jinja2.exceptions import TemplateError
from transformers import GenerationConfig, PreTrainedTokenizerBase

INSTRUCTION = "Summarize the following dialogue in one or two sentences. Name the speakers as the dialogue does."

# Llama 3 templates print the date of the day and others call strftime_now: a prompt would change overnight. This is
# the date that Llama 3's own templates fall back to. Reasoning templates open a thinking block unless told not to.
_DATE = datetime(2024, 7, 26)
TEMPLATE_KWARGS: dict[str, Any] = {
    "date_string": _DATE.strftime("%d %b %Y"),
    "strftime_now": _DATE.strftime,
    "enable_thinking": False,
}

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
    if not tokenizer.chat_template:
        raise InputError(
            f"the tokenizer of {tokenizer.name_or_path} has no chat template: use a chat (instruct) model, or give "
            "one with --chat_template_path"
        )
    if messages[0]["role"] == "system" and not takes_system_role(tokenizer):
        system, user, *rest = messages
        messages = [{"role": "user", "content": f"{system['content']}\n\n{user['content']}"}, *rest]
    try:
        ids: list[int] = tokenizer.apply_chat_template(
            messages,
            add_generation_prompt=add_generation_prompt,
            sanitize_control_tokens=True,
            return_dict=False,
            **TEMPLATE_KWARGS,
        )
    except TemplateError as error:
        raise InputError(f"the chat template of {tokenizer.name_or_path} refuses the messages: {error}") from error
    return ids


def takes_system_role(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the chat template renders a system message (Gemma's raises an error, some drop it)."""
    probe = [{"role": "system", "content": "PROBE"}, {"role": "user", "content": "text"}]
    try:
        return "PROBE" in tokenizer.apply_chat_template(probe, tokenize=False, **TEMPLATE_KWARGS)
    except TemplateError:
        return False


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
