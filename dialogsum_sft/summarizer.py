"""Summaries of new dialogues by a trained model, a model of the hub or an endpoint: `Summarizer`."""

import contextlib
import logging
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Self

from dialogsum_sft import InputError
from dialogsum_sft.arguments import DialogueArguments, GenerationArguments, LongArguments
from dialogsum_sft.data.answers import is_cut_off, read_answer
from dialogsum_sft.data.counts import Counts
from dialogsum_sft.data.dialogue import restore_speakers
from dialogsum_sft.data.dialogue_reader import dialogues_of, read_dialogue
from dialogsum_sft.data.encoding import Prompt, build_prompts
from dialogsum_sft.data.prompts import PromptSettings
from dialogsum_sft.engine_checks import check_engine
from dialogsum_sft.evaluation.consensus import consensus
from dialogsum_sft.evaluation.english import is_english
from dialogsum_sft.evaluation.unsupported import unsupported_names, unsupported_numbers
from dialogsum_sft.generation.engine import Completion, Watch, max_prompt_tokens
from dialogsum_sft.generation.journal import Journal
from dialogsum_sft.generation.long_dialogues import carry_out, digest, make_plans
from dialogsum_sft.generation.python_options import checked_options
from dialogsum_sft.generation.summarise import completions, decisive_options, decisive_settings, open_engine, summarise
from dialogsum_sft.generation.transformers_engine import TransformersEngine
from dialogsum_sft.modeling import EMBEDDED, load_tokenizer, public_name
from dialogsum_sft.training.record import check_use, use_defaults

from accelerate import PartialState
from huggingface_hub import snapshot_download
from tqdm import tqdm
from transformers.utils import find_adapter_config_file
from trl import ModelConfig

# How many prompts an engine sorts by length, so that the first in order may be the last that is completed. An endpoint
# gets them in order.
_AT_ONCE = {"transformers": 32, "vllm": 1024}
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Summary:
    """The summary of a dialogue.

    `finish_reason`, `fault` and the token counts are those of the last `Completion`. `dropped_turns`, `cut_turns` and
    `dropped_tokens` are what the dialogue lost so as to fit. `windows` and `calls` of the model are more than 1 for a
    dialogue that is too long, with `long` map_reduce or refine; `turns_seen` and `tokens_seen` are shares, 0 to 1.
    Names and numbers that the dialogue does not contain are found by rules for English, and None for other languages.
    """

    text: str
    prompt_tokens: int | None
    completion_tokens: int | None
    finish_reason: str | None
    fault: str | None
    dropped_turns: int
    cut_turns: int
    dropped_tokens: int
    unsupported_names: list[str] | None
    unsupported_numbers: list[str] | None
    windows: int = 1
    calls: int = 1
    turns_seen: float = 1.0
    tokens_seen: float = 1.0


