"""What an endpoint refuses: fields, dialogues, addresses; and how soon a run learns that nothing will come."""

import socket
import time
from collections.abc import Iterator
from typing import Any

from dialogsum_sft import InputError
from dialogsum_sft.generation.engine import Completion
from dialogsum_sft.generation.openai_client import addresses
from dialogsum_sft.generation.openai_engine import generate_batches, request_fields
from fake_endpoint import KEY, Server, answer, serving

import pytest

CHATS = [[{"role": "user", "content": f"dialogue {n}"}] for n in range(5)]
ALL = {n: Completion(f"DIALOGUE {n}", 7, 3, "stop") for n in range(5)}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with serving(monkeypatch) as server:
        yield server


def complete(server: Server, url: str | None = None, **kwargs: Any) -> dict[int, Completion]:
    options = {"first_wait": 0.001, "timeout": 5.0, "fields": request_fields(8, {})} | kwargs
    return {i: one for batch in generate_batches(url or server.url, "m", CHATS, **options) for i, one in batch}


def error(message: str, **more: Any) -> dict[str, Any]:
    return {"error": {"message": message, **more}}


@pytest.mark.parametrize(
    ("field", "status", "body"),
    [
        ("temperature", 400, error("Unsupported value: 'temperature' does not support 0.0 with this model.")),
        ("temperature", 400, error("`temperature` is deprecated for this model.", type="invalid_request_error")),
        ("temperature", 422, {"error": "Input validation error: `temperature` must be strictly positive"}),
        ("temperature", 400, error("The value is wrong.", param="temperature")),
        ("top_p", 400, error("`temperature` and `top_p` cannot both be specified for this model.")),
        ("top_p", 400, error("Unsupported parameter: 'top_p' is not supported with this model.", param="top_p")),
        ("seed", 400, error("property 'seed' is unsupported, did you mean 'stop'?")),
        ("seed", 400, [error('Invalid JSON payload received. Unknown name "seed": Cannot find field.', code=400)]),
        ("seed", 422, {"message": {"detail": [{"loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}]}}),
        ("seed", 422, {"detail": [{"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "Extra inputs"}]}),
        ("seed", 400, {"message": "Additional properties are not allowed ('seed' was unexpected)"}),
        ("seed", 400, error("Argument not supported on this model: seed")),
        ("seed", 500, {"detail": "create() got an unexpected keyword argument 'seed'"}),
        ("chat_template_kwargs", 400, error("Unrecognized request argument supplied: chat_template_kwargs")),
        ("chat_template_kwargs", 400, 'json: unknown field "chat_template_kwargs"'),
        ("chat_template_kwargs", 400, error("Unknown parameter: chatTemplateKwargs")),
        (
            "chat_template_kwargs",
            400,
            error("Provider returned error", metadata={"raw": "chat_template_kwargs: forbidden"}),
        ),
    ],
)
def test_a_field_that_the_endpoint_refuses_is_left_out_and_recorded(
    server: Server, field: str, status: int, body: Any
) -> None:
    server.script = lambda content, number: (status, body, {}) if field in server.bodies[-1] else None
    fields = request_fields(8, {"do_sample": True, "temperature": 0.5, "top_p": 0.9, "stop_strings": ["\n"]})
    fields["chat_template_kwargs"] = {"enable_thinking": False}
    refused: dict[str, str] = {}
    assert complete(server, fields=fields, seeds=range(5), refused=refused) == ALL
    assert list(refused) == [field]
    assert refused[field]
    assert len(server.bodies) == 6  # it is refused once
    assert server.bodies[-1].keys() == {"model", "messages", "seed", *fields} - {field}


@pytest.mark.parametrize(
    "body",
    [
        error("Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.", param="max_tokens"),
        error("Use 'max_completion_tokens': 'max_tokens' is not supported with this model."),
        error("max_tokens is no longer accepted", code="unsupported_parameter"),
    ],
)
def test_max_completion_tokens_replaces_a_refused_max_tokens(server: Server, body: Any) -> None:
    server.script = lambda content, number: (400, body, {}) if "max_tokens" in server.bodies[-1] else None
    assert complete(server) == ALL
    limits = [(one.get("max_tokens"), one.get("max_completion_tokens")) for one in server.bodies]
    assert limits == [(8, None)] + [(None, 8)] * 5


def test_several_fields_are_refused_one_after_the_other(server: Server) -> None:
    def script(content: str, number: int) -> Any:
        for field in ("max_tokens", "temperature", "seed", "stop"):
            if field in server.bodies[-1]:
                return 400, error(f"Unsupported parameter: '{field}'", param=field), {}
        return None

    server.script = script
    assert complete(server, fields=request_fields(8, {"stop_strings": ["\n"]}), seeds=range(5)) == ALL
    assert server.bodies[-1].keys() == {"model", "messages", "max_completion_tokens"}


def test_a_text_ends_at_a_stop_string_that_the_endpoint_refuses(server: Server) -> None:
    server.script = lambda content, number: (
        (400, error("stop: Extra inputs are not permitted"), {})
        if "stop" in server.bodies[-1]
        else (200, answer(f"{content} ends here. And on", "length"), {})
    )
    done = complete(server, fields=request_fields(8, {"stop_strings": [" And", "."]}))
    assert done[3] == Completion("dialogue 3 ends here", 7, 3, "stop")


@pytest.mark.parametrize(
    "message", ["max_tokens is too large: 8", "max_tokens must be between 1 and 4", "max_tokens: invalid, at most 4"]
)
def test_a_limit_with_a_bad_value_is_not_sent_under_another_name(server: Server, message: str) -> None:
    server.script = lambda content, number: (400, error(message, param="max_tokens"), {})
    with pytest.raises(InputError, match=f"HTTP 400: {message}"):
        complete(server)
    assert all("max_completion_tokens" not in body for body in server.bodies)


def test_a_summary_needs_a_limit(server: Server) -> None:
    server.script = lambda content, number: (400, error("no max_tokens, no max_completion_tokens: unsupported"), {})
    with pytest.raises(InputError, match="HTTP 400: no max_tokens"):
        complete(server)


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (
            400,
            error("The prompt was filtered by the content management policy.", code="content_filter"),
            "content_filter",
        ),
        (400, error("Input data may contain inappropriate content.", code="data_inspection_failed"), "content_filter"),
        (403, error("Your input was flagged", code=403, metadata={"reasons": ["harassment"]}), "content_filter"),
        (451, "prohibited here", "content_filter"),
        (400, error("This model's maximum context length is 512 tokens, with 8 in max_tokens. Reduce it."), "error"),
        (400, error("prompt is too long: 700 tokens > 512 maximum", type="invalid_request_error"), "error"),
        (413, "<html><center>413 Request Entity Too Large</center></html>", "error"),
        (422, {"detail": "Unprocessable"}, "error"),
        (400, {"object": "error", "message": "no"}, "error"),
    ],
)
@pytest.mark.parametrize("dialogue", [0, 1, 4])
def test_a_refused_dialogue_is_counted_and_the_run_goes_on(
    server: Server, status: int, body: Any, reason: str, dialogue: int
) -> None:
    server.script = lambda content, number: (status, body, {}) if content == f"dialogue {dialogue}" else None
    done = complete(server)
    assert {n: one for n, one in done.items() if n != dialogue} == {n: ALL[n] for n in range(5) if n != dialogue}
    assert (done[dialogue].text, done[dialogue].finish_reason) == ("", reason)
    assert str(done[dialogue].fault).startswith(f"HTTP {status}: ")
    assert server.contents.count(f"dialogue {dialogue}") == 1


def test_an_endpoint_that_refuses_every_dialogue_ends_the_run_after_three(server: Server) -> None:
    server.script = lambda content, number: (400, error("no"), {})
    with pytest.raises(InputError, match=r"HTTP 400: no\. The same for the first 3 dialogues"):
        complete(server)
    assert len(server.contents) == 3


@pytest.mark.parametrize("filtered", [3, 6, 12])
def test_filters_of_the_first_dialogues_do_not_end_a_run_whose_others_pass(server: Server, filtered: int) -> None:
    chats = [[{"role": "user", "content": f"dialogue {n:02}"}] for n in range(24)]
    fault = (400, error("against the policy", code="content_filter"), {})
    server.script = lambda content, number: fault if int(content[-2:]) < filtered else None
    batches = generate_batches(server.url, "m", chats, {}, first_wait=0.001)
    done = {i: one for batch in batches for i, one in batch}
    assert [i for i in range(24) if done[i].is_filtered] == list(range(filtered))
    assert len(server.contents) == 24


def test_filters_of_all_dialogues_end_the_run_with_what_to_do(server: Server) -> None:
    chats = [[{"role": "user", "content": f"dialogue {n:02}"}] for n in range(24)]
    server.script = lambda content, number: (400, error("against the policy", code="content_filter"), {})
    with pytest.raises(InputError, match=r"policy\. The same for the first 8 dialogues, short and long\. Leave such"):
        list(generate_batches(server.url, "m", chats, {}, first_wait=0.001))
    assert len(set(server.contents)) == len(server.contents) == 8
    assert server.contents[:4] == [f"dialogue {n:02}" for n in (0, 23, 11, 22)]


def test_when_the_longest_dialogues_are_refused_the_shortest_is_next(server: Server) -> None:
    chats = [[{"role": "user", "content": "a long dialogue " * n}] for n in (9, 8, 7, 6, 1, 2)]
    too_long = error("This model's maximum context length is 32 tokens.")
    server.script = lambda content, number: (400, too_long, {}) if len(content) > 50 else None
    batches = generate_batches(server.url, "m", chats, {}, first_wait=0.001)
    done = {i: one for batch in batches for i, one in batch}
    assert [bool(done[i].fault) for i in range(6)] == [True] * 4 + [False] * 2
    assert server.contents[1] == chats[4][0]["content"]


def test_a_key_is_no_part_of_a_message_and_summaries_are_left_alone(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "LOG")
    server.script = lambda content, number: (400, error("wrong LOG"), {}) if content.endswith("4") else None
    done = complete(server)
    assert done[0].text == "DIALOGUE 0"
    assert done[4].fault == "HTTP 400: wrong ***"


def test_an_error_of_one_answer_is_tried_again_and_then_counted(server: Server) -> None:
    failed = answer("", "error")
    failed["choices"][0]["error"] = {"code": 502, "message": "Upstream error"}
    server.script = lambda content, number: (200, failed, {}) if content == "dialogue 3" else None
    done = complete(server)
    assert done[3] == Completion("", None, None, "error", "error: HTTP 502: Upstream error")
    assert server.contents.count("dialogue 3") == 3
    assert {n for n in done if done[n] == ALL[n]} == {0, 1, 2, 4}


@pytest.mark.parametrize(
    "fault",
    [
        (200, error("Rate limit exceeded: free-models-per-min", code=429), {}),
        (200, error("Rate limit exceeded", code="rate_limited"), {}),
        (200, answer("half", "error"), {}),
        (429, error("Rate limit reached. Please try again in 20ms. Visit /account/billing", code="tpm"), {}),
        (429, error("You exceeded your current quota, check your plan and billing. Please retry in 0.01s."), {}),
        (429, error("You exceeded your current quota"), {"Retry-After": "0"}),
        (529, error("Overloaded", type="overloaded_error"), {}),
        (522, "<html>connection timed out</html>", {}),
    ],
)
def test_a_limit_per_minute_and_a_busy_server_are_waited_for(server: Server, fault: Any) -> None:
    server.script = lambda content, number: fault if number == 1 else None
    assert complete(server) == ALL


def test_a_wait_of_hours_ends_the_run(server: Server) -> None:
    server.script = lambda content, number: (429, error("daily limit"), {"Retry-After": "7200"})
    with pytest.raises(InputError, match=r"HTTP 429: daily limit\. It asks to wait 7200 s\. The summaries so far"):
        complete(server)


@pytest.mark.parametrize("body", ["<!doctype html><title>Web UI</title>", "", "OK", {"status": "ok"}, [1, 2]])
def test_a_page_in_place_of_an_api_is_known_within_five_seconds(server: Server, body: Any) -> None:
    server.script = lambda content, number: (200, body, {})
    started = time.monotonic()
    with pytest.raises(InputError, match=r"no chat completion: .*\(3 of 3 tries\). Is --base_url the address"):
        complete(server, first_wait=1.0)
    assert time.monotonic() - started < 5


def test_a_server_that_does_not_speak_http_is_known_at_once() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        other.settimeout(5)
        url = f"https://127.0.0.1:{other.getsockname()[1]}/v1"
        batches = generate_batches(url, "m", CHATS, {}, timeout=1.0, tries=1)
        with pytest.raises(InputError, match="127.0.0.1"):
            list(batches)


@pytest.mark.parametrize(
    ("base_url", "urls"),
    [
        ("http://host:1/v1", ["http://host:1/v1/chat/completions"]),
        ("http://host:1/v1/", ["http://host:1/v1/chat/completions"]),
        ("http://host:1/v1/chat/completions", ["http://host:1/v1/chat/completions"]),
        ("http://host:1/api/chat/completions/", ["http://host:1/api/chat/completions"]),
        ("http://host:1/v1/completions", ["http://host:1/v1/chat/completions"]),
        ("http://host:1/v1/models", ["http://host:1/v1/chat/completions"]),
        ("http://host:1", ["http://host:1/chat/completions", "http://host:1/v1/chat/completions"]),
        ("http://host/v1beta/openai/", ["http://host/v1beta/openai/chat/completions"]),
        (
            "https://x.azure.com/openai/deployments/d?api-version=2024-10-21",
            ["https://x.azure.com/openai/deployments/d/chat/completions?api-version=2024-10-21"],
        ),
        (
            "https://x.azure.com/openai/deployments/d/chat/completions?api-version=1",
            ["https://x.azure.com/openai/deployments/d/chat/completions?api-version=1"],
        ),
    ],
)
def test_addresses_as_they_are_copied_from_elsewhere(base_url: str, urls: list[str]) -> None:
    assert addresses(base_url) == urls


@pytest.mark.parametrize(
    "base_url",
    ["localhost:8000", "ftp://host/v1", "http://host:80a/v1", "http://:8000/v1", "https://", "http://me:key@host/v1"]
    + [f"http://host/v1?{name}=abc" for name in ("key", "api_key", "access-token", "sig", "code")],
)
def test_an_address_that_is_none_or_holds_a_secret_is_refused(base_url: str) -> None:
    with pytest.raises(InputError, match="give a URL such as|set OPENAI_API_KEY"):
        addresses(base_url)


@pytest.mark.parametrize(
    "wrong",
    [
        (404, {"detail": "Not Found"}, {}),
        (404, "404 page not found", {}),
        (405, "<html>nginx</html>", {}),
        (200, {"error": "Unexpected endpoint or method. (POST /chat/completions)"}, {}),
        (404, error("Invalid URL (POST /chat/completions)"), {}),
    ],
)
def test_v1_is_tried_where_the_address_has_none(server: Server, wrong: Any) -> None:
    server.script = lambda content, number: None if server.paths[-1].startswith("/v1/") else wrong
    assert complete(server, server.url.removesuffix("/v1")) == ALL
    assert server.paths == ["/chat/completions"] + ["/v1/chat/completions"] * 5


def test_the_query_of_an_address_is_kept_and_azure_gets_its_header(server: Server) -> None:
    assert complete(server, f"{server.url}/chat/completions?api-version=2024-10-21") == ALL
    assert set(server.paths) == {"/v1/chat/completions?api-version=2024-10-21"}
    assert server.headers[0]["api-key"] == KEY


def test_a_key_that_cannot_be_sent_is_refused_without_being_shown(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in ("sk-abc\nsk-def", "sk-\N{EN DASH}abc"):
        monkeypatch.setenv("OPENAI_API_KEY", key)
        with pytest.raises(InputError, match="OPENAI_API_KEY holds") as error_info:
            complete(server)
        assert "abc" not in str(error_info.value)


def test_more_fields_are_sent_and_null_leaves_one_out() -> None:
    assert request_fields(9, {}, {"temperature": None, "reasoning_effort": "low"}) == {
        "max_tokens": 9,
        "reasoning_effort": "low",
    }
    assert request_fields(9, {}, {"max_completion_tokens": 50, "stream": False}) == {
        "max_completion_tokens": 50,
        "stream": False,
        "temperature": 0.0,
    }


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"stream": True}, "--extra_body stream"),
        ({"n": 4}, "--extra_body n: give --num_candidates"),
        ({"model": "x"}, "--extra_body model: give --served_model_name"),
        ({"messages": []}, "--extra_body messages: give --instruction"),
        ({"api_key": "sk-secret"}, "--extra_body api_key would go into the record"),
    ],
)
def test_fields_that_belong_to_other_options_are_refused(extra: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as error_info:
        request_fields(9, {}, extra)
    assert "sk-secret" not in str(error_info.value)
