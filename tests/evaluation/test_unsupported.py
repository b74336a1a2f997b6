import json

from conftest import SAMPLE
from dialogsum_sft.evaluation.unsupported import unsupported_names, unsupported_numbers

import pytest

SPLITS = sorted(SAMPLE.glob("*.jsonl"))


def texts(spans, summary):
    return [summary[start:end] for start, end in spans]


@pytest.mark.parametrize(
    ("dialogue", "summary"),
    [
        ("I'm twenty-five.", "He is 25."),
        ("A hundred and sixty, I know.", "The deposit is 160."),
        ("It's two thousand five hundred dollars.", "It costs $2,500."),
        ("fifteen hundred", "1,500"),
        ("born in nineteen eighty-four", "born in 1984"),
        ("at half past five", "at 5:30"),
        ("at five thirty", "at 5.30"),
        ("a quarter to nine", "at a quarter to 9, not :45"),
        ("They are 12 dollars 50 cents each.", "They are $12.5."),
        ("on the twenty-first", "on June 21st"),
        ("on the 3rd", "on the third, for three"),
        ("20, 000 RMB", "20,000 RMB"),
        ("20k", "20,000"),
        ("1.5 million", "1,500,000 people"),
        ("The train leaves at 16:20.", "at 4:20"),
        ("two and a half hours", "2.5 hours"),
        ("a dozen eggs", "12 eggs"),
        ("in my twenties", "in her 20s"),
        ("hundreds of them", "one hundred of them"),
        ("We're off to the sea.", "The two of them go there at first."),
    ],
)
def test_numbers_are_compared_by_value(dialogue, summary):
    assert unsupported_numbers(summary, dialogue) == []


@pytest.mark.parametrize(
    ("dialogue", "summary", "wrong"),
    [
        ("I'm twenty-five.", "He is 26.", ["26"]),
        ("five, thirty", "35", ["35"]),
        ("a hundred and sixty", "He lost 166 dollars and sixty cents.", ["166", "sixty"]),
        ("Room 12, please.", "Room 12 for 3 nights costs 1,200 dollars.", ["3", "1,200"]),
        ("at five", "at 5.30", ["5.30"]),
        ("", "three of two, the third", ["three"]),
    ],
)
def test_spans_of_unsupported_numbers(dialogue, summary, wrong):
    assert texts(unsupported_numbers(summary, dialogue), summary) == wrong


@pytest.mark.parametrize(
    ("dialogue", "summary"),
    [
        ("anna: hi", "Anna greets."),
        ("Tom's home.", "Tom is at Tom's home."),
        ("I live in America.", "The American lives there."),
        ("See you Wednesday in September.", "They meet on Wed in Sept."),
        ("I am Smith.", "Mr. Smith and Mrs. Smith. Dr. Smith agrees."),
        ("Anne-Marie O'Brien", "Marie meets Anne and O'Brien."),
        ("yes", 'They agree. However, I think so. He says, "Let\'s go."'),
        ("yes", "Everyone agrees. Nothing is done. Students want it. Smoking is bad."),
        ("yes", "TOM ASKS MARY TO LEAVE HOME NOW"),
        ("yes", "Tom Asks Mary To Leave Home Tonight"),
        ("yes", "小明丢了钥匙。"),
    ],
)
def test_supported_names_and_ordinary_words(dialogue, summary):
    assert unsupported_names(summary, dialogue) == []


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
    ],
)
def test_spans_of_unsupported_names(dialogue, summary, wrong):
    assert texts(unsupported_names(summary, dialogue), summary) == wrong


def test_excluded_spans_are_skipped():
    assert unsupported_names("It is Person 3 and Mary.", "", [(6, 14)]) == [(19, 23)]
    assert unsupported_numbers("Person 3 and 4", "", [(0, 8)]) == [(13, 14)]


def test_references_rarely_have_unsupported_numbers_or_names():
    # In the bundled references these are inferred (a sum, a nickname), or the rules err.
    rows = [json.loads(line) for path in SPLITS for line in path.read_text(encoding="utf-8").splitlines()]
    numbers = sum(bool(unsupported_numbers(row["summary"], row["dialogue"])) for row in rows)
    names = sum(bool(unsupported_names(row["summary"], row["dialogue"])) for row in rows)
    assert len(rows) == 252
    assert numbers <= 5
    assert names <= 5
