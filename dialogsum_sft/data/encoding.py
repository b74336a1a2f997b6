"""Encode examples as token ids of at most max_length: training rows with labels, and prompts for generation."""

import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dialogsum_sft import InputError
from dialogsum_sft.data.counts import Counts
from dialogsum_sft.data.dialogue import Renamed, Shortened, rename_speakers, shorten, swap_speakers
from dialogsum_sft.data.examples import Examples
from dialogsum_sft.data.grouping import on_disk
from dialogsum_sft.data.prompts import Message, PromptSettings, encode_batch, render_batch

from datasets import Dataset, Features, IterableDataset, List, Value
from transformers import PreTrainedTokenizerBase

FEATURES = Features(
    {
        "id": Value("string"),
        "input_ids": List(Value("int32")),
        "labels": List(Value("int32")),
        "prompt_tokens": Value("int32"),
        "length": Value("int32"),
        "dropped_turns": Value("int32"),
    }
)
TOO_LONG = "too long even when shortened to one turn"
_BATCH = 256


def training_rows(
    examples: Examples,
    tokenizer: PreTrainedTokenizerBase,
    stop_token_ids: Collection[int],
    settings: PromptSettings,
    max_length: int | None,
    *,
    swap: bool = False,
    allow_dropped_rows: bool = False,
) -> tuple[Dataset | IterableDataset, Counts]:
    """One row for each reference (and once more with its speakers exchanged, if `swap`), at most `max_length` tokens.

    A dialogue that is too long loses whole turns from its middle (`dialogue.shorten`), never its summary; a row that
    does not fit with one turn is dropped and counted. Every row passes `label_fault`. The rows are on disk; with
    streaming they are encoded, and counted, during training.

    Raises InputError when more than 1% of the rows are lost unless `allow_dropped_rows`.
    """
    counts = Counts()
    longest = (0, "")

    def pairs() -> Iterator[tuple[str, str, str]]:
        for example in examples.rows:
            for number, summary in enumerate(example["references"], 1):
                name = example["id"] if len(example["references"]) == 1 else f"{example['id']}_{number}"
                dialogue = example["dialogue"]
                if settings.rename_speakers:
                    renamed = rename_speakers(dialogue, summary)
                    dialogue, summary = renamed.text, renamed.summary or summary
                yield name, dialogue, summary
                swapped = swap_speakers(dialogue, summary) if swap else (dialogue, summary)
                if swapped != (dialogue, summary):
                    yield f"{name}_swapped", *swapped

    def encoded() -> Iterator[dict[str, Any]]:
        nonlocal longest
        stream = pairs()
        while batch := list(itertools.islice(stream, _BATCH)):
            faults: dict[int, str] = {}
            texts = [(dialogue, summary) for _, dialogue, summary in batch]
            rows = encode_batch(tokenizer, texts, stop_token_ids, settings, faults=faults)
            for i, ((name, dialogue, summary), row) in enumerate(zip(batch, rows, strict=True)):
                counts.read += 1
                dropped_turns = 0
                if i in faults:
                    counts.drop(name, faults[i])
                    continue
                longest = max(longest, (len(row["input_ids"]), name))
                if max_length is not None and len(row["input_ids"]) > max_length:
                    fitting = _fitting_row(tokenizer, dialogue, summary, stop_token_ids, settings, max_length)
                    if fitting is None:
                        counts.drop(name, TOO_LONG)
                        continue
                    row, dropped_turns = fitting
                    counts.shortened += 1
                fault = label_fault(row, stop_token_ids)
                if fault:
                    raise InputError(f"training row {name}: {fault}")
                counts.kept += 1
                yield {"id": name, **row, "length": len(row["input_ids"]), "dropped_turns": dropped_turns}

    if isinstance(examples.rows, IterableDataset):
        return IterableDataset.from_generator(encoded, features=FEATURES), counts
    rows = on_disk(encoded(), FEATURES, "tokenizing")
    lost = counts.read - counts.kept
    if counts.kept == 0 or (lost > counts.read / 100 and not allow_dropped_rows):
        hint = ""
        if counts.dropped[TOO_LONG]:
            hint = f" (max_length {max_length}; the longest, {longest[1]}, has {longest[0]} tokens: give more)"
        raise InputError(
            f"{lost} of {counts.read} training rows cannot be used: {'; '.join(counts.named)}{hint}"
            + ("" if counts.kept == 0 else ". Mend them, or go on without them by --allow_dropped_rows")
        )
    return rows, counts


