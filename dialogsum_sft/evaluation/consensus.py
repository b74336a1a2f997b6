"""Consensus decoding: choose one of several candidate summaries."""

from collections import Counter
from collections.abc import Sequence

from dialogsum_sft.evaluation.tokenizers import open_tokenizer


def consensus(texts: Sequence[str], tokenizer: str = "default") -> int:
    """Index of the text with the highest mean ROUGE-1 F1 to the others; of equal ones the first.

    Minimum Bayes risk decoding (Kumar & Byrne 2004) with the candidates as each other's references, as Eikema & Aziz
    (2020) do with samples. ROUGE-1 is `rouge_score`'s with stemmer, tokenizer "default" or "unicode".
    """
    words = open_tokenizer(tokenizer)
    counts = [Counter(words.tokenize(text)) for text in texts]
    sizes = [count.total() for count in counts]

    def f1(a: int, b: int) -> float:
        total = sizes[a] + sizes[b]
        return 2 * (counts[a] & counts[b]).total() / total if total else 0.0

    means = [sum(f1(a, b) for b in range(len(texts)) if b != a) for a in range(len(texts))]
    return max(range(len(texts)), key=lambda i: round(means[i], 9))
