"""What a sweep found: the mean of each value, the winner and its config, and the files beside the trials."""

import csv
import io
import math
import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dialogsum_sft import files
from dialogsum_sft.provenance import git_revision, hardware, versions
from dialogsum_sft.sweeping.plan import Plan, config_text
from dialogsum_sft.sweeping.space import Dimension, options_of, text
from dialogsum_sft.tables import Table

from scipy import stats

Records = Sequence[dict[str, Any]]

MEASURES = {"eval_loss": "loss", "rouge1": "ROUGE-1", "rouge2": "ROUGE-2", "rougeL": "ROUGE-L"}
REPEATS = "seed"  # trials that differ in it alone are repetitions
_MOST_VALUES = 24  # of a dimension whose values have means


def mean_of(values: Sequence[float]) -> dict[str, Any]:
    """`trials, mean, ci95`: the 95% interval of the mean by Student's t, None for a single value."""
    number, mean = len(values), math.fsum(values) / len(values)
    if number < 2:
        return {"trials": number, "mean": mean, "ci95": None}
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (number - 1))
    half = float(stats.t.ppf(0.975, number - 1)) * deviation / math.sqrt(number)
    return {"trials": number, "mean": mean, "ci95": [mean - half, mean + half]}


def means_by_value(dimension: Dimension, records: Records) -> list[dict[str, Any]]:
    """The mean score of the finished trials at each value: `value, label, trials, mean, ci95`, in the order given.

    Empty where there are too many values for means to say anything, as a random range has.
    """
    groups: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        if record["state"] == "done" and dimension.name in record["values"]:
            groups.setdefault(text(record["values"][dimension.name]), []).append(record)
    found = [(own[0]["values"][dimension.name], own) for own in groups.values()]
    if dimension.choices is not None:
        order = list(map(text, dimension.choices))
        found.sort(key=lambda each: order.index(text(each[0])))
    else:
        found.sort(key=lambda each: each[0])
    if len(found) > _MOST_VALUES or (dimension.choices is None and all(len(own) == 1 for _, own in found)):
        return []
    return [
        {"value": value, "label": dimension.label(value), **mean_of([record["score"] for record in own])}
        for value, own in found
    ]


def winner(plan: Plan, records: Records) -> dict[str, Any] | None:
    """The best trial: `trial, score`, and with repetitions by seed `mean`, `trials` and `ci95` of its setting.

    With repetitions the setting with the best mean wins, among those whose trials were all scored, and of it the
    trial with the best score. None where no trial was scored.
    """
    groups: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        others = {name: value for name, value in record["values"].items() if name != REPEATS}
        groups.setdefault(text(others), []).append(record)
    scored = [own for own in groups.values() if all(one["state"] == "done" for one in own)]
    scored = scored or [done for own in groups.values() if (done := [one for one in own if one["state"] == "done"])]
    if not scored:
        return None
    sign = 1 if plan.maximizes else -1
    found = [(mean_of([one["score"] for one in own]), own) for own in scored]
    measured, own = max(found, key=lambda each: sign * each[0]["mean"])
    best = max(own, key=lambda one: sign * one["score"])
    repeated = measured if measured["trials"] > 1 else {}
    return {"trial": best["trial"], "folder": best["folder"], "score": best["score"], **repeated}


