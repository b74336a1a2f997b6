"""ROUGE against several references, as pure functions: no torch, no network, no global random state.

The protocol: F1 x 100 of `rouge_score` with its Porter stemmer; for a dialogue the mean over its references, then the
plain mean over dialogues. (`evaluate.load("rouge")` fetches its script from the hub, takes the maximum over references
only, and averages by an unseeded bootstrap.)

The tokenizer of `rouge_score` ("default") knows a-z0-9 only: it drops other scripts; "élève" leaves "l" and "ve".
"unicode" gives the same tokens on ASCII text and whole words elsewhere. Scores of the two are not comparable.
"""

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from typing import Any

from dialogsum_sft.data.dialogue import split_turns

import datasets
import evaluate
import numpy as np
import regex
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.scoring import fmeasure
from rouge_score.tokenizers import DefaultTokenizer
from scipy.stats import bootstrap

ROUGE_TYPES = ("rouge1", "rouge2", "rougeL", "rougeLsum", "rougeS4", "rougeSU4")
# rouge_score computes these; its rougeL is as slow as its rougeLsum, and is equalled here at a tenth of the cost.
_LIBRARY_TYPES = ("rouge1", "rouge2", "rougeLsum")

# Each tokenizer, and how the fingerprint names it: when the tokens of "unicode" change, so must its version.
TOKENIZERS = {"default": "default", "unicode": "unicode-1"}

# Written without spaces, so that each character is a token. The Japanese signs at the end belong to no `Script`.
_ALONE = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}〆〱-〵〼ー]"
_TOKEN = regex.compile(rf"(?V1)[[\p{{L}}\p{{N}}]&&{_ALONE}]\p{{M}}*|(?:[[\p{{L}}\p{{N}}]--{_ALONE}]\p{{M}}*)+")
# Joiners, soft hyphens, variation selectors: nothing of a word. The zero-width space does part words.
_INVISIBLE = regex.compile(r"(?V1)[\p{Default_Ignorable_Code_Point}--\u200b]")

# A full stop behind these ends no sentence: titles, and a lone capital as in "J. Smith". The marks of other scripts
# end one without a space too, but not before another mark, a closing quote or bracket, or the end of the text.
_SENTENCE_END = re.compile(
    r"(?<=[.!?])(?<!\bMr\.)(?<!\bMrs\.)(?<!\bMs\.)(?<!\bDr\.)(?<!\bSt\.)(?<!\b[A-Z]\.)\s+"
    r"|(?:(?<=[。｡！？।॥؟۔])|(?<=[。｡！？।॥؟۔][”’」』）]))\s*+(?=[^.!?。｡！？।॥؟۔”’」』）])"
)


class UnicodeTokenizer(DefaultTokenizer):
    """Words of any script, for `RougeScorer(tokenizer=...)`; on ASCII text the tokens of `rouge_score` with stemmer.

    The text is NFKC-normalised and lower-cased: not case-folded, which is the same on ASCII but takes "Maße" for
    "Masse". Han, kana, Thai, Lao, Khmer and Myanmar characters are tokens of their own; marks stay with their letter.
    """

    def __init__(self) -> None:
        super().__init__(use_stemmer=True)

    def tokenize(self, text: str) -> list[str]:
        tokens: list[str] = []
        for word in words(text):
            tokens += super().tokenize(word) if word.isascii() else [word]
        return tokens


class _Remembered:
    """A tokenizer that tokenizes no text twice and stems no word twice: stemming is most of ROUGE's cost."""

    def __init__(self, tokenizer: DefaultTokenizer) -> None:
        tokenizer._stemmer.stem = _stem
        self.tokenize = cache(tokenizer.tokenize)


@cache
def _stem(word: str) -> str:
    stemmed: str = _STEMMER.stem(word)
    return stemmed


_STEMMER = DefaultTokenizer(use_stemmer=True)._stemmer


def words(text: str) -> list[str]:
    """The words of a text of any script, NFKC-normalised and lower-cased, not stemmed."""
    return _TOKEN.findall(unicodedata.normalize("NFKC", _INVISIBLE.sub("", text)).lower())


