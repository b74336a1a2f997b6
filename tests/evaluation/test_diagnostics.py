from dataclasses import fields

from dialogsum_sft.evaluation.diagnostics import count, diagnose, rates, rewrite_tags, slices, unfinished_share

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

DIALOGUE = "#Person1#: Hello, are you there?\n#Person2#: I lost my keys in the park.\n#Person1#: Anna has found them."


def row(prediction, dialogue=DIALOGUE, references=("#Person2# lost the keys.",), **more):
    return {"id": "a", "dialogue": dialogue, "references": list(references), "prediction": prediction} | more


def marked(field, prediction, **more):
    return [prediction[start:end] for start, end in getattr(diagnose(row(prediction, **more)), field)]


def rewritten(a_row):
    return rewrite_tags(a_row, diagnose(a_row).foreign_tags)


def test_lengths_by_hand():
    diagnosis = diagnose(row("#Person2# lost two keys there", references=["a b", "a b c d e f"]))
    assert diagnosis.words == 5
    assert diagnosis.length_ratio == 5 / 4
    assert diagnosis.compression == 18 / 5  # with the labels: 5, 8 and 5 words


def test_empty_summary_has_ratios_of_zero():
    diagnosis = diagnose(row(" ...\n"))
    assert diagnosis.empty
    assert (diagnosis.words, diagnosis.length_ratio, diagnosis.compression) == (0, 0, 0)
    assert (diagnosis.copied_run, diagnosis.novel_bigrams, diagnosis.repeated_trigrams) == (0, 0, 0)
    assert not diagnose(row("no")).empty
    assert diagnose(row("no", references=["..."])).length_ratio == 0


def test_longest_copied_run():
    assert diagnose(row("He said: I lost my keys, in a park")).copied_run == 5 / 9  # i lost my keys in
    assert diagnose(row("nothing of it")).copied_run == 0
    assert diagnose(row(DIALOGUE)).copied_run == 1


def test_novel_bigrams_and_repeated_trigrams():
    diagnosis = diagnose(row("my keys my keys my keys"))
    assert diagnosis.novel_bigrams == 2 / 5  # keys my
    assert diagnosis.repeated_trigrams == 2 / 4
    assert diagnose(row("my keys in the park")).novel_bigrams == 0


def test_unfinished_means_cut_off_at_max_new_tokens():
    assert diagnose(row("a", finish_reason="length")).unfinished
    assert not diagnose(row("a", finish_reason="stop")).unfinished
    assert not diagnose(row("a")).unfinished


@pytest.mark.parametrize(
    "tag", ["#Person3#", "Person 3", "Person3", "#Person3", "Person #3", "Person C", "Person three"]
)
def test_wrong_tags_in_any_format(tag):
    prediction = f"{tag} asks #Person1#, and #Person12# too."
    assert marked("wrong_tags", prediction) == [tag, "#Person12#"]
    assert marked("foreign_tags", prediction) == []
    assert marked("unsupported_names", prediction) == marked("unsupported_numbers", prediction) == []


@pytest.mark.parametrize("tag", ["Person 2", "Person2", "#Person2", "person 2", "Person #2", "Person B", "Person Two"])
def test_foreign_tags_are_in_a_format_that_no_reference_uses(tag):
    prediction = f"{tag}'s keys are with #Person1#."
    assert marked("foreign_tags", prediction) == [tag]
    assert marked("wrong_tags", prediction) == []
    assert rewritten(row(prediction)) == "#Person2#'s keys are with #Person1#."


def test_ordinary_words_are_not_tags():
    prediction = "A person in person 2.5 times, one Person Above all, superperson1"
    assert marked("wrong_tags", prediction) == marked("foreign_tags", prediction) == []


def test_format_is_that_of_the_references_else_of_the_dialogue():
    other = row("#Person2# and Person 1", references=["Person 1 and Person 2"])
    assert diagnose(other).foreign_tags == [(0, 9)]
    assert rewritten(other) == "Person 2 and Person 1"
    untagged = row("#Person2# and Person 1", references=["Anna has keys."])
    assert rewritten(untagged) == "#Person2# and #Person1#"
    spelt = row("#Person1# and Person 2", references=["Person A sings."])
    assert rewritten(spelt) == "Person A and Person 2"  # no reference has a letter for the second


def test_tags_of_other_datasets():
    dialogue = "Speaker 1: Hi.\nSpeaker 2: Hello."
    prediction = "Speaker 1 meets Speaker 3 and #Speaker2#."
    assert marked("wrong_tags", prediction, dialogue=dialogue, references=["x"]) == ["Speaker 3"]
    assert marked("foreign_tags", prediction, dialogue=dialogue, references=["x"]) == ["#Speaker2#"]
    named = "Ann: Hi.\nBob: Hello."
    assert marked("wrong_tags", "#Person1# meets Bob.", dialogue=named, references=["x"]) == ["#Person1#"]
    assert marked("unsupported_names", "Ann meets Rob.", dialogue=named, references=["x"]) == ["Rob"]


