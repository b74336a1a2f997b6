"""Predictions of any program beside the dialogues of a dataset laid out as on the hub: a row for each reference."""

import json

from dialogsum_sft import InputError
from dialogsum_sft.evaluation.matching import match_examples
from dialogsum_sft.evaluation.prediction_columns import read_predictions

import pytest

# Three dialogues of two rows each; the second dialogue's rows stand apart.
ROWS = [(0, 0), (0, 1), (1, 0), (2, 0), (1, 1), (2, 1)]
EXAMPLES = [
    {
        "id": f"test_{i}",
        "dialogue": f"A: word {i}\nB: no",
        "references": [f"Reference {i}, {j}." for j in range(2)],
        "reference_rows": json.dumps([[ROWS.index((i, j)), f"test_{i}_{j + 1}"] for j in range(2)]),
        "topic": None,
    }
    for i in range(3)
]
SUMMARIES = ["Zero.", "One.", "Two."]


@pytest.fixture
def match(tmp_path):
    def match(content, name="p.jsonl", examples=EXAMPLES, **options):
        path = tmp_path / name
        if not isinstance(content, str):
            content = "".join(json.dumps(row) + "\n" for row in content)
        path.write_text(content)
        return match_examples(examples, read_predictions(path), "data (test)", rows_read=6, **options)

    return match


def predictions(matched):
    return [row["prediction"] for row in matched.rows]


def row_ids(suffixes=(1, 2)):
    return [(i, f"test_{i}_{j}") for i, k in ROWS for j in [k + 1] if j in suffixes]


def test_dialogues_by_id_in_any_order(match):
    matched = match([{"id": f"test_{i}", "prediction": SUMMARIES[i]} for i in (2, 0, 1)])
    assert (predictions(matched), matched.by, matched.differing, matched.notes) == (SUMMARIES, "ids", 0, [])
    assert [row["id"] for row in matched.rows] == ["test_0", "test_1", "test_2"]


@pytest.mark.parametrize("order", [(2, 0, 1), (0, 1, 2)])
def test_lines_of_id_tab_and_summary_are_matched_by_id(match, order):
    matched = match("".join(f"test_{i}\t{SUMMARIES[i]}\n" for i in order), "p.txt")
    assert (predictions(matched), matched.by) == (SUMMARIES, "ids")
    assert matched.notes == ["p.txt: its lines are read as id, tab and summary"]


def test_lines_of_ids_that_the_dataset_lacks_are_refused(match):
    with pytest.raises(InputError, match="such as dlg-0, none of them of .*, whose ids are test_0, test_1, test_2, "):
        match("".join(f"dlg-{i}\t{text}\n" for i, text in enumerate(SUMMARIES)), "p.txt")


def test_a_tab_after_other_words_stays_in_the_summary(match):
    assert predictions(match("Zero:\ta.\nOne:\tb.\nTwo:\tc.\n", "p.txt")) == ["Zero:\ta.", "One:\tb.", "Two:\tc."]


def test_dialogues_by_order(match):
    assert predictions(match("\n".join(SUMMARIES), "p.txt")) == SUMMARIES
    assert match([{"prediction": text} for text in SUMMARIES]).by == "order"


def test_rows_by_their_ids(match):
    matched = match([{"id": name, "prediction": SUMMARIES[i]} for i, name in row_ids()])
    assert (predictions(matched), matched.by, matched.differing) == (SUMMARIES, "ids of rows", 0)
    assert all("predictions_by_reference" not in row for row in matched.rows)


def test_a_row_of_each_dialogue_is_enough(match):
    assert predictions(match([{"id": name, "prediction": SUMMARIES[i]} for i, name in row_ids([2])])) == SUMMARIES


def test_ids_with_a_references_number_where_the_dataset_has_one_row_a_dialogue(match):
    examples = [
        example | {"reference_rows": json.dumps([[i, example["id"]]] * 2)} for i, example in enumerate(EXAMPLES)
    ]
    content = [{"id": name, "prediction": f"{name}."} for _, name in row_ids()]
    matched = match(content, examples=examples)
    assert [row["predictions_by_reference"] for row in matched.rows] == [
        [f"test_{i}_1.", f"test_{i}_2."] for i in range(3)
    ]


def test_rows_by_order(match):
    matched = match([{"prediction": SUMMARIES[i]} for i, _ in ROWS])
    assert (predictions(matched), matched.by) == (SUMMARIES, "order of rows")
    assert predictions(match("".join(f"{SUMMARIES[i]}\n" for i, _ in ROWS), "p.txt")) == SUMMARIES


