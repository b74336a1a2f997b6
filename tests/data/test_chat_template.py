"""Rendering by each chat template that TRL ships."""

from copy import deepcopy
from datetime import datetime

from conftest import tokenizer_for_template
from dialogsum_sft import InputError
from dialogsum_sft.data.chat_template import (
    TEMPLATE_KWARGS,
    answer_opening,
    count_tokens,
    render_batch,
    takes_role,
)
from dialogsum_sft.data.prompts import INSTRUCTION, PromptSettings
from trl_templates import DIALOGUE, FOLDER, SUMMARY, SYSTEM_PROMPT, TEMPLATES

import pytest
from transformers import PreTrainedTokenizerFast


def set_clock(monkeypatch: pytest.MonkeyPatch, now: datetime) -> None:
    """Stop the clock that chat templates read through `strftime_now`."""

    class StoppedClock(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:
            return now

    monkeypatch.setattr("transformers.utils.chat_template_utils.datetime", StoppedClock)


@pytest.mark.parametrize("system_prompt", [None, SYSTEM_PROMPT], ids=["plain", "system"])
@pytest.mark.parametrize("name", TEMPLATES)
def test_a_prompt_holds_each_of_its_texts_once(name: str, system_prompt: str | None) -> None:
    tokenizer = tokenizer_for_template(FOLDER / name)
    messages = PromptSettings(system_prompt=system_prompt).messages(DIALOGUE)["prompt"]
    prompt = tokenizer.decode(render_batch(tokenizer, [messages], add_generation_prompt=True)[0])
    counts = {text: prompt.count(text) for text in (INSTRUCTION, DIALOGUE, SYSTEM_PROMPT)}
    assert counts == {INSTRUCTION: 1, DIALOGUE: 1, SYSTEM_PROMPT: 1 if system_prompt else 0}


@pytest.mark.parametrize("name", TEMPLATES)
def test_sanitising_keeps_the_ids_of_clean_text(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    set_clock(monkeypatch, datetime.strptime(TEMPLATE_KWARGS["date_string"], "%d %b %Y"))
    tokenizer = tokenizer_for_template(FOLDER / name)
    row = PromptSettings().messages(DIALOGUE, SUMMARY)
    kwargs = {"enable_thinking": False, "date_string": TEMPLATE_KWARGS["date_string"], "return_dict": False}
    prompt = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, **kwargs)
    prompt += tokenizer.encode(answer_opening(tokenizer), add_special_tokens=False)
    assert render_batch(tokenizer, [row["prompt"]], add_generation_prompt=True)[0] == prompt
    conversation = row["prompt"] + row["completion"]
    assert render_batch(tokenizer, [conversation])[0] == tokenizer.apply_chat_template(conversation, **kwargs)


def test_gemma_has_the_system_prompt_at_the_head_of_the_users_turn() -> None:
    tokenizer = tokenizer_for_template(FOLDER / "gemma.jinja")
    messages = PromptSettings(system_prompt=SYSTEM_PROMPT).messages(DIALOGUE)["prompt"]
    assert tokenizer.decode(render_batch(tokenizer, [messages], add_generation_prompt=True)[0]) == (
        f"<s><start_of_turn>user\n{SYSTEM_PROMPT}\n\n{INSTRUCTION}\n\n{DIALOGUE}<end_of_turn>\n<start_of_turn>model\n"
    )


def test_chatml_has_the_system_prompt_in_a_turn_of_its_own(chatml_tokenizer: PreTrainedTokenizerFast) -> None:
    messages = PromptSettings(system_prompt=SYSTEM_PROMPT).messages(DIALOGUE)["prompt"]
    assert chatml_tokenizer.decode(render_batch(chatml_tokenizer, [messages], add_generation_prompt=True)[0]) == (
        f"<|im_start|>system\n{SYSTEM_PROMPT}<|im_end|>\n<|im_start|>user\n{INSTRUCTION}\n\n{DIALOGUE}<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_a_system_role_is_supported_where_the_template_writes_it(chatml_tokenizer: PreTrainedTokenizerFast) -> None:
    deaf = deepcopy(chatml_tokenizer)
    deaf.chat_template = (
        "{% for message in messages if message['role'] != 'system' %}{{ message['content'] }}{% endfor %}"
    )
    assert takes_role(chatml_tokenizer, chatml_tokenizer.chat_template, "system")
    gemma = tokenizer_for_template(FOLDER / "gemma.jinja")
    assert not takes_role(gemma, gemma.chat_template, "system")  # raises an error
    assert not takes_role(deaf, deaf.chat_template, "system")


@pytest.mark.parametrize("name", ["gptoss.jinja", "llama3_2.jinja", "muse_glimmer.jinja"])
def test_the_date_in_a_prompt_is_pinned(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = tokenizer_for_template(FOLDER / name)
    messages = PromptSettings().messages(DIALOGUE)["prompt"]
    pinned, unpinned = [], []
    for now in (datetime(2026, 3, 1), datetime(2031, 12, 24)):
        set_clock(monkeypatch, now)
        pinned.append(render_batch(tokenizer, [messages], add_generation_prompt=True)[0])
        unpinned.append(tokenizer.apply_chat_template(messages, return_dict=False))
    assert pinned[0] == pinned[1]
    assert unpinned[0] != unpinned[1]  # the template does write the date


def test_a_tokenizer_without_a_chat_template_is_refused(chatml_tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer = deepcopy(chatml_tokenizer)
    tokenizer.chat_template = None
    with pytest.raises(InputError, match="no chat template"):
        render_batch(tokenizer, [PromptSettings().messages(DIALOGUE)["prompt"]])


def test_two_of_trls_families_open_an_answer_with_words() -> None:
    openings = {name: answer_opening(tokenizer_for_template(FOLDER / name)) for name in TEMPLATES}
    assert {name: opening for name, opening in openings.items() if opening} == {
        "gptoss.jinja": "<|channel|>final<|message|>",
        "gptoss_training.jinja": "<|channel|>final<|message|>",
        "muse_glimmer.jinja": " to=user<|message|>",
        "muse_glimmer_training.jinja": " to=user<|message|>",
    }


USER = "{% for message in messages %}{% if message.role == 'user' %}U: {{ message.content }}\n{% else %}"
ANSWER = "{{ message.content }}<|im_end|>{% endif %}{% endfor %}"


@pytest.mark.parametrize("end", ["", "\n"], ids=["", "newline"])
@pytest.mark.parametrize(
    ("opening", "generation_prompt", "expected"),
    [
        ("<|im_start|>assistant\n", "", "<|im_start|>assistant\n"),  # no generation prompt at all
        ("### Response: ", "", "### Response:"),
        ("\nASSISTANT: ", "\nASSISTANT:", ""),
        ("<think>\n\n</think>\n\n", "", "<think>\n\n</think>\n\n"),
        ("<think>\n\n</think>\n\n", "<think>\n", "\n</think>\n\n"),
        ('<think>it\'s \\ a "plan"</think>', "", '<think>it\'s \\ a "plan"</think>'),
        ("\n ", "", ""),
        ("<|im_start|>bot ", "<|im_start|>model", ""),  # encode refuses it
    ],
)
def test_the_constant_opening_of_an_answer_is_in_the_generation_prompt(
    opening: str, generation_prompt: str, expected: str, end: str, chatml_tokenizer: PreTrainedTokenizerFast
) -> None:
    tokenizer = deepcopy(chatml_tokenizer)
    prompt = f"{{% if add_generation_prompt %}}{{{{ {generation_prompt!r} }}}}{{% endif %}}{end}"
    tokenizer.chat_template = f"{USER}{{{{ {opening!r} }}}}{ANSWER}{prompt}"
    assert answer_opening(tokenizer) == expected
    (ids,) = render_batch(tokenizer, [[{"role": "user", "content": "Hi <|im_end|> é."}]], add_generation_prompt=True)
    assert tokenizer.decode(ids) == f"U: Hi <|im_end|> é.\n{generation_prompt}{expected}"


def with_tags(tokenizer: PreTrainedTokenizerFast, *, special: bool) -> PreTrainedTokenizerFast:
    """A user's tokenizer with #Person1# and #Person2# in its vocabulary."""
    tokenizer = deepcopy(tokenizer)
    tokenizer.add_tokens(["#Person1#", "#Person2#"], special_tokens=special)
    return tokenizer


@pytest.mark.parametrize("text", [DIALOGUE, f"{DIALOGUE} <|im_end|> <think>"], ids=["clean", "control"])
def test_a_users_added_token_stays_a_token_and_control_tokens_become_text(
    text: str, chatml_tokenizer: PreTrainedTokenizerFast
) -> None:
    counts = []
    for special in (False, True):
        tokenizer = with_tags(chatml_tokenizer, special=special)
        tokenizer.add_tokens(["<think>"])
        tokenizer.chat_template += "{{ '<think>' if false }}"  # an added token of the template is a control token
        (ids,) = render_batch(tokenizer, [[{"role": "user", "content": text}]])
        assert text in tokenizer.decode(ids)
        counts.append(
            [ids.count(tokenizer.convert_tokens_to_ids(tag)) for tag in ("#Person1#", "<|im_end|>", "<think>")]
        )
    assert counts == [[1, 1, 0], [0, 1, 0]]


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("name", ["chatml", "gemma.jinja", "qwen3.jinja"])
def test_tokens_are_counted_as_they_are_rendered(
    name: str, special: bool, chatml_tokenizer: PreTrainedTokenizerFast
) -> None:
    tokenizer = with_tags(
        tokenizer_for_template(FOLDER / name) if name.endswith(".jinja") else chatml_tokenizer, special=special
    )
    specials = [token.content for token in tokenizer.added_tokens_decoder.values()]
    texts = [
        DIALOGUE,
        SUMMARY,
        "",
        *(f"Anna: {token} is {token}{token}\n#Person1#: x" for token in specials),
        "\ue000 a",
    ]
    around = len(render_batch(tokenizer, [[{"role": "user", "content": "a"}]])[0]) - count_tokens(tokenizer, ["a"])[0]
    chats = [[{"role": "user", "content": f"a {text} a"}] for text in texts]
    rendered = [len(ids) - around for ids in render_batch(tokenizer, chats)]
    assert count_tokens(tokenizer, [chat[0]["content"] for chat in chats]) == rendered
