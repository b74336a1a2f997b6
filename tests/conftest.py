"""Tokenizers and models built without a network from the bundled sample; the one loader of recipes."""

import gc
import importlib.util
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from chromium import CHROMIUM, Browser
from dialogsum_sft.cli import run
from dialogsum_sft.training.stopping import StopCallback
from fake_endpoint import Server, answer, serving
from ranks import ForkedSft
from sft_runs import Sft, sft_args

import jinja2
import pytest
import torch
from hypothesis import settings
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

ROOT = Path(__file__).parent.parent
SAMPLE = ROOT / "dialogsum_sft" / "data" / "sample"
Recipe = Callable[..., None]

# A commit has the same random examples each time; `pytest --hypothesis-profile random` draws others.
settings.register_profile("same", derandomize=True, deadline=None)
settings.register_profile("random", deadline=None)
settings.load_profile("same")

# What the tests write need not survive a power cut; to wait for the disk a dozen times a checkpoint takes minutes.
os.fsync = os.fstat
# PEFT compiles the template of its model card at each save, which takes as long as a step of a tiny model.
jinja2.Environment.compile = cache(jinja2.Environment.compile)

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

# Control tokens in the chat templates that TRL ships.
TOKEN_LITERAL = re.compile(
    r"<\|[^<>|]+\|>|<\|\w+>|<\w+\|>|<｜[^<>｜]+｜>|<(?:start|end)_of_\w+>|</?think>|</?s>|<(?:image|sop)>|\[/?(?:INST|gMASK)\]"
)
# The token that ends an answer is the first of these that a template has.
END_OF_ANSWER = (
    *("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<turn|>", "<|END_OF_TURN_TOKEN|>", "<｜end▁of▁sentence｜>"),
    *("<|eot|>", "<|return|>", "<|end|>", "<end_of_utterance>", "</s>"),
)


def pytest_collection_finish() -> None:
    """Exclude the imported modules from garbage collection: accelerate collects at the start of every training."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _one_thread(request: pytest.FixtureRequest) -> Iterator[None]:
    """Tiny models run on one thread: two spend their time waiting for each other, above all on a busy machine."""
    threads = torch.get_num_threads()
    if request.node.get_closest_marker("slow") is None:
        torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@cache
def sample_dialogues() -> list[dict[str, Any]]:
    """The 24 dialogues of the sample's test split in the form of predictions.jsonl, three references each."""
    dialogues: dict[str, dict[str, Any]] = {}
    for line in (SAMPLE / "test.jsonl").open(encoding="utf-8"):
        row = json.loads(line)
        example = {"id": row["id"][:-2], "dialogue": row["dialogue"], "references": [], "topic": row["topic"]}
        dialogues.setdefault(row["dialogue"], example)["references"].append(row["summary"])
    return list(dialogues.values())


@cache
def trained_bpe() -> str:
    """A byte-level BPE of 1,000 tokens over the sample's training split, as JSON."""
    rows = [json.loads(line) for line in (SAMPLE / "train.jsonl").open(encoding="utf-8")]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1000,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((f"{row['dialogue']}\n{row['summary']}" for row in rows), trainer)
    return tokenizer.to_str()


@pytest.fixture(scope="session")
def chatml_tokenizer() -> PreTrainedTokenizerFast:
    """Shared by all tests: copy it before changing it."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(trained_bpe()),
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=["<|im_start|>"],
    )
    tokenizer.chat_template = CHATML
    return tokenizer


def tokenizer_for_template(path: Path) -> PreTrainedTokenizerFast:
    """The same vocabulary with a real model's chat template, whose control tokens are single tokens."""
    template = path.read_text(encoding="utf-8")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(trained_bpe()),
        bos_token="<s>" if "bos_token" in template else None,
        eos_token=next((token for token in END_OF_ANSWER if token in template), "<|endoftext|>"),
        pad_token="<|endoftext|>",
        extra_special_tokens=sorted(set(TOKEN_LITERAL.findall(template))),
    )
    tokenizer.chat_template = template
    tokenizer.name_or_path = path.name
    return tokenizer


