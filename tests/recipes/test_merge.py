"""Merging keeps the logits, in memory and on disk; what cannot be merged is refused and leaves no files."""

import json
import shutil
from pathlib import Path
from typing import Any

from conftest import ROOT, Recipe, evaluation_args, fails, files, tiny_model, training_args

import pytest
import torch
from huggingface_hub import HfApi, ModelCard
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    GenerationConfig,
    PreTrainedTokenizerFast,
)

MERGED_FILES = {
    "README.md",
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "run.json",
    "tokenizer.json",
    "tokenizer_config.json",
}


@pytest.fixture
def adapter(tiny_folder: Path, chatml_tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> Path:
    return make_adapter(tmp_path / "run" / "adapter", chatml_tokenizer)


def make_adapter(folder: Path, tokenizer: PreTrainedTokenizerFast, **options: Any) -> Path:
    """An adapter with random A and B, which changes its base a lot."""
    model = tiny_model(tokenizer)
    model.name_or_path = "tiny"
    config = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False, **options)
    torch.manual_seed(1)
    get_peft_model(model, config).save_pretrained(folder)
    (folder / "README.md").unlink()  # PEFT's
    tokenizer.save_pretrained(folder)
    return folder


def merge_args(base: Path | str, adapter: Path, *more: str) -> list[str]:
    return [f"--model_name_or_path={base}", f"--adapter_path={adapter}", *more]


