"""Summarising with an engine: order, candidates, seeds, the journal; opening an engine by its options."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dialogsum_sft import InputError
from dialogsum_sft.arguments import GenerationArguments
from dialogsum_sft.data.encoding import Prompt
from dialogsum_sft.generation.engine import Completion, System, Watch, max_prompt_tokens
from dialogsum_sft.generation.journal import Journal
from dialogsum_sft.generation.summarise import open_engine, prediction, share, summarise

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
        self,
        prompts: Sequence[Prompt],
        *,
        adapter: bool,
        seeds: Sequence[int] | None = None,
        watch: Watch | None = None,
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


def open_tiny(
    folder: Path, tokenizer: Any, evaluate_base: bool = True, output_dir: Path | None = None, **options: Any
) -> Any:
    model_args = ModelConfig(model_name_or_path=str(folder))
    return open_engine(
        GenerationArguments(**options), model_args, tokenizer, evaluate_base=evaluate_base, output_dir=output_dir
    )


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


def test_a_local_model_does_not_overwrite_the_run_of_an_endpoint(
    tiny_folder: Path, chatml_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    (tmp_path / "eval-a").mkdir()
    record = {"model": {"base": "a"}, "engine": {"base_url": "http://localhost/v1"}}
    (tmp_path / "eval-a" / "metrics.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match="eval-a has the scores of an endpoint's model: give another --output_dir"):
        open_tiny(tiny_folder, chatml_tokenizer, adapter_path="a", output_dir=tmp_path)


def test_an_endpoint_without_a_tokenizer_has_no_max_length() -> None:
    options = {"engine": "openai", "base_url": "http://localhost/v1", "served_model_name": "m"}
    engine = open_engine(GenerationArguments(**options), ModelConfig(), None)
    assert (engine.max_length, max_prompt_tokens(engine)) == (None, None)
    assert [(system.name, system.weights) for system in engine.systems] == [("m", None)]
