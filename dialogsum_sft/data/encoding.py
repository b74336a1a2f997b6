"""Encode examples as token ids of at most max_length: training rows with labels, and prompts for generation."""

import functools
import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dialogsum_sft import InputError
from dialogsum_sft.data.chat_template import Message, count_tokens, render_batch
from dialogsum_sft.data.counts import Counts, longest_pass
from dialogsum_sft.data.dialogue import Dialogue, Renamed, rename_speakers, swap_speakers
from dialogsum_sft.data.examples import Examples, fields_of
from dialogsum_sft.data.grouping import in_order, on_disk
from dialogsum_sft.data.prompts import PromptSettings, encode_batch
from dialogsum_sft.data.shortening import Shortened, shorten
from dialogsum_sft.data.transcripts import dialogue_of

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
        "cut_turns": Value("int32"),
        "dropped_tokens": Value("int32"),
    }
)
TOO_LONG = "too long even when shortened"
_BATCH = 256
_NOTHING_LOST = {"dropped_turns": 0, "cut_turns": 0, "dropped_tokens": 0}


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

    A dialogue that is too long loses its middle (`shortening.shorten`), never its summary; a row that still does not
    fit is dropped and counted. Every row passes `label_fault`. The rows are on disk; with streaming they are encoded,
    and counted, during training.

    Raises InputError when more than 1% of the rows are lost unless `allow_dropped_rows`.
    """
    counts = Counts()
    longest = (0, "")

    def pairs() -> Iterator[tuple[str, str, str, dict[str, str] | None, Dialogue | Mapping[str, Any]]]:
        for example in in_order(examples.rows):
            fields = fields_of(example)
            for number, summary in enumerate(example["references"], 1):
                name = example["id"] if len(example["references"]) == 1 else f"{example['id']}_{number}"
                if not settings.rename_speakers and not swap:  # the turns are needed for shortening alone
                    yield name, example["dialogue"], summary, fields, example
                    continue
                dialogue = dialogue_of(example)
                if settings.rename_speakers:
                    renamed = rename_speakers(dialogue, summary)
                    dialogue, summary = renamed.dialogue, renamed.summary or summary
                yield name, dialogue.text, summary, fields, dialogue
                swapped, summary_of_swapped = swap_speakers(dialogue, summary) if swap else (dialogue, summary)
                if (swapped, summary_of_swapped) != (dialogue, summary):
                    yield f"{name}_swapped", swapped.text, summary_of_swapped, fields, swapped

    def encoded(counts: Counts) -> Iterator[dict[str, Any]]:
        nonlocal longest
        stream = pairs()
        while batch := list(itertools.islice(stream, _BATCH)):
            faults: dict[int, str] = {}
            texts = [(text, summary) for _, text, summary, *_ in batch]
            fields = [own for *_, own, _ in batch]
            rows = encode_batch(tokenizer, texts, stop_token_ids, settings, fields=fields, faults=faults)
            for i, ((name, _, summary, own, dialogue), row) in enumerate(zip(batch, rows, strict=True)):
                counts.read += 1
                lost = _NOTHING_LOST
                if i in faults:
                    counts.drop(name, faults[i])
                    continue
                longest = max(longest, (len(row["input_ids"]), name))
                if max_length is not None and len(row["input_ids"]) > max_length:
                    if not isinstance(dialogue, Dialogue):
                        dialogue = dialogue_of(dialogue)
                    fitting = fitting_row(tokenizer, dialogue, summary, own, stop_token_ids, settings, max_length)
                    if fitting is None:
                        counts.drop(name, TOO_LONG)
                        continue
                    row, lost = fitting[0], fitting[1].record()
                    counts.shorten(**lost)
                fault = label_fault(row, stop_token_ids)
                if fault:
                    raise InputError(f"training row {name}: {fault}")
                counts.kept += 1
                yield {"id": name, **row, "length": len(row["input_ids"]), **lost}

    if isinstance(examples.rows, IterableDataset):
        return IterableDataset.from_generator(lambda: longest_pass(counts, encoded), features=FEATURES), counts
    rows = on_disk(encoded(counts), FEATURES, "tokenizing")
    lost = counts.read - counts.kept
    if counts.kept == 0 or (lost > counts.read / 100 and not allow_dropped_rows):
        hint = ""
        if counts.dropped[TOO_LONG]:
            hint = f" (max_length {max_length}; the longest, {longest[1]}, has {longest[0]} tokens: give more)"
        raise InputError(
            f"{lost} of {counts.read} training rows cannot be used: {'; '.join(counts.named)}{hint}"
            + ("" if counts.kept == 0 else ". Correct them, or continue without them: --allow_dropped_rows true")
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
    if labels[:n].count(-100) < n:
        return "the prompt is supervised: a label before the summary is not -100"
    end = next((i for i in range(n, len(ids)) if ids[i] in stop_token_ids), None)
    if end is None:
        return "no stop token after the summary: the model would not learn to end it"
    if end == n:
        return "the summary is empty: only the stop token is supervised"
    if labels[n : end + 1] != ids[n : end + 1]:
        return "a token of the summary or its stop token is not supervised, or with another label"
    if labels[end + 1 :].count(-100) < len(ids) - end - 1:
        return "a label after the stop token is not -100"
    return None


@dataclass
class Prompt:
    """A dialogue as it is given to a model.

    `text` is the dialogue, renamed and shortened; `messages` the chat with it; `ids` their token ids, empty without a
    tokenizer. `lost` counts what shortening took away. `names` maps the tags of renamed speakers to their names.
    `coverage` is that of a dialogue that is too long: `windows`, `calls` of the model, and the shares of its turns and
    tokens that were seen, `turns_seen` and `tokens_seen`.
    """

    text: str
    messages: list[Message]
    ids: list[int] = field(default_factory=list)
    lost: dict[str, int] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    coverage: dict[str, Any] = field(default_factory=dict)


def build_prompts(
    rows: Sequence[Mapping[str, Any]],
    tokenizer: PreTrainedTokenizerBase | None,
    settings: PromptSettings,
    max_tokens: int | None,
) -> list[Prompt]:
    """The prompts of the dialogues of `rows`, at most `max_tokens` long each; their ids are those of the training.

    Without a tokenizer (that of a hosted model is not public) there are no ids, and nothing is shortened.

    Raises InputError for a dialogue that does not fit even when shortened.
    """
    names: list[dict[str, str]] = []
    dialogues = []
    for row in rows:
        dialogue = dialogue_of(row)
        renamed = rename_speakers(dialogue) if settings.rename_speakers else Renamed(dialogue, None, {})
        dialogues.append(renamed.dialogue)
        names.append(renamed.names)
    fields = [fields_of(row) for row in rows]

    def chat(number: int, text: str) -> list[Message]:
        return settings.messages(text, fields=fields[number])["prompt"]

    prompts = [Prompt(one.text, chat(n, one.text), names=names[n]) for n, one in enumerate(dialogues)]
    if tokenizer is None:
        return prompts

    def render(chats: Sequence[list[Message]]) -> list[list[int]]:
        return render_batch(tokenizer, chats, template_kwargs=settings.template_kwargs, add_generation_prompt=True)

    def length_of(number: int, text: str) -> int:
        return len(render([chat(number, text)])[0])

    for number, (prompt, ids) in enumerate(zip(prompts, render([prompt.messages for prompt in prompts]), strict=True)):
        prompt.ids = ids
        if max_tokens is None or len(ids) <= max_tokens:
            continue
        fitted = shorten_to_fit(tokenizer, dialogues[number], functools.partial(length_of, number), max_tokens)
        if fitted is None:
            raise InputError(f"dialogue {number + 1} is {TOO_LONG}: {len(ids)} tokens, and {max_tokens} are allowed")
        prompt.coverage = {"windows": 1, "calls": 1} | fitted.shares(len(dialogues[number].turns))
        prompt.text, prompt.lost = fitted.dialogue.text, fitted.record()
        prompt.messages = chat(number, prompt.text)
        (prompt.ids,) = render([prompt.messages])
    return prompts


def shorten_to_fit(
    tokenizer: PreTrainedTokenizerBase, dialogue: Dialogue, length_of: Callable[[str], int], limit: int
) -> Shortened | None:
    """The dialogue shortened as little as makes `length_of(text) <= limit`; None if it cannot fit.

    `length_of` counts the tokens of the whole row or prompt around the dialogue. Its surplus sets the dialogue's
    budget; a few rounds are needed as tokens merge at the dialogue's ends.
    """
    count = functools.partial(count_tokens, tokenizer)
    budget = count([dialogue.text])[0] - (length_of(dialogue.text) - limit)
    for _ in range(4):
        try:
            shortened = shorten(dialogue, budget, count)
        except ValueError:
            return None
        surplus = length_of(shortened.dialogue.text) - limit
        if surplus <= 0:
            return shortened
        budget -= surplus
    return None


def fitting_row(
    tokenizer: PreTrainedTokenizerBase,
    dialogue: Dialogue,
    summary: str,
    fields: Mapping[str, str] | None,
    stop_ids: Collection[int],
    settings: PromptSettings,
    max_length: int,
) -> tuple[dict[str, Any], Shortened] | None:
    """The training row of at most `max_length` tokens, its dialogue shortened; None where it cannot fit."""
    rows: dict[str, dict[str, Any]] = {}

    def length_of(text: str) -> int:
        (rows[text],) = encode_batch(tokenizer, [(text, summary)], stop_ids, settings, fields=[fields])
        return len(rows[text]["input_ids"])

    fitted = shorten_to_fit(tokenizer, dialogue, length_of, max_length)
    return None if fitted is None else (rows[fitted.dialogue.text], fitted)
