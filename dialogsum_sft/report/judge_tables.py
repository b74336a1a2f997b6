"""Tables of a judge's figures, which compare.py prints and report.html has."""

from collections import Counter
from collections.abc import Sequence

from dialogsum_sft.evaluation.judge_figures import MEASURES, PairFigures, SingleFigures
from dialogsum_sft.tables import Table


def judge_tables(judge: str, pairs: Sequence[PairFigures], single: Sequence[SingleFigures]) -> list[Table]:
    """Win rates, what they are worth, scores by sentence, and answers without a verdict; those that there are."""
    tables = []
    if pairs:
        tables += [_win_table(judge, pairs), _bias_table(pairs)]
    if single:
        tables.append(_single_table(judge, single))
    failures: Counter[str] = Counter()
    for of_one in [*(one.failures for one in pairs), *(one.failures for one in single)]:
        failures.update(of_one)
    if failures:
        table = Table("Answers without a verdict, which are in no figure", ["kind", "answers"])
        for kind, number in failures.most_common():
            table.add_row(f"{kind} (--judge_max_new_tokens)" if kind == "cut off" else kind, str(number))
        tables.append(table)
    return tables


def _win_table(judge: str, pairs: Sequence[PairFigures]) -> Table:
    table = Table(
        f"Judge {judge}: win rate against {pairs[0].against}, {pairs[0].dialogues} dialogues",
        ["", "", "%", "95% interval", "dialogues"],
        labels=2,
        note="A win is one in both orders, a tie counts as half. At equal length: by a logistic regression on the "
        "difference in length (Dubois et al. 2024).",
    )
    for one in pairs:
        judged = one.dialogues - one.failed
        decisive = one.ci95 is not None and not one.ci95[0] <= 50 <= one.ci95[1]
        rate = _number(one.win_rate), "bold" if decisive else ""
        table.add_row(one.name, "win rate", rate, _interval(one.ci95), str(judged))
        controlled = _number(one.length_controlled), _interval(one.length_controlled_ci95)
        table.add_row("", "at equal length", *controlled, str(judged))
        table.add_row("", "where it is longer", _number(one.rate_when_longer), "", str(one.longer))
        table.add_row("", "where it is shorter", _number(one.rate_when_shorter), "", str(one.shorter))
    return table


def _bias_table(pairs: Sequence[PairFigures]) -> Table:
    table = Table(
        "Verdicts of both orders",
        ["", "won", "lost", "tied", "order", "equal", "failed", "first", "same"],
        note="Tied: both orders say so; order: they disagree; equal: the same summary, not asked. First: % of the "
        "verdicts for one summary that are for that shown first, 50 without position bias. Same: % of the dialogues "
        "where both orders are for the same place.",
    )
    for one in pairs:
        table.add_row(
            one.name,
            *map(str, (one.wins, one.losses, one.ties_said, one.ties_by_order, one.ties_equal, one.failed)),
            _number(one.first_shown),
            _number(one.reversed),
        )
    return table


def _single_table(judge: str, single: Sequence[SingleFigures]) -> Table:
    table = Table(
        f"Judge {judge}: sentence by sentence, {single[0].dialogues} dialogues",
        ["", "", "mean", "95% interval", "dialogues"],
        labels=2,
        note="% of a summary's sentences that the dialogue supports; of the references' sentences that it conveys; of "
        "its sentences that convey any of these (after FineSurE, Song et al. 2024).",
    )
    for one in single:
        for number, measure in enumerate(MEASURES):
            score = one.scores[measure]
            table.add_row(
                "" if number else one.name,
                measure,
                _number(score["mean"]),
                _interval(score["ci95"]),
                str(score["dialogues"]),
            )
    return table


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def _interval(ci95: Sequence[float] | None) -> str:
    return "" if ci95 is None else f"{ci95[0]:.1f} to {ci95[1]:.1f}"
