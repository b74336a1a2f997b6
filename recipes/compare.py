"""Compare evaluated runs on the same dialogues: scores, differences with tests, the dialogues that differ most.

    python recipes/compare.py runs/quickstart/eval-base runs/quickstart/eval-tuned [--format markdown|latex]

A run is a folder that recipes/eval.py has written. Every run is compared with the first. Runs with other dialogues,
other references or another way of scoring are refused.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dialogsum_sft import InputError
from dialogsum_sft.cli import parse, run
from dialogsum_sft.evaluation.runs import Run, check_comparable, read_run
from dialogsum_sft.evaluation.significance import Comparison, compare, holm
from dialogsum_sft.report.report import write_report

from rich import box
from rich.console import Console, Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

METRICS = {"rouge1": "ROUGE-1", "rouge2": "ROUGE-2", "rougeL": "ROUGE-L"}


@dataclass
class CompareArguments:
    runs: list[str] = field(
        default_factory=list, metadata={"help": "Folders of evaluated runs; plain words on the command line are too."}
    )
    format: str = field(
        default="text",
        metadata={"help": "How to print the tables.", "choices": ["text", "markdown", "latex"]},
    )
    num_examples: int = field(
        default=2, metadata={"help": "How many dialogues to print where a run is better, and worse, than the first."}
    )
    seed: int = field(default=42, metadata={"help": "Seed of the bootstrap intervals and permutation tests."})
    resamples: int = field(default=10_000, metadata={"help": "Resamples of each of them."})
    output_dir: str = field(default="runs/compare", metadata={"help": "Folder for report.html."})


@dataclass
class Cells:
    """A table for any output: `labels` columns of text, then numbers; the cells (row, column) in `bold`."""

    title: str
    header: list[str]
    rows: list[list[str]]
    bold: set[tuple[int, int]] = field(default_factory=set)
    note: str = ""
    labels: int = 1


def main() -> None:
    (args,) = parse((CompareArguments,), runs_first(sys.argv[1:]))
    if len(args.runs) < 2:
        raise InputError(f"{len(args.runs)} runs given: name two or more folders, the one to compare with first")

    # 1. The runs, if they can be compared at all
    folders = [Path(name) for name in args.runs]
    runs = {name: read_run(folder, name) for name, folder in zip(short_names(folders), folders, strict=True)}
    check_comparable(list(runs.values()))

    # 2. Every run against the first, dialogue by dialogue
    first, *others = runs
    comparisons = {
        (name, metric): compare(
            runs[name].scores[metric], runs[first].scores[metric], seed=args.seed, resamples=args.resamples
        )
        for name in others
        for metric in METRICS
    }
    adjusted = dict(zip(comparisons, holm([found.p for found in comparisons.values()]), strict=True))

    # 3. The page
    page = Path(args.output_dir) / "report.html"
    write_report(page, list(runs.values()), title=" and ".join(runs), seed=args.seed, resamples=args.resamples)

    # 4. Tell
    tables = [score_cells(runs), difference_cells(first, comparisons, adjusted, args.resamples)]
    if args.format != "text":
        print("\n\n".join({"markdown": markdown, "latex": latex}[args.format](table) for table in tables))
        return
    console = Console(highlight=False)
    console.width = min(console.width, 100)
    for name in others:
        for panel in most_different(runs[first], first, runs[name], name, args.num_examples):
            console.print(panel)
    for cells in tables:
        console.print(terminal(cells))
    console.print(f"{page}: scores, charts and every dialogue")


def runs_first(argv: Sequence[str]) -> list[str]:
    """The command line with its plain words as --runs; every other option here has one value."""
    if "--runs" in argv:
        return list(argv)
    words: list[str] = []
    options: list[str] = []
    for word in argv:
        value = bool(options) and options[-1].startswith("--") and "=" not in options[-1] and options[-1] != "--help"
        (options if word.startswith("-") or value else words).append(word)
    return options + (["--runs", *words] if words else [])


def short_names(folders: Sequence[Path]) -> list[str]:
    """The last parts of each path, as many as tell it from the others."""
    parts = [folder.resolve().parts for folder in folders]
    if len(set(parts)) < len(parts):
        raise InputError("a run is given twice: compare it with another one")
    return [
        next("/".join(own[-n:]) for n in range(1, len(own) + 1) if sum(p[-n:] == own[-n:] for p in parts) == 1)
        for own in parts
    ]


def score_cells(runs: dict[str, Run]) -> Cells:
    """A row a run, between the best baseline and the human ceiling."""
    record = next(iter(runs.values())).record
    rows, best = [], set()
    baseline, scores = max(record["baselines"].items(), key=lambda item: item[1]["rouge1"]["mean"])
    rows.append([f"baseline: {baseline}", *(f"{scores[name]['mean']:.2f}" for name in METRICS), "", "", ""])
    for name, one in runs.items():
        cells = [f"{one.record[metric]['mean']:.2f}" for metric in METRICS]
        cut_off = one.record["diagnostics"]["unfinished"]
        copied = one.record["diagnostics"]["copied_run"]
        words = one.record["diagnostics"]["words"]
        rows.append([name, *cells, f"{words:.1f}", f"{copied:.0%}", "" if cut_off is None else f"{cut_off:.0%}"])
    for column, metric in enumerate(METRICS, 1):
        highest = max(one.record[metric]["mean"] for one in runs.values())
        best |= {(row, column) for row, one in enumerate(runs.values(), 1) if one.record[metric]["mean"] == highest}
    if record["human"]:
        of_references = record["diagnostics_of_references"]
        human = [f"{record['human'][name]['mean']:.2f}" for name in METRICS]
        rows.append(
            ["human ceiling", *human, f"{of_references['words']:.1f}", f"{of_references['copied_run']:.0%}", ""]
        )
    references = record["references"] / record["examples"]
    each = f"{references:.0f} references each" if references % 1 == 0 else f"their {record['references']} references"
    against = "against one reference" if references == 1 else f"mean over {each}"
    title = f"ROUGE F1 x 100: {record['examples']} dialogues, {against}"
    return Cells(title, ["", *METRICS.values(), "words", "copied", "cut off"], rows, best)


def difference_cells(
    first: str, comparisons: dict[tuple[str, str], Comparison], adjusted: dict[tuple[str, str], float], resamples: int
) -> Cells:
    rows, best = [], set()
    for number, ((name, metric), found) in enumerate(comparisons.items()):
        interval = f"{found.ci95[0]:+.2f} to {found.ci95[1]:+.2f}" if found.ci95 else ""
        p = adjusted[name, metric]
        rows.append(
            [
                name if metric == "rouge1" else "",
                METRICS[metric],
                f"{found.difference:+.2f}",
                interval,
                "< 0.001" if p < 0.001 else f"{p:.3f}",
                f"{found.wins}/{found.ties}/{found.losses}",
            ]
        )
        best |= {(number, 2)} if p < 0.05 else set()
    return Cells(
        f"Differences from {first}, over the same dialogues",
        ["", "", "difference", "95% interval", "p", "won/tied/lost"],
        rows,
        best,
        f"Bold: p < 0.05. Bootstrap intervals and permutation tests of {resamples:,} resamples; p is Holm's over the "
        f"{len(comparisons)} tests of this table.",
        labels=2,
    )


def most_different(first: Run, first_name: str, other: Run, name: str, number: int) -> list[Panel]:
    """The dialogues with the largest differences of ROUGE-1, each way."""
    gains = [b - a for a, b in zip(first.scores["rouge1"], other.scores["rouge1"], strict=True)]
    order = sorted(range(len(gains)), key=lambda i: -gains[i])
    chosen = [i for i in order if gains[i] > 0][:number] + [i for i in reversed(order) if gains[i] < 0][:number]
    panels = []
    for i in chosen:
        table = Table.grid(padding=(0, 2))
        table.add_column(style="bold", no_wrap=True)
        table.add_column(justify="right")
        table.add_column(overflow="fold")
        table.add_row("reference", "", Text(first.rows[i]["references"][0]))
        for label, one in ((first_name, first), (name, other)):
            table.add_row(Text(label), f"{one.scores['rouge1'][i]:.1f}", Text(one.rows[i]["prediction"]))
        title = Text(f"{first.rows[i]['id']}: {name} - {first_name} = {gains[i]:+.1f} ROUGE-1")
        panels.append(Panel(Group(Text(first.rows[i]["dialogue"], "dim"), "", table), title=title))
    return panels


def terminal(cells: Cells) -> Group:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=Text(cells.title, "italic"))
    for number, column in enumerate(cells.header):
        table.add_column(column, justify="left" if number < cells.labels else "right", overflow="fold")
    for r, row in enumerate(cells.rows):
        table.add_row(*(Text(cell, "bold" if (r, c) in cells.bold else "") for c, cell in enumerate(row)))
    return Group(table, Text(cells.note, "dim")) if cells.note else Group(table)


def markdown(cells: Cells) -> str:
    def line(values: Sequence[str]) -> str:
        return f"| {' | '.join(value.replace('|', chr(92) + '|') for value in values)} |"

    lines = [
        f"**{cells.title}**",
        "",
        line(cells.header),
        "|" + "---|" * cells.labels + "---:|" * (len(cells.header) - cells.labels),
    ]
    lines += [line(row) for row in marked(cells, lambda text: f"**{text}**", str)]
    return "\n".join(lines + (["", cells.note] if cells.note else []))


def latex(cells: Cells) -> str:
    special = {char: f"\\{char}" for char in "&%$#_{}"} | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}"}
    special |= {"^": r"\textasciicircum{}", "<": "$<$", ">": "$>$"}

    def escape(text: str) -> str:
        return "".join(special.get(char, char) for char in text)

    rows = [list(map(escape, cells.header)), *marked(cells, lambda text: rf"\textbf{{{text}}}", escape)]
    lines = [rf"{' & '.join(row)} \\" for row in rows]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{escape(' '.join(filter(None, [cells.title + '.', cells.note])))}}}",
            rf"\begin{{tabular}}{{{'l' * cells.labels}{'r' * (len(cells.header) - cells.labels)}}}",
            r"\hline",
            lines[0],
            r"\hline",
            *lines[1:],
            r"\hline",
            r"\end{tabular}",
            r"\end{table}",
        ]
    )


def marked(cells: Cells, bold: Callable[[str], str], escape: Callable[[str], str]) -> list[list[str]]:
    return [
        [bold(escape(cell)) if (r, c) in cells.bold else escape(cell) for c, cell in enumerate(row)]
        for r, row in enumerate(cells.rows)
    ]


if __name__ == "__main__":
    run(main)
