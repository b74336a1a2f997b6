"""Figures from a judge's verdicts: win rates with intervals and length control, position bias, scores by sentence."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from dialogsum_sft.evaluation.judging import Question, Verdict
from dialogsum_sft.evaluation.rouge import mean
from dialogsum_sft.evaluation.runs import Run
from dialogsum_sft.evaluation.significance import confidence_interval

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

Array = NDArray[np.float64]
# Length-controlled rates have at most so many resamples, each with a regression.
_REGRESSIONS = 2000
# The largest share of resamples without an estimate with which there still is an interval.
_NO_ESTIMATE = 0.05
MEASURES = ("faithfulness", "completeness", "conciseness")


@dataclass(frozen=True)
class PairFigures:
    """Run `name` against run `against`. Rates and shares are x 100, None where nothing is there to count.

    A dialogue is won or lost where both orders name the same summary. It is a tie where both say so (`ties_said`),
    where the orders disagree (`ties_by_order`), and without a question where the summaries are equal (`ties_equal`).
    It is `failed`, and in no rate, where the answer in either order is none; `failures` counts such answers by kind.
    `win_rate` counts ties as half. `first_shown` is the share that the summary shown first has of the `decided`
    answers, over the dialogues answered in both orders, so that it is 50 for a judge without position bias.
    `reversed` is the share of these dialogues in which the answer names the same place in both orders.
    `rate_when_longer` and `rate_when_shorter` are win rates over the dialogues where the summary of `name` has more or
    fewer characters than the other.
    """

    name: str
    against: str
    dialogues: int
    wins: int
    losses: int
    ties_said: int
    ties_by_order: int
    ties_equal: int
    failed: int
    failures: dict[str, int]
    win_rate: float | None
    ci95: list[float] | None
    length_controlled: float | None
    length_controlled_ci95: list[float] | None
    rate_when_longer: float | None
    longer: int
    rate_when_shorter: float | None
    shorter: int
    first_shown: float | None
    decided: int
    reversed: float | None

    @property
    def ties(self) -> int:
        return self.ties_said + self.ties_by_order + self.ties_equal


@dataclass(frozen=True)
class SingleFigures:
    """Scores of one run, x 100: `scores` has mean, ci95 and number of dialogues of each of MEASURES.

    Of a summary: the share of its sentences that are faithful; the share of a reference's sentences that it conveys,
    mean over the references; the share of its sentences that convey any of them. An empty summary conveys none, and
    has no faithfulness and conciseness.
    """

    name: str
    dialogues: int
    empty: int
    failures: dict[str, int]
    scores: dict[str, dict[str, Any]]


def pair_figures(
    runs: Sequence[Run], verdicts: Sequence[tuple[Question, Verdict]], *, seed: int = 42, resamples: int = 10_000
) -> list[PairFigures]:
    """Each later run against the first, from the verdicts on `pairwise_questions`."""
    figures = []
    for number in range(1, len(runs)):
        own = {
            (question.row, question.runs[0] == 0): verdict
            for question, verdict in verdicts
            if question.kind == "pairwise" and number in question.runs
        }
        orders = [(own.get((row, True)), own.get((row, False))) for row in range(len(runs[0].rows))]
        lengths = [
            len(runs[number].rows[row]["prediction"].strip()) - len(runs[0].rows[row]["prediction"].strip())
            for row in range(len(orders))
        ]
        figures.append(_pair(runs[number].name, runs[0].name, orders, lengths, seed, resamples))
    return figures


def outcome(first: Verdict | None, second: Verdict | None) -> str:
    """What two answers say of the run that is shown second in the `first` of them, and first in the `second`.

    "won", "lost", "said" (both call it a tie), "order" (they disagree), "failed", or "equal" without any answers.
    """
    if first is None or second is None:
        return "equal" if first is second else "failed"
    if first.failure or second.failure:
        return "failed"
    return {(1, 0): "won", (0, 1): "lost", ("tie", "tie"): "said"}.get((first.value, second.value), "order")


def _pair(
    name: str,
    against: str,
    orders: Sequence[tuple[Verdict | None, Verdict | None]],
    lengths: Sequence[int],
    seed: int,
    resamples: int,
) -> PairFigures:
    outcomes = [outcome(*pair) for pair in orders]
    points = {"won": 100.0, "lost": 0.0}
    judged = [(points.get(one, 50.0), more) for one, more in zip(outcomes, lengths, strict=True) if one != "failed"]
    scores, differences = [score for score, _ in judged], [more for _, more in judged]
    controlled, interval = length_controlled(scores, differences, seed=seed, resamples=resamples)
    longer = [score for score, more in judged if more > 0]
    shorter = [score for score, more in judged if more < 0]
    both = [
        [verdict.value for verdict in pair if verdict is not None]
        for pair, one in zip(orders, outcomes, strict=True)
        if one not in ("failed", "equal")
    ]
    decided = [100.0 * (value == 0) for pair in both for value in pair if value != "tie"]
    count = Counter(outcomes)
    return PairFigures(
        name=name,
        against=against,
        dialogues=len(orders),
        wins=count["won"],
        losses=count["lost"],
        ties_said=count["said"],
        ties_by_order=count["order"],
        ties_equal=count["equal"],
        failed=count["failed"],
        failures=failures_of(verdict for pair in orders for verdict in pair if verdict is not None),
        win_rate=_mean(scores),
        ci95=confidence_interval(scores, seed=seed, resamples=resamples),
        length_controlled=controlled,
        length_controlled_ci95=interval,
        rate_when_longer=_mean(longer),
        longer=len(longer),
        rate_when_shorter=_mean(shorter),
        shorter=len(shorter),
        first_shown=_mean(decided),
        decided=len(decided),
        reversed=_mean([100.0 * (pair in ([0, 0], [1, 1])) for pair in both]),
    )


def length_controlled(
    scores: Sequence[float], differences: Sequence[float], *, seed: int = 42, resamples: int = 10_000
) -> tuple[float | None, list[float] | None]:
    """The win rate, x 100, that is expected at equal length, and its 95% percentile bootstrap interval.

    That of length-controlled AlpacaEval (Dubois et al. 2024, arXiv:2404.04475) without its term for the instruction,
    which needs many systems: the logistic regression of the `scores` (0, 50 or 100) on tanh(difference / standard
    deviation of the differences), of the length in characters, read at a difference of 0. There is no penalty, so no
    rate, None, where all differences are the same, or where length alone separates the won from the lost dialogues.
    Of the interval's resamples such ones are left out, and there is none where they are more than 5%.
    """
    if not scores:
        return None, None
    won, spread = np.asarray(scores) / 100.0, float(np.std(differences))
    if spread == 0.0:
        equal = differences[0] == 0
        interval = confidence_interval(scores, seed=seed, resamples=resamples) if equal else None
        return (mean(list(scores)) if equal else None), interval
    x = np.tanh(np.asarray(differences, dtype=float) / spread)
    rate = float(_rates(np.ones((1, len(won))), won, x)[0])
    if np.isnan(rate):
        return None, None
    rng, number = np.random.default_rng(seed), min(resamples, _REGRESSIONS)
    rates = np.concatenate(
        [
            _rates(rng.multinomial(len(won), np.full(len(won), 1 / len(won)), size).astype(float), won, x)
            for start in range(0, number, 250)  # so many at a time, for memory
            if (size := min(250, number - start))
        ]
    )
    if np.isnan(rates).mean() > _NO_ESTIMATE:
        return rate, None
    low, high = np.nanpercentile(rates, [2.5, 97.5])
    return rate, [float(low), float(high)]


def _rates(counts: Array, won: Array, x: Array) -> Array:
    """100 x the chance to win at x = 0, of each resample, NaN where none is defined. `counts` is
    [resample][dialogue]: how often the resample has the dialogue."""
    wins, losses = counts * won, counts * (1.0 - won)
    some_wins, some_losses = wins.sum(1) > 0, losses.sum(1) > 0
    rates = np.where(some_losses, 0.0, 100.0)
    # The likelihood has a maximum only where wins and losses overlap in x (Albert and Anderson 1984).
    highest = [np.where(part > 0, x, -np.inf).max(1) for part in (wins, losses)]
    lowest = [np.where(part > 0, x, np.inf).min(1) for part in (wins, losses)]
    overlap = (highest[0] > lowest[1]) & (highest[1] > lowest[0])
    rates[some_wins & some_losses & ~overlap] = np.nan
    fit = some_wins & some_losses & overlap
    if fit.any():
        rates[fit] = 100.0 * expit(_intercepts(counts[fit], won, x))
    return rates


def _intercepts(counts: Array, won: Array, x: Array) -> Array:
    """Of the logistic regression of `won` on `x` of each resample, by Newton's method."""
    start = (counts @ won) / counts.sum(1)
    intercept, slope = logit(start), np.zeros(len(counts))
    for _ in range(100):
        chance = expit(intercept[:, None] + slope[:, None] * x)
        residual, weight = counts * (won - chance), counts * chance * (1.0 - chance)
        a, b, c = weight.sum(1), weight @ x, weight @ (x * x)
        up, across = residual.sum(1), residual @ x
        determinant = np.maximum(a * c - b * b, 1e-12)
        steps = np.stack([(c * up - b * across) / determinant, (a * across - b * up) / determinant])
        steps = np.clip(steps, -2.0, 2.0)
        intercept, slope = intercept + steps[0], slope + steps[1]
        if np.abs(steps).max() < 1e-10:
            break
    return intercept


