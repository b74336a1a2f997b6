"""Tables of a dataset as the model sees it: its lengths in tokens and its speakers."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from dialogsum_sft.data.row_files import one_line
from dialogsum_sft.data.training_data import EncodedSplit
from dialogsum_sft.data.transcripts import dialogue_of
from dialogsum_sft.tables import Table

import numpy as np

PERCENTILES = (0, 50, 90, 99, 100)
MAX_LENGTHS = (256, 512, 768, 1024, 2048, 4096)


@dataclass
class Split(EncodedSplit):
    """A split with the lengths of its rows in tokens, as arrays in the order of the rows."""

    def __post_init__(self) -> None:
        self.prompt, self.total = np.array(self.rows["prompt_tokens"]), np.array(self.rows["length"])


def speakers_table(splits: Mapping[str, Split]) -> Table:
    """The ten speakers found in most dialogues, with the number of these: one that is missing was not recognised."""
    counts = {
        name: Counter(speaker for row in split.examples.rows for speaker in dialogue_of(row).speakers)
        for name, split in splits.items()
    }
    every = sum(counts.values(), Counter[str]())
    others = f"and {len(every) - 10} others" if len(every) > 10 else ""
    table = Table(header=["speakers found most often, in dialogues", *splits], note=others)
    for speaker, _ in every.most_common(10):
        found = ((own[speaker], len(splits[name].examples.rows)) for name, own in counts.items())
        table.add_row(one_line(speaker)[:50], *(share(*pair) for pair in found))
    if not every:
        table.add_row("none", *("" for _ in splits))
    return table


def share(part: int, whole: int) -> str:
    return f"{part} ({part / whole:.1%})"


def percentiles(lengths: np.ndarray) -> list[int]:
    """The shortest length, those that 50, 90 and 99% of the rows do not exceed, and the longest."""
    return [int(value) for value in np.percentile(lengths, PERCENTILES, method="inverted_cdf")]


def length_table(splits: Mapping[str, Split]) -> Table:
    table = Table(header=["tokens", *("min" if p == 0 else "max" if p == 100 else f"{p}%" for p in PERCENTILES)])
    for name, split in splits.items():
        table.add_row(f"{name}: prompt", *map(str, percentiles(split.prompt)))
        table.add_row("  summary and stop", *map(str, percentiles(split.total - split.prompt)))
        table.add_row("  both", *map(str, percentiles(split.total)), style="bold", end_section=True)
    return table


def histogram(lengths: np.ndarray, title: str) -> Table:
    """At most twelve bars, each a round number of tokens wide."""
    widths = (step * power for power in (1, 10, 100, 1000, 10000) for step in (10, 20, 25, 50))
    width = next(w for w in widths if lengths.max() // w - lengths.min() // w < 12)
    bars = Counter((lengths // width).tolist())
    table = Table(title, labels=2)
    for bar in range(min(bars), max(bars) + 1):
        blocks = "█" * math.ceil(50 * bars[bar] / max(bars.values()))
        table.add_row(f"{bar * width} to {bar * width + width - 1}", f"{blocks} {bars[bar]}")
    return table


def too_long_table(splits: Mapping[str, Split], configured: int | None, positions: int) -> Table:
    held = {min(limit, positions) for limit in MAX_LENGTHS}
    limits = sorted(held if configured is None else {*held, configured})
    titles = (f"{limit}*" if limit == configured else str(limit) for limit in limits)
    note = "" if configured is None else "* in the config; longer rows lose whole turns of their dialogue"
    if configured is not None and configured > positions:
        note = f"* in the config, and refused by a training: the model can hold {positions} tokens"
    table = Table(header=["rows longer than max_length", *titles], note=note)
    for name, split in splits.items():
        counts = [int((split.total > limit).sum()) for limit in limits]
        table.add_row(name, *((str(count), "yellow" if count else "") for count in counts))
    return table
