"""The figures of the systems that a benchmark compares: their peak memory, medians and ratios."""

import contextlib
import statistics
import threading
from collections.abc import Iterator

from dialogsum_sft.tables import Table

import psutil
import torch

Figures = dict[str, float]
Results = dict[str, list[Figures]]  # of each system, in each round


@contextlib.contextmanager
def peak_memory() -> Iterator[dict[str, float]]:
    """Measure the peak within a `with` block, as `memory_gib`: of the GPU where there is one, else of this process.

    The resident memory of the process is read every 10 ms, which misses shorter peaks.
    """
    figures, done, process = {"memory_gib": 0.0}, threading.Event(), psutil.Process()

    def read() -> None:
        while not done.wait(0.01):
            figures["memory_gib"] = max(figures["memory_gib"], process.memory_info().rss / 2**30)

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        yield figures
        figures["memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
        return
    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    yield figures
    done.set()
    reader.join()


def speed_table(title: str, results: Results, columns: dict[str, tuple[str, str]]) -> tuple[Table, dict[str, float]]:
    """A row of medians for each system, and the ratios of ours by the first of `columns` {title: (figure, format)}."""
    table, ratios = Table(title, ["", *columns, "ours is"]), {}
    speed = next(iter(columns.values()))[0]
    for system, figures in results.items():
        if system != "ours":
            ratios[system] = median(results["ours"], speed) / median(figures, speed)
        known = {name for figure in figures for name in figure}
        cells = [format(median(figures, name), spec) if name in known else "" for name, spec in columns.values()]
        table.add_row(system, *cells, f"{ratios[system]:.2f} x" if system in ratios else "")
    return table, ratios


def median(figures: list[Figures], name: str) -> float:
    return statistics.median(figure[name] for figure in figures if name in figure)
