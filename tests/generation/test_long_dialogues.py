"""Long dialogues in windows: what is asked in which order, what is seen, what a fault does."""

from collections.abc import Callable
from typing import Any

from dialogsum_sft import InputError
from dialogsum_sft.arguments import LongArguments
from dialogsum_sft.data.encoding import build_prompts
from dialogsum_sft.data.prompts import PromptSettings
from dialogsum_sft.generation.engine import Completion, System
from dialogsum_sft.generation.long_dialogues import SO_FAR, Plan, carry_out, coverage_record, digest, make_plans

import pytest
from transformers import PreTrainedTokenizerFast

SAID = [f"{'Oren' if n % 2 else 'Mila'}: We talk about boat number {n} and its sails." for n in range(40)]
ROWS = [{"dialogue": "Mila: The boat leaves at six.\nOren: Good."}, {"dialogue": "\n".join(SAID)}]


class Limits:
    """What is asked of an engine before it completes anything."""

    name = "none"
    systems = [System("base", "zero-shot")]
    record: dict[str, Any] = {}
    samples = False
    max_new_tokens = 20
    max_length = 200

    def complete(self, *args: Any, **kwargs: Any) -> Any:
        raise AssertionError

    def close(self) -> None: ...


def planned(
    tokenizer: PreTrainedTokenizerFast, way: str, settings: PromptSettings | None = None, **options: Any
) -> list[Plan]:
    settings = settings or PromptSettings("Sum up.")
    prompts = build_prompts(ROWS, tokenizer, settings, 180)
    return make_plans(ROWS, prompts, tokenizer, settings, Limits(), LongArguments(long=way, **options))


class Model:
    """Completes with `answer(text, number of the call)` and keeps what it was asked."""

    def __init__(self, answer: Callable[[str, int], str | Completion]) -> None:
        self.answer, self.texts, self.rounds, self.keys = answer, list[str](), list[int](), list[str]()

    def __call__(self, asked: dict[str, Any]) -> dict[str, list[Completion]]:
        self.rounds.append(len(asked))
        drawn = {}
        for key, prompt in asked.items():
            made = self.answer(prompt.text, len(self.texts))
            self.texts.append(prompt.text)
            self.keys.append(key)
            assert len(prompt.ids) <= 180
            drawn[key] = [Completion(made, len(prompt.ids), 1, "stop") if isinstance(made, str) else made]
        return drawn


def first(drawn: list[Completion]) -> int:
    return 0


def test_map_reduce_summarises_windows_then_their_summaries(chatml_tokenizer: PreTrainedTokenizerFast) -> None:
    plans = planned(chatml_tokenizer, "map_reduce", long_overlap=1)
    model = Model(lambda text, number: f"S{number}.")
    prompts, drawn = carry_out(plans, model, first, ["a", "b"])
    number = model.rounds[0] - 1
    assert model.rounds == [1 + number, 1]
    assert model.texts[0] == ROWS[0]["dialogue"]
    lines = ROWS[1]["dialogue"].split("\n")
    heard = [text.split("\n") for text in model.texts[1:-1]]
    assert [line for at, window in enumerate(heard) for line in window[min(at, 1) :]] == lines
    assert [window[-1] for window in heard[:-1]] == [window[0] for window in heard[1:]]
    assert model.texts[-1] == "\n".join(f"S{n}." for n in range(1, number + 1))
    assert [several[0].text for several in drawn] == ["S0.", f"S{number + 1}."]
    coverage = {"windows": number, "calls": number + 1, "turns_seen": 1.0, "tokens_seen": 1.0}
    assert [prompt.coverage for prompt in prompts] == [{}, coverage]
    assert model.keys[0] == "a"  # one call: the dialogue's name; windows by their prompts
    assert model.keys[-1] == digest(prompts[1])
    assert coverage_record(LongArguments(long="map_reduce"), prompts) == {
        **{"way": "map_reduce", "overlap": 2.0, "dialogues": 1},
        **coverage,
    }


def test_summaries_that_do_not_fit_together_are_summarised_in_windows(
    chatml_tokenizer: PreTrainedTokenizerFast,
) -> None:
    model = Model(lambda text, number: f"They talk about boat number {number}, and about its sails too.")
    (prompt,), _ = carry_out(planned(chatml_tokenizer, "map_reduce")[1:], model, first)
    assert len(model.rounds) == 3
    assert model.rounds[0] > model.rounds[1] > model.rounds[2] == 1
    assert prompt.coverage == {"windows": model.rounds[0], "calls": sum(model.rounds)} | {
        **{"turns_seen": 1.0, "tokens_seen": 1.0},
    }
    second = "\n".join(model.texts[model.rounds[0] : -1]).split("\n")
    assert second == [f"They talk about boat number {n}, and about its sails too." for n in range(model.rounds[0])]


