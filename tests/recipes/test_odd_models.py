"""Model folders with tokens, templates and limits that are unusual: trained and evaluated, or refused in one line."""

import json
import shutil
from pathlib import Path
from typing import Any

from conftest import (
    Recipe,
    evaluation_args,
    fails,
    tiny_gemma3,
    tiny_model,
    tokenizer_for_template,
    training_args,
)
from trl_templates import FOLDER

import pytest
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast


def without_eos_and_pad(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.eos_token = tokenizer.pad_token = None


def with_a_pad_token_of_its_own(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})


def with_named_templates(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.chat_template = {"rag": "{{ documents }}", "default": tokenizer.chat_template}


def edit(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def with_a_pad_token_beyond_the_embeddings(folder: Path) -> None:
    edit(folder / "config.json", pad_token_id=1000)


def with_pad_token_minus_one(folder: Path) -> None:
    edit(folder / "config.json", pad_token_id=-1)


def with_stop_tokens_beyond_the_embeddings(folder: Path) -> None:
    edit(folder / "config.json", eos_token_id=1000, bos_token_id=1001)
    edit(folder / "generation_config.json", eos_token_id=[2, 1000], pad_token_id=1000)


def unchanged(of_model: Any) -> None:
    pass


@pytest.mark.parametrize(
    ("change", "change_folder"),
    [
        (without_eos_and_pad, unchanged),
        (with_a_pad_token_of_its_own, unchanged),
        (with_a_pad_token_of_its_own, with_a_pad_token_beyond_the_embeddings),
        (with_named_templates, unchanged),
        (unchanged, with_a_pad_token_beyond_the_embeddings),
        (unchanged, with_pad_token_minus_one),
        (unchanged, with_stop_tokens_beyond_the_embeddings),
    ],
)
def test_an_odd_tokenizer_trains_evaluates_and_merges(
    recipe: Recipe, tiny_folder: Path, tmp_path: Path, change: Any, change_folder: Any
) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "tiny", ignore=shutil.ignore_patterns("*.jinja"))
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    change(tokenizer)
    tokenizer.save_pretrained(folder)
    change_folder(folder)
    recipe("sft", *training_args(folder, tmp_path))
    recipe("eval", *evaluation_args(folder, tmp_path, f"--adapter_path={tmp_path / 'adapter'}"))
    assert len((tmp_path / "eval-tuned/predictions.jsonl").read_text().splitlines()) == 3
    recipe("merge", f"--model_name_or_path={folder}", f"--adapter_path={tmp_path / 'adapter'}", "--num_prompts=1")
    rows = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").get_input_embeddings().weight.shape[0]
    pad = AutoTokenizer.from_pretrained(tmp_path / "merged").pad_token_id
    for file in ("config.json", "generation_config.json"):
        config = json.loads((tmp_path / "merged" / file).read_text())
        ids = [
            config[name] for name in ("pad_token_id", "eos_token_id", "bos_token_id") if config.get(name) is not None
        ]
        assert ids[0] == pad
        assert all(0 <= one < rows for several in ids for one in (several if isinstance(several, list) else [several]))


@pytest.mark.parametrize(
    ("place", "base"),
    [
        ("hub/models--org--tiny/snapshots/70d244cc", "org/tiny"),
        ("kaggle/input/tiny/transformers/tiny-instruct/1", "tiny-instruct"),
    ],
)
def test_a_model_in_a_cache_is_known_by_its_name(
    recipe: Recipe, tiny_folder: Path, tmp_path: Path, place: str, base: str
) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / place)
    recipe("sft", *training_args(folder, tmp_path))
    adapter = tmp_path / "adapter"
    assert json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"] == base
    assert json.loads((adapter / "run.json").read_text())["base_model"] == base
    recipe("merge", f"--adapter_path={adapter}", "--num_prompts=1")  # the base of the training
    moved = shutil.copytree(tiny_folder, tmp_path / "elsewhere" / base)
    recipe("eval", *evaluation_args(moved, tmp_path, f"--adapter_path={adapter}"))


