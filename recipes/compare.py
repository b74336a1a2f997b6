"""Compare evaluated runs on the same dialogues: scores, paired tests, the dialogues that differ most, a page.

    python recipes/compare.py runs/quickstart/eval-base runs/quickstart/eval-tuned [--format markdown|latex]

A run is a folder that recipes/eval.py has written. Every run is compared with the first. Runs with other dialogues,
other references or another way of scoring are refused. A model behind an endpoint can judge them too:

    python recipes/compare.py RUN_A RUN_B --judge_url https://example.org/v1 --judge_model big-model

Its answers are kept as they come: started again, an interrupted comparison asks only for what is missing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dialogsum_sft import RESUMABLE, InputError, Stopped
from dialogsum_sft.arguments import JudgeArguments
from dialogsum_sft.cli import note, parse, run
from dialogsum_sft.evaluation.runs import Run, read_run
from dialogsum_sft.judge import Judge, check_judge
from dialogsum_sft.report.judge_tables import judge_tables
from dialogsum_sft.report.report import write_report
from dialogsum_sft.report.run_tables import dialogue_panel, difference_table, tables
from dialogsum_sft.tables import Table

from rich.console import Console
from rich.text import Text
from transformers.hf_argparser import HfArg


@dataclass
class CompareArguments:
    runs: list[str] = HfArg(default_factory=list, help="Folders of evaluated runs; positional arguments are runs too.")
    format: str = HfArg(
        default="text", help="How to print the tables.", metadata={"choices": ["text", "markdown", "latex"]}
    )
    num_examples: int = HfArg(
        default=2, help="How many dialogues to print where a run is better, and worse, than the first."
    )
    seed: int = HfArg(default=42, help="Seed of the bootstrap intervals and permutation tests.")
    resamples: int = HfArg(default=10_000, help="Resamples of each of them.")
    output_dir: str = HfArg(
        default="runs/compare", help="Folder for report.html, and of a judge judge.json and judge.jsonl."
    )


def main() -> None:
    args, judge_args = parse((CompareArguments, JudgeArguments), positional="runs")
    is_judged = check_judge(judge_args, len(args.runs))
    if len(args.runs) < (1 if is_judged else 2):
        given = ", ".join(args.runs) or "none"
        raise InputError(f"a comparison needs two or more folders of runs, with a judge one or more; given: {given}")
    if args.resamples < 100 or args.seed < 0:
        raise InputError(f"--resamples {args.resamples}, --seed {args.seed}: give 100 or more, and 0 or more")

    # 1. Read the runs
    folders = [Path(name) for name in args.runs]
    runs = [read_run(folder, name) for folder, name in zip(folders, short_names(folders), strict=True)]

    # 2. Ask the judge, if there is one
    judged = ask_judge(args, judge_args, runs) if is_judged else []

    # 3. Write the page
    page = Path(args.output_dir) / "report.html"
    title = " and ".join(run.name for run in runs)
    differences = write_report(page, runs, judged=judged, title=title, seed=args.seed, resamples=args.resamples)

    # 4. Print the tables, and the dialogues that differ most
    printed = [*tables(runs), *([difference_table(runs, differences, args.resamples)] if differences else []), *judged]
    if args.format != "text":
        print("\n\n".join(table.markdown() if args.format == "markdown" else table.latex() for table in printed))
        return
    console = Console(highlight=False)
    console.width = min(console.width, 100)
    for other in runs[1:]:
        for index in most_different(runs[0], other, args.num_examples):
            console.print(dialogue_panel([runs[0], other], index, with_scores=True))
    console.print(*printed, sep="\n")
    console.print(Text(f"{page}: scores, charts and every dialogue"), soft_wrap=True)


def ask_judge(args: CompareArguments, judge_args: JudgeArguments, runs: Sequence[Run]) -> list[Table]:
    """The tables of a judge; what it may cost is printed first, what it took at the end."""
    folder = Path(args.output_dir)
    judge = Judge(judge_args, runs, folder)
    note(*judge.notes, f"{len(judge.questions)} questions to the judge; {judge.cost().before('answers')}")
    note(f"answers are kept in {judge.state} as they come: the same command goes on after an interruption")
    left = judge.ask()
    note(f"the judge took {judge.taken.after()}")
    if left:
        stopped = f"stopped after --max_requests {judge_args.max_requests}; {left} requests are left"
        raise Stopped(f"{stopped}: the same command goes on with them", status=RESUMABLE)
    pairs, single = judge.save(seed=args.seed, resamples=args.resamples)
    note(f"{folder / 'judge.json'}: its figures; {folder / 'judge.jsonl'}: every question's answer")
    return judge_tables(str(judge_args.judge_model), pairs, single)


def short_names(folders: Sequence[Path]) -> list[str]:
    """The last parts of each path, as many as distinguish it from the others."""
    parts = [folder.resolve().parts for folder in folders]
    if len(set(parts)) < len(parts):
        raise InputError("a run is given twice: name each folder once")
    return [
        next("/".join(own[-n:]) for n in range(1, len(own) + 1) if sum(p[-n:] == own[-n:] for p in parts) == 1)
        for own in parts
    ]


def most_different(first: Run, other: Run, number: int) -> list[int]:
    """The dialogues with the largest differences in ROUGE-1: at most `number` gains, then at most `number` losses."""
    gains = [b - a for a, b in zip(first.scores["rouge1"], other.scores["rouge1"], strict=True)]
    order = sorted(range(len(gains)), key=lambda i: -gains[i])
    return [i for i in order if gains[i] > 0][:number] + [i for i in reversed(order) if gains[i] < 0][:number]


if __name__ == "__main__":
    run(main)
