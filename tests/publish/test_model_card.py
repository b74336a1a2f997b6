"""The model card: the hub's parser reads its scores, its code runs, and it contains no name of this machine."""

import contextlib
import io
import json
import re
import socket
from pathlib import Path
from typing import Any

from conftest import Recipe, evaluation_args, fails, files, recipe_caller, training_args
from dialogsum_sft.publish import model_card

import pytest
from huggingface_hub import ModelCard, metadata_eval_result

TOKEN = "hf_" + "plantedSecret" * 2


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def scores(mean: float, dialogues: int = 24, dataset: str = "knkarthick/dialogsum") -> dict[str, Any]:
    """The parts of a metrics.json that model_card reads."""
    rouge = {"mean": mean, "max": mean + 5, "per_reference": [mean] * 3, "ci95": [mean - 1.25, mean + 1.25]}
    return {name: rouge for name in ("rouge1", "rouge2", "rougeL", "rougeLsum")} | {
        "examples": dialogues,
        "data": {"dataset_name": dataset, "split": "test", "revision": None, "counts": {"dialogues": 24}},
        "model": {"adapter": "adapter", "dtype": "bfloat16", "load_in_4bit": True, "load_in_8bit": False},
        "fingerprint": {
            "library": "rouge_score 0.1.2",
            "tokenizer": "a-z0-9",
            "aggregation": "mean",
            "dialogues": dialogues,
        },
    }


@pytest.fixture(scope="module")
def trained(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with adapter/, a link to its base model as `tiny`, and out/: from one run of both recipes."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "tiny").symlink_to(tiny_folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        call = recipe_caller(patch)
        call(
            "sft",
            *training_args("tiny", Path("."), "--instruction=Sum up {dialogue} now.", "--system_prompt=Be `brief`."),
        )
        call("eval", *evaluation_args("tiny", Path("out"), "--adapter_path=adapter", "--dtype=float32"))
    return folder


@pytest.fixture
def adapter(trained: Path, tmp_path: Path) -> Path:
    """A folder with the run.json of `trained` alone: a card for it can be written."""
    record = json.loads((trained / "adapter" / "run.json").read_text())
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "run.json").write_text(json.dumps(record | {"prompt": record["prompt"] | {"system_prompt": None}}))
    return tmp_path


def test_an_evaluation_puts_its_scores_and_intervals_into_the_card(trained: Path) -> None:
    card = ModelCard.load(trained / "adapter" / "README.md")
    metrics, base = (json.loads((trained / f"out/eval-{s}/metrics.json").read_text()) for s in ("tuned", "base"))
    assert [result.metric_name for result in card.data.eval_results] == ["ROUGE-1", "ROUGE-2", "ROUGE-L", "ROUGE-Lsum"]
    first = card.data.eval_results[0]
    assert (first.dataset_type, first.dataset_split, first.metric_type) == ("sample", "test", "rouge")
    assert first.metric_value == round(metrics["rouge1"]["mean"], 2)
    assert first.metric_args["ci95"] == [round(bound, 2) for bound in metrics["rouge1"]["ci95"]]
    assert first.metric_args["zero_shot"] == round(base["rouge1"]["mean"], 2)
    assert first.dataset_args["references_sha256"] == metrics["fingerprint"]["references_sha256"]
    assert (
        f"| sample, test | adapter on the float32 base | 3 of 24 | ROUGE-1 | {first.metric_value:.2f} |" in card.text
    )


def test_the_metadata_round_trip_through_the_hubs_parser(adapter: Path) -> None:
    model_card.write(adapter, scores(40.0))
    card = ModelCard.load(adapter / "README.md")
    assert ModelCard(str(card)).data.to_dict() == card.data.to_dict()
    result = card.data.eval_results[0]
    built = metadata_eval_result(
        model_pretty_name=card.data.model_name,
        task_pretty_name="Dialogue summarization",
        task_id="summarization",
        metrics_pretty_name="ROUGE-1",
        metrics_id="rouge",
        metrics_value=40.0,
        dataset_pretty_name="knkarthick/dialogsum",
        dataset_id="knkarthick/dialogsum",
        dataset_split="test",
    )["model-index"][0]["results"][0]
    written = card.data.to_dict()["model-index"][0]["results"][0]
    assert written["task"] == built["task"]
    built["metrics"][0].pop("verified", None)  # the hub's own evaluations are
    assert {key: written["dataset"][key] for key in built["dataset"]} == built["dataset"]
    assert {key: written["metrics"][0][key] for key in built["metrics"][0]} == built["metrics"][0]
    assert result.metric_args["ci95"] == [38.75, 41.25]


def test_the_card_describes_the_run(trained: Path) -> None:
    card = ModelCard.load(trained / "adapter" / "README.md")
    assert card.data.library_name == "peft"
    assert card.data.base_model is None  # `tiny` is a folder: the hub would refuse the name
    assert card.data.license is None
    for text in (
        "156 rows (a dialogue and a summary) trained on, of 156 dialogues; 0 rows left out",
        "| `learning_rate` | 0.0002 |",
        "| `lora_target_modules` | all-linear |",
        "| processes | 1 |",
        "```text\nSum up {dialogue} now.\n```",
        "```text\nBe `brief`.\n```",
        "A LoRA adapter of `tiny`",
        "the licence of the base model, `tiny`",
    ):
        assert text in card.text


