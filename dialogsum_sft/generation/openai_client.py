"""Requests to an OpenAI-compatible endpoint: one at a time, tried again where that helps, without refused fields.

The key is read from OPENAI_API_KEY and is only put into the header of requests.
"""

import asyncio
import contextlib
import email.utils
import logging
import os
import random
import re
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qsl, urlsplit, urlunsplit

from dialogsum_sft import InputError
from dialogsum_sft.data.chat_template import Message
from dialogsum_sft.generation.engine import Completion, Watch
from dialogsum_sft.generation.openai_answers import Fault, error_answer, read_completion, refused_fields

import aiohttp

logger = logging.getLogger(__name__)

_TRY_AGAIN = {408, 409, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529}
_OF_ONE_DIALOGUE = {400, 413, 422, 451}
_LONGEST_WAIT = 600.0  # seconds; an endpoint that asks for more is not waited for
_CONNECT = 4.0  # seconds until a connection must stand
_TRIES_OF_A_FAULT = 3  # of an answer with status 200 that is no completion
_SECRET = re.compile(r"key|token|secret|sig|pass|auth|cred|code", re.I)


class Refused(Exception):
    """The endpoint refuses or fails at one dialogue; `completion` is without text, and says why."""

    def __init__(self, message: str, completion: Completion) -> None:
        super().__init__(message)
        self.completion = completion


class _TryAgain(Exception):
    """A temporary failure of the kind `name`; `after` is the wait that the endpoint asks for, in seconds; `fault` is
    of one answer."""

    def __init__(
        self,
        reason: str,
        name: str = "error",
        *,
        after: float | None = None,
        fault: Fault | None = None,
        limited: bool = False,
    ) -> None:
        super().__init__(reason)
        self.name, self.after, self.fault, self.limited = name, after, fault, limited

    def completion(self) -> Completion:
        """What is recorded when no try has helped."""
        start = "error" if self.fault else f"{self.name} at each try"
        return Completion("", None, None, "error", f"{start}: {str(self).removeprefix(f'{self.name}: ')}")


def addresses(base_url: str) -> list[str]:
    """The URLs to post to for `--base_url`, in the order to try: where its path has no /v1, that is tried too.

    Raises InputError for what is no URL, or holds a secret, as the URL is recorded.
    """
    try:
        parts = urlsplit(base_url.strip())
        valid = parts.scheme in ("http", "https") and parts.hostname and (parts.port is None or parts.port)
    except ValueError:  # a port that is no number
        valid = False
    if not valid:
        raise InputError(f"--base_url {base_url}: give a URL such as http://localhost:8000/v1")
    secrets = [name for name, value in parse_qsl(parts.query) if _SECRET.search(name) or len(value) > 40]
    if parts.username is not None or secrets:
        raise InputError("--base_url holds more than an address, which would go into the record: set OPENAI_API_KEY")
    path = parts.path.rstrip("/")
    if path.endswith("/chat/completions"):
        paths = [path]
    else:
        path = re.sub(r"/(chat|completions|responses|models)$", "", path)
        paths = [f"{path}/chat/completions"]
        if not re.search(r"/v\d|/openai\b", path):
            paths.append(f"{path}/v1/chat/completions")
    return [urlunsplit((parts.scheme, parts.netloc, path, parts.query, "")) for path in paths]


