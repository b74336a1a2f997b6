"""Generation by an OpenAI-compatible endpoint: vLLM, `transformers serve`, llama.cpp, Ollama, hosted models.

The endpoint gets chat messages and applies its own chat template. The key is read from OPENAI_API_KEY and is only put
into the header of requests.
"""

import asyncio
import contextlib
import email.utils
import json
import logging
import os
import random
import time
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

from dialogsum_sft import InputError
from dialogsum_sft.data.chat_template import Message
from dialogsum_sft.data.encoding import Prompt
from dialogsum_sft.generation.engine import Completion, System

import aiohttp

logger = logging.getLogger(__name__)

_TRY_AGAIN = {408, 409, 425, 429, 500, 502, 503, 504, 529}
_LONGEST_WAIT = 600.0  # seconds, of a Retry-After too


class _TryAgain(Exception):
    """A temporary failure; `after` is the wait that the endpoint asks for, in seconds."""

    def __init__(self, reason: str, after: float | None = None) -> None:
        super().__init__(reason)
        self.after = after


class OpenAIEngine:
    """Engine of the model that an endpoint serves.

    `fields` are those of a request that decide decoding, see `request_fields`. `max_length` (tokens of a prompt and
    its summary) is None where the tokenizer is not known. Options of `generate_batches` follow.
    """

    name = "openai"

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
        self, prompts: Sequence[Prompt], *, adapter: bool, seeds: Sequence[int] | None = None
    ) -> Iterator[list[tuple[int, Completion]]]:
        chats = [prompt.messages for prompt in prompts]
        yield from generate_batches(self.base_url, self.model, chats, self.fields, seeds=seeds, **self.options)

    def close(self) -> None:
        pass


