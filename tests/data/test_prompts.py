"""Prompts and training rows for each chat template that TRL ships."""

import hashlib
import json
from collections import Counter
from copy import deepcopy

from conftest import tokenizer_for_template
from dialogsum_sft import InputError
from dialogsum_sft.arguments import DataArguments
from dialogsum_sft.data.chat_template import TEMPLATE_KWARGS, render_batch
from dialogsum_sft.data.prompts import INSTRUCTION, PromptSettings, encode, stop_token_ids
from trl_templates import DIALOGUE, FOLDER, REFUSED, SUMMARY, SYSTEM_PROMPT, TEMPLATES

import pytest
from tokenizers.processors import TemplateProcessing
from transformers import GenerationConfig, PreTrainedTokenizerFast


def text_ids(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False)


def test_a_chatml_row_supervises_the_summary_and_its_end_of_turn(chatml_tokenizer: PreTrainedTokenizerFast) -> None:
    start, end = chatml_tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
    user = text_ids(chatml_tokenizer, f"user\n{INSTRUCTION}\n\n{DIALOGUE}")
    newline, assistant = text_ids(chatml_tokenizer, "\n"), text_ids(chatml_tokenizer, "assistant\n")
    prompt = [start, *user, end, *newline, start, *assistant]
    completion = [*text_ids(chatml_tokenizer, SUMMARY), end]
    assert encode(chatml_tokenizer, DIALOGUE, SUMMARY, {end}) == {
        "input_ids": prompt + completion,
        "labels": [-100] * len(prompt) + completion,
        "prompt_tokens": len(prompt),
    }


@pytest.mark.parametrize("system_prompt", [None, SYSTEM_PROMPT], ids=["plain", "system"])
@pytest.mark.parametrize("name", TEMPLATES)
def test_a_row_starts_with_the_inference_prompt_and_ends_with_a_stop_token(
    name: str, system_prompt: str | None
) -> None:
    tokenizer = tokenizer_for_template(FOLDER / name)
    stop_ids = stop_token_ids(tokenizer, None)
    row = encode(tokenizer, DIALOGUE, SUMMARY, stop_ids, PromptSettings(system_prompt=system_prompt))
    messages = PromptSettings(system_prompt=system_prompt).messages(DIALOGUE)["prompt"]
    prompt = render_batch(tokenizer, [messages], add_generation_prompt=True)[0]
    n = row["prompt_tokens"]
    assert row["input_ids"][:n] == prompt
    conversation = messages + PromptSettings().messages(DIALOGUE, SUMMARY)["completion"]
    assert (
        row["input_ids"][:-1] == render_batch(tokenizer, [conversation])[0][: len(row["input_ids"]) - 1]
    )  # an end may be added
    assert row["labels"][:n] == [-100] * n
    assert row["labels"][n:] == row["input_ids"][n:]
    assert tokenizer.decode(row["labels"][n:]).strip().startswith(SUMMARY)  # no channel word before it
    assert tokenizer.decode(row["labels"][n:], skip_special_tokens=True).strip() == SUMMARY
    assert row["labels"][-1] in stop_ids
    assert stop_ids.isdisjoint(row["labels"][n:-1])


@pytest.mark.parametrize("system_prompt", [None, SYSTEM_PROMPT], ids=["plain", "system"])
@pytest.mark.parametrize("name", REFUSED)
def test_templates_that_differ_between_training_and_inference_are_refused(
    name: str, system_prompt: str | None
) -> None:
    tokenizer = tokenizer_for_template(FOLDER / name)
    with pytest.raises(InputError, match=name):
        encode(
            tokenizer, DIALOGUE, SUMMARY, stop_token_ids(tokenizer, None), PromptSettings(system_prompt=system_prompt)
        )


