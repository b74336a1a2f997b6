"""An evaluated run: predictions, record, scores of each dialogue and diagnoses, computed once and used everywhere."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dialogsum_sft import InputError, files
from dialogsum_sft.data.answers import with_summary
from dialogsum_sft.data.dialogue import Dialogue
from dialogsum_sft.data.transcripts import dialogue_of
from dialogsum_sft.evaluation import diagnostics
from dialogsum_sft.evaluation.baselines import baseline_scores, human_scores, share_of_human
from dialogsum_sft.evaluation.diagnostics import Diagnosis, diagnose
from dialogsum_sft.evaluation.likelihood import LIKELIHOOD, kept_likelihood, measured_alike, paired_values
from dialogsum_sft.evaluation.prediction_columns import read_predictions
from dialogsum_sft.evaluation.prediction_files import Row
from dialogsum_sft.evaluation.predictions import own_references
from dialogsum_sft.evaluation.rouge import HEADLINE, ROUGE_TYPES, aggregate_scores, fingerprint, mean, rouge_scores
from dialogsum_sft.evaluation.significance import Comparison, compare, holm
from dialogsum_sft.evaluation.tokenizers import TOKENIZERS

if TYPE_CHECKING:  # the encoder needs torch, and is optional
    from dialogsum_sft.evaluation.bertscore import BertScorer

# Format of metrics.json. In format 1, `unfinished` was the number of summaries cut off; it is their share since. Until
# format 2, ROUGE-SU4 counted the last word of a text by itself, and thinking was scored.
METRICS_FORMAT = 3
# Parts of metrics.json without which a run cannot be compared or drawn.
_REQUIRED = {*ROUGE_TYPES, "fingerprint", "human", "share_of_human", "baselines", "examples", "references"}
_REQUIRED |= {"diagnostics", "diagnostics_of_references", "slices"}


# The fields of predictions.jsonl in their order.
_FIELDS = (
    *("id", "dialogue", "references", "prediction", "raw_prediction", "predictions_by_reference"),
    *("prompt_tokens", "completion_tokens", "finish_reason", "fault", *LIKELIHOOD, "candidates"),
    *("dropped_turns", "cut_turns", "dropped_tokens", "windows", "calls", "turns_seen", "tokens_seen"),
    *("topic", "turns"),
)


@dataclass
class Run:
    """A system's summaries of a test set with their scores."""

    name: str  # label in tables and on the page, such as "zero-shot"
    folder: Path  # predictions.jsonl and metrics.json are there, or will be
    rows: list[Row]  # lines of predictions.jsonl
    record: dict[str, Any]  # metrics.json
    scores: dict[str, list[float]]  # {type: [dialogue]}, mean over the references, x 100
    diagnoses: list[Diagnosis]

    def save(self) -> None:
        """Write predictions.jsonl, then metrics.json, each atomically."""
        rows = [{name: row[name] for name in (*_FIELDS, *row) if name in row} for row in self.rows]
        files.write_jsonl(self.folder / "predictions.jsonl", rows)
        files.write_json(self.folder / "metrics.json", self.record)


def score_run(
    name: str,
    folder: Path,
    rows: list[Row],
    *,
    tokenizer: str = "default",
    seed: int = 42,
    strip_preamble: bool = False,
    bert_scorer: "BertScorer | None" = None,
    **record: Any,
) -> Run:
    """Score rows {id, dialogue, references, prediction, ...}; nothing is written.

    Thinking is cut off from the predictions, and with `strip_preamble` a preamble too; what was written is kept beside
    them (see `answers.with_summary`). Where a row has `predictions_by_reference`, these are scored and `prediction` is
    diagnosed.

    recipes/README.md describes the record. Scores depend on the rows, the tokenizer and the seed only.
    `human` and `share_of_human` are None where no dialogue has two references; `unfinished` is the share of the
    summaries that were cut off, 0 to 1, and None where no row has a `finish_reason`. The further parts (`model`,
    `data`, `prompt`, `engine`, `versions`, ...) follow in the order given.

    Raises ValueError for an unknown tokenizer or a row without references.
    """
    rows, record = kept_likelihood([with_summary(row, strip_preamble) for row in rows], record)
    return _scored(name, folder, rows, tokenizer, seed, strip_preamble, bert_scorer, record)