def single_figures(
    runs: Sequence[Run], verdicts: Sequence[tuple[Question, Verdict]], *, seed: int = 42, resamples: int = 10_000
) -> list[SingleFigures]:
    """Scores of each run, from the verdicts on `single_questions`."""
    figures = []
    for number, run in enumerate(runs):
        own = [(question, verdict) for question, verdict in verdicts if question.runs == (number,)]
        asked = {question.row for question, _ in own}
        empty = [row for row in range(len(run.rows)) if row not in asked]
        values: dict[str, list[float]] = {measure: [] for measure in MEASURES}
        values["completeness"] += [0.0] * len(empty)
        for question, verdict in own:
            if verdict.failure is None:
                for measure, value in _measures(question, verdict).items():
                    values[measure].append(value)
        scores = {
            measure: {
                "mean": _mean(of_one),
                "ci95": confidence_interval(of_one, seed=seed, resamples=resamples),
                "dialogues": len(of_one),
            }
            for measure, of_one in values.items()
        }
        failures = failures_of(verdict for _, verdict in own)
        figures.append(SingleFigures(run.name, len(run.rows), len(empty), failures, scores))
    return figures


def _measures(question: Question, verdict: Verdict) -> dict[str, float]:
    if question.kind == "faithfulness":
        return {"faithfulness": 100.0 * mean(verdict.value)}
    points = iter(verdict.value)
    shares = [mean([bool(next(points)) for _ in range(number)]) for number in question.points]
    said = {sentence for numbers in verdict.value for sentence in numbers}
    return {"completeness": 100.0 * mean(shares), "conciseness": 100.0 * len(said) / question.sentences}


def failures_of(verdicts: Iterable[Verdict]) -> dict[str, int]:
    """How many verdicts failed, by kind, the most frequent first."""
    return dict(Counter(verdict.failure for verdict in verdicts if verdict.failure).most_common())


def _mean(values: Sequence[float]) -> float | None:
    return mean(list(values)) if values else None
