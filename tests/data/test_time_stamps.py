"""Exported chats and transcripts of meetings as other people's programs write them; every name is invented."""

from pathlib import Path

from dialogsum_sft.data.transcripts import detect_format, parse

import pytest
from odd_files import lines, load, write
from reading import Said, read

YO: Said = [("Ines", "hi"), ("Tom", "yo")]
MARA: Said = [("Mara Olsen", "hi"), ("Jon Pirie", "yo")]
WHATSAPP: dict[str, tuple[str, Said, int]] = {
    "android-de": ("24.12.23, 18:05 - Ines: hi\n24.12.23, 18:06 - Tom: yo", YO, 0),
    "android-us": ("12/24/23, 6:05\u202fPM - Ines: hi\n12/24/23, 6:06\u202fPM - Tom: yo", YO, 0),
    "android-uk": ("24/12/2023, 18:05 - Ines: hi\n24/12/2023, 18:06 - Tom: yo", YO, 0),
    "android-pt": ("24/12/2023 18:05 - Ines: hi\n24/12/2023 18:06 - Tom: yo", YO, 0),
    "android-es": ("24/12/23, 6:05 p. m. - Ines: hi\n24/12/23, 6:06 p.\u00a0m. - Tom: yo", YO, 0),
    "android-fr": ("24/12/2023 à 18:05 - Ines: hi\n24/12/2023 à 18:06 - Tom: yo", YO, 0),
    "android-fr-h": ("24/12/2023, 18 h 05 - Ines: hi\n24/12/2023, 18 h 06 - Tom: yo", YO, 0),
    "android-it": ("24/12/23, 18:05 - Ines: hi\n24/12/23, 18:06 - Tom: yo", YO, 0),
    "android-nl": ("24-12-2023 18:05 - Ines: hi\n24-12-2023 18:06 - Tom: yo", YO, 0),
    "android-ja": ("2023/12/24 18:05 - Ines: hi\n2023/12/24 18:06 - Tom: yo", YO, 0),
    "android-tr": ("24.12.2023 18:05 - Ines: hi\n24.12.2023 18:06 - Tom: yo", YO, 0),
    "android-fi": ("24.12.2023 klo 18.05 - Ines: hi\n24.12.2023 klo 18.06 - Tom: yo", YO, 0),
    "android-sv": ("2023-12-24 18:05 - Ines: hi\n2023-12-24 18:06 - Tom: yo", YO, 0),
    "android-ar": (
        "\u200f٢٤/\u200f١٢/\u200f٢٠٢٣، ٦:٠٥ م - Ines: hi\n\u200f٢٤/\u200f١٢/\u200f٢٠٢٣، ٦:٠٦ م - Tom: yo",
        YO,
        0,
    ),
    "android-fa": ("۱۴۰۲/۱۰/۳،\u200f ۱۸:۰۵ - Ines: hi\n۱۴۰۲/۱۰/۳،\u200f ۱۸:۰۶ - Tom: yo", YO, 0),
    "android-hi": ("24/12/23, 6:05 pm - Ines: hi\n24/12/23, 6:06 pm - Tom: yo", YO, 0),
    "ios-us": ("[12/24/23, 6:05:11\u202fPM] Ines: hi\n[12/24/23, 6:06:12\u202fPM] Tom: yo", YO, 0),
    "ios-de": ("[24.12.23, 18:05:11] Ines: hi\n[24.12.23, 18:06:12] Tom: yo", YO, 0),
    "ios-fr": ("[24/12/2023 18:05:11] Ines: hi\n[24/12/2023 18:06:12] Tom: yo", YO, 0),
    "ios-ja": ("[2023/12/24 18:05:11] Ines: hi\n[2023/12/24 18:06:12] Tom: yo", YO, 0),
    "ios-ko": ("[2023. 12. 24. 오후 6:05:11] Ines: hi\n[2023. 12. 24. 오후 6:06:12] Tom: yo", YO, 0),
    "ios-da": ("[24.12.2023 18.05.11] Ines: hi\n[24.12.2023 18.06.12] Tom: yo", YO, 0),
    "ios-au": ("[24/12/2023, 6:05:11 pm] Ines: hi\n[24/12/2023, 6:06:12 pm] Tom: yo", YO, 0),
    "lines of a message": (
        "24.12.23, 18:05 - Ines: one\ntwo: three\n\nfour\n24.12.23, 18:06 - Tom: yo",
        [("Ines", "one\ntwo: three\n\nfour"), ("Tom", "yo")],
        0,
    ),
    "system lines": (
        "24.12.23, 18:04 - Messages and calls are end-to-end encrypted. No one outside of this chat can read them.\n"
        "24.12.23, 18:04 - Ines created group “Flat 3: bills”\n"
        "24.12.23, 18:05 - Ines: hi\n"
        "24.12.23, 18:05 - Ines changed the subject to: Flat 3\n"
        "24.12.23, 18:06 - Tom: yo\n"
        "24.12.23, 18:07 - +49 170 1234567 left",
        YO,
        4,
    ),
    "system lines in German": (
        "24.12.23, 18:04 - Nachrichten und Anrufe sind Ende-zu-Ende-verschlüsselt. Tippe, um mehr zu erfahren.\n"
        "24.12.23, 18:05 - Ines: hi\n"
        "24.12.23, 18:06 - Tom: yo\n"
        "24.12.23, 18:07 - Tom hat die Gruppe verlassen",
        YO,
        2,
    ),
    "system lines on iOS": (
        "[24.12.23, 18:04:10] Flat 3: \u200eIhr seid jetzt Ende-zu-Ende-verschlüsselt.\n"
        "[24.12.23, 18:05:11] Ines: hi\n"
        "\u200e[24.12.23, 18:05:30] Flat 3: \u200eInes hat Tom hinzugefügt\n"
        "[24.12.23, 18:06:12] Tom: yo",
        YO,
        2,
    ),
    "media": (
        "24.12.23, 18:05 - Ines: <Media omitted>\n"
        "24.12.23, 18:06 - Tom: <Medien ausgeschlossen>\n"
        "24.12.23, 18:07 - Tom: IMG-20231224-WA0001.jpg (file attached)\n"
        "the bill",
        [
            ("Ines", "<Media omitted>"),
            ("Tom", "<Medien ausgeschlossen>"),
            ("Tom", "IMG-20231224-WA0001.jpg (file attached)\nthe bill"),
        ],
        0,
    ),
    "media on iOS": (
        "[24.12.23, 18:05:11] Ines: \u200eimage omitted\n"
        "[24.12.23, 18:06:12] Tom: \u200eBild weggelassen\n"
        "[24.12.23, 18:06:12] Tom: \u200e<attached: 00001-PHOTO.jpg>\n"
        "[24.12.23, 18:07:12] Tom: yo \u200e<This message was edited>",
        [
            ("Ines", "\u200eimage omitted"),
            ("Tom", "\u200eBild weggelassen"),
            ("Tom", "\u200e<attached: 00001-PHOTO.jpg>"),
            ("Tom", "yo \u200e<This message was edited>"),
        ],
        0,
    ),
    "odd names": (
        "24.12.23, 18:05 - Ines 🌻: hi\n"
        "24.12.23, 18:06 - +44 7700 900123: yo\n"
        "24.12.23, 18:07 - Mum & Dad (home): ok\n"
        "24.12.23, 18:08 - ines k.: fine\n"
        "24.12.23, 18:09 - \u202a+49 170 1234567\u202c: so",
        [
            ("Ines 🌻", "hi"),
            ("+44 7700 900123", "yo"),
            ("Mum & Dad (home)", "ok"),
            ("ines k.", "fine"),
            ("+49 170 1234567", "so"),
        ],
        0,
    ),
    "colons in a message": (
        "24.12.23, 18:05 - Ines: Note: see http://a.example/b at 10:30\n24.12.23, 18:06 - Tom: ok: fine",
        [("Ines", "Note: see http://a.example/b at 10:30"), ("Tom", "ok: fine")],
        0,
    ),
}
CHATS: dict[str, tuple[str, Said, int]] = {
    "whatsapp web copied": ("[18:05, 24/12/2023] Ines: hi\n[18:06, 24/12/2023] Tom: yo", YO, 0),
    "whatsapp web copied, us": (
        "[6:05 PM, 12/24/2023] Ines: hi\n[6:06 PM, 12/24/2023] +49 170 1234567: yo",
        [("Ines", "hi"), ("+49 170 1234567", "yo")],
        0,
    ),
    "columns": ("2023-12-24 18:05 | Ines | hi\n2023-12-24 18:06 | Tom | yo", YO, 0),
    "names in lower case": (
        "ines 18:05\nhi\ntom 18:06\nyo\nines 18:07\nok",
        [("ines", "hi"), ("tom", "yo"), ("ines", "ok")],
        0,
    ),
    "times above labels": ("18:05\nInes: hi\n18:06\nTom: yo", YO, 2),
    "times without names": (
        "18:05 hello there\n18:06 good, thanks",
        [(None, "hello there"), (None, "good, thanks")],
        0,
    ),
    "telegram copied": ("Ines, [24.12.2023 18:05]\nhi\n\nTom, [24.12.2023 18:06]\nyo", YO, 0),
    "telegram copied, us": ("Ines, [12/24/23 6:05 PM]\nhi\n\nTom, [12/24/23 6:06 PM]\nyo", YO, 0),
    "telegram desktop": ("Ines, [24.12.23 18:05]\nhi\nTom, [24.12.23 18:06]\nyo", YO, 0),
    "telegram with brackets": ("[24.12.2023 18:05] Ines: hi\n[24.12.2023 18:06] Tom: yo", YO, 0),
    "signal": ("[2023-12-24 18:05:11] Ines: hi\n[2023-12-24 18:06:12] Tom: yo", YO, 0),
    "signal with commas": ("[2023-12-24, 18:05] Ines: hi\n[2023-12-24, 18:06] Tom: yo", YO, 0),
    "signal iso": ("2023-12-24T18:05:11Z Ines: hi\n2023-12-24T18:06:12Z Tom: yo", YO, 0),
    "iso with an offset": ("2023-12-24T18:05:11+01:00 Ines: hi\n2023-12-24T18:06:12+01:00 Tom: yo", YO, 0),
    "iso with milliseconds": ("2023-12-24 18:05:11.123 Ines: hi\n2023-12-24 18:06:12.456 Tom: yo", YO, 0),
    "slack copied": ("Ines  6:05 PM\nhi\nTom  6:06 PM\nyo", YO, 0),
    "slack copied, 24 hours": ("Ines  18:05\nhi\n\nTom  18:06\nyo", YO, 0),
    "slack copied with brackets": ("Ines [6:05 PM]\nhi\nTom [6:06 PM]\nyo", YO, 0),
    "slack older": ("ines [6:05 PM]  \nhi\ntom [6:06 PM] \nyo", [("ines", "hi"), ("tom", "yo")], 0),
    "slack with an app": ("Ines  6:05 PM\nhi\nPollBot APP  6:06 PM\nyo", [("Ines", "hi"), ("PollBot APP", "yo")], 0),
    "discord": ("Ines — 12/24/2023 6:05 PM\nhi\nTom — 12/24/2023 6:06 PM\nyo", YO, 0),
    "discord today": ("Ines — Today at 6:05 PM\nhi\nTom — Yesterday at 6:06 PM\nyo", YO, 0),
    "discord exporter": ("[24/12/2023 18:05] Ines\nhi\n\n[24/12/2023 18:06] Tom\nyo", YO, 0),
    "discord exporter, us": (
        "[12/24/2023 6:05 PM] ines#0001\nhi\n\n[12/24/2023 6:06 PM] tom\nyo",
        [("ines#0001", "hi"), ("tom", "yo")],
        0,
    ),
    "irc": ("[18:05] <ines> hi\n[18:06] <tom> yo", [("ines", "hi"), ("tom", "yo")], 0),
    "irc without brackets": ("18:05 <ines> hi\n18:06 <@tom> yo", [("ines", "hi"), ("@tom", "yo")], 0),
    "irc with seconds": ("18:05:11 <Ines> hi\n18:05:30 * Tom waves\n18:06:12 <Tom> yo", YO, 1),
    "months in words": ("24 Dec 2023, 18:05 - Ines: hi\n24 Dec 2023, 18:06 - Tom: yo", YO, 0),
    "months in words, us": ("Dec 24, 2023 6:05 PM - Ines: hi\nDec 24, 2023 6:06 PM - Tom: yo", YO, 0),
    "imessage": ("[Dec 24, 2023  6:05:11 PM] Ines: hi\n[Dec 24, 2023  6:06:12 PM] Tom: yo", YO, 0),
    "line": ("18:05\tInes\thi\n18:06\tTom\tyo", YO, 0),
    "wechat": ("Ines 2023-12-24 18:05:11\nhi\n\nTom 2023-12-24 18:06:12\nyo", YO, 0),
    "live chat": ("(18:05:11) Ines: hi\n(18:06:12) Tom: yo", YO, 0),
    "live chat with seconds": ("( 12s ) Ines: hi\n( 1m 20s ) Tom: yo", YO, 0),
    "name, then time in brackets": ("Ines [18:05]: hi\nTom [18:06]: yo", YO, 0),
    "name, then time in parentheses": ("Ines (18:05): hi\nTom (18:06): yo", YO, 0),
}
MEETINGS: dict[str, tuple[str, Said, int]] = {
    "zoom chat": ("18:05:11 From Mara Olsen to Everyone : hi\n18:06:12 From Jon Pirie to Everyone : yo", MARA, 0),
    "zoom chat, older": ("18:05:11\t From Mara Olsen : hi\n18:06:12\t From  Jon Pirie : yo", MARA, 0),
    "zoom chat, newer": (
        "18:05:11 From Mara Olsen to Everyone:\n\thi\n18:06:12 From Jon Pirie to Everyone:\n\tyo",
        MARA,
        0,
    ),
    "zoom chat, private": (
        "18:05:11 From Mara Olsen to Jon Pirie(Direct Message):\n"
        "\thi\n"
        "18:06:12 From Jon Pirie to Mara Olsen (Privately) : yo",
        MARA,
        0,
    ),
    "zoom chat, dates": (
        "2023-12-24 18:05:11 From Mara Olsen to Everyone: hi\n2023-12-24 18:06:12 From Jon Pirie to Everyone: yo",
        MARA,
        0,
    ),
    "zoom saved": ("[Mara Olsen] 18:05:11\nhi\n\n[Jon Pirie] 18:06:12\nyo", MARA, 0),
    "zoom transcript": ("00:00:00 Mara Olsen: hi\n00:00:13 Jon Pirie: yo", MARA, 0),
    "teams docx": ("Mara Olsen   0:12\nhi\n\nJon Pirie   0:20\nyo", MARA, 0),
    "teams docx, minutes": ("Mara Olsen\n0 minutes 12 seconds\nhi\n\nJon Pirie\n1 minute 20 seconds\nyo", MARA, 0),
    "teams docx, hours": ("Mara Olsen   59:58\nhi\n\nJon Pirie   1:00:20\nyo", MARA, 0),
    "teams chat": ("[24/12/2023 18:05] Mara Olsen\nhi\n[24/12/2023 18:06] Jon Pirie\nyo", MARA, 0),
    "otter": (
        "Mara Olsen  0:00  \nhi\n\nJon Pirie  0:09  \nyo\n\nTranscribed by https://otter.ai",
        [("Mara Olsen", "hi"), ("Jon Pirie", "yo")],
        1,
    ),
    "otter, unknown speaker": (
        "Unknown Speaker  0:00\nhi\n\nSpeaker 2  1:02:09\nyo",
        [("Unknown Speaker", "hi"), ("Speaker 2", "yo")],
        0,
    ),
    "google meet": (
        "00:00:00\n \nMara Olsen: hi\nJon Pirie: yo\n \n00:05:00\n \nMara Olsen: bye",
        [("Mara Olsen", "hi"), ("Jon Pirie", "yo"), ("Mara Olsen", "bye")],
        2,
    ),
    "rev": ("Speaker 1 (00:12):\nhi\n\nSpeaker 2 (00:15):\nyo", [("Speaker 1", "hi"), ("Speaker 2", "yo")], 0),
    "rev, on the line": ("Mara Olsen (00:12): hi\nJon Pirie (01:00:15): yo", MARA, 0),
    "rev, brackets": ("Mara Olsen: [00:12]\nhi\n\nJon Pirie: [00:15]\nyo", MARA, 0),
    "descript": ("[00:00:00] Mara Olsen: hi\n[00:00:13] Jon Pirie: yo", MARA, 0),
    "trint": ("[00:00:00]\nMara Olsen: hi\n\n[00:00:13]\nJon Pirie: yo", MARA, 2),
    "whisperx": ("[SPEAKER_00]: hi\n[SPEAKER_01]: yo", [("SPEAKER_00", "hi"), ("SPEAKER_01", "yo")], 0),
    "pyannote": (
        "[00:00:00.000 --> 00:00:01.500] SPEAKER_00: hi\n[00:00:01.500 --> 00:00:03.000] SPEAKER_01: yo",
        [("SPEAKER_00", "hi"), ("SPEAKER_01", "yo")],
        0,
    ),
    "range": ("00:00 - 00:12 Mara Olsen: hi\n00:12 - 00:20 Jon Pirie: yo", MARA, 0),
    "fireflies": ("Mara Olsen - 00:00\nhi\n\nJon Pirie - 00:12\nyo", MARA, 0),
}


