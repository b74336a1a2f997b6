"""Generation by an OpenAI-compatible endpoint: vLLM, `transformers serve`, llama.cpp, Ollama, hosted models.

The endpoint gets chat messages and applies its own chat template.
"""

import asyncio
import re
from collections.abc import Iterator, Sequence
from typing import Any

from dialogsum_sft import InputError
from dialogsum_sft.data.chat_template import Message
from dialogsum_sft.data.encoding import Prompt
from dialogsum_sft.generation.engine import Completion, System, Watch
from dialogsum_sft.generation.openai_client import KEPT, Client, Refused

# How many dialogues may fail before any is summarised: filters let others pass.
_FAILED_AT_FIRST, _FILTERED_AT_FIRST = 3, 8
# How many may fail later, one after the other, before a server is taken to be gone.
_FAILED_LATER = 4


class OpenAIEngine:
    """Engine of the model that an endpoint serves.

    `fields` are those of a request that decide decoding, see `request_fields`. `max_length` (tokens of a prompt and
    its summary) is None where the tokenizer is not known. Options of `generate_batches` follow. The record has the
    fields that the endpoint refused, as soon as it has refused any. `has_succeeded` is set where summaries are there
    from an earlier run or call, so that the missing ones may all fail.
    """

    name = "openai"
    has_succeeded = False

    def __init__(
        self,
        base_url: str,
        model: str,
        fields: dict[str, Any],
        *,
        samples: bool,
        max_new_tokens: int,
        max_length: int | None = None,
        systems: Sequence[System] = (),
        **options: Any,
    ) -> None:
        self.base_url, self.model, self.fields, self.options = base_url, model, fields, options
        self.samples, self.max_new_tokens, self.max_length = samples, max_new_tokens, max_length
        self.systems = list(systems)
        self.record: dict[str, Any] = {"name": self.name, "base_url": base_url, "generation": fields}

    def complete(
        self,
        prompts: Sequence[Prompt],
        *,
        adapter: bool,
        seeds: Sequence[int] | None = None,
        watch: Watch | None = None,
    ) -> Iterator[list[tuple[int, Completion]]]:
        chats = [prompt.messages for prompt in prompts]
        refused: dict[str, str] = {}
        options = self.options | {"seeds": seeds, "refused": refused, "has_succeeded": self.has_succeeded}
        options["watch"] = watch
        for batch in generate_batches(self.base_url, self.model, chats, self.fields, **options):
            if refused:
                self.record["refused_fields"] = refused
            self.has_succeeded |= any(completion.fault is None for _, completion in batch)
            yield batch

    def close(self) -> None:
        pass


def request_fields(
    max_new_tokens: int, generation_kwargs: dict[str, Any], extra_body: dict[str, Any] | None = None
) -> dict[str, Any]:
    """The fields of a request that decide decoding, from options under their GenerationConfig names.

    Greedy (temperature 0) unless `do_sample`. `extra_body` are further fields, which replace these; null leaves one
    out. Raises InputError for an option that the protocol has no field for, as an endpoint may silently ignore it.
    """
    kwargs = dict(generation_kwargs)
    fields: dict[str, Any] = {"max_tokens": max_new_tokens}
    if kwargs.pop("do_sample", False):
        fields |= {"temperature": kwargs.pop("temperature", 1.0), "top_p": kwargs.pop("top_p", 1.0)}
    else:
        fields["temperature"] = 0.0
    if stop := kwargs.pop("stop_strings", None):
        fields["stop"] = stop
    if kwargs.get("num_beams") == 1:
        del kwargs["num_beams"]
    if kwargs:
        raise InputError(
            f"--generation_kwargs: --engine openai has no {', '.join(kwargs)}; it has do_sample, with it temperature "
            "and top_p, and stop_strings. Fields of the endpoint's own: --extra_body"
        )
    extra = dict(extra_body or {})
    instead = {
        "model": "--served_model_name",
        "messages": "--instruction and --system_prompt",
        "n": "--num_candidates",
    }
    instead |= {"stream": "nothing: whole answers are read", "seed": "--seed"}
    for name in extra:
        if name in instead and extra[name] not in ((1,) if name == "n" else (None, False)):
            raise InputError(f"--extra_body {name}: give {instead[name]}")
        if re.search(r"key|secret|password|authorization", name, re.I):
            raise InputError(f"--extra_body {name} would go into the record: set OPENAI_API_KEY")
    if "max_completion_tokens" in extra:
        del fields["max_tokens"]
    return {name: value for name, value in (fields | extra).items() if value is not None}