def label_fault(row: Mapping[str, Any], stop_token_ids: Collection[int]) -> str | None:
    """What is wrong with the labels of a row, or None.

    A row must be supervised on its summary and the stop token that ends it, and on nothing else: labels are -100 up to
    `prompt_tokens`, equal to `input_ids` from there to the first of `stop_token_ids`, and -100 after it.
    """
    ids, labels, n = row["input_ids"], row["labels"], row["prompt_tokens"]
    if len(ids) != len(labels):
        return f"{len(ids)} input ids but {len(labels)} labels"
    if any(label != -100 for label in labels[:n]):
        return "the prompt is supervised: a label before the summary is not -100"
    end = next((i for i in range(n, len(ids)) if ids[i] in stop_token_ids), None)
    if end is None:
        return "no stop token after the summary: the model would not learn to end it"
    if end == n:
        return "the summary is empty: only the stop token is supervised"
    if labels[n : end + 1] != ids[n : end + 1]:
        return "a token of the summary or its stop token is not supervised, or with another label"
    if any(label != -100 for label in labels[end + 1 :]):
        return "a label after the stop token is not -100"
    return None


@dataclass
class Prompt:
    """A dialogue as it is given to a model.

    `text` is the dialogue, renamed and shortened; `messages` the chat with it; `ids` their token ids, empty without a
    tokenizer. `names` maps the tags of renamed speakers to their names.
    """

    text: str
    messages: list[Message]
    ids: list[int] = field(default_factory=list)
    dropped_turns: int = 0
    names: dict[str, str] = field(default_factory=dict)


def build_prompts(
    dialogues: Sequence[str],
    tokenizer: PreTrainedTokenizerBase | None,
    settings: PromptSettings,
    max_tokens: int | None,
) -> list[Prompt]:
    """The prompts of dialogues, at most `max_tokens` long each: the token ids that training puts before a summary.

    Without a tokenizer (that of a hosted model is not public) there are no ids, and nothing is shortened.

    Raises InputError for a dialogue that does not fit even when shortened to one turn.
    """
    renamed = [
        rename_speakers(dialogue) if settings.rename_speakers else Renamed(dialogue, None, {})
        for dialogue in dialogues
    ]
    prompts = [Prompt(new.text, settings.messages(new.text)["prompt"], names=new.names) for new in renamed]
    if tokenizer is None:
        return prompts

    def render(texts: Sequence[str]) -> list[list[int]]:
        chats = [settings.messages(text)["prompt"] for text in texts]
        return render_batch(tokenizer, chats, template_kwargs=settings.template_kwargs, add_generation_prompt=True)

    for number, (prompt, ids) in enumerate(zip(prompts, render([prompt.text for prompt in prompts]), strict=True), 1):
        prompt.ids = ids
        if max_tokens is None or len(ids) <= max_tokens:
            continue
        fitted = shorten_to_fit(tokenizer, prompt.text, lambda text: len(render([text])[0]), max_tokens)
        if fitted is None:
            raise InputError(f"dialogue {number} is {TOO_LONG}: {len(ids)} tokens, and {max_tokens} are allowed")
        prompt.text, prompt.dropped_turns = fitted.text, fitted.dropped_turns
        prompt.messages = settings.messages(fitted.text)["prompt"]
        (prompt.ids,) = render([fitted.text])
    return prompts


def shorten_to_fit(
    tokenizer: PreTrainedTokenizerBase, dialogue: str, length_of: Callable[[str], int], limit: int
) -> Shortened | None:
    """The dialogue with as few whole turns dropped as make `length_of(dialogue) <= limit`; None if none do.

    `length_of` counts the tokens of the whole row or prompt around the dialogue. Its surplus sets the dialogue's
    budget; a few rounds are needed as tokens merge at the dialogue's ends.
    """

    def count(texts: list[str]) -> list[int]:
        return [len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]

    budget = count([dialogue])[0] - (length_of(dialogue) - limit)
    for _ in range(4):
        try:
            shortened = shorten(dialogue, budget, count)
        except ValueError:
            return None
        surplus = length_of(shortened.text) - limit
        if surplus <= 0:
            return shortened
        budget -= surplus
    return None


def _fitting_row(
    tokenizer: PreTrainedTokenizerBase,
    dialogue: str,
    summary: str,
    stop_ids: Collection[int],
    settings: PromptSettings,
    max_length: int,
) -> tuple[dict[str, Any], int] | None:
    rows: dict[str, dict[str, Any]] = {}

    def length_of(text: str) -> int:
        (rows[text],) = encode_batch(tokenizer, [(text, summary)], stop_ids, settings)
        return len(rows[text]["input_ids"])

    fitted = shorten_to_fit(tokenizer, dialogue, length_of, max_length)
    return None if fitted is None else (rows[fitted.text], fitted.dropped_turns)
