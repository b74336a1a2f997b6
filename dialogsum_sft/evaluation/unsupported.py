"""Numbers, dates and names of a summary that its dialogue does not contain.

The rules are for English and need no model. Numbers are compared by value, in digits or in words. A name is a
capitalised word where an ordinary word would not be. Inferred values (a sum, a nationality from a city) count as
unsupported.
"""

import re
from collections.abc import Sequence

from dialogsum_sft.evaluation.tokenizers import words

Span = tuple[int, int]

_UNITS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
_ORDINAL_UNITS = (
    "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth "
    "fifteenth sixteenth seventeenth eighteenth nineteenth"
)
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_CARDINALS = {word: value for value, word in enumerate(_UNITS.split())}
_CARDINALS |= {word: 10 * value for value, word in enumerate(_TENS.split(), 2)}
_CARDINALS |= {f"{word[:-1]}ies": _CARDINALS[word] for word in _TENS.split()}
_ORDINALS = {word: value for value, word in enumerate(_ORDINAL_UNITS.split(), 1)}
_ORDINALS |= {f"{word[:-1]}ieth": _CARDINALS[word] for word in _TENS.split()}
_SCALES = {"hundred": 100, "thousand": 1000, "million": 1_000_000, "billion": 1_000_000_000}
# Words that imply numbers, on the clock and as cents too.
_IMPLIED = {
    **{"half": (0.5, 30, 50), "quarter": (0.25, 15, 25, 45), "dozen": (12,), "noon": (12,), "midnight": (12, 0)},
    **{"a": (1,), "an": (1,), "once": (1,), "twice": (2,), "double": (2,), "couple": (2,), "pair": (2,), "both": (2,)},
}
_WORD = "|".join(sorted({*_CARDINALS, *_ORDINALS, *_SCALES}, key=len, reverse=True))
_IN_WORDS = re.compile(rf"(?i)\b(?:{_WORD})s?(?:(?:[\s-]|\sand\s)(?:{_WORD})s?)*\b")
_IN_DIGITS = re.compile(
    r"(?P<number>\d{1,3}(?:,\s?\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)?)(?i:\s?(?P<scale>k|hundred|thousand|million|billion)\b)?"
)


def unsupported_numbers(summary: str, dialogue: str, excluded: Sequence[Span] = ()) -> list[Span]:
    """Spans of numbers that the dialogue has neither in digits nor in words.

    Numbers in words below three and ordinals in words are skipped ("the two of them", "at first"), and so are spans
    that overlap `excluded`.
    """
    supported = _values(dialogue)
    spans = []
    for match in _IN_DIGITS.finditer(summary):
        plain, scaled = _value(match)
        whole, _, cents = _digits(match).partition(".")
        in_parts = cents and float(whole) in supported and {float(cents), float(f"{cents:0<2}")} & supported
        if not ({plain, scaled} & supported or in_parts):
            spans.append(match.span("number"))
    for match in _IN_WORDS.finditer(summary):
        for span, value, ordinal in _numbers(match):
            if value > 2 and not ordinal and value not in supported:
                spans.append(span)
    return _outside(sorted(spans), excluded)


def _digits(match: re.Match[str]) -> str:
    return re.sub(r"[,\s]", "", match["number"])


def _value(match: re.Match[str]) -> tuple[float, float]:
    plain = float(_digits(match))
    return plain, plain * {"k": 1000, "": 1, **_SCALES}[(match["scale"] or "").lower()]


def _values(text: str) -> set[float]:
    """All values that the numbers of a text can have."""
    values: set[float] = set()
    for match in _IN_DIGITS.finditer(text):
        values |= {*_value(match), *map(float, _digits(match).split("."))}
    values |= {float(hour) - 12 for hour in re.findall(r"\b(1[3-9]|2[0-3]):\d\d", text)}
    for match in _IN_WORDS.finditer(text):
        numbers = [value for _, value, _ in _numbers(match)]
        values |= set(numbers)
        # "nineteen eighty-four", "three fifty"
        values |= {100 * a + b for a, b in zip(numbers, numbers[1:], strict=False) if a < 100 and 10 <= b < 100}
    for word in words(text):
        values |= set(map(float, _IMPLIED.get(word, ())))
    return values


