"""ROUGE against several references, as pure functions: no torch, no network, no global random state.

The protocol: F1 x 100 of `rouge_score` with its Porter stemmer; the mean over the references of a dialogue, then the
mean over dialogues. (`evaluate.load("rouge")` downloads its script from the hub, takes the maximum over references,
and averages with an unseeded bootstrap.)
"""

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

from dialogsum_sft.evaluation.significance import confidence_interval
from dialogsum_sft.evaluation.tokenizers import TOKENIZERS, CachedTokenizer, check_tokenizer

import numpy as np
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.scoring import fmeasure

ROUGE_TYPES = ("rouge1", "rouge2", "rougeL", "rougeLsum", "rougeS4", "rougeSU4")
# The types that every table has, with their labels.
HEADLINE = {"rouge1": "ROUGE-1", "rouge2": "ROUGE-2", "rougeL": "ROUGE-L"}
# rouge_score computes these. Its rougeL has the same values as ours and costs ten times as much.
_LIBRARY_TYPES = ("rouge1", "rouge2", "rougeLsum")

# A full stop after a title or a single capital ("J. Smith") does not end a sentence. The marks of other scripts end
# one without a space, but not before another mark, a closing quote or bracket, or the end of the text.
_SENTENCE_END = re.compile(
    r"(?<=[.!?])(?<!\bMr\.)(?<!\bMrs\.)(?<!\bMs\.)(?<!\bDr\.)(?<!\bSt\.)(?<!\b[A-Z]\.)\s+"
    r"|(?:(?<=[。｡！？।॥؟۔])|(?<=[。｡！？।॥؟۔][”’」』）]))\s*+(?=[^.!?。｡！？।॥؟۔”’」』）])"
)


def split_sentences(text: str) -> str:
    """One sentence a line, which rougeLsum needs: without newlines it equals rougeL (Lin 2004, section 3.2)."""
    return "\n".join(_SENTENCE_END.split(text.strip()))


def rouge_scores(
    predictions: Sequence[str | Sequence[str]], references: Sequence[Sequence[str]], tokenizer: str = "default"
) -> dict[str, list[list[float]]]:
    """ROUGE F1 x 100 of each prediction against each of its references: {type: [dialogue][reference]}.

    A dialogue's prediction may be a list with one for each reference; each is then scored against its own alone.

    rougeS4 counts pairs of words in order with at most four words between them; rougeSU4 counts single words too, all
    but a text's last one, as ROUGE-1.5.5 does (Lin 2004, section 5; options -2 4 -u). rouge_score has neither.

    Raises ValueError when the lengths differ, a dialogue has no reference, or the tokenizer is not in TOKENIZERS.
    """
    if len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} predictions but {len(references)} lists of references")
    cached = CachedTokenizer(tokenizer)
    scorer = RougeScorer(_LIBRARY_TYPES, tokenizer=cached)
    scores: dict[str, list[list[float]]] = {name: [] for name in ROUGE_TYPES}
    for number, (prediction, refs) in enumerate(zip(predictions, references, strict=True)):
        if not refs:
            raise ValueError(f"dialogue {number} has no reference")
        texts = [prediction] * len(refs) if isinstance(prediction, str) else prediction
        if len(texts) != len(refs):
            raise ValueError(f"dialogue {number} has {len(texts)} predictions but {len(refs)} references")
        # Line breaks change rougeLsum only.
        pairs = [
            {name: score.fmeasure for name, score in scorer.score(ref, text).items()}
            | _own_scores(cached.tokenize(ref), cached.tokenize(text))
            for ref, text in zip(map(split_sentences, refs), map(split_sentences, texts), strict=True)
        ]
        for name in ROUGE_TYPES:
            scores[name].append([100.0 * pair[name] for pair in pairs])
    return scores