@pytest.mark.parametrize("vocab_size", [990, 1010])
def test_weights_of_other_shapes_than_the_config_are_refused(
    recipe: Recipe, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], vocab_size: int
) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "tiny")
    edit(folder / "config.json", vocab_size=vocab_size)
    message = "10 ordinary tokens in its tokenizer" if vocab_size < 1000 else "its weights have other shapes than its"
    assert message in fails(recipe, capsys, "sft", *training_args(folder, tmp_path))
    assert message in fails(recipe, capsys, "eval", *evaluation_args(folder, tmp_path))


def test_the_channel_of_an_answer_is_not_supervised(
    recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = tokenizer_for_template(FOLDER / "gptoss.jinja")
    tiny_model(tokenizer).save_pretrained(tmp_path / "tiny")
    tokenizer.save_pretrained(tmp_path / "tiny")
    recipe("sft", *training_args(tmp_path / "tiny", tmp_path))
    shown = capsys.readouterr().out
    assert "<|start|>assistant<|channel|>final<|message|>⟦" in shown.replace("\n", "")
    recipe("eval", *evaluation_args(tmp_path / "tiny", tmp_path, f"--adapter_path={tmp_path / 'adapter'}"))


def test_max_length_beyond_the_positions_of_the_model_is_refused(
    recipe: Recipe, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ("--max_length=4096",)
    message = "error: --max_length 4096: the model can hold 2048 tokens; give 2048 or less"
    assert fails(recipe, capsys, "sft", *training_args(tiny_folder, tmp_path, *args)) == message
    assert fails(recipe, capsys, "eval", *evaluation_args(tiny_folder, tmp_path, *args)) == message


def test_nothing_that_the_model_cannot_hold_is_suggested(
    recipe: Recipe, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "tiny")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 400}))
    recipe("inspect_data", *training_args(folder, tmp_path, "--max_length=500"))
    shown = capsys.readouterr().out
    assert "* in the config, and refused by a training: the model can hold 400 tokens" in " ".join(shown.split())
    header = next(line for line in shown.splitlines() if "rows longer than max_length" in line)
    assert [word for word in header.split() if word.strip("*").isdigit()] == ["256", "400", "500*"]
    suggested = shown[shown.index("suggested") :]
    values = {line.split()[0]: line.split()[1:] for line in suggested.splitlines() if ":" in line}
    assert values["max_length:"][0] == "400"
    assert "tokens; the model can hold 400" in " ".join(suggested.split())
    assert int(values["max_new_tokens:"][0]) < 400
    assert "x 400, GPU" in shown


def test_all_linear_layers_of_gemma_3_are_those_of_its_language_model(recipe: Recipe, tmp_path: Path) -> None:
    tokenizer = tokenizer_for_template(FOLDER / "gemma3.jinja")
    special = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    tiny_gemma3(len(tokenizer), **special).save_pretrained(tmp_path / "tiny")
    tokenizer.save_pretrained(tmp_path / "tiny")
    recipe("sft", *training_args(tmp_path / "tiny", tmp_path, "--learning_rate=0.01"))
    weights = load_file(tmp_path / "adapter/adapter_model.safetensors")
    assert {key.split(".lora_")[0].split(".layers.")[0] for key in weights} == {
        "base_model.model.model.language_model"
    }
    assert len(weights) == 2 * 2 * 7
    recipe("eval", *evaluation_args(tmp_path / "tiny", tmp_path, f"--adapter_path={tmp_path / 'adapter'}"))
    recipe(
        "merge",
        f"--model_name_or_path={tmp_path / 'tiny'}",
        f"--adapter_path={tmp_path / 'adapter'}",
        "--num_prompts=1",
    )
    assert type(AutoModelForCausalLM.from_pretrained(tmp_path / "merged")).__name__ == "Gemma3ForConditionalGeneration"