def test_summaries_longer_than_promised_are_shortened_and_counted(chatml_tokenizer: PreTrainedTokenizerFast) -> None:
    """As of an endpoint with another tokenizer."""
    for way in ("map_reduce", "refine"):
        model = Model(lambda text, number: "A very long summary of boats and sails. " * 40)
        (prompt,), _ = carry_out(planned(chatml_tokenizer, way)[1:], model, first)
        assert prompt.lost["dropped_tokens"] > 100
        assert prompt.coverage["turns_seen"] == 1.0


def test_refine_carries_the_summary_along(chatml_tokenizer: PreTrainedTokenizerFast) -> None:
    model = Model(lambda text, number: f"S{number}.")
    prompts, drawn = carry_out(planned(chatml_tokenizer, "refine", long_overlap=0), model, first)
    assert model.rounds == [2, *[1] * (len(model.rounds) - 1)]
    ours = model.texts[1:]
    assert [text.split("\n")[0] for text in ours[1:]] == [f"{SO_FAR}S{n}." for n in range(1, len(ours))]
    heard = [ours[0], *(text.split("\n", 1)[1] for text in ours[1:])]
    assert "\n".join(heard) == ROWS[1]["dialogue"]
    assert drawn[1][0].text == f"S{len(ours)}."
    assert prompts[1].coverage == {"windows": len(ours), "calls": len(ours), "turns_seen": 1.0, "tokens_seen": 1.0}


@pytest.mark.parametrize("way", ["map_reduce", "refine"])
def test_a_window_without_a_summary_is_not_seen(chatml_tokenizer: PreTrainedTokenizerFast, way: str) -> None:
    model = Model(lambda text, number: "<think>Hm." if number == 1 else "A boat.")
    (prompt,), _ = carry_out(planned(chatml_tokenizer, way, long_overlap=0)[1:], model, first)
    turns = [line for line in model.texts[1].split("\n") if not line.startswith(SO_FAR)]
    assert prompt.coverage["turns_seen"] == pytest.approx(1 - len(turns) / 40)
    assert 0.5 < prompt.coverage["tokens_seen"] < 1


@pytest.mark.parametrize("way", ["map_reduce", "refine"])
def test_a_fault_ends_the_dialogue(chatml_tokenizer: PreTrainedTokenizerFast, way: str) -> None:
    fault = Completion("", None, None, "error", "refused: no")
    model = Model(lambda text, number: fault if number == 1 else "A boat.")
    (prompt,), ((made,),) = carry_out(planned(chatml_tokenizer, way)[1:], model, first)
    assert made == fault
    assert prompt.text == model.texts[1]
    assert (prompt.coverage["calls"], prompt.coverage["turns_seen"]) == (sum(model.rounds), 0.0)


def test_a_speaker_has_the_same_tag_in_all_windows(chatml_tokenizer: PreTrainedTokenizerFast) -> None:
    model = Model(lambda text, number: "#Person2# has sails.")
    settings = PromptSettings("Sum up.", rename_speakers=True)
    plans = planned(chatml_tokenizer, "map_reduce", settings, long_overlap=0)
    (prompt,), _ = carry_out(plans[1:], model, first)
    windows = model.texts[: model.rounds[0]]
    numbers = [(line.split(":")[0], int(line.split(" ")[6]) % 2) for text in windows for line in text.split("\n")]
    assert set(numbers) == {("#Person1#", 0), ("#Person2#", 1)}
    assert prompt.names == {"#Person1#": "Mila", "#Person2#": "Oren"}


def test_shorten_is_one_call_with_its_coverage(chatml_tokenizer: PreTrainedTokenizerFast) -> None:
    model = Model(lambda text, number: "S.")
    prompts, _ = carry_out(planned(chatml_tokenizer, "shorten"), model, first)
    assert model.rounds == [2]
    lost, coverage = prompts[1].lost, prompts[1].coverage
    assert (coverage["windows"], coverage["calls"]) == (1, 1)
    assert coverage["turns_seen"] == pytest.approx(1 - lost["dropped_turns"] / 40)
    tokens = len(chatml_tokenizer(ROWS[1]["dialogue"])["input_ids"])
    assert coverage["tokens_seen"] == pytest.approx(1 - lost["dropped_tokens"] / tokens)
    assert coverage_record(LongArguments(), prompts)["turns_seen"] == pytest.approx((1 + coverage["turns_seen"]) / 2)


def test_a_prompt_without_room_for_two_summaries_is_an_error(
    chatml_tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Limits, "max_new_tokens", 100)
    with pytest.raises(
        InputError, match=r"dialogue 2, --long refine: two summaries of --max_new_tokens 100 do not fit"
    ):
        planned(chatml_tokenizer, "refine")