def write_results(plan: Plan, records: Records) -> dict[str, Any]:
    """Write sweep.json, sweep.csv, sweep.md and, where a trial was scored, best.yaml; returns sweep.json."""
    folder, best = Path(plan.args.output_dir), winner(plan, records)
    trials = [record | {"options": options_of(plan.space, record["values"])} for record in records]
    result = {
        "format": files.FORMAT,
        **{name: getattr(plan.args, name) for name in ("base", "method", "objective", "pruner", "seed")},
        "options": files.public(plan.fixed),
        "evaluation": files.public(plan.evaluation),
        "best": best,
        "means": {
            one.name: found for one in plan.space if one.name != REPEATS and (found := means_by_value(one, records))
        },
        "trials": files.public(trials),
        "versions": versions(),
        "git_revision": git_revision(),
        "hardware": hardware(),
    }
    if best is not None:
        (values,) = [one["values"] for one in records if one["trial"] == best["trial"]]
        config, own = plan.config(values, folder / "best"), folder / "best"
        comments = [f"python recipes/sft.py --config {folder / 'best.yaml'}"]
        if plan.maximizes:
            weights = own / ("adapter" if text(config.get("use_peft")).lower() == "true" else "model")
            options = plan.evaluation_of(weights, own / "validation").items()
            words = [word for name, value in options for word in (f"--{name}", text(value))]
            comments.append(shlex.join(["python", "recipes/eval.py", *words]))
        comments.append(f"Trial {best['trial']}, {plan.args.objective} on validation: {best['score']:.6g}")
        files.write_text(folder / "best.yaml", config_text(config, *comments))
    files.write_json(folder / "sweep.json", result)
    files.write_text(folder / "sweep.csv", _csv(trials))
    tables = [trials_table(plan, records, best), *means_tables(plan, result["means"])]
    files.write_text(folder / "sweep.md", "\n\n".join(table.markdown() for table in tables) + "\n")
    return result


def trials_table(plan: Plan, records: Records, best: dict[str, Any] | None) -> Table:
    """All trials, those with a score first, best first."""
    measures = [name for name in MEASURES if any(name in record for record in records)]
    header = ["trial", "options", "", *map(MEASURES.__getitem__, measures), "s", "tokens", "GiB"]
    table = Table("Trials", header, labels=3, note=_note(plan, records))
    sign = 1 if plan.maximizes else -1
    order = sorted(records, key=lambda one: (one["score"] is None, -sign * (one["score"] or 0), one["trial"]))
    for record in order:
        after = f" at evaluation {record['evaluations']}" if record["state"] == "pruned" else ""
        row = [str(record["trial"]), label_of(plan, record["values"]), record["state"] + after]
        row += [_number(record.get(name), "{:.4f}" if name == "eval_loss" else "{:.2f}") for name in measures]
        row += [_number(record.get("seconds"), "{:,.0f}"), _number(record.get("tokens"), "{:,}")]
        row += [_number(record.get("peak_memory_gib"), "{:.2f}")]
        is_best = best is not None and record["trial"] == best["trial"]
        table.add_row(*row, style="bold" if is_best else "" if record["state"] == "done" else "dim")
    return table


def means_tables(plan: Plan, means: dict[str, list[dict[str, Any]]]) -> list[Table]:
    tables = []
    for name, rows in means.items():
        note = "Mean over the trials with that value, and its 95% interval (Student's t)."
        header = [name, "trials", plan.args.objective, "95% interval"]
        table = Table(f"By {name}", header, note=note)
        digits = "{:.4f}" if plan.args.objective == "loss" else "{:.2f}"
        for row in rows:
            ends = " to ".join(map(digits.format, row["ci95"])) if row["ci95"] else "–"
            table.add_row(row["label"], str(row["trials"]), digits.format(row["mean"]), ends)
        tables.append(table)
    return tables


def label_of(plan: Plan, values: dict[str, Any]) -> str:
    """The options that a point sets, in a line."""
    own = [(one, values[one.name]) for one in plan.space if one.name in values]
    return ", ".join(f"{'' if isinstance(v, dict) else one.name + ' '}{one.label(v)}" for one, v in own)


def _note(plan: Plan, records: Records) -> str:
    counts = Counter(one["state"] for one in records)
    seconds = sum(one.get("seconds", 0) for one in records)
    tokens = sum(one.get("tokens", 0) for one in records)
    parts = ", ".join(f"{number} {state}" for state, number in counts.most_common())
    return f"{parts}; {seconds:,.0f} s and {tokens:,} tokens in all. Chosen by {plan.args.objective} on validation."


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else form.format(value)


def _csv(trials: Records) -> str:
    options = list(dict.fromkeys(name for one in trials for name in one["options"]))
    measures = ("score", *MEASURES, "seconds", "tokens", "peak_memory_gib", "evaluations", "folder", "error")
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["trial", "state", *options, *measures])
    for one in trials:
        own = [text(one["options"][name]) if name in one["options"] else "" for name in options]
        writer.writerow([one["trial"], one["state"], *own, *(one.get(name, "") for name in measures)])
    return out.getvalue()
