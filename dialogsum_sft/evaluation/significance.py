"""Whether two systems differ: paired tests over the same dialogues, seeded, without a global random state."""

from collections.abc import Sequence
from dataclasses import dataclass

from dialogsum_sft.evaluation.rouge import confidence_interval

import numpy as np

# Below this two scores are a tie: the same F1 summed in another order.
_TIE = 1e-9


@dataclass(frozen=True)
class Comparison:
    """`difference` is the mean of a - b, in their units; `ci95` None for a single dialogue; wins are those of a."""

    difference: float
    ci95: list[float] | None
    p: float
    wins: int
    ties: int
    losses: int


def compare(a: Sequence[float], b: Sequence[float], *, seed: int = 42, resamples: int = 10_000) -> Comparison:
    """Scores of two systems on the same dialogues, in the same order.

    `ci95` is the paired percentile bootstrap interval of the mean difference (Efron 1979; Koehn 2004 for text), `p`
    that of the two-sided paired permutation test: the share of random exchanges of the two systems' scores, dialogue
    by dialogue, whose mean difference is as large (Noreen 1989), counting the observed one, so that it is never 0.

    Raises ValueError when the lengths differ or there are no scores.
    """
    if len(a) != len(b) or not len(a):
        raise ValueError(f"{len(a)} and {len(b)} scores: paired tests need as many of both, and at least one")
    differences = np.asarray(a, dtype=float) - np.asarray(b, dtype=float)
    observed = abs(differences.mean())
    rng = np.random.default_rng(seed)
    as_large = 0
    for start in range(0, resamples, 1000):  # a thousand at a time, for memory
        exchanged = rng.integers(0, 2, (min(1000, resamples - start), len(differences)), dtype=np.int8)
        means = (1.0 - 2.0 * exchanged) @ differences / len(differences)
        as_large += int((np.abs(means) >= observed - _TIE).sum())
    wins, losses = (int((sign * differences > _TIE).sum()) for sign in (1, -1))
    return Comparison(
        difference=float(differences.mean()),
        ci95=confidence_interval(differences, seed=seed, resamples=resamples),
        p=(as_large + 1) / (resamples + 1),
        wins=wins,
        ties=len(differences) - wins - losses,
        losses=losses,
    )


def holm(ps: Sequence[float]) -> list[float]:
    """The p values of several tests, adjusted so that 0.05 holds for all of them together (Holm 1979)."""
    adjusted = [0.0] * len(ps)
    highest = 0.0
    for rank, i in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        highest = max(highest, min(1.0, (len(ps) - rank) * ps[i]))
        adjusted[i] = highest
    return adjusted