def _scored(
    name: str,
    folder: Path,
    rows: list[Row],
    tokenizer: str,
    seed: int,
    strip_preamble: bool,
    bert_scorer: "BertScorer | None",
    record: dict[str, Any],
) -> Run:
    predictions, references = _predictions(rows), [row["references"] for row in rows]
    by_reference = rouge_scores(predictions, references, tokenizer)
    diagnoses = [diagnose(row) for row in rows]
    if bert_scorer is not None:
        by_reference["bertscore"] = bert_scorer.scores(predictions, references)
    human, baselines, of_references = _dataset_scores(
        tuple(map(dialogue_of, rows)), tuple(map(tuple, references)), tokenizer
    )
    tokens = [row["completion_tokens"] for row in rows if row.get("completion_tokens") is not None]
    rouge1 = by_reference["rouge1"] if all(isinstance(text, str) for text in predictions) else None
    rates = diagnostics.rates(rows, diagnoses, tokenizer, rouge1=rouge1)
    scores = aggregate_scores(by_reference, seed=seed)
    if bert_scorer is not None:
        scores["bertscore"] |= {"model": bert_scorer.name, "layer": bert_scorer.layer}
    protocol = fingerprint(references, tokenizer, strip_preamble=strip_preamble)
    if (long := record.get("long") or {}).get("way", "shorten") != "shorten":
        protocol["long"] = f"{long['way']}, overlap {long['overlap']:g}"
    metrics = {
        "format": METRICS_FORMAT,
        **scores,
        "human": human,
        "share_of_human": share_of_human(by_reference, human),
        "baselines": baselines,
        "diagnostics": rates,
        "diagnostics_of_references": of_references,
        "slices": diagnostics.slices(rows, by_reference),
        "examples": len(rows),
        "references": sum(map(len, references)),
        "lengths": {
            "prediction_words": mean([len(row["prediction"].split()) for row in rows]),
            "reference_words": mean([len(text.split()) for refs in references for text in refs]),
            "completion_tokens": mean(tokens) if tokens else None,
        },
        "unfinished": rates["unfinished"],
        "fingerprint": protocol,
        **record,
    }
    return Run(name, folder, rows, metrics, _means(by_reference), diagnoses)


@lru_cache(maxsize=2)  # all systems of an evaluation are scored on the same dialogues
def _dataset_scores(
    dialogues: tuple[Dialogue, ...], references: tuple[tuple[str, ...], ...], tokenizer: str
) -> tuple[Any, ...]:
    """Human scores, baselines, and the diagnostics of each reference beside the others of its dialogue."""
    annotators = [
        {
            "dialogue": dialogue.text,
            "turns": turns,
            "references": (refs[:i] + refs[i + 1 :]) or refs,
            "prediction": ref,
        }
        for dialogue, refs in zip(dialogues, references, strict=True)
        for turns in [dialogue.record()]
        for i, ref in enumerate(refs)
    ]
    return (
        human_scores(references, tokenizer),
        baseline_scores(dialogues, references, tokenizer),
        diagnostics.rates(annotators, [diagnose(row) for row in annotators], tokenizer),
    )


