"""The ways to generate that the benchmark compares."""

import copy

from conftest import tiny_model
from dialogsum_sft.benchmarking.generation import Job, with_ours, with_pipeline, with_tutorial_loop
from dialogsum_sft.benchmarking.settings import BenchmarkArguments

from transformers import PreTrainedTokenizerFast


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
