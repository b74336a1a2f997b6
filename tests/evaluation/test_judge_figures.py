"""A judge's figures against values computed by hand."""

from pathlib import Path
from typing import Any

from dialogsum_sft.evaluation.judge_figures import length_controlled, outcome, pair_figures, single_figures
from dialogsum_sft.evaluation.judging import Question, Verdict
from dialogsum_sft.evaluation.runs import Run

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit

A, B, TIE, NONE = Verdict(0), Verdict(1), Verdict("tie"), Verdict(failure="bad JSON")


def run(name: str, lengths: list[int]) -> Any:
    """Only what the figures read: names and texts."""
    return Run(name, Path(), [{"prediction": "x" * length} for length in lengths], {}, {}, [])


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (B, A, "won"),
        (A, B, "lost"),
        (TIE, TIE, "said"),
        (A, A, "order"),
        (B, B, "order"),
        (TIE, A, "order"),
        (B, TIE, "order"),
        (NONE, A, "failed"),
        (B, NONE, "failed"),
        (None, None, "equal"),
    ],
)
def test_orders_that_disagree_are_a_tie(first: Any, second: Any, expected: str) -> None:
    assert outcome(first, second) == expected


def test_a_table_counted_by_hand() -> None:
    """Two won, one lost, one tie said, two by order, one equal, one failed of eight."""
    orders: list[Any] = [(B, A), (B, A), (A, B), (TIE, TIE), (A, A), (A, TIE), None, (NONE, A)]
    verdicts = [
        (Question("pairwise", row, runs, ""), verdict)
        for row, pair in enumerate(orders)
        if pair
        for runs, verdict in zip(((0, 1), (1, 0)), pair, strict=True)
    ]
    runs = [run("base", [10] * 8), run("tuned", [20, 20, 5, 20, 5, 10, 10, 20])]
    (figures,) = pair_figures(runs, verdicts, resamples=500)
    assert (figures.name, figures.against, figures.dialogues) == ("tuned", "base", 8)
    assert (figures.wins, figures.losses, figures.ties, figures.failed) == (2, 1, 4, 1)
    assert (figures.ties_said, figures.ties_by_order, figures.ties_equal) == (1, 2, 1)
    assert figures.failures == {"bad JSON": 1}
    assert figures.win_rate == pytest.approx(100 * (2 + 4 / 2) / 7)
    assert figures.ci95 is not None
    assert figures.ci95[0] < figures.win_rate < figures.ci95[1]
    # Won, lost: the first place once of two each; A, A: twice of two; A, tie: once of one.
    assert (figures.first_shown, figures.decided) == (pytest.approx(100 * 6 / 9), 9)
    assert figures.reversed == pytest.approx(100 / 6)  # of six dialogues with two answers
    assert (figures.rate_when_longer, figures.longer) == (pytest.approx(100 * 2.5 / 3), 3)
    assert (figures.rate_when_shorter, figures.shorter) == (25.0, 2)


def test_no_answer_at_all_is_no_figure() -> None:
    verdicts = [(Question("pairwise", 0, order, ""), NONE) for order in ((0, 1), (1, 0))]
    (figures,) = pair_figures([run("a", [1]), run("b", [2])], verdicts)
    assert (figures.win_rate, figures.ci95, figures.length_controlled, figures.first_shown) == (None,) * 4
    assert (figures.failed, figures.failures) == (1, {"bad JSON": 2})


def test_length_control_is_exact_where_it_can_be_solved_by_hand() -> None:
    """With differences of +10 and -10 alone the fit is saturated: its logit at 0 is the mean of both rates' logits."""
    # Longer: 4 of 6 won; shorter: 1 of 3. Logits ln 2 and -ln 2: 50, and not 5 of 9.
    rate, _ = length_controlled([100] * 4 + [0] * 2 + [100] + [0] * 2, [10] * 6 + [-10] * 3, resamples=200)
    assert rate == pytest.approx(50, abs=1e-9)
    # Longer: 4 of 6; shorter: 2 of 4, ties among them. (ln 2 + 0) / 2: sqrt(2) / (1 + sqrt(2)).
    scores = [100, 100, 100, 50, 50, 0] + [50, 50, 100, 0]
    rate, interval = length_controlled(scores, [10] * 6 + [-10] * 4, resamples=200)
    assert rate == pytest.approx(100 * 2**0.5 / (1 + 2**0.5), abs=1e-9)
    assert interval is None or interval[0] < rate < interval[1]


def test_length_control_maximises_the_likelihood() -> None:
    """Against a general minimiser, on a judge that likes length and a system that is a little better."""
    rng = np.random.default_rng(3)
    differences = rng.normal(30, 60, 300).round()
    scores = 100.0 * (rng.random(300) < expit(0.3 + 0.02 * differences))
    x, won = np.tanh(differences / differences.std()), scores / 100

    def loss(at: Any) -> float:
        chance = expit(at[0] + at[1] * x)
        return -float((won * np.log(chance) + (1 - won) * np.log(1 - chance)).sum())

    rate, interval = length_controlled(list(scores), list(differences), resamples=500)
    assert rate == pytest.approx(100 * expit(minimize(loss, [0, 0], tol=1e-10).x[0]), abs=1e-3)
    assert interval is not None
    assert interval[0] < rate < interval[1]
    assert rate < scores.mean()
    assert length_controlled(list(scores), list(differences), resamples=500) == (rate, interval)


def test_length_control_is_none_where_length_decides_all() -> None:
    assert length_controlled([100, 100, 0, 0], [5, 6, -5, -6]) == (None, None)
    assert length_controlled([100, 0, 50], [7, 7, 7]) == (None, None)  # always as much longer
    assert length_controlled([], []) == (None, None)
    assert length_controlled([100, 0, 50, 50], [0, 0, 0, 0])[0] == 50  # nothing to control
    assert length_controlled([100] * 9, list(range(9)))[0] == 100


def test_scores_by_sentence() -> None:
    """Three summaries: one with two sentences and two references, one with a failed answer, one empty."""
    verdicts = [
        (Question("faithfulness", 0, (0,), "", 2), Verdict([True, False])),
        (Question("coverage", 0, (0,), "", 2, (2, 1)), Verdict([[1], [], [1, 2]])),
        (Question("faithfulness", 1, (0,), "", 1), Verdict([True])),
        (Question("coverage", 1, (0,), "", 1, (1,)), Verdict(failure="sentences left out")),
    ]
    (figures,) = single_figures([run("a", [5, 5, 0])], verdicts, resamples=200)
    means = {measure: (score["mean"], score["dialogues"]) for measure, score in figures.scores.items()}
    assert means == {"faithfulness": (75, 2), "completeness": ((75 + 0) / 2, 2), "conciseness": (100, 1)}
    assert (figures.empty, figures.failures) == (1, {"sentences left out": 1})
