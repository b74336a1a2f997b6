"""Chat templates: messages become token ids.

Training and generation render through the same functions with the same template arguments, so that the token ids
before a summary are the same in both.
"""

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from os.path import commonprefix
from typing import Any

from dialogsum_sft import InputError

from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerBase

# Llama 3 templates print today's date, so that a prompt would change overnight. This is the date that they fall back
# to themselves. Reasoning templates open a thinking block unless `enable_thinking` is false.
_DATE_FORMAT = "%d %b %Y"
TEMPLATE_KWARGS: dict[str, Any] = {"date_string": "26 Jul 2024", "enable_thinking": False}

Message = dict[str, str]


def render_batch(
    tokenizer: PreTrainedTokenizerBase,
    conversations: Sequence[list[Message]],
    *,
    template_kwargs: Mapping[str, Any] = TEMPLATE_KWARGS,
    add_generation_prompt: bool = False,
) -> list[list[int]]:
    """Token ids of conversations through the tokenizer's chat template.

    A generation prompt ends with what the template writes before every answer (`answer_opening`).

    A control token in the text of a message is encoded as plain text, never as the token (transformers'
    `sanitize_control_tokens`). Conversations without one, nearly all, are tokenized in one call, to the same ids.
    Where the template has no system role, the system message becomes the head of the user's turn.

    Raises InputError when there is no chat template or it cannot render the messages.
    """
    check_template(tokenizer)
    return render(tokenizer, conversations, template_kwargs, add_generation_prompt, None)[0]


def check_template(tokenizer: PreTrainedTokenizerBase) -> None:
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


def render(
    tokenizer: PreTrainedTokenizerBase,
    conversations: Sequence[list[Message]],
    template_kwargs: Mapping[str, Any],
    add_generation_prompt: bool,
    faults: dict[int, str] | None,
    prompts: tuple[list[list[int]], list[str]] | None = None,
) -> tuple[list[list[int]], list[str]]:
    """Ids and texts of conversations; the text is empty where a message contains control tokens.

    `prompts` is the result of this function for the beginnings of the same conversations: only the rest is tokenized.

    Raises InputError for messages that the template cannot render. With `faults`, a template that cuts apparent
    control tokens out of a text is recorded there as {index: reason} instead, and the ids are empty.
    """
    template = str(tokenizer.chat_template)
    chats = [_folded(tokenizer, template, messages) for messages in conversations]
    doubtful = [i for i, chat in enumerate(chats) if any(_holds_control(tokenizer, m["content"]) for m in chat)]
    plain = sorted(set(range(len(chats))) - set(doubtful))
    texts = [""] * len(chats)
    result: list[list[int]] = [[] for _ in chats]
    if plain:
        rest = {}
        control = {tokenizer.convert_tokens_to_ids(token): token for token in control_tokens(tokenizer)}
        plain_texts = _text(tokenizer, [chats[i] for i in plain], template_kwargs, add_generation_prompt)
        for i, text in zip(plain, plain_texts, strict=True):
            texts[i] = text
            start, n = _tokenized_part(text, prompts[1][i], prompts[0][i], control) if prompts else (0, 0)
            result[i], rest[i] = prompts[0][i][:n] if prompts else [], text[start:]
        for i, ids in zip(plain, tokenizer(list(rest.values()), add_special_tokens=False)["input_ids"], strict=True):
            if prompts and ids[:1] != prompts[0][i][len(result[i]) :][:1]:  # another token begins there
                result[i], ids = [], tokenizer(texts[i], add_special_tokens=False)["input_ids"]
            result[i] = result[i] + ids
    for i in doubtful:
        try:
            result[i] = _render_sanitized(tokenizer, chats[i], template_kwargs, add_generation_prompt)
        except InputError as error:
            if faults is None:
                raise
            faults[i] = str(error)
    return result, texts


