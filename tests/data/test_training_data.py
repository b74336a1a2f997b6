"""The splits, rows and notes that sft.py and inspect_data.py load."""

import contextlib
import json
import re
from pathlib import Path
from typing import Any

from dialogsum_sft import InputError
from dialogsum_sft.arguments import DataArguments, TrainArguments
from dialogsum_sft.data.training_data import (
    TrainingData,
    evaluated_split,
    load_evaluation,
    load_training_data,
    rows_fingerprint,
)
from dialogsum_sft.training.record import trained_on

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


def load(
    tokenizer: PreTrainedTokenizerFast,
    source: Path | None,
    script: dict[str, Any] | None = None,
    data: dict[str, Any] | None = None,
    **options: Any,
) -> TrainingData:
    name = None if source is None else str(source)
    script_args = ScriptArguments(**({"dataset_name": name, "dataset_test_split": "validation"} | (script or {})))
    data_args, stop_ids = DataArguments(**({"allow_dropped_rows": True} | (data or {}))), {tokenizer.eos_token_id}
    defaults = {"max_length": None, "evaluates": False}
    return load_training_data(script_args, data_args, TrainArguments(), tokenizer, stop_ids, **(defaults | options))


def ids(data: TrainingData) -> tuple[set[str], set[str]]:
    """Ids of the training and the validation examples."""
    validation = data.validation.examples.rows["id"] if data.validation else []
    return set(data.train.examples.rows["id"]), set(validation)


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


def talks(count: int) -> list[dict[str, Any]]:
    return [
        {"id": f"t{n}", "dialogue": f"Ann: Number {n}.\nBob: Yes.", "summary": f"It is {n}."} for n in range(count)
    ]


def one_file(folder: Path, rows: list[dict[str, Any]], name: str = "all") -> Path:
    write(folder, **{name: rows})
    return folder / f"{name}.jsonl"


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5])
def test_a_share_is_held_out(chatml_tokenizer: PreTrainedTokenizerFast, tmp_path: Path, share: float) -> None:
    path = one_file(tmp_path, talks(40))
    options = {"data": {"validation_share": share, "allow_dropped_rows": False}, "evaluates": True}
    train, validation = ids(load(chatml_tokenizer, path, **options))
    assert len(validation) == 40 * share
    assert train | validation == {f"t{n}" for n in range(40)}
    assert not train & validation
    assert ids(load(chatml_tokenizer, path, **options)) == (train, validation)
    assert ids(load(chatml_tokenizer, path, **options, seed=1)) != (train, validation)
    options["data"] |= {"validation_seed": 42}
    assert ids(load(chatml_tokenizer, path, **options, seed=1)) == (train, validation)


