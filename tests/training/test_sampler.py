"""The order of rows, and the accumulation steps of a global batch."""

import copy
from pathlib import Path
from typing import Any

from conftest import tiny_model
from dialogsum_sft.arguments import TrainArguments
from dialogsum_sft.training.sampler import GlobalBatchSampler, accumulation_steps
from dialogsum_sft.training.trainer import ResumableSFTTrainer

import pytest
from accelerate import skip_first_batches
from datasets import Dataset
from transformers import PreTrainedTokenizerFast
from trl import SFTConfig

LENGTHS = [7, 3, 9, 1, 8, 2, 6, 4, 5, 10, 12, 11, 13]


def args(rows: int, accumulation: int = 1, **options: Any) -> SFTConfig:
    return SFTConfig(
        **{"output_dir": "out", "use_cpu": True, "bf16": False, "dataloader_pin_memory": False} | options,
        per_device_train_batch_size=rows,
        gradient_accumulation_steps=accumulation,
    )


def sampler(rows: int, batch_size: int, seed: int = 1, epoch: int = 0, **options: Any) -> GlobalBatchSampler:
    return GlobalBatchSampler(rows, batch_size, seed, epoch=lambda: epoch, **options)


@pytest.mark.parametrize(
    ("size", "rows", "processes", "steps"), [(64, 8, 1, 8), (64, 8, 2, 4), (64, 8, 8, 1), (6, 1, 3, 2), (4, 4, 1, 1)]
)
def test_accumulation_follows_from_the_global_batch(size: int, rows: int, processes: int, steps: int) -> None:
    assert accumulation_steps(args(rows), TrainArguments(global_batch_size=size), processes) == steps
    assert accumulation_steps(args(rows, 3), TrainArguments(), processes) == 3


def test_an_epoch_has_every_row_and_full_steps() -> None:
    order = list(sampler(13, 4, lengths=LENGTHS))
    assert len(order) == len(sampler(13, 4)) == 16
    assert sorted(order[:13]) == list(range(13))
    assert order[13:] == order[12:9:-1]  # filled up with the last rows once more


def test_drop_last_leaves_out_a_short_step() -> None:
    short = sampler(13, 4, lengths=LENGTHS, drop_last=True)
    assert len(short) == len(list(short)) == len(set(short)) == 12


def test_fewer_rows_than_a_step() -> None:
    order = list(sampler(3, 8))
    assert len(order) == 8
    assert set(order[:3]) == set(order) == {0, 1, 2}


def test_steps_are_grouped_by_length_with_the_longest_row_first() -> None:
    lengths = [n % 50 + 1 for n in range(200)]
    order = list(sampler(200, 10, lengths=lengths))
    assert lengths[order[0]] == 50
    spread = [max(step) - min(step) for step in zip(*[iter(lengths[i] for i in order)] * 10, strict=True)]
    random = list(sampler(200, 10))
    unsorted = [max(step) - min(step) for step in zip(*[iter(lengths[i] for i in random)] * 10, strict=True)]
    assert sum(spread) < sum(unsorted) / 3


def test_the_order_depends_on_seed_and_epoch_only() -> None:
    order = list(sampler(13, 4, lengths=LENGTHS))
    assert order == list(sampler(13, 4, lengths=LENGTHS))
    assert order != list(sampler(13, 4, seed=2, lengths=LENGTHS))
    assert order != list(sampler(13, 4, epoch=1, lengths=LENGTHS))
    assert list(sampler(13, 4)) != list(sampler(13, 4, epoch=1))


def test_each_epoch_has_its_own_order(chatml_tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    """Also in a run that resumes in its second epoch, where skip_first_batches wraps the loader."""
    rows = [{"input_ids": [i, i], "labels": [i, i], "length": 2} for i in range(1, 9)]
    trainer = ResumableSFTTrainer(
        model=tiny_model(chatml_tokenizer),
        args=args(2, output_dir=str(tmp_path), max_length=None, remove_unused_columns=False),
        train_dataset=Dataset.from_list(rows),
        processing_class=copy.deepcopy(chatml_tokenizer),
    )

    def epoch(number: float, skip: int = 0) -> list[int]:
        trainer.state.epoch = number
        loader = skip_first_batches(trainer.get_train_dataloader(), skip) if skip else trainer.get_train_dataloader()
        return [int(row[0]) for batch in loader for row in batch["input_ids"]]

    first, second = epoch(0), epoch(1)
    assert sorted(first) == sorted(second) == list(range(1, 9))
    assert first != second
    assert epoch(1.5, skip=2) == second[4:]