def request_fields(max_new_tokens: int, generation_kwargs: dict[str, Any]) -> dict[str, Any]:
    """The fields of a request that decide decoding, from options under their GenerationConfig names.

    Greedy (temperature 0) unless `do_sample`. Raises InputError for an option that the protocol has no field for, as
    an endpoint may silently ignore it.
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
            "and top_p, and stop_strings"
        )
    return fields


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
) -> Iterator[list[tuple[int, Completion]]]:
    """Yield (index of the conversation, its completion) in lists, as they are done.

    At most `concurrency` requests run at once, each for at most `timeout` seconds. A temporary failure (429, 5xx, a
    timeout, a broken connection, an answer that is no completion) is tried `tries` times; the first wait is
    `first_wait` seconds and doubles each time, or is what Retry-After says. After any other failure no more requests
    are sent, the running ones are awaited and yielded, and InputError says what happened.
    """
    if urlsplit(base_url).scheme not in ("http", "https") or not urlsplit(base_url).hostname:
        raise InputError(f"--base_url {base_url}: give a URL such as http://localhost:8000/v1")
    if urlsplit(base_url).username is not None or urlsplit(base_url).query:
        raise InputError("--base_url holds more than an address, which would go into the record: set OPENAI_API_KEY")
    if concurrency < 1 or timeout <= 0:
        raise InputError(f"--concurrency {concurrency}, --request_timeout {timeout}: both must be above 0")
    client = _Client(f"{base_url.rstrip('/')}/chat/completions", model, fields, timeout, tries, first_wait)
    loop = asyncio.new_event_loop()
    todo = iter(range(len(conversations)))
    running: dict[asyncio.Task[Completion], int] = {}
    failure: InputError | None = None
    try:
        while True:
            while failure is None and len(running) < concurrency and (i := next(todo, None)) is not None:
                call = client.complete(conversations[i], None if seeds is None else seeds[i])
                running[loop.create_task(call)] = i
            if not running:
                break
            finished, _ = loop.run_until_complete(asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED))
            batch = []
            for task in finished:
                i = running.pop(task)
                error = task.exception()
                if error is None:
                    batch.append((i, task.result()))
                elif isinstance(error, InputError):
                    failure = failure or error
                    client.given_up.set()
                else:
                    raise error
            if batch:
                yield sorted(batch, key=lambda item: item[0])
        if failure is not None:
            raise failure
    finally:
        for task in running:
            task.cancel()
        if running:
            loop.run_until_complete(asyncio.wait(running))
        loop.run_until_complete(client.close())
        loop.close()


class _Client:
    def __init__(
        self, url: str, model: str, fields: dict[str, Any], timeout: float, tries: int, first_wait: float
    ) -> None:
        self.url, self.model, self.fields = url, model, fields
        self.timeout, self.tries, self.first_wait = timeout, tries, first_wait
        self.key = os.environ.get("OPENAI_API_KEY", "").strip()
        self.session: aiohttp.ClientSession | None = None
        self.answered = False  # whether the endpoint has answered any request
        self.given_up = asyncio.Event()  # set when another request failed finally, so that this one is not tried again

    async def close(self) -> None:
        if self.session is not None:
            await self.session.close()

    async def complete(self, messages: list[Message], seed: int | None) -> Completion:
        wait = self.first_wait
        for left in reversed(range(self.tries)):
            try:
                return await self._ask(messages, seed)
            except _TryAgain as error:
                if not left or self.given_up.is_set():
                    raise InputError(
                        f"{self.url}: {error} ({self.tries - left} of {self.tries} tries). The summaries so far "
                        "are kept: run it again to continue"
                    ) from error
                # Spread, so that requests refused together do not come again together.
                delay = error.after if error.after is not None else wait * random.uniform(0.5, 1.0)
                logger.warning("%s: again in %.1f s", error, delay)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.given_up.wait(), delay)
                wait = min(2 * wait, _LONGEST_WAIT)
        raise AssertionError("the last try returns or raises")

    async def _ask(self, messages: list[Message], seed: int | None) -> Completion:
        if self.session is None:
            self.session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=self.timeout),
                headers={"Authorization": f"Bearer {self.key}"} if self.key else {},
                trust_env=True,  # the proxies of the environment
            )
        body = {"model": self.model, "messages": messages, **self.fields} | ({} if seed is None else {"seed": seed})
        try:
            async with self.session.post(self.url, json=body, allow_redirects=False) as response:
                status, headers, text = response.status, response.headers, await response.text(errors="replace")
        except TimeoutError as error:
            raise _TryAgain(f"no answer within {self.timeout:g} s (--request_timeout)") from error
        except (aiohttp.ClientError, OSError) as error:
            reason = f"no connection: {self._hidden(str(error)) or type(error).__name__}"
            if not self.answered and isinstance(error, aiohttp.ClientConnectorError):
                raise InputError(f"{self.url}: {reason}. Is the server running there?") from error
            raise _TryAgain(reason) from error
        self.answered = True
        if status in _TRY_AGAIN:
            raise _TryAgain(f"HTTP {status}: {self._message(text)}", _seconds(headers.get("Retry-After")))
        if status == 400 and "max_completion_tokens" in text and "max_tokens" in self.fields:
            # Recent hosted models accept the limit under this name only.
            self.fields = {"max_completion_tokens": self.fields["max_tokens"]} | self.fields
            del self.fields["max_tokens"]
        if status == 400 and "max_completion_tokens" in text and "max_tokens" in body:
            return await self._ask(messages, seed)
        if status != 200:
            hint = {
                401: ". Set OPENAI_API_KEY",
                403: ". Set OPENAI_API_KEY",
                404: f". Is there a model {self.model} (--served_model_name), and does --base_url end in /v1?",
            }.get(status, "")
            raise InputError(f"{self.url}: HTTP {status}: {self._message(text)}{hint}")
        return _completion(text)

    def _message(self, text: str) -> str:
        """The message of an error answer, of any known shape, in one short line without the key."""
        try:
            record = json.loads(text)
        except ValueError:
            record = text
        for name in ("error", "message", "detail"):
            if isinstance(record, dict):
                record = record.get(name, record)
        return self._hidden(" ".join(str(record).split())[:300]) or "no message"

    def _hidden(self, text: str) -> str:
        return text.replace(self.key, "***") if self.key else text


def _completion(text: str) -> Completion:
    try:
        record = json.loads(text)
        choice = record["choices"][0]
        summary = choice["message"]["content"] or ""
        usage = record.get("usage") or {}
        return Completion(
            text=summary.strip(),
            prompt_tokens=usage.get("prompt_tokens"),
            completion_tokens=usage.get("completion_tokens"),
            finish_reason="length" if choice.get("finish_reason") == "length" else "stop",
        )
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise _TryAgain(f"the answer is no chat completion: {' '.join(text.split())[:120]!r}") from error


def _seconds(retry_after: str | None) -> float | None:
    """Retry-After is seconds or a date (RFC 9110, 10.2.3)."""
    if not retry_after:
        return None
    try:
        seconds = float(retry_after)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time()
        except ValueError:
            return None
    return min(max(seconds, 0.0), _LONGEST_WAIT)
