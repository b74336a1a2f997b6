"""Predictions, from a model or from a file, to the scores of metrics.json: the same function for both.

What `score` returns is decided by the rows of predictions.jsonl, the tokenizer and the seed alone, so that anybody can
compute metrics.json again.
"""

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from dialogsum_sft import InputError
from dialogsum_sft.evaluation import diagnostics
from dialogsum_sft.evaluation.baselines import baseline_scores, human_scores, share_of_human
from dialogsum_sft.evaluation.bertscore import BertScorer
from dialogsum_sft.evaluation.predictions import Row, own_references, read_predictions
from dialogsum_sft.evaluation.rouge import aggregate_scores, fingerprint, rouge_scores


def score(
    rows: Sequence[Mapping[str, Any]],
    *,
    tokenizer: str = "default",
    seed: int = 42,
    bert_scorer: BertScorer | None = None,
) -> dict[str, Any]:
    """The scores of rows {id, dialogue, references, prediction, ...} as they stand in metrics.json (see the README).

    ROUGE F1 x 100; `human` and `share_of_human` are None where no dialogue has two references; `unfinished` counts the
    summaries that were cut off, and is None where no row has a `finish_reason`; `bertscore` is there with a
    `bert_scorer`. Raises ValueError for an unknown
    tokenizer or a row without references.
    """
    references = [row["references"] for row in rows]
    predictions = [row["prediction"] for row in rows]
    rouge = rouge_scores(predictions, references, tokenizer)
    human, baselines, of_references = _of_dataset(
        tuple(row["dialogue"] for row in rows), tuple(map(tuple, references)), tokenizer
    )
    bert: dict[str, Any] = {}
    if bert_scorer is not None:
        bert = aggregate_scores({"bertscore": bert_scorer.scores(predictions, references)}, seed=seed)
        bert["bertscore"] |= {"model": bert_scorer.name, "layer": bert_scorer.layer}
    tokens = [row["completion_tokens"] for row in rows if row.get("completion_tokens") is not None]
    reasons = [row["finish_reason"] for row in rows if row.get("finish_reason") is not None]
    return {
        **aggregate_scores(rouge, seed=seed),
        **bert,
        "human": human,
        "share_of_human": share_of_human(rouge, human),
        "baselines": baselines,
        "diagnostics": diagnostics.rates(rows, tokenizer),
        "diagnostics_of_references": of_references,
        "slices": diagnostics.slices(rows, rouge),
        "examples": len(rows),
        "references": sum(map(len, references)),
        "lengths": {
            "prediction_words": _mean([len(text.split()) for text in predictions]),
            "reference_words": _mean([len(text.split()) for refs in references for text in refs]),
            "completion_tokens": _mean(tokens) if tokens else None,
        },
        "unfinished": reasons.count("length") if reasons else None,
        "fingerprint": fingerprint(references, tokenizer),
    }


@lru_cache(maxsize=2)  # base and tuned are scored on the same dialogues
def _of_dataset(
    dialogues: tuple[str, ...], references: tuple[tuple[str, ...], ...], tokenizer: str
) -> tuple[Any, ...]:
    """Human scores, baselines, and the diagnostics of the references, each beside the others of its dialogue."""
    annotators = [
        {"dialogue": dialogue, "references": (refs[:i] + refs[i + 1 :]) or refs, "prediction": ref}
        for dialogue, refs in zip(dialogues, references, strict=True)
        for i, ref in enumerate(refs)
    ]
    return (
        human_scores(references, tokenizer),
        baseline_scores(dialogues, references, tokenizer),
        diagnostics.rates(annotators, tokenizer),
    )


def _mean(values: Sequence[int]) -> float:
    return sum(values) / len(values)


def read_run(folder: Path) -> tuple[list[Row], dict[str, Any]]:
    """predictions.jsonl and metrics.json of an evaluated run; InputError when one is missing or broken."""
    missing = [name for name in ("predictions.jsonl", "metrics.json") if not (folder / name).is_file()]
    if missing:
        raise InputError(f"{folder} has no {' and no '.join(missing)}: give a folder that recipes/eval.py has written")
    try:
        record = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{folder / 'metrics.json'} is not JSON: {error}") from error
    path = folder / "predictions.jsonl"
    if not isinstance(record, dict) or not {"fingerprint", "baselines", "diagnostics"} <= set(record):
        raise InputError(
            f"{folder / 'metrics.json'} is of an older version: score it again with eval.py --predictions_file {path}"
        )
    return own_references(read_predictions(path), path), record