def test_names_on_the_hub_are_linked(adapter: Path) -> None:
    record = json.loads((adapter / "run.json").read_text())
    record["base_model"], record["arguments"]["dataset_name"] = "Qwen/Qwen3-8B", "knkarthick/dialogsum"
    record["arguments"] |= {"load_in_4bit": True, "use_dora": True, "bnb_4bit_quant_type": "nf4"}
    record["arguments"] |= {"lora_target_modules": ["q_proj", "v_proj"], "rename_speakers": True}
    (adapter / "run.json").write_text(json.dumps(record))
    model_card.write(adapter)
    card = ModelCard.load(adapter / "README.md")
    assert (card.data.base_model, card.data.datasets) == ("Qwen/Qwen3-8B", ["knkarthick/dialogsum"])
    assert (
        "A DoRA adapter, trained on the 4-bit quantised weights of [Qwen/Qwen3-8B](https://huggingface.co/"
        in card.text
    )
    assert "(https://huggingface.co/datasets/knkarthick/dialogsum)" in card.text
    assert "| `bnb_4bit_quant_type` | nf4 |" in card.text
    assert "| `lora_target_modules` | q_proj, v_proj |" in card.text
    assert "Speakers were called `#Person1#`" in card.text
    assert "Not evaluated yet" in card.text
    assert "model_name" not in card.data.to_dict()


@pytest.mark.parametrize(("dialogues", "kept"), [(24, 50.0), (25, 50.0), (23, 40.0)])
def test_scores_of_fewer_dialogues_do_not_replace_a_full_result(adapter: Path, dialogues: int, kept: float) -> None:
    assert model_card.write(adapter, scores(40.0))
    assert model_card.write(adapter, scores(50.0, dialogues)) == (kept == 50.0)
    results = ModelCard.load(adapter / "README.md").data.eval_results
    assert [result.metric_value for result in results] == [kept] * 4


def test_scores_on_another_test_set_stay(adapter: Path) -> None:
    model_card.write(adapter, scores(40.0))
    model_card.write(adapter, scores(50.0, dataset="knkarthick/samsum"))
    results = ModelCard.load(adapter / "README.md").data.eval_results
    assert {(result.dataset_name, result.metric_value) for result in results} == {
        ("knkarthick/dialogsum", 40.0),
        ("knkarthick/samsum", 50.0),
    }


def test_a_folder_that_cannot_be_written_does_not_end_the_evaluation(
    recipe: Recipe, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*args: Any) -> bool:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(model_card, "write", refuse)
    monkeypatch.chdir(trained)
    recipe("eval", *evaluation_args("tiny", tmp_path, "--adapter_path=adapter", "--evaluate_base=no"))
    assert "could not be noted here (Permission denied)" in capsys.readouterr().out
    assert (tmp_path / "eval-tuned" / "metrics.json").is_file()


def run_snippet(card: Path) -> str:
    code = re.search(r"```python\n(.*?)```", card.read_text(encoding="utf-8"), re.DOTALL)
    assert code is not None
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code[1], "card", "exec"), {})
    return printed.getvalue()


def test_the_code_in_the_card_gives_the_prediction_of_the_evaluation(
    trained: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()
    for path in (trained / "adapter").iterdir():
        (folder / path.name).symlink_to(path)
    (folder / "tiny").symlink_to(trained / "tiny")
    first = json.loads((trained / "out/eval-tuned/predictions.jsonl").read_text().split("\n")[0])
    card = (trained / "adapter" / "README.md").read_text()
    shown = card[card.index('dialogue = """') : card.index('"""\nmessages')]
    card = card.replace(shown, f'dialogue = """{first["dialogue"]}').replace("max_new_tokens=128", "max_new_tokens=8")
    (tmp_path / "README.md").write_text(card)
    monkeypatch.chdir(folder)
    assert run_snippet(tmp_path / "README.md").strip() == first["prediction"]


# No published file may contain these.


def test_no_artefact_names_this_machine_or_a_token(
    recipe: Recipe,
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    home = tmp_path / "home-of-ana"
    home.mkdir()
    rows = home / "rows.jsonl"
    rows.write_text(
        "".join(json.dumps({"id": n, "dialogue": f"A: Hi {n}.", "summary": "Hi."}) + "\n" for n in range(9))
    )
    (home / "tiny").symlink_to(tiny_folder)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setattr(socket, "gethostname", lambda: "host-of-ana")
    here = [f"--dataset_name={rows}", "--dataset_train_split=train"]
    recipe("sft", *training_args(home / "tiny", home / "run", *here, "--max_steps=1", "--instruction=/sum/up"))
    adapter = f"--adapter_path={home / 'run' / 'adapter'}"
    recipe("eval", *evaluation_args(home / "tiny", home / "run", *here, adapter, "--instruction=/sum/up"))
    written = [path for path in (home / "run").rglob("*") if path.is_file()]
    assert {"run.json", "README.md", "adapter_config.json", "tokenizer_config.json", "metrics.json"} <= {
        path.name for path in written
    }
    for path in written:
        content = path.read_bytes()
        paths = () if path.name == "manifest.json" else (str(tmp_path), "home-of-ana")  # which is never pushed
        for secret in (TOKEN, *paths, "host-of-ana", socket.gethostname()):
            assert secret.encode() not in content, path.name
    record = json.loads((home / "run" / "adapter" / "run.json").read_text())
    names = ("model_name_or_path", "dataset_name", "output_dir", "instruction")
    assert [record["arguments"][name] for name in names] == ["tiny", "rows.jsonl", "run", "/sum/up"]
    assert json.loads((home / "run/adapter/adapter_config.json").read_text())["base_model_name_or_path"] == "tiny"


def test_a_token_on_the_command_line_is_refused(
    recipe: Recipe,
    capsys: pytest.CaptureFixture[str],
    tiny_folder: Path,
    tmp_path: Path,
) -> None:
    args = training_args(tiny_folder, tmp_path / "out", f"--hub_token={TOKEN}")
    error = fails(recipe, capsys, "sft", *args)
    assert "--hub_token would be written to files" in error
    assert TOKEN not in error
    assert files(tmp_path) == set()
