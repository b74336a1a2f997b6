"""Lists of turns of every usual shape; what they lack is named."""

from typing import Any

from dialogsum_sft.data.turn_lists import TurnKeys, parse_turns, stored_list

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
        ["Ann: Hi.", "Bob: Yes?"],
        [{"NAMES": ["Ann"], "UTTERANCES": ["Hi."]}, {"NAMES": ["Bob"], "UTTERANCES": ["Yes?"]}],
        [{"participantID": "Ann", "utterance": "Hi."}, {"participantID": "Bob", "utterance": "Yes?"}],
        {"speaker": ["Ann", "Bob"], "utterance": ["Hi.", "Yes?"]},
        {"utterances": [{"speaker": "Ann", "transcript": "Hi."}, {"speaker": "Bob", "transcript": "Yes?"}]},
        {"results": {"utterances": [{"speaker": "Ann", "text": "Hi."}, {"speaker": "Bob", "text": "Yes?"}]}},
        [{"speaker": "Ann", "text": [{"type": "text", "text": "Hi."}]}, {"speaker": "Bob", "text": ["Yes?"]}],
    ],
)
def test_shapes_of_turn_lists(value: Any) -> None:
    assert said(value) == TWO


def test_numbers_are_speakers() -> None:
    assert said([{"speaker": 0, "text": "a"}, {"channel": 1, "text": "b"}]) == [("Speaker 0", "a"), ("Speaker 1", "b")]


def test_lists_of_texts_and_their_speakers() -> None:
    assert said(["Hi.", "Yes?"]) == [(None, "Hi."), (None, "Yes?")]
    assert said(["Hi.", "Yes?"], speakers=["Ann", "Bob"]) == TWO
    assert said(["Hi.", "Yes?"], speakers="['Ann', 'Bob']") == TWO
    with pytest.raises(ValueError, match=r"the lists of texts and of speakers differ in length \(2 and 1\)"):
        said(["Hi.", "Yes?"], speakers=["Ann"])


def test_two_turns_in_an_object() -> None:
    value = [
        {"turn id": 1, "user utterance": "a", "system response": "b", "dialog history": "c"},
        {"user": "d", "bot": 1},
    ]
    assert said(value[:1]) == [("User", "a"), ("System", "b")]
    assert said([{"customer": "a", "agent": "b"}]) == [("Customer", "a"), ("Agent", "b")]
    assert parse_turns([{"user utterance": "a", "system response": ""}])[1] == 1
    with pytest.raises(ValueError, match="turn 1 has no text under a known key: it has user, bot"):
        said(value[1:])


def test_speakers_as_booleans_and_as_lists() -> None:
    value = [{"is_agent": False, "sentences": ["a.", "b."]}, {"is_agent": True, "sentences": ["c."]}]
    assert said(value) == [("Customer", "a. b."), ("Agent", "c.")]
    assert said([{"fromMe": True, "body": "a"}, {"fromMe": False, "body": "b"}]) == [("Me", "a"), ("Other", "b")]
    inbound = [{"inbound": True, "text": "a"}, {"inbound": False, "text": "b"}]
    assert said(inbound, keys=TurnKeys(speaker="inbound")) == [("inbound", "a"), ("not inbound", "b")]
    assert said([{"names": ["Ann", "Bob"], "text": "a"}]) == [("Ann and Bob", "a")]


def test_texts_with_labels() -> None:
    """Each is a turn of its own, with a label or without; of texts without labels none is taken for one."""
    assert said(["Ann : Hi.", "[ A door . ]", "Bob : Yes: no."]) == [
        *(("Ann", "Hi."), (None, "[ A door . ]"), ("Bob", "Yes: no.")),
    ]
    assert parse_turns(["Ann: Hi.", " ", "Ann: Bye."])[1] == 1
    assert said(["Note: Hi.", "Yes."]) == [(None, "Note: Hi."), (None, "Yes.")]
    assert said(["One thing: no.", "Two.", "Three."]) == [(None, "One thing: no."), (None, "Two."), (None, "Three.")]
    assert said(["Ann: a\nBob: b", "Bob: c"])[0] == (None, "Ann: a\nBob: b")


def test_sentences_of_chinese_are_joined_without_spaces() -> None:
    assert said([["好。", "我来。"]], speakers=[1]) == [("Speaker 1", "好。我来。")]


def test_named_keys_win() -> None:
    keys = TurnKeys(speaker="who", text="words")
    assert said([{"who": "Ann", "words": "Hi.", "text": "x"}], keys=keys) == [("Ann", "Hi.")]


def test_turns_without_text_are_skipped_and_counted() -> None:
    value = [
        {"role": "assistant", "content": None, "tool_calls": [{"id": 1}]},
        {"role": "user", "content": "Hi."},
        {"role": "user", "content": ""},
        {"role": "user", "content": [{"type": "image_url", "image_url": "x"}]},
    ]
    dialogue, skipped = parse_turns(value)
    assert ([turn.text for turn in dialogue.turns], skipped) == (["Hi."], 3)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ([], "the list of turns is empty"),
        ([{"speaker": "Ann"}], "turn 1 has no text under a known key: it has speaker; name it with --text_key"),
        ([{"text": 3}], "turn 1 has a number as its text"),
        ([{"text": "a"}, {"speaker": [3], "text": "a"}], "turn 2 has a list as its speaker, not text"),
        ([{"speaker": True, "text": "a"}], "turn 1 has true as its speaker, not text"),
        ([3], "turn 1 is a number, neither an object nor text"),
        ([{"text": None}], "no turn has a text"),
        ({"a": 1}, "an object without a list of turns: it has a"),
        (3, "a number, neither text nor a list of turns"),
        ([{"text": "half an emoji \ud83d"}], "turn 1 has a text that is not UTF-8"),
    ],
)
def test_the_reason_is_named(value: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_turns(value)


def test_lists_stored_as_text() -> None:
    assert stored_list('[{"role": "user"}]') == [{"role": "user"}]
    assert stored_list("[{'role': 'user', 'x': None}]") == [{"role": "user", "x": None}]
    assert stored_list("[Ann] Hi.") is None
    assert stored_list("[1, 2]") is None
    assert stored_list("Ann: Hi.") is None


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
