"""Confidence intervals, and paired tests of two systems on the same dialogues: seeded, without global random state."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import bootstrap

# Two scores that differ by less are a tie: the same F1 summed in another order.
_TIE = 1e-9


def confidence_interval(values: Sequence[float], *, seed: int = 42, resamples: int = 10_000) -> list[float] | None:
    """95% percentile bootstrap interval of the mean over dialogues (Efron 1979); None for a single dialogue."""
    if len(values) < 2:
        return None
    data, rng = (np.asarray(values),), np.random.default_rng(seed)
    result = bootstrap(data, np.mean, n_resamples=resamples, method="percentile", vectorized=True, batch=1000, rng=rng)
    return [float(result.confidence_interval.low), float(result.confidence_interval.high)]


@dataclass(frozen=True)
class Comparison:
    """Systems a and b: `difference` is the mean of a - b, `ci95` is None for a single dialogue, `wins` are a's."""

    difference: float
    ci95: list[float] | None
    p: float
    wins: int
    ties: int
    losses: int


def compare(a: Sequence[float], b: Sequence[float], *, seed: int = 42, resamples: int = 10_000) -> Comparison:
    """Compare the scores of two systems on the same dialogues, in the same order.

    `ci95` is the paired percentile bootstrap interval of the mean difference (Efron 1979; Koehn 2004 for text). `p` is
    that of the two-sided paired permutation test (Noreen 1989): the share of exchanges of the two systems' scores,
    dialogue by dialogue, whose mean difference is as large. Exchanges are random, and all where these are no more than
    `resamples`. The observed one is counted, so `p` is never 0.

    Raises ValueError when the lengths differ or there are no scores.
    """
    if len(a) != len(b) or not len(a):
        raise ValueError(f"{len(a)} and {len(b)} scores: paired tests need as many of both, and at least one")
    differences = np.asarray(a, dtype=float) - np.asarray(b, dtype=float)
    observed = abs(differences.mean())
    count, rng = len(differences), np.random.default_rng(seed)
    every = 2**count if 2**count <= resamples else None  # the number of all exchanges
    total = every or resamples
    as_large = 0
    for start in range(0, total, 1000):  # a thousand at a time, for memory
        size = min(1000, total - start)
        if every:
            exchanged = np.arange(start, start + size)[:, None] >> np.arange(count) & 1
        else:
            exchanged = rng.integers(0, 2, (size, count), dtype=np.int8)
        means = (1.0 - 2.0 * exchanged) @ differences / count
        as_large += int((np.abs(means) >= observed - _TIE).sum())
    wins, losses = (int((sign * differences > _TIE).sum()) for sign in (1, -1))
    return Comparison(
        difference=float(differences.mean()),
        ci95=confidence_interval(differences, seed=seed, resamples=resamples),
        p=as_large / every if every else (as_large + 1) / (resamples + 1),
        wins=wins,
        ties=len(differences) - wins - losses,
        losses=losses,
    )


def least_p(dialogues: int, tests: int = 1) -> float:
    """The least p that a permutation test over this many dialogues can have, adjusted by Holm's method for `tests`.

    Of the 2^n exchanges, the one that was observed and its mirror image always have a difference as large.
    """
    return min(1.0, tests * 2.0 / 2.0**dialogues)


def holm(ps: Sequence[float]) -> list[float]:
    """Adjust the p values of several tests: the chance that any of them errs at 0.05 is at most 0.05 (Holm 1979)."""
    adjusted = [0.0] * len(ps)
    highest = 0.0
    for rank, i in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        highest = max(highest, min(1.0, (len(ps) - rank) * ps[i]))
        adjusted[i] = highest
    return adjusted
