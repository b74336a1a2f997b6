from typing import Any

from dialogsum_sft import InputError
from dialogsum_sft.data.encoding import label_fault
from dialogsum_sft.training.collator import CompletionOnlyCollator

import pytest

PAD, STOP, OTHER_STOP = 0, 9, 8
STOPS = frozenset({STOP, OTHER_STOP})


def make_collator(pad_token_id: int = PAD) -> CompletionOnlyCollator:
    return CompletionOnlyCollator(pad_token_id=pad_token_id, stop_token_ids=STOPS)


def row(**changes: Any) -> dict[str, Any]:
    """A prompt of three tokens (with the stop token of a user's turn), a summary of two, a stop token."""
    right = {"id": "train_7", "input_ids": [1, 2, 9, 3, 4, 9], "labels": [-100, -100, -100, 3, 4, 9]}
    return {**right, "prompt_tokens": 3, **changes}


def short_row() -> dict[str, Any]:
    return {"id": "train_8", "input_ids": [5, 6, 8], "labels": [-100, 6, 8], "prompt_tokens": 1}


def test_a_batch_is_padded_on_the_right() -> None:
    batch = make_collator()([short_row(), row()])
    assert {name: tensor.tolist() for name, tensor in batch.items()} == {
        "input_ids": [[5, 6, 8, PAD, PAD, PAD], [1, 2, 9, 3, 4, 9]],
        "attention_mask": [[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1]],
        "labels": [[-100, 6, 8, -100, -100, -100], [-100, -100, -100, 3, 4, 9]],
    }


def test_the_stop_token_is_supervised_where_it_is_the_pad_token_too() -> None:
    batch = make_collator(pad_token_id=STOP)([row(), row(input_ids=[1, 3, 9], labels=[-100, 3, 9], prompt_tokens=1)])
    assert batch["input_ids"].tolist() == [[1, 2, 9, 3, 4, 9], [1, 3, 9, STOP, STOP, STOP]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]]
    assert batch["labels"].tolist() == [[-100, -100, -100, 3, 4, 9], [-100, 3, 9, -100, -100, -100]]


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        pytest.param({"labels": [-100, -100, -100, 3, 4]}, "6 input ids but 5 labels", id="lengths differ"),
        pytest.param({"labels": [1, 2, 9, 3, 4, 9]}, "the prompt is supervised", id="no mask"),
        pytest.param({"labels": [-100, -100, 9, 3, 4, 9]}, "the prompt is supervised", id="mask one token short"),
        pytest.param(
            {"input_ids": [1, 2, 9, 3, 4], "labels": [-100, -100, -100, 3, 4]}, "no stop token", id="summary cut off"
        ),
        pytest.param(
            {"input_ids": [1, 2, 9, 9], "labels": [-100, -100, -100, 9]}, "the summary is empty", id="empty summary"
        ),
        pytest.param({"labels": [-100] * 6}, "is not supervised, or with", id="all masked"),
        pytest.param({"labels": [-100, -100, -100, -100, 4, 9]}, "is not supervised, or with", id="mask too long"),
        pytest.param({"labels": [-100, -100, -100, 3, 4, -100]}, "is not supervised, or with", id="no stop"),
        pytest.param({"labels": [-100, -100, -100, 4, 9, -100]}, "is not supervised, or with", id="shifted"),
        pytest.param(
            {"input_ids": [1, 2, 9, 3, 4, 9, 5], "labels": [-100, -100, -100, 3, 4, 9, 5]},
            "a label after the stop token is not -100",
            id="trained past the stop",
        ),
    ],
)
def test_a_row_with_wrong_labels_is_refused_with_its_id(changes: dict[str, Any], fault: str) -> None:
    with pytest.raises(InputError, match=rf"^training row train_7: .*{fault}"):
        make_collator()([short_row(), row(**changes)])


def test_unsupervised_tokens_may_follow_the_stop_token() -> None:
    newline_after_stop = row(input_ids=[1, 2, 9, 3, 4, 9, 5], labels=[-100, -100, -100, 3, 4, 9, -100])
    assert label_fault(newline_after_stop, STOPS) is None


def test_any_of_the_stop_tokens_ends_a_summary() -> None:
    assert label_fault(row(input_ids=[1, 2, 9, 3, 4, 8], labels=[-100, -100, -100, 3, 4, 8]), STOPS) is None


def test_a_row_without_an_id_is_refused_too() -> None:
    nameless = row(labels=[-100] * 6)
    del nameless["id"]
    with pytest.raises(InputError, match=r"^training row \(no id\): "):
        make_collator()([nameless])
