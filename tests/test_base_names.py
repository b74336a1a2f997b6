"""Which names and paths are of one base model."""

from dialogsum_sft.base_names import cached_name, same_base

import pytest

CACHE = "/home/ana/.cache/huggingface/hub/models--Qwen--Qwen3-1.7B/snapshots/70d244cc86ccca08cf5af4e1e306ecf908b1ad5e"


@pytest.mark.parametrize(
    ("name", "others"),
    [
        (
            "Qwen/Qwen3-1.7B",
            [
                "qwen/qwen3-1.7b",
                "/models/Qwen3-1.7B/",
                "Qwen3-1.7B",
                CACHE,
                CACHE + "/",
                "hub/models--Qwen--Qwen3-1.7B",
                "C:\\hub\\models--Qwen--Qwen3-1.7B\\snapshots\\70d2",
                "/kaggle/input/qwen-3/transformers/1.7b/1",
                "/home/ana/.cache/kagglehub/models/qwen-lm/qwen-3/transformers/1.7b/1",
                "qwen-lm/qwen-3/transformers/1.7b/1",
                "unsloth/Qwen3-1.7B",
                "unsloth/Qwen3-1.7B-bnb-4bit",
                "unsloth/Qwen3-1.7B-unsloth-bnb-4bit",
                "/home/ana/hub/models--unsloth--Qwen3-1.7B-bnb-4bit/snapshots/0f1",
                "Qwen/Qwen3-1.7B-FP8",
                "Qwen/Qwen3-1.7B-AWQ",
                "Qwen/Qwen3-1.7B-GPTQ-Int8",
                "mlx-community/Qwen3-1.7B-4bit",
            ],
        ),
        (
            "google/gemma-2-2b-it",
            [
                "/kaggle/input/gemma-2/transformers/gemma-2-2b-it/2",
                "/kaggle/input/models/google/gemma-2/transformers/gemma-2-2b-it/2",
                "/kaggle/input/gemma-2/pyTorch/gemma-2-2b-it/1",
                "unsloth/gemma-2-2b-it-bnb-4bit",
            ],
        ),
        (
            "meta-llama/Llama-3.2-1B-Instruct",
            ["/kaggle/input/llama-3.2/transformers/1b-instruct/1", "unsloth/Llama-3.2-1B-Instruct-bnb-4bit"],
        ),
        ("meta-llama/Llama-3.1-8B-Instruct", ["unsloth/Meta-Llama-3.1-8B-Instruct-bnb-4bit"]),
        ("mistralai/Mistral-7B-Instruct-v0.2", ["/kaggle/input/mistral/pytorch/7b-instruct-v0.2-hf/1"]),
        ("/home/me/transformers/models/tiny", ["org/tiny"]),
    ],
)
def test_names_of_one_model(name: str, others: list[str]) -> None:
    assert [other for other in others if not (same_base(name, other) and same_base(other, name))] == []


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("Qwen/Qwen3-1.7B", "Qwen/Qwen3-1.7B-Base"),
        ("Qwen/Qwen3-1.7B", "Qwen/Qwen3-17B-unsloth-bnb-4bit-2"),
        ("Qwen/Qwen3-1.7B", "Qwen/Qwen3-0.6B-bnb-4bit"),
        ("google/gemma-2-2b", "google/gemma-2-2b-it"),
        ("/kaggle/input/gemma-2/transformers/gemma-2-2b/1", "/kaggle/input/gemma-2/transformers/gemma-2-2b-it/1"),
        ("/kaggle/input/qwen-3/transformers/1.7b/1", "/kaggle/input/qwen-3/transformers/0.6b/1"),
        (CACHE, CACHE.replace("1.7B", "0.6B").replace("70d2", "80d2")),
        ("", "/"),
    ],
)
def test_names_of_two_models(name: str, other: str) -> None:
    assert not same_base(name, other)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        (CACHE, "Qwen/Qwen3-1.7B"),
        ("hub/models--gpt2/snapshots/60", "gpt2"),
        ("/kaggle/input/qwen-3/transformers/1.7b/1", "qwen-3-1.7b"),
        ("/kaggle/input/gemma-2/transformers/gemma-2-2b-it/2", "gemma-2-2b-it"),
        ("/home/me/transformers/models/tiny", None),
        ("/home/me/transformers/tiny", None),
        ("Qwen/Qwen3-1.7B", None),
        ("runs/x/adapter", None),
    ],
)
def test_names_of_folders_in_a_cache(path: str, name: str | None) -> None:
    assert cached_name(path) == name
