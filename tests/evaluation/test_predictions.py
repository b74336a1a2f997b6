from pathlib import Path

from dialogsum_sft.evaluation.predictions import match_examples, read_predictions


def test_only_line_feeds_end_a_line(tmp_path):
    (tmp_path / "p.txt").write_bytes("\ufeffone\u2028still one\r\n\nthree".encode())
    assert read_predictions(tmp_path / "p.txt") == [
        {"prediction": "one\u2028still one"},
        {"prediction": ""},
        {"prediction": "three"},
    ]


def test_other_fields_of_a_prediction_are_kept():
    examples = [{"id": "a", "dialogue": "A: hi", "references": ["x"], "topic": "t"}]
    file = [{"id": "a", "prediction": "p", "dialogue": "other", "references": ["y"], "finish_reason": "stop"}]
    assert match_examples(examples, file, Path("f"), "d") == [
        {"id": "a", "dialogue": "A: hi", "references": ["x"], "prediction": "p", "finish_reason": "stop", "topic": "t"}
    ]
