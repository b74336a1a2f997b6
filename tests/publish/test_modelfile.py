"""The Modelfile: its template, rendered as Ollama renders it, gives the token ids of our own prompts."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from conftest import sample_dialogues, tokenizer_for_template
from dialogsum_sft import InputError
from dialogsum_sft.data.encoding import build_prompts
from dialogsum_sft.data.prompts import PromptSettings
from dialogsum_sft.publish import gguf_export, modelfile
from trl_templates import FOLDER, TEMPLATES

import pytest
from transformers import PreTrainedTokenizerFast

LENGTHS = {"num_ctx": 2048, "num_predict": 96}


def parsed(text: str) -> dict[str, Any]:
    """A Modelfile as Ollama's parser reads it: a command and a value, which may have quotes, or three around lines."""
    found: dict[str, Any] = {"stop": []}
    for match in re.finditer(r'^(?:#.*|(\w+) (?:(\w+) )?("""(?s:.*?)"""|".*"|\S+))$', text, re.M):
        command, name, value = match.groups()
        quotes = '"""' if value and value.startswith('"""') else '"'
        value = value and value.removeprefix(quotes).removesuffix(quotes)
        if name == "stop":
            found["stop"].append(value)
        elif command:
            found[name or command] = value
    return found


def rendered(template: str, prompt: str) -> str:
    """A Go template of text, `.Prompt` and string constants."""

    def value(action: re.Match[str]) -> str:
        return prompt if action[1] == ".Prompt" else str(json.loads(action[1]))

    return re.sub(r"\{\{ (.*?) \}\}", value, template)


def written(tokenizer: PreTrainedTokenizerFast, settings: PromptSettings, *, add_bos: bool = False) -> dict[str, Any]:
    stops = {tokenizer.eos_token_id}
    return parsed(modelfile.write("model-q8_0.gguf", tokenizer, settings, stops, LENGTHS, add_bos=add_bos))


def test_parameters_and_template(chatml_tokenizer: PreTrainedTokenizerFast) -> None:
    settings = PromptSettings("Sum up:", "Be brief.")
    text = modelfile.write("model-q8_0.gguf", chatml_tokenizer, settings, {0, 2}, LENGTHS, add_bos=False)
    assert text == (
        "FROM ./model-q8_0.gguf\n"
        'TEMPLATE """<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nSum up:\n\n{{ .Prompt }}<|im_end|>\n'
        '<|im_start|>assistant\n"""\n'
        "PARAMETER temperature 0\n"
        "PARAMETER repeat_penalty 1\n"
        "PARAMETER num_ctx 2048\n"
        "PARAMETER num_predict 96\n"
        'PARAMETER stop "<|endoftext|>"\n'
        'PARAMETER stop "<|im_end|>"\n'
    )
    assert parsed(text)["stop"] == ["<|endoftext|>", "<|im_end|>"]
    renamed = PromptSettings(rename_speakers=True)
    head = modelfile.write("x.gguf", chatml_tokenizer, renamed, {2}, {}, add_bos=False).splitlines()[0]
    assert head == "# Trained with renamed speakers: call them #Person1#, #Person2#, ... in the dialogues."


@pytest.mark.parametrize("name", TEMPLATES)
def test_20_dialogues_have_the_token_ids_of_our_prompts(name: str) -> None:
    """With the chat templates that TRL ships: those of the families that the configs name."""
    tokenizer = tokenizer_for_template(FOLDER / name)
    settings = PromptSettings("Here is a chat:\n{dialogue}\nSum it up, {{ not .Prompt }}.", 'Be "brief", """so""".')
    rows = sample_dialogues()[:20]
    prompts = build_prompts(rows, tokenizer, settings, None)
    add_bos = prompts[0].ids[:1] == [tokenizer.bos_token_id]
    template = written(tokenizer, settings, add_bos=add_bos)["TEMPLATE"]
    before = [tokenizer.bos_token_id] if add_bos else []
    for row, prompt in zip(rows, prompts, strict=True):
        ids = tokenizer(rendered(template, row["dialogue"]), add_special_tokens=False)["input_ids"]
        assert before + ids == prompt.ids
    assert modelfile.check(tokenizer, settings, rows) == 20


def test_the_prompts_of_the_training_are_those_of_the_template(chatml_tokenizer: PreTrainedTokenizerFast) -> None:
    rows, settings = sample_dialogues()[:20], PromptSettings()
    prompts = build_prompts(rows, chatml_tokenizer, settings, None)
    assert not gguf_export.adds_bos(chatml_tokenizer, prompts[0].ids)
    template = written(chatml_tokenizer, settings)["TEMPLATE"]
    found = [chatml_tokenizer(rendered(template, row["dialogue"]))["input_ids"] for row in rows]
    assert found == [prompt.ids for prompt in prompts]


@pytest.mark.parametrize(
    ("template", "settings", "message"),
    [
        ("{{ messages[-1].content }}", PromptSettings("About {topic}:"), r"values of columns, \{topic\}"),
        ("{{ messages[-1].content * 2 }}", PromptSettings(), "does not write the dialogue once"),
        ("{{ messages[-1].content | upper }}", PromptSettings(), "does not write the dialogue once"),
    ],
)
def test_prompts_without_a_constant_text_around_the_dialogue_are_refused(
    template: str,
    settings: PromptSettings,
    message: str,
    tokenizer_with_template: Callable[[str], PreTrainedTokenizerFast],
) -> None:
    with pytest.raises(InputError, match=f"^no Modelfile: .*{message}"):
        written(tokenizer_with_template(template), settings)


def test_a_template_that_changes_texts_is_found(
    tokenizer_with_template: Callable[[str], PreTrainedTokenizerFast],
) -> None:
    tokenizer = tokenizer_with_template("{{ messages[-1].content | replace('?', '!') }}")
    with pytest.raises(InputError, match=r"^no Modelfile: the chat template changes the text of a dialogue \(test_"):
        modelfile.check(tokenizer, PromptSettings(), sample_dialogues()[:20])


@pytest.fixture
def tokenizer_with_template(tmp_path: Path) -> Callable[[str], PreTrainedTokenizerFast]:
    def make(template: str) -> PreTrainedTokenizerFast:
        (tmp_path / "template.jinja").write_text(template, encoding="utf-8")
        return tokenizer_for_template(tmp_path / "template.jinja")

    return make