def _own_scores(reference: list[str], prediction: list[str]) -> dict[str, float]:
    skips = [Counter(_skip_bigrams(tokens)) for tokens in (reference, prediction)]
    shared, totals = (skips[0] & skips[1]).total(), [skip.total() for skip in skips]
    lengths = len(reference), len(prediction)
    # ROUGE-1.5.5 counts a word where a pair begins, so the last one is not counted.
    singles = [Counter(tokens[:-1]) for tokens in (reference, prediction)]
    units = [total + single.total() for total, single in zip(totals, singles, strict=True)]
    return {
        "rougeL": _f1(_lcs_length(reference, prediction), *lengths),
        "rougeS4": _f1(shared, *totals),
        "rougeSU4": _f1(shared + (singles[0] & singles[1]).total(), *units),
    }


def _lcs_length(a: list[str], b: list[str]) -> int:
    """Length of the longest common subsequence, a row of the table in one integer (Hyyro 2004)."""
    places: dict[str, int] = {}
    for at, token in enumerate(a):
        places[token] = places.get(token, 0) | 1 << at
    full = row = (1 << len(a)) - 1
    for token in b:
        matches = row & places.get(token, 0)
        row = ((row + matches) | (row - matches)) & full
    return len(a) - row.bit_count()


def _skip_bigrams(tokens: list[str]) -> list[tuple[str, str]]:
    return [pair for gap in range(5) for pair in zip(tokens, tokens[gap + 1 :], strict=False)]


def _f1(shared: int, reference: int, prediction: int) -> float:
    return fmeasure(shared / max(prediction, 1), shared / max(reference, 1))


def aggregate_scores(scores: Mapping[str, list[list[float]]], *, seed: int = 42) -> dict[str, dict[str, Any]]:
    """Aggregates of `rouge_scores`: {type: {"mean", "max", "max_leave_one_out", "per_reference", "ci95"}}.

    `mean` (over references, then over dialogues) is the headline; `ci95` is its interval. `max_leave_one_out` is the
    maximum over all references but one, averaged over the reference left out: only this is comparable with a human's
    maximum, because a human is compared with one reference fewer. It covers dialogues with two or more references, and
    is None where there are none. `per_reference` has the mean over dialogues against the first reference, the second,
    ...; it is empty where dialogues have different numbers of references.
    """
    result = {}
    for name, by_dialogue in scores.items():
        means = [mean(values) for values in by_dialogue]
        even = len({len(values) for values in by_dialogue}) == 1
        several = [values for values in by_dialogue if len(values) > 1]
        result[name] = {
            "mean": float(np.mean(means)),
            "max": float(np.mean([max(values) for values in by_dialogue])),
            "max_leave_one_out": float(np.mean([_leave_one_out(v) for v in several])) if several else None,
            "per_reference": [float(x) for x in np.mean(by_dialogue, axis=0)] if even else [],
            "ci95": confidence_interval(means, seed=seed),
        }
    return result


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _leave_one_out(values: list[float]) -> float:
    return mean([max(values[:i] + values[i + 1 :]) for i in range(len(values))])


def fingerprint(
    references: Sequence[Sequence[str]], tokenizer: str = "default", *, strip_preamble: bool = False
) -> dict[str, Any]:
    """The protocol and the references: two scores are comparable where these are equal."""
    check_tokenizer(tokenizer)
    digest = hashlib.sha256()
    for refs in references:
        digest.update("\0".join([*refs, "\n"]).encode())
    return {
        "library": f"rouge_score {version('rouge_score')}",
        "stemmer": True,
        "tokenizer": TOKENIZERS[tokenizer],
        "aggregation": "mean over references, then over dialogues",
        "rougeSU4": "single words but the last, as ROUGE-1.5.5",
        "rougeLsum": "sentences split at .!? and other scripts' marks before scoring",
        "preambles": "taken off" if strip_preamble else "scored",
        "dialogues": len(references),
        "references": sum(len(refs) for refs in references),
        "references_sha256": digest.hexdigest()[:16],
    }
