"""Tables and panels of evaluated runs, which recipes print."""

from collections.abc import Mapping, Sequence

from dialogsum_sft.evaluation.likelihood import LIKELIHOOD, measured_alike
from dialogsum_sft.evaluation.rouge import HEADLINE
from dialogsum_sft.evaluation.runs import Run
from dialogsum_sft.evaluation.significance import Comparison, least_p
from dialogsum_sft.tables import Table

from rich.console import Group
from rich.panel import Panel
from rich.table import Table as RichTable
from rich.text import Text

# Of metrics.json's `diagnostics` those that are printed: {key: (label, format)}.
DIAGNOSTICS = {
    "words": ("words", ".1f"),
    "length_ratio": ("length, of the references'", ".2f"),
    "unfinished": ("cut off at max_new_tokens", ".1%"),
    "empty": ("empty", ".1%"),
    "thinking": ("with thinking, which is not scored", ".1%"),
    "marks": ("with special tokens, which are not scored", ".1%"),
    "preamble": ("with a preamble", ".1%"),
    "copied_run": ("longest run copied from the dialogue", ".1%"),
    "novel_bigrams": ("bigrams not in the dialogue", ".1%"),
    "repeated_trigrams": ("trigrams repeated", ".1%"),
    "wrong_tags": ("with a speaker the dialogue lacks", ".1%"),
    "foreign_tags": ("with speakers in another format", ".1%"),
    "foreign_tags_cost": ("    ROUGE-1 that the format costs", ".2f"),
    "unsupported_numbers": ("with a number the dialogue lacks", ".1%"),
    "unsupported_names": ("with a name the dialogue lacks", ".1%"),
}

# Labels of the types of `compare_runs`.
_DIFFERENCES = HEADLINE | {"log_likelihood": "likelihood", "log_likelihood_gain": "likelihood gain"}


def tables(runs: Sequence[Run]) -> list[Table]:
    """Those of every evaluation: scores, what ROUGE does not see, and likelihoods where they were measured."""
    return [score_table(runs), diagnostics_table(runs), *likelihood_table(runs)]


def score_table(runs: Sequence[Run]) -> Table:
    """ROUGE of the best baseline, every run and the human ceiling; of two runs the difference too.

    The highest score of the runs is bold in each column. The baseline and the ceiling are those of the first run.
    """
    record = runs[0].record
    human, examples, references = record["human"], record["examples"], record["references"]
    mean = references / examples
    each = f"{mean:.0f} references each" if mean % 1 == 0 else f"their {references} references"
    against = "against one reference" if mean == 1 else f"mean over {each}"
    first, *others = HEADLINE.values()
    table = Table(
        f"ROUGE F1 x 100: {examples} dialogues, {against}",
        ["", first, "95% interval", *others, *(["of human"] if human else [])],
        note=_bertscore(runs),
    )

    def add(name: str, means: Mapping[str, float], interval: str, share: float | None, style: str = "") -> None:
        highest = {kind: max(run.record[kind]["mean"] for run in runs) for kind in HEADLINE}
        score, *more = (
            (f"{means[kind]:.2f}", style or ("bold" if means[kind] == highest[kind] else "")) for kind in HEADLINE
        )
        shares = [f"{share:.0%}" if share is not None else ""] if human else []
        table.add_row(name, score, interval, *more, *shares, style=style)

    best, baseline = max(record["baselines"].items(), key=lambda item: item[1]["rouge1"]["mean"])
    means = {kind: baseline[kind]["mean"] for kind in HEADLINE}
    share = means["rouge1"] / human["rouge1"]["mean"] if human and human["rouge1"]["mean"] else None
    add(f"baseline: {best}", means, "", share, "dim")
    for run in runs:
        low_high = run.record["rouge1"]["ci95"]
        interval = f"{low_high[0]:.1f} to {low_high[1]:.1f}" if low_high else ""
        share = (run.record["share_of_human"] or {}).get("rouge1")
        add(run.name, {kind: run.record[kind]["mean"] for kind in HEADLINE}, interval, share)
    if human:
        add("human ceiling", {kind: human[kind]["mean"] for kind in HEADLINE}, "", 1.0, "dim")
    if len(runs) == 2:
        table.section_ends.add(len(table.rows) - 1)
        gains = [f"{runs[1].record[kind]['mean'] - record[kind]['mean']:+.2f}" for kind in HEADLINE]
        table.add_row("difference", gains[0], "", *gains[1:], *([""] if human else []))
    return table


def _bertscore(runs: Sequence[Run]) -> str:
    """One line with the BERTScore of the runs, if all of them have it."""
    records = [run.record.get("bertscore") for run in runs]
    if not all(records):
        return ""
    means = ", ".join(f"{run.name} {run.record['bertscore']['mean']:.2f}" for run in runs)
    encoder = runs[0].record["bertscore"]
    return f"BERTScore F1 x 100 of {encoder['model']}, layer {encoder['layer']}: {means}"


