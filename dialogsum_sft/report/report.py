"""`report.html`: what one or several evaluated runs scored, as a page that needs nothing but itself.

The figures of a page are pure functions of the files that a run leaves; `page.html.jinja` has its words and its
drawings. A user's text reaches the page through Jinja's autoescape, or as JSON that the page's script writes as text,
never as markup; a content security policy forbids every other script, and every request.
"""

import base64
import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import dialogsum_sft
from dialogsum_sft import InputError, files
from dialogsum_sft.data.dialogue import split_turns
from dialogsum_sft.evaluation import scoring, significance
from dialogsum_sft.evaluation.diagnostics import Diagnosis, diagnose
from dialogsum_sft.evaluation.rouge import rouge_scores
from dialogsum_sft.evaluation.tokenizers import words
from dialogsum_sft.report import charts

import jinja2

HEADLINE = {"rouge1": "ROUGE-1", "rouge2": "ROUGE-2", "rougeL": "ROUGE-L"}
OTHERS = {"rougeLsum": "ROUGE-Lsum", "rougeS4": "ROUGE-S4", "rougeSU4": "ROUGE-SU4", "bertscore": "BERTScore"}

# What a summary can have that ROUGE does not see: how the page says it, whether a diagnosis has it, and the share of
# the references that have it in metrics.json's `diagnostics_of_references`.
FINDINGS: dict[str, tuple[str, Callable[[Diagnosis], bool], str]] = {
    "unfinished": ("cut off at the token limit", lambda found: found.unfinished, "unfinished"),
    "empty": ("empty", lambda found: found.empty, "empty"),
    "name": ("a name that the dialogue lacks", lambda found: bool(found.unsupported_names), "unsupported_names"),
    "number": (
        "a number that the dialogue lacks",
        lambda found: bool(found.unsupported_numbers),
        "unsupported_numbers",
    ),
    "tag": ("a speaker that the dialogue lacks", lambda found: bool(found.wrong_tags), "wrong_tags"),
    "format": ("a speaker’s tag in another format", lambda found: bool(found.foreign_tags), "foreign_tags"),
    "repeats": ("three words in a row said twice", lambda found: found.repeated_trigrams > 0, ""),
}

# Of metrics.json's `diagnostics` those that are no shares of summaries: how the page says them, and writes them.
DIAGNOSTICS = {
    "words": ("words", "{:.1f}"),
    "length_ratio": ("length, of the references’", "{:.0%}"),
    "compression": ("words of the dialogue for each of its own", "{:.1f}"),
    "copied_run": ("longest run copied from the dialogue", "{:.0%}"),
    "novel_bigrams": ("word pairs that the dialogue lacks", "{:.0%}"),
    "repeated_trigrams": ("word triples repeated", "{:.1%}"),
    "foreign_tags_cost": ("ROUGE-1 that the tags’ format costs", "{:.2f}"),
}

MAX_TOPICS = 12


@dataclass(frozen=True)
class Run:
    """An evaluated run; `scores` are means over a dialogue's references, {type: [dialogue]}, x 100."""

    name: str
    metrics: dict[str, Any]
    rows: list[dict[str, Any]]
    scores: dict[str, list[float]]
    diagnoses: list[Diagnosis]


def write_report(path: Path, runs: Mapping[str, Path], *, training_log: Path | None = None, title: str) -> None:
    """Write one HTML file for `runs`: {name: folder with predictions.jsonl and metrics.json}.

    The first run is the one that all others are compared with, and has the baselines and the human ceiling.
    `training_log` is a `training.jsonl`; where it is None or no file, the page has no training curves.

    Raises InputError where a file is missing or is not what a run leaves, or two runs are not of the same dialogues
    and references in the same order.
    """
    loaded = [load_run(name, folder) for name, folder in runs.items()]
    check_alike(loaded, list(runs.values()))
    curves = read_training_log(training_log) if training_log is not None and training_log.is_file() else {}
    files.write_text(path, render(loaded, curves, title))


def load_run(name: str, folder: Path) -> Run:
    """Raises InputError where predictions.jsonl or metrics.json is missing or broken."""
    rows, metrics = scoring.read_run(folder)
    tokenizer = str((metrics.get("fingerprint") or {}).get("tokenizer", "default")).partition("-")[0]
    scores = rouge_scores([row["prediction"] for row in rows], [row["references"] for row in rows], tokenizer)
    means = {kind: [charts.mean(values) for values in scores[kind]] for kind in HEADLINE}
    return Run(name, metrics, rows, means, [diagnose(row) for row in rows])


