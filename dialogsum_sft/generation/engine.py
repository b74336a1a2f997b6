"""What all engines share: the protocol, completions, the systems they evaluate, the decoding options."""

import bisect
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from dialogsum_sft import InputError
from dialogsum_sft.data.answers import decode_answer
from dialogsum_sft.data.encoding import Prompt

from transformers import GenerationConfig, PreTrainedTokenizerBase

# Called again and again while a completion is made, with its text so far; what it raises ends the generation.
Watch = Callable[[str], None]


@dataclass
class Completion:
    """A generated summary; `completion_tokens` includes its stop token, `finish_reason` is "stop" or "length".

    Of an endpoint the reason is its own word, such as "MAX_TOKENS" or "content_filter", or "error"; it and the token
    counts are None where the endpoint does not report them. `fault` says why it gave no summary.
    """

    text: str
    prompt_tokens: int | None
    completion_tokens: int | None
    finish_reason: str | None
    fault: str | None = None

    @property
    def may_pass(self) -> bool:
        """Whether the fault is of a kind that passes, such as a timeout, so that it is worth another run."""
        return bool(re.match(r"error: |[^:]* at each try: ", self.fault or "")) and not self.is_filtered

    @property
    def is_filtered(self) -> bool:
        return self.finish_reason == "content_filter"


@dataclass(frozen=True)
class System:
    """What is evaluated: a model without or with its adapter.

    `name` is that of its folder (eval-NAME), `label` stands in tables. `weights` is the folder or hub id whose model
    card takes the scores, or None where no card does.
    """

    name: str
    label: str
    adapter: bool = False
    weights: Path | None = None


class Engine(Protocol):
    """Generates summaries. It owns the decoding options and the limits of the model, and the devices.

    `systems` are what it can evaluate. `record` is stored in metrics.json. `samples` is whether completions depend on
    seeds. `close` frees what `complete` has loaded.
    """

    name: str
    systems: list[System]
    record: dict[str, Any]
    samples: bool
    max_new_tokens: int

    @property
    def max_length(self) -> int | None:
        """How many tokens a prompt and its summary may have together; None where it is not known."""

    def complete(
        self,
        prompts: Sequence[Prompt],
        *,
        adapter: bool,
        seeds: Sequence[int] | None = None,
        watch: Watch | None = None,
    ) -> Iterator[list[tuple[int, Completion]]]:
        """Yield batches of (index of the prompt, completion) as they are done, in any order, each prompt once.

        `seeds`, one for each prompt, decide what is sampled. `watch` gets the text of a single prompt, where it is
        written from left to right, and else an empty one; vLLM's offline engine does not call it. Raises InputError
        for a prompt that cannot be completed.
        """

    def close(self) -> None: ...


def max_prompt_tokens(engine: Engine) -> int | None:
    """How many tokens a prompt may have so that the longest summary still fits; None where no limit is known."""
    return None if engine.max_length is None else engine.max_length - engine.max_new_tokens


def generation_config(
    tokenizer: PreTrainedTokenizerBase, stop_ids: frozenset[int], max_new_tokens: int, **kwargs: Any
) -> GenerationConfig:
    """Greedy decoding unless `kwargs` (any GenerationConfig options) say otherwise.

    Only the stop tokens are taken from the model's own generation config: chat models ship temperatures and repetition
    penalties that would silently change a greedy score. Sampling is from the whole distribution unless `kwargs` cut it
    (transformers' default is the 50 likeliest tokens). Raises InputError for an unknown option.
    """
    unknown = [name for name in kwargs if name.startswith("_") or name not in vars(GenerationConfig())]
    if unknown:
        raise InputError(f"--generation_kwargs: GenerationConfig has no option {', '.join(unknown)}")
    options = {
        "max_new_tokens": max_new_tokens,
        "do_sample": False,
        "num_beams": 1,
        "repetition_penalty": 1.0,
        "use_cache": True,
        "eos_token_id": sorted(stop_ids),
        "pad_token_id": tokenizer.pad_token_id,
    }
    if kwargs.get("do_sample"):
        options |= {"temperature": 1.0, "top_k": 0, "top_p": 1.0}
    try:
        config = GenerationConfig(**(options | kwargs))
        config.validate(strict=True)  # an option without effect is an error too
    except (ValueError, TypeError) as error:
        faults = re.findall(r"^- (.*)", str(error), flags=re.M) or [str(error)]
        raise InputError(f"generation options: {' '.join(' '.join(faults).split())[:300]}") from error
    if isinstance(config.eos_token_id, int):
        config.eos_token_id = [config.eos_token_id]
    if not config.eos_token_id:
        raise InputError("--generation_kwargs eos_token_id: a summary needs an end: leave it out")
    return config


def to_completion(
    tokenizer: PreTrainedTokenizerBase, prompt: Sequence[int], ids: list[int], config: GenerationConfig
) -> Completion:
    """The completion of generated token ids, which end with a stop token or string, or at max_new_tokens.

    A stop string is no part of the text.
    """
    end = next((at for at, token in enumerate(ids) if token in config.eos_token_id), None)

    def decoded(number: int) -> str:
        return decode_answer(tokenizer, prompt, ids[:number])

    text, tokens = decoded(len(ids) if end is None else end), len(ids) if end is None else end + 1
    stops = [config.stop_strings] if isinstance(config.stop_strings, str) else config.stop_strings or []
    cuts = [text.index(stop) for stop in stops if stop in text]
    if cuts:  # padding may follow
        numbers = range(len(ids))
        tokens = bisect.bisect_left(numbers, True, key=lambda number: any(stop in decoded(number) for stop in stops))
    return Completion(
        text=text[: min(cuts, default=None)].strip(),
        prompt_tokens=len(prompt),
        completion_tokens=tokens,
        finish_reason="length" if end is None and not cuts else "stop",
    )
