"""Packed and padding-free rows have the loss of single rows: no token is lost, and no row attends to another."""

import copy
from pathlib import Path
from typing import Any

from conftest import tiny_model
from dialogsum_sft.data.prompts import encode
from dialogsum_sft.training.collator import CompletionOnlyCollator
from dialogsum_sft.training.trainer import ResumableSFTTrainer, SupervisedLogitsSFTTrainer

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import PreTrainedTokenizerFast
from transformers.models.llama import modeling_llama
from trl import SFTConfig, SFTTrainer

DIALOGUES = [
    ("#Person1#: Is it raining?\n#Person2#: A little. Take an umbrella.", "#Person2# advises an umbrella."),
    (
        "#Person1#: Tea?\n#Person2#: Coffee, please, and a slice of that lemon cake.",
        "#Person2# orders coffee and cake.",
    ),
    ("#Person1#: The train is late.\n#Person2#: Again!", "The train is late again, and #Person2# complains."),
    ("#Person1#: Did you call your mother?\n#Person2#: I will tonight.", "#Person2# will call the mother."),
    ("#Person1#: Is this seat free?\n#Person2#: Yes, do sit down.", "#Person2# offers #Person1# the seat."),
]


def trainer(
    cls: type[SFTTrainer], tokenizer: PreTrainedTokenizerFast, folder: Path, attention: str, **options: Any
) -> SFTTrainer:
    tokenizer = copy.deepcopy(tokenizer)
    stop_ids = frozenset([tokenizer.eos_token_id])
    rows = [{"id": str(i)} | encode(tokenizer, d, s, stop_ids) for i, (d, s) in enumerate(DIALOGUES)]
    args = SFTConfig(
        output_dir=str(folder),
        bf16=False,
        use_cpu=True,
        max_length=options.pop("max_length", None),
        remove_unused_columns=False,
        activation_checkpointing=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        **options,
    )
    model = tiny_model(tokenizer)
    model.set_attn_implementation(attention)
    flat = args.packing or args.padding_free
    return cls(
        model=model,
        args=args,
        data_collator=None if flat else CompletionOnlyCollator(tokenizer.pad_token_id, stop_token_ids=stop_ids),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=LoraConfig(r=4, target_modules="all-linear", lora_dropout=0.0),
    )


def loss_and_gradients(of: SFTTrainer) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of all rows in one batch. B is not zero, because the gradients of A would be."""
    torch.manual_seed(1)
    for name, parameter in of.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    loss = of.compute_loss(of.model.train(), of.data_collator(list(of.train_dataset)))
    loss.backward()
    return loss.item(), {name: p.grad for name, p in of.model.named_parameters() if p.grad is not None}


def supervised(of: SFTTrainer) -> list[int]:
    return sorted(label for row in of.train_dataset for label in row["labels"] if label != -100)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("cls", [ResumableSFTTrainer, SupervisedLogitsSFTTrainer])
@pytest.mark.parametrize("how", [{"packing": True, "max_length": 210}, {"padding_free": True}], ids=["bfd", "flat"])
def test_packed_and_padding_free_rows_have_the_same_loss_and_gradients(
    chatml_tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
    cls: type[SFTTrainer],
    attention: str,
    how: dict[str, Any],
) -> None:
    apart = trainer(cls, chatml_tokenizer, tmp_path, attention)
    flat = trainer(cls, chatml_tokenizer, tmp_path, attention, **how)
    assert flat.data_collator(list(flat.train_dataset))["input_ids"].shape[0] == 1
    assert supervised(flat) == supervised(apart)
    expected, gradients = loss_and_gradients(apart)
    loss, others = loss_and_gradients(flat)
    assert loss == pytest.approx(expected, abs=1e-5)
    assert others.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(others[name], gradient, rtol=1e-4, atol=1e-6)


def test_attention_across_rows_changes_the_loss(
    chatml_tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test above can fail: transformers derives the mask of each row from its positions."""
    make = modeling_llama.create_causal_mask
    expected, _ = loss_and_gradients(trainer(SupervisedLogitsSFTTrainer, chatml_tokenizer, tmp_path, "sdpa"))
    monkeypatch.setattr(modeling_llama, "create_causal_mask", lambda **kwargs: make(**kwargs | {"position_ids": None}))
    flat = trainer(SupervisedLogitsSFTTrainer, chatml_tokenizer, tmp_path, "sdpa", padding_free=True)
    assert abs(loss_and_gradients(flat)[0] - expected) > 1e-4


def test_packing_does_not_split_rows(chatml_tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    apart = trainer(ResumableSFTTrainer, chatml_tokenizer, tmp_path, "sdpa")
    packed = trainer(ResumableSFTTrainer, chatml_tokenizer, tmp_path, "sdpa", packing=True, max_length=210)
    assert packed.train_dataset.column_names == ["input_ids", "labels", "seq_lengths"]
    lengths = [row["seq_lengths"] for row in packed.train_dataset]
    assert sorted(sum(lengths, [])) == sorted(len(ids) for ids in apart.train_dataset["input_ids"])
    assert len(lengths) < len(DIALOGUES)
    assert all(sum(row) == len(packed.train_dataset[i]["input_ids"]) <= 210 for i, row in enumerate(lengths))


def test_packed_rows_are_trained_on(chatml_tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    packed = trainer(
        SupervisedLogitsSFTTrainer,
        chatml_tokenizer,
        tmp_path,
        "sdpa",
        packing=True,
        max_length=210,
        max_steps=8,
        learning_rate=1e-2,
        logging_steps=1,
        train_sampling_strategy="group_by_length",
        per_device_train_batch_size=2,
    )
    packed.train()
    logged = [log["loss"] for log in packed.state.log_history if "loss" in log]
    assert logged[-1] < logged[0] - 0.1