class Client:
    """One model at one endpoint, for requests with `fields`; with `watch`, which gets the text so far, for streams.

    `succeeded` is whether any request has been completed. `refused` has the fields that the endpoint refused, and what
    it said; they are in no later request.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        fields: dict[str, Any],
        timeout: float,
        tries: int,
        first_wait: float,
        watch: Watch | None = None,
    ) -> None:
        self.urls, self.model, self.fields, self.watch = addresses(base_url), model, dict(fields), watch
        if watch is not None:
            self.fields |= {"stream": True, "stream_options": {"include_usage": True}}
        self.stop: str | list[str] | None = fields.get("stop")
        self.timeout, self.tries, self.first_wait = timeout, tries, first_wait
        self.key = os.environ.get("OPENAI_API_KEY", "").strip()
        if not self.key.isprintable() or not self.key.isascii():
            raise InputError("OPENAI_API_KEY holds characters that no key has: set it again")
        self.session: aiohttp.ClientSession | None = None
        self.succeeded = False
        self.refused: dict[str, str] = {}
        self.given_up = asyncio.Event()  # set when another request failed finally, so that this one is not tried again

    @property
    def url(self) -> str:
        return self.urls[0]

    async def close(self) -> None:
        if self.session is not None:
            await self.session.close()

    async def complete(self, messages: list[Message], seed: int | None, tries: int | None = None) -> Completion:
        """Raises Refused where this dialogue has no completion, InputError where none would have."""
        wait, allowed = self.first_wait, tries or self.tries
        for tried in range(1, allowed + 1):
            try:
                return await self._ask(messages, seed)
            except _TryAgain as error:
                most = min(allowed, _TRIES_OF_A_FAULT) if error.fault else allowed
                no_api = error.fault and not (self.succeeded or error.fault.in_choice)
                hint = "Is --base_url the address of an API?" if no_api else KEPT
                message = f"{self.url}: {error} ({tried} of {most} tries). {hint}"
                if self.given_up.is_set():
                    raise InputError(message) from error
                if tried >= most:
                    raise Refused(message, error.completion()) from error
                # Spread, so that requests refused together do not come again together.
                delay = wait * random.uniform(0.5, 1.0)
                if error.after is not None:  # perhaps 0, which would use up all tries at once
                    delay = max(error.after, delay)
                elif error.limited:  # such limits are often those of a minute
                    delay *= 3
                if error.after is not None and error.after > _LONGEST_WAIT:
                    raise InputError(f"{self.url}: {error}. It asks to wait {delay:.0f} s. {KEPT}") from error
                logger.warning("%s: again in %.1f s", error, delay)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.given_up.wait(), delay)
                wait = min(2 * wait, _LONGEST_WAIT)
        raise AssertionError("the last try returns or raises")

    async def _ask(self, messages: list[Message], seed: int | None) -> Completion:
        while True:  # each round more is without a field, or at the next address
            fields = self.fields | ({} if seed is None or "seed" in self.refused else {"seed": seed})
            url = self.url
            status, headers, text = await self._post(url, {"model": self.model, "messages": messages, **fields})
            try:
                if status != 200:
                    raise error_answer(status, text)
                completion = read_completion(text, self._limit())
            except Fault as fault:
                fault.message = self._hidden(fault.message)
                if not self._moved(url, fault) and not self._dropped(fault, fields):
                    raise self._failure(fault, headers) from fault
            else:
                self.succeeded = True
                return self._cut(completion)

    async def _post(self, url: str, body: dict[str, Any]) -> tuple[int, Mapping[str, str], str]:
        if self.session is None:
            self.session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=self.timeout, sock_connect=_CONNECT),
                headers=self._headers(),
                trust_env=urlsplit(url).hostname not in ("localhost", "127.0.0.1", "::1"),  # proxies
            )
        try:
            async with self.session.post(url, json=body, allow_redirects=False) as response:
                text = (await self._body(response)).decode("utf-8", "replace")
                return response.status, response.headers, text
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            text = " ".join(str(error).replace("ssl:default", "").split())
            reason = f"no connection: {self._hidden(text) or type(error).__name__}"
            if isinstance(error, aiohttp.ConnectionTimeoutError):
                reason = f"no connection within {_CONNECT:g} s"
            elif isinstance(error, TimeoutError):
                raise _TryAgain(f"no answer within {self.timeout:g} s (--request_timeout)", "timeout") from error
            if not self.succeeded and isinstance(error, _NO_SERVER):
                raise InputError(f"{url}: {reason}. Is the server running there?") from error
            raise _TryAgain(reason, "no connection") from error

    async def _body(self, response: aiohttp.ClientResponse) -> bytes:
        if self.watch is None:
            return await response.read()
        body = b""
        async for part in response.content.iter_any():
            body += part
            with contextlib.suppress(Fault):  # nothing of the answer is there yet
                self.watch(read_completion(body.decode("utf-8", "replace"), None).text)
        return body

    def _headers(self) -> dict[str, str]:
        """Azure takes a key in a header of its own."""
        parts = urlsplit(self.url)
        azure = str(parts.hostname).endswith(".azure.com")
        headers = {} if not self.key or azure else {"Authorization": f"Bearer {self.key}"}
        if self.key and (azure or "api-version=" in parts.query):
            headers["api-key"] = self.key
        return headers

    def _limit(self) -> int | None:
        limit = self.fields.get("max_tokens", self.fields.get("max_completion_tokens"))
        return limit if isinstance(limit, int) else None

    def _cut(self, completion: Completion) -> Completion:
        """End a text at the first stop string, where the endpoint does not."""
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        cuts = [completion.text.index(stop) for stop in stops if stop in completion.text]
        if not cuts:
            return completion
        return replace(completion, text=completion.text[: min(cuts)].strip(), finish_reason="stop")

    def _moved(self, url: str, fault: Fault) -> bool:
        """Whether to ask again elsewhere, as this is no address of chat completions."""
        if url != self.url:  # another request found out
            return True
        if self.succeeded or not fault.no_endpoint or len(self.urls) == 1:
            return False
        logger.warning("%s: %s: trying %s", url, fault, self.urls[1])
        del self.urls[0]
        return True

    def _dropped(self, fault: Fault, fields: dict[str, Any]) -> bool:
        """Whether to ask again without fields that the error refuses, which are recorded."""
        names = refused_fields(fault, fields)
        if not names or (self.succeeded and not fault.params):
            return False
        for name in names:
            other = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}.get(name)
            if other in self.refused:  # neither, and without a limit a summary has no end
                return False
            if name in self.fields:
                value = self.fields.pop(name)
                self.fields |= {other: value} if other else {}
            if name not in self.refused:
                self.refused[name] = fault.message
                instead = f"sent as {other}" if other else "left out, and the endpoint's own default holds"
                logger.warning("the endpoint refuses %s (%s): it is %s", name, fault.message, instead)
        return True

    def _failure(self, fault: Fault, headers: Mapping[str, str]) -> Exception:
        status = f"HTTP {fault.status}: {fault.message}" if fault.status != 200 else fault.message
        text = f"{self.url}: {status}".rstrip(".")
        if fault.no_money and not headers.get("Retry-After"):
            return InputError(f"{text}. The account has nothing left to pay with, which waiting does not change")
        if fault.too_long or (fault.filtered and (fault.status == 403 or fault.in_choice)):
            return self._refused(fault, text, status)
        if fault.no_endpoint:
            return InputError(f"{text}. {_NO_MODEL.format(self.model)}")
        if fault.in_choice or fault.status == 200:
            return _TryAgain(status, fault=fault)
        if fault.status in _TRY_AGAIN:
            after = _seconds(headers.get("Retry-After"))
            after, limited = fault.again_in if after is None else after, fault.status == 429
            return _TryAgain(status, f"HTTP {fault.status}", after=after, limited=limited)
        if fault.no_model:
            return InputError(f"{text}. {_NO_MODEL.format(self.model)}")
        if fault.status in _OF_ONE_DIALOGUE and not fault.no_key:
            return self._refused(fault, text, status)
        if fault.no_key:
            return InputError(f"{text}. Set OPENAI_API_KEY")
        if 300 <= fault.status < 400 and (target := headers.get("Location")):
            return InputError(f"{text}. It redirects to {self._hidden(target.split('?')[0])}: give that as --base_url")
        return InputError(text)

    def _refused(self, fault: Fault, text: str, status: str) -> Refused:
        reason = "content_filter" if fault.filtered and not fault.too_long else "error"
        return Refused(text, Completion("", None, None, reason, status))

    def _hidden(self, text: str) -> str:
        return text.replace(self.key, "***") if self.key else text


KEPT = "The summaries so far are kept: run it again to continue"
_NO_MODEL = "Is there a model {} (--served_model_name), and does --base_url end in /v1?"
# What a server that is not there, or speaks another protocol, causes.
_NO_SERVER = (
    aiohttp.ClientConnectorError,
    aiohttp.ConnectionTimeoutError,
    aiohttp.ClientResponseError,
    aiohttp.InvalidURL,
)


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
    return max(seconds, 0.0) if seconds < float("inf") else None
