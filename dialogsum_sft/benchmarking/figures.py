"""The figures of the systems that a benchmark compares: what is measured, its medians and the ratios."""

import contextlib
import json
import re
import statistics
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from dialogsum_sft import InputError
from dialogsum_sft.tables import Table

import psutil
import torch

OURS = "ours"
Figures = dict[str, float]


@dataclass
class Comparison:
    """The figures of each system in each round, why a system failed, and the floor under them.

    `columns` are those of the table, {title: (figure, format)}; the first is the speed that is compared.
    """

    columns: dict[str, tuple[str, str]]
    figures: dict[str, list[Figures]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    floor: float | None = None  # a speed

    def turns(self, rounds: int, systems: Iterable[str]) -> Iterator[tuple[int, str]]:
        """Each round (from 1) with each system, A B A B; one that has failed is not run again."""
        for turn in range(1, rounds + 1):
            yield from ((turn, system) for system in systems if system not in self.failed)

    def measure(self, system: str, run: Callable[[], Figures]) -> None:
        """Add the figures of a run. Of the systems only ours may not fail: its InputError is raised."""
        try:
            self.figures.setdefault(system, []).append(run())
        except InputError as error:
            if system == OURS:
                raise
            self.failed[system] = str(error)

    def median(self, system: str, name: str) -> float | None:
        """None where no run has such a figure."""
        known = [figures[name] for figures in self.figures.get(system, []) if name in figures]
        return statistics.median(known) if known else None

    def table(self, title: str) -> Table:
        """A row of medians for each system, and one for the floor."""
        table, ratios = Table(title, ["", *self.columns, "ours is"]), self.ratios()
        for system in self.figures:
            if system in self.failed:
                table.add_row(system, "failed", *[""] * len(self.columns))
                continue
            cells = [_text(self.median(system, name), spec) for name, spec in self.columns.values()]
            table.add_row(system, *cells, _text(ratios.get(system), ".2f", " x"))
        if self.floor is not None:
            (_, spec), *others = self.columns.values()
            cells = [format(self.floor, spec), *[""] * len(others), _text(ratios.get("floor"), ".2f", " x")]
            table.add_row("its matrix products alone", *cells)
        return table

    def ratios(self) -> dict[str, float]:
        """The speed of ours by that of each other system, and by the floor."""
        speed = next(iter(self.columns.values()))[0]
        speeds = {system: self.median(system, speed) for system in self.figures if system not in self.failed}
        ours = speeds.pop(OURS, None)
        return {name: ours / other for name, other in (speeds | {"floor": self.floor}).items() if ours and other}


def _text(value: float | None, spec: str, unit: str = "") -> str:
    return "" if value is None else format(value, spec) + unit


def figures_of(command: list[str], result: Path, name: str) -> Figures:
    """Run a process that writes its figures to the file `result`.

    Raises InputError with the last of its lines on standard error, or the last that begins with "error:".
    """
    result.unlink(missing_ok=True)
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0 or not result.is_file():
        lines = done.stderr.strip().splitlines() or ["no message"]
        reasons = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
        reason = (reasons or lines)[-1]
        if "root cause" in reason:  # is what vLLM says of its own processes, which log theirs to standard output
            reason = (re.findall(r"\w+Error: .+", done.stdout) or [reason])[-1]
        raise InputError(f"{name} failed: {reason}")
    return json.loads(result.read_text(encoding="utf-8"))


@contextlib.contextmanager
def peak_memory(*, children: bool = False) -> Iterator[Figures]:
    """Measure the peak within a `with` block, as `memory_gib`: of the GPU where there is one, else of this process.

    The resident memory is read every 10 ms, which misses shorter peaks. With the `children` that this process has it
    is the sum; what they take of a GPU is not known here.
    """
    figures: Figures = {}
    done, process = threading.Event(), psutil.Process()
    processes = [process, *(process.children(recursive=True) if children else [])]

    def read() -> None:
        while not done.wait(0.01):
            with contextlib.suppress(psutil.NoSuchProcess):  # a child has ended
                memory = sum(process.memory_info().rss for process in processes) / 2**30
                figures["memory_gib"] = max(figures.get("memory_gib", 0.0), memory)

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        yield figures
        if not children:
            figures["memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
        return
    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        yield figures
    finally:
        done.set()
        reader.join()
