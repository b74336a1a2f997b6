"""Ids, dialogues and references of the dataset are found in a predictions file under any name."""

import json

from dialogsum_sft import InputError
from dialogsum_sft.evaluation.matching import match_examples
from dialogsum_sft.evaluation.prediction_columns import read_predictions

import pytest

EXAMPLES = [
    {
        "id": f"test_{i}",
        "dialogue": f"A: Where is crate {i}?\nB: On the pier.",
        "references": [f"Crate {i} is on the pier.", f"A looks for crate {i}."],
        "reference_rows": json.dumps([[2 * i + j, f"test_{i}_{j + 1}"] for j in range(2)]),
        "topic": None,
    }
    for i in range(4)
]
SUMMARIES = [f"Summary {i}." for i in range(4)]
SWAPPED = (1, 0, 3, 2)


@pytest.fixture
def match(tmp_path):
    def match(content, name="p.jsonl", examples=EXAMPLES, id_column=None, column=None, **options):
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else "".join(json.dumps(row) + "\n" for row in content))
        found = read_predictions(path, column, id_column)
        return match_examples(examples, found, "data (test)", rows_read=8, **options)

    return match


def texts(matched):
    return [row["prediction"] for row in matched.rows]


@pytest.mark.parametrize("name", ["dialog_id", "uuid", "question_id", "Dialog ID", "x", "file", "meta"])
def test_ids_under_any_name(match, name):
    matched = match([{name: f"test_{i}", "prediction": SUMMARIES[i]} for i in SWAPPED])
    assert (texts(matched), matched.by) == (SUMMARIES, "ids")
    assert matched.notes == [f"p.jsonl: ids are taken from {name}"]


def test_ids_of_rows_nested_and_in_a_table(match):
    rows = [(f"test_{i}_{j}", SUMMARIES[i]) for i in SWAPPED for j in (2, 1)]
    matched = match([{"meta": {"source": name}, "prediction": text} for name, text in rows])
    assert (texts(matched), matched.by) == (SUMMARIES, "ids of rows")
    table = "Dialog ID,Prediction\n" + "".join(f"{name},{text}\n" for name, text in rows)
    assert texts(match(table, "p.csv")) == SUMMARIES


def test_ids_of_a_server_give_way_to_those_of_the_dataset(match):
    rows = [{"id": f"chatcmpl-{i}", "case": f"test_{i}", "prediction": SUMMARIES[i]} for i in SWAPPED]
    assert texts(match(rows)) == SUMMARIES
    rows = [{"id": n, "case": f"test_{i}", "prediction": SUMMARIES[i]} for n, i in enumerate(SWAPPED)]
    assert texts(match(rows)) == SUMMARIES


def test_numbers_are_ids_under_a_name_of_ids_only(match):
    examples = [
        example | {"id": str(100 + i), "reference_rows": json.dumps([[i, str(100 + i)]] * 2)}
        for i, example in enumerate(EXAMPLES)
    ]
    rows = [{"request_id": 100 + i, "prediction": SUMMARIES[i]} for i in SWAPPED]
    assert texts(match(rows, examples=examples)) == SUMMARIES
    matched = match([{"words": 100 + i, "prediction": SUMMARIES[n]} for n, i in enumerate(SWAPPED)], examples=examples)
    assert (texts(matched), matched.by) == (SUMMARIES, "order")


@pytest.mark.parametrize("start", [0, 1])
@pytest.mark.parametrize("name", ["row", "line_no", "Row Number", "sample"])
def test_numbers_of_rows(match, name, start):
    matched = match([{name: i + start, "prediction": SUMMARIES[i]} for i in SWAPPED])
    assert (texts(matched), matched.by) == (SUMMARIES, "order")
    assert matched.notes == [f"p.jsonl: its rows are put in the order of {name}"]


@pytest.mark.parametrize("start", [0, 1])
def test_numbers_of_rows_where_the_dataset_has_no_ids(match, start):
    examples = [e | {"id": str(i + 1), "reference_rows": json.dumps([[i, None]])} for i, e in enumerate(EXAMPLES)]
    for name in ("id", "row"):
        rows = [{name: i + start, "prediction": SUMMARIES[i]} for i in SWAPPED]
        assert texts(match(rows, examples=examples)) == SUMMARIES


def test_a_rank_is_no_number_of_a_row(match):
    rows = [{"rank": rank, "prediction": text} for rank, text in zip((3, 0, 2, 1), SUMMARIES, strict=True)]
    matched = match(rows)
    assert texts(matched) == SUMMARIES
    assert matched.notes == [
        "p.jsonl: rank counts the rows in another order, which is not used: if it is the dataset's, give "
        "--id_column rank"
    ]
    rows = [{"rank": i, "prediction": SUMMARIES[i]} for i in SWAPPED]
    assert texts(match(rows, id_column="rank")) == SUMMARIES


