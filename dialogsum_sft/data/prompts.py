"""Prompts: dialogues become chat messages and training rows."""

import hashlib
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from dialogsum_sft import InputError
from dialogsum_sft.arguments import DialogueArguments
from dialogsum_sft.data.chat_template import TEMPLATE_KWARGS, Message, answer_opening, check_template, render

from transformers import GenerationConfig, PreTrainedTokenizerBase

INSTRUCTION = "Summarize the following dialogue in one or two sentences. Name the speakers as the dialogue does."

# Named instructions of recipes/label.py, for models that were not trained on summaries.
_SPEAKERS = "Name the speakers as the dialogue does."
_ALONE = (
    "Use only what the dialogue says, with its own names and numbers. Answer with the summary alone, in the language "
    "of the dialogue."
)
LABEL_INSTRUCTIONS = {
    name: f"Summarize the following dialogue in {what} {_SPEAKERS} {_ALONE}"
    for name, what in {
        "short": "one or two sentences.",
        "paragraph": "a paragraph of three to five sentences.",
        "outcome": "two or three sentences: what was asked, what was decided or done, and who does what next.",
    }.items()
}


@dataclass(frozen=True)
class PromptSettings:
    """What decides a prompt besides the dialogue and the tokenizer's chat template.

    `instruction` stands before the dialogue in the user's turn, or around it where it contains `{dialogue}`.
    `rename_speakers` is applied by `encoding`, before `messages`; `drop_times` when dialogues are read.
    `template_kwargs` are arguments of the chat template and hold the pinned date. run.json stores `record()`, and an
    evaluation reads it with `from_record`.
    """

    instruction: str = INSTRUCTION
    system_prompt: str | None = None
    rename_speakers: bool = False
    drop_times: bool = False
    template_kwargs: Mapping[str, Any] = field(default_factory=lambda: dict(TEMPLATE_KWARGS))

    @classmethod
    def from_arguments(cls, data_args: DialogueArguments) -> Self:
        instruction = INSTRUCTION if data_args.instruction is None else data_args.instruction
        return cls(instruction, data_args.system_prompt, data_args.rename_speakers, data_args.drop_times)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """The settings of a run.json, also of an early one that has `rename_speakers` among its arguments only."""
        prompt = {"rename_speakers": record.get("arguments", {}).get("rename_speakers", False)} | record["prompt"]
        return cls(**{name: value for name, value in prompt.items() if name in cls.__dataclass_fields__})

    def record(self, tokenizer: PreTrainedTokenizerBase | None) -> dict[str, Any]:
        """The settings and their hash, as stored in run.json and metrics.json; no hash without a tokenizer."""
        settings = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return settings | {"template_sha256": None if tokenizer is None else self.sha256(tokenizer)}

    def sha256(self, tokenizer: PreTrainedTokenizerBase) -> str:
        """Hash of the settings and the chat template, as 16 hex digits."""
        text = "\0".join(
            [
                str(tokenizer.chat_template),
                str(self.template_kwargs.get("date_string")),
                self.instruction,
                self.system_prompt or "",
                # Only where they differ from the default, so that the hashes of earlier run.json files stay valid.
                *(["rename_speakers"] if self.rename_speakers else []),
                *([json.dumps(dict(self.template_kwargs))] if self.template_kwargs != TEMPLATE_KWARGS else []),
                *([opening] if (opening := answer_opening(tokenizer, self.template_kwargs)) else []),
            ]
        )
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def messages(
        self, dialogue: str, summary: str | None = None, fields: Mapping[str, str] | None = None
    ) -> dict[str, list[Message]]:
        """A dialogue, and its summary if given, as TRL's conversational prompt-completion row.

        `fields` are values of columns, for `{column}` in the instruction and the system prompt.
        """

        def filled(text: str, values: Mapping[str, str]) -> str:  # in one pass: values may contain braces
            pattern = "|".join(re.escape(f"{{{name}}}") for name in values)
            return re.sub(pattern, lambda match: values[match[0][1:-1]], text) if values else text

        fields = fields or {}
        if "{dialogue}" in self.instruction:
            text = filled(self.instruction, {**fields, "dialogue": dialogue})
        else:
            instruction = filled(self.instruction, fields)
            text = f"{instruction}\n\n{dialogue}" if instruction else dialogue
        prompt = [{"role": "user", "content": text}]
        if self.system_prompt:
            prompt.insert(0, {"role": "system", "content": filled(self.system_prompt, fields)})
        row = {"prompt": prompt}
        if summary is not None:
            row["completion"] = [{"role": "assistant", "content": summary}]
        return row


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
    stop_ids: Collection[int],
    settings: PromptSettings | None = None,
) -> dict[str, Any]:
    """`encode_batch` for one row."""
    return encode_batch(tokenizer, [(dialogue, summary)], stop_ids, settings or PromptSettings())[0]


def encode_batch(
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[tuple[str, str]],
    stop_ids: Collection[int],
    settings: PromptSettings,
    *,
    fields: Sequence[Mapping[str, str] | None] | None = None,
    faults: dict[int, str] | None = None,
) -> list[dict[str, Any]]:
    """Training rows of (dialogue, summary): `input_ids` (prompt, summary, stop token), `labels` (-100 on the prompt),
    `prompt_tokens`.

    What a template writes after the stop token (ChatML's newline) is left out: it is never generated. Where a template
    writes no stop token after the answer (GLM-4), one is added, the tokenizer's end of sequence if it has one.

    Raises InputError where the rendered prompt is not the beginning of the rendered conversation, as with templates
    that add a thinking block to the prompt alone: the model would be trained with one prompt and used with another.
    `faults` is that of `render`; the row of such a pair has no ids.
    """
    rows = [
        settings.messages(dialogue, summary, own)
        for (dialogue, summary), own in zip(pairs, fields or [None] * len(pairs), strict=True)
    ]
    kwargs = settings.template_kwargs
    check_template(tokenizer)
    prompts = render(tokenizer, [row["prompt"] for row in rows], kwargs, True, faults)
    chats, _ = render(tokenizer, [row["prompt"] + row["completion"] for row in rows], kwargs, False, faults, prompts)
    stop = min(stop_ids) if tokenizer.eos_token_id is None else tokenizer.eos_token_id
    result = []
    for i, (prompt_ids, ids) in enumerate(zip(prompts[0], chats, strict=True)):
        n = len(prompt_ids)
        if faults is not None and i in faults:
            result.append({"input_ids": [], "labels": [], "prompt_tokens": 0})
            continue
        if ids[:n] != prompt_ids or len(ids) == n:
            raise InputError(
                f"the chat template of {tokenizer.name_or_path} renders the prompt alone differently from the prompt "
                f"with an answer (the prompt ends in {tokenizer.decode(prompt_ids[-12:])!r}): give a template whose "
                "prompt is a prefix with --chat_template_path"
            )
        end = next((at for at in range(n, len(ids)) if ids[at] in stop_ids), None)
        ids = [*ids, stop] if end is None else ids[: end + 1]
        result.append({"input_ids": ids, "labels": [-100] * n + ids[n:], "prompt_tokens": n})
    return result
