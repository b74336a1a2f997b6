"""Names with brackets, quotes and notes in exported chats, and the lines that apps write; every name is invented."""

from pathlib import Path

import pytest
from odd_files import lines, load, write
from reading import Said, read

RULE = "=" * 62
SYSTEM_LINES = (
    '12/3/24, 14:05 - Max created group "Flat: 3"\n'
    "12/3/24, 14:06 - Max [Work]: hi\n"
    "12/3/24, 14:11 - Ann left\n"
    "12/3/24, 14:12 - Ann changed the subject to: Flat 3\n"
    "12/3/24, 14:13 - Ann: yo"
)
NAMES: dict[str, tuple[str, Said, int]] = {
    "odd names on whatsapp": (
        "12/3/24, 14:06 - Max [Work]: the meeting is moved to 5\n"
        '12/3/24, 14:07 - Max "Maxi" M: ok\n'
        "12/3/24, 14:07 - <3 Lisa: so\n"
        "12/3/24, 14:08 - Ann => Bo: yes: no\n"
        "12/3/24, 14:09 - Max „Maxi“ M: a\n"
        "12/3/24, 14:09 - Ann: is this end-to-end encrypted?\n"
        "12/3/24, 14:10 - Ann from work: b\n"
        "12/3/24, 14:11 - Tom :): c\n"
        "12/3/24, 14:12 - {Tea} (flat 3): d\n"
        "12/3/24, 14:13 - [Work] Max: e",
        [
            ("Max [Work]", "the meeting is moved to 5"),
            ('Max "Maxi" M', "ok"),
            ("<3 Lisa", "so"),
            ("Ann => Bo", "yes: no"),
            ("Max „Maxi“ M", "a"),
            ("Ann", "is this end-to-end encrypted?"),
            ("Ann from work", "b"),
            ("Tom :)", "c"),
            ("{Tea} (flat 3)", "d"),
            ("[Work] Max", "e"),
        ],
        0,
    ),
    "brackets after times": (
        "[10:11] Anna M. [ACME]: hi\n[10:12] Bob <Ops>: yo\n[10:13] Anna M. [ACME]: ok",
        [("Anna M. [ACME]", "hi"), ("Bob <Ops>", "yo"), ("Anna M. [ACME]", "ok")],
        0,
    ),
    "headings of teams": (
        "Bob Smith (Guest)   0:07\nhi\n\nSmith, Bob (EXT)   0:09\nyo\n\nAnna M. [ACME]   0:12\nok\n\n"
        "+49 170 1234567   0:15\nso\n\nAnna Ray   0:20\nbye",
        [
            ("Bob Smith (Guest)", "hi"),
            ("Smith, Bob (EXT)", "yo"),
            ("Anna M. [ACME]", "ok"),
            ("+49 170 1234567", "so"),
            ("Anna Ray", "bye"),
        ],
        0,
    ),
    "headings of teams, minutes": (
        "Bob Smith (Guest)\n0 minutes 3 seconds\nhi\n\nSmith, Bob (EXT)\n0 minutes 12 seconds\nyo\n\n"
        "+49 170 1234567\n1 minute 2 seconds\nok",
        [("Bob Smith (Guest)", "hi"), ("Smith, Bob (EXT)", "yo"), ("+49 170 1234567", "ok")],
        0,
    ),
    "headings of teams, time twice": (
        "Anna   0 minutes 3 seconds\n0:03\nhi\n\nBob (Guest)   0 Minuten 9 Sekunden\n0:09\nyo",
        [("Anna", "hi"), ("Bob (Guest)", "yo")],
        0,
    ),
    "headings of zoom": (
        "[Bob (Guest)] 10:12:40\nhi\n[+49 170 1234567] 10:13:20\nyo\n[Anna] 10:14:00\nok",
        [("Bob (Guest)", "hi"), ("+49 170 1234567", "yo"), ("Anna", "ok")],
        0,
    ),
    "headings of discord": (
        "Anna — Today at 6:05 PM\nhi\nBob (he/him) — Today at 6:06 PM\nyo\nsmith [afk] — Today at 6:07 PM\nok",
        [("Anna", "hi"), ("Bob (he/him)", "yo"), ("smith [afk]", "ok")],
        0,
    ),
    "statuses on slack": (
        "Anna  10:15 AM\nhi\nCarl:palm_tree:  10:17 AM\nyo\nAnna :house: 10:18 AM\nok",
        [("Anna", "hi"), ("Carl", "yo"), ("Anna", "ok")],
        0,
    ),
    "zoom chat, direct messages": (
        "00:13:38\tAnna:\thi\n00:13:40\tCarl to Anna(Direct Message):\tyo\n00:13:41\tAnna to Everyone:\tok",
        [("Anna", "hi"), ("Carl", "yo"), ("Anna", "ok")],
        0,
    ),
    "discord exporter": (
        f"{RULE}\nGuild: Home\nChannel: general / tea\nTopic: all of it\n{RULE}\n\n"
        "[12-Mar-24 02:05 PM] anna\nhi\n\n[12-Mar-24 02:06 PM] ben#0001\nyo\nagain\n\n"
        f"{RULE}\nExported 2 message(s)\n{RULE}",
        [("anna", "hi"), ("ben#0001", "yo\nagain")],
        8,
    ),
    "discord exporter, newer": (
        f"{RULE}\nGuild: Home\nChannel: tea\n{RULE}\n\n[3/12/2024 2:05 PM] anna\nhi\n\n[3/12/2024 2:06 PM] ben\nyo",
        [("anna", "hi"), ("ben", "yo")],
        4,
    ),
    "discord exporter, header without bars": (
        "Guild: Home\nChannel: tea\n\n[12-Mar-24 02:05 PM] anna\nhi\n\n[12-Mar-24 02:06 PM] ben\nyo",
        [("anna", "hi"), ("ben", "yo")],
        2,
    ),
    "bars within a message": (
        "12/3/24, 14:06 - Max: see\n=====\nA: b\n=====\n12/3/24, 14:07 - Ann: ok",
        [("Max", "see\n=====\nA: b\n====="), ("Ann", "ok")],
        0,
    ),
    "discord exporter, one message": (
        f"{RULE}\nGuild: Home\nChannel: tea\n{RULE}\n\n[12-Mar-24 02:05 PM] anna\nhi",
        [("anna", "hi")],
        4,
    ),
    "kakaotalk on a phone": (
        "단톡방 님과 카카오톡 대화\n저장한 날짜 : 2024년 3월 12일 오후 3:00\n\n2024년 3월 12일 오후 2:05\n"
        "2024년 3월 12일 오후 2:05, 민수 : 안녕\n2024년 3월 12일 오후 2:06, 지은 : 네\n"
        "2024년 3월 12일 오후 2:07, 지은님이 나갔습니다.",
        [("민수", "안녕"), ("지은", "네")],
        4,
    ),
    "kakaotalk on a computer": (
        "--------------- 2024년 3월 12일 화요일 ---------------\n[민수] [오후 2:05] 안녕\n[지은] [오후 2:06] 네\n둘째",
        [("민수", "안녕"), ("지은", "네\n둘째")],
        1,
    ),
    "google meet": (
        "Attendees\nAnna Ray, Ben Lee\nTranscript\nAnna Ray: hi\nBen Lee: yo\n00:05:00\nAnna Ray: ok\n"
        "Meeting ended after 00:06:10 👋",
        [("Anna Ray", "hi"), ("Ben Lee", "yo"), ("Anna Ray", "ok")],
        5,
    ),
    "teams, the end": (
        "Anna Ray   0:03\nhi\n\nBob (Guest)   0:09\nyo\n\nBob (Guest) stopped transcription",
        [("Anna Ray", "hi"), ("Bob (Guest)", "yo")],
        1,
    ),
    "system lines with colons": (SYSTEM_LINES, [("Max [Work]", "hi"), ("Ann", "yo")], 3),
}


@pytest.mark.parametrize("name", NAMES)
def test_names_in_exports(name: str) -> None:
    text, said, dropped = NAMES[name]
    assert read(text) == (said, dropped)


def test_the_first_dropped_lines_are_shown(tmp_path: Path) -> None:
    chat = SYSTEM_LINES + "".join(f"\n12/3/24, 14:1{i} - Ann left" for i in range(4))
    examples = load(write(tmp_path, "a.jsonl", lines({"dialogue": chat, "summary": "Hi."})))
    assert examples.counts.system_lines == 7
    assert len(examples.counts.system_examples) == 5
    (note,) = [note for note in examples.notes if "an app wrote" in note]
    assert note.endswith(
        "(test): 7 lines that an app wrote are left out, such as: "
        '12/3/24, 14:05 - Max created group "Flat: 3"; 12/3/24, 14:11 - Ann left; '
        "12/3/24, 14:12 - Ann changed the subject to: Flat 3; 12/3/24, 14:10 - Ann left; 12/3/24, 14:11 - Ann left"
    )
