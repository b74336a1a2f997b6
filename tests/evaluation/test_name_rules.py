import time

from dialogsum_sft.evaluation.name_rules import name_spans

import pytest

# (dialogue, summary) by kind; the dialogue has every name of the summary.
SUPPORTED = {
    "names": [
        ("anna: hi", "Anna greets."),
        ("Tom's home.", "Tom is at Tom's home."),
        ("I live in America.", "The American lives there."),
        ("See you Wednesday in September.", "They meet on Wed in Sept."),
        ("on saturday", "They meet on Saturdays and every Sat."),
        ("Kate: hi Mike, hi Bob", "Katie greets Michael, and Robert smiles."),
        ("@bluefinch help, @AskOrlin please", "Blue Finch answers Orlin. BlueFinch helps."),
        ("OrlinSupport: yes", "Orlin answers on the OrlinApp."),
        ("I am Smith.", "Mr. Smith and Mrs. Smith. Dr. Smith agrees."),
        ("Doctor Lee", "Dr. Lee and Doctor Lee"),
        ("Anne-Marie O'Brien", "Marie meets Anne and O'Brien."),
        ("I'm from Quebec, says Zoe.", "Zoë is from Québec."),
        ("the Lee family", "They visit the Lees."),
        ("hi, José", "They greet Jose."),
        ("on my you tube channel, with an i phone", "It is on YouTube and Youtube, with an iPhone and an IPhone."),
    ],
    "spelt letters and initials": [
        ("an M R I and an L_C_D_ screen", "He had an MRI and saw an LCD."),
        ("on T.V. or D V Ds", "It is on TV, or DVDs."),
        ("my name is S-M-I-T-H", "They meet Smith."),
        ("a U. S. visa", "She wants a US visa."),
        ("the A P I", "They use APIs."),
        ("6 o'clock in NYC", "They meet at 6 PM in New York."),
        ("in N Y C", "They live in New York City."),
        ("the UN said so", "The United Nations said so."),
        ("chronic obstructive pulmonary disease", "He has COPD."),
        ("gastroesophageal reflux disease", "She has GERD."),
        ("the European Central Bank", "It is the ECB."),
        ("the department of motor vehicles", "They go to the DMV."),
        ("in LA", "They go to Los Angeles."),
        ("go to the emergency room", "She goes to the ER."),
        ("watch television", "They watch TV."),
        ("a heart attack, then the emergency room, and reflux", "An MI, seen in the ED. He has GERD, after two MIs."),
        ("no alcohol, one stroke", "No ETOH use, one CVA."),
        ("a nasogastric tube, at ninety nine", "She has an NG tube, at 99 degrees Fahrenheit, and the Wi-Fi is down."),
    ],
    "countries": [
        ("Ann: I loved the food in Italy", "Ann likes Italian food."),
        ("my French teacher", "They fly to France."),
        ("in the Netherlands", "They like the Dutch coast and Holland."),
        ("a trip to Norway and Denmark", "They like Norwegian and Danish hotels."),
        ("from Spain via Switzerland", "The Spanish and the Swiss agree."),
        ("a Pole and a Swede", "They come from Poland and Sweden."),
        ("in the UK", "They like British food in Britain."),
        ("the states", "He leaves the USA for America."),
        ("Filipino nurses", "They come from the Philippines."),
        ("I'm black", "He is an African-American man."),
    ],
    "beginnings of sentences": [
        ("Ann: me first", "Priority will be given to Ann."),
        ("yes", 'They agree. However, I think so. He says, "Let\'s go."'),
        ("yes", "Everyone agrees. Nothing is done. Students want it. Smoking is bad."),
        ("Original Joe's?", "They crave Original Joe's. They'll go."),
        ("the Smiths'", "They visit the Smiths'. Tomorrow they leave."),
        ("at 6", "It opens at 6 p.m. Tickets are there."),
        ("plan b", "It is plan B. They agree. Nobody's sad."),
        ("doctor f", "She saw Dr. F.  Unfortunately, it rained. Ms. A. Had none."),
        ("sugar", "Adult-onset diabetes is present. Low-dose aspirin was given."),
        ("come", "He said: 'Please come.'"),
        ("skin", "She is seen in Psychiatry, at the Women's clinic, and has the Data."),
        ("well", "“It is done.” Nobody doubted it… Discussion continued."),
        ("belly", "Abdomen is soft. Bowel sounds are normal. Denies fevers. Reports headaches. Strength was good."),
        (
            "yes",
            "Customer is unhappy. Agent informed them. Issue was resolved. Team will help. Departure had changed.",
        ),
        ("yes", "Participants agreed. Budget was cut. Concerns included cost. Marketing had doubts."),
    ],
    "headings and bullets": [
        (
            "doctor: ann lee has a cough, it is stable",
            "CHIEF COMPLAINT\n\nThe patient has a cough, said Ann Lee on arrival here.\n\n"
            "• Medical Reasoning: This is stable.",
        ),
        ("x", "Past Medical History: None. Social History: Noncontributory. FAMILY HISTORY: Unremarkable."),
        ("x", "Action Items\n- Send the report\n- Book a room\nOpen Issues: none"),
        ("x", "REVIEW OF SYSTEMS:\n* Cardiovascular: Denies pain.\n* Ears, Nose, Mouth and Throat: Normal.\n1) Rest"),
        ("x", "Physical Examination\n• Metformin was stopped.\n• Echo shows little."),
        ("x", "Patient Education and Counseling: Smoking is bad.\n2. Tylenol helps."),
        ("x", "Plan: Rest. Next steps: Tea"),
        ("x", "1) Chronic Kidney Disease, Stage III.\n2) Type II Diabetes Mellitus, controlled.\n- Vitamin D 400 IU"),
        ("x", "They want tea; Power could come later; Marijuana was banned. Membranes ruptured. Insight is fair."),
    ],
    "clock and notation": [
        ("at 6", "They meet at 6 PM or 6 A.M., and at 7 AM."),
        ("x", "Take it PO BID. Stage III, type II. Allergies: NKDA."),
        ("x", "A chest X-ray, an A1c and a B12 were ordered."),
        ("on 12/05", "They meet in December, or in May."),
    ],
    "capitals": [
        ("yes", "TOM ASKS MARY TO LEAVE HOME NOW"),
        ("yes", "Tom Asks Mary To Leave Home Tonight"),
        ("yes", "小明丢了钥匙。"),
    ],
}