def lost_share(texts: Sequence[str]) -> float:
    """Share of the letters and digits of `texts` that the default tokenizer drops: 0.0 in English, 1.0 in Chinese.

    French loses few letters, but each of them breaks a word: choose "unicode" for it whatever the share.
    """
    kept = total = 0
    for text in texts:
        # Composed, so that an accent costs its letter: either way the word breaks there.
        lowered = unicodedata.normalize("NFC", text).lower()
        kept += len(regex.findall(r"[a-z0-9]", lowered))
        total += len(regex.findall(r"[\p{L}\p{N}]", lowered))
    return 1 - kept / total if total else 0.0


def suggest_tokenizer(texts: Sequence[str]) -> str:
    """Returns "unicode" where more than 10% of the letters and digits would be lost, else "default"."""
    return "unicode" if lost_share(texts) > 0.1 else "default"


def _check_tokenizer(name: str) -> None:
    """Raises ValueError for an unknown tokenizer."""
    if name not in TOKENIZERS:
        raise ValueError(f"tokenizer {name!r}: use one of {', '.join(TOKENIZERS)}")


def split_sentences(text: str) -> str:
    """One sentence a line, as rougeLsum wants it: without newlines it is rougeL (Lin 2004, section 3.2)."""
    return "\n".join(_SENTENCE_END.split(text.strip()))


def rouge_scores(
    predictions: Sequence[str], references: Sequence[Sequence[str]], tokenizer: str = "default"
) -> dict[str, list[list[float]]]:
    """ROUGE F1 x 100 of each prediction against each of its references: {type: [dialogue][reference]}.

    rougeS4 counts pairs of words in their order with at most four words between them, rougeSU4 these and single words
    (Lin 2004, section 5; ROUGE-1.5.5 -2 4 -u); rouge_score has neither.

    Raises ValueError when the lengths differ, a dialogue has no reference, or the tokenizer is not in TOKENIZERS.
    """
    if len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} predictions but {len(references)} lists of references")
    _check_tokenizer(tokenizer)
    remembered = _Remembered(UnicodeTokenizer() if tokenizer == "unicode" else DefaultTokenizer(use_stemmer=True))
    scorer = RougeScorer(_LIBRARY_TYPES, tokenizer=remembered)
    scores: dict[str, list[list[float]]] = {name: [] for name in ROUGE_TYPES}
    for number, (prediction, refs) in enumerate(zip(predictions, references, strict=True)):
        if not refs:
            raise ValueError(f"dialogue {number} has no reference")
        text = split_sentences(prediction)
        # Each reference's score of each type; without newlines or with, the tokens for all but rougeLsum are the same.
        pairs = [
            {name: score.fmeasure for name, score in scorer.score(ref, text).items()}
            | _own_scores(remembered.tokenize(ref), remembered.tokenize(text))
            for ref in map(split_sentences, refs)
        ]
        for name in ROUGE_TYPES:
            scores[name].append([100.0 * pair[name] for pair in pairs])
    return scores


