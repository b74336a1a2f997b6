"""What the page shows of a request: text as it is written, the queue, stops, faults, marks and ROUGE."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from dialogsum_sft import InputError, Summarizer
from dialogsum_sft.data.inputs import read_dataset
from dialogsum_sft.demo.answers import Answer, Answers, turns_read
from dialogsum_sft.demo.examples import examples_of
from dialogsum_sft.demo.waiting import Waiting
from fake_endpoint import Server, answer, serving

import pytest

TEXT = "Mila: The boat leaves at six.\nOren: Then I set the alarm for five."
SYSTEMS = [("Base model", "tiny", True), ("Tuned", "run", False)]


@pytest.fixture(scope="module")
def summarizer(whole_run: Callable[..., Path], tiny_folder: Path) -> Summarizer:
    adapter = Path(whole_run()) / "adapter"
    return Summarizer.from_pretrained(adapter, max_new_tokens=12, model_name_or_path=str(tiny_folder))


def make(summarizer: Any, systems: Any = SYSTEMS, **options: Any) -> Answers:
    return Answers(summarizer, systems, Waiting(2, 99), **{"max_characters": 1000} | options)


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Server, Answers]]:
    with serving(monkeypatch) as server:
        one = Summarizer.from_pretrained(server.url, served_model_name="m")
        yield server, make(one, [("Model", "m", False)])


def last(answers: Answers, text: str, references: str = "") -> Answer:
    return list(answers.stream(text, references, threading.Event()))[-1]


def test_both_systems_write_what_summarize_gives(summarizer: Summarizer, tiny_folder: Path) -> None:
    shown = last(make(summarizer), TEXT)
    alone = Summarizer.from_pretrained(tiny_folder, max_new_tokens=12, max_length=summarizer._args.max_length)
    assert [column.text for column in shown.columns] == [one.summarize(TEXT) for one in (alone, summarizer)]
    assert [column.state for column in shown.columns] == ["done"] * 2
    assert [column.summary for column in shown.columns][1] == summarizer.summarize(TEXT, records=True)
    assert shown.status.startswith("Done in ")


def test_text_is_shown_while_it_is_written(summarizer: Summarizer, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = threading.Semaphore(0)
    write = summarizer.write
    monkeypatch.setattr(
        summarizer,
        "write",
        lambda row, prompt, watch, base: write(row, prompt, lambda t: (watch(t), steps.acquire())[0], base=base),
    )
    seen: list[str] = []
    for shown in make(summarizer, SYSTEMS[1:]).stream(TEXT, "", threading.Event()):
        seen.append(shown.columns[0].text)
        steps.release()
    assert len(dict.fromkeys(seen)) > 4
    assert seen[-1] == summarizer.summarize(TEXT)


def test_a_stop_ends_the_generation_and_keeps_the_text(
    summarizer: Summarizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped, calls = threading.Event(), 0
    write = summarizer.write

    def slow(row: Any, prompt: Any, watch: Any, base: bool) -> Any:
        def watched(text: str) -> None:
            nonlocal calls
            calls += 1
            watch(text)
            if calls == 3:
                stopped.set()

        return write(row, prompt, watched, base=base)

    monkeypatch.setattr(summarizer, "write", slow)
    answers = make(summarizer)
    shown = list(answers.stream(TEXT, "", stopped))[-1]
    assert calls == 4  # the next token ends it
    assert [column.state for column in shown.columns] == ["stopped", ""]
    assert shown.status.startswith("Stopped after ")
    assert answers.waiting.ahead(answers.waiting.enter()) == 0


def test_a_page_that_is_gone_ends_its_generation(summarizer: Summarizer, monkeypatch: pytest.MonkeyPatch) -> None:
    answers, stopped, write = make(summarizer), threading.Event(), summarizer.write
    monkeypatch.setattr(  # the second token comes when the page is gone
        summarizer,
        "write",
        lambda row, prompt, watch, base: write(row, prompt, lambda t: (watch(t), stopped.wait())[0], base=base),
    )
    stream = answers.stream(TEXT, "", stopped)
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert stopped.is_set()
    assert answers.waiting.ahead(answers.waiting.enter()) == 0


def test_the_end_of_the_program_ends_what_is_being_written(
    summarizer: Summarizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = make(summarizer)
    write, calls = summarizer.write, []

    def closing(row: Any, prompt: Any, watch: Any, base: bool) -> Any:
        def watched(text: str) -> None:
            calls.append(text)
            watch(text)
            answers.close()

        return write(row, prompt, watched, base=base)

    monkeypatch.setattr(summarizer, "write", closing)
    shown = last(answers, TEXT)
    assert len(calls) == 2
    assert [column.state for column in shown.columns] == ["stopped", ""]


def test_a_request_waits_for_those_before_it_and_can_be_stopped_there(summarizer: Summarizer) -> None:
    answers = make(summarizer)
    first = answers.waiting.enter()
    stream = answers.stream(TEXT, "", stopped := threading.Event())
    assert next(stream).status == "In the queue: 1 request is served before this one."
    stopped.set()
    assert [shown.status for shown in stream] == ["Stopped before it began."]
    answers.waiting.leave(first)
    assert last(answers, TEXT).status.startswith("Done in ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (" \n", "There is no dialogue yet"),
        ("x" * 1001, "has 1,001 characters, and the page takes 1,000"),
        ("[]", "This cannot be read as a dialogue"),
    ],
)
def test_what_cannot_be_summarised_is_told(summarizer: Summarizer, text: str, message: str) -> None:
    shown = last(make(summarizer), text)
    assert message in shown.status
    assert shown.failed


def test_names_numbers_and_tags_that_the_dialogue_lacks_are_marked(endpoint: tuple[Server, Answers]) -> None:
    server, answers = endpoint
    text = "Mila tells #Person3# and Quentin that the boat costs 48 dollars."
    server.script = lambda content, number: (200, answer(text), {})
    (column,) = last(answers, TEXT).columns
    marked = {text: kind for text, kind in column.pieces if kind}
    assert marked == {"#Person3#": "tag", "Quentin": "name", "48": "number"}
    assert "".join(piece for piece, _ in column.pieces) == text
    assert {name for name, _ in column.findings} == {"name", "number", "tag"}
    assert (column.summary.prompt_tokens, column.summary.completion_tokens) == (7, 3)
    assert column.rouge == {}


def test_rouge_is_the_mean_over_the_references(endpoint: tuple[Server, Answers]) -> None:
    server, answers = endpoint
    server.script = lambda content, number: (200, answer("The boat leaves at six."), {})
    shown = last(answers, TEXT, "The boat leaves at six.\n\nOren sleeps.")
    assert shown.references == 2
    assert shown.columns[0].rouge == {"ROUGE-1": 50.0, "ROUGE-2": 50.0, "ROUGE-L": 50.0}


def test_an_endpoint_that_fails_is_told_in_its_column(endpoint: tuple[Server, Answers]) -> None:
    server, answers = endpoint
    server.script = lambda content, number: (401, {"error": {"message": "bad key"}}, {})
    (column,) = last(answers, TEXT).columns
    assert column.state == "failed"
    assert "HTTP 401: bad key. Set OPENAI_API_KEY" in column.fault


@pytest.mark.parametrize("limit", [90, 140, 200])
@pytest.mark.parametrize("rename", [False, True])
def test_turns_that_the_prompt_lacks_are_marked(
    whole_run: Callable[..., Path], tiny_folder: Path, limit: int, rename: bool
) -> None:
    one = Summarizer.from_pretrained(
        tiny_folder, max_new_tokens=12, max_length=limit + 12, rename_speakers=rename, instruction="Summarise."
    )
    lines = [f"{name}: Turn {n} of this is about boat number {n} and its sails." for n in range(6) for name in "AB"]
    row = one.read("\n".join(lines))
    prompt = one.prompts([row])[0]
    turns = turns_read(make(one)._as_given(row), prompt)
    states = [turn.state for turn in turns]
    assert (states.count("dropped"), states.count("cut")) == (prompt.lost["dropped_turns"], prompt.lost["cut_turns"])
    assert states.count("dropped") > 0
    read = " ".join(text.strip() for turn in turns for text, is_read in turn.pieces if is_read)
    words = [word for word in prompt.text.replace("[...]", " ").split() if not word.endswith(":")]
    assert read.split() == words
    assert [turn.speaker for turn in turns[:2]] == (["#Person1#", "#Person2#"] if rename else ["A", "B"])


def test_the_sample_has_each_dialogue_once_with_its_references(summarizer: Summarizer) -> None:
    args = summarizer.dialogue_args
    rows, examples = examples_of(read_dataset("sample", "test", args).rows, args)
    assert len(rows) == len(examples) == 24
    assert {len(example.references) for example in examples} == {3}
    assert [row["dialogue"] for row in rows] == [example.dialogue for example in examples]
    assert make(summarizer, rows=rows, max_characters=9000)._read(examples[3].dialogue)[0] is rows[3]


def test_a_prompt_that_cannot_fit_is_told(tiny_folder: Path) -> None:
    one = Summarizer.from_pretrained(tiny_folder, max_new_tokens=12, max_length=20)
    with pytest.raises(InputError):
        one.prompts([one.read(TEXT)])
    assert "too long even when shortened" in last(make(one), TEXT).status