def test_unsupported_numbers_and_names_are_spans_of_the_prediction():
    assert marked("unsupported_numbers", "He lost 3 keys.") == ["3"]
    assert marked("unsupported_names", "Anna and Bob found 3 keys.") == ["Bob"]


def test_rates_by_hand():
    rows = [
        row("#Person2# lost the keys.", finish_reason="stop"),
        row("Person 2 lost the keys.", finish_reason="length"),
        row("", finish_reason="stop"),
        row("Bob and #Person3# lost 5 keys.", finish_reason="stop"),
    ]
    record = rates(rows, list(map(diagnose, rows)))
    assert record["words"] == (4 + 5 + 0 + 6) / 4
    assert record["compression"] == pytest.approx((18 / 4 + 18 / 5 + 18 / 6) / 3)
    assert record["unfinished"] == record["empty"] == record["foreign_tags"] == record["wrong_tags"] == 0.25
    assert record["unsupported_numbers"] == record["unsupported_names"] == 0.25
    # "person 2 lost the keys" and "person2 lost the keys" share 3 of 5 and 4 words; rewritten, all of them.
    assert record["foreign_tags_cost"] == pytest.approx((100 - 100 * 6 / 9) / 4)


def test_names_and_numbers_are_none_where_most_rows_are_not_english():
    german = row("Anna fand 3 Schlüssel und ist nicht froh.", dialogue="Bob: Ich habe die Schlüssel nicht, und du?")
    assert diagnose(german).unsupported_numbers is diagnose(german).unsupported_names is None
    english = row("Anna found 3 keys.")
    assert (
        rates([german, english, german], list(map(diagnose, [german, english, german])))["unsupported_names"] is None
    )
    assert rates([german, english], list(map(diagnose, [german, english])))["unsupported_numbers"] == 0.5
    assert count([diagnose(german)], "unsupported_numbers") is None
    assert count([diagnose(german)], "wrong_tags") == 0


def test_unfinished_share_is_none_without_finish_reasons():
    assert unfinished_share([row("a"), row("b")]) is None
    assert unfinished_share([row("a"), row("b", finish_reason="length")]) == 1
    assert rates([row("a")], [diagnose(row("a"))])["unfinished"] is None


def test_slices_by_hand():
    lengths = [2, 4, 6, 8, 10, 12, 14, 16]
    rows = [
        row("a", dialogue="A: " + "a " * (n - 1) + ("\nB: b" if n > 8 else ""), topic="trips" if n < 12 else f"t{n}")
        | ({"dropped_turns": 2, "finish_reason": "length"} if n == 16 else {"finish_reason": "stop"})
        for n in lengths
    ]
    scores = {name: [[n, n + 2] for n in lengths] for name in ("rouge1", "rouge2", "rougeL")}
    result = slices(rows, scores)
    assert list(result) == ["topic", "dialogue length", "speakers", "shortened"]
    assert result["topic"] == {
        "trips": {"examples": 5, "rouge1": 7, "rouge2": 7, "rougeL": 7, "unfinished": 0},
        "other topics": {"examples": 3, "rouge1": 15, "rouge2": 15, "rougeL": 15, "unfinished": 1 / 3},
    }
    assert [values["examples"] for values in result["dialogue length"].values()] == [2, 2, 2, 2]
    assert list(result["dialogue length"]) == ["2 to 4 words", "6 to 8 words", "12 to 14 words", "16 to 18 words"]
    assert {label: values["examples"] for label, values in result["speakers"].items()} == {"1": 4, "2": 4}
    assert list(result["shortened"]) == ["whole", "shortened"]
    assert result["shortened"]["shortened"]["rouge1"] == 17


def test_slice_with_one_label_is_left_out():
    scores = {name: [[1.0]] * 2 for name in ("rouge1", "rouge2", "rougeL")}
    assert slices([row("a"), row("b")], scores) == {}


pieces = st.one_of(
    st.text(max_size=8),
    st.sampled_from(
        [
            "#Person1#",
            "Person 2",
            "Person A",
            " two hundred and",
            " 1,000",
            "3.5 million",
            " Mr. Lee",
            ". Bob is",
            "\n",
        ]
    ),
)
any_text = st.lists(pieces, max_size=8).map("".join)


@settings(max_examples=40)
@given(any_text, any_text, any_text)
def test_any_text_has_a_diagnosis_with_spans_inside_it(prediction, dialogue, reference):
    a_row = row(prediction, dialogue=dialogue, references=[reference])
    diagnosis = diagnose(a_row)
    rewrite_tags(a_row, diagnosis.foreign_tags)
    for field in fields(diagnosis):
        if isinstance(value := getattr(diagnosis, field.name), list):
            assert value == sorted(value)
            assert all(0 <= start < end <= len(prediction) for start, end in value)
    assert not diagnose(row(prediction, dialogue=prediction)).unsupported_numbers
    assert 0 <= diagnosis.copied_run <= 1
