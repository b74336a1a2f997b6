"""What all engines share: the protocol, completions, the systems they evaluate, the decoding options."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from dialogsum_sft import InputError
from dialogsum_sft.data.answers import decode_answer
from dialogsum_sft.data.encoding import Prompt

from transformers import GenerationConfig, PreTrainedTokenizerBase


@dataclass
class Completion:
    """A generated summary; `completion_tokens` includes its stop token, `finish_reason` is "stop" or "length".

    The token counts are None where an endpoint does not report them.
    """

    text: str
    prompt_tokens: int | None
    completion_tokens: int | None
    finish_reason: str


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
        self, prompts: Sequence[Prompt], *, adapter: bool, seeds: Sequence[int] | None = None
    ) -> Iterator[list[tuple[int, Completion]]]:
        """Yield batches of (index of the prompt, completion) as they are done, in any order, each prompt once.

        `seeds`, one for each prompt, decide what is sampled. Raises InputError for a prompt that cannot be completed.
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
    unknown = [name for name in kwargs if not hasattr(GenerationConfig(), name)]
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
        config.validate()
    except (ValueError, TypeError) as error:
        raise InputError(f"generation options: {error}") from error
    return config


def to_completion(
    tokenizer: PreTrainedTokenizerBase, prompt: Sequence[int], ids: list[int], config: GenerationConfig
) -> Completion:
    """The completion of generated token ids, which end with a stop token or at max_new_tokens."""
    end = next((at for at, token in enumerate(ids) if token in config.eos_token_id), None)
    return Completion(
        text=decode_answer(tokenizer, prompt, ids[:end]),
        prompt_tokens=len(prompt),
        completion_tokens=len(ids) if end is None else end + 1,
        finish_reason="length" if end is None else "stop",
    )
