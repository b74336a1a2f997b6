"""Windows of whole turns: exact ones of small dialogues, and what holds of all."""

import random

from dialogsum_sft import InputError
from dialogsum_sft.data.dialogue import Dialogue, Turn
from dialogsum_sft.data.windows import Window, cut_text, cut_turns, even_spans, spans, windows

import pytest


def count(texts: list[str]) -> list[int]:
    """A token for each word."""
    return [len(text.split()) for text in texts]


def characters(texts: list[str]) -> list[int]:
    return [len(text) for text in texts]


def prompts(texts: list[str]) -> list[int]:
    """An instruction of three words."""
    return [3 + number for number in count(texts)]


def dialogue(*texts: str) -> Dialogue:
    return Dialogue.of([Turn.spoken("AB"[number % 2], text) for number, text in enumerate(texts)])


def texts(found: list[Window]) -> list[str]:
    return [window.dialogue.text for window in found]


def test_spans_are_filled_and_repeat_the_overlap() -> None:
    assert spans([1] * 6, 3, 3, 0) == [(0, 3), (3, 6)]
    assert spans([1] * 6, 3, 3, 1) == [(0, 3), (2, 5), (4, 6)]
    assert spans([1] * 6, 4, 4, 0.5) == [(0, 4), (2, 6)]
    assert spans([1] * 6, 4, 4, 0.3) == [(0, 4), (2, 6)]  # a share is rounded up
    assert spans([2, 2, 5, 1], 6, 6, 1) == [(0, 2), (2, 4)]  # the overlap would not leave room for the next
    assert spans([], 6, 6, 1) == []


def test_windows_are_of_about_equal_size() -> None:
    assert spans([1] * 7, 6, 6, 0) == [(0, 6), (6, 7)]
    assert even_spans([1] * 7, 6, 0) == [(0, 4), (4, 7)]
    assert even_spans([3], 3, 0) == [(0, 1)]


def test_windows_of_whole_turns() -> None:
    found = windows(dialogue("one two", "three", "four", "five"), 10, prompts, count, 1)
    assert texts(found) == ["A: one two\nB: three", "B: three\nA: four\nB: five"]
    assert [(window.pieces, window.turns) for window in found] == [(range(2), (0, 1)), (range(1, 4), (1, 2, 3))]


def test_a_turn_longer_than_a_window_is_cut_after_sentences_and_keeps_its_speaker() -> None:
    long = "One two three four. Five six seven. Eight nine ten eleven twelve. " * 2
    found = windows(dialogue("hello", long, "bye"), 23, prompts, count, 0)
    assert texts(found) == [
        "A: hello\nB: One two three four. Five six seven.\nB: Eight nine ten eleven twelve. One two three four.",
        "B: Five six seven. Eight nine ten eleven twelve.\nA: bye",
    ]
    assert [window.turns for window in found] == [(0, 1, 1), (1, 2)]


def test_text_is_cut_after_a_sentence_else_a_word_else_anywhere() -> None:
    assert cut_text("One two. Three four five.", 4, count) == ["One two. ", "Three four five."]
    assert cut_text("one two three four five", 3, count) == ["one two three ", "four five"]
    assert cut_text("abcdefgh", 3, lambda texts: [len(text) for text in texts]) == ["abc", "def", "gh"]
    assert cut_text("今天。明天见面吧。", 5, lambda texts: [len(text) for text in texts]) == [
        "今天。",
        "明天见面吧",
        "。",
    ]


def test_no_room_for_a_label_is_an_error() -> None:
    one = Dialogue((Turn("A", "a very long label of nine words this is: text and more\n", 41),))
    with pytest.raises(InputError, match="turn 1: its label leaves no room"):
        cut_turns(one, 5, count)


@pytest.mark.parametrize("seed", range(40))
def test_every_word_is_in_a_window_that_fits(seed: int) -> None:
    rng = random.Random(seed)
    lengths = [rng.choice([1, 2, 5, 9, 30, 90]) for _ in range(rng.randint(2, 40))]
    numbers = iter(range(10**6))
    made = dialogue(*(" ".join(f"w{next(numbers)}" + rng.choice(["", "."]) for _ in range(n)) for n in lengths))
    limit, overlap = rng.randint(15, 60), rng.choice([0, 1, 2, 5, 0.1, 0.5])
    found = windows(made, limit, prompts, count, overlap)
    assert max(prompts(texts(found))) <= limit
    seen = {word for text in texts(found) for word in text.split() if word[0] == "w"}
    assert seen == {word for word in made.text.split() if word[0] == "w"}
    assert {turn for window in found for turn in window.turns} == set(range(len(lengths)))
    sizes = count([turn.raw for _, turn in cut_turns(made, limit - 3, count)])
    for one, following in zip(found, found[1:], strict=False):
        assert one.pieces.start < following.pieces.start <= one.pieces.stop < following.pieces.stop
        asked = overlap if overlap >= 1 else -(-len(one.pieces) * overlap // 1)
        asked = min(asked, len(one.pieces) - 1)
        repeated = one.pieces.stop - following.pieces.start
        if repeated != asked:  # one more would not leave room for the next
            assert repeated < asked
            assert sum(sizes[following.pieces.start - 1 : one.pieces.stop + 1]) > limit - 3