def generate_batches(
    base_url: str,
    model: str,
    conversations: Sequence[list[Message]],
    fields: dict[str, Any],
    *,
    seeds: Sequence[int] | None = None,
    concurrency: int = 8,
    timeout: float = 120.0,
    tries: int = 6,
    first_wait: float = 1.0,
    refused: dict[str, str] | None = None,
    has_succeeded: bool = False,
    watch: Watch | None = None,
) -> Iterator[list[tuple[int, Completion]]]:
    """Yield (index of the conversation, its completion) in lists, as they are done.

    At most `concurrency` requests run at once, each for at most `timeout` seconds; one at a time until the first has
    succeeded. A temporary failure (429, 5xx, a timeout, a broken connection, an answer that is no completion) is tried
    `tries` times; the first wait is `first_wait` seconds and doubles each time, or is what Retry-After says.

    A dialogue that the endpoint refuses (400, a filter, too long) or fails at in all tries has a completion without
    text, with its `fault`; others, short and long ones, are then tried. After any other failure, or where these fail
    too, no more requests are sent, the running ones are awaited and yielded, and InputError says what happened: before
    the first success (unless `has_succeeded`, at an earlier time) after three dialogues, or eight with filters; later
    after four that failed, not refused, one after the other.

    `watch` is called several times a second with the text so far, for which the answer of a single conversation is
    asked for as a stream. What it raises closes the connections.

    Fields of the request that the endpoint does not know are left out from then on, and put into `refused` with what
    it said.
    """
    if concurrency < 1 or timeout <= 0:
        raise InputError(f"--concurrency {concurrency}, --request_timeout {timeout}: both must be above 0")
    read = watch if len(conversations) == 1 else None
    client = Client(base_url, model, fields, timeout, tries, first_wait, read)
    client.refused = client.refused if refused is None else refused
    loop = asyncio.new_event_loop()
    todo = list(range(len(conversations)))[::-1]
    running: dict[asyncio.Task[Completion], tuple[int, bool]] = {}  # and whether it was sent after a failure
    batch: list[tuple[int, Completion]] = []
    since: list[Refused] = []  # failures since a dialogue succeeded
    put_off: list[int] = []
    failure: InputError | None = None
    try:
        while True:
            at_once = concurrency if client.succeeded else 1
            known = has_succeeded or client.succeeded
            while failure is None and len(running) < at_once and todo:
                if since:
                    todo.append(todo.pop(_next(todo, conversations, len(since))))
                i = todo.pop()
                seed = None if seeds is None else seeds[i]
                call = client.complete(conversations[i], seed, 1 if since and not known else None)
                running[loop.create_task(call)] = i, bool(since)
            if not running:
                break
            wait = asyncio.wait(running, timeout=None if watch is None else 0.2, return_when=asyncio.FIRST_COMPLETED)
            finished, _ = loop.run_until_complete(wait)
            if watch is not None:
                watch("")
            for task in finished:
                i, after_failure = running.pop(task)
                error = task.exception()
                if error is None:
                    batch.append((i, task.result()))
                    since = []
                    todo[:0], put_off = put_off, []
                elif isinstance(error, Refused):
                    may_pass = error.completion.may_pass
                    if may_pass and after_failure and not known:  # it was tried once only
                        put_off.append(i)
                    else:
                        batch.append((i, error.completion))
                    if not known or (may_pass and (after_failure or not since)):
                        since.append(error)
                        failure = failure or _failure(since, len(conversations), known)
                elif isinstance(error, InputError):
                    failure = failure or error
                else:
                    raise error
                if failure is not None:
                    client.given_up.set()
            if batch and (has_succeeded or client.succeeded):  # else they wait for what becomes of the next
                yield sorted(batch, key=lambda item: item[0])
                batch = []
        if failure is not None:
            raise failure
    finally:
        for task in running:
            task.cancel()
        if running:
            loop.run_until_complete(asyncio.wait(running))
        loop.run_until_complete(client.close())
        loop.close()


def _next(todo: list[int], conversations: Sequence[list[Message]], failed: int) -> int:
    """Where in `todo` to go on after failures: at the shortest, then at others spread over the set."""
    if failed == 1:
        return todo.index(min(todo, key=lambda i: sum(len(message["content"]) for message in conversations[i])))
    return int(len(todo) * (0.5, 0.0, 0.25, 0.75, 0.125)[(failed - 2) % 5])


def _failure(since: list[Refused], total: int, known: bool) -> InputError | None:
    """What ends a run after these failures without a success, if anything does; `known`: the endpoint has worked."""
    filtered = any(error.completion.is_filtered for error in since)
    limit = _FAILED_LATER if known else _FILTERED_AT_FIRST if filtered else _FAILED_AT_FIRST
    if len(since) < (limit if known else min(limit, total)):
        return None
    text = str(since[0]).rstrip(".").removesuffix(f". {KEPT}")
    text += "" if text.endswith("?") else "."
    text += f" The same for the {'last' if known else 'first'} {len(since)} dialogues"
    if filtered:
        text += (
            ", short and long. Leave such dialogues out of the dataset, or give an endpoint (--base_url) or a model"
        )
        text += " whose filter lets them pass"
    return InputError(f"{text}. {KEPT}" if known else text)
