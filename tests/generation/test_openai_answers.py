"""Answers of endpoints in their variants: parts, reasoning, refusals, finish reasons, token counts, events."""

import json
from typing import Any

from dialogsum_sft.generation.engine import Completion
from dialogsum_sft.generation.openai_answers import Fault, error_answer, read_completion

import pytest


def body(message: Any, reason: Any = "stop", usage: Any = None) -> str:
    record = {"choices": [{"index": 0, "message": message, "finish_reason": reason}], "usage": usage}
    return json.dumps(record)


@pytest.mark.parametrize(
    "content",
    [
        "Two lines.",
        " Two lines.\n",
        [{"type": "text", "text": "Two lines."}],
        [{"type": "text", "text": "Two "}, {"type": "text", "text": "lines."}],
        [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}, {"type": "text", "text": "Two lines."}],
        [{"type": "reasoning", "text": "Hm."}, {"type": "output_text", "text": "Two lines."}],
        ["Two ", "lines."],
        {"type": "text", "text": "Two lines."},
        {"parts": [{"text": "Two "}, {"text": "lines."}]},
    ],
)
def test_a_content_is_a_text_or_parts_of_it(content: Any) -> None:
    assert read_completion(body({"content": content}), 9) == Completion("Two lines.", None, None, "stop")


@pytest.mark.parametrize(
    ("message", "reason", "fault"),
    [
        ({"content": None, "reasoning_content": "Hm."}, "length", "reasoning without an answer"),
        ({"content": "", "reasoning": "Hm."}, "stop", "reasoning without an answer"),
        ({"content": "\n\n", "reasoning_details": [{"text": "Hm."}]}, "stop", "reasoning without an answer"),
        ({"content": [{"type": "thinking", "thinking": "Hm."}]}, "length", "reasoning without an answer"),
        ({"content": None, "refusal": "I  cannot."}, "stop", "refusal: I cannot."),
        ({"content": [{"type": "refusal", "refusal": "No."}]}, "stop", "refusal: No."),
        ({"content": None, "tool_calls": [{"id": "1"}]}, "tool_calls", "tool call without an answer"),
        ({"content": None, "function_call": {"name": "f"}}, "stop", "tool call without an answer"),
        ({"content": None}, "stop", "empty answer"),
        ({"content": ""}, None, "empty answer"),
        ({"role": "assistant"}, "stop", "empty answer"),
        (None, "content_filter", None),
        ({"content": None}, "SAFETY", None),
        ({"content": ""}, "length", None),
    ],
)
def test_an_answer_without_text_says_why(message: Any, reason: Any, fault: str | None) -> None:
    assert read_completion(body(message, reason), 9) == Completion("", None, None, reason, fault)


@pytest.mark.parametrize(
    ("reason", "tokens", "kept"),
    [
        ("max_tokens", 9, "max_tokens"),
        ("MAX_TOKENS", 9, "MAX_TOKENS"),
        ("model_length", 9, "model_length"),
        ("content_filter", 9, "content_filter"),
        ("eos", 4, "eos"),
        ("end_turn", 4, "end_turn"),
        (None, 4, None),
        (2, 4, "2"),
        ("\ud83d", 4, "\ufffd"),
        ("stop", 8, "stop"),
        ("stop", 9, "length"),  # whatever it says, it has reached the limit
        ("STOP", 10, "length"),
        (None, 9, "length"),
    ],
)
def test_the_finish_reason_is_kept_but_for_a_count_that_reaches_the_limit(
    reason: Any, tokens: int, kept: str | None
) -> None:
    completion = read_completion(body({"content": "Two"}, reason, {"completion_tokens": tokens}), 9)
    assert (completion.finish_reason, completion.completion_tokens) == (kept, tokens)


@pytest.mark.parametrize(
    ("usage", "counts"),
    [
        ({"prompt_tokens": 7, "completion_tokens": 3}, (7, 3)),
        ({"input_tokens": 7, "output_tokens": 3}, (7, 3)),
        ({"prompt_tokens": 7.0, "completion_tokens": "3"}, (7, None)),
        ({"prompt_tokens": 0, "completion_tokens": 0}, (None, None)),
        ({"prompt_tokens": float("inf"), "completion_tokens": True}, (None, None)),
        ({}, (None, None)),
        (None, (None, None)),
        ([], (None, None)),
    ],
)
def test_missing_token_counts_are_none(usage: Any, counts: Any) -> None:
    completion = read_completion(body({"content": "Two"}, "stop", usage), 9)
    assert (completion.prompt_tokens, completion.completion_tokens) == counts


