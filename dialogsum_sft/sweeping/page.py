"""The page of a sweep: its trials, and a chart of the scores at each option's values."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dialogsum_sft
from dialogsum_sft import files
from dialogsum_sft.report import charts
from dialogsum_sft.sweeping.plan import Plan
from dialogsum_sft.sweeping.results import REPEATS, means_tables, trials_table
from dialogsum_sft.sweeping.space import Dimension

import jinja2
from markupsafe import Markup

_LEFT, _WIDTH = 40, 312  # of the plot in a chart, in its units; see `frame` in charts.html.jinja
_LOG_FROM = 6.0  # the ratio of the ends from which an axis of numbers is logarithmic
_TICK = 34.0  # the least distance between two labels of an axis


def write_page(path: Path, plan: Plan, result: dict[str, Any], records: Sequence[dict[str, Any]]) -> None:
    """Write report.html from what `write_results` returned."""
    report = Path(charts.__file__).parent
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([Path(__file__).parent, report]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    panels = [
        panel
        for one in plan.space
        if one.name != REPEATS and (panel := scores_panel(one, result["means"].get(one.name, []), records))
    ]
    html = environment.get_template("sweep.html.jinja").render(
        title=f"Sweep over {', '.join(one.name for one in plan.space)}",
        style=Markup((report / "report.css").read_text(encoding="utf-8")),
        objective=plan.args.objective,
        result=result,
        best=result["best"],
        best_config=Path(plan.args.output_dir) / "best.yaml",
        panels=panels,
        trials=trials_table(plan, records, result["best"]),
        means=means_tables(plan, result["means"]),
        errors=[(record["trial"], record["error"]) for record in records if record.get("error")],
        version=dialogsum_sft.__version__,
    )
    files.write_text(path, html)


def scores_panel(
    dimension: Dimension, means: Sequence[dict[str, Any]], records: Sequence[dict[str, Any]]
) -> dict[str, Any] | None:
    """Places in a chart of the score over one option: `trials` (x, y, trial, score), `means` with intervals, `ticks`.

    Numbers lie on an axis, logarithmic where the ends are far apart; other values side by side. None where fewer than
    two values were scored.
    """
    done = [one for one in records if one["state"] == "done" and dimension.name in one["values"]]
    values = [one["values"][dimension.name] for one in done]
    labels = list(dict.fromkeys(map(dimension.label, [*(row["value"] for row in means), *values])))
    if len(labels) < 2:
        return None
    places = _places(values, dimension, labels)
    ends = [end for row in means for end in row["ci95"] or []]
    y = charts.scale([*(one["score"] for one in done), *ends], zero=False)

    def at(score: float) -> float:
        return y.at(score, 150, -136)

    rows = [
        {"x": places[row["label"]], "y": at(row["mean"]), **row, "ends": row["ci95"] and [*map(at, row["ci95"])]}
        for row in means
    ]
    ticks = sorted((place, label) for label, place in places.items())
    shown = [ticks[-1]]  # from the right, those that have room
    for place, label in reversed(ticks):
        if shown[-1][0] - place >= _TICK:
            shown.append((place, label))
    return {
        "title": dimension.name,
        "y": y,
        "is_curve": all(isinstance(value, int | float) and not isinstance(value, bool) for value in values),
        "trials": [(places[dimension.label(v)], at(one["score"]), one) for v, one in zip(values, done, strict=True)],
        "means": rows,
        "ticks": shown[::-1],
    }


def _places(values: Sequence[Any], dimension: Dimension, labels: Sequence[str]) -> dict[str, float]:
    """Where the values lie between the ends of the axis, {label: x}."""
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        low, high = min(values), max(values)
        if dimension.log or (low > 0 and high / low >= _LOG_FROM):
            places = {dimension.label(value): math.log(value / low) / math.log(high / low) for value in values}
        else:
            places = {dimension.label(value): (value - low) / (high - low) for value in values}
        return {label: round(_LEFT + 12 + (_WIDTH - 24) * place, 1) for label, place in places.items()}
    step = _WIDTH / len(labels)
    return {label: round(_LEFT + step * (i + 0.5), 1) for i, label in enumerate(labels)}
