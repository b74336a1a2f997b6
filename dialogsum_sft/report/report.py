"""report.html: the scores of one or several evaluated runs, as a self-contained page.

This module computes the figures. page.html.jinja has the text and charts.html.jinja the drawings; report.css and
report.js are inlined. A user's text reaches the page through Jinja's autoescape, or as JSON that the page's script
inserts as text, never as markup. A content security policy forbids every other script and every request.
"""

import base64
import hashlib
import json
import math
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import dialogsum_sft
from dialogsum_sft import InputError, files
from dialogsum_sft.data.transcripts import dialogue_of
from dialogsum_sft.evaluation.diagnostics import Diagnosis, count, unfinished_share
from dialogsum_sft.evaluation.likelihood import LIKELIHOOD
from dialogsum_sft.evaluation.rouge import HEADLINE
from dialogsum_sft.evaluation.runs import Run, check_comparable, compare_runs
from dialogsum_sft.evaluation.significance import Comparison
from dialogsum_sft.evaluation.tokenizers import words
from dialogsum_sft.report import charts
from dialogsum_sft.report.run_tables import few_dialogues, likelihood_table, reference_flags
from dialogsum_sft.tables import Table

import jinja2
from markupsafe import Markup

OTHERS = {"rougeLsum": "ROUGE-Lsum", "rougeS4": "ROUGE-S4", "rougeSU4": "ROUGE-SU4", "bertscore": "BERTScore"}

# Faults of a summary: the label on the page, and the field of a diagnosis that is not empty, false or 0 then.
FINDINGS = {
    "unfinished": ("cut off at the token limit", "unfinished"),
    "empty": ("empty", "empty"),
    "preamble": ("a preamble such as “Here is a summary:”", "preamble"),
    "name": ("a name that the dialogue lacks", "unsupported_names"),
    "number": ("a number that the dialogue lacks", "unsupported_numbers"),
    "tag": ("a speaker that the dialogue lacks", "wrong_tags"),
    "format": ("a speaker’s tag in another format", "foreign_tags"),
    "repeats": ("three words in a row said twice", "repeated_trigrams"),
}

# Those of metrics.json's `diagnostics` that are no faults of summaries: label on the page, and format.
DIAGNOSTICS = {
    "words": ("words", "{:.1f}"),
    "length_ratio": ("length, of the references’", "{:.0%}"),
    "thinking": ("with thinking, which is not scored", "{:.0%}"),
    "marks": ("with special tokens, which are not scored", "{:.0%}"),
    "compression": ("words of the dialogue for each of its own", "{:.1f}"),
    "copied_run": ("longest run copied from the dialogue", "{:.0%}"),
    "novel_bigrams": ("word pairs that the dialogue lacks", "{:.0%}"),
    "repeated_trigrams": ("word triples repeated", "{:.1%}"),
    "foreign_tags_cost": ("ROUGE-1 that the tags’ format costs", "{:.2f}"),
}

MAX_TOPICS = 12


