"""Axes, bins and thinned curves: the numbers behind a chart, whoever draws it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """An axis with round ticks, the first and the last at its ends."""

    ticks: list[float]

    def at(self, value: float, start: float, length: float) -> float:
        """Where `value` lies on an axis that begins at `start` and is `length` long; a negative length points up."""
        low, high = self.ticks[0], self.ticks[-1]
        return round(start + (value - low) / (high - low) * length, 1)


def scale(values: Sequence[float], *, zero: bool = True, parts: int = 4) -> Scale:
    """An axis that holds all values, and 0 with `zero`, in about `parts` steps of 1, 2 or 5 times a power of ten."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    low, high = (min(low, 0.0), max(high, 0.0)) if zero else (low, high)
    span = high - low or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span / parts))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power * parts >= span * 0.999)
    first = math.floor(low / step + 1e-9)
    last = max(math.ceil(high / step - 1e-9), first + 1)
    return Scale([float(f"{index * step:.12g}") for index in range(first, last + 1)])


def histogram(values: Sequence[float], axis: Scale, bins: int) -> list[float]:
    """% of `values` in each of `bins` equal parts of the axis; what lies beyond an end counts into the part there."""
    low, high = axis.ticks[0], axis.ticks[-1]
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
