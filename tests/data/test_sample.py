"""The bundled dialogues keep DialogSum's format and its rough proportions."""

import json
import re

from dialogsum_sft.data.sources import SAMPLE
from dialogsum_sft.evaluation.rouge import rouge_scores

import pytest

TAG = re.compile(r"#Person\d#")


def read(split):
    with (SAMPLE / f"{split}.jsonl").open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


SPLITS = {split: read(split) for split in ("train", "validation", "test")}
every_split = pytest.mark.parametrize("split", SPLITS)


def test_the_splits_are_the_files():
    assert sorted(path.name for path in SAMPLE.iterdir()) == ["test.jsonl", "train.jsonl", "validation.jsonl"]


@every_split
def test_every_row_has_the_columns_of_the_hub(split):
    for row in SPLITS[split]:
        assert list(row) == ["id", "dialogue", "summary", "topic"]
        assert all(isinstance(value, str) and value == value.strip() != "" for value in row.values()), row["id"]


@every_split
def test_every_turn_begins_with_its_speaker(split):
    for row in SPLITS[split]:
        turns = row["dialogue"].split("\n")
        assert len(turns) >= 2, row["id"]
        assert all(re.match(r"#Person\d#: \S", turn) for turn in turns), row["id"]


@every_split
def test_speakers_are_numbered_from_one(split):
    for row in SPLITS[split]:
        speakers = sorted({TAG.match(turn)[0] for turn in row["dialogue"].split("\n")})
        assert speakers == [f"#Person{n}#" for n in range(1, len(speakers) + 1)], row["id"]
        assert len(speakers) >= 2, row["id"]


@every_split
def test_a_summary_tags_only_who_speaks(split):
    for row in SPLITS[split]:
        assert set(TAG.findall(row["summary"])) <= set(re.findall(r"(?m)^(#Person\d#):", row["dialogue"])), row["id"]


@every_split
def test_every_tag_is_well_formed(split):
    for row in SPLITS[split]:
        assert not re.search(r"#|Person ?\d", TAG.sub("", row["dialogue"] + row["summary"])), row["id"]


def test_sizes():
    assert len(SPLITS["train"]) >= 120
    assert len(SPLITS["validation"]) >= 20
    assert len(SPLITS["test"]) >= 24 * 3


def test_ids_are_numbered_continuously():
    assert [row["id"] for row in SPLITS["train"]] == [f"train_{n}" for n in range(len(SPLITS["train"]))]
    assert [row["id"] for row in SPLITS["validation"]] == [f"dev_{n}" for n in range(len(SPLITS["validation"]))]


def test_the_test_split_spreads_a_dialogue_over_three_rows():
    rows = SPLITS["test"]
    assert [row["id"] for row in rows] == [f"test_{n}_{i}" for n in range(len(rows) // 3) for i in (1, 2, 3)]
    for first in range(0, len(rows), 3):
        assert len({row["dialogue"] for row in rows[first : first + 3]}) == 1, rows[first]["id"]


def test_no_dialogue_occurs_twice():
    dialogues = [row["dialogue"] for row in SPLITS["train"] + SPLITS["validation"] + SPLITS["test"][::3]]
    assert len(set(dialogues)) == len(dialogues)


@every_split
def test_summaries_are_as_long_as_dialogsums(split):
    words = [len(row["summary"].split()) for row in SPLITS[split]]
    assert min(words) >= 8
    assert max(words) <= 40
    assert 17 <= sum(words) / len(words) <= 24


@every_split
def test_most_summaries_tag_a_speaker(split):
    tagged = [bool(TAG.search(row["summary"])) for row in SPLITS[split]]
    assert 0.60 <= sum(tagged) / len(tagged) <= 0.95


def test_one_dialogue_in_ten_has_three_speakers():
    dialogues = {row["dialogue"] for rows in SPLITS.values() for row in rows}
    three = [dialogue for dialogue in dialogues if re.search(r"(?m)^#Person3#:", dialogue)]
    assert len(three) / len(dialogues) >= 0.1


def test_the_references_of_a_dialogue_differ_as_those_of_annotators_do():
    summaries = [row["summary"] for row in SPLITS["test"]]
    triples = [summaries[i : i + 3] for i in range(0, len(summaries), 3)]
    assert all(len(set(triple)) == 3 for triple in triples)
    scores = [
        score
        for i in range(3)
        for pair in rouge_scores([t[i] for t in triples], [t[:i] + t[i + 1 :] for t in triples])["rouge1"]
        for score in pair
    ]
    assert 35 <= sum(scores) / len(scores) <= 75  # DialogSum's annotators: 53
