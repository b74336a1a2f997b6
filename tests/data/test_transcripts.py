"""Dialogues as text: labels, exported chats, transcripts, subtitles, turns on one line."""

from collections.abc import Sequence

from dialogsum_sft.data.dialogue import Turn
from dialogsum_sft.data.transcripts import FORMATS, detect_format, dialogue_of, parse, with_line_breaks

import pytest
from hypothesis import given
from hypothesis import strategies as st

WORDS = ["tea", "the", "bill", "please", "yes", "no", "Ann", "10:30", "http://a.b", "#Person1#", "Bob's", "-", "é"]
SPEAKERS = ["#Person1#", "#Person2#", "Ann", "Dr. Lee", "Customer"]
lines = st.lists(st.sampled_from(WORDS), min_size=1, max_size=12).map(" ".join)
turns = st.tuples(st.sampled_from(SPEAKERS), lines).map(": ".join)
dialogues = st.lists(turns, min_size=1, max_size=30).map("\n".join)


def turns_of(text: str, kind: str = "labels") -> Sequence[Turn]:
    return parse(text, kind)[0].turns


def said(text: str, kind: str) -> list[tuple[str | None, str]]:
    return [(turn.speaker, turn.text) for turn in turns_of(text, kind)]


@given(st.text() | dialogues)
def test_the_raw_turns_joined_are_the_dialogue(dialogue: str) -> None:
    assert "".join(turn.raw for turn in turns_of(dialogue)) == dialogue


@pytest.mark.parametrize("end", ["\n", "\r\n", "\u2028", "\n\n"])
def test_any_line_end_separates_turns(end: str) -> None:
    dialogue = f"#Person1#: Hi.{end}#Person2#: Hello,{end}again.{end}"
    found = turns_of(dialogue)
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
        ("**Anna:** Hi.", "Anna"),
        ("**Sales agent**: Hi.", "Sales agent"),
        ("Anna (10:15): Hi.", "Anna"),
        ("Anna (agent): Hi.", "Anna"),
        ("sales agent: Hi.", "sales agent"),
        ("+44 7700 900123: Hi.", "+44 7700 900123"),
        ("\u200eAnn: Hi.", "Ann"),
        ("note to self: buy milk", None),
        ("[laughs] You wish", None),
        (":-) fine", None),
        ("", None),
    ],
)
def test_speaker_labels(line: str, speaker: str | None) -> None:
    dialogue = f"#Person9#: first\n{line}"
    last = turns_of(dialogue)[-1]
    assert (last.speaker if last.speaker != "#Person9#" else None) == speaker


def test_text_before_the_first_speaker_is_a_turn() -> None:
    assert [(turn.speaker, turn.text) for turn in turns_of("In a shop.\nAnn: Hi.\nthere")] == [
        (None, "In a shop."),
        ("Ann", "Hi.\nthere"),
    ]


def test_without_any_label_every_line_is_a_turn() -> None:
    assert said("hello there\nhi\n\nbye", "labels") == [(None, "hello there"), (None, "hi"), (None, ""), (None, "bye")]


def test_a_label_in_lower_case_counts_when_it_occurs_again() -> None:
    text = "ordered by: Ann\nanna k: hi\nben: hello\nanna k: bye\nben: bye"
    assert [speaker for speaker, _ in said(text, "labels")] == [None, "anna k", "ben", "anna k", "ben"]


CHATS = {
    "[01/03/2024, 9:10:00 PM] Ines: hi\n[01/03/2024, 9:11:00 PM] ~ Lea: yo": ["Ines", "Lea"],
    "01/03/2024, 21:10 - Ines: hi\n01/03/2024, 21:11 - +49 170 1234567: yo": ["Ines", "+49 170 1234567"],
    "01.03.24, 21:10 - Ines Groß: hi\n01.03.24, 21:11 - Tom: yo": ["Ines Groß", "Tom"],
    "[01.03.24, 21:10:33] Ines: hi\n[01.03.24, 21:11:01] Tom: yo": ["Ines", "Tom"],
    "3/1/24, 9:10\u202fPM - Ines: hi\n3/1/24, 9:11\u202fPM - Tom: yo": ["Ines", "Tom"],
    "2024-03-01 21:10 - Ines: hi\n2024-03-01 21:11 - Tom: yo": ["Ines", "Tom"],
    "1/3/24 9:10 p. m. - Ines: hola\n1/3/24 9:11 p. m. - Tomás: sí": ["Ines", "Tomás"],
    "[2024/3/1 下午9:10:00] 小明: 你好\n[2024/3/1 下午9:11:00] 小红: 好": ["小明", "小红"],
    "[2024. 3. 1. 오후 9:10:00] 민수: 안녕\n[2024. 3. 1. 오후 9:11:00] 지은: 네": ["민수", "지은"],
    "00:00:13 Mara Olsen: hi\n00:00:26 Jon Pirie: yo": ["Mara Olsen", "Jon Pirie"],
    "10:15:02 From Mara Olsen : hi\n10:15:09 From Jon : yo": ["Mara Olsen", "Jon"],
    "[10:15] Anna: hi\n[10:16] Ben: yo": ["Anna", "Ben"],
    "(10:15) Anna: hi\n(10:16) Ben: yo": ["Anna", "Ben"],
    "10:15 Anna: hi\n10:16 Ben: yo": ["Anna", "Ben"],
    "Mara Olsen  0:13\nhi\n\nJon Pirie  0:26\nyo": ["Mara Olsen", "Jon Pirie"],
    "Mara Olsen [00:13]:\nhi\nJon Pirie [00:26]:\nyo": ["Mara Olsen", "Jon Pirie"],
    "Mara Olsen   10:13 AM\nhi\nJon Pirie   10:14 AM\nyo": ["Mara Olsen", "Jon Pirie"],
}