@pytest.mark.parametrize("name", TEMPLATES)
def test_control_tokens_in_the_texts_are_encoded_as_text(name: str) -> None:
    tokenizer = tokenizer_for_template(FOLDER / name)
    specials = {token.content for token in tokenizer.added_tokens_decoder.values()}
    # Some templates cut a thinking block out of an answer, sanitised or not; see the next test.
    harmless = specials - {"<think>", "</think>", "<|channel>", "<channel|>"}
    counts = []
    for word in (None, "word"):
        dialogue, system_prompt, summary = (
            f"{text} They said {' '.join(word or token for token in sorted(tokens))}."
            for text, tokens in ((DIALOGUE, specials), (SYSTEM_PROMPT, specials), (SUMMARY, harmless))
        )
        row = encode(
            tokenizer, dialogue, summary, stop_token_ids(tokenizer, None), PromptSettings(system_prompt=system_prompt)
        )
        prompt, completion = row["input_ids"][: row["prompt_tokens"]], row["input_ids"][row["prompt_tokens"] :]
        assert dialogue in tokenizer.decode(prompt)
        assert summary in tokenizer.decode(completion)
        counts.append([Counter(i for i in ids if i in tokenizer.added_tokens_decoder) for ids in (prompt, completion)])
    assert counts[0] == counts[1]


@pytest.mark.parametrize("name", ["glm4moe.jinja", "nemotron_3_nano.jinja", "qwen3.jinja", "qwen3_5_think.jinja"])
def test_a_summary_that_the_template_would_take_for_reasoning_is_refused(name: str) -> None:
    tokenizer = tokenizer_for_template(FOLDER / name)
    with pytest.raises(InputError, match=name):
        encode(tokenizer, DIALOGUE, f"Nobody wrote </think> here. {SUMMARY}", stop_token_ids(tokenizer, None))


def test_a_stop_token_is_added_where_the_template_writes_none() -> None:
    tokenizer = tokenizer_for_template(FOLDER / "glm4moe.jinja")
    row = encode(tokenizer, DIALOGUE, SUMMARY, stop_token_ids(tokenizer, None))
    assert row["labels"][row["prompt_tokens"] :] == [*text_ids(tokenizer, f"\n{SUMMARY}"), tokenizer.eos_token_id]


def test_without_an_eos_token_the_added_stop_is_the_generation_configs() -> None:
    tokenizer = tokenizer_for_template(FOLDER / "glm4moe.jinja")
    stop, tokenizer.eos_token = tokenizer.eos_token_id, None
    row = encode(tokenizer, DIALOGUE, SUMMARY, stop_token_ids(tokenizer, GenerationConfig(eos_token_id=stop)))
    assert row["labels"][-1] == stop


def test_any_stop_token_of_the_generation_config_ends_a_row() -> None:
    tokenizer = tokenizer_for_template(FOLDER / "glm4moe_training.jinja")  # GLM ends an answer with <|user|>
    stops = tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|user|>", "<|observation|>"])
    row = encode(tokenizer, DIALOGUE, SUMMARY, stop_token_ids(tokenizer, GenerationConfig(eos_token_id=stops)))
    assert row["labels"][row["prompt_tokens"] :] == [*text_ids(tokenizer, f"\n{SUMMARY}"), stops[1]]


def test_the_beginning_of_sequence_token_is_not_doubled() -> None:
    tokenizer = tokenizer_for_template(FOLDER / "llama3.jinja")
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)]
    )
    assert tokenizer("text")["input_ids"][0] == tokenizer.bos_token_id
    row = encode(tokenizer, DIALOGUE, SUMMARY, stop_token_ids(tokenizer, None))
    assert row["input_ids"].count(tokenizer.bos_token_id) == 1


def test_a_row_has_a_prompt_and_a_completion() -> None:
    assert PromptSettings("Sum up.", "Be brief.").messages("A: Hi.", "A says hi.") == {
        "prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Sum up.\n\nA: Hi."}],
        "completion": [{"role": "assistant", "content": "A says hi."}],
    }


@pytest.mark.parametrize(
    ("instruction", "content"),
    [
        ("Sum up.", "Sum up.\n\nA: {x} {dialogue} {0}"),
        ("Dialogue:\n{dialogue}\nSummary in {language}:", "Dialogue:\nA: {x} {dialogue} {0}\nSummary in {language}:"),
        ("", "A: {x} {dialogue} {0}"),
    ],
    ids=["before", "around", "none"],
)
def test_an_instruction_stands_before_or_around_a_dialogue_with_braces(instruction: str, content: str) -> None:
    assert PromptSettings(instruction).messages("A: {x} {dialogue} {0}") == {
        "prompt": [{"role": "user", "content": content}]
    }


