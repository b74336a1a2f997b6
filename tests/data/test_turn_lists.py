"""Lists of turns of every usual shape; what they lack is named."""

from typing import Any

from dialogsum_sft.data.turn_lists import parse_turns
from dialogsum_sft.data.turn_objects import TurnKeys

import pytest
from hypothesis import given
from hypothesis import strategies as st


def said(value: Any, **options: Any) -> list[tuple[str | None, str]]:
    dialogue, _ = parse_turns(value, **options)
    return [(turn.speaker, turn.text) for turn in dialogue.turns]


TWO = [("Ann", "Hi."), ("Bob", "Yes?")]


@pytest.mark.parametrize(
    "value",
    [
        [{"speaker": "Ann", "text": "Hi."}, {"speaker": "Bob", "text": "Yes?"}],
        [{"role": "user", "name": "Ann", "content": "Hi."}, {"role": "user", "name": "Bob", "content": "Yes?"}],
        [{"from": "Ann", "value": "Hi."}, {"from": "Bob", "value": "Yes?"}],
        [{"type": "message", "user": "Ann", "text": "Hi."}, {"type": "message", "user": "Bob", "text": "Yes?"}],
        [{"author": {"name": "Ann"}, "body": "Hi."}, {"author": {"name": "Bob"}, "body": "Yes?"}],
        [{"from_name": "Ann", "utterance": "Hi."}, {"from_name": "Bob", "utterance": "Yes?"}],
        [{"participant": "Ann", "transcript": "Hi."}, {"participant": "Bob", "transcript": "Yes?"}],
        [["Ann", "Hi."], ["Bob", "Yes?"]],
        {"speaker": ["Ann", "Bob"], "utterance": ["Hi.", "Yes?"]},
        {"utterances": [{"speaker": "Ann", "transcript": "Hi."}, {"speaker": "Bob", "transcript": "Yes?"}]},
        {"results": {"utterances": [{"speaker": "Ann", "text": "Hi."}, {"speaker": "Bob", "text": "Yes?"}]}},
        [{"speaker": "Ann", "text": [{"type": "text", "text": "Hi."}]}, {"speaker": "Bob", "text": ["Yes?"]}],
        [{"speakerName": "Ann", "Text": "Hi."}, {"SPEAKER": "Bob", "message_text": "Yes?"}],
        [{"who": "Ann", "words": "Hi."}, {"participantRole": "Bob", "content": "Yes?"}],
        [{"speaker": "Ann", "text": "Hi.", "words": [{"word": "Hi."}]}, {"speaker": "Bob", "text": "Yes?"}],
        [{"Ann": "Hi."}, {"Bob": "Yes?"}],
        ["Ann: Hi.", "Bob: Yes?"],
        ["[Ann] Hi.", "", "**Bob:** Yes?"],
        {"1": {"speaker": "Ann", "text": "Hi."}, "2": {"speaker": "Bob", "text": "Yes?"}},
        {"speakers": ["Ann", "Bob"], "utterances": ["Hi.", "Yes?"], "acts": [[1], [2]]},
        {"name": ["Ann", "Bob"], "sentence": ["Hi.", "Yes?"], "topics": ["one"]},
        {"from": ["Ann", "Bob"], "value": ["Hi.", "Yes?"]},
    ],
)
def test_shapes_of_turn_lists(value: Any) -> None:
    assert said(value) == TWO


@pytest.mark.parametrize(
    "key",
    [
        *("speaker", "role", "from", "name", "author", "user", "sender", "username", "speaker_id", "participant"),
        *("from_name", "agent", "channel", "speakerId", "Speaker", "speaker_label", "nickname"),
    ],
)
def test_each_key_of_a_speaker(key: str) -> None:
    assert said([{key: "Ann", "text": "Hi."}, {key: "Bob", "text": "Yes?"}]) == TWO
    numbers = [{key: 1, "text": "Hi."}, {key: 2.0, "text": "Yes?"}]
    assert said(numbers) == [("Speaker 1", "Hi."), ("Speaker 2", "Yes?")]
    assert said({key: ["Ann", "Bob"], "text": ["Hi.", "Yes?"]}) == TWO


def test_roles_as_keys() -> None:
    value = [{"user": "Hi.", "assistant": "Yes?"}, {"user": "No."}]
    assert said(value) == [("User", "Hi."), ("Assistant", "Yes?"), ("User", "No.")]
    exchange = [{"turn id": 1, "user utterance": "Hi.", "system response": "Yes?", "dialog history": "x"}]
    assert said(exchange) == [("User", "Hi."), ("System", "Yes?")]


