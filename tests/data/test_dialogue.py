"""Turns are parsed without loss, dialogues shortened by whole turns, speakers renamed and back."""

from collections.abc import Callable

from dialogsum_sft.data.dialogue import (
    GAP,
    join_messages,
    rename_speakers,
    restore_speakers,
    shorten,
    split_turns,
    swap_speakers,
)

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

WORDS = ["tea", "the", "bill", "please", "yes", "no", "Ann", "10:30", "http://a.b", "#Person1#", "Bob's", "-", "é"]
SPEAKERS = ["#Person1#", "#Person2#", "Ann", "Dr. Lee", "Customer"]
lines = st.lists(st.sampled_from(WORDS), min_size=1, max_size=12).map(" ".join)
turns = st.tuples(st.sampled_from(SPEAKERS), lines).map(": ".join)
dialogues = st.lists(turns, min_size=1, max_size=30).map("\n".join)


def words(texts: list[str]) -> list[int]:
    return [len(text.split()) for text in texts]


def characters(texts: list[str]) -> list[int]:
    return [len(text) for text in texts]


@given(st.text() | dialogues)
def test_the_raw_turns_joined_are_the_dialogue(dialogue: str) -> None:
    assert "".join(turn.raw for turn in split_turns(dialogue)) == dialogue


@pytest.mark.parametrize("end", ["\n", "\r\n", "\u2028", "\n\n"])
def test_any_line_end_separates_turns(end: str) -> None:
    dialogue = f"#Person1#: Hi.{end}#Person2#: Hello,{end}again.{end}"
    found = split_turns(dialogue)
    assert [turn.speaker for turn in found] == ["#Person1#", "#Person2#"]
    assert "".join(turn.raw for turn in found) == dialogue


@pytest.mark.parametrize(
    ("line", "speaker"),
    [
        ("#Person1#: Hi.", "#Person1#"),
        ("#Person1#:Hi.", "#Person1#"),
        ("Ann: Hi.", "Ann"),
        ("Mary Ann: Hi.", "Mary Ann"),
        ("Dr. Lee: Hi.", "Dr. Lee"),
        ("Ludwig van Beethoven: Hi.", "Ludwig van Beethoven"),
        ("Agent 2: Hi.", "Agent 2"),
        ("Ольга: Да.", "Ольга"),
        ("小明：你好。", "小明"),
        ("[Agent] Hi.", "Agent"),
        ("[Agent]: Hi.", "Agent"),
        ("<kim> Hi.", "kim"),
        ("@AppleSupport: Hi.", "@AppleSupport"),
        ("http://example.org is down", None),
        ("10:30 is fine", None),
        ("One more thing: the bill", None),
        ("He said: no", None),
        ("[laughs] You wish", None),
        (":-) fine", None),
        ("", None),
    ],
)
def test_speaker_labels(line: str, speaker: str | None) -> None:
    dialogue = f"#Person9#: first\n{line}"
    last = split_turns(dialogue)[-1]
    assert (last.speaker if last.speaker != "#Person9#" else None) == speaker


def test_text_before_the_first_speaker_is_a_turn() -> None:
    assert [(turn.speaker, turn.text) for turn in split_turns("In a shop.\nAnn: Hi.\nthere")] == [
        (None, "In a shop."),
        ("Ann", "Hi.\nthere"),
    ]