def test_the_hash_covers_template_instruction_and_system_prompt(chatml_tokenizer: PreTrainedTokenizerFast) -> None:
    other_template, other_rest = deepcopy(chatml_tokenizer), deepcopy(chatml_tokenizer)
    other_template.chat_template += " "
    other_rest.name_or_path, other_rest.padding_side, other_rest.pad_token = "other", "left", "<|im_end|>"
    hashes = [
        PromptSettings("Sum up.", "Be brief.").sha256(chatml_tokenizer),
        PromptSettings("Sum up.", "Be brief.").sha256(other_template),
        PromptSettings("Sum up!", "Be brief.").sha256(chatml_tokenizer),
        PromptSettings("Sum up.", "Be brief!").sha256(chatml_tokenizer),
        PromptSettings("Sum up.", None).sha256(chatml_tokenizer),
        PromptSettings("Sum up.Be brief.", None).sha256(chatml_tokenizer),
    ]
    assert len(set(hashes)) == len(hashes)
    assert PromptSettings("Sum up.", "Be brief.").sha256(other_rest) == hashes[0]
    assert PromptSettings("Sum up.", "").sha256(chatml_tokenizer) == PromptSettings("Sum up.", None).sha256(
        chatml_tokenizer
    )
    assert all(len(text) == 16 and int(text, 16) >= 0 for text in hashes)


def test_stop_tokens_are_the_tokenizers_and_the_generation_configs(chatml_tokenizer: PreTrainedTokenizerFast) -> None:
    eos = chatml_tokenizer.eos_token_id
    assert stop_token_ids(chatml_tokenizer, None) == {eos}
    assert stop_token_ids(chatml_tokenizer, GenerationConfig(eos_token_id=None)) == {eos}
    assert stop_token_ids(chatml_tokenizer, GenerationConfig(eos_token_id=7)) == {eos, 7}
    assert stop_token_ids(chatml_tokenizer, GenerationConfig(eos_token_id=[7, 0])) == {eos, 7, 0}


def test_a_tokenizer_without_an_eos_token_needs_one_in_the_generation_config(
    chatml_tokenizer: PreTrainedTokenizerFast,
) -> None:
    tokenizer = deepcopy(chatml_tokenizer)
    tokenizer.eos_token = None
    assert stop_token_ids(tokenizer, GenerationConfig(eos_token_id=0)) == {0}
    with pytest.raises(InputError, match="no end-of-sequence token"):
        stop_token_ids(tokenizer, None)


def test_a_summary_that_the_template_would_cut_is_refused() -> None:
    """Gemma 4's template treats text after <|channel> in an answer as thinking and leaves it out."""
    tokenizer = tokenizer_for_template(FOLDER / "gemma4.jinja")
    stops = stop_token_ids(tokenizer, None)
    with pytest.raises(InputError, match="drops part of a text with control tokens"):
        encode(tokenizer, DIALOGUE, "He wrote <|channel> in the chat and left.", stops)


def test_the_hash_covers_rename_speakers(chatml_tokenizer: PreTrainedTokenizerFast) -> None:
    assert PromptSettings(rename_speakers=True).sha256(chatml_tokenizer) != PromptSettings().sha256(chatml_tokenizer)


def test_settings_are_read_back_from_their_record(chatml_tokenizer: PreTrainedTokenizerFast) -> None:
    settings = PromptSettings("Sum up.", "Be brief.", True, {"date_string": "01 Jan 2025", "enable_thinking": False})
    record = json.loads(json.dumps({"prompt": settings.record(chatml_tokenizer)}))
    assert PromptSettings.from_record(record) == settings
    assert record["prompt"]["template_sha256"] == settings.sha256(chatml_tokenizer)


def test_the_help_has_the_default_instruction() -> None:
    assert f"'{INSTRUCTION}'" in DataArguments.__dataclass_fields__["instruction"].metadata["help"]
    assert PromptSettings.from_arguments(DataArguments()) == PromptSettings()


def test_the_hash_covers_the_constant_opening_of_an_answer(chatml_tokenizer: PreTrainedTokenizerFast) -> None:
    hashes = []
    for tokenizer in (chatml_tokenizer, tokenizer_for_template(FOLDER / "gptoss.jinja")):
        text = "\0".join([tokenizer.chat_template, TEMPLATE_KWARGS["date_string"], INSTRUCTION, ""])
        hashes.append(PromptSettings().sha256(tokenizer) == hashlib.sha256(text.encode()).hexdigest()[:16])
    assert hashes == [True, False]
