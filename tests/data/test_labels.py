"""Labels at the beginning of lines, and colons and times that are no labels."""

import pytest
from reading import Said, read

LABELS: dict[str, tuple[str, Said, int]] = {
    "arrows": (">> MARA: hi\n>>JON: yo", [("MARA", "hi"), ("JON", "yo")], 0),
    "quoted lines": ("> Ann: hi\n> Ben: yo", [("Ann", "hi"), ("Ben", "yo")], 0),
    "one arrow": ("Agent> hi\nCustomer> yo\nAgent> ok", [("Agent", "hi"), ("Customer", "yo"), ("Agent", "ok")], 0),
    "no space, names once": ("Ann:hi there\nBen:yo", [("Ann", "hi there"), ("Ben", "yo")], 0),
    "podcast": ("HOST: hi\nGUEST: yo", [("HOST", "hi"), ("GUEST", "yo")], 0),
    "radio": (
        "ANNA RAY, HOST: hi\nMr. BEN LEE (Author): yo\nRAY: ok\nUNIDENTIFIED WOMAN #1: so",
        [("ANNA RAY, HOST", "hi"), ("Mr. BEN LEE", "yo"), ("RAY", "ok"), ("UNIDENTIFIED WOMAN #1", "so")],
        0,
    ),
    "radio, bylines": (
        "ANNA RAY, host: hi\nBEN LEE, BYLINE: yo\n(SOUNDBITE OF MUSIC)\nRAY: ok",
        [("ANNA RAY, host", "hi"), ("BEN LEE, BYLINE", "yo\n(SOUNDBITE OF MUSIC)"), ("RAY", "ok")],
        0,
    ),
    "court": (
        "THE COURT: hi\nMR. LEE: yo\nTHE WITNESS: ok\nMS. O'DAY-RAY: so",
        [("THE COURT", "hi"), ("MR. LEE", "yo"), ("THE WITNESS", "ok"), ("MS. O'DAY-RAY", "so")],
        0,
    ),
    "court, Q and A": ("Q: hi\nA: yo\nQ: ok", [("Q", "hi"), ("A", "yo"), ("Q", "ok")], 0),
    "court, Q. and A.": ("Q. hi\nA. yo\nQ. ok\nA. so", [("Q", "hi"), ("A", "yo"), ("Q", "ok"), ("A", "so")], 0),
    "parliament": (
        "The Chair (Hon. Anna Ray): hi\nRight Hon. Ben Lee (Leeds, Lib.): yo",
        [("The Chair", "hi"), ("Right Hon. Ben Lee", "yo")],
        0,
    ),
    "meeting codes": (
        "PhD C: hi\nProfessor B: yo\nGrad E: ok\nProject Manager: so",
        [("PhD C", "hi"), ("Professor B", "yo"), ("Grad E", "ok"), ("Project Manager", "so")],
        0,
    ),
    "numbered": ("Speaker 1: hi\nSpeaker 2: yo", [("Speaker 1", "hi"), ("Speaker 2", "yo")], 0),
    "numbered, underlines": ("SPEAKER_00: hi\nSPEAKER_01: yo", [("SPEAKER_00", "hi"), ("SPEAKER_01", "yo")], 0),
    "numbered, letters": ("A: hi\nB: yo", [("A", "hi"), ("B", "yo")], 0),
    "numbered, short": ("S1: hi\nS2: yo\nP01: ok", [("S1", "hi"), ("S2", "yo"), ("P01", "ok")], 0),
    "numbered, hash": ("Speaker #1: hi\nSpeaker #2: yo", [("Speaker #1", "hi"), ("Speaker #2", "yo")], 0),
    "numbers alone": ("1: hi\n2: yo\n1: ok\n2: so", [("1", "hi"), ("2", "yo"), ("1", "ok"), ("2", "so")], 0),
    "numbered turns": ("1. Ann: hi\n2. Ben: yo\n3. Ann: ok", [("Ann", "hi"), ("Ben", "yo"), ("Ann", "ok")], 0),
    "bullets": ("- Ann: hi\n- Ben: yo", [("Ann", "hi"), ("Ben", "yo")], 0),
    "bullets, stars": ("* Ann: hi\n* Ben: yo", [("Ann", "hi"), ("Ben", "yo")], 0),
    "bold": ("**Ann:** hi\n\n**Ben:** yo", [("Ann", "hi"), ("Ben", "yo")], 0),
    "bold, colon outside": ("**Ann Lee**: hi\n**Ben**: yo", [("Ann Lee", "hi"), ("Ben", "yo")], 0),
    "bold, underlines": ("__Ann__: hi\n__Ben__: yo", [("Ann", "hi"), ("Ben", "yo")], 0),
    "bold, bullets": ("- **Ann:** hi\n- **Ben:** yo", [("Ann", "hi"), ("Ben", "yo")], 0),
    "bold with a time": ("**Ann** [00:12]: hi\n**Ben** [00:20]: yo", [("Ann", "hi"), ("Ben", "yo")], 0),
    "italics": ("*Ann:* hi\n*Ben*: yo", [("Ann", "hi"), ("Ben", "yo")], 0),
    "headings": ("### Ann\nhi\n\n### Ben\nyo\n\n### Ann\nok", [("Ann", "hi"), ("Ben", "yo"), ("Ann", "ok")], 0),
    "html bold": ("<b>Ann:</b> hi\n<b>Ben:</b> yo", [("Ann", "hi"), ("Ben", "yo")], 0),
    "full-width": ("客服：你好\n顾客：再见", [("客服", "你好"), ("顾客", "再见")], 0),
    "full-width, numbered": ("说话人1：你好\n说话人2：再见", [("说话人1", "你好"), ("说话人2", "再见")], 0),
    "full-width, brackets": ("【客服】你好\n【顾客】再见", [("客服", "你好"), ("顾客", "再见")], 0),
    "full-width, japanese": ("Ａ：こんにちは\nＢ：さようなら", [("Ａ", "こんにちは"), ("Ｂ", "さようなら")], 0),
    "ascii colon without space": ("客服:你好\n顾客:再见", [("客服", "你好"), ("顾客", "再见")], 0),
    "korean": ("상담원: 안녕\n고객: 네", [("상담원", "안녕"), ("고객", "네")], 0),
    "arabic": ("أحمد: مرحبا\nليلى: نعم", [("أحمد", "مرحبا"), ("ليلى", "نعم")], 0),
    "hindi": ("ग्राहक: नमस्ते\nएजेंट: हाँ", [("ग्राहक", "नमस्ते"), ("एजेंट", "हाँ")], 0),
    "vietnamese": (
        "Khách hàng: hi\nNhân viên: yo\nKhách hàng: ok",
        [("Khách hàng", "hi"), ("Nhân viên", "yo"), ("Khách hàng", "ok")],
        0,
    ),
    "russian": ("Иван Петров: да\nОльга: нет", [("Иван Петров", "да"), ("Ольга", "нет")], 0),
    "french, space before the colon": ("Agente : hi\nClient : yo", [("Agente", "hi"), ("Client", "yo")], 0),
    "no-break space before the colon": ("Agente\u00a0: hi\nClient\u00a0: yo", [("Agente", "hi"), ("Client", "yo")], 0),
    "no space after the colon": (
        "Agent:hi\nCustomer:yo\nAgent:ok",
        [("Agent", "hi"), ("Customer", "yo"), ("Agent", "ok")],
        0,
    ),
    "surnames first": (
        "Müller, Jörg: hi\nJo's iPhone: yo\nAnna: ok",
        [("Müller, Jörg", "hi"), ("Jo's iPhone", "yo"), ("Anna", "ok")],
        0,
    ),
    "long names": (
        "Anna: hi\nMaría José de la Cruz García: yo\nand on\nAnna: ok\nMaría José de la Cruz García: so",
        [
            ("Anna", "hi"),
            ("María José de la Cruz García", "yo\nand on"),
            ("Anna", "ok"),
            ("María José de la Cruz García", "so"),
        ],
        0,
    ),
    "an e-mail": (
        "From: Ann\nTo: Ben\nSubject: the bill\nDate: 3 May 2024\n\nAnn: hi\nBen: yo",
        [(None, "From: Ann\nTo: Ben\nSubject: the bill\nDate: 3 May 2024"), ("Ann", "hi"), ("Ben", "yo")],
        0,
    ),
    "an e-mail without labels": (
        "From: Ann <ann@a.example>\nSent: Friday\nTo: Ben\nPay, please.",
        [(None, "From: Ann <ann@a.example>"), (None, "Sent: Friday"), (None, "To: Ben"), (None, "Pay, please.")],
        0,
    ),
    "phones": (
        "+44 7700 900123: hi\n+1 (555) 010-0199: yo",
        [("+44 7700 900123", "hi"), ("+1 (555) 010-0199", "yo")],
        0,
    ),
    "handles": ("@shop_help: hi\n@115712: yo", [("@shop_help", "hi"), ("@115712", "yo")], 0),
    "emails": (
        "ann@shop.example: hi\nben.lee@mail.example: yo",
        [("ann@shop.example", "hi"), ("ben.lee@mail.example", "yo")],
        0,
    ),
    "roles in parentheses": ("Anna (agent): hi\nBen (customer): yo", [("Anna", "hi"), ("Ben", "yo")], 0),
    "notes and times": (
        "Anna M. [ACME] (10:15): hi\nBob (Guest) (10:16): yo\nSmith, Bob (EXT) [00:17]: ok\nPirie, Jon (Guest): so",
        [("Anna M.", "hi"), ("Bob", "yo"), ("Smith, Bob", "ok"), ("Pirie, Jon", "so")],
        0,
    ),
    "roles in brackets": ("Anna [agent]: hi\nBen [customer]: yo", [("Anna", "hi"), ("Ben", "yo")], 0),
    "roles of two words": (
        "sales agent: hi\ncustomer: yo\nsales agent: ok",
        [("sales agent", "hi"), ("customer", "yo"), ("sales agent", "ok")],
        0,
    ),
    "name and role": (
        "Anna - agent: hi\nBen - customer: yo\nAnna - agent: ok",
        [("Anna - agent", "hi"), ("Ben - customer", "yo"), ("Anna - agent", "ok")],
        0,
    ),
    "two at once": (
        "Anna/Ben: hi\nAnna and Ben: yo\nAnna & Ben: ok",
        [("Anna/Ben", "hi"), ("Anna and Ben", "yo"), ("Anna & Ben", "ok")],
        0,
    ),
    "nicknames": (
        "xX_tom_Xx: hi\nines_92: yo\nxX_tom_Xx: ok\nines_92: so",
        [("xX_tom_Xx", "hi"), ("ines_92", "yo"), ("xX_tom_Xx", "ok"), ("ines_92", "so")],
        0,
    ),
    "emoji in names": ("Ines 🌻: hi\nTom: yo\nInes 🌻: ok", [("Ines 🌻", "hi"), ("Tom", "yo"), ("Ines 🌻", "ok")], 0),
    "pipes": ("Ann | hi\nBen | yo\nAnn | ok", [("Ann", "hi"), ("Ben", "yo"), ("Ann", "ok")], 0),
    "tabs": ("Ann\thi\nBen\tyo\nAnn\tok", [("Ann", "hi"), ("Ben", "yo"), ("Ann", "ok")], 0),
    "angle": ("<ann> hi\n<ben> yo", [("ann", "hi"), ("ben", "yo")], 0),
    "dashes": ("— hi\n— yo", [(None, "— hi"), (None, "— yo")], 0),
    "on the next line": ("Ann:\nhi\nBen:\nyo", [("Ann", "hi"), ("Ben", "yo")], 0),
}
PROSE: dict[str, tuple[str, Said, int]] = {
    "a list of an assistant": (
        "User: which cities?\nAssistant: 1. Paris: the capital\n2. Lyon: by the river\nUser: thanks",
        [("User", "which cities?"), ("Assistant", "1. Paris: the capital\n2. Lyon: by the river"), ("User", "thanks")],
        0,
    ),
    "times as answers": (
        "Ann: When?\nBen: 10:30\nAnn: Or 10:45\nBen: Platform 9 10:45",
        [("Ann", "When?"), ("Ben", "10:30"), ("Ann", "Or 10:45"), ("Ben", "Platform 9 10:45")],
        0,
    ),
    "topics": (
        "The talk was at 10:30. Topic: tea. Topic: milk.",
        [(None, "The talk was at 10:30. Topic: tea. Topic: milk.")],
        0,
    ),
    "plain": ("He came in late. She had left.", [(None, "He came in late. She had left.")], 0),
    "lines": ("hello there\nhi\nbye", [(None, "hello there"), (None, "hi"), (None, "bye")], 0),
    "a time": (
        "We meet at 10:30 tomorrow.\nThe bus is at 9:05.",
        [(None, "We meet at 10:30 tomorrow."), (None, "The bus is at 9:05.")],
        0,
    ),
    "lines that begin with a time": ("10:30 is fine\nsee you", [(None, "10:30 is fine"), (None, "see you")], 0),
    "a URL": (
        "See http://a.example/b: it is down.\nhttps://b.example",
        [(None, "See http://a.example/b: it is down."), (None, "https://b.example")],
        0,
    ),
    "a ratio": (
        "The odds are 3:1 now.\n2:1 is better.",
        [(None, "The odds are 3:1 now."), (None, "2:1 is better.")],
        0,
    ),
    "a list after a colon": (
        "We need three things: tea, milk and bread.",
        [(None, "We need three things: tea, milk and bread.")],
        0,
    ),
    "reported speech": ("He said: no. Then she said: yes.", [(None, "He said: no. Then she said: yes.")], 0),
    "a drive": ("it is in C:\\data\\chat\nok", [(None, "it is in C:\\data\\chat"), (None, "ok")], 0),
    "emoticons": (":-) fine\n:D ok", [(None, ":-) fine"), (None, ":D ok")], 0),
    "a verse": ("Read John 3:16 aloud.\nok", [(None, "Read John 3:16 aloud."), (None, "ok")], 0),
    "two sentences with colons": (
        "The plan has one flaw: the price. The answer is simple: wait until the price falls.",
        [(None, "The plan has one flaw: the price. The answer is simple: wait until the price falls.")],
        0,
    ),
    "a note": (
        "the boiler is broken\nplease note: we are closed on Friday\nok",
        [(None, "the boiler is broken"), (None, "please note: we are closed on Friday"), (None, "ok")],
        0,
    ),
    "a list of times": (
        "Ann: the trains are:\n9:15 to Ely\n10:15 to Ely\nBen: the first one",
        [("Ann", "the trains are:\n9:15 to Ely\n10:15 to Ely"), ("Ben", "the first one")],
        0,
    ),
    "times within turns": (
        "Ann: hi\n10:30 is fine\nBen: yo\n11:00 works too: ok",
        [("Ann", "hi\n10:30 is fine"), ("Ben", "yo\n11:00 works too: ok")],
        0,
    ),
    "words with colons within turns": (
        "Ann: I have one question: when?\nBen: Two things: tea and milk.\nThe first thing: tea.\nthe second: milk.",
        [
            ("Ann", "I have one question: when?"),
            ("Ben", "Two things: tea and milk.\nThe first thing: tea.\nthe second: milk."),
        ],
        0,
    ),
    "an address within a turn": (
        "Ann: look\nhttp://a.example: down\nBen: yo",
        [("Ann", "look\nhttp://a.example: down"), ("Ben", "yo")],
        0,
    ),
    "subtitles of one cue in a turn": (
        "Ann: the file says 00:01 --> 00:02\nBen: yo",
        [("Ann", "the file says 00:01 --> 00:02"), ("Ben", "yo")],
        0,
    ),
    "a noise": ("Ann: hi\n[laughs] well\n(pause)\nBen: yo", [("Ann", "hi\n[laughs] well\n(pause)"), ("Ben", "yo")], 0),
    "literal breaks in code": ("Ann: print('a\\nb')\nBen: yo", [("Ann", "print('a\\nb')"), ("Ben", "yo")], 0),
    "one turn with a literal break": ("Ann: write a\\nb there", [("Ann", "write a\\nb there")], 0),
    "one turn with colons": (
        "Ann: there are two kinds: big: and small.",
        [("Ann", "there are two kinds: big: and small.")],
        0,
    ),
}


@pytest.mark.parametrize("name", LABELS | PROSE)
def test_labels_of_lines(name: str) -> None:
    text, said, dropped = (LABELS | PROSE)[name]
    assert read(text) == (said, dropped)
