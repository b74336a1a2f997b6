"""Shortened dialogues fit, use their budget, and keep their opening and their end."""

import random
from collections.abc import Callable

from dialogsum_sft.data.shortening import GAP, shorten

import pytest
from hypothesis import given
from hypothesis import strategies as st
from labelled_dialogues import dialogues, labelled


def words(texts: list[str]) -> list[int]:
    return [len(text.split()) for text in texts]


def characters(texts: list[str]) -> list[int]:
    return [len(text) for text in texts]


@pytest.mark.parametrize("count", [words, characters])
@given(text=dialogues, share=st.floats(0.05, 1.2))
def test_a_shortened_dialogue_fits(count: Callable[[list[str]], list[int]], text: str, share: float) -> None:
    (whole,) = count([text])
    budget = max(count([GAP])[0] + 40, int(whole * share))
    result = shorten(labelled(text), budget, count)
    assert count([result.dialogue.text])[0] <= budget
    assert result.dropped_tokens == whole - count([result.dialogue.text])[0]
    if whole <= budget:
        assert (result.dialogue.text, result.dropped_turns, result.cut_turns) == (text, 0, 0)
        return
    assert result.dropped_turns + result.cut_turns > 0
    assert GAP in result.dialogue.text
    assert text.startswith(result.dialogue.text.split(GAP)[0].rstrip())


def test_first_and_last_turns_are_kept_and_the_gap_is_marked() -> None:
    text = "\n".join(f"#Person{n % 2 + 1}#: turn {n} of ten" for n in range(10))
    result = shorten(labelled(text), 21, words)
    assert result.dialogue.text.split("\n") == [
        "#Person1#: turn 0 of ten",
        "#Person2#: turn 1 of ten",
        GAP,
        "#Person1#: turn 8 of ten",
        "#Person2#: turn 9 of ten",
    ]
    assert (result.dropped_turns, result.cut_turns, result.dropped_tokens) == (6, 0, 29)


def test_one_long_turn_loses_its_middle() -> None:
    text = "Ann: first\nBob: " + " ".join(f"w{n}" for n in range(1000)) + "\nAnn: last"
    result = shorten(labelled(text), 104, words)
    lines = result.dialogue.text.split("\n")
    assert (lines[0], lines[-1]) == ("Ann: first", "Ann: last")
    assert lines[1].startswith("Bob: w0 w1 w2")
    assert lines[1].endswith("w998 w999")
    assert GAP in lines[1]
    assert (result.dropped_turns, result.cut_turns) == (0, 1)
    assert words([result.dialogue.text])[0] >= 100


def test_the_end_of_the_last_turn_is_kept_even_where_it_is_long() -> None:
    text = "Ann: " + "a " * 500 + "\nBob: " + "b " * 500 + "the end"
    result = shorten(labelled(text), 100, words)
    assert result.dialogue.text.endswith("the end")
    assert result.dialogue.text.startswith("Ann: a a")
    assert "\nBob: b b" in result.dialogue.text
    assert words([result.dialogue.text])[0] >= 95


def test_the_budget_is_used() -> None:
    """Over 1,000 random dialogues, of turns short and long: at least 85% of the budget, the last words always kept."""
    generator = random.Random(0)
    shares = []
    for _ in range(1000):
        lengths = [generator.choice([1, 3, 8, 30, 200]) for _ in range(generator.randint(1, 40))]
        text = "\n".join(f"P{n % 3}: " + " ".join(f"w{n}_{i}" for i in range(size)) for n, size in enumerate(lengths))
        (whole,) = words([text])
        if whole < 40:
            continue
        budget = generator.randint(20, whole - 1)
        result = shorten(labelled(text), budget, words)
        shares.append(words([result.dialogue.text])[0] / budget)
        assert result.dialogue.text.split()[-1] == text.split()[-1]
    assert min(shares) >= 0.85, min(shares)
    assert sorted(shares)[len(shares) // 2] >= 0.97


sizes = st.lists(st.sampled_from([1, 2, 5, 20, 90, 300]), min_size=2, max_size=12)


@pytest.mark.parametrize("count", [words, characters])
@given(sizes=sizes, share=st.floats(0.02, 0.99))
def test_the_last_turn_is_whole_unless_it_exceeds_half_of_the_budget(
    count: Callable[[list[str]], list[int]], sizes: list[int], share: float
) -> None:
    """Of a longer one the end is kept."""
    text = "\n".join(f"P{n % 3}: " + " ".join(f"w{n}_{i}" for i in range(size)) for n, size in enumerate(sizes))
    (whole,) = count([text])
    budget = max(count([GAP])[0] + 40, int(whole * share))
    kept = shorten(labelled(text), budget, count).dialogue
    last = text.split("\n")[-1]
    assert kept.text.split()[-1] == last.split()[-1]
    if count([last])[0] <= (budget - count([f"{GAP}\n"])[0]) / 2:
        assert kept.turns[-1].raw == last


def test_a_long_dialogue_costs_few_calls() -> None:
    calls = []

    def count(texts: list[str]) -> list[int]:
        calls.append(len(texts))
        return words(texts)

    text = "\n".join(f"Ann: turn number {n}" for n in range(2000))
    assert shorten(labelled(text), 500, count).dropped_turns > 1800
    assert len(calls) <= 40


def test_too_small_a_budget_is_refused() -> None:
    with pytest.raises(ValueError, match="budget of 1 tokens is too small"):
        shorten(labelled("Ann: one two three"), 1, words)