def test_texts_with_labels_in_a_list() -> None:
    """Each text is a turn, with a label or without, and a text of several labelled lines is several."""
    value = ["Ann: Hi.\nBob: Yes?", "[ A door. ]", "Ann : No.\nsure", ""]
    dialogue, skipped = parse_turns(value)
    assert [(turn.speaker, turn.text) for turn in dialogue.turns] == [
        *(("Ann", "Hi."), ("Bob", "Yes?"), (None, "[ A door. ]"), ("Ann", "No.\nsure")),
    ]
    assert (dialogue.text, skipped) == ("\n".join(value[:3]), {"skipped_turns": 1})
    assert said(["Note: Hi.", "Yes."]) == [(None, "Note: Hi."), (None, "Yes.")]


def test_booleans_and_lists_as_speakers() -> None:
    assert said([{"is_agent": True, "text": "a"}, {"is_agent": False, "text": "b"}]) == [
        ("Agent", "a"),
        ("Customer", "b"),
    ]
    named = TurnKeys(speaker="is_seller")
    value = [{"is_seller": True, "text": "a"}, {"is_seller": False, "text": "b"}]
    assert said(value, keys=named) == [("seller", "a"), ("not seller", "b")]
    assert said([{"speaker": ["Ann", "Bob"], "text": "a"}]) == [("Ann and Bob", "a")]


def test_texts_of_objects_are_never_searched_for_labels() -> None:
    assert said([{"text": "Ann: Hi."}, {"text": "Bob: Yes?"}]) == [(None, "Ann: Hi."), (None, "Bob: Yes?")]
    assert said(["Ann: Hi.", "Bob: Yes?"], speakers=["x", "y"]) == [("x", "Ann: Hi."), ("y", "Bob: Yes?")]


def test_numbers_are_speakers() -> None:
    assert said([[0, "a"], [1, "b"]]) == [("Speaker 0", "a"), ("Speaker 1", "b")]
    assert said([{"speaker": 0, "text": "a"}, {"channel": 1, "text": "b"}]) == [("Speaker 0", "a"), ("Speaker 1", "b")]


def test_lists_of_texts_and_their_speakers() -> None:
    assert said(["Hi.", "Yes?"]) == [(None, "Hi."), (None, "Yes?")]
    assert said(["Hi.", "Yes?"], speakers=["Ann", "Bob"]) == TWO
    assert said(["Hi.", "Yes?"], speakers="['Ann', 'Bob']") == TWO
    with pytest.raises(ValueError, match=r"the lists of texts and of speakers differ in length \(2 and 1\)"):
        said(["Hi.", "Yes?"], speakers=["Ann"])


def test_named_keys_win() -> None:
    keys = TurnKeys(speaker="who", text="words")
    assert said([{"who": "Ann", "words": "Hi.", "text": "x"}], keys=keys) == [("Ann", "Hi.")]


def test_turns_without_text_are_skipped_and_counted() -> None:
    value = [
        {"role": "assistant", "content": None, "tool_calls": [{"id": 1}]},
        {"role": "user", "content": "Hi."},
        {"role": "user", "content": ""},
        {"role": "user", "content": [{"type": "image_url", "image_url": "x"}]},
        {"role": "assistant", "tool_calls": [{"id": 2}]},
    ]
    dialogue, skipped = parse_turns(value)
    assert ([turn.text for turn in dialogue.turns], skipped) == (["Hi."], {"skipped_turns": 4})


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ([], "the list of turns is empty"),
        ([{"speaker": "Ann"}], "turn 1 has no text under a known key: it has speaker; name it with --text_key"),
        ([{"text": 3}], "turn 1 has a number as its text"),
        ([{"text": "a"}, {"speaker": [3], "text": "a"}], "turn 2 has a list as its speaker, not text"),
        ([3], "turn 1 is a number, neither an object nor text"),
        ([{"text": None}], "no turn has a text"),
        ({"speaker": ["Ann"], "text": ["a", "b"]}, r"the lists of texts and of speakers differ in length \(2 and 1\)"),
        ({"turns": []}, "the list of turns is empty"),
        ({"a": 1}, "an object without a list of turns: it has a"),
        (3, "a number, neither text nor a list of turns"),
        ([{"text": "half an emoji \ud83d"}], "turn 1 has a text that is not UTF-8"),
    ],
)
def test_the_reason_is_named(value: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_turns(value)


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda text: text.strip())


@given(st.lists(st.tuples(st.none() | texts, texts), min_size=1))
def test_any_turns_come_out_as_they_went_in(turns: list[tuple[str | None, str]]) -> None:
    """Up to white space at the ends of a text, kinds of line breaks, and white space within a speaker's name."""
    value = [{"speaker": speaker, "text": text} for speaker, text in turns]
    expected = [
        (" ".join(speaker.split()) if speaker else None, text.replace("\r\n", "\n").replace("\r", "\n").strip())
        for speaker, text in turns
    ]
    assert said(value) == [(speaker or None, text) for speaker, text in expected]
