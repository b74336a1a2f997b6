"""Evaluations of endpoints that refuse, filter, fail or shorten: what stands in the records and on the screen."""

import functools
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from conftest import Recipe
from dialogsum_sft.generation import openai_engine
from fake_endpoint import Server, answer, serving

import pytest

Evaluate = Callable[..., None]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with serving(monkeypatch) as server:
        yield server


@pytest.fixture
def evaluate(recipe: Recipe, server: Server, tmp_path: Path) -> Evaluate:
    flags = ["--dataset_name=sample", f"--output_dir={tmp_path}", "--num_examples=0", "--engine=openai"]
    return functools.partial(recipe, "eval", *flags, f"--base_url={server.url}", "--served_model_name=gpt-x")


def written(folder: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    with (folder / "eval-gpt-x" / "predictions.jsonl").open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return rows, json.loads((folder / "eval-gpt-x" / "metrics.json").read_text())


def empty(reason: str, **message: Any) -> dict[str, Any]:
    record = answer("", reason)
    record["choices"][0]["message"] = {"role": "assistant", "content": None, **message}
    return record


def test_each_answer_that_is_no_summary_is_counted_and_named(
    evaluate: Evaluate, server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    failed = answer("", "error")
    failed["choices"][0]["error"] = {"code": 502, "message": "upstream"}
    half = json.dumps(answer("They agree X")).replace("X", "\\ud83d")
    limit = answer("They agree to", "stop")
    limit["usage"]["completion_tokens"] = 20
    answers: list[Any] = [
        (200, answer("They agree."), {}),
        (400, {"error": {"message": "against the policy", "code": "content_filter"}}, {}),
        (400, {"error": {"message": "maximum context length is 512 tokens"}}, {}),
        (200, empty("content_filter"), {}),
        (200, empty("stop", refusal="I cannot."), {}),
        (200, empty("length", reasoning_content="Hm."), {}),
        (200, failed, {}),
        (200, half, {}),
        (200, answer("They agree to", "MAX_TOKENS"), {}),
        (200, limit, {}),
        (200, answer("They agree.", None), {}),  # type: ignore[arg-type]
    ]
    dialogues: list[str] = []

    def script(content: str, number: int) -> Any:
        if content not in dialogues:
            dialogues.append(content)
        return answers[dialogues.index(content)]

    server.script = script
    flags = [f"--max_eval_samples={len(answers)}", "--concurrency=1", "--max_new_tokens=20"]
    evaluate(*flags)
    rows, metrics = written(tmp_path)
    assert [row["finish_reason"] for row in rows] == [
        *("stop", "content_filter", "error", "content_filter", "stop", "length", "error"),
        *("stop", "MAX_TOKENS", "length", None),
    ]
    assert [bool(row["prediction"]) for row in rows] == [True] + [False] * 6 + [True] * 4
    assert rows[7]["prediction"] == "They agree \ufffd"
    assert {at: row["fault"] for at, row in enumerate(rows) if "fault" in row} == {
        1: "HTTP 400: against the policy",
        2: "HTTP 400: maximum context length is 512 tokens",
        4: "refusal: I cannot.",
        5: "reasoning without an answer",
        6: "error: HTTP 502: upstream",
    }
    assert metrics["engine"]["outcomes"] == {
        **{"stop": 2, "content_filter": 2, "HTTP 400": 1, "refusal": 1, "reasoning without an answer": 1},
        **{"error": 1, "MAX_TOKENS": 1, "length": 1, "none": 1},
    }
    said = " ".join(capsys.readouterr().out.split())
    for line in (
        f"2 of 11 dialogues: content_filter (HTTP 400: against the policy): {rows[1]['id']}, {rows[3]['id']}",
        f"1 of 11 dialogues: HTTP 400 (HTTP 400: maximum context length is 512 tokens): {rows[2]['id']}",
        f"1 of 11 dialogues: refusal (refusal: I cannot.): {rows[4]['id']}",
        f"1 of 11 dialogues: error (error: HTTP 502: upstream): {rows[6]['id']}",
    ):
        assert line in said
    sent = len(server.contents)
    evaluate(*flags)
    assert server.contents[sent:] == [dialogues[6]] * 3  # the error may pass; all others are there


def test_refused_fields_are_recorded_and_the_evaluation_stays_the_same(
    evaluate: Evaluate, server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def script(content: str, number: int) -> Any:
        refused = {"max_tokens", "temperature"} & server.bodies[-1].keys()
        error = {"message": f"Unsupported parameter: {sorted(refused)}", "param": min(refused, default=None)}
        return (400, {"error": error}, {}) if refused else None

    server.script = script
    evaluate("--max_eval_samples=3", '--extra_body={"reasoning_effort": "low"}')
    _, metrics = written(tmp_path)
    assert metrics["engine"]["refused_fields"].keys() == {"max_tokens", "temperature"}
    assert metrics["engine"]["generation"] == {"max_tokens": 128, "temperature": 0.0, "reasoning_effort": "low"}
    assert server.bodies[-1]["reasoning_effort"] == "low"
    sent = len(server.contents)
    evaluate("--max_eval_samples=3", '--extra_body={"reasoning_effort": "low"}')
    assert len(server.contents) == sent
    with pytest.raises(SystemExit):
        evaluate("--max_eval_samples=3", '--extra_body={"reasoning_effort": "high"}')
    assert """holds another run (--extra_body '{"reasoning_effort": "low"}' there, '""" in capsys.readouterr().err
    assert len(server.contents) == sent


def test_a_refused_dialogue_is_not_asked_again_when_the_evaluation_goes_on(
    evaluate: Evaluate, server: Server, tmp_path: Path
) -> None:
    def script(content: str, number: int) -> Any:
        sent = len(server.contents)
        return (400, {"error": {"message": "no"}}, {}) if sent == 2 else (401, "out", {}) if sent > 3 else None

    server.script = script
    with pytest.raises(SystemExit):
        evaluate("--max_eval_samples=5", "--concurrency=1")
    server.script = lambda content, number: None
    evaluate("--max_eval_samples=5", "--concurrency=1")
    assert len(server.contents) == 4 + 2
    rows, metrics = written(tmp_path)
    assert [row.get("fault") for row in rows] == [None, "HTTP 400: no", None, None, None]
    assert metrics["engine"]["resumed"] == 3


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((401, {"error": {"message": "Incorrect API key"}}, {}), "HTTP 401: Incorrect API key. Set OPENAI_API_KEY"),
        ((404, {"error": {"message": "model 'gpt-x' not found"}}, {}), "Is there a model gpt-x"),
        ((200, "<html>Welcome</html>", {}), "Is --base_url the address of an API?"),
        ((429, {"error": {"message": "pay", "code": "insufficient_quota"}}, {}), "nothing left to pay with"),
        ((308, "", {"Location": "https://other/v1/chat/completions"}), "redirects to https://other/v1/chat/comp"),
        ((400, {"error": {"message": "no"}}, {}), "HTTP 400: no. The same for the first 3 dialogues"),
    ],
)
def test_what_no_wait_mends_is_one_line_within_five_seconds(
    evaluate: Evaluate, server: Server, capsys: pytest.CaptureFixture[str], answer: Any, message: str
) -> None:
    asked: list[float] = []

    def script(content: str, number: int) -> Any:
        asked.append(time.monotonic())
        return answer

    server.script = script
    with pytest.raises(SystemExit) as exit_info:
        evaluate("--max_eval_samples=4")
    assert exit_info.value.code == 2
    assert time.monotonic() - asked[0] < 5
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert message in error


@pytest.mark.parametrize(
    "fault",
    [
        "close",
        (200, "<html>Bad gateway</html>", {}),
        (503, {"error": {"message": "no [worker] is free"}}, {}),
    ],
)
def test_faults_that_pass_are_tried_again_by_another_run_and_refusals_are_not(
    evaluate: Evaluate,
    server: Server,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    fault: Any,
) -> None:
    monkeypatch.setattr(openai_engine.Client, "__init__", quick(openai_engine.Client.__init__))
    dialogues: list[str] = []
    refused = (400, {"error": {"message": "against the policy", "code": "content_filter"}}, {})

    def script(content: str, number: int) -> Any:
        if content not in dialogues:
            dialogues.append(content)
        return {1: fault, 2: refused, 4: fault}.get(dialogues.index(content))

    def said() -> str:
        return " ".join(capsys.readouterr().out.split())

    server.script = script
    evaluate("--max_eval_samples=6", "--concurrency=1")
    assert [bool(row.get("fault")) for row in written(tmp_path)[0]].count(True) == 3
    first = said()
    assert "2 of 6 dialogues: " in first
    assert "Start the evaluation again to try these again" in first
    filtered = "warning: 1 of 6 dialogues: content_filter (HTTP 400: against the policy)"
    assert filtered in first

    server.contents.clear()
    evaluate("--max_eval_samples=6", "--concurrency=1")  # they fail again, and it ends as before
    assert set(server.contents) == {dialogues[1], dialogues[4]}
    again = said()
    assert "eval-gpt-x: 2 dialogues that failed are tried again" in again
    assert "2 of 6 dialogues: " in again

    server.contents.clear()
    server.script = lambda content, number: None
    evaluate("--max_eval_samples=6")
    assert sorted(server.contents) == sorted([dialogues[1], dialogues[4]])
    rows, metrics = written(tmp_path)
    assert [row["fault"] for row in rows if row.get("fault")] == ["HTTP 400: against the policy"]
    assert metrics["engine"]["outcomes"] == {"stop": 5, "content_filter": 1}
    said()

    evaluate("--max_eval_samples=6")
    assert len(server.contents) == 2
    assert filtered in said()
    assert not list((tmp_path / "eval-gpt-x").glob("*partial*"))


def quick(init: Callable[..., None]) -> Callable[..., None]:
    """A client whose waits are short."""

    def short(self: Any, *args: Any) -> None:
        init(self, *args)
        self.first_wait = 0.001

    return short


@pytest.mark.parametrize(
    "cut",
    [answer("They agree to", "max_tokens"), answer("<think>Well", "length"), answer("They", "MAX_TOKENS")],
)
@pytest.mark.parametrize("whole", [0, 2])
def test_half_of_the_summaries_cut_off_are_a_warning_with_what_to_do(
    evaluate: Evaluate, server: Server, capsys: pytest.CaptureFixture[str], cut: Any, whole: int
) -> None:
    server.script = lambda content, number: (200, cut if len(server.contents) > whole else answer("They agree."), {})
    for _ in range(2):
        evaluate("--max_eval_samples=4", "--concurrency=1")
        said = " ".join(capsys.readouterr().out.split())
        assert f"warning: {4 - whole} of 4 summaries are cut off. Give it more room (--max_new_tokens) or less" in said


def test_a_server_that_shortens_prompts_is_told_from_another_template(
    evaluate: Evaluate, server: Server, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cut = answer("They agree.")
    cut["usage"]["prompt_tokens"] = 50
    server.script = lambda content, number: (200, cut, {})
    evaluate("--max_eval_samples=3", f"--model_name_or_path={tiny_folder}")
    said = " ".join(capsys.readouterr().out.split())
    assert "fewer prompt tokens than were sent for 3 of 3 dialogues (down to 50): the server shortened them" in said
    assert "template is another one" not in said
