"""The scores of metrics.json, from the rows of predictions.jsonl; the rows may come from a model or from a file.

They depend on the rows, the tokenizer and the seed only, so that anyone can compute metrics.json again.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from dialogsum_sft.evaluation import diagnostics
from dialogsum_sft.evaluation.baselines import baseline_scores, human_scores, share_of_human
from dialogsum_sft.evaluation.diagnostics import Diagnosis, diagnose
from dialogsum_sft.evaluation.rouge import aggregate_scores, fingerprint, mean


def score(
    rows: Sequence[Mapping[str, Any]],
    by_reference: Mapping[str, list[list[float]]],
    diagnoses: Sequence[Diagnosis],
    *,
    tokenizer: str = "default",
    seed: int = 42,
) -> dict[str, Any]:
    """The scores of rows {id, dialogue, references, prediction, ...} as they stand in metrics.json (see the README).

    `by_reference` has the F1 x 100 of each ROUGE type, and of BERTScore if it was computed: {type:
    [dialogue][reference]}. `human` and `share_of_human` are None where no dialogue has two references; `unfinished`
    is the share of the summaries that were cut off, 0 to 1, and None where no row has a `finish_reason`.

    Raises ValueError for an unknown tokenizer or a row without references.
    """
    references = [row["references"] for row in rows]
    human, baselines, of_references = _dataset_scores(
        tuple(row["dialogue"] for row in rows), tuple(map(tuple, references)), tokenizer
    )
    tokens = [row["completion_tokens"] for row in rows if row.get("completion_tokens") is not None]
    rates = diagnostics.rates(rows, diagnoses, tokenizer, rouge1=by_reference["rouge1"])
    return {
        **aggregate_scores(by_reference, seed=seed),
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
        "fingerprint": fingerprint(references, tokenizer),
    }


@lru_cache(maxsize=2)  # all systems of an evaluation are scored on the same dialogues
def _dataset_scores(
    dialogues: tuple[str, ...], references: tuple[tuple[str, ...], ...], tokenizer: str
) -> tuple[Any, ...]:
    """Human scores, baselines, and the diagnostics of each reference beside the others of its dialogue."""
    annotators = [
        {"dialogue": dialogue, "references": (refs[:i] + refs[i + 1 :]) or refs, "prediction": ref}
        for dialogue, refs in zip(dialogues, references, strict=True)
        for i, ref in enumerate(refs)
    ]
    return (
        human_scores(references, tokenizer),
        baseline_scores(dialogues, references, tokenizer),
        diagnostics.rates(annotators, [diagnose(row) for row in annotators], tokenizer),
    )
