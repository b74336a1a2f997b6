"""The process that summarises with vLLM, behind an interpreter that stands in for one with vLLM."""

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

from dialogsum_sft import InputError
from dialogsum_sft.benchmarking import vllm_process
from dialogsum_sft.benchmarking.vllm_process import interpreter_with_vllm, vllm_once

import pytest
from transformers import PreTrainedTokenizerFast
from trl import ModelConfig

STAND_IN = f"""#!{sys.executable} -S
import json, sys
if "-c" in sys.argv:
    sys.exit()  # nothing is missing
assert sys.argv[1:-2] == ["-P", "-m", "dialogsum_sft.benchmarking.vllm_process"]
job = json.load(open(sys.argv[-2]))
if job["max_new_tokens"] > 9:
    sys.exit("error: vLLM cannot load it: no memory\\nleaked objects")
json.dump({{"dialogues_per_second": 2.0, "job": job}}, open(sys.argv[-1], "w"))
"""


@pytest.fixture
def python(tmp_path: Path) -> str:
    path = tmp_path / "python"
    path.write_text(STAND_IN)
    path.chmod(0o755)
    return str(path)


def test_the_process_gets_token_ids_and_the_adapter(python: str) -> None:
    assert interpreter_with_vllm(python) == python
    model_args = ModelConfig(model_name_or_path="m", dtype="bfloat16")
    figures: dict[str, Any] = vllm_once(
        python, model_args, [[5, 6], [7]], frozenset([2, 1]), 9, "runs/x/adapter", {"seed": 1}
    )
    assert figures["dialogues_per_second"] == 2.0
    assert figures["job"] == {
        "model": {"model_name_or_path": "m", "model_revision": "main", "dtype": "bfloat16"},
        "prompts": [[5, 6], [7]],
        "stop_ids": [1, 2],
        "max_new_tokens": 9,
        "adapter_path": "runs/x/adapter",
        "kwargs": {"seed": 1},
    }


def test_a_failure_is_its_error_line(python: str) -> None:
    with pytest.raises(InputError) as raised:
        vllm_once(python, ModelConfig(), [[5]], frozenset([2]), 10, None, {})
    assert str(raised.value) == "vLLM failed: vLLM cannot load it: no memory"
    with pytest.raises(InputError, match="not given weights that bitsandbytes quantises"):
        vllm_once(python, ModelConfig(load_in_4bit=True), [[5]], frozenset([2]), 9, None, {})


def test_the_interpreter_of_its_environment_is_the_default(
    python: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".venv-vllm" / "bin").mkdir(parents=True)
    (tmp_path / ".venv-vllm" / "bin" / "python").symlink_to(python)
    monkeypatch.chdir(tmp_path)
    assert interpreter_with_vllm(None) == str(Path(".venv-vllm", "bin", "python"))


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vllm is installed")
def test_an_interpreter_without_vllm_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remedy = ": `make test-vllm` sets up .venv-vllm with it; --vllm_python names another interpreter"
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    with pytest.raises(InputError) as raised:
        interpreter_with_vllm(None)
    assert str(raised.value).startswith(f"--peers vllm: {sys.executable} cannot import vllm")
    assert str(raised.value).endswith(remedy)
    with pytest.raises(InputError) as raised:
        interpreter_with_vllm("nowhere/python")
    assert str(raised.value) == f"--peers vllm: nowhere/python does not start (No such file or directory){remedy}"


def test_what_the_process_measures(
    chatml_tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The longest prompt and summary fit, and the adapter is loaded before the clock starts."""
    calls: list[Any] = []

    def generate(
        llm: str, tokenizer: Any, prompts: list[list[int]], config: Any, adapter_path: str
    ) -> list[list[int]]:
        calls.append((llm, prompts, config.max_new_tokens, config.eos_token_id, config.do_sample, adapter_path))
        return [prompts]

    monkeypatch.setattr(vllm_process, "load_tokenizer", lambda *args, **kwargs: chatml_tokenizer)
    monkeypatch.setattr(vllm_process, "load_llm", lambda *args: f"llm of {args[2]} tokens with {args[1]}, {args[4]}")
    monkeypatch.setattr(vllm_process, "generate_batches", generate)
    job = {"model": {"model_name_or_path": "m"}, "prompts": [[5, 6], [7]], "stop_ids": [2], "max_new_tokens": 9}
    (tmp_path / "job.json").write_text(json.dumps(job | {"adapter_path": "a", "kwargs": {"x": 1}}))
    monkeypatch.setattr(sys, "argv", ["", str(tmp_path / "job.json"), str(tmp_path / "figures.json")])
    vllm_process.main()
    llm = "llm of 11 tokens with a, {'x': 1}"
    assert calls == [(llm, [[5]], 9, [2], False, "a"), (llm, [[5, 6], [7]], 9, [2], False, "a")]
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["dialogues_per_second"] == pytest.approx(2 / figures["seconds"])
