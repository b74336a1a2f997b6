"""Requests to an OpenAI-compatible endpoint and its faults, with a server in this process."""

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

from dialogsum_sft import InputError
from dialogsum_sft.generation.engine import Completion
from dialogsum_sft.generation.openai_engine import generate_batches, request_fields
from fake_endpoint import KEY, Server, answer, serving

import pytest

CHATS = [[{"role": "user", "content": f"dialogue {n}"}] for n in range(5)]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with serving(monkeypatch) as server:
        yield server


def complete(server: Server, done: dict[int, Completion] | None = None, **kwargs: Any) -> dict[int, Completion]:
    done = {} if done is None else done
    options = {"first_wait": 0.001, "timeout": 5.0} | kwargs
    chats = options.pop("chats", CHATS)
    for batch in generate_batches(server.url, "m", chats, request_fields(8, {}), **options):
        done.update(batch)
    return done


ALL = {n: Completion(f"DIALOGUE {n}", 7, 3, "stop") for n in range(5)}


def test_each_dialogue_is_one_greedy_request_with_the_key(server: Server) -> None:
    assert complete(server) == ALL
    assert sorted(server.contents) == [f"dialogue {n}" for n in range(5)]
    body = server.bodies[server.contents.index("dialogue 3")]
    assert body == {"model": "m", "messages": CHATS[3], "max_tokens": 8, "temperature": 0.0}
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"