def _tokenized_part(text: str, prompt: str, prompt_ids: list[int], control: dict[int, str]) -> tuple[int, int]:
    """How much of `text`, in characters and in tokens, is already tokenized with the prompt that it begins with.

    That is everything before the last control token of the prompt, as a tokenizer splits a text at these first. They
    are the template's: no message of these conversations has one.
    """
    n = next((n for n in range(len(prompt_ids) - 1, -1, -1) if prompt_ids[n] in control), 0)
    start = prompt.rfind(control[prompt_ids[n]]) if n else -1
    return (start, n) if start > 0 and text.startswith(prompt[:start]) else (0, 0)


def _render_sanitized(
    tokenizer: PreTrainedTokenizerBase,
    chat: list[Message],
    template_kwargs: Mapping[str, Any],
    add_generation_prompt: bool,
) -> list[int]:
    if not hasattr(tokenizer, "chat_control_tokens"):  # transformers before 5.20 leaves the option below out
        raise InputError("a text with control tokens is encoded by transformers 5.20 or newer: take them out")
    (text,) = _text(tokenizer, [chat], template_kwargs, add_generation_prompt)
    for message in chat:  # reasoning templates remove apparent thinking from an answer
        if message["content"].strip() not in text:
            raise InputError(f"the chat template of {tokenizer.name_or_path} drops part of a text with control tokens")
    ids: list[int] = tokenizer.apply_chat_template(
        chat,
        chat_template=_with_opening(tokenizer, template_kwargs),
        add_generation_prompt=add_generation_prompt,
        sanitize_control_tokens=True,
        return_dict=False,
        **template_kwargs,
    )
    return ids


def _folded(tokenizer: PreTrainedTokenizerBase, template: str, chat: list[Message]) -> list[Message]:
    if chat[0]["role"] != "system" or takes_role(tokenizer, template, "system"):
        return chat
    system, user, *rest = chat
    return [{"role": "user", "content": f"{system['content']}\n\n{user['content']}"}, *rest]


def _holds_control(tokenizer: PreTrainedTokenizerBase, text: str) -> bool:
    """Whether a text contains a control token, or a private-use character (transformers marks such tokens so)."""
    first_characters, control = _control_pattern(tokenizer, str(tokenizer.chat_template), len(tokenizer))
    if text.isascii() and not any(character in text for character in first_characters):
        return False  # true of nearly every text, and many times faster than the search
    return control.search(text) is not None


