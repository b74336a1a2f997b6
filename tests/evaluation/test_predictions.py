import json

from dialogsum_sft import InputError
from dialogsum_sft.evaluation.prediction_columns import read_predictions
from dialogsum_sft.evaluation.predictions import own_references

import pytest

ROW = {"id": "a", "dialogue": "A: hi\nB: no", "references": ["They talk."], "prediction": "Talk."}


def read(folder, *rows):
    path = folder / "predictions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_predictions(path)


def test_own_rows_are_read_as_they_were_written(tmp_path):
    turns = [
        {"speaker": "A", "label": 3, "length": 6, "time": None},
        {"speaker": "B", "label": 3, "length": 5, "time": None},
    ]
    row = ROW | {
        "prompt_tokens": 9,
        "completion_tokens": 3,
        "finish_reason": "stop",
        "candidates": ["Talk.", "No."],
        "dropped_turns": 1,
        "topic": "talk",
        "turns": turns,
        "raw_prediction": "<think>x</think>Talk.",
    }
    assert own_references(read(tmp_path, row)).rows == [row]
    several = ROW | {"references": ["x", "y"], "predictions_by_reference": ["Talk.", "Talks."]}
    assert own_references(read(tmp_path, several)).rows == [several]


def test_numbers_as_ids_and_a_text_as_references(tmp_path):
    rows = own_references(read(tmp_path, *(ROW | {"id": i, "references": f"r{i}"} for i in range(3)))).rows
    assert [(row["id"], row["references"]) for row in rows] == [("0", ["r0"]), ("1", ["r1"]), ("2", ["r2"])]


def test_a_reference_under_another_name(tmp_path):
    row = {"dialogue": "A: hi", "reference": "They talk.", "prediction": "Talk."}
    (found,) = own_references(read(tmp_path, row)).rows
    assert found == {"id": "1", "dialogue": "A: hi", "references": ["They talk."], "prediction": "Talk."}


def test_limit(tmp_path):
    rows = read(tmp_path, *(ROW | {"id": i} for i in range(3)))
    assert len(own_references(rows, 2).rows) == 2
    for limit in (0, -1):
        with pytest.raises(InputError, match=f"--max_eval_samples {limit} leaves no dialogue: give 1 or more"):
            own_references(rows, limit)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"references": []}, "line 2 has no references, so the dataset must be named: give --dataset_name"),
        ({"references": None}, "line 2 has references that are not text"),
        ({"references": ["x", 3]}, "line 2 has references that are not text"),
        ({"dialogue": ["A: hi"]}, "line 2 has no dialogue, so the dataset"),
        ({"turns": [{"speaker": "A", "label": 3, "length": 6, "time": None}]}, "line 2 has turns that do not fit its"),
        ({"turns": "A"}, "line 2 has turns that do not fit its dialogue"),
        ({"turns": [3]}, "line 2 has turns that do not fit its dialogue"),
        ({"id": "a"}, "1 ids are repeated: a"),
        ({"predictions_by_reference": ["Talk.", "b"]}, "line 2 has 2 predictions_by_reference but 1 references"),
    ],
)
def test_wrong_rows_are_named(tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        own_references(read(tmp_path, ROW, ROW | {"id": "b"} | change))


RAW = "<think>Hm.</think>Talk."


@pytest.mark.parametrize("change", [{"prediction": "Edited."}, {"raw_prediction": "Something else."}])
def test_what_was_written_is_ignored_where_the_prediction_is_not_made_from_it(tmp_path, change):
    row = ROW | {"raw_prediction": RAW} | change
    found = read(tmp_path, row)
    assert own_references(found).rows == [{k: v for k, v in row.items() if k != "raw_prediction"}]
    assert found.notes == ["predictions.jsonl: raw_prediction, from which prediction is not made, in 1 rows: ignored"]
    for made in ("Here is a summary: Talk.", "Talk."):  # kept or taken off
        row = ROW | {"raw_prediction": "<think>Hm.</think>Here is a summary: Talk.", "prediction": made}
        assert own_references(read(tmp_path, row)).rows == [row]


def test_several_predictions_are_ignored_where_the_prediction_is_none_of_them(tmp_path):
    lists = {"predictions_by_reference": ["a"], "raw_predictions_by_reference": ["<think>x</think>a"]}
    assert own_references(read(tmp_path, ROW | lists | {"prediction": "a"})).rows == [
        ROW | lists | {"prediction": "a"}
    ]
    found = read(tmp_path, ROW | lists)
    assert own_references(found).rows == [ROW]
    assert found.notes == [
        "predictions.jsonl: predictions_by_reference, which are not of prediction, in 1 rows: ignored"
    ]


def test_another_column_of_our_predictions_can_be_scored(tmp_path):
    path = tmp_path / "predictions.jsonl"
    lists = {"predictions_by_reference": ["Talk."], "raw_prediction": RAW}
    path.write_text(json.dumps(ROW | lists | {"edited": "They chat."}) + "\n")
    assert own_references(read_predictions(path, "edited")).rows == [ROW | {"prediction": "They chat."}]
