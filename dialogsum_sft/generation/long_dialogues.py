"""Dialogues that are longer than a prompt: in windows of whole turns, whose summaries are summarised (`map_reduce`) or
carried along (`refine`), or shortened as in training."""

import functools
import hashlib
import json
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dialogsum_sft import InputError
from dialogsum_sft.arguments import GenerationArguments
from dialogsum_sft.data.answers import read_answer
from dialogsum_sft.data.chat_template import Message, count_tokens, render_batch
from dialogsum_sft.data.dialogue import Dialogue, Renamed, Turn, rename_speakers
from dialogsum_sft.data.encoding import Prompt, shorten_to_fit
from dialogsum_sft.data.examples import fields_of
from dialogsum_sft.data.prompts import PromptSettings
from dialogsum_sft.data.transcripts import dialogue_of
from dialogsum_sft.data.windows import windows
from dialogsum_sft.generation.engine import Completion, Engine, max_prompt_tokens

from transformers import PreTrainedTokenizerBase

SO_FAR = "[Summary of the turns before] "  # stands before the running summary of `refine`
_MARGIN = 16  # tokens of a prompt beside two summaries

Steps = Generator[list[Prompt], list[str], None]


@dataclass
class Coverage:
    """How much of a dialogue is in windows whose summaries went into the last one.

    `pieces` are (turn, tokens) of each piece; `seen` are numbers of pieces. `dropped_tokens` were cut off summaries
    that did not fit into the next prompt.
    """

    pieces: Sequence[tuple[int, int]]
    windows: int
    seen: set[int] = field(default_factory=set)
    dropped_tokens: int = 0

    def record(self, calls: int) -> dict[str, Any]:
        """Number of windows, of calls of the model, and the shares of turns and tokens that were seen, 0 to 1."""
        turns = {turn for turn, _ in self.pieces}
        unseen = {turn for number, (turn, _) in enumerate(self.pieces) if number not in self.seen}
        sizes = [size for _, size in self.pieces]
        tokens_seen = sum(size for number, size in enumerate(sizes) if number in self.seen)
        shares = {"turns_seen": 1 - len(unseen) / len(turns), "tokens_seen": tokens_seen / sum(sizes)}
        return {"windows": self.windows, "calls": calls} | shares


class Plan:
    """A dialogue on its way to its summary: what the model makes of the prompts `asked` decides what is asked next.

    When nothing is asked any more, `drawn` are the candidates of the last call, and `prompt` is its prompt with the
    coverage. A fault of any call ends the plan with that call; then nothing counts as seen.
    """

    def __init__(self, steps: Steps, coverage: Coverage | None = None) -> None:
        self._steps, self._coverage, self._calls = steps, coverage, 0
        self.is_one_call = coverage is None
        self.asked = next(steps)
        self.prompt = self.asked[-1]
        self.drawn: list[Completion] = []

    @property
    def only_prompt(self) -> Prompt:
        """The prompt of the only call; an empty one where there are several."""
        return self.prompt if self.is_one_call else Prompt("", [])

    def take(self, drawn: Sequence[list[Completion]], choose: Callable[[list[Completion]], int]) -> None:
        """Go on with the candidates of each prompt in `asked`; `choose` returns the number of the best."""
        self._calls += len(self.asked)
        chosen = [several[choose(several)] for several in drawn]
        failed = next((number for number, one in enumerate(chosen) if one.fault is not None), None)
        at = -1 if failed is None else failed
        self.prompt, self.drawn, self.asked = self.asked[at], drawn[at], []
        if failed is None:
            self.asked = next_prompts(self._steps, [read_answer(one.text).summary.strip() for one in chosen])
        if self._coverage is None or self.asked:
            return
        if failed is not None:
            self._coverage.seen = set()
        self.prompt.coverage = self._coverage.record(self._calls)
        if self._coverage.dropped_tokens:
            self.prompt.lost = {"dropped_tokens": self._coverage.dropped_tokens}


