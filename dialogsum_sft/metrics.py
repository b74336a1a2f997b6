"""ROUGE against several references, as pure functions: no torch, no network, no global random state.

The protocol: F1 x 100 of `rouge_score` with its Porter stemmer; for a dialogue the mean over its references, then the
plain mean over dialogues. (`evaluate.load("rouge")` fetches its script from the hub, takes the maximum over references
only, and averages by an unseeded bootstrap.)
"""

import hashlib
import re
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import datasets
import evaluate
import numpy as np
from rouge_score.rouge_scorer import RougeScorer
from scipy.stats import bootstrap

ROUGE_TYPES = ("rouge1", "rouge2", "rougeL", "rougeLsum")

# A full stop behind these ends no sentence: titles, and a lone capital as in "J. Smith".
_SENTENCE_END = re.compile(r"(?<=[.!?])(?<!\bMr\.)(?<!\bMrs\.)(?<!\bMs\.)(?<!\bDr\.)(?<!\bSt\.)(?<!\b[A-Z]\.)\s+")


def split_sentences(text: str) -> str:
    """One sentence a line, as rougeLsum wants it: without newlines it is rougeL (Lin 2004, section 3.2)."""
    return "\n".join(_SENTENCE_END.split(text.strip()))


def rouge_scores(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, list[list[float]]]:
    """ROUGE F1 x 100 of each prediction against each of its references: {type: [dialogue][reference]}.

    Raises ValueError when the lengths differ or a dialogue has no reference.
    """
    if len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} predictions but {len(references)} lists of references")
    scorer = RougeScorer(ROUGE_TYPES, use_stemmer=True)
    scores: dict[str, list[list[float]]] = {name: [] for name in ROUGE_TYPES}
    for number, (prediction, refs) in enumerate(zip(predictions, references, strict=True)):
        if not refs:
            raise ValueError(f"dialogue {number} has no reference")
        pairs = [scorer.score(split_sentences(ref), split_sentences(prediction)) for ref in refs]
        for name in ROUGE_TYPES:
            scores[name].append([100 * pair[name].fmeasure for pair in pairs])
    return scores


def confidence_interval(values: Sequence[float], *, seed: int = 42, resamples: int = 10_000) -> list[float] | None:
    """95% percentile bootstrap interval of the mean over dialogues (Efron 1979); None for a single dialogue."""
    if len(values) < 2:
        return None
    result = bootstrap(
        (np.asarray(values),),
        np.mean,
        n_resamples=resamples,
        method="percentile",
        vectorized=True,
        batch=1000,
        rng=np.random.default_rng(seed),
    )
    return [float(result.confidence_interval.low), float(result.confidence_interval.high)]


def summarize_scores(scores: dict[str, list[list[float]]], *, seed: int = 42) -> dict[str, dict[str, Any]]:
    """For each ROUGE type: `mean` over references (the headline), `max`, `per_reference`, `ci95` of the mean.

    `per_reference` has the mean over dialogues against the first reference, the second, ...; it is empty where
    dialogues have different numbers of references.
    """
    result = {}
    for name, by_dialogue in scores.items():
        means = [sum(values) / len(values) for values in by_dialogue]
        even = len({len(values) for values in by_dialogue}) == 1
        result[name] = {
            "mean": float(np.mean(means)),
            "max": float(np.mean([max(values) for values in by_dialogue])),
            "per_reference": [float(x) for x in np.mean(by_dialogue, axis=0)] if even else [],
            "ci95": confidence_interval(means, seed=seed),
        }
    return result


def fingerprint(references: Sequence[Sequence[str]]) -> dict[str, Any]:
    """What two scores must share to be compared."""
    digest = hashlib.sha256()
    for refs in references:
        digest.update("\0".join([*refs, "\n"]).encode())
    return {
        "library": f"rouge_score {version('rouge_score')}",
        "stemmer": True,
        "tokenizer": "default",
        "aggregation": "mean over references, then over dialogues",
        "rougeLsum": "sentences split at .!? before scoring",
        "dialogues": len(references),
        "references": sum(len(refs) for refs in references),
        "references_sha256": digest.hexdigest()[:16],
    }


class DialogueRouge(evaluate.Metric):
    """The same scores as an `evaluate.Metric`, which needs no network: `DialogueRouge().compute(...)`.

    `predictions` is a list of str, `references` a list of lists of str; returns {type: mean over references, x 100}
    and {type_max: max over references}.
    """

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="ROUGE F1 x 100 with stemmer, mean and max over several references",
            citation="Lin 2004, ROUGE: A Package for Automatic Evaluation of Summaries",
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.List(datasets.Value("string"))}
            ),
        )

    def _compute(self, predictions: list[str], references: list[list[str]]) -> dict[str, float]:
        summary = summarize_scores(rouge_scores(predictions, references))
        means = {name: values["mean"] for name, values in summary.items()}
        return means | {f"{name}_max": values["max"] for name, values in summary.items()}