@pytest.mark.parametrize(
    ("messages", "text"),
    [
        ([{"speaker": "Ann", "text": "Hi."}, {"speaker": "Bob", "text": "Yes?"}], "Ann: Hi.\nBob: Yes?"),
        ([{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Yes?"}], "user: Hi.\nassistant: Yes?"),
        ([{"from": "human", "value": "Hi."}, {"from": "gpt", "value": "Yes?"}], "human: Hi.\ngpt: Yes?"),
        ([{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}], "user: a b"),
        ([{"name": "Ann", "utterance": "two\nlines"}], "Ann: two lines"),
        ([{"text": "alone"}], "alone"),
    ],
)
def test_lists_of_turns_become_lines(messages: list[dict[str, object]], text: str) -> None:
    assert join_messages(messages) == text


@pytest.mark.parametrize(
    "messages",
    [[], "text", ["a"], [{}], [{"speaker": "Ann"}], [{"text": None}], [{"text": 3}], [{"speaker": 3, "text": "a"}],
     [{"content": [{"type": "image_url"}]}]],
)  # fmt: skip
def test_other_lists_are_refused(messages: object) -> None:
    with pytest.raises(ValueError, match=r"turn|dialogue"):
        join_messages(messages)  # type: ignore[arg-type]


@settings(deadline=None)
@pytest.mark.parametrize("count", [words, characters])
@given(dialogue=dialogues, share=st.floats(0.05, 1.2))
def test_shortened_fits_and_keeps_whole_turns(
    count: Callable[[list[str]], list[int]], dialogue: str, share: float
) -> None:
    (whole,) = count([dialogue])
    budget = max(count([GAP])[0] + 40, int(whole * share))
    result = shorten(dialogue, budget, count)
    assert count([result.text])[0] <= budget
    if whole <= budget:
        assert (result.text, result.dropped_turns, result.cut_turn) == (dialogue, 0, False)
        return
    before = [turn.raw for turn in split_turns(dialogue)]
    if not result.cut_turn:
        kept = len(before) - result.dropped_turns
        splits = [(opening, kept - opening) for opening in range(kept + 1)]
        candidates = [
            "".join([*before[:opening], f"{GAP}\n" if end else GAP, *before[len(before) - end :]])
            for opening, end in splits
        ]
        assert result.text in candidates
        assert result.dropped_turns > 0
    assert shorten(result.text, budget, count).text == result.text


def test_first_and_last_turns_are_kept_and_the_gap_is_marked() -> None:
    dialogue = "\n".join(f"#Person{n % 2 + 1}#: turn {n} of ten" for n in range(10))
    result = shorten(dialogue, 22, words)
    assert result.text.split("\n") == [
        "#Person1#: turn 0 of ten",
        "#Person2#: turn 1 of ten",
        GAP,
        "#Person1#: turn 8 of ten",
        "#Person2#: turn 9 of ten",
    ]
    assert (result.dropped_turns, result.cut_turn) == (6, False)


def test_a_single_turn_is_cut_between_words() -> None:
    result = shorten("#Person1#: " + "word " * 100 + "end", 10, words)
    assert result.text == "#Person1#: " + "word " * 8 + GAP
    assert (result.dropped_turns, result.cut_turn) == (0, True)


def test_a_long_dialogue_costs_few_calls() -> None:
    calls = []

    def count(texts: list[str]) -> list[int]:
        calls.append(len(texts))
        return words(texts)

    dialogue = "\n".join(f"Ann: turn number {n}" for n in range(2000))
    assert shorten(dialogue, 500, count).dropped_turns > 1800
    assert len(calls) <= 6


def test_too_small_a_budget_is_refused() -> None:
    with pytest.raises(ValueError, match="budget of 1 tokens is too small"):
        shorten("Ann: one two three", 1, words)


def test_speakers_become_tags_and_are_restored() -> None:
    dialogue = "Ann: Hi Bob.\nBob: Ann! Annie's here.\nDr. Lee: Bob's ill."
    renamed = rename_speakers(dialogue, "Ann meets Bob and Dr. Lee.")
    assert renamed.text == "#Person1#: Hi #Person2#.\n#Person2#: #Person1#! Annie's here.\n#Person3#: #Person2#'s ill."
    assert renamed.summary == "#Person1# meets #Person2# and #Person3#."
    assert renamed.names == {"#Person1#": "Ann", "#Person2#": "Bob", "#Person3#": "Dr. Lee"}
    assert restore_speakers(renamed.text, renamed.names) == dialogue
    assert restore_speakers("#Person2# is ill.", renamed.names) == "Bob is ill."


def test_existing_tags_are_kept() -> None:
    dialogue = "#Person1#: Hi.\nAnn: Hi."
    assert rename_speakers(dialogue).text == dialogue
    assert rename_speakers(dialogue).names == {}


@given(dialogues | st.text(), lines)
def test_renaming_round_trips(dialogue: str, summary: str) -> None:
    renamed = rename_speakers(dialogue, summary)
    assert restore_speakers(renamed.text, renamed.names) == dialogue
    assert restore_speakers(renamed.summary or "", renamed.names) == summary


@given(dialogues, lines)
def test_swapping_twice_gives_the_original(dialogue: str, summary: str) -> None:
    assert swap_speakers(*swap_speakers(dialogue, summary)) == (dialogue, summary)


def test_speakers_are_exchanged_in_dialogue_and_summary() -> None:
    assert swap_speakers("#Person1#: Tea, #Person2#?\n#Person2#: No.", "#Person1# offers #Person2# tea.") == (
        "#Person2#: Tea, #Person1#?\n#Person1#: No.",
        "#Person2# offers #Person1# tea.",
    )
    assert swap_speakers("Ann: alone", "Ann talks.") == ("Ann: alone", "Ann talks.")