def tiny_model(tokenizer: PreTrainedTokenizerFast, dtype: torch.dtype = torch.float32) -> LlamaForCausalLM:
    """A random two-layer Llama with the tokenizer's vocabulary and stop token."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    return LlamaForCausalLM(config).to(dtype)


def tiny_gemma3(vocab_size: int, **special: Any) -> Gemma3ForConditionalGeneration:
    """A random Gemma 3 of the class that its checkpoints with a vision tower load as."""
    sizes = {"intermediate_size": 64, "num_attention_heads": 4}
    text = sizes | {"hidden_size": 64, "num_hidden_layers": 2, "num_key_value_heads": 2, "head_dim": 16}
    vision = sizes | {"hidden_size": 32, "num_hidden_layers": 1}
    config = Gemma3Config(text_config=text | {"vocab_size": vocab_size} | special, vision_config=vision, **special)
    return Gemma3ForConditionalGeneration(config)


@pytest.fixture(scope="session")
def tiny_folder(chatml_tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder as the hub has them: `tiny_model` and its tokenizer."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_model(chatml_tokenizer).save_pretrained(folder)
    chatml_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def forked(tiny_folder: Path) -> Iterator[ForkedSft]:
    """One server of runs for all tests: it takes seconds to start."""
    server = ForkedSft(tiny_folder)
    yield server
    server.close()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no chromium is installed")
    one = Browser(tmp_path_factory.mktemp("profile"))
    one.look(1280, 900)
    yield one
    one.close()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """An endpoint. Its summaries repeat the last line of a dialogue."""
    with serving(monkeypatch) as running:
        running.script = lambda content, number: (200, answer(f"So: {content.splitlines()[-1]}"), {})
        yield running


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch) -> Recipe:
    return recipe_caller(monkeypatch)


def recipe_module(name: str) -> ModuleType:
    """Load recipes/`name`.py anew as a module."""
    spec = importlib.util.spec_from_file_location(f"recipe_{name}", ROOT / "recipes" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look up their annotations there
    spec.loader.exec_module(module)
    return module


def recipe_caller(monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """Run a recipe's main with these arguments in this process; a process of its own would take seconds to start."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def call(name: str, *args: str) -> None:
        module = recipe_module(name)
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, args)])
        run(module.main, launches=name in ("sft", "eval"))

    return call


@pytest.fixture
def sft(recipe: Recipe) -> Sft:
    """Run recipes/sft.py in this process; returns its exit status."""

    def call(model: Path, output_dir: Path, **options: Any) -> int:
        try:
            recipe("sft", *sft_args(model, output_dir, **options))
        except SystemExit as end:
            return int(end.code or 0)
        return 0

    return call


@pytest.fixture(scope="session")
def whole_run(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The output folder of a run of recipes/sft.py to its end, trained once for the same options."""
    folders: dict[str, Path] = {}

    def train(**options: Any) -> Path:
        key = json.dumps(options, sort_keys=True)
        if key not in folders:
            folders[key] = tmp_path_factory.mktemp("runs") / "whole"
            with pytest.MonkeyPatch.context() as patch:
                recipe_caller(patch)("sft", *sft_args(tiny_folder, folders[key], **options))
        return folders[key]

    return train


@pytest.fixture
def at_step(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[], None]], None]:
    """Call a function in the middle of a step; steps are counted from 1."""

    def arrange(step: int, action: Callable[[], None]) -> None:
        original = StopCallback.on_pre_optimizer_step

        def patched(self: StopCallback, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step + 1 == step:
                monkeypatch.setattr(StopCallback, "on_pre_optimizer_step", original)
                action()
            original(self, args, state, control, **kwargs)

        monkeypatch.setattr(StopCallback, "on_pre_optimizer_step", patched)

    return arrange


def training_args(model: Path | str, output_dir: Path, *more: str) -> list[str]:
    flags = {
        "model_name_or_path": model,
        "dataset_name": "sample",
        "dataset_test_split": "validation",
        "output_dir": output_dir,
        "use_peft": "true",
        "lora_target_modules": "all-linear",
        "max_steps": 2,
        "per_device_train_batch_size": 2,
        "bf16": "false",
        "activation_checkpointing": "false",
        "save_strategy": "no",
    }
    return [f"--{name}={value}" for name, value in flags.items()] + list(more)


def evaluation_args(model: Path | str, output_dir: Path, *more: str) -> list[str]:
    flags = {
        "model_name_or_path": model,
        "dataset_name": "sample",
        "output_dir": output_dir,
        "max_eval_samples": 3,
        "max_new_tokens": 8,
    }
    return [f"--{name}={value}" for name, value in flags.items()] + list(more)


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def output_of(recipe: Recipe, capsys: pytest.CaptureFixture[str], name: str, *args: str, status: int = 0) -> str:
    """What a recipe prints; with a `status`, the one line on stderr with which it exits."""
    if not status:
        recipe(name, *args)
        return capsys.readouterr().out
    with pytest.raises(SystemExit) as stopped:
        recipe(name, *args)
    assert stopped.value.code == status
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    return captured.err


def fails(recipe: Recipe, capsys: pytest.CaptureFixture[str], name: str, *args: str) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_info:
        recipe(name, *args)
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert exit_info.value.code == 2
    assert len(errors) == 1
    return errors[0]
