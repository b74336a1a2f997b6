"""The splits, rows and notes that sft.py and inspect_data.py load."""

import json
import re
from pathlib import Path
from typing import Any

from dialogsum_sft import InputError
from dialogsum_sft.arguments import DataArguments, TrainArguments
from dialogsum_sft.data.training_data import TrainingData, load_training_data, rows_fingerprint

import pytest
from datasets import Dataset
from transformers import PreTrainedTokenizerFast
from trl import ScriptArguments

ROWS = [
    {"id": name, "dialogue": f"Ann: {text}\nBob: Yes.", "summary": f"Ann and Bob talk about {text}."}
    for name, text in (("a", "tea"), ("b", "rain"), ("c", "trains"))
]

ENCODED = [{"id": "a", "input_ids": [1, 2, 3], "labels": [-100, 2, 3]}, {"id": "b", "input_ids": [4], "labels": [4]}]


def write(folder: Path, **splits: list[dict[str, Any]]) -> None:
    for split, rows in splits.items():
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def load(tokenizer: PreTrainedTokenizerFast, folder: Path, **options: Any) -> TrainingData:
    script_args = ScriptArguments(dataset_name=str(folder), dataset_test_split="validation")
    data_args, stop_ids = DataArguments(allow_dropped_rows=True), {tokenizer.eos_token_id}
    defaults = {"max_length": None, "evaluates": False}
    return load_training_data(script_args, data_args, TrainArguments(), tokenizer, stop_ids, **(defaults | options))


def test_validation_dialogues_are_left_out_of_training(
    chatml_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    write(tmp_path, train=ROWS, validation=ROWS[2:])
    data = load(chatml_tokenizer, tmp_path, evaluates=True)
    assert data.train.rows["id"] == ["a", "b"]
    assert data.validation is not None
    assert data.validation.rows["id"] == ["c"]
    assert {name: counts.kept for name, counts in data.counts().items()} == {
        "training": 2,
        "rows to train on": 2,
        "validation": 1,
        "rows to validate on": 1,
    }


def test_without_evaluation_the_validation_split_is_loaded_only_on_request(
    chatml_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    write(tmp_path, train=ROWS, validation=ROWS[2:])
    assert load(chatml_tokenizer, tmp_path).validation is None
    data = load(chatml_tokenizer, tmp_path, optional_validation=True)
    assert data.validation is not None
    assert len(data.train.rows) == 3


def test_an_optional_validation_split_may_be_missing(
    chatml_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    write(tmp_path, train=ROWS)
    data = load(chatml_tokenizer, tmp_path, optional_validation=True)
    assert data.validation is None
    assert data.notes[0].startswith("no evaluation split, and with eval_strategy no none is needed: ")
    with pytest.raises(InputError, match="no split 'validation'"):
        load(chatml_tokenizer, tmp_path, evaluates=True, optional_validation=True)


def fingerprint(rows: list[dict[str, Any]]) -> str:
    return rows_fingerprint(Dataset.from_list(rows))


def test_every_part_of_a_row_changes_the_rows_fingerprint() -> None:
    assert fingerprint(ENCODED) == fingerprint(ENCODED)
    assert re.fullmatch("[0-9a-f]{16}", fingerprint(ENCODED))
    others = [
        [ENCODED[1], ENCODED[0]],
        ENCODED[:1],
        [ENCODED[0] | {"id": "c"}, ENCODED[1]],
        [ENCODED[0] | {"labels": [-100, -100, 3]}, ENCODED[1]],
        [{"id": "a", "input_ids": [1, 2], "labels": [-100, 2]}, {"id": "b", "input_ids": [3, 4], "labels": [3, 4]}],
    ]
    fingerprints = {fingerprint(rows) for rows in [ENCODED, *others]}
    assert len(fingerprints) == 6
