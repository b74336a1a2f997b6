"""`report.html`: what one or several evaluated runs scored, as a page that needs nothing but itself.

The figures of a page are pure functions of the files that a run leaves; `report.html.jinja` has its words and its
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
from dialogsum_sft import InputError, checkpoints, significance
from dialogsum_sft.charts import histogram, mean, scale, thin
from dialogsum_sft.diagnostics import Diagnosis, diagnose
from dialogsum_sft.dialogue import split_turns
from dialogsum_sft.metrics import rouge_scores

import jinja2

HEADLINE = {"rouge1": "ROUGE-1", "rouge2": "ROUGE-2", "rougeL": "ROUGE-L"}
ROUGE_NAMES = HEADLINE | {"rougeLsum": "ROUGE-Lsum", "rougeS4": "ROUGE-S4", "rougeSU4": "ROUGE-SU4"}

# What a summary can have that ROUGE does not see: its name, how the chart says it, and whether a diagnosis has it.
FINDINGS: dict[str, tuple[str, Callable[[Diagnosis], bool]]] = {
    "unfinished": ("cut off at max_new_tokens", lambda found: found.unfinished),
    "empty": ("empty", lambda found: found.empty),
    "name": ("a name that the dialogue lacks", lambda found: bool(found.unsupported_names)),
    "number": ("a number that the dialogue lacks", lambda found: bool(found.unsupported_numbers)),
    "tag": ("a speaker that the dialogue lacks", lambda found: bool(found.wrong_tags)),
    "format": ("a speaker tag in no reference's format", lambda found: bool(found.foreign_tags)),
    "repeats": ("three words in a row said twice", lambda found: found.repeated_trigrams > 0),
}

# Means that stand below them: what a diagnosis calls it, how the table says it, and how a value is written.
MEANS = {
    "words": ("words", "{:.1f}"),
    "length_ratio": ("length, of the references’", "{:.0%}"),
    "compression": ("words of the dialogue for each of its own", "{:.1f}"),
    "copied_run": ("longest passage copied, of its words", "{:.0%}"),
    "novel_bigrams": ("word pairs that the dialogue lacks", "{:.0%}"),
}

TRAINING = {
    "Loss": {"loss": "training", "eval_loss": "validation"},
    "ROUGE of validation samples": {f"eval_{name}_mean": label for name, label in HEADLINE.items()},
    "Validation summaries cut off, share": {"eval_unfinished": "validation"},
    "Token accuracy": {"mean_token_accuracy": "training", "eval_mean_token_accuracy": "validation"},
    "Learning rate": {"learning_rate": "training"},
    "Gradient norm": {"grad_norm": "training"},
}

COLUMNS = {"id": object, "dialogue": str, "references": list, "prediction": str}  # of predictions.jsonl

MAX_TOPICS = 12
MAX_POINTS = 240  # of a curve: a chart is 320 pixels wide


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
    checkpoints.write_text(path, render(loaded, curves, title))


def load_run(name: str, folder: Path) -> Run:
    """Raises InputError where predictions.jsonl or metrics.json is missing or broken."""
    metrics = _json(folder / "metrics.json", _text(folder / "metrics.json"))
    path = folder / "predictions.jsonl"
    lines = _text(path).split("\n")
    rows = [_json(path, line, number) for number, line in enumerate(lines, 1) if line.strip()]
    broken = [key for key in HEADLINE if not isinstance(metrics.get(key), dict) or "mean" not in metrics[key]]
    if broken:
        raise InputError(f"{folder / 'metrics.json'} has no {', '.join(broken)}: evaluate the run again")
    for number, row in enumerate(rows, 1):
        missing = [key for key, kind in COLUMNS.items() if not isinstance(row.get(key), kind)]
        if missing or not row["references"]:
            missing = missing or ["references"]
            raise InputError(f"{path} row {number} has no {', '.join(missing)}: evaluate the run again")
    if not rows:
        raise InputError(f"{path} is empty: give a folder that eval.py wrote")
    tokenizer = "unicode" if str(metrics.get("fingerprint", {}).get("tokenizer")).startswith("unicode") else "default"
    scores = rouge_scores([row["prediction"] for row in rows], [row["references"] for row in rows], tokenizer)
    means = {kind: [sum(values) / len(values) for values in scores[kind]] for kind in HEADLINE}
    return Run(name, metrics, rows, means, [diagnose(row) for row in rows])


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path} ({error}): give a folder that eval.py wrote") from error


def _json(path: Path, text: str, line: int | None = None) -> dict[str, Any]:
    where = f"{path} line {line}" if line else f"{path}"
    try:
        record = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{where} is not JSON ({error}): evaluate the run again") from error
    if not isinstance(record, dict):
        raise InputError(f"{where} is not a JSON object: evaluate the run again")
    return record


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
    """{quantity: [(step, value)]}, all that is a finite number; a last line that was being written is left out.

    Raises InputError for another line that is not JSON.
    """
    curves: dict[str, list[tuple[float, float]]] = {}
    lines = _text(path).split("\n")
    for number, line in enumerate(lines[:-1], 1):
        record = _json(path, line, number) if line.strip() else {}
        for key, value in record.items():
            known = all(isinstance(x, int | float) and math.isfinite(x) for x in (value, record.get("step")))
            if known and key != "step":
                curves.setdefault(key, []).append((record["step"], value))
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
    environment.filters["sha256"] = lambda text: base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    html = environment.get_template("report.html.jinja").render(
        title=title,
        runs=runs,
        version=dialogsum_sft.__version__,
        dataset=(runs[0].metrics.get("data") or {}).get("dataset_name"),
        human=runs[0].metrics.get("human"),
        baselines=runs[0].metrics.get("baselines") or {},
        headline=HEADLINE,
        rouge_names={kind: name for kind, name in ROUGE_NAMES.items() if kind in runs[0].metrics},
        differences=differences(runs),
        scores=[score_panel(runs, kind) for kind in HEADLINE],
        training=training_panels(curves),
        histograms=histogram_panels(runs),
        gain_charts=gain_panels(runs),
        findings={name: (label, [faults(run, name) for run in runs]) for name, (label, _) in FINDINGS.items()},
        means=[
            (label, [form.format(mean([getattr(found, key) for found in run.diagnoses])) for run in runs])
            for key, (label, form) in MEANS.items()
        ],
        references=sum(len(row["references"]) for row in runs[0].rows),
        reference_words=mean([len(text.split()) for row in runs[0].rows for text in row["references"]]),
        slices=slice_tables(runs),
        record=record_rows(runs),
        data=reader_data(runs),
    )
    return html.encode("utf-8", "replace").decode()  # a lone surrogate, which JSON can hold and UTF-8 cannot


def faults(run: Run, finding: str) -> int | None:
    """How many summaries have it; None for cut-off ones where nothing says why any of them ended."""
    if finding == "unfinished" and all(row.get("finish_reason") is None for row in run.rows):
        return None
    return sum(FINDINGS[finding][1](found) for found in run.diagnoses)


def style(index: int) -> str:
    """The class that gives a run its colour and mark."""
    return f"s{index % 6}"


def differences(runs: Sequence[Run]) -> list[dict[str, significance.Comparison]]:
    """Each later run against the first, {type: comparison}; p is adjusted over the runs by Holm's method."""
    found: list[dict[str, significance.Comparison]] = [{} for _ in runs[1:]]
    for kind in HEADLINE:
        compared = [significance.compare(run.scores[kind], runs[0].scores[kind]) for run in runs[1:]]
        for i, p in enumerate(significance.holm([one.p for one in compared])):
            found[i][kind] = replace(compared[i], p=p)
    return found