def read_run(folder: Path, name: str | None = None) -> Run:
    """Read a run that recipes/eval.py has saved; `name` is the folder's name by default.

    ROUGE is computed again from the predictions; BERTScore is not. A record of an older format is converted. Raises
    InputError when a file is missing or broken, or when metrics.json has other scores than the predictions.
    """
    missing = [file for file in ("predictions.jsonl", "metrics.json") if not (folder / file).is_file()]
    if missing:
        raise InputError(f"{folder} has no {' and no '.join(missing)}: give a folder that recipes/eval.py has written")
    path, record_path = folder / "predictions.jsonl", folder / "metrics.json"
    again = f"score it again with eval.py --predictions_file {path}"
    try:
        record = json.loads(record_path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{record_path} is not JSON: {error}") from error
    if not isinstance(record, dict) or not set(record) >= _REQUIRED:
        raise InputError(f"{record_path} is of an older version: {again}")
    if record.get("format", 1) not in range(1, METRICS_FORMAT + 1):
        raise InputError(f"{record_path} has format {record['format']}, of a newer version: {again}")
    try:
        recorded = {kind: float(record[kind]["mean"]) for kind in HEADLINE}
        version = record["fingerprint"]["tokenizer"]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{record_path} is damaged: {again}") from error
    tokenizer = next((key for key, value in TOKENIZERS.items() if value == version), "default")
    rows = own_references(read_predictions(path)).rows
    if len(rows) != record["examples"]:
        raise InputError(
            f"{path} has {len(rows)} rows but metrics.json expects {record['examples']}: run eval.py again"
        )
    scores = _means(rouge_scores(_predictions(rows), [row["references"] for row in rows], tokenizer))
    for kind, label in HEADLINE.items():
        computed = mean(scores[kind])
        if abs(computed - recorded[kind]) > 1e-6:
            raise InputError(
                f"{folder}: predictions.jsonl has {label} {computed:.2f} but metrics.json {recorded[kind]:.2f}: one "
                f"of them was changed, so {again}"
            )
    if record.get("format", 1) < METRICS_FORMAT:
        seed = (record.get("engine") or {}).get("seed", 42)
        record |= _scored("", folder, rows, tokenizer, seed, False, None, {}).record
    return Run(name or folder.resolve().name, folder, rows, record, scores, [diagnose(row) for row in rows])


def _predictions(rows: Sequence[Row]) -> list[str | list[str]]:
    return [row.get("predictions_by_reference") or row["prediction"] for row in rows]


def _means(by_reference: dict[str, list[list[float]]]) -> dict[str, list[float]]:
    return {kind: [mean(values) for values in by_dialogue] for kind, by_dialogue in by_reference.items()}


def check_comparable(runs: Sequence[Run]) -> None:
    """Raise InputError unless all runs have the protocol, the dialogues and the references of the first, in order."""
    for run in runs[1:]:
        refused = f"{run.folder} cannot be compared with {runs[0].folder}"
        ours, theirs = runs[0].record["fingerprint"], run.record["fingerprint"]
        differences = [
            f"{key} is {theirs.get(key)!r}, not {ours.get(key)!r}"
            for key in {**ours, **theirs}
            if ours.get(key) != theirs.get(key)
        ]
        if len(run.rows) != len(runs[0].rows):
            differences.append(f"{len(run.rows)} predictions, not {len(runs[0].rows)}")
        if differences:
            raise InputError(
                f"{refused}: {'; '.join(differences)}. Evaluate both on the same split with the same "
                "--summary_columns, --rouge_tokenizer and --strip_preamble; eval.py --predictions_file scores again "
                "without a model"
            )
        pairs = zip(runs[0].rows, run.rows, strict=True)
        keys = ("dialogue", "references")
        lines = [n for n, (a, b) in enumerate(pairs, 1) if any(a[key] != b[key] for key in keys)]
        if lines:
            raise InputError(
                f"{refused}: {len(lines)} dialogues or their references differ, the first on line {lines[0]}"
            )


def compare_runs(runs: Sequence[Run], *, seed: int = 42, resamples: int = 10_000) -> list[dict[str, Comparison]]:
    """Each later run against the first, {type: comparison}; p is adjusted over all these tests by Holm's method.

    The types are those of HEADLINE and, where all runs have likelihoods of one measure, those of LIKELIHOOD, over the
    dialogues of which both runs have a summary.
    """
    comparisons = []
    for run in runs[1:]:
        values = {kind: (run.scores[kind], runs[0].scores[kind]) for kind in HEADLINE}
        if measured_alike([one.record for one in runs]):
            values |= {kind: paired_values(kind, run.rows, runs[0].rows) for kind in LIKELIHOOD}
        comparisons.append(
            {kind: compare(a, b, seed=seed, resamples=resamples) for kind, (a, b) in values.items() if a}
        )
    adjusted = iter(holm([test.p for by_kind in comparisons for test in by_kind.values()]))
    return [{kind: replace(test, p=next(adjusted)) for kind, test in by_kind.items()} for by_kind in comparisons]