def next_prompts(steps: Steps, summaries: list[str]) -> list[Prompt]:
    try:
        return steps.send(summaries)
    except StopIteration:
        return []


def make_plans(
    rows: Sequence[Mapping[str, Any]],
    prompts: Sequence[Prompt],
    tokenizer: PreTrainedTokenizerBase | None,
    settings: PromptSettings,
    engine: Engine,
    args: GenerationArguments,
) -> list[Plan]:
    """How the dialogue of each row is summarised; `prompts` are those of `build_prompts`.

    A dialogue that fits into a prompt is summarised in one call, and with `--long shorten` every one is.
    Raises InputError where a prompt has no room for two summaries, or a window none for a word.
    """
    found = []
    for number, (row, prompt) in enumerate(zip(rows, prompts, strict=True), 1):
        if args.long == "shorten" or not prompt.lost or tokenizer is None:
            found.append(Plan(one_call(prompt)))
            continue
        try:
            long = LongDialogue(row, tokenizer, settings, engine, args)
        except InputError as error:
            raise InputError(f"dialogue {number}, --long {args.long}: {error}") from error
        found.append(Plan(long.refine() if args.long == "refine" else long.map_reduce(), long.coverage))
    return found


def one_call(prompt: Prompt) -> Steps:
    yield [prompt]


def carry_out(
    plans: Sequence[Plan],
    complete: Callable[[dict[str, Prompt]], Mapping[str, list[Completion]]],
    choose: Callable[[list[Completion]], int],
    names: Sequence[str] | None = None,
) -> tuple[list[Prompt], list[list[Completion]]]:
    """The last prompt of each dialogue, and the candidates for its summary.

    `complete` gets what all dialogues ask at a time as {key: prompt}. A key is a digest of the prompt, so that equal
    prompts are completed once, or the name of a dialogue that is summarised in one call, where `names` are given.
    """

    def key(number: int, prompt: Prompt) -> str:
        return names[number] if names is not None and plans[number].is_one_call else digest(prompt)

    while asked := {key(number, prompt): prompt for number, plan in enumerate(plans) for prompt in plan.asked}:
        drawn = complete(asked)
        for number, plan in enumerate(plans):
            if plan.asked:
                plan.take([drawn[key(number, prompt)] for prompt in plan.asked], choose)
    return [plan.prompt for plan in plans], [plan.drawn for plan in plans]


def digest(prompt: Prompt) -> str:
    text = json.dumps([prompt.ids, prompt.messages], ensure_ascii=False)
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()[:24]


