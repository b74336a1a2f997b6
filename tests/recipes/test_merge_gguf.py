"""merge.py --gguf: the file, its Modelfile and what is said of them; what is not covered is refused before merging."""

import json
import shutil
from pathlib import Path

from conftest import Recipe, fails, files, recipe_caller, training_args

import pytest


@pytest.fixture(scope="module")
def trained(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of sft.py."""
    folder = tmp_path_factory.mktemp("run")
    more = ("--instruction=Sum up:", "--max_length=400", "--eval_max_new_tokens=48")
    with pytest.MonkeyPatch.context() as patch:
        recipe_caller(patch)("sft", *training_args(tiny_folder, folder, *more))
    return folder


@pytest.fixture
def adapter(trained: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(trained / "adapter", tmp_path / "adapter"))


def test_a_gguf_file_and_its_modelfile_are_beside_the_merged_weights(
    recipe: Recipe, tiny_folder: Path, adapter: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = f"--model_name_or_path={tiny_folder}"
    recipe("merge", base, f"--adapter_path={adapter}", "--dtype=float32", "--gguf=f16")
    merged = adapter.parent / "merged"
    assert {"model-f16.gguf", "Modelfile", "model.safetensors", "run.json"} <= files(merged)
    said = capsys.readouterr().out
    assert "model-f16.gguf: 0.2 MB; logits differ from the adapter's by at most " in said
    assert "100.0% of the likeliest next tokens are the same" in said.split("model-f16.gguf")[1]
    assert "Modelfile: the prompts of 20 bundled dialogues have the token ids of the training" in said
    assert json.loads((merged / "run.json").read_text())["merge"]["gguf"] == "f16"
    lines = (merged / "Modelfile").read_text().splitlines()
    assert lines[:2] == ["FROM ./model-f16.gguf", 'TEMPLATE """<|im_start|>user']
    assert {"Sum up:", "{{ .Prompt }}<|im_end|>", "PARAMETER num_ctx 400", "PARAMETER num_predict 48"} <= set(lines)


def test_what_gguf_does_not_cover_is_refused_before_merging(
    recipe: Recipe, tiny_folder: Path, adapter: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = Path(shutil.copytree(tiny_folder, adapter.parent / "base"))
    config = json.loads((base / "config.json").read_text())
    rope = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 512}
    (base / "config.json").write_text(json.dumps(config | {"rope_parameters": rope}))
    options = (f"--model_name_or_path={base}", f"--adapter_path={adapter}", "--any_base=true", "--gguf=q8_0")
    message = fails(recipe, capsys, "merge", *options)
    assert "--gguf has no rope of the type yarn for llama: try llama.cpp's own convert_hf_to_gguf.py" in message
    assert not (adapter.parent / "merged").exists()


def test_a_prompt_with_columns_has_no_modelfile(
    recipe: Recipe, tiny_folder: Path, adapter: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = json.loads((adapter / "run.json").read_text())
    record["prompt"]["instruction"] = "About {topic}:"
    (adapter / "run.json").write_text(json.dumps(record))
    recipe("merge", f"--model_name_or_path={tiny_folder}", f"--adapter_path={adapter}", "--gguf=q8_0")
    assert "no Modelfile: the prompt has values of columns, {topic}, and Ollama has none" in capsys.readouterr().out
    assert "model-q8_0.gguf" in files(adapter.parent / "merged")
    assert "Modelfile" not in files(adapter.parent / "merged")
