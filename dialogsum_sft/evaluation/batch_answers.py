"""The answer in a row of a server's batch or of an engine's dump: its text, how it ended, why there is none."""

import ast
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dialogsum_sft.data.row_files import one_line
from dialogsum_sft.evaluation.prediction_files import Row, plain

# Where servers, vLLM and pipelines put the text.
_BODIES = ("response.body.", "response.", "modelOutput.", "body.", "")
PATHS = (
    *(f"{body}choices.0.message.content" for body in _BODIES),
    *("response.body.output", "response.output", "result.message.content", "modelOutput.output.message.content"),
    *(
        "modelOutput.content",
        "modelOutput.generation",
        "modelOutput.outputs.0.text",
        "modelOutput.results.0.outputText",
    ),
    *("response.body.message.content", "message.content", "outputs.0.text"),
    *(f"{body}choices.0.text" for body in _BODIES),
    *(f"{body}candidates.0.content.parts" for body in _BODIES),
)
_TEXTS = ("text", "content", "generated_text", "summary_text", "output_text", "outputText")
_THOUGHTS = ("reasoning", "thinking", "redacted_thinking", "reasoning_content", "reasoningContent", "thought")
_TOOLS = ("tool_use", "toolUse", "tool_calls", "tool_call", "function_call", "functionCall")
_ENDED = ("stop", "end_turn", "stop_sequence", "eos", "completed", "none")
MISSING = object()


def value_in(row: Row, path: str) -> Any:
    """The value of a column, or of a nested field such as `choices.0.text`; `MISSING` if there is none."""
    if path in row:
        return row[path]
    value: Any = row
    for part in path.split("."):
        if isinstance(value, Mapping) and part in value:
            value = value[part]
        elif isinstance(value, list) and re.fullmatch(r"\d{1,9}", part) and int(part) < len(value):
            value = value[int(part)]
        else:
            return MISSING
    return value


def has(row: Row, path: str) -> bool:
    return value_in(row, path) is not MISSING


def first(rows: Sequence[Row], names: Sequence[str]) -> str | None:
    """The first of the names that a row has, as the row writes it; nested ones with dots."""
    written = {plain(name): name for row in rows for name in row}
    for name in names:
        if name in written:
            return written[name]
        if any(has(row, name) for row in rows):
            return name
    return None


def listed(value: Any) -> list[Any]:
    """A list as it is, or as JSON or Python's repr in a cell; any other value as a list of it."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        for load in (json.loads, ast.literal_eval):
            try:
                if isinstance(found := load(value.strip()), list):
                    return found
            except (ValueError, SyntaxError, MemoryError, RecursionError):
                continue
    return value if isinstance(value, list) else [value]


def unwrapped(value: Any, column: str, is_table: bool) -> Any:
    """The text in lists of one element, in lists of equal texts, in objects such as {"text": ...}, and in the items of
    an answer, of which thinking and tool calls are left out.
    """
    for _ in range(6):
        if is_table and isinstance(value, str) and value[:2] in ("['", '["', "[["):
            value = listed(value)
        if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
            items = [item for item in value if not _is_of(item, _THOUGHTS) and not _is_of(item, _TOOLS)]
            texts = [unwrapped(item, column, False) for item in items if not _is_of(item, ("refusal",))]
            are_parts = all("type" in item for item in value) or column.endswith((".content", ".parts"))
            if are_parts and all(isinstance(text, str) for text in texts):
                are_messages = any(item.get("type") == "message" for item in items)
                return ("\n" if are_messages else "").join(texts) if texts else None
        if isinstance(value, list) and value and all(item == value[0] for item in value):
            value = value[0]
        elif isinstance(value, dict) and (name := next((n for n in _TEXTS if n in value), None)):
            value = value[name]
    return value


def _is_of(item: Row, kinds: Sequence[str]) -> bool:
    return item.get("type") in kinds or any(item.get(kind) for kind in kinds)


def fault_of(row: Row, column: str) -> str | None:
    """Why a row has no text: "error: ...", "refusal: ..." or its finish reason, as `fault` of an endpoint's rows; None
    for a row that is no answer of a server.
    """
    for path in ("error", "response.error", "response.body.error", "result.error.error", "result.error"):
        if (error := value_in(row, path)) and isinstance(error, (str, dict)):
            named = error if isinstance(error, dict) else {}
            return f"error: {one_line(named.get('message') or named.get('errorMessage') or error)}"
    status = value_in(row, "response.status_code")
    if isinstance(status, int) and status >= 400:
        return f"error: HTTP {status}"
    if (kind := value_in(row, "result.type")) in ("errored", "expired", "canceled"):
        return f"error: {kind}"
    reason, parts = finish_reason(row, column), column.split(".")
    above = [".".join(parts[:end]) for end in range(1, len(parts))]
    is_output = column == "output" and isinstance(row.get(column), list)  # of OpenAI's Responses
    if not is_output and (column not in PATHS or not (reason or any(has(row, path) for path in above))):
        return None
    if reason is not None and reason.lower() not in _ENDED:
        return reason
    objects = list(_objects([value_in(row, above[-1]) if above else None, value_in(row, column)]))
    if refusal := next((one["refusal"] for one in objects if one.get("refusal")), None):
        return f"refusal: {one_line(refusal)}"
    for kinds, what in ((_THOUGHTS, "reasoning"), (_TOOLS, "tool call")):
        if any(_is_of(one, kinds) for one in objects):
            return f"{what} without an answer"
    return "empty answer"


def _objects(value: Any) -> Iterator[Row]:
    """The objects in lists and in their `content`."""
    if isinstance(value, list):
        for item in value:
            yield from _objects(item)
    elif isinstance(value, dict):
        yield value
        yield from _objects(value.get("content"))


def finish_reason(row: Row, column: str) -> str | None:
    """The finish reason beside a nested text: choices.0.finish_reason for choices.0.message.content."""
    parts = column.split(".")
    for end in range(len(parts) - 1, -1, -1):
        for name in (
            *("finish_reason", "finishReason", "stop_reason", "stopReason", "completionReason"),
            *("incomplete_details.reason", "promptFeedback.blockReason"),
        ):
            path = ".".join([*parts[:end], name])
            if (end or path != "finish_reason") and isinstance(found := value_in(row, path), str):
                return found
    return None
