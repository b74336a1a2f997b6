"""All turns on one line, with labels or with marks in place of line breaks."""

import pytest
from reading import Said, read

INLINE: dict[str, tuple[str, Said, int]] = {
    "two roles": (
        "customer: hi. support: yo? customer: ok.",
        [("customer", "hi."), ("support", "yo?"), ("customer", "ok.")],
        0,
    ),
    "two roles once": ("Customer: hi. Agent: yo.", [("Customer", "hi."), ("Agent", "yo.")], 0),
    "three roles": (
        "Doctor: hi. Patient: yo. Nurse: ok. Doctor: bye.",
        [("Doctor", "hi."), ("Patient", "yo."), ("Nurse", "ok."), ("Doctor", "bye.")],
        0,
    ),
    "four names": (
        "Ann: hi Ben: yo Cleo: ok Dan: so Ann: bye Ben: bye Cleo: bye Dan: bye",
        [
            ("Ann", "hi"),
            ("Ben", "yo"),
            ("Cleo", "ok"),
            ("Dan", "so"),
            ("Ann", "bye"),
            ("Ben", "bye"),
            ("Cleo", "bye"),
            ("Dan", "bye"),
        ],
        0,
    ),
    "tags": (
        "#Person1#: hi. #Person2#: yo. #Person3#: ok.",
        [("#Person1#", "hi."), ("#Person2#", "yo."), ("#Person3#", "ok.")],
        0,
    ),
    "times inside": (
        "agent: it opens at 10:30, see http://a.example. customer: ok: fine. agent: bye.",
        [("agent", "it opens at 10:30, see http://a.example."), ("customer", "ok: fine."), ("agent", "bye.")],
        0,
    ),
    "roles of two words": (
        "sales agent: hi. client: yo. sales agent: ok.",
        [("sales agent", "hi."), ("client", "yo."), ("sales agent", "ok.")],
        0,
    ),
    "numbered": (
        "Speaker 1: hi. Speaker 2: yo. Speaker 1: ok.",
        [("Speaker 1", "hi."), ("Speaker 2", "yo."), ("Speaker 1", "ok.")],
        0,
    ),
    "underlines": (
        "SPEAKER_00: hi. SPEAKER_01: yo. SPEAKER_00: ok.",
        [("SPEAKER_00", "hi."), ("SPEAKER_01", "yo."), ("SPEAKER_00", "ok.")],
        0,
    ),
    "names of two words": (
        "Anna Smith: hi. Ben Jones: yo? Anna Smith: ok. Ben Jones: bye.",
        [("Anna Smith", "hi."), ("Ben Jones", "yo?"), ("Anna Smith", "ok."), ("Ben Jones", "bye.")],
        0,
    ),
    "names of two words once, as in prose": (
        "Anna Smith: the one thing she asked: why? Ben Jones: no answer.",
        [("Anna Smith", "the one thing she asked: why? Ben Jones: no answer.")],
        0,
    ),
    "times before names of two words": (
        "[10:15] Anna Smith: hi. [10:16] Ben Jones: yo.",
        [("Anna Smith", "hi."), ("Ben Jones", "yo.")],
        0,
    ),
    "brackets": (
        "[Agent] hi. [Customer] yo. [Agent] ok.",
        [("Agent", "hi."), ("Customer", "yo."), ("Agent", "ok.")],
        0,
    ),
    "full-width": (
        "客服：你好。顾客：我的手机坏了。客服：好的。顾客：再见。",
        [("客服", "你好。"), ("顾客", "我的手机坏了。"), ("客服", "好的。"), ("顾客", "再见。")],
        0,
    ),
    "no space after the colon": (
        "Agent:hi. Customer:yo. Agent:ok.",
        [("Agent", "hi."), ("Customer", "yo."), ("Agent", "ok.")],
        0,
    ),
    "time stamps": (
        "[00:05] Agent: hello [00:09] Customer: hi at 10:30 [00:10] Agent: ok",
        [("Agent", "hello"), ("Customer", "hi at 10:30"), ("Agent", "ok")],
        0,
    ),
    "time stamps without brackets": (
        "00:00:05 Mara Olsen: hello 00:00:09 Jon Pirie: hi 00:01:10 Mara Olsen: ok",
        [("Mara Olsen", "hello"), ("Jon Pirie", "hi"), ("Mara Olsen", "ok")],
        0,
    ),
    "time stamps in parentheses": (
        "(9:05 AM) Ann: hello (9:06 AM) Ben: hi",
        [("Ann", "hello"), ("Ben", "hi")],
        0,
    ),
    "literal line breaks": ("Ann: hi\\nBen: yo\\nAnn: ok", [("Ann", "hi"), ("Ben", "yo"), ("Ann", "ok")], 0),
    "literal carriage returns": ("Ann: hi\\r\\nBen: yo", [("Ann", "hi"), ("Ben", "yo")], 0),
    "literal double breaks": ("Ann: hi\\n\\nBen: yo", [("Ann", "hi"), ("Ben", "yo")], 0),
    "br": (
        "Ann: hi<br>Ben: yo<br/>Ann: ok<br />Ben: so",
        [("Ann", "hi"), ("Ben", "yo"), ("Ann", "ok"), ("Ben", "so")],
        0,
    ),
    "BR": ("Ann: hi<BR>Ben: yo", [("Ann", "hi"), ("Ben", "yo")], 0),
    "eos": ("Ann: hi</s>Ben: yo</s>Ann: ok</s>", [("Ann", "hi"), ("Ben", "yo"), ("Ann", "ok")], 0),
    "eos in lower case": ("user: hi </s> bot: yo </s> user: ok", [("user", "hi"), ("bot", "yo"), ("user", "ok")], 0),
    "eos without labels": ("hi </s> yo </s> ok", [(None, "hi"), (None, "yo"), (None, "ok")], 0),
    "end of utterance": ("hi __eou__ yo __eou__ ok __eou__", [(None, "hi"), (None, "yo"), (None, "ok")], 0),
    "pipes": ("Ann: hi | Ben: yo | Ann: ok", [("Ann", "hi"), ("Ben", "yo"), ("Ann", "ok")], 0),
    "double pipes": ("Ann: hi || Ben: yo", [("Ann", "hi"), ("Ben", "yo")], 0),
    "separators": (
        "agent: hi [SEP] customer: yo [SEP] agent: ok",
        [("agent", "hi"), ("customer", "yo"), ("agent", "ok")],
        0,
    ),
}


@pytest.mark.parametrize("name", INLINE)
def test_turns_of_one_line(name: str) -> None:
    text, said, dropped = (INLINE)[name]
    assert read(text) == (said, dropped)
