"""A trainer of a tiny model and its evaluation by generation, for the tests of callbacks."""

import copy
import json
from pathlib import Path
from typing import Any

from conftest import tiny_model
from dialogsum_sft.arguments import TrainArguments
from dialogsum_sft.data.prompts import PromptSettings, encode
from dialogsum_sft.training.callbacks import GenerationEvaluation
from dialogsum_sft.training.collator import CompletionOnlyCollator

from datasets import Dataset
from peft import LoraConfig
from transformers import PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer

ROWS = [
    {"id": "a", "dialogue": "#Person1#: Is it raining?\n#Person2#: A little.", "references": ["It rains.", "Rain."]},
    {"id": "b", "dialogue": "#Person1#: Tea?\n#Person2#: Coffee, please.", "references": ["#Person2# has coffee."]},
    {"id": "c", "dialogue": "#Person1#: The train is late.\n#Person2#: Again!", "references": ["A late train."]},
    {"id": "d", "dialogue": "Ann: Did you call?\nBob: I will tonight, I promise.", "references": ["Bob will call."]},
    {"id": "e", "dialogue": "Ann: Lunch?\nBob: At one.", "references": ["Ann and Bob have lunch at one."]},
]


def make_trainer(tokenizer: PreTrainedTokenizerFast, folder: Path, **options: Any) -> SFTTrainer:
    """A tiny model under LoRA with dropout, in fp32, with a learning rate at which it soon repeats frequent words."""
    stop_ids = frozenset([tokenizer.eos_token_id])
    rows = [{"id": row["id"]} | encode(tokenizer, row["dialogue"], row["references"][0], stop_ids) for row in ROWS]
    defaults: dict[str, Any] = {
        "max_steps": 4,
        "learning_rate": 3e-2,
        "eval_strategy": "steps",
        "eval_steps": 1,
        "save_strategy": "no",
        "activation_checkpointing": False,
    }
    args = SFTConfig(
        output_dir=str(folder),
        bf16=False,
        use_cpu=True,
        max_length=None,
        remove_unused_columns=False,
        per_device_train_batch_size=2,
        logging_steps=1,
        disable_tqdm=True,
        dataloader_pin_memory=False,
        **(defaults | options),
    )
    return SFTTrainer(
        model=tiny_model(tokenizer),
        args=args,
        data_collator=CompletionOnlyCollator(tokenizer.pad_token_id, stop_token_ids=stop_ids),
        train_dataset=Dataset.from_list(rows),
        eval_dataset=Dataset.from_list(rows),
        processing_class=copy.deepcopy(tokenizer),
        peft_config=LoraConfig(r=4, target_modules="all-linear", lora_dropout=0.3),
    )


def evaluation(trainer: SFTTrainer, settings: PromptSettings | None = None, **options: Any) -> GenerationEvaluation:
    tokenizer = trainer.processing_class
    return GenerationEvaluation(
        trainer,
        ROWS,
        settings or PromptSettings(),
        TrainArguments(eval_generate_samples=len(ROWS), eval_max_new_tokens=6),
        stop_ids=frozenset([tokenizer.eos_token_id]),
        **({"max_length": None} | options),
    )


def events(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "training.jsonl").read_text(encoding="utf-8").splitlines()]
    assert lines[0] == {"format": 1}
    return lines[1:]


def sft_args(model: Path, output_dir: Path, *more: str) -> list[str]:
    flags = {
        "model_name_or_path": model,
        "dataset_name": "sample",
        "dataset_test_split": "validation",
        "output_dir": output_dir,
        "use_peft": "true",
        "lora_target_modules": "all-linear",
        "lora_dropout": 0,
        "per_device_train_batch_size": 4,
        "bf16": "false",
        "activation_checkpointing": "false",
        "save_strategy": "no",
        "max_eval_samples": 12,
    }
    return [f"--{name}={value}" for name, value in flags.items()] + list(more)