@pytest.mark.parametrize("text", CHATS)
def test_chats_with_time_stamps(text: str) -> None:
    assert detect_format([text]) == "timestamps"
    dialogue, dropped = parse(text, "timestamps")
    assert [turn.speaker for turn in dialogue.turns] == CHATS[text]
    assert dropped == []
    assert dialogue.text == text
    assert all(turn.time for turn in dialogue.turns)
    assert len(dialogue.turns[0].text) < 6


def test_system_lines_of_exports_are_dropped_and_counted() -> None:
    text = (
        "\u200e[01/03/2024, 9:10:00 PM] Flat 3: \u200eMessages and calls are end-to-end encrypted.\n"
        "[01/03/2024, 9:11:00 PM] Ines: hi\nsecond line\n"
        "01/03/2024, 21:12 - Ines added Tom\nhis number\n"
        "[01/03/2024, 9:13:00 PM] Tom: \u200eimage omitted\n"
    )
    dialogue, dropped = parse(text, "timestamps")
    assert [(turn.speaker, turn.text) for turn in dialogue.turns] == [
        ("Ines", "hi\nsecond line"),
        ("Tom", "\u200eimage omitted"),
    ]
    assert dropped == [
        "\u200e[01/03/2024, 9:10:00 PM] Flat 3: \u200eMessages and calls are end-to-end encrypted.",
        "01/03/2024, 21:12 - Ines added Tom",
        "his number",
    ]


SUBTITLES = {
    "WEBVTT\n\n1\n00:00.000 --> 00:01.000\n<v Mara>hi</v>\n\n2\n00:01.000 --> 00:02.000\n<v Mara>there</v>\n\n"
    "00:02.000 --> 00:03.000\n<v Jon>yo</v>": [("Mara", "hi there"), ("Jon", "yo")],
    "1\n00:00:00,000 --> 00:00:01,000\nMara: hi\nthere\n\n2\n00:00:01,000 --> 00:00:02,000\nJon: yo\n": [
        ("Mara", "hi there"),
        ("Jon", "yo"),
    ],
    "1\r\n00:00:00,000 --> 00:00:01,000\r\nhi\r\n\r\n2\r\n00:00:01,000 --> 00:00:02,000\r\nyo\r\n": [(None, "hi yo")],
    "WEBVTT - x\n\nNOTE a\n\n00:00.000 --> 00:01.000 align:start\n<v.loud Mara Olsen><i>hi</i></v>": [
        ("Mara Olsen", "hi")
    ],
}


@pytest.mark.parametrize("text", SUBTITLES)
def test_cues_are_joined_per_speaker(text: str) -> None:
    assert detect_format([text]) == "subtitles"
    assert said(text, "subtitles") == SUBTITLES[text]


INLINE = {
    "customer: my phone is dead. support: did you charge it? customer: yes.": ["customer", "support", "customer"],
    "#Person1#: Hi. #Person2#: Hello. #Person1#: Bye.": ["#Person1#", "#Person2#", "#Person1#"],
    "Agent: Hello! Customer: Hi, at 10:30: ok? Agent: Sure.": ["Agent", "Customer", "Agent"],
    "Anna: hi Ben: yo Anna: bye Ben: bye": ["Anna", "Ben", "Anna", "Ben"],
    "user: a note: b. assistant: c": ["user", "assistant"],
}


@pytest.mark.parametrize("text", INLINE)
def test_turns_on_one_line(text: str) -> None:
    assert detect_format([text]) == "inline"
    assert [turn.speaker for turn in turns_of(text, "inline")] == INLINE[text]
    assert parse(text, "inline")[0].text == text


@pytest.mark.parametrize("mark", ["<br>", "<br />", "</s>", r"\n", " </s> "])
def test_other_line_breaks_become_line_breaks(mark: str) -> None:
    assert with_line_breaks(f"Ann: Hi.{mark}Bob: Yes?{mark}Ann: No.") == "Ann: Hi.\nBob: Yes?\nAnn: No."
    assert with_line_breaks(f"no labels{mark}here") == f"no labels{mark}here"


@given(st.text() | dialogues)
def test_every_format_but_subtitles_and_time_stamps_keeps_every_character(text: str) -> None:
    for kind in set(FORMATS) - {"subtitles", "timestamps"}:
        assert parse(text, kind)[0].text == text


@given(dialogues)
def test_clean_dialogues_are_read_as_labels(text: str) -> None:
    assert detect_format([text]) == "labels"


def test_rows_of_earlier_files_have_the_turns_of_their_labels() -> None:
    assert [turn.speaker for turn in dialogue_of({"dialogue": "Ann: Hi.\nBob: Yes."}).turns] == ["Ann", "Bob"]