def test_half_an_emoji_becomes_a_replacement_character() -> None:
    text = body({"content": "yes HALF and WHOLE"}).replace("HALF", "\\ud83d").replace("WHOLE", "\\ud83d\\ude00")
    assert read_completion(text, 9).text == "yes \ufffd and \U0001f600"


def events(*deltas: Any) -> str:
    return "".join(f"data: {json.dumps(delta)}\n\n" for delta in deltas) + "data: [DONE]\n\n"


def delta(content: str | None, reason: str | None = None, **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": content}, "finish_reason": reason}], **more}


@pytest.mark.parametrize(
    "text",
    [
        events(json.loads(body({"content": "Two lines."}, usage={"prompt_tokens": 7, "completion_tokens": 3}))),
        events(
            delta("Two"), delta(" lines."), delta(None, "stop", usage={"prompt_tokens": 7, "completion_tokens": 3})
        ),
        ": OPENROUTER PROCESSING\n\n"
        + events(
            delta("Two lines."),
            delta("", "stop"),
            {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3}},
        ),
        f"[{body({'content': 'Two lines.'}, usage={'prompt_tokens': 7, 'completion_tokens': 3})}]",
    ],
)
def test_an_answer_in_events_or_a_list_is_read(text: str) -> None:
    assert read_completion(text, 9) == Completion("Two lines.", 7, 3, "stop")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "{}",
        '{"choices": []}',
        '{"choices": null}',
        '{"choices": [null]}',
        '{"choices": ["x"]}',
        "<p>",
    ]
    + ['{"choices": [{}]}', '{"choices": 3}', "data: {", "data: [DONE]", '"text"', '{"choices": {"message": {}}}'],
)
def test_what_is_no_completion_is_a_fault(text: str) -> None:
    with pytest.raises(Fault, match="the answer is no chat completion"):
        read_completion(text, 9)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ({"error": {"message": "no", "type": "t"}}, "no"),
        ({"error": "no"}, "no"),
        ({"message": "no", "object": "error"}, "no"),
        ({"detail": "no"}, "no"),
        ({"detail": [{"loc": ["body", "n"], "msg": "no"}]}, "n: no"),
        ([{"error": {"message": "no"}}], "no"),
        ({"errors": [{"message": "no"}, {"message": "never"}]}, "no; never"),
        ({"error": {"code": 5}}, '{"code": 5}'),
        ({"success": False}, '{"success": false}'),
        ("<html><script>f()</script><h1>no</h1>\n<p>never</p>", "no never"),
        ("", "no message"),
    ],
)
def test_the_message_of_an_error_is_one_line(text: Any, message: str) -> None:
    assert error_answer(400, text if isinstance(text, str) else json.dumps(text)).message == message


@pytest.mark.parametrize(
    ("message", "seconds"),
    [
        ("Please try again in 20s.", 20.0),
        ("Please try again in 6ms", 0.006),
        ("Please try again in 1m12.5s", 72.5),
        ("please retry in 21.25s.", 21.25),
        ("Try again in 2 seconds", 2.0),
        ("try again in 1h3m0s", 3780.0),
        ("retry after 5 seconds", 5.0),
        ("Please try again later", None),
    ],
)
def test_the_wait_in_a_message_is_read(message: str, seconds: float | None) -> None:
    assert error_answer(429, json.dumps({"error": {"message": message}})).again_in == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        ({"code": 429}, 429),
        ({"code": "502"}, 502),
        ({"code": "9" * 5000}, 200),
        ({"code": 1302}, 200),
        ({"code": True}, 200),
        ({"code": "rate_limit_exceeded", "message": "Rate limit reached"}, 429),
        ("The server is overloaded", 429),
        ("no", 200),
    ],
)
def test_an_error_in_an_answer_with_status_200_has_its_own(error: Any, status: int) -> None:
    with pytest.raises(Fault) as fault:
        read_completion(json.dumps({"error": error}), 9)
    assert fault.value.status == status