@pytest.mark.parametrize("kind", SUPPORTED)
def test_supported_names_and_ordinary_words(kind: str):
    flagged = {
        summary: [summary[start:end] for start, end in name_spans(summary, dialogue)]
        for dialogue, summary in SUPPORTED[kind]
    }
    assert {summary: names for summary, names in flagged.items() if names} == {}


@pytest.mark.parametrize(
    ("dialogue", "summary", "wrong"),
    [
        ("Tom: hi", "Tom meets Mary in Paris on Monday.", ["Mary", "Paris", "Monday"]),
        (
            "Tom: hi",
            "Mary wants to leave. Mary's ill. Bob and Ann sing. Zoe Lee came.",
            ["Mary", "Mary", "Bob", "Ann", "Zoe", "Lee"],
        ),
        ("Susan: hi", "They visit Suman.", ["Suman"]),
        ("Mr. Smith: hi", "Mr. Smyth is here.", ["Smyth"]),
        ("See you Wednesday.", "They meet on Thursday.", ["Thursday"]),
        ("in Italy", "They like French food.", ["French"]),
        ("an M R I", "He had an EKG.", ["EKG"]),
        ("in NYC", "They live in San Jose.", ["San", "Jose"]),
        ("on 12/05", "They meet in June.", ["June"]),
        ("x", "They met at Oxford Street; Bob wanted it.", ["Oxford", "Street", "Bob"]),
        ("x", "PLAN\n• Zoe Lee will call Bob.", ["Zoe", "Lee", "Bob"]),
        ("x", "Lawrence wants it. They ask Emily and Florence.", ["Lawrence", "Emily", "Florence"]),
        ("x", "Kwame reluctantly agrees. Chen cannot go. Dr. J. Okafor came.", ["Kwame", "Chen", "Okafor"]),
        ("Mike: hi", "He saw Robert at the Fern Clinic.", ["Robert", "Fern"]),
        ("@bluefinch help", "They ask Marlow Finch about the bill, and Orlin.", ["Marlow", "Orlin"]),
    ],
)
def test_spans_of_unsupported_names(dialogue: str, summary: str, wrong: list[str]):
    assert [summary[start:end] for start, end in name_spans(summary, dialogue)] == wrong


def test_long_odd_texts_take_little_time():
    start = time.monotonic()
    odd = ["a" * 20_000, "A " * 5_000, "a b " * 3_000, "Ab " * 3_000, "ABCDEF " * 500, "\n• Ab:" * 2_000]
    for text in odd:
        name_spans("The ABCDEF and the GHJKLM. " + text[:5_000], text)
    assert time.monotonic() - start < 20