def check_alike(runs: Sequence[Run], folders: Sequence[Path]) -> None:
    """Raises InputError unless all runs summarise the same dialogues with the same references, in the same order."""
    for run, folder in zip(runs[1:], folders[1:], strict=True):
        if len(run.rows) != len(runs[0].rows):
            found = f"{folders[0]} has {len(runs[0].rows)} dialogues, {folder} has {len(run.rows)}"
            raise InputError(f"{found}: a report compares runs over the same dialogues")
        for number, (a, b) in enumerate(zip(runs[0].rows, run.rows, strict=True), 1):
            if (a["dialogue"], a["references"]) != (b["dialogue"], b["references"]):
                found = f"row {number} ({a['id']}) of {folders[0]} has another dialogue or references than of {folder}"
                raise InputError(f"{found}: a report compares runs over the same dialogues")


def read_training_log(path: Path) -> dict[str, list[tuple[float, float]]]:
    """{quantity: [(step, value)]} of all finite numbers; what is null or has no step is left out, as is a last line
    that was being written.

    Raises InputError for another line that is not a JSON object.
    """
    curves: dict[str, list[tuple[float, float]]] = {}
    *lines, _ = path.read_text(encoding="utf-8", errors="replace").split("\n")
    for number, line in enumerate(lines, 1):
        try:
            items = json.loads(line).items()
        except (ValueError, AttributeError) as error:
            raise InputError(f"{path} line {number} is not a JSON object: take it out") from error
        numbers = {key: x for key, x in items if isinstance(x, int | float) and math.isfinite(x)}
        for key, value in numbers.items():
            if key != "step" and "step" in numbers:
                curves.setdefault(key, []).append((numbers["step"], value))
    return curves


def render(runs: Sequence[Run], curves: Mapping[str, list[tuple[float, float]]], title: str) -> str:
    """The page as HTML."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    human, baselines = runs[0].metrics.get("human"), runs[0].metrics.get("baselines") or {}
    references = [text for row in runs[0].rows for text in row["references"]]
    environment.filters["sha256"] = lambda text: base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    html = environment.get_template("page.html.jinja").render(
        title=title,
        runs=runs,
        version=dialogsum_sft.__version__,
        dataset=(runs[0].metrics.get("data") or {}).get("dataset_name"),
        human=human,
        baselines=baselines,
        headline=HEADLINE,
        measures={
            kind: name
            for kind, name in (HEADLINE | OTHERS).items()
            if all(isinstance(run.metrics.get(kind), dict) for run in runs)
        },
        differences=differences(runs),
        scores=[
            charts.scores(
                name,
                {run.name: run.metrics[kind] for run in runs},
                {label: scores[kind]["mean"] for label, scores in baselines.items()},
                human[kind]["mean"] if human else None,
            )
            for kind, name in HEADLINE.items()
        ],
        training=charts.training(curves),
        histograms=[
            charts.histograms("ROUGE-1 of each dialogue", "ROUGE-1", [run.scores["rouge1"] for run in runs]),
            charts.histograms(
                "Length of each summary",
                "words",
                [[found.words for found in run.diagnoses] for run in runs],
                [len(words(text)) for text in references],
            ),
        ],
        gains=[charts.gains(run.name, runs[0].scores["rouge1"], run.scores["rouge1"]) for run in runs[1:]],
        findings=finding_rows(runs),
        diagnostics=diagnostic_rows(runs),
        references=len(references),
        slices=slice_tables(runs),
        record=record_rows(runs),
        data=reader_data(runs),
    )
    return html.lstrip().encode("utf-8", "replace").decode()  # a lone surrogate, which JSON can hold and UTF-8 cannot


def differences(runs: Sequence[Run]) -> list[dict[str, significance.Comparison]]:
    """Each later run against the first, {type: comparison}; p is adjusted over all of them by Holm's method."""
    found = [
        {kind: significance.compare(run.scores[kind], runs[0].scores[kind]) for kind in HEADLINE} for run in runs[1:]
    ]
    adjusted = iter(significance.holm([one.p for by_kind in found for one in by_kind.values()]))
    return [{kind: replace(one, p=next(adjusted)) for kind, one in by_kind.items()} for by_kind in found]


