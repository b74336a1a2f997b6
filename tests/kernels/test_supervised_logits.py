"""The trainer for machines without Triton computes the loss, gradients and metrics of SFTTrainer."""

import copy
from pathlib import Path
from typing import Any

from conftest import tiny_model
from dialogsum_sft.data.prompts import encode
from dialogsum_sft.kernels.supervised_logits import without_triton
from dialogsum_sft.training.collator import CompletionOnlyCollator
from dialogsum_sft.training.trainer import SupervisedLogitsSFTTrainer

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer

ROWS = [
    ("#Person1#: Is it raining?\n#Person2#: A little. Take an umbrella.", "#Person2# advises an umbrella."),
    (
        "#Person1#: Tea?\n#Person2#: Coffee, please, and a slice of that lemon cake.",
        "#Person2# orders coffee and cake.",
    ),
    ("#Person1#: The train is late.\n#Person2#: Again!", "The train is late again, and #Person2# complains."),
    ("#Person1#: Did you call your mother?\n#Person2#: I will tonight.", "#Person2# will call the mother."),
]


def trainer(
    cls: type[SFTTrainer], tokenizer: PreTrainedTokenizerFast, folder: Path, *, peft: bool = True, **options: Any
) -> SFTTrainer:
    tokenizer = copy.deepcopy(tokenizer)
    stop_ids = frozenset([tokenizer.eos_token_id])
    rows = [{"id": str(i)} | encode(tokenizer, d, s, stop_ids) for i, (d, s) in enumerate(ROWS)]
    args = SFTConfig(
        output_dir=str(folder),
        bf16=False,
        use_cpu=True,
        max_length=None,
        remove_unused_columns=False,
        activation_checkpointing=False,
        per_device_train_batch_size=2,
        learning_rate=1e-2,
        logging_steps=1,
        save_strategy="no",
        disable_tqdm=True,
        **options,
    )
    made = cls(
        model=tiny_model(tokenizer),
        args=args,
        data_collator=CompletionOnlyCollator(tokenizer.pad_token_id, stop_token_ids=stop_ids),
        train_dataset=Dataset.from_list(rows),
        eval_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=LoraConfig(r=4, target_modules="all-linear", lora_dropout=0.0) if peft else None,
    )
    generator = torch.Generator().manual_seed(1)
    for name, parameter in made.model.named_parameters():
        if "lora_B" in name:  # zero at first, which would hide what is done with A
            parameter.data.normal_(generator=generator, std=0.1)
    return made


def loss_and_gradients(of: SFTTrainer) -> tuple[float, dict[str, torch.Tensor]]:
    batch = of.data_collator([of.train_dataset[i] for i in range(len(ROWS))])
    loss = of.compute_loss(of.model.train(), batch)
    loss.backward()
    return loss.item(), {name: p.grad for name, p in of.model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("peft", [True, False], ids=["lora", "full"])
@pytest.mark.parametrize("loss_type", ["nll", "dft"])
def test_loss_and_gradients_equal_trl(
    chatml_tokenizer: PreTrainedTokenizerFast, tmp_path: Path, loss_type: str, peft: bool
) -> None:
    theirs = loss_and_gradients(trainer(SFTTrainer, chatml_tokenizer, tmp_path, peft=peft, loss_type=loss_type))
    ours = loss_and_gradients(
        trainer(SupervisedLogitsSFTTrainer, chatml_tokenizer, tmp_path, peft=peft, loss_type=loss_type)
    )
    assert ours[0] == pytest.approx(theirs[0], abs=1e-5)
    assert ours[1].keys() == theirs[1].keys()
    for name, gradient in theirs[1].items():
        torch.testing.assert_close(ours[1][name], gradient, atol=1e-5, rtol=1e-4)


def test_logs_equal_trls(chatml_tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    """Two epochs with accumulation and evaluation: loss, gradient norm, entropy and accuracy of every step."""
    histories = []
    for cls in (SFTTrainer, SupervisedLogitsSFTTrainer):
        run = trainer(
            cls,
            chatml_tokenizer,
            tmp_path,
            num_train_epochs=2,
            gradient_accumulation_steps=2,
            eval_strategy="epoch",
        )
        run.train()
        histories.append(run.state.log_history)
    compared = 0
    for theirs, ours in zip(*histories, strict=True):
        assert theirs.keys() == ours.keys()
        for name, value in theirs.items():
            if not name.endswith(("runtime", "per_second")):
                assert ours[name] == pytest.approx(value, rel=1e-3, abs=1e-4), name
                compared += 1
    assert compared > 20


def test_only_supervised_positions_reach_the_head(chatml_tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    ours = trainer(SupervisedLogitsSFTTrainer, chatml_tokenizer, tmp_path)
    batch = ours.data_collator([ours.train_dataset[i] for i in range(len(ROWS))])
    supervised = int((batch["labels"] != -100).sum())
    seen = []
    ours.model.get_output_embeddings().register_forward_hook(lambda _, args, output: seen.append(output.shape[:-1]))
    ours.compute_loss(ours.model.train(), batch)
    assert seen == [(supervised,)]
    assert supervised < batch["labels"].numel() / 4


def test_the_rows_reach_the_model_without_padding(chatml_tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    ours = trainer(SupervisedLogitsSFTTrainer, chatml_tokenizer, tmp_path)
    batch = ours.data_collator([ours.train_dataset[i] for i in range(len(ROWS))])
    seen = []
    ours.model.get_input_embeddings().register_forward_hook(lambda _, args, output: seen.append(args[0].shape))
    ours.compute_loss(ours.model.train(), batch)
    (shape,) = seen
    assert shape[0] == 1
    beginning = (batch["input_ids"] == batch["input_ids"][0]).all(0).int().cumprod(0).sum()
    assert beginning > 10
    assert shape[1] == batch["attention_mask"].sum() - (len(ROWS) - 1) * beginning
    assert ours.model.config._attn_implementation == "sdpa"


def test_activation_checkpointing_keeps_the_padded_batch(
    chatml_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    plain = loss_and_gradients(trainer(SupervisedLogitsSFTTrainer, chatml_tokenizer, tmp_path))
    ours = trainer(SupervisedLogitsSFTTrainer, chatml_tokenizer, tmp_path)
    ours.model.gradient_checkpointing_enable()
    checkpointed = loss_and_gradients(ours)
    assert checkpointed[0] == pytest.approx(plain[0], abs=1e-5)
    for name, gradient in plain[1].items():
        torch.testing.assert_close(checkpointed[1][name], gradient, atol=1e-5, rtol=1e-4)


def test_a_batch_without_labels_has_a_loss_of_zero(chatml_tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    ours = trainer(SupervisedLogitsSFTTrainer, chatml_tokenizer, tmp_path)
    batch = ours.data_collator([ours.train_dataset[0]])
    batch["labels"].fill_(-100)
    loss = ours.compute_loss(ours.model.train(), batch)
    loss.backward()
    assert loss.item() == 0.0


@pytest.mark.skipif(torch.accelerator.is_available(), reason="with an accelerator TRL's kernel is used")
def test_without_triton_on_a_cpu() -> None:
    assert without_triton()
