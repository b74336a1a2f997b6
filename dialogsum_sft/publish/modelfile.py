"""Modelfile: what Ollama needs to summarise with a GGUF file, a dialogue for each prompt.

Its template is the text around the dialogue in our own prompts, so it is that of any chat template. `ollama create`
reads it; the dialogue is the whole prompt (`ollama run NAME "$(cat chat.txt)"`).
"""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from dialogsum_sft import InputError
from dialogsum_sft.data.chat_template import render
from dialogsum_sft.data.encoding import build_prompts
from dialogsum_sft.data.prompts import PromptSettings

from transformers import PreTrainedTokenizerBase

_MARK = "DIALOGUE-0f6b"


def write(
    gguf_name: str,
    tokenizer: PreTrainedTokenizerBase,
    settings: PromptSettings,
    stop_ids: Collection[int],
    lengths: Mapping[str, int],
    *,
    add_bos: bool,
) -> str:
    """The text of a Modelfile beside the file `gguf_name`.

    `lengths` are Ollama's `num_ctx` and `num_predict` in tokens. `add_bos`: whether llama.cpp puts the BOS token
    before the prompt, which the template leaves out then. Raises InputError, in one line, where no template gives the
    prompts of the training.
    """
    before, after = around_dialogue(tokenizer, settings)
    if add_bos:
        before = before.removeprefix(str(tokenizer.bos_token))
    parameters: dict[str, Any] = {"temperature": 0, "repeat_penalty": 1} | dict(lengths)
    stops = [str(text) for text in tokenizer.convert_ids_to_tokens(sorted(stop_ids)) if text is not None]
    lines = [f"FROM ./{gguf_name}"]
    if settings.rename_speakers:
        lines.insert(0, "# Trained with renamed speakers: call them #Person1#, #Person2#, ... in the dialogues.")
    lines.append(f'TEMPLATE """{_literal(before)}{{{{ .Prompt }}}}{_literal(after)}"""')
    lines += [f"PARAMETER {name} {value}" for name, value in parameters.items()]
    lines += [f'PARAMETER stop "{text}"' for text in stops if '"' not in text]
    return "\n".join(lines) + "\n"


def lengths(record: Mapping[str, Any]) -> dict[str, int]:
    """`num_ctx` and `num_predict` from the run.json of a training, in tokens; none that it does not have."""
    arguments = record.get("arguments", {})
    options = {"num_ctx": arguments.get("max_length"), "num_predict": arguments.get("eval_max_new_tokens")}
    return {name: int(value) for name, value in options.items() if value}


def around_dialogue(tokenizer: PreTrainedTokenizerBase, settings: PromptSettings) -> tuple[str, str]:
    """The texts before and after the dialogue in every prompt. Raises InputError where they differ between prompts."""
    texts = {settings.instruction, settings.system_prompt or ""}
    if columns := sorted({name for text in texts for name in re.findall(r"\{(\w+)\}", text)} - {"dialogue"}):
        raise InputError(f"no Modelfile: the prompt has values of columns, {{{columns[0]}}}, and Ollama has none")
    _, (text,) = render(tokenizer, [settings.messages(_MARK)["prompt"]], settings.template_kwargs, True, None)
    before, mark, after = text.partition(_MARK)
    if not mark or _MARK in after:
        raise InputError("no Modelfile: the chat template does not write the dialogue once, as it is")
    return before, after


def check(tokenizer: PreTrainedTokenizerBase, settings: PromptSettings, rows: Sequence[Mapping[str, Any]]) -> int:
    """Compare the template's token ids with those of our own prompts; returns the number of dialogues compared.

    Raises InputError where they differ, as where a chat template changes the text of a message.
    """
    before, after = around_dialogue(tokenizer, settings)
    prompts = build_prompts(rows, tokenizer, settings, None)
    texts = [before + prompt.text + after for prompt in prompts]
    for row, prompt, ids in zip(rows, prompts, tokenizer(texts, add_special_tokens=False)["input_ids"], strict=True):
        if ids != prompt.ids:
            raise InputError(f"no Modelfile: the chat template changes the text of a dialogue ({row['id']})")
    return len(prompts)


def _literal(text: str) -> str:
    """A text for a Go template within three quotes: what either would read as its own is a string constant."""
    return re.sub(r'\{\{|"""', lambda match: '{{ "' + match[0].replace('"', r"\"") + '" }}', text)
