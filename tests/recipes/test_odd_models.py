"""Model folders with tokens, templates and limits that are unusual: trained and evaluated, or refused in one line."""

from pathlib import Path

from conftest import (
    Recipe,
    evaluation_args,
    tiny_gemma3,
    tokenizer_for_template,
    training_args,
)
from trl_templates import FOLDER

from safetensors.torch import load_file
from transformers import AutoModelForCausalLM


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
