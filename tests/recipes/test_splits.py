"""Splits of one file, of files and of slices, from a training to its evaluation; dialogues that were trained on."""

import json
from pathlib import Path
from typing import Any

from conftest import ROOT, Recipe, fails, training_args

import pytest

CASES = ROOT.parent / "shared" / "cases" / "data"
TALKS = [
    {"id": f"t{n}", "dialogue": f"Ann: Is it {n}?\nBob: It is {n}.", "summary": f"Bob says it is {n}."}
    for n in range(20)
]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def train(recipe: Recipe, model: Path, run: Path, **options: Any) -> None:
    flags = [flag for flag in training_args(model, run) if not flag.startswith("--dataset_")]
    recipe("sft", *flags, *(f"--{name}={value}" for name, value in options.items()))


def evaluate(recipe: Recipe, run: Path, **options: Any) -> tuple[dict[str, Any], list[str]]:
    """The data in metrics.json and the ids of the predictions."""
    flags = {"adapter_path": run / "adapter", "evaluate_base": "false", "max_new_tokens": 4} | options
    recipe("eval", *(f"--{name}={value}" for name, value in flags.items()))
    folder = Path(flags.get("output_dir", run)) / "eval-tuned"
    lines = (folder / "predictions.jsonl").read_text().splitlines()
    return json.loads((folder / "metrics.json").read_text())["data"], [json.loads(line)["id"] for line in lines]


def test_slices_of_one_file_from_training_to_evaluation(recipe: Recipe, tiny_folder: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "all.jsonl", TALKS)
    options = {"dataset_name": path, "dataset_train_split": "train[:16]", "dataset_test_split": "train[80%:]"}
    train(recipe, tiny_folder, tmp_path, **options, eval_strategy="epoch")
    data, ids = evaluate(recipe, tmp_path)
    assert ids == ["t16", "t17", "t18", "t19"]
    assert (data["split"], data["trained_on"]) == ("train[80%:]", 0)


def test_a_share_from_training_to_evaluation(recipe: Recipe, tiny_folder: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "all.jsonl", TALKS)
    train(recipe, tiny_folder, tmp_path, dataset_name=path, validation_share=0.2, eval_strategy="epoch", seed=3)
    data, ids = evaluate(recipe, tmp_path, seed=8)
    assert (len(ids), data["split"], data["trained_on"]) == (4, "0.2 held out of train", 0)


