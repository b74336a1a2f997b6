import time

from dialogsum_sft.evaluation.rouge import aggregate_scores
from dialogsum_sft.evaluation.significance import Comparison, compare, confidence_interval, holm, least_p

import numpy as np
import pytest
from scipy.stats import permutation_test


def scores(seed: int, n: int, spread: float = 10.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(30, spread, n)


def test_interval_of_three_values():
    # A resample of 0, 0, 100 has the mean 0 with 8/27 and 100 with 1/27: each of them is more than 2.5%.
    assert confidence_interval([0, 0, 100]) == [0, 100]


def test_interval_has_95_percent():
    values = np.arange(100)
    half = 1.96 * values.std() / np.sqrt(100)  # 5.66; a 90% interval would have 4.75
    assert confidence_interval(values) == pytest.approx([49.5 - half, 49.5 + half], abs=0.3)


def test_single_value_has_no_interval():
    assert confidence_interval([50.0]) is None


def test_interval_depends_on_the_seed():
    values = [n**1.5 for n in range(30)]
    assert confidence_interval(values, seed=1, resamples=500) == confidence_interval(values, seed=1, resamples=500)
    assert confidence_interval(values, seed=1, resamples=500) != confidence_interval(values, seed=2, resamples=500)


def test_comparison_by_hand():
    result = compare([3, 5, 5, 9], [1, 5, 6, 2])
    assert result.difference == 2
    assert (result.wins, result.ties, result.losses) == (2, 1, 1)
    assert result.ci95 == confidence_interval([2, 0, -1, 7])


def test_p_of_six_equal_gains():
    # 2 of 64 exchanges have as large a mean: all and none.
    assert compare([1] * 6, [0] * 6).p == 2 / 64


def test_p_agrees_with_scipy():
    a, b = scores(1, 60), scores(2, 60) - 4.5
    theirs = permutation_test(
        (a, b),
        lambda x, y, axis: np.mean(x - y, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=20_000,
        rng=np.random.default_rng(0),
    )
    assert 0.01 < theirs.pvalue < 0.6
    assert compare(a, b, resamples=20_000).p == pytest.approx(theirs.pvalue, abs=0.015)


def test_equal_systems_do_not_differ():
    values = scores(1, 50)
    assert compare(values, values) == Comparison(difference=0, ci95=[0, 0], p=1, wins=0, ties=50, losses=0)


def test_exchanging_the_systems_changes_only_the_sign():
    a, b = scores(1, 40), scores(2, 40)
    one, other = compare(a, b), compare(b, a)
    assert one.difference == -other.difference
    assert one.p == other.p
    assert (one.wins, one.losses) == (other.losses, other.wins)


def test_small_planted_difference_is_significant():
    hard = scores(1, 250)  # dialogues differ more than systems: only a paired test detects 1.5 points
    result = compare(hard + 1.5 + scores(2, 250, 5) - 30, hard + scores(3, 250, 5) - 30, resamples=2000)
    assert result.p < 0.01
    assert result.ci95 is not None
    assert result.ci95[0] > 0


def test_without_a_difference_one_test_in_twenty_is_significant():
    small = 0
    for number in range(200):
        rng = np.random.default_rng(number)
        hard = rng.normal(30, 10, 40)
        small += compare(hard + rng.normal(0, 5, 40), hard + rng.normal(0, 5, 40), resamples=400).p < 0.05
    assert 3 <= small <= 18  # 10 are expected; at a rate of 5% the chance to be outside is 1%


def test_p_is_never_zero():
    assert compare(scores(1, 300) + 50, scores(2, 300), resamples=999).p == 1 / 1000


def test_comparison_depends_on_the_seed_and_leaves_the_global_random_state():
    a, b = scores(1, 30), scores(2, 30)
    before = np.random.get_state()[1].copy()
    assert compare(a, b, seed=1, resamples=500) == compare(a, b, seed=1, resamples=500)
    assert compare(a, b, seed=1, resamples=500) != compare(a, b, seed=2, resamples=500)
    np.testing.assert_array_equal(np.random.get_state()[1], before)


def test_single_dialogue_has_no_interval():
    assert compare([2.0], [1.0]) == Comparison(difference=1, ci95=None, p=1, wins=1, ties=0, losses=0)


@pytest.mark.parametrize(("a", "b"), [([1.0], [1.0, 2.0]), ([], [])])
def test_scores_must_be_paired(a, b):
    with pytest.raises(ValueError, match=f"{len(a)} and {len(b)} scores"):
        compare(a, b)


def test_holm_by_hand():
    # Sorted 0.01, 0.02, 0.03, 0.4 times 4, 3, 2, 1, and never decreasing.
    assert holm([0.03, 0.01, 0.4, 0.02]) == pytest.approx([0.06, 0.04, 0.4, 0.06])
    assert holm([0.7, 0.6]) == [1, 1]
    assert holm([]) == []


def test_intervals_and_tests_of_500_dialogues_cost_under_3_seconds():
    by_type = {name: [list(row) for row in scores(1, 1500).reshape(500, 3)] for name in ("rouge1", "rouge2", "rougeL")}
    started = time.process_time()
    aggregate_scores(by_type)
    for seed in range(3):
        compare(scores(seed, 500), scores(9, 500))
    assert time.process_time() - started < 3


def test_all_exchanges_of_few_dialogues_are_counted():
    assert (
        compare([3, 5, 5, 9], [1, 5, 6, 2]).p == 8 / 16
    )  # of 2, 0, 1 and 7: 2 + 1 + 7, 2 - 1 + 7, and with 0 exchanged


@pytest.mark.parametrize(
    ("dialogues", "tests", "least"), [(1, 1, 1.0), (5, 1, 0.0625), (5, 3, 0.1875), (7, 3, 6 / 128)]
)
def test_the_least_p_of_few_dialogues(dialogues: int, tests: int, least: float):
    assert least_p(dialogues, tests) == least
    assert holm([compare([1.0] * dialogues, [0.0] * dialogues).p] * tests) == [least] * tests