def _numbers(run: re.Match[str]) -> list[tuple[Span, float, bool]]:
    """(span, value, is ordinal) of the numbers in a run of number words: "five thirty" is two numbers."""
    numbers = []
    start = end = run.start()
    whole = part = last = 0.0  # value from thousands up; value below; value of the previous word
    ordinal = False
    for piece in re.finditer(rf"(?i)\b({_WORD})s?\b", run[0]):
        word = piece[1].lower()
        value = float(_SCALES.get(word) or _CARDINALS.get(word, _ORDINALS.get(word, 0)))
        joins = word in _SCALES or last >= 100 or (20 <= last < 100 and 0 < value < 10)
        if piece.start() and not joins:
            numbers.append(((start, end), whole + part, ordinal))
            start, whole, part = run.start() + piece.start(), 0.0, 0.0
        if word not in _SCALES:
            part += value
        elif word == "hundred":
            part = (part or 1) * 100
        else:
            whole, part = whole + (part or 1) * value, 0.0
        last, ordinal, end = value, word in _ORDINALS, run.start() + piece.end()
    return [*numbers, ((start, end), whole + part, ordinal)]


_NAME = re.compile(r"[^\W\d_][^\W_]*(?:[-'’][^\W\d_]+)*")
_TITLES = frozenset(["mr", "mrs", "ms", "miss", "dr", "prof", "st", "sir", "madam"])
# Capitalised words before a verb at the beginning of a sentence that are not names.
_STARTERS = re.compile(
    r"(?i)(?:s?he|i|it|this|that|there|here|wh(?:at|o|ich|ere|en|ile)|how|(?:every|some|any|no)(?:one|body|thing)"
    r"|one|each|n?either|another|both|all|some|many|most|few|none?|only|people|and|but|or|so|then|if|as|because|since"
    r"|after|before|(?:al)?though|un(?:less|til)|once|in|on|at|for|from|with(?:out)?|(?:un)?like|despite|during|to|of|by|about|the|an?|his|her|its"
    r"|their|they|we|you|my|your|our|these|those|also|let|today|tomorrow|yesterday|tonight|now|later|maybe|perhaps)"
)
_VERB = re.compile(
    r"['’]s\b|\s+(?:[a-z]+(?:[^s\W\d_]s|ed|n['’]t)|is|had|made|told|will|would|can|could|should|may|might|did)\b"
    r"|\s+and\s+#?[A-Z]|\s+[A-Z][a-z]"
)
_CALENDAR = re.compile(
    r"(?:mon|tues?|wed(?:nes)?|thur?s?|fri|sat(?:ur)?|sun)(?:day)?|jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may"
    r"|june?|july?|aug(?:ust)?|sept?(?:ember)?|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?"
)


def unsupported_names(summary: str, dialogue: str, excluded: Sequence[Span] = ()) -> list[Span]:
    """Spans of capitalised names, weekdays and months that the dialogue does not have in any case.

    The first word of a sentence is a name only before a verb ("Anna wants") or another name. Two words of four
    letters or more are the same name when one begins with the other (America, American); weekdays and months also
    match when abbreviated. A text in capitals or title case has no names. Spans that overlap `excluded` are skipped.
    """
    known = {_key(word) for word in words(dialogue)}
    stems = tuple(word for word in known if len(word) > 3)
    plain = [word[0] for word in _NAME.finditer(summary) if len(word[0]) > 3]
    if len(plain) > 3 and sum(word[0].isupper() for word in plain) > 0.8 * len(plain):
        return []
    spans = []
    for match in _NAME.finditer(summary):
        name = re.sub(r"['’]s$", "", match[0])
        parts = [_key(part) for part in words(name)]
        if not name[0].isupper() or len(name) < 2 or name.lower() in _TITLES or parts[:1] == ["i"]:
            continue
        if _begins_sentence(summary, match.start()) and not (
            not _STARTERS.fullmatch(name)
            and not name.endswith(("ing", "ly"))
            and _VERB.match(summary, match.start() + len(name))
        ):
            continue
        if not all(part in known or _shares_stem(part, stems) for part in parts):
            spans.append((match.start(), match.start() + len(name)))
    return _outside(spans, excluded)


def _key(word: str) -> str:
    return word[:3] if _CALENDAR.fullmatch(word) else word


def _shares_stem(word: str, stems: tuple[str, ...]) -> bool:
    return len(word) > 3 and any(word.startswith(stem) or stem.startswith(word) for stem in stems)


def _begins_sentence(text: str, at: int) -> bool:
    head = text[max(0, at - 20) : at]
    if re.search(r"(?i)\b(?:mrs?|ms|dr|prof|st|[a-z])\.\s*\Z", head):
        return False
    return re.search(r"(?:\A|[.!?:\n]|[\"“‘(])\s*[\"“‘(]?\Z", head) is not None


def _outside(spans: list[Span], excluded: Sequence[Span]) -> list[Span]:
    return [span for span in spans if not any(start < span[1] and span[0] < end for start, end in excluded)]
