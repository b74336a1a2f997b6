"""Training and evaluation by the recipes: the files they write and the errors of bad input."""

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from conftest import ROOT, Recipe, evaluation_args, fails, files, recipe_caller, training_args
from dialogsum_sft.generation import summarise

import pytest
from safetensors.torch import load_file

SHARED = ROOT.parent / "shared" / "data" / "dialogsum"


ADAPTER_FILES = {
    "README.md",
    "adapter_config.json",
    "adapter_model.safetensors",
    "chat_template.jinja",
    "run.json",
    "tokenizer.json",
    "tokenizer_config.json",
}


TRAINED_FILES = {"manifest.json", "training.jsonl"} | {f"adapter/{name}" for name in ADAPTER_FILES}


@pytest.fixture(scope="module")
def trained_once(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "run"
    with pytest.MonkeyPatch.context() as patch:
        recipe_caller(patch)("sft", *training_args(tiny_folder, folder))
    return folder


@pytest.fixture
def trained(trained_once: Path, tmp_path: Path) -> Path:
    """A copy of the output folder of a training."""
    return shutil.copytree(trained_once, tmp_path / "run")


def test_train_and_evaluate_leave_exactly_these_files(
    recipe: Recipe, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe(
        "sft", *training_args(tiny_folder, tmp_path, "--eval_strategy=steps", "--eval_steps=2", "--logging_steps=1")
    )
    assert files(tmp_path) == TRAINED_FILES
    shown = capsys.readouterr().out
    assert "supervised between ⟦ and ⟧" in shown
    assert "because the brown would not arrive before Saturday.<|im_end|>⟧" in shown

    recipe("eval", *evaluation_args(tiny_folder, tmp_path, f"--adapter_path={tmp_path / 'adapter'}"))
    outputs = {
        f"eval-{system}/{name}" for system in ("base", "tuned") for name in ("predictions.jsonl", "metrics.json")
    }
    assert files(tmp_path) == TRAINED_FILES | outputs | {"report.html"}
    shown = capsys.readouterr().out
    assert " ".join(shown.split()).endswith("report.html: scores, charts and every dialogue")
    assert 'aria-label="Loss' in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert all(word in shown for word in ("ROUGE-1", "ROUGE-2", "ROUGE-L", "zero-shot", "tuned", "difference"))

    record = json.loads((tmp_path / "adapter" / "run.json").read_text(encoding="utf-8"))
    assert record["format"] == 1
    assert record["data"]["training"]["rows_kept"] == record["data"]["rows_to_train_on"]["rows_kept"] == 156
    assert record["metrics"]["eval_loss"] > 0
    assert record["arguments"]["lora_r"] == 16
    assert record["arguments"]["max_length"] == 1024

    predictions = [json.loads(line) for line in (tmp_path / "eval-tuned/predictions.jsonl").open(encoding="utf-8")]
    assert [list(row) for row in predictions] == 3 * [
        ["id", "dialogue", "references", "prediction", "prompt_tokens", "completion_tokens", "finish_reason", "topic"]
    ]
    assert [row["id"] for row in predictions] == ["test_0", "test_1", "test_2"]
    assert {len(row["references"]) for row in predictions} == {3}

    metrics = json.loads((tmp_path / "eval-tuned/metrics.json").read_text(encoding="utf-8"))
    assert (metrics["examples"], metrics["references"]) == (3, 9)
    for name in ("rouge1", "rouge2", "rougeL", "rougeLsum"):
        assert list(metrics[name]) == ["mean", "max", "max_leave_one_out", "per_reference", "ci95"]
    assert metrics["prompt"] == record["prompt"]
    assert metrics["model"]["adapter"] == "adapter"  # no folder of this machine


def test_the_base_alone_is_evaluated_without_an_adapter(recipe: Recipe, tiny_folder: Path, tmp_path: Path) -> None:
    recipe("eval", *evaluation_args(tiny_folder, tmp_path))
    assert files(tmp_path) == {"eval-base/predictions.jsonl", "eval-base/metrics.json", "report.html"}


def test_evaluate_base_no_skips_the_base(recipe: Recipe, tiny_folder: Path, trained: Path, tmp_path: Path) -> None:
    options = [f"--adapter_path={trained / 'adapter'}", "--evaluate_base=no"]
    recipe("eval", *evaluation_args(tiny_folder, tmp_path / "out", *options))
    assert files(tmp_path / "out") == {"eval-tuned/predictions.jsonl", "eval-tuned/metrics.json", "report.html"}


def test_an_adapter_alone_is_evaluated_as_it_was_trained(
    recipe: Recipe, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--rename_speakers=true", "--instruction=Sum up:", "--max_length=600", "--eval_max_new_tokens=5"]
    recipe("sft", *training_args(tiny_folder, tmp_path, *options))
    recipe("eval", f"--adapter_path={tmp_path / 'adapter'}", "--max_eval_samples=2")

    record = json.loads((tmp_path / "adapter" / "run.json").read_text())
    metrics = json.loads((tmp_path / "eval-tuned" / "metrics.json").read_text())
    assert metrics["prompt"] == record["prompt"]
    assert (metrics["prompt"]["instruction"], metrics["prompt"]["rename_speakers"]) == ("Sum up:", True)
    assert (metrics["model"]["base"], metrics["data"]["dataset_name"], metrics["data"]["split"]) == (
        *("tiny", "sample", "test"),
    )
    assert metrics["engine"]["generation"]["max_new_tokens"] == 5
    warnings = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning")]
    assert [line for line in warnings if "summaries are cut off" not in line] == []  # after 5 tokens


def test_another_prompt_than_in_training_is_refused_unless_allowed(
    recipe: Recipe, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = [f"--adapter_path={trained / 'adapter'}", "--instruction=Sum up:", "--max_eval_samples=1"]
    error = fails(recipe, capsys, "eval", *other)
    assert "was trained with another prompt: instruction is 'Sum up:', not 'Summarize" in error
    recipe("eval", *other, "--allow_other_prompt=true", "--max_new_tokens=4")
    assert (trained / "eval-tuned" / "metrics.json").is_file()


def test_a_finished_evaluation_is_not_repeated(
    recipe: Recipe, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    recipe("eval", *evaluation_args(tiny_folder, tmp_path))
    first = {name: (tmp_path / name).read_bytes() for name in files(tmp_path)}
    capsys.readouterr()

    def no_model(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("the model is not needed")

    monkeypatch.setattr(summarise, "load_model", no_model)
    recipe("eval", *evaluation_args(tiny_folder, tmp_path))
    assert "all 3 summaries are there" in " ".join(capsys.readouterr().out.split())
    assert {name: (tmp_path / name).read_bytes() for name in files(tmp_path)} == first

    error = fails(recipe, capsys, "eval", *evaluation_args(tiny_folder, tmp_path, "--max_new_tokens=7"))
    assert error == (
        f"error: {tmp_path}/eval-base holds another run (--max_new_tokens 8 there, 7 here): give another "
        "--output_dir, or --overwrite_output_dir true to set it aside"
    )
    assert {name: (tmp_path / name).read_bytes() for name in files(tmp_path)} == first


def test_an_adapter_of_another_run_than_the_manifest_gives_a_warning(
    recipe: Recipe, tiny_folder: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = json.loads((trained / "manifest.json").read_text())
    (trained / "manifest.json").write_text(json.dumps(manifest | {"sha256": "0"}))
    recipe("eval", *evaluation_args(tiny_folder, trained, f"--adapter_path={trained / 'adapter'}"))
    assert "warning" in capsys.readouterr().out


def test_a_trained_model_and_an_adapter_set_aside_have_evaluations_of_their_own(
    recipe: Recipe, tiny_folder: Path, tmp_path: Path
) -> None:
    recipe("sft", *training_args(tiny_folder, tmp_path))
    recipe("eval", f"--adapter_path={tmp_path / 'adapter'}", "--max_eval_samples=1", "--max_new_tokens=4")
    first = (tmp_path / "eval-tuned" / "metrics.json").read_bytes()
    base = (tmp_path / "eval-base" / "metrics.json").read_bytes()
    recipe("sft", *training_args(tiny_folder, tmp_path, "--learning_rate=0.01", "--overwrite_output_dir=true"))
    assert (tmp_path / "earlier-eval-tuned" / "metrics.json").read_bytes() == first
    assert (tmp_path / "earlier-report.html").is_file()
    assert (tmp_path / "earlier-training.jsonl").is_file()
    assert (tmp_path / "training.jsonl").is_file()
    assert not (tmp_path / "eval-tuned").exists()

    recipe("eval", f"--adapter_path={tmp_path / 'earlier-adapter'}", "--max_eval_samples=1", "--max_new_tokens=4")
    assert (tmp_path / "eval-earlier-adapter" / "metrics.json").is_file()
    recipe("merge", f"--adapter_path={tmp_path / 'adapter'}", "--num_prompts=1")
    recipe("eval", f"--model_name_or_path={tmp_path / 'merged'}", "--max_eval_samples=1", "--max_new_tokens=4")
    assert (tmp_path / "eval-merged" / "metrics.json").is_file()
    assert (tmp_path / "eval-base" / "metrics.json").read_bytes() == base
    assert not (tmp_path / "eval-tuned").exists()


def test_bf16_autocast_on_float32_weights_trains(recipe: Recipe, tiny_folder: Path, tmp_path: Path) -> None:
    recipe("sft", *training_args(tiny_folder, tmp_path, "--bf16=true", "--dtype=float32", "--max_steps=1"))
    assert (tmp_path / "adapter" / "run.json").is_file()


def test_training_is_reproducible(recipe: Recipe, tiny_folder: Path, trained: Path, tmp_path: Path) -> None:
    recipe("sft", *training_args(tiny_folder, tmp_path / "again"))
    folders = (trained, tmp_path / "again")
    one, two = (load_file(folder / "adapter" / "adapter_model.safetensors") for folder in folders)
    assert one.keys() == two.keys()
    assert all((one[key] == two[key]).all() for key in one)


def test_full_fine_tuning_leaves_a_model(recipe: Recipe, tiny_folder: Path, tmp_path: Path) -> None:
    recipe("sft", *training_args(tiny_folder, tmp_path, "--use_peft=false"))
    assert {"model/model.safetensors", "model/config.json", "model/run.json"} <= files(tmp_path)
    recipe("eval", *evaluation_args(tmp_path / "model", tmp_path / "out"))


def test_report_to_tensorboard_writes_events(
    recipe: Recipe, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "logs"))
    recipe("sft", *training_args(tiny_folder, tmp_path / "out", "--report_to=tensorboard", "--logging_steps=1"))
    assert any("tfevents" in name for name in files(tmp_path / "logs"))


# Datasets of other formats, read by their configs; only the folder and the model are replaced.

CHAT = ["Hi, I need help.", "With what?", "My order is late.", "It comes on Friday."]


def samsum_rows(split: str) -> list[dict[str, Any]]:
    return [
        {
            "id": f"{split}{n}",
            "dialogue": f"Amanda: {CHAT[0]}\r\nJerry: {CHAT[1]} {split} {n}",
            "summary": f"Amanda asks {n}.",
        }
        for n in range(6)
    ]


def tweetsumm_rows(split: str) -> list[dict[str, Any]]:
    summaries = {"summaries": {"abstractive_summaries": [["It is", "late."], ["Late!"]]}}
    return [
        {
            "original dialog id": f"{split}{n}",
            "original dialog info": summaries,
            "log": [
                {"user utterance": CHAT[0], "system response": CHAT[1]},
                {"user utterance": f"Bye {split} {n}", "system response": ""},
            ],
        }
        for n in range(6)
    ]


def csv_rows(split: str) -> list[dict[str, Any]]:
    return [
        {
            "ticket": f"{split}{n}",
            "transcript": f"[Agent] {CHAT[1]}, {split} {n}\n[Caller] {CHAT[2]}",
            "note": "Order, late.",
        }
        for n in range(6)
    ]


def chat_rows(split: str) -> list[dict[str, Any]]:
    return [
        {
            "id": f"{split}{n}",
            "messages": [
                {"from": ("human", "gpt")[i % 2], "value": f"{text} {split} {n}"} for i, text in enumerate(CHAT)
            ],
            "summary": "An order is late.",
        }
        for n in range(6)
    ]


@pytest.mark.parametrize(
    ("config", "rows", "shown", "references"),
    [
        ("samsum", samsum_rows, "Amanda: Hi, I need help.\nJerry: With what? test 0", 1),
        ("tweetsumm", tweetsumm_rows, "User: Hi, I need help.\nSystem: With what?\nUser: Bye test 0", 2),
        ("local_csv", csv_rows, "[Agent] With what?, test 0\n[Caller] My order is late.", 1),
        ("chat_messages", chat_rows, "human: Hi, I need help. test 0\ngpt: With what? test 0", 1),
    ],
)
def test_other_datasets_need_only_a_config(
    recipe: Recipe,
    tiny_folder: Path,
    tmp_path: Path,
    config: str,
    rows: Callable[[str], list[dict[str, Any]]],
    shown: str,
    references: int,
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for split in ("train", "validation", "test"):
        if config == "local_csv":
            with (data / f"{split}.csv").open("w", newline="") as file:
                writer = csv.DictWriter(file, ["ticket", "transcript", "note"])
                writer.writeheader()
                writer.writerows(rows(split))
        else:
            write_rows(data / f"{split}.jsonl", *rows(split))
    here = [f"--model_name_or_path={tiny_folder}", f"--dataset_name={data}", f"--output_dir={tmp_path / 'out'}"]
    cpu = [
        "--dtype=float32",
        "--bf16=false",
        "--max_steps=1",
        "--save_strategy=no",
        "--activation_checkpointing=false",
    ]
    configs = ROOT / "recipes" / "configs"
    recipe("sft", "--config", configs / f"{config}.yaml", *here, *cpu)
    recipe("eval", f"--adapter_path={tmp_path / 'out' / 'adapter'}", "--max_new_tokens=4")
    predictions = [json.loads(line) for line in (tmp_path / "out/eval-tuned/predictions.jsonl").open()]
    assert [row["id"] for row in predictions] == [f"test{n}" for n in range(6)]
    assert predictions[0]["dialogue"].startswith(shown)
    assert {len(row["references"]) for row in predictions} == {references}


def test_a_stream_is_trained_on(recipe: Recipe, tiny_folder: Path, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", *samsum_rows("train"))
    args = training_args(tiny_folder, tmp_path / "out", f"--dataset_name={rows}", "--dataset_streaming=true")
    recipe("sft", *args)
    record = json.loads((tmp_path / "out" / "adapter" / "run.json").read_text())
    assert record["data"]["training"]["rows_kept"] == 6


def test_long_dialogues_are_shortened_in_training_and_evaluation(
    recipe: Recipe, tiny_folder: Path, tmp_path: Path
) -> None:
    recipe("sft", *training_args(tiny_folder, tmp_path, "--max_length=300"))
    record = json.loads((tmp_path / "adapter" / "run.json").read_text())
    rows = record["data"]["rows_to_train_on"]
    assert (rows["rows_read"], rows["rows_kept"]) == (156, 156)
    assert rows["shortened"] > 100
    recipe("eval", *evaluation_args(tiny_folder, tmp_path, "--max_length=300"))
    predictions = [json.loads(line) for line in (tmp_path / "eval-base/predictions.jsonl").open()]
    assert all(row["prompt_tokens"] <= 292 for row in predictions)
    assert sum("dropped_turns" in row for row in predictions) == 2
    assert all("[...]" not in row["dialogue"] for row in predictions)  # the record has the whole dialogue


# Bad input: one line on standard error, exit status 2, no files.


def write_rows(path: Path, *rows: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


GOOD = {"id": "a", "dialogue": "#Person1#: Hi.\n#Person2#: Hi.", "summary": "They greet."}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--lora_rank=8"], "unknown option in the command line: lora_rank; did you mean local_rank or lora_r?"),
        (["--config=nowhere.yaml"], "config file not found: nowhere.yaml"),
        (["--dataset_name=nowhere.jsonl"], "dataset file not found: nowhere.jsonl"),
        (["--summary_columns=abstract"], "sample has no column abstract: there are id, dialogue, summary, topic"),
        (
            ["--dataset_train_split=all"],
            "no split 'all' in sample: there are test.jsonl, train.jsonl, validation.jsonl",
        ),
        (
            ["--max_length=40"],
            "156 of 156 training rows cannot be used: train_0: too long even when shortened",
        ),
        (["--load_in_4bit=true", "--use_peft=false"], "a quantised base cannot be trained itself"),
        (["--learning_rate=fast"], "learning_rate"),
    ],
)
def test_bad_training_input(
    recipe: Recipe,
    capsys: pytest.CaptureFixture[str],
    tiny_folder: Path,
    tmp_path: Path,
    flags: list[str],
    message: str,
) -> None:
    assert message in fails(recipe, capsys, "sft", *training_args(tiny_folder, tmp_path / "out", *flags))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"summary": ""}, "row 2 (b): summary is empty"),
        ({"summary": None}, "row 2 (b): summary is null"),
        ({"dialogue": " \n"}, "row 2 (b): dialogue is empty"),
        ({"dialogue": None}, "row 2 (b): dialogue is null"),
    ],
)
def test_bad_rows_are_named(
    recipe: Recipe,
    capsys: pytest.CaptureFixture[str],
    tiny_folder: Path,
    tmp_path: Path,
    row: dict[str, Any],
    message: str,
) -> None:
    dataset = write_rows(tmp_path / "rows.jsonl", GOOD, GOOD | {"id": "b", "dialogue": "#Person1#: Bye."} | row)
    args = training_args(tiny_folder, tmp_path / "out", f"--dataset_name={dataset}")
    assert "--allow_dropped_rows" in fails(recipe, capsys, "sft", *args)
    assert message in fails(recipe, capsys, "sft", *args)


def test_an_adapter_of_another_base(
    recipe: Recipe, capsys: pytest.CaptureFixture[str], trained: Path, tmp_path: Path
) -> None:
    args = evaluation_args("some/other", tmp_path / "out", f"--adapter_path={trained / 'adapter'}")
    assert "not on some/other" in fails(recipe, capsys, "eval", *args)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--adapter_path=nowhere"], "no adapter in nowhere"),
        (["--generation_kwargs={beams}"], "--generation_kwargs is not JSON"),
        (["--generation_kwargs=[1]"], "must be a JSON object"),
        (['--generation_kwargs={"beams": 2}'], "GenerationConfig has no option beams"),
        (["--dataset_test_split=final"], "no split 'final' in sample"),
        (["--max_eval_samples=0"], "leaves no dialogue: give 1 or more"),
    ],
)
def test_bad_evaluation_input(
    recipe: Recipe,
    capsys: pytest.CaptureFixture[str],
    tiny_folder: Path,
    tmp_path: Path,
    flags: list[str],
    message: str,
) -> None:
    assert message in fails(recipe, capsys, "eval", *evaluation_args(tiny_folder, tmp_path / "out", *flags))
    assert not (tmp_path / "out").exists()


# Recipes in processes of their own.


def start(*command: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        list(map(str, command)),
        cwd=ROOT,
        env=os.environ | {"HF_HUB_OFFLINE": "1"} | env,
        capture_output=True,
        text=True,
        timeout=600,
    )


@pytest.mark.slow
def test_an_input_error_of_a_process_is_one_line(tmp_path: Path) -> None:
    done = start(
        sys.executable, "recipes/sft.py", "--model_name_or_path=embedded", f"--output_dir={tmp_path}", "--bf16=no"
    )
    assert done.returncode == 2
    assert done.stderr == "error: no dataset: give --dataset_name (a hub id, a file, a folder, a glob, or 'sample')\n"
    assert done.stdout == ""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sft", "eval"])
def test_several_processes_that_no_launcher_started_are_refused(
    recipe: Recipe,
    capsys: pytest.CaptureFixture[str],
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    for variable in ("RANK", "LOCAL_RANK", "MASTER_ADDR"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    arguments = evaluation_args if name == "eval" else training_args
    message = fails(recipe, capsys, name, *arguments(tiny_folder, tmp_path / "out"))
    assert "WORLD_SIZE is 2, but RANK, LOCAL_RANK, MASTER_ADDR not set: unset WORLD_SIZE" in message


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data/dialogsum is not here")
def test_the_authors_dialogsum_files_need_no_config(recipe: Recipe, tiny_folder: Path, tmp_path: Path) -> None:
    """The authors' files: training on dev.jsonl and evaluation on test.jsonl with three references."""
    args = training_args(tiny_folder, tmp_path, f"--dataset_name={SHARED / 'dev.jsonl'}")
    recipe("sft", *args, "--max_train_samples=8")
    args = evaluation_args(tiny_folder, tmp_path, f"--dataset_name={SHARED / 'test.jsonl'}")
    recipe("eval", *args, f"--adapter_path={tmp_path / 'adapter'}")
    metrics = json.loads((tmp_path / "eval-tuned/metrics.json").read_text())
    assert (metrics["examples"], metrics["references"]) == (3, 9)
    assert metrics["data"]["counts"]["rows_kept"] == metrics["data"]["counts"]["dialogues"] == 250