def control_tokens(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The tokens that are encoded as text in a message, longest first: special tokens and those of the template.

    Other added tokens, such as `#Person1#` where a user has added it to the vocabulary, are tokens in a message too.
    """
    return _control_tokens(tokenizer, str(tokenizer.chat_template), len(tokenizer))


@lru_cache(maxsize=16)
def _control_tokens(tokenizer: PreTrainedTokenizerBase, template: str, size: int) -> list[str]:
    listed = getattr(tokenizer, "chat_control_tokens", None) or ()  # transformers before 5.20, which vLLM asks for
    added = tokenizer.added_tokens_decoder.values()
    control = (one.content for one in added if one.special or one.content in template or one.content in listed)
    return sorted((token for token in control if not token.isspace()), key=len, reverse=True)


@lru_cache(maxsize=16)
def _control_pattern(
    tokenizer: PreTrainedTokenizerBase, template: str, size: int
) -> tuple[frozenset[str], re.Pattern[str]]:
    tokens = _control_tokens(tokenizer, template, size)
    pattern = "|".join(map(re.escape, tokens)) + "|[\ue000-\uf8ff\U000f0000-\U0010ffff]"
    return frozenset(token[0] for token in tokens), re.compile(pattern.removeprefix("|"))


def count_tokens(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[int]:
    """How many tokens each text has in a message, where a control token is encoded as text."""
    counts = [len(ids) for ids in tokenizer(list(texts), add_special_tokens=False)["input_ids"]]
    # The template is never run here; transformers finds the control tokens in it.
    template = "{% if messages %}{{ messages[0].content }}{% else %}" + str(tokenizer.chat_template) + "{% endif %}"
    for i, text in enumerate(texts):
        if _holds_control(tokenizer, text):
            message = {"role": "user", "content": text}
            options: dict[str, Any] = {"sanitize_control_tokens": True, "return_dict": False}
            counts[i] = len(tokenizer.apply_chat_template([message], chat_template=template, **options))
    return counts


@lru_cache(maxsize=64)
def takes_role(tokenizer: PreTrainedTokenizerBase, template: str, role: str) -> bool:
    """Whether the template renders a message of this role (Gemma's refuses a system message, some drop it)."""
    probe = [{"role": "user", "content": "text"}]
    probe = [{"role": role, "content": "PROBE"}] + (probe if role == "system" else [])
    try:
        return "PROBE" in _rendered(tokenizer, [probe], _with_date(template, TEMPLATE_KWARGS["date_string"]))[0]
    except InputError:
        return role == "user"  # then rendering the messages reports the fault


def _text(
    tokenizer: PreTrainedTokenizerBase,
    chats: list[list[Message]],
    template_kwargs: Mapping[str, Any] = TEMPLATE_KWARGS,
    add_generation_prompt: bool = False,
) -> list[str]:
    return _rendered(
        tokenizer, chats, _with_opening(tokenizer, template_kwargs), template_kwargs, add_generation_prompt
    )


def _rendered(
    tokenizer: PreTrainedTokenizerBase,
    chats: list[list[Message]],
    template: str,
    template_kwargs: Mapping[str, Any] = TEMPLATE_KWARGS,
    add_generation_prompt: bool = False,
) -> list[str]:
    try:
        return tokenizer.apply_chat_template(
            chats,
            chat_template=template,
            add_generation_prompt=add_generation_prompt,
            tokenize=False,
            **template_kwargs,
        )
    except TemplateError as error:
        raise InputError(f"the chat template of {tokenizer.name_or_path} refuses the messages: {error}") from error


@lru_cache(maxsize=16)
def _with_date(template: str, date_string: str) -> str:
    """The template with the pinned date in place of today's."""
    date = datetime.strptime(date_string, _DATE_FORMAT)
    return re.sub(r"""strftime_now\((["'])(.*?)\1\)""", lambda call: repr(date.strftime(call[2])), template)


def answer_opening(tokenizer: PreTrainedTokenizerBase, template_kwargs: Mapping[str, Any] = TEMPLATE_KWARGS) -> str:
    """What the template writes between the generation prompt and every answer, such as `<|channel|>final<|message|>`.

    It belongs to the prompt: learned as a part of the answer, its words would stand at the beginning of predictions.
    Whitespace alone stays in the answer, and so do spaces at its end, as tokens begin with a space.
    """
    return _opening(tokenizer, str(tokenizer.chat_template), json.dumps(dict(template_kwargs)))


@lru_cache(maxsize=64)
def _opening(tokenizer: PreTrainedTokenizerBase, template: str, template_kwargs: str) -> str:
    kwargs = json.loads(template_kwargs)
    dated, user = _with_date(template, kwargs["date_string"]), {"role": "user", "content": "text"}
    chats = [[user, {"role": "assistant", "content": answer}] for answer in ("ALPHA", "OMEGA")]
    try:
        (prompt,) = _rendered(tokenizer, [[user]], dated, kwargs, add_generation_prompt=True)
        answered = _rendered(tokenizer, chats, dated, kwargs)
    except InputError:  # rendering the messages reports the fault
        return ""
    shared = commonprefix(answered)
    opening = shared.removeprefix(prompt).rstrip(" ")
    return opening if opening.strip() and shared.startswith(prompt) and shared not in answered else ""


def _with_opening(tokenizer: PreTrainedTokenizerBase, template_kwargs: Mapping[str, Any]) -> str:
    """The template with the pinned date, whose generation prompt ends with the constant opening of an answer."""
    template = _with_date(tokenizer.chat_template, template_kwargs["date_string"])
    opening = answer_opening(tokenizer, template_kwargs)
    if not opening:
        return template
    template = template.removesuffix("\n")  # which Jinja leaves out at the end alone
    return f"{template}{{% if add_generation_prompt %}}{{{{ {opening!r} }}}}{{% endif %}}"
