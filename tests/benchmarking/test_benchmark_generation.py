"""The ways to generate that the benchmark compares."""

import copy
from pathlib import Path

from conftest import tiny_model
from dialogsum_sft.arguments import DataArguments, TrainArguments
from dialogsum_sft.benchmarking.generation import Job, load, with_ours, with_pipeline, with_tutorial_loop
from dialogsum_sft.benchmarking.settings import BenchmarkArguments, Settings
from dialogsum_sft.modeling import load_model

import torch
from peft import LoraConfig, get_peft_model
from transformers import PreTrainedTokenizerFast
from trl import ModelConfig, ScriptArguments, SFTConfig


def test_the_tutorial_loop_reads_a_row_for_each_reference(chatml_tokenizer: PreTrainedTokenizerFast) -> None:
    model = tiny_model(chatml_tokenizer).eval()
    read = []
    generate = model.generate
    model.generate = lambda **inputs: read.append(inputs["input_ids"].shape[0]) or generate(**inputs)
    args = BenchmarkArguments(tutorial_dialogues=2, max_new_tokens=2)
    chats = [[{"role": "user", "content": text}] for text in "abcd"]
    assert with_tutorial_loop(model, Job(chatml_tokenizer, chats, [3, 3, 3, 2], args)) == 2
    assert read == [1] * 5


def test_every_system_summarises_every_dialogue(chatml_tokenizer: PreTrainedTokenizerFast) -> None:
    model = tiny_model(chatml_tokenizer).eval()
    args = BenchmarkArguments(max_new_tokens=2)
    chats = [[{"role": "user", "content": text}] for text in ("a", "a longer one", "b")]
    job = Job(copy.deepcopy(chatml_tokenizer), chats, [1, 1, 1], args)
    for work in (with_ours, with_pipeline):
        assert work(model, job) == 3
    (batch,) = job.batches
    assert len(batch.prompts) == 3
    assert batch.shared > 2
    assert set(batch.written) <= {1, 2}


def test_every_system_loads_the_adapter(tiny_folder: Path, tmp_path: Path) -> None:
    """Ours beside the base with fewer passes, merged for pipeline, in PEFT's layers for the tutorial's loop."""
    model_args = ModelConfig(model_name_or_path=str(tiny_folder), dtype="float32")
    settings = Settings(ScriptArguments(), SFTConfig(use_cpu=True), model_args, DataArguments(), TrainArguments())
    config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
    get_peft_model(load_model(model_args), config).save_pretrained(tmp_path)
    ids = torch.arange(8)[None]
    base, *tuned = (
        load(settings, adapter, system)(ids).logits
        for adapter, system in [(None, with_ours)]
        + [(str(tmp_path), system) for system in (with_ours, with_pipeline, with_tutorial_loop)]
    )
    for logits in tuned:
        torch.testing.assert_close(logits, tuned[0], rtol=1e-4, atol=1e-4)
        assert (logits - base).abs().max() > 0.01