def score_panel(runs: Sequence[Run], kind: str) -> dict[str, Any]:
    """Systems, baselines and the human ceiling on one axis."""
    first = runs[0].metrics
    rows = [
        {"label": run.name, "value": run.metrics[kind]["mean"], "ci95": run.metrics[kind]["ci95"], "style": style(i)}
        for i, run in enumerate(runs)
    ]
    baselines = {name: scores[kind]["mean"] for name, scores in (first.get("baselines") or {}).items()}
    rows += [
        {"label": name, "value": value, "ci95": None, "style": "baseline"}
        for name, value in sorted(baselines.items(), key=lambda item: -item[1])
    ]
    if first.get("human"):
        rows.insert(0, {"label": "human", "value": first["human"][kind]["mean"], "ci95": None, "style": "human"})
    ends = [x for row in rows for x in [row["value"], *(row["ci95"] or [])]]
    return {"title": HEADLINE[kind], "rows": rows, "scale": scale(ends)}


def training_panels(curves: Mapping[str, list[tuple[float, float]]]) -> list[dict[str, Any]]:
    """A chart for each kind of quantity that was logged at two steps or more."""
    panels = []
    for title, names in TRAINING.items():
        series = [
            {"label": names[key], "points": thin(curves[key], MAX_POINTS)}
            for key in names
            if len(curves.get(key, [])) > 1
        ]
        if series:
            points = [point for one in series for point in one["points"]]
            y = scale([value for _, value in points], zero=title != "Loss")
            panels.append({"title": title, "series": series, "x": scale([step for step, _ in points]), "y": y})
    return panels