def test_a_share_does_not_depend_on_the_order_or_the_format(
    chatml_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    options = {"data": {"validation_share": 0.2}, "evaluates": True}
    Dataset.from_list(talks(30)).to_csv(tmp_path / "all.csv")
    sources = (one_file(tmp_path, talks(30)), one_file(tmp_path, talks(30)[::-1], "back"), tmp_path / "all.csv")
    one, other, table = (ids(load(chatml_tokenizer, source, **options)) for source in sources)
    assert one == other == table


def test_a_share_does_not_depend_on_the_time_stamps(chatml_tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    rows = [
        row | {"dialogue": f"12/3/24, 14:1{n % 9} - Ann: hi {n}\n12/3/24, 14:19 - Bo: yo"}
        for n, row in enumerate(talks(20))
    ]
    path, share = one_file(tmp_path, rows), {"validation_share": 0.2}
    one = ids(load(chatml_tokenizer, path, data=share, evaluates=True))
    other = ids(load(chatml_tokenizer, path, data=share | {"drop_times": True}, evaluates=True))
    assert one == other
    assert len(one[1]) == 4


def test_rows_of_a_dialogue_stay_together(chatml_tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    rows = [
        row | {"id": f"{row['id']}_{n}", "summary": f"{row['summary']} {n}"} for n in (1, 2, 3) for row in talks(10)
    ]
    options = {"data": {"validation_share": 0.3, "allow_dropped_rows": False}, "evaluates": True}
    data = load(chatml_tokenizer, one_file(tmp_path, rows), **options)
    assert data.validation is not None
    assert [len(references) for references in data.validation.examples.rows["references"]] == [3, 3, 3]
    assert {name: (one.read, one.kept, dict(one.dropped)) for name, one in data.counts().items()} == {
        "training": (30, 21, {"held out for validation": 9}),
        "rows to train on": (21, 21, {}),
        "validation": (9, 9, {}),
        "rows to validate on": (9, 9, {}),
    }


def test_bad_rows_are_counted_once_where_a_share_is_held_out(
    chatml_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    bad = {"id": "bad", "dialogue": None, "summary": "Nothing."}
    data = load(chatml_tokenizer, one_file(tmp_path, [bad, *talks(9)]), data={"validation_share": 0.3}, evaluates=True)
    counts = data.counts()
    assert dict(counts["training"].dropped) == {"dialogue is null": 1, "held out for validation": 3}
    assert not counts["validation"].dropped


def test_a_share_is_held_out_without_evaluations(chatml_tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    path = one_file(tmp_path, talks(20))
    train, validation = ids(load(chatml_tokenizer, path, data={"validation_share": 0.2}))
    assert (len(train), len(validation)) == (16, 0)
    script_args = ScriptArguments(dataset_name=str(path))
    held_out = load_evaluation(script_args, DataArguments(validation_share=0.2), 42)
    assert set(held_out.rows["id"]) == {row["id"] for row in talks(20)} - train
    assert evaluated_split(script_args, DataArguments(validation_share=0.2)) == (str(path), "train", True)


def test_a_test_split_is_evaluated_whole_though_a_share_was_held_out(tmp_path: Path) -> None:
    write(tmp_path, train=talks(20), test=ROWS)
    examples = load_evaluation(ScriptArguments(dataset_name=str(tmp_path)), DataArguments(validation_share=0.2), 42)
    assert examples.rows["id"] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("script", "data", "message"),
    [
        ({}, {"validation_share": 0.0}, "--validation_share 0.0: give a share between 0 and 1, such as 0.1"),
        ({}, {"validation_share": 10.0}, "--validation_share 10.0: give a share"),
        ({}, {"validation_share": 0.9}, "--validation_share 0.9 of 3 dialogues in .* leaves none to train on"),
        ({}, {"validation_share": 0.1, "validation_file": "a"}, "are two validation splits: leave one out"),
        (
            {"dataset_streaming": True},
            {"validation_share": 0.1},
            "which a stream does not give",
        ),
    ],
)
def test_an_impossible_share_is_refused(
    chatml_tokenizer: PreTrainedTokenizerFast, tmp_path: Path, script: Any, data: Any, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        load(chatml_tokenizer, one_file(tmp_path, ROWS), script, data, evaluates=True)


@pytest.mark.parametrize("pattern", ["all.jsonl", "al*.jsonl"])
@pytest.mark.parametrize("split", ["train", "train[:2]"])
def test_a_file_that_serves_both_splits_is_refused(
    chatml_tokenizer: PreTrainedTokenizerFast, tmp_path: Path, pattern: str, split: str
) -> None:
    one_file(tmp_path, ROWS)
    with pytest.raises(InputError, match="serves both splits, training and evaluation: hold"):
        load(chatml_tokenizer, tmp_path / pattern, {"dataset_train_split": split}, evaluates=True)
    assert load(chatml_tokenizer, tmp_path / pattern, {"dataset_train_split": split}).validation is None


def test_a_training_file_alone_serves_no_evaluation(chatml_tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    file = str(one_file(tmp_path, ROWS))
    assert ids(load(chatml_tokenizer, None, data={"train_file": file})) == ({"a", "b", "c"}, set())
    with pytest.raises(InputError, match="all.jsonl serves both splits"):
        load(chatml_tokenizer, None, data={"train_file": file}, evaluates=True)
    with pytest.raises(InputError, match="all.jsonl serves both splits"):
        load(chatml_tokenizer, None, data={"train_file": file, "validation_file": file}, evaluates=True)


def test_slices_of_one_file(chatml_tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    script = {"dataset_train_split": "train[:70%]", "dataset_test_split": "train[70%:]"}
    train, validation = ids(load(chatml_tokenizer, one_file(tmp_path, talks(10)), script, evaluates=True))
    assert (train, validation) == ({f"t{n}" for n in range(7)}, {"t7", "t8", "t9"})


@pytest.mark.parametrize("folder", [True, False])
def test_splits_in_files_of_their_own(chatml_tokenizer: PreTrainedTokenizerFast, tmp_path: Path, folder: bool) -> None:
    """A file in the folder `dataset_name` needs no path."""
    write(tmp_path, TrainingSet=ROWS[:1], ValidationSet=ROWS[1:2], TestSet=ROWS[2:])
    kinds = {"train_file": "TrainingSet", "validation_file": "ValidationSet", "test_file": "TestSet"}
    files = {kind: f"{name}.jsonl" if folder else str(tmp_path / f"{name}.jsonl") for kind, name in kinds.items()}
    source = tmp_path if folder else None
    assert ids(load(chatml_tokenizer, source, data=files, evaluates=True)) == ({"a"}, {"b"})
    script_args = ScriptArguments(dataset_name=str(source) if source else None)
    assert load_evaluation(script_args, DataArguments(**files), 42).rows["id"] == ["c"]
    assert load_evaluation(script_args, DataArguments(**(files | {"test_file": None})), 42).rows["id"] == ["b"]


def test_validation_dialogues_beyond_the_limit_are_left_out_of_training_too(
    chatml_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    write(tmp_path, train=talks(10), validation=talks(4))
    data = load(chatml_tokenizer, tmp_path, data={"max_eval_samples": 1}, evaluates=True)
    assert ids(data) == ({f"t{n}" for n in range(4, 10)}, {"t0"})


def test_the_record_knows_a_dialogue_in_another_layout(
    chatml_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    write(tmp_path, train=[*ROWS, ROWS[0] | {"id": "again", "summary": "Another."}])
    trained = load(chatml_tokenizer, tmp_path).trained_dialogues()
    assert re.fullmatch(r"([\w+/]{8}){3}", trained)
    others = ["ann:  tea \nBob: Yes.\n", "Ann: rain\r\n\r\nBob: Yes.", "Ann: snow\nBob: Yes."]
    assert trained_on({"trained_dialogues": trained}, others) == 2
    assert trained_on({}, others) is None


def test_a_stream_records_the_dialogues_it_gave(chatml_tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    write(tmp_path, train=ROWS)
    whole = load(chatml_tokenizer, tmp_path).trained_dialogues()
    assert load(chatml_tokenizer, tmp_path, {"dataset_streaming": True}).trained_dialogues() == whole


@pytest.mark.parametrize(("max_length", "message"), [(20, "none of 40 rows can be used: t0: too long"), (None, "")])
def test_a_stream_without_a_row_that_fits_is_refused(
    chatml_tokenizer: PreTrainedTokenizerFast, tmp_path: Path, max_length: int | None, message: str
) -> None:
    write(tmp_path, train=talks(40))
    with pytest.raises(InputError, match=message) if message else contextlib.nullcontext():
        load(chatml_tokenizer, tmp_path, {"dataset_streaming": True}, max_length=max_length)


def test_a_stream_of_validation_rows_is_refused(chatml_tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    write(tmp_path, train=ROWS, validation=ROWS)
    with pytest.raises(InputError, match=r"none of 3 rows can be used \(3 are in the evaluation split too\)"):
        load(chatml_tokenizer, tmp_path, {"dataset_streaming": True}, evaluates=True)


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
