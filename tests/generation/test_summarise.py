"""Summarising with an engine: order, candidates, seeds, the journal; opening an engine by its options."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dialogsum_sft.arguments import EvalArguments
from dialogsum_sft.data.encoding import Prompt
from dialogsum_sft.generation.engine import Completion, System, max_prompt_tokens
from dialogsum_sft.generation.journal import Journal
from dialogsum_sft.generation.summarise import doubts, open_engine, outcomes, prediction, share, summarise

import pytest
from transformers import PreTrainedTokenizerFast
from trl import ModelConfig


class ReversingEngine:
    """Completes a prompt with its reversed text and its seed, the last prompt first, two at a time."""

    name = "reversing"
    systems = [System("base", "zero-shot")]
    record: dict[str, Any] = {"name": name}
    max_new_tokens = 8
    max_length = 20

    def __init__(self, samples: bool = False, fail_after: int | None = None) -> None:
        self.samples, self.fail_after = samples, fail_after
        self.completed: list[str] = []

    def complete(
        self, prompts: Sequence[Prompt], *, adapter: bool, seeds: Sequence[int] | None = None
    ) -> Iterator[list[tuple[int, Completion]]]:
        order = list(range(len(prompts)))[::-1]
        for start in range(0, len(order), 2):
            if self.fail_after is not None and len(self.completed) >= self.fail_after:
                raise KeyboardInterrupt
            batch = order[start : start + 2]
            self.completed += [prompts[i].text for i in batch]
            ends = ["" if seeds is None else str(seeds[i]) for i in batch]
            yield [
                (i, Completion(prompts[i].text[::-1] + end, len(prompts[i].ids), 1, "stop"))
                for i, end in zip(batch, ends, strict=True)
            ]

    def close(self) -> None:
        pass


def prompts(*texts: str) -> list[Prompt]:
    return [Prompt(text, [{"role": "user", "content": text}], ids=[1] * len(text)) for text in texts]


def texts(completions: list[list[Completion]]) -> list[list[str]]:
    return [[completion.text for completion in candidates] for candidates in completions]


def test_completions_are_in_the_order_of_the_prompts() -> None:
    assert texts(summarise(ReversingEngine(), prompts("ab", "cdef", "g"), adapter=False)) == [["ba"], ["fedc"], ["g"]]


def test_each_candidate_has_its_own_seed() -> None:
    engine = ReversingEngine(samples=True)
    completions = summarise(engine, prompts("ab", "c"), adapter=False, num_candidates=2, seed=10)
    assert texts(completions) == [["ba10", "ba11"], ["c12", "c13"]]


def test_an_interrupted_run_resumes_from_its_journal(tmp_path: Path) -> None:
    many, ids = prompts("aaaaa", "bbbb", "ccc", "dd", "e"), ["1", "2", "3", "4", "5"]
    broken = ReversingEngine(fail_after=2)
    with pytest.raises(KeyboardInterrupt):
        summarise(broken, many, adapter=False, journal=Journal(tmp_path, {}, ids))
    engine = ReversingEngine()
    journal = Journal(tmp_path, {}, ids)
    assert len(journal.done) == 2
    completions = summarise(engine, many, adapter=False, journal=journal)
    assert texts(completions) == [["aaaaa"], ["bbbb"], ["ccc"], ["dd"], ["e"]]
    assert sorted(engine.completed + broken.completed) == sorted(prompt.text for prompt in many)


def test_a_complete_journal_runs_no_engine(tmp_path: Path) -> None:
    """An engine that does not run does not load its model."""
    one = prompts("ab")
    summarise(ReversingEngine(), one, adapter=False, journal=Journal(tmp_path, {}, ["1"]))
    engine = ReversingEngine(fail_after=0)
    assert texts(summarise(engine, one, adapter=False, journal=Journal(tmp_path, {}, ["1"]))) == [["ba"]]


def test_a_missing_completion_is_an_error() -> None:
    engine = ReversingEngine()
    engine.complete = lambda *args, **kwargs: iter([])  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="1 of 1 completions are missing"):
        summarise(engine, prompts("ab"), adapter=False)


def test_processes_share_all_prompts_evenly_by_tokens() -> None:
    lengths = [(i * 37) % 101 for i in range(9)]
    parts = [share(range(9), lengths, rank, 2) for rank in range(2)]
    assert sorted(parts[0] + parts[1]) == list(range(9))
    assert abs(sum(lengths[i] for i in parts[0]) - sum(lengths[i] for i in parts[1])) <= max(lengths)


def test_a_prediction_restores_the_names_of_renamed_speakers() -> None:
    prompt = Prompt(
        "#Person1#: Hi.", [], ids=[1, 2], lost={"dropped_turns": 3, "cut_turns": 0}, names={"#Person1#": "Ann"}
    )
    row = {"id": "a", "dialogue": "Ann: Hi.", "references": ["Ann says hi."], "topic": None}
    completion = Completion("#Person1# greets.", 2, 5, "length")
    assert prediction(row, prompt, completion, [completion]) == {
        **{"id": "a", "dialogue": "Ann: Hi.", "references": ["Ann says hi."], "prediction": "Ann greets."},
        **{"prompt_tokens": 2, "completion_tokens": 5, "finish_reason": "length", "dropped_turns": 3},
    }
    several = prediction(row | {"topic": "greeting"}, prompt, completion, [completion, completion])
    assert (several["candidates"], several["topic"]) == (["Ann greets."] * 2, "greeting")


def rows(number: int) -> list[dict[str, str]]:
    return [{"id": f"d{n}"} for n in range(number)]


def test_equal_candidates_and_other_prompt_tokens_are_noted() -> None:
    completion = Completion("a", 3, 1, "stop")
    two = prompts("ab", "abc")
    assert doubts(rows(2), two, [[completion]] * 2, [completion] * 2) == [
        "the endpoint counts other prompt tokens than the training had for 1 of 2 dialogues: its chat template is "
        "another one"
    ]
    assert doubts(rows(1), two[1:], [[completion, completion]], [completion]) == [
        "all candidates of every dialogue are alike: the engine does not sample"
    ]
    assert doubts(rows(1), two[1:], [[completion]], [completion]) == []


def test_prompts_that_the_server_shortened_are_no_other_template() -> None:
    def warnings(*counts: int | None) -> list[str]:
        chosen = [Completion("a", count, 1, "stop") for count in counts]
        three = prompts("a" * 20, "a" * 30, "a" * 40)
        return [line.split(":")[0] for line in doubts(rows(3), three, [[one] for one in chosen], chosen)]

    shortened = "the endpoint counts fewer prompt tokens than were sent for {} of 3 dialogues (down to {})"
    other = "the endpoint counts other prompt tokens than the training had for {} of 3 dialogues"
    assert warnings(20, 30, 40) == []
    assert warnings(None, None, None) == []
    assert warnings(20, 25, 25) == [shortened.format(2, 25)]
    assert warnings(20, 30, 35) == [shortened.format(1, 35)]
    assert warnings(10, 10, 10) == [shortened.format(3, 10)]
    assert warnings(25, 35, 45) == [other.format(3)]
    assert warnings(15, 25, 35) == [other.format(3)]  # the same everywhere: a system message less
    assert warnings(25, 35, 30) == [shortened.format(1, 30), other.format(2)]


def test_answers_that_are_no_summary_are_counted_by_name_with_their_dialogues() -> None:
    chosen = [
        Completion("a", None, 1, "stop"),
        Completion("", None, 1, "content_filter", "HTTP 400: against the policy"),
        Completion("a", None, 1, "MAX_TOKENS"),
        Completion("a", None, 1, "content_filter"),
        Completion("", None, 1, "stop", "refusal: I cannot."),
        Completion("", None, None, "error", "error: HTTP 502: upstream"),
        Completion("", None, None, "length", "reasoning without an answer"),
        Completion("a", None, 1, None),
    ]
    expected = {"stop": 1, "content_filter": 2, "MAX_TOKENS": 1, "refusal": 1, "error": 1}
    assert outcomes(chosen) == expected | {"reasoning without an answer": 1, "none": 1}
    lines = doubts(rows(8), prompts(*"aaaaaaaa"), [[one] for one in chosen], chosen)
    assert lines[:3] == [
        "2 of 8 dialogues: content_filter (HTTP 400: against the policy): d1, d3",
        "1 of 8 dialogues: refusal (refusal: I cannot.): d4",
        "1 of 8 dialogues: error (error: HTTP 502: upstream): d5",
    ]
    assert lines[3].startswith("1 of 8 dialogues: reasoning without an answer: d6. Give it more room (--max_new_tok")
    assert lines[4:] == ["1 of 8 answers do not say how they ended, so whether they were cut off"]


def open_tiny(folder: Path, tokenizer: Any, **options: Any) -> Any:
    return open_engine(EvalArguments(**options), ModelConfig(model_name_or_path=str(folder)), tokenizer)


def test_the_transformers_engine_loads_its_model_on_first_use(
    tiny_folder: Path, chatml_tokenizer: PreTrainedTokenizerFast
) -> None:
    engine = open_tiny(tiny_folder, chatml_tokenizer, max_new_tokens=4)
    assert "model" not in vars(engine)
    assert (engine.max_length, max_prompt_tokens(engine)) == (2048, 2044)
    assert [(system.name, system.label, system.adapter) for system in engine.systems] == [("base", "zero-shot", False)]
    ids = chatml_tokenizer("Ann: Hi.")["input_ids"]
    ((completion,),) = summarise(engine, [Prompt("Ann: Hi.", [], ids=ids)], adapter=False)
    assert completion.prompt_tokens == len(ids)
    assert "model" in vars(engine)
    engine.close()
    assert "model" not in vars(engine)


def test_systems_follow_the_adapter_and_the_number_of_candidates(
    tiny_folder: Path, chatml_tokenizer: PreTrainedTokenizerFast
) -> None:
    both = open_tiny(tiny_folder, chatml_tokenizer, adapter_path="runs/x/adapter").systems
    assert [(system.name, system.adapter, system.weights) for system in both] == [
        ("base", False, None),
        ("tuned", True, Path("runs/x/adapter")),
    ]
    tuned = open_tiny(tiny_folder, chatml_tokenizer, adapter_path="a", evaluate_base=False, num_candidates=8)
    assert [(system.name, system.label, system.weights) for system in tuned.systems] == [
        ("a-mbr8", "a, best of 8", None)
    ]
    assert tuned.record["generation"]["temperature"] == 0.7


def test_an_endpoint_without_a_tokenizer_has_no_max_length() -> None:
    options = {"engine": "openai", "base_url": "http://localhost/v1", "served_model_name": "m"}
    engine = open_engine(EvalArguments(**options), ModelConfig(), None)
    assert (engine.max_length, max_prompt_tokens(engine)) == (None, None)
    assert [(system.name, system.weights) for system in engine.systems] == [("m", None)]