def histogram_panels(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Share of dialogues, in %, by score and by length in words; the references' lengths beside the systems'."""
    systems = [(style(i), run.name) for i, run in enumerate(runs)]
    reference_words = [len(text.split()) for row in runs[0].rows for text in row["references"]]
    words = [[found.words for found in run.diagnoses] for run in runs] + [reference_words]
    every = sorted(value for values in words for value in values)
    longest = every[math.ceil(0.99 * len(every)) - 1]  # an endless summary must not flatten all the others
    charts = (
        ("ROUGE-1 of each dialogue", "ROUGE-1", systems, [run.scores["rouge1"] for run in runs], None),
        ("Length of each summary", "words", [*systems, ("references", "references")], words, scale([longest, 5])),
    )
    panels = []
    for title, unit, names, series, axis in charts:
        x = axis or scale([value for values in series for value in values])
        parts = int(x.ticks[1]) // 5 or 1 if unit == "words" else 4  # words are whole: so are bins of them
        shares = [histogram(values, x, parts * (len(x.ticks) - 1)) for values in series]
        y = scale([share for one in shares for share in one])
        drawn = [
            {
                "style": name[0],
                "label": name[1],
                "shares": one,
                "start": next(i for i, share in enumerate(one) if share),
                "end": max(i for i, share in enumerate(one) if share) + 1,
                "mean": min(mean(values), x.ticks[-1]),
            }
            for name, one, values in zip(names, shares, series, strict=True)
        ]
        panels.append({"title": title, "unit": unit, "series": drawn, "x": x, "y": y})
    return panels


def gain_panels(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """For each later run its ROUGE-1 minus the first run's, dialogue by dialogue, from loss to gain."""
    panels = []
    for index, run in enumerate(runs[1:], 1):
        gains = sorted(b - a for a, b in zip(runs[0].scores["rouge1"], run.scores["rouge1"], strict=True))
        panels.append(
            {
                "name": run.name,
                "style": style(index),
                "gains": gains,
                "wins": sum(gain > 0 for gain in gains),
                "losses": sum(gain < 0 for gain in gains),
                "y": scale(gains),
            }
        )
    return panels


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
            x = scale([cell["rouge1"] for row in rows for cell in row["cells"]])
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
                "findings": [name for name, (_, has) in FINDINGS.items() if has(run.diagnoses[index])],
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
    findings = {name: label for name, (label, _) in FINDINGS.items()}
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