def test_without_a_key_there_is_no_authorization_header(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    complete(server)
    assert "Authorization" not in server.headers[0]


def test_each_sampling_request_has_its_own_seed(server: Server) -> None:
    complete(server, seeds=[10, 11, 12, 13, 14])
    seeds = {body["messages"][0]["content"]: body["seed"] for body in server.bodies}
    assert seeds == {f"dialogue {n}": 10 + n for n in range(5)}


def test_concurrent_requests_are_limited_to_the_concurrency(server: Server) -> None:
    barrier = threading.Barrier(3)  # breaks unless three requests run at once

    def wait(content: str, number: int) -> None:
        if content in ("dialogue 1", "dialogue 2", "dialogue 3"):  # after the first, which is alone
            barrier.wait(timeout=5)

    server.script = wait
    assert complete(server, concurrency=3) == ALL
    assert server.most_at_once == 3


@pytest.mark.parametrize(
    "fault",
    [
        (429, {"error": {"message": "slow down"}}, {"Retry-After": "0"}),
        (500, "oops", {}),
        (503, "", {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}),
        (200, "<html>Bad gateway</html>", {}),
        (200, {"choices": []}, {}),
        (200, answer("cut")["choices"], {}),
        "close",
    ],
)
def test_temporary_errors_are_retried(server: Server, fault: Any) -> None:
    server.script = lambda content, number: fault if number <= 2 else None
    assert complete(server) == ALL
    assert len(server.contents) == 15


def test_a_request_that_times_out_is_retried(server: Server) -> None:
    server.script = lambda content, number: "hang" if (content, number) == ("dialogue 2", 1) else None
    assert complete(server, timeout=0.5) == ALL
    assert server.contents.count("dialogue 2") == 2


def test_retry_after_is_obeyed(server: Server) -> None:
    server.script = lambda content, number: (429, "", {"Retry-After": "0.3"}) if number == 1 else None
    started = time.monotonic()
    assert complete(server, first_wait=0.0) == ALL
    assert time.monotonic() - started >= 0.3


@pytest.mark.parametrize(
    ("fault", "recorded"),
    [
        ((503, "busy", {}), "HTTP 503 at each try: busy"),
        ((429, "slow down", {}), "HTTP 429 at each try: slow down"),
        ("close", "no connection at each try: Server disconnected"),
        ("hang", "timeout at each try: no answer within 0.3 s (--request_timeout)"),
        ((200, "<html>Bad gateway</html>", {}), "error: the answer is no chat completion: '<html>Bad gateway</html>'"),
        ((504, "the request took too long", {}), "HTTP 504 at each try: the request took too long"),
    ],
)
@pytest.mark.parametrize("failing", [0, 2, 4])
def test_a_dialogue_that_always_fails_is_recorded_and_the_run_goes_on(
    server: Server, fault: Any, recorded: str, failing: int
) -> None:
    server.script = lambda content, number: fault if content == f"dialogue {failing}" else None
    done = complete(server, tries=3, timeout=0.3 if fault == "hang" else 5.0)
    assert done == ALL | {failing: Completion("", None, None, "error", recorded)}
    assert done[failing].may_pass
    assert server.contents.count(f"dialogue {failing}") == 3


@pytest.mark.parametrize("failing", [0, 2])
@pytest.mark.parametrize(
    ("status", "message"),
    [
        (500, "input is too long: the request exceeds the available context size. try increasing it"),
        (500, "the prompt is too long for this model"),
        (503, "This model's maximum context length is 512 tokens"),
        (429, "Request too large for gpt-x on tokens per min (TPM): Limit 900, Requested 1000"),
        (404, "prompt exceeds the context window"),
        (200, "Requested tokens (700) exceed context window of 512"),
    ],
)
def test_a_dialogue_that_is_too_long_is_known_at_once_whatever_the_status(
    server: Server, status: int, message: str, failing: int
) -> None:
    record = (status, {"error": {"message": message}}, {})
    server.script = lambda content, number: record if content == f"dialogue {failing}" else None
    done = complete(server)
    assert {n for n in done if done[n] == ALL[n]} == set(range(5)) - {failing}
    assert message in str(done[failing].fault)
    assert not done[failing].may_pass
    assert server.contents.count(f"dialogue {failing}") == 1


def test_a_limit_of_tokens_per_minute_is_waited_for(server: Server) -> None:
    fault = (429, {"error": {"message": "You exceeded your token rate limit. Too many tokens, please wait"}}, {})
    server.script = lambda content, number: fault if number == 1 else None
    assert complete(server) == ALL


@pytest.mark.parametrize("concurrency", [1, 2])
@pytest.mark.parametrize("fault", ["close", (503, "busy", {}), (200, "<html>Bad gateway</html>", {})])
def test_where_nothing_succeeds_any_more_the_run_ends_and_the_rest_is_kept(
    server: Server, concurrency: int, fault: Any
) -> None:
    chats = [[{"role": "user", "content": f"dialogue {n}"}] for n in range(20)]
    server.script = lambda content, number: fault if len(server.contents) > 3 else None
    done: dict[int, Completion] = {}
    last = r"\(2 of 2 tries\)\. The same for the last 4 dialogues\. The summaries so far are kept"
    with pytest.raises(InputError, match=last):
        complete(server, done, chats=chats, concurrency=concurrency, tries=2)
    assert sum(not one.fault for one in done.values()) == 3
    assert all(one.may_pass for one in done.values() if one.fault)
    assert len(server.contents) <= 3 + 2 * (4 + 2 * concurrency)


def test_an_endpoint_that_fails_at_all_dialogues_ends_the_run_after_three(server: Server) -> None:
    server.script = lambda content, number: (500, "oops", {})
    with pytest.raises(InputError, match=r"HTTP 500: oops \(6 of 6 tries\)\. The same for the first 3 dialogues"):
        complete(server)
    assert len(server.contents) == 6 + 1 + 1


def test_what_failed_once_before_the_first_success_is_tried_again(server: Server) -> None:
    def script(content: str, number: int) -> Any:
        return (500, "starting", {}) if content == "dialogue 1" or len(server.contents) < 8 else None

    chats = [[{"role": "user", "content": "dialogue " + "0" * n}] for n in (5, 4, 3, 2)]
    server.script = script
    batches = generate_batches(server.url, "m", chats, {}, first_wait=0.001)
    done = {i: one for batch in batches for i, one in batch}
    assert [one.fault for _, one in sorted(done.items())] == ["HTTP 500 at each try: starting", None, None, None]


def test_the_only_missing_dialogue_may_fail_where_others_succeeded_earlier(server: Server) -> None:
    server.script = lambda content, number: (500, "oops", {})
    done = dict(*generate_batches(server.url, "m", CHATS[:1], {}, first_wait=0.001, has_succeeded=True))
    assert done[0].fault == "HTTP 500 at each try: oops"
    server.script = lambda content, number: (400, "flagged by the content filter", {})
    done = dict(*generate_batches(server.url, "m", CHATS[:1], {}, first_wait=0.001, has_succeeded=True))
    assert done[0].finish_reason == "content_filter"


def test_a_wait_of_no_seconds_grows_like_others(server: Server) -> None:
    server.script = lambda content, number: (429, "", {"Retry-After": "0"}) if number <= 4 else None
    started = time.monotonic()
    done = dict(*generate_batches(server.url, "m", CHATS[:1], {}, first_wait=0.04))
    assert done[0] == ALL[0]
    assert time.monotonic() - started >= 0.04 * (1 + 2 + 4 + 8) / 2


def test_running_requests_finish_when_another_fails(server: Server) -> None:
    refused = threading.Event()

    def script(content: str, number: int) -> Any:
        if content == "dialogue 1":
            refused.set()
            return 401, {"error": {"message": "the key has expired"}}, {}
        if content != "dialogue 0":
            refused.wait(timeout=5)
        return None

    server.script = script
    done: dict[int, Completion] = {}
    with pytest.raises(InputError, match="HTTP 401: the key has expired"):
        complete(server, done, concurrency=3)
    assert done.items() >= {n: ALL[n] for n in (0, 2, 3)}.items()
    assert 1 not in done


def test_an_error_does_not_wait_for_the_retry_of_another_request(server: Server) -> None:
    waiting = threading.Event()

    def script(content: str, number: int) -> Any:
        if content == "dialogue 1":
            waiting.set()
            return 429, "", {"Retry-After": "500"}
        if content == "dialogue 2":
            waiting.wait(timeout=5)
            return 403, "no", {}
        return None

    server.script = script
    with pytest.raises(InputError, match="HTTP 403: no"):
        complete(server, concurrency=2)


@pytest.mark.parametrize(
    ("status", "record", "message"),
    [
        (401, {"error": {"message": f"Incorrect API key provided: {KEY}"}}, "provided: ***. Set OPENAI_API_KEY"),
        (404, {"detail": "Not Found"}, "HTTP 404: Not Found. Is there a model m"),
        (404, {"error": {"message": "The model 'm' does not exist"}}, "Is there a model m"),
        (400, {"error": {"message": "API key not valid. Please pass a valid key."}}, ". Set OPENAI_API_KEY"),
        (400, {"message": "Invalid model: m", "object": "error"}, "Is there a model m"),
        (
            405,
            "<html><head><style>p {}</style></head><h1>Method Not Allowed</h1></html>",
            "HTTP 405: Method Not Allowed",
        ),
        (402, {"error": {"message": "Insufficient credits"}}, "nothing left to pay with"),
        (429, {"error": {"message": "no more", "code": "insufficient_quota"}}, "nothing left to pay with"),
        (429, {"error": {"message": "You exceeded your current quota"}}, "nothing left to pay with"),
        (400, {"error": {"message": "Your credit balance is too low"}}, "nothing left to pay with"),
        (302, "", "HTTP 302: no message. It redirects to http://127.0.0.1:9/: give that as --base_url"),
        (501, {"error": "not implemented"}, "HTTP 501: not implemented"),
        (200, {"error": "Unexpected endpoint or method. (POST /x)"}, "does --base_url end in /v1?"),
        (200, {"error": {"message": "who are you?", "code": 401}}, "HTTP 401: who are you?. Set OPENAI_API_KEY"),
    ],
)
def test_a_client_error_is_not_retried_and_its_message_hides_the_key(
    server: Server, status: int, record: Any, message: str
) -> None:
    server.script = lambda content, number: (status, record, {"Location": "http://127.0.0.1:9/"})
    with pytest.raises(InputError) as error_info:
        complete(server, concurrency=1)
    assert message in str(error_info.value)
    assert KEY not in str(error_info.value)
    assert len(server.contents) == 1


def test_a_missing_server_is_one_line() -> None:
    with pytest.raises(InputError, match="no connection: .* Is the server running there?"):
        list(generate_batches("http://127.0.0.1:9/v1", "m", CHATS, {}))


def test_an_unfinished_answer_has_finish_reason_length_and_may_lack_token_counts(server: Server) -> None:
    record = answer("They", finish_reason="length")
    del record["usage"]
    server.script = lambda content, number: (200, record, {})
    assert complete(server)[0] == Completion("They", None, None, "length")


def test_options_are_renamed_for_the_protocol() -> None:
    assert request_fields(9, {"do_sample": True, "temperature": 0.5, "top_p": 0.9, "stop_strings": ["\n"]}) == {
        "max_tokens": 9,
        "temperature": 0.5,
        "top_p": 0.9,
        "stop": ["\n"],
    }


def test_options_unknown_to_the_protocol_are_refused() -> None:
    with pytest.raises(InputError, match="has no num_beams, top_k;"):
        request_fields(9, {"num_beams": 4, "top_k": 10})


def streamed(*texts: str) -> str:
    events = [{"choices": [{"delta": {"content": text}, "finish_reason": None}]} for text in texts]
    events += [{"choices": [{"delta": {}, "finish_reason": "stop"}]}]
    events += [{"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3}}]
    return "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"


def test_the_answer_to_one_dialogue_that_is_watched_is_a_stream(server: Server) -> None:
    server.script = lambda content, number: (200, streamed("They ", "greet."), {"Content-Type": "text/event-stream"})
    seen: list[str] = []
    assert complete(server, chats=CHATS[:1], watch=seen.append) == {0: Completion("They greet.", 7, 3, "stop")}
    assert "They greet." in seen
    assert server.bodies[0]["stream"] is True
    assert server.bodies[0]["stream_options"] == {"include_usage": True}


def test_an_endpoint_without_streams_is_watched_too(server: Server) -> None:
    refusal = {"error": {"message": "Unrecognized request argument supplied: stream_options"}}
    server.script = lambda content, number: (400, refusal, {}) if number == 1 else None
    assert complete(server, chats=CHATS[:1], watch=lambda text: None) == {0: ALL[0]}
    assert "stream_options" not in server.bodies[1]


def test_what_a_watch_raises_closes_the_connection(server: Server) -> None:
    server.script = lambda content, number: "hang"

    def stop(text: str) -> None:
        raise KeyError

    start = time.monotonic()
    with pytest.raises(KeyError):
        complete(server, chats=CHATS[:1], watch=stop)
    assert time.monotonic() - start < 3