def test_an_id_that_is_unknown_or_missing_is_refused(match):
    rows = [{"case": f"test_{i}", "prediction": SUMMARIES[i]} for i in SWAPPED]
    with pytest.raises(InputError, match="1 ids are not in data .test.: test_x; 1 dialogues of data .* test_2"):
        match([*rows[:3], rows[3] | {"case": "test_x"}])
    with pytest.raises(InputError, match="3 of 4 rows have an id, line 4 has none"):
        match([*rows[:3], {"prediction": "a"}])


@pytest.mark.parametrize("name", ["dialogue", "input", "doc.source"])
def test_dialogues_match_rows(match, name):
    def row(i, text):
        dialogue = EXAMPLES[i]["dialogue"].replace("\n", "\r\n ")
        return {"prediction": text} | ({"doc": {"source": dialogue}} if "." in name else {name: dialogue})

    matched = match([row(i, SUMMARIES[i]) for i in SWAPPED])
    assert (texts(matched), matched.by) == (SUMMARIES, "dialogues")
    assert matched.notes == [f"p.jsonl: {name} has the dataset's dialogues, by which rows are matched"]
    matched = match([row(i, f"{i} {j}") for i in SWAPPED for j in range(2)])
    assert [one["predictions_by_reference"] for one in matched.rows] == [
        [f"{i} {j}" for j in range(2)] for i in range(4)
    ]


@pytest.mark.parametrize("name", ["gold_summary", "reference_summary", "summary", "human", "highlights"])
def test_references_confirm_the_order_or_refuse_it(match, name):
    def rows(order):
        return [{name: EXAMPLES[i]["references"][1], "prediction": SUMMARIES[i]} for i in order]

    matched = match(rows(range(4)))
    assert (texts(matched), matched.by) == (SUMMARIES, "order")
    assert matched.notes == [f"p.jsonl: {name} has references of the dataset and confirms the order"]
    told = f"line 1 is matched with test_0 of data .test. by its order, but its {name} is that of test_1: correct"
    with pytest.raises(InputError, match=told):
        match(rows(SWAPPED))


@pytest.mark.parametrize("name", ["dialogue", "gold", "summary", "fname"])
def test_columns_that_contradict_the_ids_are_refused(match, name):
    value = {"dialogue": "dialogue", "fname": "id"}.get(name)

    def rows(order):
        others = [EXAMPLES[i][value] if value else EXAMPLES[i]["references"][0] for i in order]
        return [{"id": f"test_{i}", name: one, "prediction": SUMMARIES[i]} for i, one in enumerate(others)]

    matched = match(rows(range(4)))
    assert (texts(matched), matched.by) == (SUMMARIES, "ids")
    with pytest.raises(InputError, match="line 1 is matched with test_0 of data .* by its ids, but its"):
        match(rows(SWAPPED))


def test_a_repeated_id_that_contradicts_the_order_is_refused(match):
    rows = [{"case": f"test_{min(i, 2)}", "prediction": SUMMARIES[i]} for i in range(4)]
    with pytest.raises(InputError, match="line 4 is matched with test_3 .*, but its case is that of test_2"):
        match(rows)


def test_summaries_by_people_are_predictions(match):
    """A reference that is scored as a prediction shows no order."""
    rows = [
        {"prediction": EXAMPLES[i]["references"][0], "candidates": [EXAMPLES[i]["references"][1]]} for i in range(4)
    ]
    assert match(rows).by == "order"


def test_dialogues_within_prompts_match_rows(match):
    def prompt(i):
        return f"Summarise the dialogue.\n\n{EXAMPLES[i]['dialogue']}\n\nSummary:"

    matched = match([{"prompt": prompt(i), "prediction": SUMMARIES[i]} for i in SWAPPED])
    assert (texts(matched), matched.by) == (SUMMARIES, "dialogues")
    rows = [{"prompt": f"{prompt(0)} x {prompt(i)}", "prediction": SUMMARIES[i]} for i in range(4)]  # with an example
    assert (texts(match(rows)), match(rows).by) == (SUMMARIES, "order")


@pytest.mark.parametrize("form", ["TEST_{}", "test-{}", "Test {}"])
def test_ids_in_another_spelling(match, form):
    for name in ("id", "case"):
        assert texts(match([{name: form.format(i), "prediction": SUMMARIES[i]} for i in SWAPPED])) == SUMMARIES


def test_an_id_of_a_dialogue_on_each_of_its_rows(match):
    rows = [{"fname": f"test_{i}", "prediction": f"{i} {j}"} for i in range(4) for j in range(2)]
    matched = match(rows)
    assert matched.by == "order of rows"
    assert matched.rows[3]["predictions_by_reference"] == ["3 0", "3 1"]
    with pytest.raises(InputError, match="4 ids are repeated"):
        match(rows[::2] + rows[1::2])
