"""What an OpenAI-compatible endpoint answers: a completion in one of its variants, or an error.

Errors differ from server to server in status, shape and wording; the words that are looked for stand here.
"""

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from dialogsum_sft.generation.engine import Completion

_TOO_LONG = re.compile(
    r"context.{0,3}(length|window|size)|maximum context|(?<!took )(?<!taking )(?<!waited )(?<!for )too long"
    r"|too many tokens|n(um)?_ctx|max_model_len|reduce the length|exceed\w*.{0,60}(token|length|context)"
    r"|string_above_max|(request|input|prompt) (is )?too large",
    re.I,
)
# The same where a limit of tokens per minute is worded alike.
_TOO_LONG_ITSELF = re.compile(
    r"context.{0,3}(length|window|size)|maximum context|(request|input|prompt) (is )?too (long|large)", re.I
)
_FILTERED = re.compile(
    r"content.?filter|content management policy|(content|usage).?polic|policy violation|moderation|flagged|safety"
    r"|harmful|responsible.?ai|prohibited|inappropriate|data_inspection",
    re.I,
)
_NO_MONEY = re.compile(
    r"insufficient.{0,3}(quota|balance|credit|fund)|exceeded your current quota|credit balance|billing"
    r"|out of credits|payment required|quota (is )?exhausted",
    re.I,
)
_NO_KEY = re.compile(r"api.?key|unauthori[sz]ed|authenticat|credential", re.I)
_NO_MODEL = re.compile(
    r"model.{0,120}(not found|not exist|no such|not a valid|not available)|(invalid|unknown|no such).model\b"
    r"|model_not_found",
    re.I,
)
_NO_ENDPOINT = re.compile(
    r"unexpected endpoint|(invalid|unknown) (url|path|route|endpoint)|no route|cannot post", re.I
)
_REFUSES = re.compile(
    r"not.{0,3}support|unsupport|unrecogni[sz]ed|unknown|unexpected|extra|additional|not (permitted|allowed|accept)"
    r"|forbid|invalid|deprecated|cannot|can't|only the default|must be|has to be|no longer|not (a )?(valid|recogni)"
    r"|remove|incompatible|no such|isn't|does not",
    re.I,
)
_AGAIN_IN = re.compile(r"(?:again|retry) (?:in|after) ((?:\d+h)?(?:\d+m(?!s))?)(?:([\d.]+) ?(ms|s|sec\w*)\b)?", re.I)
_SLOW_DOWN = re.compile(r"rate.?limit|too many requests|overloaded", re.I)
_THINKING = ("reasoning_content", "reasoning", "thinking", "reasoning_details")
_LIMITS = {"max_tokens", "max_completion_tokens"}
_VALUE = re.compile(r"too (large|small|high|low)|at (most|least)|m(ax|in)imum|(less|greater) than|range|between", re.I)
_ENDED = ("none", "", "stop")
# Fields that name what an error is about, and are none of a request's options.
_OF_THE_DIALOGUE = {"prompt", "messages", "model", "input"}