class LongDialogue:
    """A dialogue in windows. Its speakers are renamed as a whole, so that a name has the same tag in all windows."""

    def __init__(
        self,
        row: Mapping[str, Any],
        tokenizer: PreTrainedTokenizerBase,
        settings: PromptSettings,
        engine: Engine,
        args: GenerationArguments,
    ) -> None:
        dialogue = dialogue_of(row)
        renamed = rename_speakers(dialogue) if settings.rename_speakers else Renamed(dialogue, None, {})
        self._names, self._fields, self._settings, self._tokenizer = renamed.names, fields_of(row), settings, tokenizer
        self._count = functools.partial(count_tokens, tokenizer)
        self._limit = max_prompt_tokens(engine) or 0
        longest = engine.max_new_tokens
        if self._limit - self._lengths([""])[0] < 2 * longest + _MARGIN:
            raise InputError(
                f"two summaries of --max_new_tokens {longest} do not fit into a prompt of {self._limit} tokens: give "
                "a greater --max_length or a smaller --max_new_tokens"
            )
        reserved = longest + self._count([f"{SO_FAR}\n"])[0] if args.long == "refine" else 0
        self._windows = windows(
            renamed.dialogue, self._limit - reserved, self._lengths, self._count, args.long_overlap
        )
        pieces: dict[int, tuple[int, int]] = {}
        for window in self._windows:
            sizes = self._count([turn.raw for turn in window.dialogue.turns])
            pieces |= dict(zip(window.pieces, zip(window.turns, sizes, strict=True), strict=True))
        self.coverage = Coverage(list(pieces.values()), len(self._windows))

    def map_reduce(self) -> Steps:
        """The summaries of the windows are summarised; in windows again as long as they do not fit into a prompt."""
        found, parts = self._windows, [set(window.pieces) for window in self._windows]
        while True:
            summaries = yield self._prompts([window.dialogue.text for window in found])
            kept = [number for number, summary in enumerate(summaries) if summary]
            self.coverage.seen = set().union(*(parts[number] for number in kept))
            if not kept:
                return
            together = Dialogue.of([Turn(None, f"{summaries[number]}\n") for number in kept])
            if self._lengths([together.text])[0] <= self._limit:
                break
            found = windows(together, self._limit, self._lengths, self._count, 0)
            if len(found) >= len(kept):
                break
            parts = [set().union(*(parts[kept[number]] for number in window.turns)) for window in found]
        yield [self._fitting(together, "")]

    def refine(self) -> Steps:
        """Each window is summarised after the summary of those before."""
        summary = ""
        for window in self._windows:
            text = window.dialogue.text
            prompt = (
                self._fitting(Dialogue((Turn(None, summary),)), f"\n{text}") if summary else self._prompts([text])[0]
            )
            (made,) = yield [prompt]
            if made:
                summary = made
                self.coverage.seen |= set(window.pieces)

    def _fitting(self, summaries: Dialogue, window: str) -> Prompt:
        """The prompt with summaries, and the window after them; the summaries are shortened where they must be."""

        def text_of(text: str) -> str:
            return f"{SO_FAR}{text}{window}" if window else text

        (prompt,) = self._prompts([text_of(summaries.text)])
        if len(prompt.ids) <= self._limit:
            return prompt

        def length_of(text: str) -> int:
            return self._lengths([text_of(text)])[0]

        fitted = shorten_to_fit(self._tokenizer, summaries, length_of, self._limit)
        if fitted is None:
            raise InputError(f"the summary of the windows before does not fit: {summaries.text[:80]!r}")
        self.coverage.dropped_tokens += fitted.dropped_tokens
        return self._prompts([text_of(fitted.dialogue.text)])[0]

    def _chats(self, texts: Sequence[str]) -> list[list[Message]]:
        return [self._settings.messages(text, fields=self._fields)["prompt"] for text in texts]

    def _prompts(self, texts: Sequence[str]) -> list[Prompt]:
        chats = self._chats(texts)
        kwargs = self._settings.template_kwargs
        ids = render_batch(self._tokenizer, chats, template_kwargs=kwargs, add_generation_prompt=True)
        return [Prompt(*of_text, names=self._names) for of_text in zip(texts, chats, ids, strict=True)]

    def _lengths(self, texts: Sequence[str]) -> list[int]:
        return [len(prompt.ids) for prompt in self._prompts(texts)]


def coverage_record(args: GenerationArguments, prompts: Sequence[Prompt]) -> dict[str, Any]:
    """How an evaluation treats long dialogues: their number, windows and calls in all; the shares of turns and tokens
    that were seen are means over all dialogues."""
    long = [prompt.coverage for prompt in prompts if prompt.coverage]
    own = {} if args.long == "shorten" else {"overlap": args.long_overlap}
    totals = {name: sum(one[name] for one in long) for name in ("windows", "calls")}
    shares = {
        name: 1 - sum(1 - one[name] for one in long) / len(prompts) if prompts else None
        for name in ("turns_seen", "tokens_seen")
    }
    return {"way": args.long, **own, "dialogues": len(long), **totals, **shares}


def coverage_line(record: Mapping[str, Any]) -> str:
    return (
        f"{record['dialogues']} dialogues are longer than a prompt (--long {record['way']}): {record['windows']} "
        f"windows, {record['calls']} calls; over all dialogues {record['turns_seen']:.1%} of the turns and "
        f"{record['tokens_seen']:.1%} of the tokens were seen"
    )