def _own_scores(reference: list[str], prediction: list[str]) -> dict[str, float]:
    skips = [Counter(_skip_bigrams(tokens)) for tokens in (reference, prediction)]
    shared, totals = (skips[0] & skips[1]).total(), [skip.total() for skip in skips]
    lengths = len(reference), len(prediction)
    single = (Counter(reference) & Counter(prediction)).total()
    return {
        "rougeL": _f1(_lcs_length(reference, prediction), *lengths),
        "rougeS4": _f1(shared, *totals),
        "rougeSU4": _f1(shared + single, totals[0] + lengths[0], totals[1] + lengths[1]),
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
    value: float = fmeasure(shared / max(prediction, 1), shared / max(reference, 1))
    return value


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
    """For each ROUGE type: `mean` over references (the headline), `max`, `max_leave_one_out`, `per_reference`, `ci95`
    of the mean.

    `max_leave_one_out` is the maximum over all references but one, averaged over which one is left out: only this may
    stand beside a human's maximum, who has one reference fewer to be like. It is of the dialogues with two or more
    references, and None where there are none. `per_reference` has the mean over dialogues against the first reference,
    the second, ...; it is empty where dialogues have different numbers of references.
    """
    result = {}
    for name, by_dialogue in scores.items():
        means = [_mean(values) for values in by_dialogue]
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


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _leave_one_out(values: list[float]) -> float:
    return _mean([max(values[:i] + values[i + 1 :]) for i in range(len(values))])


def human_scores(
    references: Sequence[Sequence[str]], tokenizer: str = "default"
) -> dict[str, dict[str, float]] | None:
    """Each annotator against the others of the same dialogue: {type: {"mean", "max"}}, x 100, the ceiling of a system.

    Of the dialogues with two or more references; None where there are none.
    """
    several = [list(refs) for refs in references if len(refs) > 1]
    if not several:
        return None
    annotators = [(ref, refs[:i] + refs[i + 1 :]) for refs in several for i, ref in enumerate(refs)]
    scores = rouge_scores([ref for ref, _ in annotators], [others for _, others in annotators], tokenizer)
    result = {}
    for name, by_annotator in scores.items():
        values = iter(by_annotator)
        by_dialogue = [[next(values) for _ in refs] for refs in several]
        result[name] = {
            "mean": float(np.mean([_mean([_mean(v) for v in annotators]) for annotators in by_dialogue])),
            "max": float(np.mean([_mean([max(v) for v in annotators]) for annotators in by_dialogue])),
        }
    return result


def share_of_human(
    scores: dict[str, list[list[float]]], human: dict[str, dict[str, float]] | None
) -> dict[str, float] | None:
    """Mean of a system over the human mean, for each type, over the dialogues that the human scores are of."""
    if human is None:
        return None
    return {
        name: float(np.mean([_mean(values) for values in by_dialogue if len(values) > 1])) / human[name]["mean"]
        for name, by_dialogue in scores.items()
        if human[name]["mean"]
    }


def baseline_summaries(dialogues: Sequence[str]) -> dict[str, list[str]]:
    """What no model is needed for: {baseline: a summary for each dialogue}. Turns keep their speaker's label.

    The longest turns are those with the most characters, in the dialogue's order. The constant sentence says that the
    two speakers with the most dialogues of the dataset talk.
    """
    turns = [[turn.raw.strip() for turn in split_turns(dialogue)] or [""] for dialogue in dialogues]
    speakers = Counter(
        speaker
        for dialogue in dialogues
        for speaker in dict.fromkeys(turn.speaker for turn in split_turns(dialogue))
        if speaker is not None
    )
    pair = [speaker for speaker, _ in speakers.most_common(2)]
    constant = f"{' and '.join(pair) if len(pair) == 2 else 'They'} talk about something."

    def longest(lines: list[str], number: int) -> str:
        chosen = sorted(sorted(range(len(lines)), key=lambda i: -len(lines[i]))[:number])
        return "\n".join(lines[i] for i in chosen)

    return {
        "lead-1": [lines[0] for lines in turns],
        "lead-3": ["\n".join(lines[:3]) for lines in turns],
        "longest": [longest(lines, 1) for lines in turns],
        "longest-3": [longest(lines, 3) for lines in turns],
        "whole dialogue": list(dialogues),
        "constant": [constant] * len(dialogues),
    }


def baseline_scores(
    dialogues: Sequence[str], references: Sequence[Sequence[str]], tokenizer: str = "default"
) -> dict[str, dict[str, dict[str, float]]]:
    """{baseline: {type: {"mean", "max"}}}, x 100."""
    result = {}
    for baseline, summaries in baseline_summaries(dialogues).items():
        scores = rouge_scores(summaries, references, tokenizer)
        result[baseline] = {
            name: {
                "mean": float(np.mean([_mean(values) for values in by_dialogue])),
                "max": float(np.mean([max(values) for values in by_dialogue])),
            }
            for name, by_dialogue in scores.items()
        }
    return result


def fingerprint(references: Sequence[Sequence[str]], tokenizer: str = "default") -> dict[str, Any]:
    """What two scores must share to be compared."""
    _check_tokenizer(tokenizer)
    digest = hashlib.sha256()
    for refs in references:
        digest.update("\0".join([*refs, "\n"]).encode())
    return {
        "library": f"rouge_score {version('rouge_score')}",
        "stemmer": True,
        "tokenizer": TOKENIZERS[tokenizer],
        "aggregation": "mean over references, then over dialogues",
        "rougeLsum": "sentences split at .!? and other scripts' marks before scoring",
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

    def _compute(
        self, predictions: list[str], references: list[list[str]], tokenizer: str = "default"
    ) -> dict[str, float]:
        summary = summarize_scores(rouge_scores(predictions, references, tokenizer))
        means = {name: values["mean"] for name, values in summary.items()}
        return means | {f"{name}_max": values["max"] for name, values in summary.items()}