def test_a_prediction_for_each_reference_where_the_dataset_has_one_row_a_dialogue(match):
    examples = [example | {"reference_rows": json.dumps([[i, None]] * 2)} for i, example in enumerate(EXAMPLES)]
    matched = match([{"prediction": f"{i}."} for i in range(6)], examples=examples)
    assert [row["predictions_by_reference"] for row in matched.rows] == [["0.", "1."], ["2.", "3."], ["4.", "5."]]
    assert predictions(match([{"prediction": SUMMARIES[i // 2]} for i in range(6)], examples=examples)) == SUMMARIES


def test_rows_that_were_dropped_from_the_dataset_keep_their_place(match):
    """Of the six rows read, the one at place 2 could not be used."""
    examples = [
        EXAMPLES[0],
        EXAMPLES[1] | {"references": ["r"], "reference_rows": "[[4, null]]"},
        EXAMPLES[2],
    ]
    matched = match([{"prediction": f"{at}."} for at in range(6)], examples=examples)
    assert [row.get("predictions_by_reference") or row["prediction"] for row in matched.rows] == [
        ["0.", "1."],
        "4.",
        ["3.", "5."],
    ]
    assert "p.jsonl: 1 predictions are of rows that are not evaluated" in matched.notes
    five = match([{"prediction": f"{at}."} for at in range(5)], examples=examples)
    assert five.rows[1]["prediction"] == "3."


def test_predictions_that_differ_are_each_for_their_own_reference(match):
    content = [{"id": name, "prediction": f"{name}." if i == 1 else SUMMARIES[i]} for i, name in row_ids()]
    for rows in (content, [{"prediction": row["prediction"]} for row in content]):
        matched = match(rows)
        assert matched.rows[1]["predictions_by_reference"] == ["test_1_1.", "test_1_2."]
        assert "predictions_by_reference" not in matched.rows[0]
        assert matched.differing == 1
        assert matched.notes[-1].endswith(
            "the predictions for the rows of 1 dialogues differ, so each is scored against its own row's reference"
        )


def test_predictions_that_differ_need_one_for_each_reference(match):
    examples = [EXAMPLES[0] | {"references": ["a", "b", "c"]}, *EXAMPLES[1:]]
    content = [{"id": name, "prediction": f"{name}."} for _, name in row_ids()]
    with pytest.raises(InputError, match="1 dialogues have predictions that differ, but not one for each .*: test_0"):
        match(content, examples=examples)


@pytest.mark.parametrize("start", [0, 1])
def test_ids_that_count_the_rows_are_their_order(match, start):
    matched = match([{"id": i + start, "prediction": text} for i, text in enumerate(SUMMARIES)])
    assert predictions(matched) == SUMMARIES
    assert matched.notes == ["p.jsonl: its ids count the rows, which are matched by order"]


def test_a_limit_comes_before_matching(match):
    ids = [{"id": f"test_{i}", "prediction": SUMMARIES[i]} for i in range(3)]
    for content in (ids[:2], ids, SUMMARIES[:2], SUMMARIES, [SUMMARIES[i] for i, _ in ROWS]):
        assert predictions(match(content, limit=2)) == SUMMARIES[:2]
    assert match(ids, limit=2).notes == ["p.jsonl: 1 predictions are of rows that are not evaluated"]
    assert predictions(match(["Zero.", "Zero."], limit=1)) == ["Zero."]  # the rows of the first dialogue
    with pytest.raises(InputError, match="1 dialogues of data .test. have no prediction: test_1"):
        match([ids[0], ids[2]], limit=2)
    with pytest.raises(InputError, match="--max_eval_samples 0 leaves no dialogue"):
        match(ids, limit=0)


def test_fields_of_a_prediction_are_kept_and_others_are_not(match):
    examples = [EXAMPLES[0] | {"topic": "t"}]
    row = {
        "id": "test_0",
        "prediction": "p",
        "dialogue": "other",
        "references": ["y"],
        "finish_reason": "stop",
        "x": 1,
    }
    matched = match([row], examples=examples)
    own = {name: EXAMPLES[0][name] for name in ("id", "dialogue", "references")}
    assert matched.rows == [own | {"prediction": "p", "finish_reason": "stop", "topic": "t"}]


def labelled(order, label="Reference {}, {}.", predict="Words."):
    return [{"predict": predict, "label": label.format(i, j)} for i, j in order]


def test_references_of_the_file_confirm_its_order(match):
    assert match(labelled(ROWS)).by == "order of rows"
    assert match(labelled([(0, 0), (1, 1), (2, 0)], "  reference {}, {}.<|im_end|>\n")).by == "order"
    assert match(labelled([(0, 0), (1, 0), (2, 0)], "Reference {}")).by == "order"  # cut short


def test_references_of_the_file_show_another_order(match):
    with pytest.raises(InputError, match="line 1 is matched with test_0 .* but its reference is that of test_2: give"):
        match(labelled([(2, 0), (1, 0), (0, 0)]))
    with pytest.raises(InputError, match="line 4 is matched with test_2 .* but its reference is that of test_1"):
        match(labelled([*ROWS[:2], *sorted(ROWS)[2:]]))  # sorted, where the dataset is not


def test_references_of_another_dataset(match):
    with pytest.raises(InputError, match="none of its 3 references .label. is one of data .test.: give the"):
        match(labelled([(7, 0), (8, 0), (9, 0)]))
    matched = match(labelled([(0, 0), (1, 0), (9, 0)]))
    assert matched.notes[-1] == "p.jsonl: 1 of its 3 references are not in data (test)"


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        (
            ["a", "b"],
            "p.jsonl",
            "has 2 predictions but data .test. has 3 dialogues in 6 rows: give one for each",
        ),
        ("a\n\n\n\n", "p.txt", r"has 4 predictions but .*, or ids \(3 of its lines are empty\)"),
        (
            "Tom goes\nhome today.\nAnna.\nBen.\n",
            "p.txt",
            r"\(line 2 may be the rest of the summary before it",
        ),
        ("Tom.\nAnna.\n", "p.txt", "has 2 predictions but"),
        (
            "test_0 Tom.\ntest_1 Anna.\ntest_2 Ben.\n",
            "p.txt",
            r"its lines begin with ids \('test_0 Tom.'\)",
        ),
        ("test_2: Ben.\ntest_0: Tom.\ntest_1: Anna.\n", "p.txt", r"its lines begin with ids \('test_2: Ben.'\)"),
        (
            "test_2\tBen.\nTom.\ntest_1\tAnna.\n",
            "p.txt",
            r"p.txt: 2 of 3 lines begin with an id of data .* and a tab, line 2 does not: begin each line so, or none",
        ),
        (
            [{"id": "test_0", "prediction": "a"}, {"prediction": "b"}],
            "p.jsonl",
            "1 of 2 rows have an id, line 2 has none",
        ),
        (
            [{"id": name, "prediction": "a"} for name in ("test_0", "test_0", "nowhere", "test_1")],
            "p.jsonl",
            "do not match: 1 ids are repeated: test_0; 1 ids are not in data .test.: nowhere; 1 dialogues of data "
            ".test. have no prediction: test_2",
        ),
        ([{"id": "test_0_9", "prediction": "a"}], "p.jsonl", "1 ids are not in data .test.: test_0_9"),
        (
            [{"id": "test_0", "prediction": "a"}, *({"id": name, "prediction": "b"} for _, name in row_ids())],
            "p.jsonl",
            "1 dialogues have a prediction and others for their rows: test_0",
        ),
    ],
)
def test_file_that_does_not_match(match, content, name, message):
    with pytest.raises(InputError, match=message):
        match(content, name)


def test_a_line_that_may_be_the_rest_of_another_is_noted(match):
    """A summary over two lines, and another missing: as many lines as dialogues."""
    examples = [EXAMPLES[0] | {"id": f"x{i}", "reference_rows": None} for i in range(12)]
    lines = ["Tom goes", "home today.", *(f"Anna {i}." for i in range(10))]
    matched = match("\n".join(lines), "p.txt", examples=examples)
    assert matched.notes == ["p.txt: line 2 may be the rest of the summary on the line before it"]


DIALOGUES = ["the crane and the wind", "a parrot and a vet", "a ladder for a roof", "soup without salt", "late trains"]


@pytest.mark.parametrize("shift", [0, 1])
def test_predictions_that_fit_other_dialogues_are_warned_of(match, shift):
    examples = [EXAMPLES[0] | {"id": f"x{i}", "dialogue": f"A: {text}?\nB: Yes."} for i, text in enumerate(DIALOGUES)]
    texts = [f"They speak of {text}." for text in DIALOGUES]
    warnings = match("\n".join(texts[shift:] + texts[:shift]), "p.txt", examples=examples).warnings
    told = "p.txt: 5 of 5 predictions fit another dialogue better than the one in their place (line 1 fits x1): is the"
    assert warnings == ([f"{told} order the dataset's?"] if shift else [])
