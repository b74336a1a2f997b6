"""Subtitles as Zoom, Teams and others write them."""

import pytest
from reading import Said, read

MARA: Said = [("Mara Olsen", "hi"), ("Jon Pirie", "yo")]


def vtt(*cues: str) -> str:
    times = [f"00:00:0{second}.000 --> 00:00:0{second + 1}.000" for second in range(len(cues))]
    return "WEBVTT\n\n" + "\n\n".join(f"{time}\n{cue}" for time, cue in zip(times, cues, strict=True))


SUBTITLES: dict[str, tuple[str, Said, int]] = {
    "vtt, arrows": (
        "WEBVTT\n\n00:00.000 --> 00:01.000\n>> hi\n\n00:01.000 --> 00:02.000\n>> MARA: yo\nagain",
        [(None, "hi"), ("MARA", "yo again")],
        0,
    ),
    "vtt, notes and identifiers": (
        "WEBVTT - call\n\nSTYLE\n::cue { color: red }\n\nintro\n00:00.000 --> 00:01.000\n<v Mara Olsen>hi\n\n"
        "NOTE a note\n\nend\n00:01.000 --> 00:02.000\n<v Jon Pirie>yo",
        MARA,
        0,
    ),
    "srt, an empty line within a cue": (
        "1\n00:00:00,000 --> 00:00:01,000\nMara Olsen: hi\n\nthere\n\n2\n00:00:01,000 --> 00:00:02,000\nJon Pirie: yo",
        [("Mara Olsen", "hi there"), ("Jon Pirie", "yo")],
        0,
    ),
    "zoom vtt": (
        "WEBVTT\n"
        "\n"
        "1\n"
        "00:00:00.000 --> 00:00:01.000\n"
        "Mara Olsen: hi\n"
        "\n"
        "2\n"
        "00:00:01.000 --> 00:00:02.000\n"
        "Jon Pirie: yo",
        MARA,
        0,
    ),
    "teams vtt": (
        "WEBVTT\n"
        "\n"
        "4f2a/11-0\n"
        "00:00:00.000 --> 00:00:01.000\n"
        "<v Mara Olsen>hi</v>\n"
        "\n"
        "4f2a/12-0\n"
        "00:00:01.000 --> 00:00:02.000\n"
        "<v Jon Pirie>yo</v>",
        MARA,
        0,
    ),
    "teams vtt, surname first": (
        "WEBVTT\n"
        "\n"
        "00:00:00.000 --> 00:00:01.000\n"
        "<v Olsen, Mara (Sales)>hi</v>\n"
        "\n"
        "00:00:01.000 --> 00:00:02.000\n"
        "<v Pirie, Jon>yo\n"
        "again</v>",
        [("Olsen, Mara (Sales)", "hi"), ("Pirie, Jon", "yo again")],
        0,
    ),
    "vtt, two voices in a cue": ("WEBVTT\n\n00:00.000 --> 00:01.000\n<v Mara Olsen>hi\n<v Jon Pirie>yo", MARA, 0),
    "vtt, two voices with dashes": ("WEBVTT\n\n00:00.000 --> 00:01.000\n- hi\n- yo", [(None, "hi"), (None, "yo")], 0),
    "teams arrow": ("0:0:0.0 --> 0:0:1.500\nMara Olsen\nhi\n\n0:0:2.0 --> 0:0:3.5\nJon Pirie\nyo", MARA, 0),
    "zoom vtt, other names": (
        vtt(
            "Müller, Jörg: hi",
            "Jo's iPhone: yo",
            "María José de la Cruz García: ok",
            "and on",
            "Müller, Jörg: so",
            "María José de la Cruz García: ja",
        ),
        [
            ("Müller, Jörg", "hi"),
            ("Jo's iPhone", "yo"),
            ("María José de la Cruz García", "ok and on"),
            ("Müller, Jörg", "so"),
            ("María José de la Cruz García", "ja"),
        ],
        0,
    ),
    "zoom vtt, other names once": (
        vtt("Müller, Jörg: hi", "Jo's iPhone: yo\nand on", "Anna: ok"),
        [("Müller, Jörg", "hi"), ("Jo's iPhone", "yo and on"), ("Anna", "ok")],
        0,
    ),
    "teams vtt, names on lines of their own": (
        vtt("Bob (Guest)\nhi", "Smith, Bob (EXT)\nyo", "+49 170 1234567\nok"),
        [("Bob (Guest)", "hi"), ("Smith, Bob (EXT)", "yo"), ("+49 170 1234567", "ok")],
        0,
    ),
    "tags and entities": (
        vtt("<p>Anna: tea &amp; milk</p>", "<p>Ben: 3 &lt; 4</p><p>yes</p>", "Anna: <3"),
        [("Anna", "tea & milk"), ("Ben", "3 < 4  yes"), ("Anna", "<3")],
        0,
    ),
    "srt": (
        "1\n00:00:00,000 --> 00:00:01,000\nMara Olsen: hi\n\n2\n00:00:01,000 --> 00:00:02,000\nJon Pirie: yo",
        MARA,
        0,
    ),
    "srt, capitals": (
        "1\n00:00:00,000 --> 00:00:01,000\nMARA: hi\nthere\n\n2\n00:00:01,000 --> 00:00:02,000\nJON: yo",
        [("MARA", "hi there"), ("JON", "yo")],
        0,
    ),
    "srt, brackets": (
        "1\n00:00:00,000 --> 00:00:01,000\n[Mara] hi\n\n2\n00:00:01,000 --> 00:00:02,000\n[Jon] yo",
        [("Mara", "hi"), ("Jon", "yo")],
        0,
    ),
    "srt, continued": (
        "1\n"
        "00:00:00,000 --> 00:00:01,000\n"
        "Mara: hi\n"
        "\n"
        "2\n"
        "00:00:01,000 --> 00:00:02,000\n"
        "and more\n"
        "\n"
        "3\n"
        "00:00:02,000 --> 00:00:03,000\n"
        "Jon: yo",
        [("Mara", "hi and more"), ("Jon", "yo")],
        0,
    ),
    "srt, blank lines lost": (
        "1\n00:00:00,000 --> 00:00:01,000\nMara: hi\n2\n00:00:01,000 --> 00:00:02,000\nJon: yo",
        [("Mara", "hi"), ("Jon", "yo")],
        0,
    ),
    "srt, music": (
        "1\n00:00:00,000 --> 00:00:01,000\n<i>Mara: hi</i>\n\n2\n00:00:01,000 --> 00:00:02,000\nJon: {\\an8}yo",
        [("Mara", "hi"), ("Jon", "{\\an8}yo")],
        0,
    ),
}


@pytest.mark.parametrize("name", SUBTITLES)
def test_cues(name: str) -> None:
    text, said, dropped = (SUBTITLES)[name]
    assert read(text) == (said, dropped)