class Fault(Exception):
    """An answer that is no completion. `status` is HTTP's, or that of an error in the body of an answer with 200.

    `message` is the endpoint's, in one line. `params` are the fields that it names in a structured error, `words` are
    the message with codes and types. `in_choice` is whether the error is that of one completion.
    """

    def __init__(
        self, status: int, message: str, *, params: Iterable[str] = (), words: str = "", in_choice: bool = False
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.in_choice = status, message, in_choice
        self.params, self.words = list(params), f"{message} {words}"

    @property
    def too_long(self) -> bool:
        """Whether the dialogue is, whatever the status: some servers answer 500."""
        return bool((_TOO_LONG_ITSELF if self.status in (401, 403, 429) else _TOO_LONG).search(self.words))

    @property
    def filtered(self) -> bool:
        return bool(_FILTERED.search(self.words))

    @property
    def no_money(self) -> bool:
        """Whether an account is empty, for which waiting does not help; a limit per minute says when it ends."""
        empty = self.status in (400, 403, 429) and bool(_NO_MONEY.search(self.words))
        return self.status == 402 or (empty and self.again_in is None)

    @property
    def no_key(self) -> bool:
        return self.status in (401, 403) or (self.status == 400 and bool(_NO_KEY.search(self.words)))

    @property
    def no_model(self) -> bool:
        return self.status in (400, 404, 422) and bool(_NO_MODEL.search(self.words))

    @property
    def no_endpoint(self) -> bool:
        return (self.status in (404, 405) and not self.no_model) or bool(_NO_ENDPOINT.search(self.words))

    @property
    def again_in(self) -> float | None:
        """Seconds after which the message says to try again."""
        match = _AGAIN_IN.search(self.words)
        if match is None or not (match[1] or match[2]):
            return None
        units = {"h": 3600.0, "m": 60.0}
        whole = sum(int(number) * units[unit.lower()] for number, unit in re.findall(r"(\d+)([hm])", match[1], re.I))
        return whole + float(match[2] or 0) * (0.001 if (match[3] or "").lower() == "ms" else 1.0)


def refused_fields(fault: Fault, names: Iterable[str]) -> list[str]:
    """Those of `names`, the fields of a request that decide decoding, which an error refuses by name."""
    if fault.status not in (400, 406, 415, 422, 500, 501) or fault.too_long or fault.filtered:
        return []
    plain = {_plain(name): name for name in names if name not in _LIMITS or not _VALUE.search(fault.message)}
    params = [re.split(r"[./]", param)[-1] for param in fault.params]
    if found := [plain[_plain(param)] for param in params if _plain(param) in plain]:
        return found
    if _OF_THE_DIALOGUE.intersection(params) or not _REFUSES.search(fault.words):
        return []
    text = re.split(r"did you mean", fault.message, flags=re.I)[0]
    quoted, words = (
        list(dict.fromkeys(plain[_plain(word)] for word in re.findall(pattern, text) if _plain(word) in plain))
        for pattern in (r"['\"`](\w+)['\"`]", r"(?<![\w-])\w+(?![\w-])")
    )
    found = quoted or words
    return found[1:] if re.search(r"\bboth\b", text) and found[1:] else found


def _plain(name: str) -> str:
    """maxTokens and max_tokens are one field."""
    return name.replace("_", "").lower()


def error_answer(status: int, text: str) -> Fault:
    """The error in an answer's body, of any shape."""
    try:
        record = json.loads(text)
    except ValueError:
        record = re.sub(r"<(style|script)\b.*?</\1>|<[^>]*>", " ", text, flags=re.S | re.I)
    return _fault(status, record)


def _fault(status: int, record: Any, *, in_choice: bool = False) -> Fault:
    parts = list(dict.fromkeys(_messages(record)))
    message = " ".join("; ".join(parts[:4]).encode("utf-8", "replace").decode().split())[:300] or "no message"
    named = list(_named(record))
    if status == 200 and _SLOW_DOWN.search(message):
        status = 429
    params = [value for name, value in named if name in ("param", "loc")]
    return Fault(status, message, params=params, words=" ".join(value for _, value in named), in_choice=in_choice)


def _messages(record: Any) -> Iterator[str]:
    if isinstance(record, list):
        for item in record[:8]:
            yield from _messages(item)
    elif not isinstance(record, dict):
        if record not in (None, ""):
            yield str(record)
    elif isinstance(record.get("loc"), list) and record.get("msg"):  # of pydantic
        yield f"{record['loc'][-1] if record['loc'] else 'body'}: {record['msg']}"
    else:
        found = [record[name] for name in ("error", "errors", "message", "detail", "msg") if record.get(name)]
        if found:
            yield from _messages(found[0])
        else:
            yield json.dumps(record)
        metadata = record.get("metadata")
        if isinstance(metadata, dict) and isinstance(metadata.get("raw"), str):  # of the provider behind a router
            yield metadata["raw"]


def _named(record: Any) -> Iterator[tuple[str, str]]:
    """The parts of an error that programs read, with the name of each."""
    for part in record if isinstance(record, list) else [record]:
        if not isinstance(part, dict):
            continue
        for name in ("param", "code", "type", "status"):
            if part.get(name) is not None:
                yield name, str(part[name])
        if isinstance(part.get("loc"), list) and part["loc"]:
            yield "loc", str(part["loc"][-1])
        for name in ("error", "errors", "message", "detail", "innererror"):
            yield from _named(part.get(name))


def read_completion(text: str, limit: int | None) -> Completion:
    """The completion in the body of an answer with status 200. Raises Fault where there is none.

    `finish_reason` is the endpoint's word, or None. An answer of `limit` tokens or more was cut off, whatever the
    endpoint says: its reason is then "length". `fault` says why an answer has no text.
    """
    record = _record(text)
    choices = record.get("choices")
    if record.get("error") and not choices:
        code = record["error"].get("code") if isinstance(record["error"], dict) else None
        raise _fault(_status(code), record)
    choice = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(choice, dict) or not {"message", "text", "finish_reason"} & choice.keys():
        raise Fault(200, f"the answer is no chat completion: {' '.join(text.split())[:120]!r}")
    reason = choice.get("finish_reason")
    if choice.get("error") or reason == "error":
        error = choice.get("error") or record.get("error") or "finish_reason error"
        code = error.get("code") if isinstance(error, dict) else None
        raise _fault(_status(code), error, in_choice=True)
    message = choice.get("message")
    message = message if isinstance(message, dict) else {"content": choice.get("text")}
    summary = _whole("".join(_texts(message.get("content")))).strip()
    usage = record.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    completion_tokens = _count(usage, "completion_tokens", "output_tokens")
    reason = None if reason is None else _whole(str(reason))
    if limit and completion_tokens and completion_tokens >= limit and str(reason).lower() in _ENDED:
        reason = "length"
    return Completion(
        text=summary,
        prompt_tokens=_count(usage, "prompt_tokens", "input_tokens"),
        completion_tokens=completion_tokens,
        finish_reason=reason,
        fault=None if summary else _why_empty(message, reason),
    )


def _record(text: str) -> dict[str, Any]:
    """The object of an answer; of a stream of events, which some endpoints send unasked, all put together."""
    try:
        record = json.loads(text)
        if isinstance(record, list) and len(record) == 1:
            (record,) = record
    except ValueError:
        events = re.findall(r"^data:\s*(\{.*\})\s*$", text, flags=re.M)
        try:
            record = _joined([json.loads(event) for event in events])
        except (ValueError, TypeError, AttributeError, LookupError):
            record = None
    if not isinstance(record, dict):
        raise Fault(200, f"the answer is no chat completion: {' '.join(text.split())[:120]!r}")
    return record


def _joined(events: list[dict[str, Any]]) -> dict[str, Any]:
    whole: dict[str, Any] = {}
    content, reason, has_deltas = "", None, False
    for event in events:
        whole |= {name: value for name, value in event.items() if value}
        for choice in (event.get("choices") or [])[:1]:
            has_deltas = has_deltas or "delta" in choice
            content += "".join(_texts((choice.get("delta") or {}).get("content")))
            reason = choice.get("finish_reason") or reason
    if has_deltas:
        whole["choices"] = [{"message": {"content": content}, "finish_reason": reason}]
    return whole


def _status(code: Any) -> int:
    """The status of an error inside an answer: its code where it is one of HTTP's."""
    return int(str(code)) if re.fullmatch(r"[45]\d\d", str(code)) else 200


def _texts(content: Any) -> Iterator[str]:
    """The texts of a content, which may be a list of parts; those of thinking are none of the answer."""
    if isinstance(content, str):
        yield content
    elif isinstance(content, list):
        for part in content:
            yield from _texts(part)
    elif isinstance(content, dict) and content.get("type", "text") in ("text", "output_text"):
        yield from _texts(content.get("text") or content.get("parts"))


def _whole(text: str) -> str:
    """Half of a surrogate pair, such as half an emoji, becomes U+FFFD; a pair becomes its character."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _count(usage: dict[str, Any], *names: str) -> int | None:
    """A number of tokens, above 0, or None."""
    for name in names:
        value = usage.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool) and 1 <= value < float("inf"):
            return int(value)
    return None


def _why_empty(message: dict[str, Any], reason: str | None) -> str | None:
    """None where the finish reason, such as a filter, says it."""
    content = message.get("content")
    parts = [part for part in content if isinstance(part, dict)] if isinstance(content, list) else []
    for refusal in (message.get("refusal"), *(part.get("refusal") for part in parts)):
        if refusal:
            return f"refusal: {' '.join(_whole(str(refusal)).split())[:200]}"
    if any(message.get(name) for name in _THINKING) or any(
        "thinking" in part or "reasoning" in part for part in parts
    ):
        return "reasoning without an answer"
    if message.get("tool_calls") or message.get("function_call"):
        return "tool call without an answer"
    return "empty answer" if str(reason).lower() in _ENDED else None