def test_files_from_training_to_evaluation(
    recipe: Recipe, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train_file = write(tmp_path / "a.jsonl", TALKS[:10])
    validation_file = write(tmp_path / "b.jsonl", TALKS[10:12])
    test_file = write(tmp_path / "c.jsonl", TALKS[9:15])
    files = {"train_file": train_file, "validation_file": validation_file}
    train(recipe, tiny_folder, tmp_path, **files, eval_strategy="epoch")
    assert json.loads((tmp_path / "adapter" / "run.json").read_text())["arguments"]["dataset_name"] == "a.jsonl"
    data, ids = evaluate(recipe, tmp_path)
    assert (ids, data["dataset_name"], data["trained_on"]) == (["t10", "t11"], "b.jsonl", 0)
    assert "trained on:" not in capsys.readouterr().out

    data, ids = evaluate(recipe, tmp_path, test_file=test_file, max_eval_samples=1, output_dir=tmp_path / "other")
    assert (ids, data["dataset_name"], data["trained_on"]) == (["t9"], "c.jsonl", 1)
    shown = " ".join(capsys.readouterr().out.split())
    assert "warning: 1 of the 6 dialogues of the evaluation split were trained on" in shown


def test_dialogues_beyond_the_limit_that_were_trained_on_are_counted(
    recipe: Recipe, tiny_folder: Path, tmp_path: Path
) -> None:
    train(recipe, tiny_folder, tmp_path, train_file=write(tmp_path / "a.jsonl", TALKS[:10]))
    test_file = write(tmp_path / "c.jsonl", TALKS[::-1])
    data, ids = evaluate(recipe, tmp_path, test_file=test_file, max_eval_samples=2)
    assert (ids, data["trained_on"]) == (["t19", "t18"], 10)


def test_the_file_of_a_training_does_not_serve_both_splits(
    recipe: Recipe, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "all.jsonl", TALKS)
    flags = [flag for flag in training_args(tiny_folder, tmp_path) if not flag.startswith("--dataset_")]
    error = fails(recipe, capsys, "sft", *flags, f"--dataset_name={path}", "--eval_strategy=epoch")
    assert "all.jsonl serves both splits, training and evaluation: hold dialogues out by --validation_share" in error
    train(recipe, tiny_folder, tmp_path, dataset_name=path)
    error = fails(recipe, capsys, "eval", f"--adapter_path={tmp_path / 'adapter'}")
    assert "all.jsonl was trained on and would serve the evaluation too" in error
    data, _ = evaluate(recipe, tmp_path, dataset_test_split="train", max_eval_samples=1)
    assert data["trained_on"] == 20


@pytest.mark.skipif(not CASES.is_dir(), reason="needs ../shared/cases")
@pytest.mark.parametrize(
    "options",
    [
        {"dataset_name": "trailing_columns.csv"},
        {"dataset_name": "semicolon.csv"},
        {"dataset_name": "split_name", "summary_columns": "note"},
        {"dataset_name": "split_name", "summary_columns": "note", "validation_file": "valid.csv"},
        {"dataset_name": "plain.csv", "dataset_train_split": "train[:9]", "dataset_test_split": "train[9:]"},
    ],
)
def test_the_cases_are_trained_on(recipe: Recipe, tiny_folder: Path, tmp_path: Path, options: dict[str, str]) -> None:
    evaluates = "no" if options["dataset_name"] in ("trailing_columns.csv", "semicolon.csv") else "epoch"
    defaults = {"dataset_test_split": "validation", "eval_strategy": evaluates}
    options = defaults | options | {"dataset_name": str(CASES / options["dataset_name"])}
    train(recipe, tiny_folder, tmp_path, **options)
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()


THREE = TALKS[:3]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dataloader_drop_last": "true", "per_device_train_batch_size": 4}, "drop_last drops all rows: there are 3"),
        (
            {"dataloader_drop_last": "true", "packing": "true", "max_length": 1024, "per_device_train_batch_size": 2},
            "drop_last drops all rows: there are 1, and a step takes 2",
        ),
        ({"lora_target_modules": "nothing"}, "SFTTrainer refuses these options: Target modules nothing not found"),
        ({"router_aux_loss_coef": 0.1}, "SFTTrainer refuses these options: `router_aux_loss_coef` is set to 0.1"),
        ({"dataset_streaming": "true", "max_length": 20}, "none of 3 rows can be used: t0: too long"),
    ],
)
def test_what_trains_nothing_saves_nothing(
    recipe: Recipe,
    tiny_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: dict[str, Any],
    message: str,
) -> None:
    flags = [flag for flag in training_args(tiny_folder, tmp_path) if not flag.startswith("--dataset_")]
    flags += [f"--dataset_name={write(tmp_path / 'a.jsonl', THREE)}"]
    error = fails(recipe, capsys, "sft", *flags, *(f"--{name}={value}" for name, value in options.items()))
    assert message in error
    assert not (tmp_path / "adapter").exists()


def test_a_stream_shows_its_counts_at_the_end(
    recipe: Recipe, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [*TALKS, TALKS[0] | {"id": "bad", "dialogue": None}]
    options = {"dataset_name": write(tmp_path / "a.jsonl", rows), "dataset_streaming": "true", "max_steps": 15}
    train(recipe, tiny_folder, tmp_path, **options)  # 2 rows a step: the second pass ends within the file
    shown = capsys.readouterr().out
    assert "dropped: dialogue is null 1" in " ".join(shown[shown.index("training row") :].split())
    data = json.loads((tmp_path / "adapter" / "run.json").read_text())["data"]
    assert (data["training"]["rows_read"], data["training"]["rows_kept"]) == (21, 20)
    assert data["rows_to_train_on"]["rows_read"] == 20
