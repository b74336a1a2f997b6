"""Speakers are renamed and restored, exchanged; turns are stored beside the text."""

import json

from dialogsum_sft.data.dialogue import Dialogue, Turn, rename_speakers, restore_speakers, swap_speakers

from hypothesis import given
from hypothesis import strategies as st
from labelled_dialogues import dialogues, labelled, lines


def test_speakers_become_tags_and_are_restored() -> None:
    dialogue = "Ann: Hi Bob.\nBob: Ann! Annie's here.\nDr. Lee: Bob's ill."
    renamed = rename_speakers(labelled(dialogue), "Ann meets Bob and Dr. Lee.")
    assert (
        renamed.dialogue.text
        == "#Person1#: Hi #Person2#.\n#Person2#: #Person1#! Annie's here.\n#Person3#: #Person2#'s ill."
    )
    assert renamed.summary == "#Person1# meets #Person2# and #Person3#."
    assert renamed.names == {"#Person1#": "Ann", "#Person2#": "Bob", "#Person3#": "Dr. Lee"}
    assert restore_speakers(renamed.dialogue.text, renamed.names) == dialogue
    assert restore_speakers("#Person2# is ill.", renamed.names) == "Bob is ill."


def test_existing_tags_are_kept() -> None:
    dialogue = "#Person1#: Hi.\nAnn: Hi."
    assert rename_speakers(labelled(dialogue)).dialogue.text == dialogue
    assert rename_speakers(labelled(dialogue)).names == {}


@given(dialogues | st.text(), lines)
def test_renaming_round_trips(dialogue: str, summary: str) -> None:
    renamed = rename_speakers(labelled(dialogue), summary)
    assert restore_speakers(renamed.dialogue.text, renamed.names) == dialogue
    assert restore_speakers(renamed.summary or "", renamed.names) == summary


@given(dialogues, lines)
def test_swapping_twice_gives_the_original(dialogue: str, summary: str) -> None:
    whole = labelled(dialogue)
    assert swap_speakers(*swap_speakers(whole, summary)) == (whole, summary)


def test_speakers_are_exchanged_in_dialogue_and_summary() -> None:
    dialogue, summary = swap_speakers(
        labelled("#Person1#: Tea, #Person2#?\n#Person2#: No."), "#Person1# offers #Person2# tea."
    )
    assert dialogue.text == "#Person2#: Tea, #Person1#?\n#Person1#: No."
    assert dialogue.speakers == ["#Person2#", "#Person1#"]
    assert summary == "#Person2# offers #Person1# tea."
    alone = labelled("Ann: alone")
    assert swap_speakers(alone, "Ann talks.") == (alone, "Ann talks.")


def test_speakers_of_a_list_are_renamed_though_no_parser_would_find_them() -> None:
    turns = [Turn.spoken("Support agent", "Hi, I am the support agent."), Turn.spoken("NAME, HOST", "Welcome.")]
    dialogue = Dialogue.of(turns)
    renamed = rename_speakers(dialogue, "NAME, HOST welcomes the Support agent.")
    assert renamed.dialogue.text == "#Person1#: Hi, I am the support agent.\n#Person2#: Welcome."
    assert renamed.summary == "#Person2# welcomes the #Person1#."
    assert renamed.dialogue.speakers == ["#Person1#", "#Person2#"]


def test_turns_come_back_from_their_record() -> None:
    dialogue = Dialogue.of(
        [Turn.spoken("Ann", "Hi.\nthere", "10:15"), Turn.spoken(None, "x"), Turn.spoken("B: c", "y")]
    )
    assert Dialogue.from_record(dialogue.text, json.loads(json.dumps(dialogue.record()))) == dialogue