class Summarizer:
    """Summarises dialogues as the model was trained to: with its prompt, lengths and chat template.

    `notes` are warnings about the model and its training. The weights are loaded when the first summary is made.
    """

    def __init__(
        self, model_args: ModelConfig, dialogue_args: DialogueArguments, generation_args: GenerationArguments
    ) -> None:
        """Raises InputError for options that cannot work, and for an adapter of another base model or prompt."""
        if (processes := PartialState().num_processes) > 1:
            raise InputError(f"summaries are made by one process, not by {processes}: start it with python")
        check_engine(generation_args, model_args, processes)
        self.dialogue_args, self._args, self._model_args = dialogue_args, generation_args, model_args
        self.settings = PromptSettings.from_arguments(dialogue_args)
        self._tokenizer = None
        if model_args.model_name_or_path:
            adapter, trust = generation_args.adapter_path, generation_args.trust_remote_code
            self._tokenizer = load_tokenizer(model_args, adapter_path=adapter, trust_remote_code=trust)
        self.notes = check_use(model_args, generation_args, self.settings, self._tokenizer)[1]
        self._engine = open_engine(generation_args, model_args, self._tokenizer, evaluate_base=False)

    @classmethod
    def from_pretrained(cls, name: str | Path, **options: Any) -> Self:
        """A summariser with `name`: the adapter folder of a training, a merged or other model folder, a hub id of
        either, or the URL of an endpoint (then with `served_model_name`).

        `options` are those of recipes/summarize.py, such as `max_new_tokens` or `instruction`; others are those of the
        training. Raises InputError for what does not exist or fit.
        """
        types = (ModelConfig, DialogueArguments, LongArguments)
        given = _found(str(name)) | checked_options(types, options)
        values = use_defaults(given) | given

        def made(kind: type[Any]) -> Any:
            own = {field.name for field in fields(kind) if field.init}
            return kind(**{key: value for key, value in values.items() if key in own})

        return cls(*map(made, types))

    def summarize(self, dialogues: Any, *, records: bool = False) -> Any:
        """The summaries of dialogues (any iterable) as a list of texts, in order; of one dialogue its summary.

        A dialogue is a text in any format that training reads (an exported chat, subtitles, lines `Name: ...`), a list
        of turns (objects, or tuples of speaker and text), or a list of messages with `role` and `content`. With
        `records` each summary is a `Summary`.

        Raises InputError for a dialogue without turns, and without `records` for one that an endpoint does not
        summarise.
        """
        several, alone = dialogues_of(dialogues)
        rows = []
        for number, dialogue in enumerate(several, 1):
            try:
                rows.append(self.read(dialogue))
            except ValueError as error:
                raise InputError(re.sub("^dialogue", f"dialogue {number}", str(error))) from error
        summaries = list(self.stream(rows))
        for number, one in enumerate(summaries, 1):
            if one.fault is not None and not records:
                raise InputError(f"dialogue {number} has no summary: {one.fault}")
        made = summaries if records else [one.text for one in summaries]
        return made[0] if alone else made

    def read(self, dialogue: Any, counts: Counts | None = None) -> dict[str, Any]:
        """A row for `stream`. Raises ValueError for a dialogue without turns."""
        read = read_dialogue(dialogue, self.dialogue_args, counts or Counts())
        return {"dialogue": read.text, "turns": read.record()}

    def stream(
        self,
        rows: Sequence[Mapping[str, Any]],
        *,
        prompts: Sequence[Prompt] | None = None,
        journal: Path | None = None,
        progress: str | None = None,
        faults_again: bool = True,
    ) -> Iterator[Summary]:
        """Yield the summary of each row {dialogue, turns} in order, as soon as it and those before it are made.

        Every completion is in the folder `journal` before it is yielded; what the journal holds of the same prompts,
        model and decoding is not generated again, but for faults: without `faults_again` only those that may pass.
        Equal prompts are completed once. `prompts` are those of the rows, where they are made already.
        `progress` names a progress bar.

        Raises InputError for a dialogue that does not fit even when shortened.
        """
        prompts = self.prompts(rows) if prompts is None else prompts
        plans = make_plans(rows, prompts, self._tokenizer, self.settings, self._engine, self._args)
        keys, candidates = list(map(digest, prompts)), self._args.num_candidates
        distinct = {key: plan.prompt for key, plan in zip(keys, plans, strict=True) if plan.is_one_call}
        book = self._journal(journal, list(distinct), faults_again, process_index=0)
        batches = completions(
            self._engine,
            list(distinct.values()),
            adapter=self._engine.systems[-1].adapter,
            num_candidates=candidates,
            seed=self._args.seed,
            journal=book,
            at_once=_AT_ONCE.get(self._engine.name),
        )
        done: dict[int, Completion] = {} if book is None else dict(book.done)
        at = {key: number * candidates for number, key in enumerate(distinct)}
        complete = partial(self._complete, folder=journal, faults_again=faults_again)
        with tqdm(total=len(rows), desc=progress, disable=progress is None) as bar, contextlib.closing(batches):
            for row, plan, key in zip(rows, plans, keys, strict=True):
                if plan.is_one_call:
                    wanted = range(at[key], at[key] + candidates)
                    while any(number not in done for number in wanted):
                        done.update(next(batches))
                    yield self._summary(row, plan.prompt, [done[number] for number in wanted])
                else:
                    (prompt,), (drawn,) = carry_out([plan], complete, self._best)
                    yield self._summary(row, prompt, drawn)
                bar.update()

    def kept(self, prompts: Sequence[Prompt], journal: Path) -> list[tuple[Prompt, list[Completion]]]:
        """Each prompt with its completions in `journal` that `stream` without `faults_again` takes."""
        number, names = self._args.num_candidates, list(dict.fromkeys(map(digest, prompts)))
        opened = Journal(journal, self._journal_settings, names, number)
        done: dict[str, list[Completion]] = {name: [] for name in names}
        for at, completion in opened.done.items():
            done[names[at // number]].append(completion)
        return [(prompt, done[digest(prompt)]) for prompt in prompts]

    def record(self) -> dict[str, Any]:
        """Model, engine and prompt, as label.json has them."""
        system = self._engine.systems[-1]
        model = {"name": public_name(self._args.served_model_name or str(self._model_args.model_name_or_path))}
        if system.adapter:
            model["adapter"] = public_name(str(self._args.adapter_path))
        return {"model": model, "engine": self._engine.record, "prompt": self.settings.record(self._tokenizer)}

    def prompts(self, rows: Sequence[Mapping[str, Any]]) -> list[Prompt]:
        """The prompt of each row. Raises InputError for a dialogue that does not fit even when shortened."""
        return build_prompts(rows, self._tokenizer, self.settings, max_prompt_tokens(self._engine))

    def write(self, row: Mapping[str, Any], prompt: Prompt, watch: Watch, *, base: bool = False) -> Summary:
        """The summary of one row, the same as that of `stream`; with `base` that of the model without its adapter.

        `watch` is called while it is written, with the summary so far or "" where that is not known; what it raises
        ends the generation.
        """

        def read(text: str) -> None:
            watch(restore_speakers(read_answer(text).summary, prompt.names).strip())

        return self._summary(row, prompt, self._complete({"": prompt}, base=base, watch=read)[""])

    def load(self) -> None:
        """Load the weights now, where they are loaded into this process."""
        if isinstance(self._engine, TransformersEngine):
            _ = self._engine.model

    def close(self) -> None:
        """Free the memory of the weights; they are loaded anew when the next summary is made."""
        self._engine.close()

    def _summary(self, row: Mapping[str, Any], prompt: Prompt, drawn: list[Completion]) -> Summary:
        chosen = drawn[self._best(drawn)]
        text = restore_speakers(read_answer(chosen.text).summary, prompt.names).strip()
        fault = chosen.fault
        if fault is None and not text:
            fault = "thinking that did not end" if chosen.text.strip() else "an empty answer"
        dialogue, lost = row["dialogue"], Counter(prompt.lost)
        english = is_english(text, dialogue)
        found = [find(text, dialogue) if english else None for find in (unsupported_names, unsupported_numbers)]
        names, numbers = ([text[a:b] for a, b in spans] if spans is not None else None for spans in found)
        counts = chosen.prompt_tokens, chosen.completion_tokens, chosen.finish_reason
        losses = lost["dropped_turns"], lost["cut_turns"], lost["dropped_tokens"]
        return Summary(text, *counts, fault, *losses, names, numbers, **prompt.coverage)

    def _best(self, drawn: Sequence[Completion]) -> int:
        """The number of the candidate nearest to the others, among those that are whole if there are any."""
        texts = [read_answer(one.text).summary.strip() for one in drawn]
        whole = [at for at, one in enumerate(drawn) if texts[at] and not (one.fault or is_cut_off(one.finish_reason))]
        among = whole or list(range(len(texts)))
        return among[consensus([texts[at] for at in among], "default") if len(among) > 1 else 0]

    def _complete(
        self,
        prompts: Mapping[str, Prompt],
        folder: Path | None = None,
        faults_again: bool = True,
        *,
        base: bool = False,
        watch: Watch | None = None,
    ) -> dict[str, list[Completion]]:
        """The candidates of prompts, of windows for one; their journal is a file beside that of whole dialogues."""
        drawn = summarise(
            self._engine,
            list(prompts.values()),
            adapter=self._engine.systems[-1].adapter and not base,
            num_candidates=self._args.num_candidates,
            seed=self._args.seed,
            journal=self._journal(folder, list(prompts), faults_again, process_index=1),
            watch=watch,
        )
        return dict(zip(prompts, drawn, strict=True))

    def _journal(
        self, folder: Path | None, names: list[str], faults_again: bool, *, process_index: int
    ) -> Journal | None:
        """Whole dialogues are in the file of one process, windows in that of another: each sets aside its own."""
        if folder is None:
            return None
        ranks = {"process_index": process_index, "num_processes": 2}
        options = decisive_options(self._model_args, self.dialogue_args, self._args)
        number = self._args.num_candidates
        journal = Journal(folder, self._journal_settings, names, number, **ranks, options=options)
        for note in journal.notes:
            logger.warning(note)
        if faults_again:
            journal.done = {at: one for at, one in journal.done.items() if one.fault is None}
        return journal

    @cached_property
    def _journal_settings(self) -> dict[str, Any]:
        system = self._engine.systems[-1]
        return {
            "endpoint": self._args.base_url,
            **decisive_settings(self._engine, system, self._model_args, self._args),
        }


def _found(name: str) -> dict[str, Any]:
    """The options that `name` stands for."""
    if name.startswith(("http://", "https://")):
        return {"engine": "openai", "base_url": name}
    folder = Path(name).expanduser()
    if (folder / "adapter_config.json").is_file():
        return {"adapter_path": str(folder)}
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            inner = next((path for path in ("adapter", "model", "merged") if (folder / path).is_dir()), None)
            hint = f"; did you mean {folder / inner}?" if inner else ""
            raise InputError(f"{name} is no model: there is neither adapter_config.json nor config.json{hint}")
        return {"model_name_or_path": str(folder)}
    if name == EMBEDDED:
        return {"model_name_or_path": name}
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise InputError(f"no such folder: {name}")
    try:
        is_adapter = find_adapter_config_file(name) is not None
    except OSError:  # neither on the hub nor in its cache: the loading of the model says so
        is_adapter = False
    return {"adapter_path": snapshot_download(name)} if is_adapter else {"model_name_or_path": name}
