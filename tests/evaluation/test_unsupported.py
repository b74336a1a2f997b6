import json
import random
import re
from pathlib import Path
from typing import Any

from conftest import SAMPLE
from dialogsum_sft.evaluation.unsupported import unsupported_names, unsupported_numbers

import pytest

DIALOGSUM = Path(__file__).parents[3] / "shared" / "data" / "dialogsum"
# Invented dialogues with summaries in the style of clinical notes, minutes and customer support, which are supported.
OTHER_STYLES = Path(__file__).with_name("other_summaries.jsonl")


def read_pairs(paths: list[Path]) -> list[tuple[str, str]]:
    """(summary, dialogue) of all summaries."""
    rows: list[dict[str, Any]] = [
        json.loads(line) for path in paths for line in path.read_text(encoding="utf-8").splitlines()
    ]
    return [(text, row["dialogue"]) for row in rows for key, text in row.items() if key.startswith("summary")]


BUNDLED = read_pairs(sorted(SAMPLE.glob("*.jsonl")))


@pytest.mark.parametrize(
    ("summary", "dialogue"),
    [
        ("The aim is 50 million euros.", "Ann: We want fifty million euros."),
        ("It costs twenty-five euros.", "Ann: twenty - five euros"),
        ("They meet at 19:30.", "Ann: at 1930, ok?"),
        ("They meet at 6 pm.", "Ann: at 18, ok?"),
        ("Seen on 12/05/2008.", "Doctor: on December fifth two thousand eight"),
        ("In the 1990s he moved.", "Ann: in the nineties"),
        ("1. Rest. 2. Tea. 3. Sleep. 4. Soup.", "Doctor: rest, tea, sleep, soup"),
        ("He had an MRI and saw an LCD.", "Ann: an M R I and an L_C_D_ screen"),
        ("They crave Original Joe's. They'll go.", "Erik: Original Joe's?"),
        ("They meet at 6 PM in New York.", "Ann: 6 o'clock in NYC"),
        ("Priority will be given to Ann.", "Ann: me first"),
        ("Ann likes Italian food.", "Ann: I loved the food in Italy"),
        (
            "Die Kundin bittet um Rückerstattung. Der Mitarbeiter verspricht Antwort.",
            "Kundin: Ich will mein Geld zurück.\nMitarbeiter: Ich antworte.",
        ),
        (
            "CHIEF COMPLAINT\n\nThe patient has a cough, said Ann Lee on arrival here.\n\n"
            "• Medical Reasoning: This is stable.",
            "doctor: ann lee has a cough, it is stable",
        ),
    ],
)
def test_facts_that_the_dialogue_has_in_another_form(summary: str, dialogue: str):
    assert unsupported_numbers(summary, dialogue) == []
    assert unsupported_names(summary, dialogue) == []


def test_excluded_spans_are_skipped():
    assert unsupported_names("It is Person 3 and Mary.", "", [(6, 14)]) == [(19, 23)]
    assert unsupported_numbers("Person 3 and 4", "", [(0, 8)]) == [(13, 14)]


def flagged_shares(pairs: list[tuple[str, str]]) -> tuple[float, float]:
    numbers = [summary for summary, dialogue in pairs if unsupported_numbers(summary, dialogue)]
    names = [summary for summary, dialogue in pairs if unsupported_names(summary, dialogue)]
    return len(numbers) / len(pairs), len(names) / len(pairs)


def test_few_bundled_references_are_flagged():
    # What remains is inferred by the annotator (a sum, a nickname), or the rules err.
    assert len(BUNDLED) == 252
    assert max(flagged_shares(BUNDLED)) < 0.01


@pytest.mark.skipif(not DIALOGSUM.is_dir(), reason="DialogSum is not here")
@pytest.mark.parametrize("split", ["dev", "test"])
def test_few_dialogsum_references_are_flagged(split: str):
    assert max(flagged_shares(read_pairs([DIALOGSUM / f"{split}.jsonl"]))) < 0.01


def test_few_summaries_of_other_styles_are_flagged():
    pairs = read_pairs([OTHER_STYLES])
    assert len(pairs) == 62
    assert max(flagged_shares(pairs)) < 0.03


NUMBERS = ["three", "four", "five", "six", "seven", "eight", "nine", "ten", "twenty"]
NUMBER = re.compile(rf"(?<![#\w.])\d[\d,]*(?:[.:]\d+)?(?![\w#])|\b(?<!-)(?:{'|'.join(NUMBERS)})\b(?!-)")
NAME = re.compile(r"(?<![#\w])[A-Z][a-z]{2,}(?![\w#])")
OTHER_NUMBERS = ["14", "17", "38", "63", "120", "340", "999", "1,200", "1987", "45,000", "13.7", "7:45", "16:05"]
OTHER_NUMBERS += ["fourteen", "seventeen", "thirty-eight", "sixty-three", "ninety", "two hundred", "3 million"]
OTHER_NAMES = ["Zoltan", "Priya", "Oksana", "Kwame", "Saoirse", "Emily", "Grace", "Lawrence", "Ann", "Bob", "Chen"]
OTHER_NAMES += ["Smith", "Okafor", "Lisbon", "Nairobi", "Peru", "Greece", "Toyota", "Netflix", "Thursday", "November"]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_most_planted_numbers_and_names_are_found(seed: int):
    rng = random.Random(seed)
    # A capitalised word is a name where no text has it without the capital.
    ordinary = {word for pair in BUNDLED for text in pair for word in re.findall(r"\b[a-z]+", text)} - set(NUMBERS)
    for pattern, others, rule in (
        (NUMBER, OTHER_NUMBERS, unsupported_numbers),
        (NAME, OTHER_NAMES, unsupported_names),
    ):
        found = []
        for summary, dialogue in BUNDLED:
            said = set(re.findall(r"[a-z0-9.:,-]+", dialogue.lower()))
            for place in pattern.finditer(summary):
                if place[0].lower() not in ordinary:
                    other = rng.choice([other for other in others if other.lower() not in said])
                    wrong = summary[: place.start()] + other + summary[place.end() :]
                    end = place.start() + len(other)
                    found.append(any(start < end and place.start() < to for start, to in rule(wrong, dialogue)))
        assert len(found) > 30
        assert sum(found) >= 0.9 * len(found)