def write_report(
    path: Path,
    runs: Sequence[Run],
    *,
    training_log: Path | None = None,
    judged: Sequence[Table] = (),
    title: str,
    seed: int = 42,
    resamples: int = 10_000,
) -> list[dict[str, Comparison]]:
    """Write one HTML file for `runs`; returns the paired tests, those of `compare_runs`.

    The first run provides the baselines and the human ceiling, and all others are compared with it. `training_log` is
    a `training.jsonl`; where it is None or not a file, the page has no training curves. `judged` are the tables of a
    judge. `seed` and `resamples` are of the paired tests.

    Raises InputError unless all runs have the same dialogues, references and protocol, or for a broken log.
    """
    check_comparable(runs)
    curves = read_training_log(training_log) if training_log is not None and training_log.is_file() else {}
    differences = compare_runs(runs, seed=seed, resamples=resamples)
    folder = Path(__file__).parent
    script = (folder / "report.js").read_text(encoding="utf-8")
    templates, undefined = jinja2.FileSystemLoader(folder), jinja2.StrictUndefined
    environment = jinja2.Environment(
        loader=templates, autoescape=True, undefined=undefined, trim_blocks=True, lstrip_blocks=True
    )
    human, baselines = runs[0].record["human"], runs[0].record["baselines"]
    references = [text for row in runs[0].rows for text in row["references"]]
    lengths = [[diagnosis.words for diagnosis in run.diagnoses] for run in runs]
    html = environment.get_template("page.html.jinja").render(
        title=title,
        style=Markup((folder / "report.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_sha256=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        runs=runs,
        version=dialogsum_sft.__version__,
        dataset=(runs[0].record.get("data") or {}).get("dataset_name"),
        human=human,
        baselines=baselines,
        headline=HEADLINE,
        measures={
            kind: name
            for kind, name in (HEADLINE | OTHERS).items()
            if all(isinstance(run.record.get(kind), dict) for run in runs)
        },
        differences=differences,
        few=few_dialogues(len(runs[0].rows), sum(map(len, differences))),
        scores=[
            charts.scores(
                name,
                {run.name: run.record[kind] for run in runs},
                {label: scores[kind]["mean"] for label, scores in baselines.items()},
                human[kind]["mean"] if human else None,
            )
            for kind, name in HEADLINE.items()
        ],
        training=charts.training(curves),
        judged=judged,
        histograms=[
            charts.histograms("ROUGE-1 of each dialogue", "ROUGE-1", [run.scores["rouge1"] for run in runs]),
            charts.histograms("Length of each summary", "words", lengths, [len(words(text)) for text in references]),
        ],
        gains=[charts.gains(run.name, runs[0].scores["rouge1"], run.scores["rouge1"]) for run in runs[1:]],
        findings=finding_rows(runs),
        diagnostics=diagnostic_rows(runs),
        likelihood=likelihood_table(runs),
        # Of each later run against the first; none where likelihoods are not compared.
        likelihood_tests=[
            [one[kind] for kind in LIKELIHOOD] for one in differences if one.keys() >= LIKELIHOOD.keys()
        ],
        references=len(references),
        reference_flags=reference_flags(runs[0].record["diagnostics_of_references"]),
        slices=slice_tables(runs),
        record=record_rows(runs),
        data=reader_data(runs),
    )
    # JSON can hold a lone surrogate, UTF-8 cannot.
    files.write_text(path, html.lstrip().encode("utf-8", "replace").decode())
    return differences


def read_training_log(path: Path) -> dict[str, list[tuple[float, float]]]:
    """{quantity: [(step, value)]} of all finite numbers; lines without a step and an unfinished last line are skipped.

    Raises InputError for any other line that is not a JSON object.
    """
    curves: dict[str, list[tuple[float, float]]] = {}
    *lines, _ = path.read_text(encoding="utf-8", errors="replace").split("\n")
    for number, line in enumerate(lines, 1):
        try:
            items = json.loads(line).items()
        except (ValueError, AttributeError) as error:
            raise InputError(f"{path} line {number} is not a JSON object: remove it") from error
        numbers = {key: x for key, x in items if isinstance(x, int | float) and math.isfinite(x)}
        for key, value in numbers.items():
            if key != "step" and "step" in numbers:
                curves.setdefault(key, []).append((numbers["step"], value))
    return curves


def finding_rows(runs: Sequence[Run]) -> dict[str, dict[str, Any]]:
    """For each fault its label, the number of summaries of each run with it, and the share of references or None."""
    references = runs[0].record["diagnostics_of_references"]
    rows = {}
    for name, (label, field) in FINDINGS.items():
        counts: list[int | None] = []
        for run in runs:
            known = name != "unfinished" or unfinished_share(run.rows) is not None
            counts.append(count(run.diagnoses, field) if known else None)
        # metrics.json has the mean share of repeated trigrams, not the share of summaries that repeat one.
        share = None if name == "repeats" else references.get(field)
        rows[name] = {"label": label, "counts": counts, "references": share}
    return rows


def diagnostic_rows(runs: Sequence[Run]) -> dict[str, tuple[str, list[str]]]:
    """For each of DIAGNOSTICS its label, and its value for each run and the references, "" where unknown."""
    records = [*(run.record["diagnostics"] for run in runs), runs[0].record["diagnostics_of_references"]]
    rows = {}
    for key, (label, form) in DIAGNOSTICS.items():
        values = ["" if record.get(key) is None else form.format(record[key]) for record in records]
        if any(values):
            rows[key] = (label, values)
    return rows


def slice_tables(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """The slices that all runs have; of the topics only the most frequent."""
    tables = []
    for name, slices in runs[0].record["slices"].items():
        others = [run.record["slices"].get(name, {}) for run in runs]
        labels = [label for label in slices if all(label in other for other in others)]
        most = sorted(labels, key=lambda label: -slices[label]["examples"])[: MAX_TOPICS if name == "topic" else None]
        rows = [{"label": label, "cells": [run[label] for run in others]} for label in labels if label in most]
        if len(labels) > 1 and rows:
            x = charts.scale([cell["rouge1"] for row in rows for cell in row["cells"]])
            tables.append({"name": name, "rows": rows, "left_out": len(labels) - len(rows), "x": x})
    return tables


def record_rows(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """(key, value of each run) of the parts of metrics.json about the evaluation itself; one value where all agree."""
    parts = ["model", "data", "prompt", "engine", "fingerprint", "likelihood"]
    parts += ["versions", "hardware", "git_revision", "seconds"]
    records = [dict(_flatten({part: run.record.get(part) for part in parts})) for run in runs]
    keys = dict.fromkeys(key for record in records for key in record)
    rows = [(key, [record.get(key, "") for record in records]) for key in keys]
    return [(key, values[:1] if len(set(values)) == 1 else values) for key, values in rows if any(values)]


def _flatten(record: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows = []
    for key, value in record.items():
        if isinstance(value, dict):
            rows += _flatten(value, f"{prefix}{key}.")
        elif value is None or isinstance(value, str):
            rows.append((f"{prefix}{key}", value or ""))
        else:
            rows.append((f"{prefix}{key}", json.dumps(value, default=str)))
    return rows


def reader_data(runs: Sequence[Run]) -> dict[str, Any]:
    """The dialogues with references and summaries, as JSON for the page's script."""
    dialogues = []
    for index, row in enumerate(runs[0].rows):
        outputs = [
            {
                "text": segments(run.rows[index]["prediction"], run.diagnoses[index]),
                "scores": [round(run.scores[kind][index], 2) for kind in HEADLINE],
                "words": run.diagnoses[index].words,
                "findings": [name for name, (_, field) in FINDINGS.items() if getattr(run.diagnoses[index], field)],
                "dropped": run.rows[index].get("dropped_turns", 0),
                "windows": run.rows[index].get("windows", 1),
                "seen": run.rows[index].get("turns_seen", 1),
                "likelihood": [run.rows[index].get(kind) for kind in LIKELIHOOD],
            }
            for run in runs
        ]
        turns = [[turn.speaker or "", turn.text] for turn in dialogue_of(row).turns]
        own = {"id": str(row["id"]), "topic": str(row.get("topic") or ""), "turns": turns}
        dialogues.append(own | {"references": row["references"], "outputs": outputs})
    findings = {name: label for name, (label, _) in FINDINGS.items()}
    systems, types = [run.name for run in runs], list(HEADLINE.values())
    return {"systems": systems, "types": types, "findings": findings, "dialogues": dialogues}


def segments(prediction: str, diagnosis: Diagnosis) -> list[list[str]]:
    """Split a prediction into pieces [text, fault]; the fault is "name", "number", "tag", "format" or "".

    Pieces rather than offsets, because Python counts characters and a browser counts UTF-16 units.
    """
    kinds = [""] * len(prediction)
    for kind in ("name", "number", "format", "tag"):
        for start, end in getattr(diagnosis, FINDINGS[kind][1]) or []:
            kinds[start:end] = [kind] * (end - start)
    pieces = groupby(range(len(prediction)), key=kinds.__getitem__)
    return [["".join(prediction[i] for i in where), kind] for kind, where in pieces]
