"""The options that the trainer sets and its hint to resume; whole runs are in test_resume.py."""

import copy
import sys
from pathlib import Path

from conftest import tiny_model
from dialogsum_sft import Stopped
from dialogsum_sft.modeling import load_model
from dialogsum_sft.training import trainer
from dialogsum_sft.training.trainer import ResumableSFTTrainer

import pytest
import torch
from datasets import Dataset, IterableDataset
from peft import LoraConfig
from transformers import PreTrainedTokenizerFast
from trl import ModelConfig, SFTConfig

ROWS = [{"input_ids": [1, 2], "labels": [-100, 2], "length": 2}] * 2


@pytest.mark.parametrize(("packing", "max_length"), [(False, None), (True, 64)])
def test_the_trainer_sets_the_options_it_needs(
    chatml_tokenizer: PreTrainedTokenizerFast, tmp_path: Path, packing: bool, max_length: int | None
) -> None:
    args = SFTConfig(
        output_dir=str(tmp_path),
        use_cpu=True,
        bf16=False,
        packing=packing,
        max_length=64,
        max_steps=1,
        chat_template_path="no/such/file.jinja",
        train_sampling_strategy="group_by_length",
    )
    stream = IterableDataset.from_generator(lambda: iter(ROWS), features=Dataset.from_list(ROWS).features)
    made = ResumableSFTTrainer(
        model=tiny_model(chatml_tokenizer),
        args=args,
        train_dataset=stream,
        processing_class=copy.deepcopy(chatml_tokenizer),
    )
    assert made.args is args
    assert (args.max_length, args.chat_template_path, args.train_sampling_strategy) == (max_length, None, "random")
    assert (args.remove_unused_columns, args.use_cache, args.logging_nan_inf_filter) == (False, True, False)


def test_fp16_trains_the_adapter_of_a_4_bit_base_in_float32(
    chatml_tokenizer: PreTrainedTokenizerFast, tiny_folder: Path, tmp_path: Path
) -> None:
    """TRL casts it to bfloat16, whose gradients the loss scaling of fp16 cannot unscale."""
    model = load_model(ModelConfig(model_name_or_path=str(tiny_folder), dtype="float16", load_in_4bit=True))
    made = ResumableSFTTrainer(
        model=model,
        args=SFTConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, fp16=True, max_steps=1),
        train_dataset=Dataset.from_list(ROWS),
        processing_class=copy.deepcopy(chatml_tokenizer),
        peft_config=LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    assert {p.dtype for p in made.model.parameters() if p.requires_grad} == {torch.float32}


def test_the_hint_names_checkpoint_and_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    words = ["recipes/sft.py", "--config", "a b.yaml", "--resume_from_checkpoint", "false", "--seed=3"]
    monkeypatch.setattr(sys, "argv", words)
    assert trainer._command() == "python recipes/sft.py --config 'a b.yaml' --seed=3"
    monkeypatch.setattr(sys, "argv", ["recipes/sft.py", "--resume_from_checkpoint=x", "--seed=3"])
    assert trainer._command() == "python recipes/sft.py --seed=3"
    begins = "The same command begins at step 0, as no checkpoint was written: "
    assert trainer.resume_hint(tmp_path).startswith(begins)
    (tmp_path / "checkpoint-3").mkdir()
    (tmp_path / "checkpoint-12").mkdir()
    (tmp_path / "checkpoint-3" / "complete.json").write_text("{}")
    assert trainer.resume_hint(tmp_path).startswith(f"The same command resumes from {tmp_path}/checkpoint-3: ")


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory."), RuntimeError("CUDA error: out of memory"), None]
)
def test_memory_that_runs_out_is_one_line(
    chatml_tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: RuntimeError | None,
) -> None:
    made = ResumableSFTTrainer(
        model=tiny_model(chatml_tokenizer),
        args=SFTConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, max_steps=1, per_device_train_batch_size=2),
        train_dataset=Dataset.from_list(ROWS),
        processing_class=copy.deepcopy(chatml_tokenizer),
    )

    def fail(*_: object, **__: object) -> torch.Tensor:
        raise error or RuntimeError("a fault of another kind")

    monkeypatch.setattr(made, "compute_loss", fail)
    with pytest.raises(Stopped if error else RuntimeError) as raised:
        made.train()
    if error:
        assert str(raised.value).startswith(
            "out of memory in step 1, after a batch of 2x2 tokens: give a smaller --per"
        )
        assert raised.value.status == 1
