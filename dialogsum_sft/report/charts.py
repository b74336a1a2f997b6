"""The numbers behind the report's charts: round axes, bins, thinned curves. charts.html.jinja draws them.

A panel is a dict with its `title`, the data (`rows`, `series`, ...) and the axes `x` and `y`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dialogsum_sft.evaluation.rouge import HEADLINE, mean

Curves = Mapping[str, Sequence[tuple[float, float]]]

# The panels of a training log: {title: {logged quantity: label of its curve}}.
TRAINING = {
    "Loss": {"loss": "training", "eval_loss": "validation"},
    "ROUGE of validation samples": {f"eval_{kind}_mean": label for kind, label in HEADLINE.items()},
    "Validation summaries cut off, share": {"eval_unfinished": "validation"},
    "Token accuracy": {"mean_token_accuracy": "training", "eval_mean_token_accuracy": "validation"},
    "Learning rate": {"learning_rate": "training"},
    "Gradient norm": {"grad_norm": "training"},
}

MAX_POINTS = 240  # of a curve; a chart is about 320 pixels wide
_STEPS = 4  # about how many an axis has


@dataclass(frozen=True)
class Scale:
    """An axis with round ticks, all between its ends."""

    ticks: list[float]
    low: float
    high: float

    def at(self, value: float, start: float, length: float) -> float:
        """Position of `value` on an axis from `start` with `length`; a negative length points up."""
        return round(start + (value - self.low) / (self.high - self.low) * length, 1)


def scale(values: Sequence[float], *, zero: bool = True, exact: bool = False) -> Scale:
    """An axis over all values, and 0 with `zero`, in about four steps of 1, 2 or 5 times a power of ten.

    It begins and ends at a tick, with `exact` at the lowest and highest value.
    """
    low, high = min(values, default=0.0), max(values, default=1.0)
    low, high = (min(low, 0.0), max(high, 0.0)) if zero else (low, high)
    high = 1.0 if low == high == 0 else high
    span = high - low or abs(high)
    power = 10.0 ** math.floor(math.log10(span / _STEPS))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power * _STEPS >= span * 0.999)
    first = math.floor(low / step + 1e-9)
    last = max(math.ceil(high / step - 1e-9), first + 1)
    ticks = [float(f"{index * step:.12g}") for index in range(first, last + 1)]
    if exact and low < high:
        return Scale([tick for tick in ticks if low <= tick <= high], low, high)
    return Scale(ticks, ticks[0], ticks[-1])


def histogram(values: Sequence[float], axis: Scale, bins: int) -> list[float]:
    """% of `values` in each of `bins` equal parts of the axis; values beyond an end count in the last part there."""
    counts = [0] * bins
    for value in values:
        place = math.floor((value - axis.low) / (axis.high - axis.low) * bins + 1e-9)
        counts[max(0, min(bins - 1, place))] += 1
    return [100 * count / len(values) for count in counts]


def thin(points: Sequence[tuple[float, float]], most: int) -> list[tuple[float, float]]:
    """At most `most` points; more are replaced by means of neighbours."""
    size = -(-len(points) // most)
    chunks = [points[start : start + size] for start in range(0, len(points), size)]
    return [(mean([x for x, _ in chunk]), mean([y for _, y in chunk])) for chunk in chunks]


def scores(
    title: str, systems: Mapping[str, Mapping[str, Any]], baselines: Mapping[str, float], human: float | None
) -> dict[str, Any]:
    """The human ceiling, the systems {name: {"mean", "ci95"}} and the baselines, best first, on one axis."""

    def row(label: str, value: float, style: str, ci95: list[float] | None = None) -> dict[str, Any]:
        return {"label": label, "value": value, "style": style, "ci95": ci95}

    rows = [] if human is None else [row("human", human, "human")]
    rows += [row(name, own["mean"], f"s{i % 6}", own.get("ci95")) for i, (name, own) in enumerate(systems.items())]
    rows += [row(*item, "baseline") for item in sorted(baselines.items(), key=lambda item: -item[1])]
    x = scale([x for row in rows for x in [row["value"], *(row["ci95"] or [])]])
    return {"title": title, "rows": rows, "x": x}


def training(curves: Curves) -> list[dict[str, Any]]:
    """A panel for each of TRAINING with values at two steps or more."""
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
    """Histograms of each system's values, and the references', in % over the same bins; bins of words are whole."""
    groups = [*systems, *([references] if references is not None else [])]
    values = sorted(value for group in groups for value in group)
    # A single very long summary would flatten the others: the axis covers 99%, and its last bin holds the rest.
    x = scale([values[math.ceil(0.99 * len(values)) - 1], *([5] if unit == "words" else [])])
    parts = max(1, int(x.ticks[1]) // 5) if unit == "words" else 4 if len(values) > 100 else 2
    series: list[dict[str, Any]] = []
    for i, group in enumerate(groups):
        shares = histogram(group, x, parts * (len(x.ticks) - 1))
        filled = [place for place, share in enumerate(shares) if share]
        style = f"s{i % 6}" if i < len(systems) else "references"
        drawn = {"style": style, "shares": shares, "start": filled[0], "end": filled[-1] + 1}
        series.append(drawn | {"mean": mean(group), "mark": min(mean(group), x.high)})
    y = scale([share for bars in series for share in bars["shares"]])
    return {"title": title, "unit": unit, "series": series, "x": x, "y": y}


def gains(name: str, before: Sequence[float], after: Sequence[float]) -> dict[str, Any]:
    """The differences between two systems' scores by dialogue, in ascending order."""
    values = sorted(b - a for a, b in zip(before, after, strict=True))
    wins, losses = sum(gain > 0 for gain in values), sum(gain < 0 for gain in values)
    return {"name": name, "gains": values, "wins": wins, "losses": losses, "y": scale(values)}
