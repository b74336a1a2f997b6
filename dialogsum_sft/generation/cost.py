"""What requests to a model cost in tokens: estimated before, measured after."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from dialogsum_sft import InputError
from dialogsum_sft.data.encoding import Prompt
from dialogsum_sft.generation.engine import Completion

# Of UTF-8 a token: four letters of English, two of Cyrillic, one or two characters of Chinese.
_BYTES_PER_TOKEN = 4
Kept = Sequence[tuple[Prompt, list[Completion]]]  # of each dialogue: its prompt, the completions that are there


@dataclass(frozen=True)
class Cost:
    """Tokens of requests. Before they are made `completion_tokens` is their limit; `uncounted` is the number of
    requests whose tokens the endpoint did not report."""

    requests: int
    prompt_tokens: int
    completion_tokens: int
    from_characters: bool = False
    uncounted: int = 0

    def record(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if name != "from_characters"}

    def before(self, answers: str) -> str:
        """What an estimate says; `answers` is what the model writes, such as summaries."""
        how = "estimated from their characters" if self.from_characters else "counted"
        return (
            f"{self.requests:,} requests: {self.prompt_tokens:,} tokens of prompts ({how}) and at most "
            f"{self.completion_tokens:,} of {answers}"
        )

    def after(self) -> str:
        unknown = f" ({self.uncounted:,} requests without a count)" if self.uncounted else ""
        return f"{self.requests:,} requests: {self.prompt_tokens:,} + {self.completion_tokens:,} tokens{unknown}"


def estimated(kept: Kept, num_candidates: int, max_new_tokens: int, max_requests: int | None) -> tuple[int, Cost]:
    """How many of the dialogues, from the first, `max_requests` allow for, and the most that they cost.

    The tokens of prompts are exact where there is a tokenizer. Raises InputError where not even one dialogue fits.
    """
    if max_requests is not None and max_requests < num_candidates:
        raise InputError(f"--max_requests {max_requests}: a dialogue takes {num_candidates} (--num_candidates)")
    number, requests, prompt_tokens = 0, 0, 0
    for prompt, done in kept:
        missing = num_candidates - len(done)
        if max_requests is not None and requests + missing > max_requests:
            break
        number, requests = number + 1, requests + missing
        prompt_tokens += missing * _tokens(prompt)
    from_characters = any(not prompt.ids for prompt, _ in kept)
    return number, Cost(requests, prompt_tokens, requests * max_new_tokens, from_characters)


def _tokens(prompt: Prompt) -> int:
    if prompt.ids:
        return len(prompt.ids)
    size = sum(len(message["content"].encode(errors="replace")) for message in prompt.messages)
    return size // _BYTES_PER_TOKEN + 4 * len(prompt.messages)


def measured(completions: Iterable[Completion]) -> Cost:
    """What these completions cost by the engine's own counts."""
    made = list(completions)
    known = [one for one in made if one.prompt_tokens is not None and one.completion_tokens is not None]
    return Cost(
        requests=len(made),
        prompt_tokens=sum(one.prompt_tokens or 0 for one in made),
        completion_tokens=sum(one.completion_tokens or 0 for one in made),
        uncounted=len(made) - len(known),
    )


def new_completions(before: Kept, after: Kept) -> list[Completion]:
    """The completions in `after` that were not there `before`, for the same dialogues."""
    made = []
    for (_, old), (_, new) in zip(before, after, strict=True):
        rest = list(new)
        for one in old:
            rest.remove(one)
        made += rest
    return made