@pytest.mark.parametrize("name", WHATSAPP | CHATS | MEETINGS)
def test_exports_with_time_stamps(name: str) -> None:
    text, said, dropped = (WHATSAPP | CHATS | MEETINGS)[name]
    assert read(text) == (said, dropped)


WITHOUT = {
    "[12/03/24, 10:15:02] Anna: hi\nand more\n[12/03/24, 10:15:40] Ben: yo": "Anna: hi\nand more\nBen: yo",
    "10:15:02 From Anna to Everyone: hi\n10:15:40 From Ben to Everyone: yo": "Anna: hi\nBen: yo",
    "Mara Olsen  0:13\nGood morning.\nAll well?\n\nJon Pirie  0:20\nYes.": "Mara Olsen: Good morning.\nAll well?\n"
    "Jon Pirie: Yes.",
    "Anna (10:15): hi\nBen (10:16): at 10:20?": "Anna: hi\nBen: at 10:20?",
    "[10:15] hello all\n[10:16] and again": "hello all\nand again",
    "Anna: see you at 10:15\nBen: yes": "Anna: see you at 10:15\nBen: yes",
}


@pytest.mark.parametrize("text", WITHOUT)
def test_turns_without_their_time_stamps(text: str) -> None:
    dialogue, _ = parse(text, detect_format([text]))
    bare = dialogue.without_times()
    assert bare.text == WITHOUT[text]
    assert [(turn.speaker, turn.text, turn.time) for turn in bare.turns] == [
        (turn.speaker, turn.text, None) for turn in dialogue.turns
    ]


def test_time_stamps_are_counted_and_left_out_when_asked(tmp_path: Path) -> None:
    chat = "12/3/24, 14:10 - Ann: hi\n12/3/24, 14:11 - Bo: yo"
    path = write(tmp_path, "a.jsonl", lines({"dialogue": chat, "summary": "Hi."}))
    kept, bare = load(path), load(path, drop_times=True)
    assert kept.rows[0]["dialogue"] == chat
    assert (kept.counts.time_stamps, kept.counts.dropped_times) == (2, 0)
    assert any(
        note.endswith("2 turns keep their time stamps in the prompts; --drop_times true leaves them out")
        for note in kept.notes
    )
    assert bare.rows[0]["dialogue"] == "Ann: hi\nBo: yo"
    assert (bare.counts.time_stamps, bare.counts.dropped_times) == (0, 2)
    assert not any("time stamps" in note for note in bare.notes)
