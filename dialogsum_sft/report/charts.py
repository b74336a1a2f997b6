"""The numbers behind the report's charts: round axes, bins, thinned curves. `page.html.jinja` draws them.

A panel is a dict: its `title`, what is drawn (`rows`, `series`, ...), and the axes it is drawn on.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Curves = Mapping[str, Sequence[tuple[float, float]]]

# What is drawn together of a training log, and what each curve is called.
TRAINING = {
    "Loss": {"loss": "training", "eval_loss": "validation"},
    "ROUGE of validation samples": {
        "eval_rouge1_mean": "ROUGE-1",
        "eval_rouge2_mean": "ROUGE-2",
        "eval_rougeL_mean": "ROUGE-L",
    },
    "Validation summaries cut off, share": {"eval_unfinished": "validation"},
    "Token accuracy": {"mean_token_accuracy": "training", "eval_mean_token_accuracy": "validation"},
    "Learning rate": {"learning_rate": "training"},
    "Gradient norm": {"grad_norm": "training"},
}

MAX_POINTS = 240  # of a curve: a chart is some 320 pixels wide


@dataclass(frozen=True)
class Scale:
    """An axis with round ticks, all between its ends."""

    ticks: list[float]
    low: float
    high: float

    def at(self, value: float, start: float, length: float) -> float:
        """Where `value` lies on an axis that begins at `start` and is `length` long; a negative length points up."""
        return round(start + (value - self.low) / (self.high - self.low) * length, 1)


def scale(values: Sequence[float], *, zero: bool = True, exact: bool = False, parts: int = 4) -> Scale:
    """An axis that holds all values, and 0 with `zero`, in about `parts` steps of 1, 2 or 5 times a power of ten.

    It begins and ends at a tick, or with `exact` at the lowest and highest of what it holds.
    """
    low, high = min(values, default=0.0), max(values, default=1.0)
    low, high = (min(low, 0.0), max(high, 0.0)) if zero else (low, high)
    high = 1.0 if low == high == 0 else high
    span = high - low or abs(high)
    power = 10.0 ** math.floor(math.log10(span / parts))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power * parts >= span * 0.999)
    first = math.floor(low / step + 1e-9)
    last = max(math.ceil(high / step - 1e-9), first + 1)
    ticks = [float(f"{index * step:.12g}") for index in range(first, last + 1)]
    if exact and low < high:
        return Scale([tick for tick in ticks if low <= tick <= high], low, high)
    return Scale(ticks, ticks[0], ticks[-1])


def histogram(values: Sequence[float], axis: Scale, bins: int) -> list[float]:
    """% of `values` in each of `bins` equal parts of the axis; what lies beyond an end counts into the part there."""
    low, high = axis.low, axis.high
    counts = [0] * bins
    for value in values:
        counts[max(0, min(bins - 1, math.floor((value - low) / (high - low) * bins + 1e-9)))] += 1
    return [100 * count / len(values) for count in counts]


def thin(points: Sequence[tuple[float, float]], most: int) -> list[tuple[float, float]]:
    """At most `most` points: the means of neighbours, where there are more."""
    size = -(-len(points) // most)
    chunks = [points[start : start + size] for start in range(0, len(points), size)]
    return [(mean([x for x, _ in chunk]), mean([y for _, y in chunk])) for chunk in chunks]


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def scores(
    title: str, systems: Mapping[str, Mapping[str, Any]], baselines: Mapping[str, float], human: float | None
) -> dict[str, Any]:
    """The human ceiling, systems {name: {"mean", "ci95"}} and baselines, best first, on one axis."""
    rows: list[dict[str, Any]] = []
    if human is not None:
        rows.append({"label": "human", "value": human, "ci95": None, "style": "human"})
    rows += [
        {"label": name, "value": score["mean"], "ci95": score.get("ci95"), "style": f"s{i % 6}"}
        for i, (name, score) in enumerate(systems.items())
    ]
    rows += [
        {"label": name, "value": value, "ci95": None, "style": "baseline"}
        for name, value in sorted(baselines.items(), key=lambda item: -item[1])
    ]
    return {
        "title": title,
        "rows": rows,
        "x": scale([x for row in rows for x in [row["value"], *(row["ci95"] or [])]]),
    }


def training(curves: Curves) -> list[dict[str, Any]]:
    """A panel for each of TRAINING that was logged at two steps or more."""
    panels = []
    for title, names in TRAINING.items():
        drawn = {label: thin(curves[key], MAX_POINTS) for key, label in names.items() if len(curves.get(key, ())) > 1}
        points = [point for curve in drawn.values() for point in curve]
        if points:
            series = [{"label": label, "points": curve} for label, curve in drawn.items()]
            x = scale([step for step, _ in points], exact=True)
            y = scale([value for _, value in points], zero=title != "Loss")
            panels.append({"title": title, "series": series, "x": x, "y": y})
    return panels


def histograms(
    title: str, unit: str, systems: Sequence[Sequence[float]], references: Sequence[float] | None = None
) -> dict[str, Any]:
    """Values of each system, and of the references, as % of theirs in the same bins. Words are whole: so are bins."""
    every = [*systems, *([references] if references is not None else [])]
    values = sorted(value for one in every for value in one)
    # One endless summary must not flatten all the others: the axis holds 99%, its last bin the rest.
    x = scale([values[math.ceil(0.99 * len(values)) - 1], *([5] if unit == "words" else [])])
    parts = max(1, int(x.ticks[1]) // 5) if unit == "words" else 4 if len(values) > 100 else 2
    series: list[dict[str, Any]] = []
    for i, one in enumerate(every):
        shares = histogram(one, x, parts * (len(x.ticks) - 1))
        filled = [place for place, share in enumerate(shares) if share]
        style = f"s{i % 6}" if i < len(systems) else "references"
        drawn = {"style": style, "shares": shares, "start": filled[0], "end": filled[-1] + 1}
        series.append(drawn | {"mean": mean(one), "mark": min(mean(one), x.high)})
    return {
        "title": title,
        "unit": unit,
        "series": series,
        "x": x,
        "y": scale([s for one in series for s in one["shares"]]),
    }


def gains(name: str, before: Sequence[float], after: Sequence[float]) -> dict[str, Any]:
    """Differences of two systems' scores, dialogue by dialogue, from loss to gain."""
    found = sorted(b - a for a, b in zip(before, after, strict=True))
    wins, losses = sum(gain > 0 for gain in found), sum(gain < 0 for gain in found)
    return {"name": name, "gains": found, "wins": wins, "losses": losses, "y": scale(found)}
