"""The tokenizers of ROUGE: rouge_score's, which keeps only a-z and 0-9, and ours for other scripts.

rouge_score's ("default") drops every other character: "élève" becomes "l" and "ve", Chinese becomes nothing. Ours
("unicode") returns the same tokens for ASCII text and whole words for other scripts. Scores of the two tokenizers are
not comparable.
"""

import unicodedata
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import regex
from rouge_score.tokenizers import DefaultTokenizer

# Each tokenizer and its name in the fingerprint, which has a version that rises when the tokens change.
TOKENIZERS = {"default": "default", "unicode": "unicode-1"}

# Scripts written without spaces: each character is a token. The Japanese signs at the end belong to no `Script`.
_ALONE = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}〆〱-〵〼ー]"
_TOKEN = regex.compile(rf"(?V1)[[\p{{L}}\p{{N}}]&&{_ALONE}]\p{{M}}*|(?:[[\p{{L}}\p{{N}}]--{_ALONE}]\p{{M}}*)+")
# Joiners, soft hyphens and variation selectors are removed. The zero-width space is kept, because it separates words.
_INVISIBLE = regex.compile(r"(?V1)[\p{Default_Ignorable_Code_Point}--\u200b]")


class UnicodeTokenizer(DefaultTokenizer):
    """Words of any script, for `RougeScorer(tokenizer=...)`; on ASCII text the tokens of `rouge_score` with stemmer.

    The text is NFKC-normalised and lower-cased. It is not case-folded, which would make "Maße" equal to "Masse". Han,
    kana, Thai, Lao, Khmer and Myanmar characters are single tokens; combining marks stay with their letter.
    """

    def __init__(self) -> None:
        super().__init__(use_stemmer=True)

    def tokenize(self, text: str) -> list[str]:
        tokens: list[str] = []
        for word in words(text):
            tokens += super().tokenize(word) if word.isascii() else [word]
        return tokens


class CachedTokenizer:
    """Tokenises each text once and stems each word once; stemming is most of the cost of ROUGE."""

    def __init__(self, name: str) -> None:
        tokenizer = open_tokenizer(name)
        tokenizer._stemmer.stem = _stem
        self.tokenize = cache(tokenizer.tokenize)


_stem = cache(DefaultTokenizer(use_stemmer=True)._stemmer.stem)


def open_tokenizer(name: str) -> DefaultTokenizer:
    """Raises ValueError for a name that is not in TOKENIZERS."""
    check_tokenizer(name)
    return UnicodeTokenizer() if name == "unicode" else DefaultTokenizer(use_stemmer=True)


def check_tokenizer(name: str) -> None:
    """Raises ValueError for a name that is not in TOKENIZERS."""
    if name not in TOKENIZERS:
        raise ValueError(f"tokenizer {name!r}: use one of {', '.join(TOKENIZERS)}")


def words(text: str) -> list[str]:
    """The words of a text of any script, NFKC-normalised and lower-cased, not stemmed."""
    return _TOKEN.findall(unicodedata.normalize("NFKC", _INVISIBLE.sub("", text)).lower())


def lost_share(texts: Sequence[str]) -> float:
    """Share of the letters and digits of `texts` that the default tokenizer drops: 0.0 in English, 1.0 in Chinese.

    French loses few letters, but each of them breaks a word: use "unicode" for French whatever the share.
    """
    kept = total = 0
    for text in texts:
        # NFC, so that an accented letter counts as lost: the word breaks there in either form.
        lowered = unicodedata.normalize("NFC", text).lower()
        kept += len(regex.findall(r"[a-z0-9]", lowered))
        total += len(regex.findall(r"[\p{L}\p{N}]", lowered))
    return 1 - kept / total if total else 0.0


def suggest_tokenizer(texts: Sequence[str]) -> str:
    """Returns "unicode" where more than 10% of the letters and digits would be lost, else "default"."""
    return "unicode" if lost_share(texts) > 0.1 else "default"


def tokenizer_warnings(rows: Sequence[Mapping[str, Any]], tokenizer: str) -> list[str]:
    """A line where the default tokenizer would drop much of the references of `rows`; else none."""
    if tokenizer != "default" or suggest_tokenizer([text for row in rows for text in row["references"]]) == "default":
        return []
    hint = "as it has a-z and 0-9 only: give --rouge_tokenizer unicode"
    return [f"ROUGE's default tokenizer drops much of these references, {hint}"]
