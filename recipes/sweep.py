"""Search the options of a training: a trial for each setting, chosen by the validation split.

    python recipes/sweep.py --config recipes/sweeps/quickstart_sweep.yaml
    python recipes/sweep.py --config recipes/sweeps/learning_curve.yaml --workers 4    # one trial on each GPU

A trial is a run of recipes/sft.py in a folder of its own, and of recipes/eval.py where ROUGE is the objective. Started
again after Ctrl-C, SIGTERM or a kill the sweep goes on, an interrupted trial from its checkpoint. Several sweep.py
with the same folder share the trials. Leaves report.html, sweep.json, sweep.csv, sweep.md, and best.yaml: a config
that repeats the winner. Needs optuna: pip install -c constraints.txt -e '.[sweep]'
"""

import importlib.util
from pathlib import Path
from typing import Any

from dialogsum_sft import InputError, Stopped
from dialogsum_sft.arguments import SweepArguments
from dialogsum_sft.cli import parse, run
from dialogsum_sft.sweeping.page import write_page
from dialogsum_sft.sweeping.plan import Plan, read_plan
from dialogsum_sft.sweeping.results import label_of, means_tables, trials_table, write_results

from rich.console import Console
from tqdm import tqdm


def main() -> None:
    # 1. Arguments
    (args,) = parse((SweepArguments,))
    if importlib.util.find_spec("optuna") is None:
        raise InputError("a sweep needs optuna: pip install optuna")
    from dialogsum_sft.sweeping import study as studies  # noqa: PLC0415 (optuna is an extra)
    from dialogsum_sft.sweeping.workers import run_trials  # noqa: PLC0415

    # 2. What is searched, checked before anything starts
    plan = read_plan(args)
    console = Console(highlight=False, soft_wrap=True)
    console.print(*plan.notes, sep="\n", end="\n" if plan.notes else "")

    # 3. The study, which goes on where it was left
    study = studies.SharedStudy(plan)
    console.print(f"{args.output_dir}: {study.number()} trials, {study.ended()} of them ended", markup=False)

    # 4. Trials
    try:
        with tqdm(total=study.number(), initial=study.ended(), desc="trials", unit="trial") as bar:

            def begin(claimed: studies.Claimed) -> None:
                word = "goes on" if claimed.is_continued else "begins"
                say(console, f"trial {claimed.number} {word}: {label_of(plan, claimed.values)}")

            def end(claimed: studies.Claimed, result: Any) -> None:
                say(console, f"trial {claimed.number} {outcome(plan, result)}")
                bar.update()

            run_trials(study, begin, end, lambda: say(console, "the last trials run elsewhere: waiting for them"))
    finally:
        # 5. The report, of what there is
        records = study.records()
        result = write_results(plan, records)
        write_page(Path(args.output_dir) / "report.html", plan, result, records)
    show(console, plan, result, records)


def outcome(plan: Plan, result: Any) -> str:
    """`done: loss 2.3790, 61 s, 12,345 tokens`."""
    if result.state == "failed":
        return f"failed: {result.measured['error']}"
    score = f"{plan.args.objective} {result.score:.4f}, " if result.score is not None else ""
    tokens = f", {result.measured['tokens']:,} tokens" if "tokens" in result.measured else ""
    return f"{result.state}: {score}{result.measured['seconds']:.0f} s{tokens}"


def say(console: Console, line: str) -> None:
    """Print a line between those of the progress bar."""
    with tqdm.external_write_mode():
        console.print(line, markup=False)


def show(console: Console, plan: Plan, result: dict[str, Any], records: list[dict[str, Any]]) -> None:
    """Print the tables, where the files are, and how the winner is repeated."""
    folder, best = Path(plan.args.output_dir), result["best"]
    if best is None:
        errors = [f"{one['folder']}: {one['error']}" for one in records if one.get("error")]
        raise Stopped(f"none of {len(records)} trials has a score; {errors[0] if errors else 'see their logs'}")
    console.print(trials_table(plan, records, best), *means_tables(plan, result["means"]), sep="\n", soft_wrap=False)
    say(console, f"{folder / 'report.html'}: all trials, with charts; sweep.json, sweep.csv and sweep.md beside it")
    say(console, f"best: {best['folder']}; the same again: python recipes/sft.py --config {folder / 'best.yaml'}")


if __name__ == "__main__":
    run(main)
