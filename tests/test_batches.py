"""The order of rows, and the accumulation that keeps a global batch."""

from dialogsum_sft import InputError
from dialogsum_sft.batches import GlobalBatchSampler, accumulation_steps

import pytest
from trl import SFTConfig

LENGTHS = [7, 3, 9, 1, 8, 2, 6, 4, 5, 10, 12, 11, 13]


def args(rows: int, accumulation: int = 1) -> SFTConfig:
    return SFTConfig(
        output_dir="out",
        use_cpu=True,
        bf16=False,
        per_device_train_batch_size=rows,
        gradient_accumulation_steps=accumulation,
    )


@pytest.mark.parametrize(
    ("size", "rows", "processes", "steps"), [(64, 8, 1, 8), (64, 8, 2, 4), (64, 8, 8, 1), (6, 1, 3, 2), (4, 4, 1, 1)]
)
def test_accumulation_follows_from_the_global_batch(size: int, rows: int, processes: int, steps: int) -> None:
    assert accumulation_steps(size, args(rows), processes) == steps
    assert accumulation_steps(size, args(rows, steps), processes) == steps


@pytest.mark.parametrize(
    ("size", "rows", "processes", "words"),
    [
        (64, 8, 3, "cannot be shared by 3 processes: give a multiple of 3, such as 63"),
        (2, 8, 4, "give a multiple of 4, such as 4"),
        (0, 8, 1, "give a multiple of 1, such as 1"),
        (12, 8, 1, "8 rows on each of 1 process: give --per_device_train_batch_size 1 or 2 or 3 or 4 or 6 or 12, or"),
        (64, 24, 2, "--per_device_train_batch_size 1 or 2 or 4 or 8 or 16 or 32, or --global_batch_size 48"),
        (4, 8, 2, "--per_device_train_batch_size 1 or 2, or --global_batch_size 16"),
    ],
)
def test_an_impossible_global_batch(size: int, rows: int, processes: int, words: str) -> None:
    with pytest.raises(InputError, match=f"--global_batch_size {size} .*{words}"):
        accumulation_steps(size, args(rows), processes)


def test_an_accumulation_that_says_something_else() -> None:
    with pytest.raises(InputError, match="makes a global batch of 64 .*but --global_batch_size is 32: leave one"):
        accumulation_steps(32, args(8, 4), 2)


def test_an_epoch_has_every_row_and_whole_steps() -> None:
    order = list(GlobalBatchSampler(13, 4, seed=1, lengths=LENGTHS))
    assert len(order) == len(GlobalBatchSampler(13, 4, seed=1)) == 16
    assert sorted(order[:13]) == list(range(13))
    assert order[13:] == order[12:9:-1]  # filled up with the last rows once more


def test_rows_left_over_can_be_left_out() -> None:
    sampler = GlobalBatchSampler(13, 4, seed=1, lengths=LENGTHS, drop_last=True)
    assert len(sampler) == len(list(sampler)) == len(set(sampler)) == 12


def test_fewer_rows_than_a_step() -> None:
    order = list(GlobalBatchSampler(3, 8, seed=1))
    assert len(order) == 8
    assert set(order[:3]) == set(order) == {0, 1, 2}


def test_steps_are_grouped_by_length_the_longest_row_first() -> None:
    lengths = [n % 50 + 1 for n in range(200)]
    order = list(GlobalBatchSampler(200, 10, seed=1, lengths=lengths))
    assert lengths[order[0]] == 50
    spread = [max(step) - min(step) for step in zip(*[iter(lengths[i] for i in order)] * 10, strict=True)]
    random = list(GlobalBatchSampler(200, 10, seed=1))
    unsorted = [max(step) - min(step) for step in zip(*[iter(lengths[i] for i in random)] * 10, strict=True)]
    assert sum(spread) < sum(unsorted) / 3


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    first, again, other = (GlobalBatchSampler(13, 4, seed=seed, lengths=LENGTHS) for seed in (1, 1, 2))
    assert list(first) == list(first) == list(again)
    assert list(first) != list(other)
    before = list(first)
    first.set_epoch(1)
    assert list(first) != before
    first.set_epoch(0)
    assert list(first) == before