def finding_rows(runs: Sequence[Run]) -> dict[str, dict[str, Any]]:
    """For each finding its label, how many summaries of each run have it, and the share of references, where known."""
    references = runs[0].metrics.get("diagnostics_of_references") or {}
    rows = {}
    for name, (label, has, key) in FINDINGS.items():
        counts: list[int | None] = [sum(map(has, run.diagnoses)) for run in runs]
        if name == "unfinished":  # where nothing says why any summary ended, none is known to be whole
            known = [any(row.get("finish_reason") is not None for row in run.rows) for run in runs]
            counts = [count if said else None for count, said in zip(counts, known, strict=True)]
        rows[name] = {"label": label, "counts": counts, "references": references.get(key)}
    return rows


def diagnostic_rows(runs: Sequence[Run]) -> dict[str, tuple[str, list[str]]]:
    """For each of DIAGNOSTICS its label and its value of each run and of the references, "" where it is not known."""
    records = [run.metrics.get("diagnostics") or {} for run in runs]
    records.append(runs[0].metrics.get("diagnostics_of_references") or {})
    rows = {}
    for key, (label, form) in DIAGNOSTICS.items():
        values = ["" if record.get(key) is None else form.format(record[key]) for record in records]
        if any(values):
            rows[key] = (label, values)
    return rows


def slice_tables(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """The slices that every run has; of topics, the most frequent."""
    tables = []
    for name, slices in (runs[0].metrics.get("slices") or {}).items():
        others = [run.metrics.get("slices", {}).get(name, {}) for run in runs]
        labels = [label for label in slices if all(label in other for other in others)]
        shown = labels
        if name == "topic":
            frequent = sorted(labels, key=lambda label: -slices[label]["examples"])[:MAX_TOPICS]
            shown = [label for label in labels if label in frequent]
        rows = [{"label": label, "cells": [other[label] for other in others]} for label in shown]
        if len(labels) > 1 and rows:
            x = charts.scale([cell["rouge1"] for row in rows for cell in row["cells"]])
            tables.append({"name": name, "rows": rows, "left_out": len(labels) - len(rows), "x": x})
    return tables


def record_rows(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """(name, value of each run) of what metrics.json says about how it came about; one value where all agree."""
    parts = ("model", "data", "prompt", "engine", "fingerprint", "versions", "hardware", "git_revision", "seconds")
    flat = [dict(_flatten({part: run.metrics.get(part) for part in parts})) for run in runs]
    keys = dict.fromkeys(key for one in flat for key in one)
    values = {key: [one.get(key, "") for one in flat] for key in keys}
    return [(key, found[:1] if len(set(found)) == 1 else found) for key, found in values.items() if any(found)]


def _flatten(record: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows = []
    for key, value in record.items():
        if isinstance(value, dict):
            rows += _flatten(value, f"{prefix}{key}.")
        else:
            rows.append(
                (f"{prefix}{key}", "" if value is None else value if isinstance(value, str) else json.dumps(value))
            )
    return rows


def reader_data(runs: Sequence[Run]) -> dict[str, Any]:
    """What the page's reader shows of each dialogue, as JSON."""
    dialogues = []
    for index, row in enumerate(runs[0].rows):
        outputs = [
            {
                "text": segments(run.rows[index]["prediction"], run.diagnoses[index]),
                "scores": [round(run.scores[kind][index], 2) for kind in HEADLINE],
                "words": run.diagnoses[index].words,
                "findings": [name for name, (_, has, _) in FINDINGS.items() if has(run.diagnoses[index])],
                "dropped": run.rows[index].get("dropped_turns", 0),
            }
            for run in runs
        ]
        turns = [[turn.speaker or "", turn.text] for turn in split_turns(row["dialogue"])]
        dialogues.append(
            {
                "id": str(row["id"]),
                "topic": str(row.get("topic") or ""),
                "turns": turns,
                "references": row["references"],
                "outputs": outputs,
            }
        )
    findings = {name: label for name, (label, *_) in FINDINGS.items()}
    return {
        "systems": [run.name for run in runs],
        "types": list(HEADLINE.values()),
        "findings": findings,
        "dialogues": dialogues,
    }


def segments(prediction: str, found: Diagnosis) -> list[list[str]]:
    """The text in pieces [text, kind]: "name", "number", "tag", "format" for what is wrong with it, else "".

    In pieces, as offsets in Python count characters, but in a browser UTF-16 units.
    """
    kinds = [""] * len(prediction)
    spans = {
        "name": found.unsupported_names,
        "number": found.unsupported_numbers,
        "format": found.foreign_tags,
        "tag": found.wrong_tags,
    }
    for kind, places in spans.items():
        for start, end in places:
            kinds[start:end] = [kind] * (end - start)
    pieces = groupby(range(len(prediction)), key=kinds.__getitem__)
    return [["".join(prediction[i] for i in where), kind] for kind, where in pieces]
