"""Runs over the bundled test dialogues, and a parser of pages, for the tests of the report."""

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from conftest import sample_dialogues
from dialogsum_sft.evaluation.runs import Run, score_run

EVIL = "<script>window.hacked = true</script></script><img src=x onerror='window.hacked = true'>\"'&amp;"


def sample_rows(count: int) -> list[dict[str, Any]]:
    """`count` dialogues from the bundled ones, shortened differently, with three references each."""
    dialogues, rows = sample_dialogues(), []
    for number in range(count):
        row = dialogues[number % len(dialogues)]
        turns = row["dialogue"].split("\n")
        kept = turns[: max(2, len(turns) - number // len(dialogues) % 4)]
        rows.append(row | {"id": f"test_{number}", "dialogue": "\n".join(kept)})
    return rows


def zero_shot(row: dict[str, Any], number: int) -> str:
    said = " ".join(row["dialogue"].split("\n")[: 1 + number % 3]).replace("#Person1#:", "Person 1 said")
    return said if number % 37 else ""


def fine_tuned(row: dict[str, Any], number: int) -> str:
    words = row["references"][number % 3].split()
    rest = row["dialogue"].split()[number % 17 : number % 17 + 9]
    planted = ["#Person9#", "paid", "4711", "euros", "to", "Zanzibar."] if number % 20 == 0 else []
    return " ".join([*words[: len(words) // 3], *rest[: number % 10], *planted])


def make_run(
    name: str, folder: Path, rows: list[dict[str, Any]], summarise: Callable[[dict[str, Any], int], str]
) -> Run:
    predictions = [
        row | {"prediction": summarise(row, i), "finish_reason": "stop" if i % 19 else "length"}
        for i, row in enumerate(rows)
    ]
    return score_run(
        name,
        folder,
        predictions,
        model={"base": "SmolLM2-135M-Instruct", "adapter": None},
        data={"dataset_name": "sample", "split": "test"},
        seconds=12.3,
    )


def write_log(path: Path, steps: int) -> Path:
    lines: list[dict[str, Any]] = [{"format": 1}]
    for step in range(1, steps + 1):
        lines.append(
            {
                "step": step,
                "epoch": step / 20,
                "loss": 1.6 + 2 / (1 + step / 8) + 0.1 * (step % 3),
                "learning_rate": 1e-3 * (1 - step / steps),
                "grad_norm": 1 + 1 / step,
            }
        )
        if step % 15 == 0:
            rouge = {f"eval_rouge{n}_mean": 30 - 8 * i - 60 / step for i, n in enumerate("12L")}
            lines.append({"step": step, "eval_loss": 1.9 + 2 / (1 + step / 8), **rouge})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def planted(folder: Path) -> list[Run]:
    """Two runs with markup in every text that a user can write."""
    rows = [
        {
            "id": f"{EVIL}{i}",
            "topic": f"topic {EVIL}",
            "dialogue": f"#Person1#: {EVIL}\n{EVIL}: hello",
            "references": [f"{EVIL} says hello.", "Hello \u2028 there."],
        }
        for i in range(6)
    ]
    run = make_run(
        f"system {EVIL}", folder, rows, lambda row, number: f"{EVIL} said hello to #Person7# \U0001f600 99 times."
    )
    record = copy.deepcopy(run.record)
    record["model"] = {"base": EVIL, EVIL: EVIL}
    record["data"] = {"dataset_name": EVIL}
    record["baselines"][EVIL] = record["baselines"]["lead-1"]
    record["slices"][EVIL] = {EVIL: {"examples": 3, "rouge1": 1.0}, "b": {"examples": 3, "rouge1": 2.0}}
    return [replace(run, record=record), replace(run, record=record, name="other")]


class Page(HTMLParser):
    """The tags, attributes, scripts and tables of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.tables: list[list[str]] = []
        self._inside: str | None = None
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag
        if tag == "script":
            self.scripts.append("")
        if tag == "tr":
            self.tables.append([])
        if tag in ("th", "td"):
            self.tables[-1].append("")

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[-1] += data
        elif self.tables and self.tables[-1]:
            self.tables[-1][-1] += data

    def handle_endtag(self, tag: str) -> None:
        self._inside = None if tag == "script" else self._inside