def logits(model: Any, tokenizer: Any) -> torch.Tensor:
    ids = tokenizer("#Person1#: Is the printer broken again?", return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        return model.eval()(input_ids=ids).logits


@pytest.mark.parametrize("options", [{}, {"use_dora": True}, {"use_rslora": True}], ids=["lora", "dora", "rslora"])
def test_merged_weights_are_the_adapters(
    recipe: Recipe,
    tiny_folder: Path,
    chatml_tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
    options: dict[str, Any],
) -> None:
    folder = make_adapter(tmp_path / "adapter", chatml_tokenizer, **options)
    recipe("merge", *merge_args(tiny_folder, folder, "--dtype=float32"))
    base = AutoModelForCausalLM.from_pretrained(tiny_folder)
    of_base = logits(base, chatml_tokenizer)
    expected = logits(PeftModel.from_pretrained(base, folder), chatml_tokenizer)
    found = logits(AutoModelForCausalLM.from_pretrained(tmp_path / "merged"), chatml_tokenizer)
    assert (found - expected).abs().max() < 1e-4
    assert (found - of_base).abs().max() > 0.1  # the adapter does something
    record = json.loads((tmp_path / "merged" / "run.json").read_text())["merge"]
    assert record["merged_difference"] < 1e-4
    assert record["saved_difference"] < 1e-4


def test_weights_are_saved_in_bfloat16_and_the_rounding_is_reported(
    recipe: Recipe, tiny_folder: Path, adapter: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe("merge", *merge_args(tiny_folder, adapter))
    merged = adapter.parent / "merged"
    assert {tensor.dtype for tensor in load_file(merged / "model.safetensors").values()} == {torch.bfloat16}
    assert json.loads((merged / "config.json").read_text())["dtype"] == "bfloat16"
    record = json.loads((merged / "run.json").read_text())["merge"]
    assert record["merged_difference"] < 1e-4 < record["saved_difference"] < 0.1
    assert f"saved in bfloat16 and loaded again by {record['saved_difference']:.1e}" in capsys.readouterr().out


def test_a_trained_adapter_becomes_a_complete_model_folder(recipe: Recipe, tiny_folder: Path, tmp_path: Path) -> None:
    recipe("sft", *training_args(tiny_folder, tmp_path, "--instruction=Sum up:"))
    adapter = f"--adapter_path={tmp_path / 'adapter'}"
    recipe("eval", *evaluation_args(tiny_folder, tmp_path, adapter, "--dtype=float32"))
    recipe("merge", *merge_args(tiny_folder, tmp_path / "adapter", "--dtype=float32"))
    merged = tmp_path / "merged"
    assert files(merged) == MERGED_FILES
    tokenizer = AutoTokenizer.from_pretrained(merged)
    assert tokenizer.chat_template == AutoTokenizer.from_pretrained(tiny_folder).chat_template
    config = GenerationConfig.from_pretrained(merged)
    assert (config.do_sample, config.eos_token_id) == (False, [tokenizer.convert_tokens_to_ids("<|im_end|>")])
    assert config.pad_token_id == tokenizer.pad_token_id
    assert json.loads((merged / "config.json").read_text())["use_cache"] is True
    card = ModelCard.load(merged / "README.md")
    assert (card.data.library_name, card.data.base_model_relation) == ("transformers", "finetune")
    assert card.data.eval_results[0].dataset_args["weights"] == "adapter on the float32 base"
    assert "PeftModel" not in card.text
    assert "with its adapter merged in" in card.text
    for path in merged.iterdir():
        assert str(tmp_path).encode() not in path.read_bytes(), path.name
    recipe("eval", *evaluation_args(merged, tmp_path / "out"))
    predictions = [(tmp_path / f"{name}/predictions.jsonl").read_text() for name in ("eval-tuned", "out/eval-merged")]
    assert predictions[0] == predictions[1]
    card = ModelCard.load(merged / "README.md")
    assert card.data.eval_results[0].dataset_args["weights"] == "float32"


def test_stop_tokens_of_the_base_are_kept(recipe: Recipe, tiny_folder: Path, adapter: Path, tmp_path: Path) -> None:
    base = tmp_path / "tiny"
    shutil.copytree(tiny_folder, base)
    GenerationConfig(eos_token_id=[7, 2], do_sample=True, temperature=0.6, top_p=0.9).save_pretrained(base)
    recipe("merge", *merge_args(base, adapter))
    written = json.loads((adapter.parent / "merged" / "generation_config.json").read_text())
    assert written["eos_token_id"] == [2, 7]
    assert {"temperature", "top_p"}.isdisjoint(written)


def test_only_an_earlier_merged_model_is_replaced(
    recipe: Recipe, capsys: pytest.CaptureFixture[str], tiny_folder: Path, adapter: Path
) -> None:
    for _ in range(2):
        recipe("merge", *merge_args(tiny_folder, adapter))
    assert files(adapter.parent / "merged") == MERGED_FILES - {"README.md"}  # no run.json of a training: no card
    before = files(adapter.parent)
    for folder in (adapter, adapter.parent):
        error = fails(recipe, capsys, "merge", *merge_args(tiny_folder, adapter, f"--output_dir={folder}"))
        assert f"{folder} is not a merged model" in error
    assert files(adapter.parent) == before


def half_the_keys(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return dict(list(weights.items())[::2])


def one_nan(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    next(iter(weights.values()))[0, 0] = float("nan")
    return weights


def another_rank(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: weight[:2] if "lora_A" in name else weight for name, weight in weights.items()}


def a_third_layer(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return weights | {name.replace("layers.1.", "layers.2."): weight.clone() for name, weight in weights.items()}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (half_the_keys, "14 of 28 weights are missing"),
        (one_nan, "has values that are not finite"),
        (another_rank, "does not fit the base model"),
        (a_third_layer, "14 of its 42 weights have no place there"),
    ],
)
def test_a_damaged_adapter_is_refused(
    recipe: Recipe,
    capsys: pytest.CaptureFixture[str],
    tiny_folder: Path,
    adapter: Path,
    damage: Any,
    message: str,
) -> None:
    file = adapter / "adapter_model.safetensors"
    save_file(damage(load_file(file)), file)
    assert message in fails(recipe, capsys, "merge", *merge_args(tiny_folder, adapter))
    assert not (adapter.parent / "merged").exists()


def test_a_file_cut_short_is_refused(
    recipe: Recipe, capsys: pytest.CaptureFixture[str], tiny_folder: Path, adapter: Path
) -> None:
    file = adapter / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:40])
    assert "adapter_model.safetensors cannot be read" in fails(
        recipe, capsys, "merge", *merge_args(tiny_folder, adapter)
    )


def test_another_base_is_refused(recipe: Recipe, capsys: pytest.CaptureFixture[str], adapter: Path) -> None:
    assert "trained on tiny, not on org/huge" in fails(recipe, capsys, "merge", *merge_args("org/huge", adapter))


def test_a_quantised_base_is_refused(
    recipe: Recipe, capsys: pytest.CaptureFixture[str], tiny_folder: Path, adapter: Path, tmp_path: Path
) -> None:
    base = tmp_path / "quantised" / "tiny"
    AutoModelForCausalLM.from_pretrained(
        tiny_folder, quantization_config=BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    ).save_pretrained(base)
    AutoTokenizer.from_pretrained(tiny_folder).save_pretrained(base)
    error = fails(recipe, capsys, "merge", *merge_args(base, adapter))
    assert "is quantised itself" in error
    assert not (adapter.parent / "merged").exists()


def test_an_adapter_of_a_quantised_twin_is_merged_into_the_unquantised_model(
    recipe: Recipe, tiny_folder: Path, adapter: Path
) -> None:
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(
        json.dumps(config | {"base_model_name_or_path": "unsloth/tiny-unsloth-bnb-4bit"})
    )
    recipe("merge", *merge_args(tiny_folder, adapter, "--num_prompts=1"))
    assert (adapter.parent / "merged" / "model.safetensors").is_file()


def test_any_base_takes_another_name_but_no_other_shape(
    recipe: Recipe,
    capsys: pytest.CaptureFixture[str],
    tiny_folder: Path,
    adapter: Path,
    tmp_path: Path,
    chatml_tokenizer: PreTrainedTokenizerFast,
) -> None:
    other = shutil.copytree(tiny_folder, tmp_path / "renamed")
    error = fails(recipe, capsys, "merge", *merge_args(other, adapter))
    assert "was trained on tiny, not on renamed" in error
    assert "--any_base true" in error
    recipe("merge", *merge_args(other, adapter, "--any_base=true", "--num_prompts=1"))
    recipe("eval", *evaluation_args(other, tmp_path, f"--adapter_path={adapter}", "--any_base=true"))
    for name, changed in (("wide", {"intermediate_size": 80}), ("shallow", {"num_hidden_layers": 1})):
        model = tiny_model(chatml_tokenizer)
        config = type(model.config)(**(model.config.to_dict() | changed))
        type(model)(config).save_pretrained(tmp_path / name)
        chatml_tokenizer.save_pretrained(tmp_path / name)
        flags = [f"--adapter_path={adapter}", "--any_base=true"]
        place = [f"--model_name_or_path={tmp_path / name}", f"--output_dir={tmp_path / name}-out"]
        for refused in (
            fails(recipe, capsys, "merge", *place, *flags),
            fails(recipe, capsys, "eval", *evaluation_args(tmp_path / name, tmp_path / f"{name}-eval", *flags)),
        ):
            assert f"the adapter in {adapter} does not fit the base model" in refused


def test_changed_logits_are_refused(
    recipe: Recipe,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tiny_folder: Path,
    adapter: Path,
) -> None:
    monkeypatch.setattr(PeftModel, "merge_and_unload", lambda self: self.unload(), raising=False)
    error = fails(recipe, capsys, "merge", *merge_args(tiny_folder, adapter))
    assert "(1e-04 of the largest, --max_difference): nothing is written" in error
    assert not (adapter.parent / "merged").exists()


def test_a_damaged_file_on_disk_is_refused(
    recipe: Recipe,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tiny_folder: Path,
    adapter: Path,
) -> None:
    load = AutoModelForCausalLM.from_pretrained

    def load_damaged(folder: Any, **options: Any) -> Any:
        model = load(folder, **options)
        if Path(folder).name == ".merged.partial":
            model.model.layers[1].mlp.up_proj.weight.data[0] += 1
        return model

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", load_damaged)
    assert "other logits than in memory" in fails(recipe, capsys, "merge", *merge_args(tiny_folder, adapter))
    assert {path.name for path in adapter.parent.iterdir()} == {"adapter"}


def test_pushing_without_a_hub_is_refused_before_merging(
    recipe: Recipe, capsys: pytest.CaptureFixture[str], tiny_folder: Path, adapter: Path
) -> None:
    error = fails(recipe, capsys, "merge", *merge_args(tiny_folder, adapter, "--push_to_hub=true"))
    assert "cannot push to the hub as 'merged'" in error
    assert not (adapter.parent / "merged").exists()


def test_the_merged_folder_is_pushed(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch, tiny_folder: Path, adapter: Path
) -> None:
    calls: list[dict[str, Any]] = []
    monkeypatch.setattr(HfApi, "create_repo", lambda self, name, **_: type("Repo", (), {"repo_id": f"ana/{name}"}))
    monkeypatch.setattr(
        HfApi, "upload_folder", lambda self, **options: calls.append(options) or type("Commit", (), {"commit_url": ""})
    )
    recipe("merge", *merge_args(tiny_folder, adapter, "--push_to_hub=true", "--hub_model_id=sums"))
    assert [(call["repo_id"], call["folder_path"]) for call in calls] == [("ana/sums", adapter.parent / "merged")]


@pytest.mark.slow
def test_qlora_trains_reloads_evaluates_and_merges_the_embedded_model(recipe: Recipe, tmp_path: Path) -> None:
    """nf4 on the CPU, with evaluations during training: there a forward in evaluation mode could break training."""
    quantised = ["--load_in_4bit=true", "--bnb_4bit_quant_type=nf4", "--use_bnb_nested_quant=true", "--dtype=bfloat16"]
    config = f"--config={ROOT / 'recipes' / 'configs' / 'quickstart.yaml'}"
    more = ["--max_steps=2", "--eval_strategy=steps", "--eval_steps=1", "--max_eval_samples=1", "--max_length=256"]
    recipe("sft", config, f"--output_dir={tmp_path}", *quantised, *more, "--per_device_train_batch_size=1")
    adapter = tmp_path / "adapter"
    weights = load_file(adapter / "adapter_model.safetensors")
    assert all(weight.abs().max() > 0 for weight in weights.values())  # every B moved from its zeros
    base_args = evaluation_args("embedded", tmp_path, f"--adapter_path={adapter}", *quantised)
    recipe("eval", *base_args, "--max_eval_samples=1", "--max_length=256")
    metrics = [json.loads((tmp_path / f"eval-{name}/metrics.json").read_text()) for name in ("base", "tuned")]
    assert all(one["model"]["load_in_4bit"] for one in metrics)
    predictions = [(tmp_path / f"eval-{name}/predictions.jsonl").read_text() for name in ("base", "tuned")]
    assert predictions[0] != predictions[1]
    recipe("merge", *merge_args("embedded", adapter, "--num_prompts=1"))
    record = json.loads((tmp_path / "merged" / "run.json").read_text())
    assert record["merge"]["merged_difference"] < 1e-5 * record["merge"]["largest_logit"]
    assert "4-bit quantised weights" in ModelCard.load(adapter / "README.md").text