def diagnostics_table(runs: Sequence[Run]) -> Table:
    """Lengths and faults of every run and of the references."""
    note = reference_flags(runs[0].record["diagnostics_of_references"])
    table = Table("Beyond ROUGE", ["", *(run.name for run in runs), "references"], note=note)
    records = [*(run.record["diagnostics"] for run in runs), runs[0].record["diagnostics_of_references"]]
    for key, (label, form) in DIAGNOSTICS.items():
        *values, of_references = ["" if record.get(key) is None else f"{record[key]:{form}}" for record in records]
        if any(values) or of_references:
            table.add_row(label, *values, (of_references, "dim"))
    return table


def likelihood_table(runs: Sequence[Run]) -> list[Table]:
    """The table of the runs' likelihoods, as the only element; nothing where none were measured."""
    measures = {run.name: run.record["likelihood"]["fingerprint"] for run in runs if run.record.get("likelihood")}
    if not measures:
        return []
    names = [f"{one['model']}{' with an adapter' if one['adapter'] else ''}" for one in measures.values()]
    note = (
        f"Mean log-probability of a summary's tokens, in nats, under {names[0]}. It says which of a system's "
        "summaries to doubt. It does not rank systems: a model's own are likelier to it, as are a larger model's."
    )
    if len(runs) > 1 and not measured_alike([run.record for run in runs]):
        each = ", ".join(f"{run} under {name}" for run, name in zip(measures, names, strict=True))
        note = f"Of different measures, so they are not compared: {each}."
    columns = [cell for label in LIKELIHOOD.values() for cell in (label, "95% interval")]
    table = Table("Likelihood of the summaries, given their dialogue", ["", *columns], note=note)
    for run in runs:
        cells = []
        for name in LIKELIHOOD:
            value = (run.record.get("likelihood") or {}).get(name) or {"mean": None, "ci95": None}
            cells.append("" if value["mean"] is None else f"{value['mean']:.2f}")
            cells.append("{:.2f} to {:.2f}".format(*value["ci95"]) if value["ci95"] else "")
        table.add_row(run.name, *cells)
    return [table]


def reference_flags(of_references: Mapping[str, float | None]) -> str:
    """One line about the rules for names and numbers: the share of the references that they flag."""
    names, numbers = (of_references.get(f"unsupported_{kind}") for kind in ("names", "numbers"))
    if names is None or numbers is None:
        return "Names and numbers that the dialogue lacks: not counted, the rules are for English."
    return (
        "Names and numbers that the dialogue lacks: by rules for English, "
        f"which flag {names:.1%} and {numbers:.1%} of the references."
    )


def few_dialogues(dialogues: int, tests: int) -> str:
    """Where no p can be below 0.05, whatever the systems, a sentence that says so."""
    least = least_p(dialogues, tests)
    if least <= 0.05:
        return ""
    return f"With {dialogues} dialogues no p can be below {least:.2g}, whatever the systems: evaluate on more."


def difference_table(runs: Sequence[Run], differences: Sequence[Mapping[str, Comparison]], resamples: int) -> Table:
    """The paired tests of `compare_runs`, which were made with `resamples`; significant differences are bold."""
    count = sum(map(len, differences))
    table = Table(
        f"Differences from {runs[0].name}, over the same dialogues",
        ["", "", "difference", "95% interval", "p", "won/tied/lost"],
        labels=2,
        note=f"Bold: p < 0.05. Bootstrap intervals and permutation tests of {resamples:,} resamples; p is Holm's over "
        f"the {count} tests of this table, the intervals are of each alone. "
        f"{few_dialogues(len(runs[0].rows), count)}".rstrip(),
    )
    for run, tests in zip(runs[1:], differences, strict=True):
        for number, (kind, test) in enumerate(tests.items()):
            table.add_row(
                "" if number else run.name,
                _DIFFERENCES[kind],
                (f"{test.difference:+.2f}", "bold" if test.p < 0.05 else ""),
                f"{test.ci95[0]:+.2f} to {test.ci95[1]:+.2f}" if test.ci95 else "",
                "< 0.001" if test.p < 0.001 else f"{test.p:.3f}",
                f"{test.wins}/{test.ties}/{test.losses}",
            )
    return table


def dialogue_panel(runs: Sequence[Run], index: int, *, with_scores: bool = False) -> Panel:
    """The dialogue at `index` with its first reference and the summary of each run; optionally with ROUGE-1.

    With the scores of two runs, the title has their difference.
    """
    row = runs[0].rows[index]
    scores = [run.scores["rouge1"][index] for run in runs]
    summaries = RichTable.grid(padding=(0, 2))
    summaries.add_column(style="bold", no_wrap=True)
    if with_scores:
        summaries.add_column(justify="right")
    summaries.add_column(overflow="fold")
    summaries.add_row("reference", *([""] if with_scores else []), Text(row["references"][0]))
    for run, score in zip(runs, scores, strict=True):
        scored = [f"{score:.1f}"] if with_scores else []
        summaries.add_row(Text(run.name), *scored, Text(run.rows[index]["prediction"]))
    title = str(row["id"])
    if with_scores and len(runs) == 2:
        title += f": {runs[1].name} - {runs[0].name} = {scores[1] - scores[0]:+.1f} ROUGE-1"
    return Panel(Group(Text(row["dialogue"], "dim"), "", summaries), title=Text(title))
