"""The rules of unsupported.py for numbers, times and dates, compared by value, in digits or in words."""

import re
from collections.abc import Iterator, Sequence, Set
from functools import lru_cache

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
_SCALES = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_SUFFIXES = {**_SCALES, "k": 1000, "grand": 1000, "m": 10**6, "mn": 10**6, "mil": 10**6, "bn": 10**9, "b": 10**9}
_SUFFIXES |= {"lakh": 10**5, "crore": 10**7, "dozen": 12}
# Words that imply numbers, on the clock and as cents too.
_IMPLIED: dict[str, tuple[float, ...]] = {
    **{"half": (0.5, 30, 50), "quarter": (0.25, 15, 25, 45), "quarters": (0.75,), "dozen": (12,)},
    **{"noon": (12,), "midnight": (12, 0, 24), "decade": (10,), "century": (100,), "fortnight": (14, 2)},
    **{"a": (1,), "an": (1,), "once": (1,), "single": (1,), "twice": (2,), "double": (2,), "couple": (2,)},
    **{"pair": (2,), "both": (2,), "thrice": (3,), "triple": (3,), "no": (0,), "none": (0,), "nothing": (0,)},
    **{"nil": (0,), "oh": (0,)},
}
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
MONTH = (
    r"(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|oct(?:ober)?"
    r"|nov(?:ember)?|dec(?:ember)?)"
)
_WORD = "|".join(sorted({*_CARDINALS, *_ORDINALS, *_SCALES}, key=len, reverse=True))
_JOIN = r"(?:\s?[-–]\s?|\s|\sand\s)"
_IN_WORDS = re.compile(rf"(?i)\b(?:{_WORD})s?(?:{_JOIN}(?:{_WORD}|oh?)s?)*\b")
_SUFFIX = "|".join(sorted(_SUFFIXES, key=len, reverse=True))
_IN_DIGITS = re.compile(
    r"(?P<number>\d{1,3}(?:,\s?\d{3})+(?!\d)(?:\.\d+)?|\d{1,3}(?:[ \u00a0\u202f]\d{3})+(?!\d)"
    rf"|\d{{1,2}}(?:,\d\d)+,\d{{3}}(?!\d)|\d+(?:\.\d+)?)(?i:[\s-]?(?P<scale>{_SUFFIX})s?\b)?"
)

_NUMBER = rf"(?:\d+|{_IN_WORDS.pattern.removeprefix('(?i)')})"
_FEW = rf"(?:\d+|\b(?:{_WORD})(?:{_JOIN}(?:{_WORD})){{0,3}})"  # of few words, for patterns that try many places
_AMOUNT = re.compile(
    rf"(?i)(?:(?P<whole>{_NUMBER})|(?=\s?\bpoint))(?:\s?\bpoint\s(?P<part>(?:oh\s)?{_NUMBER}))?(?:[\s-](?P<scale>{_SUFFIX})s?\b)?"
)
_UP_TO_9 = "|".join(_UNITS.split()[1:10])
_SHORT_YEAR = re.compile(
    rf"(?i)\b(?:in|since|of|from|until|till|by|after|before)\s"
    rf"((?:{_TENS.replace(' ', '|')})(?:\s?[-–]\s?|\s)(?:{_UP_TO_9})|oh\s(?:{_UP_TO_9}))\b"
)
_SHARED_SCALE = re.compile(rf"(?i)\b(?P<first>{_FEW})(?:\s(?:to|or|and)\s|\s?[-–]\s?){_FEW}\s(?P<scale>{_SUFFIX})")
_HALF = re.compile(rf"(?i)\b(?:an?|(?P<number>{_FEW}))\s[a-z]+\sand\sa\shalf\b")
_PARTS = re.compile(
    r"(?i)(?:\sand(?:\san?|\sone)?\s)?\b(?P<part>half|three[\s-]quarters|quarter)\b(?:\s(?:of\s)?an?\b)?|(?P<sign>[½¼¾])"
)
_DURATION = re.compile(rf"(?i)\b(?P<number>{_FEW})[\s-](?P<unit>minute|hour|day|week|month|year)")
_IN_OTHER_UNITS: dict[str, list[tuple[str, float]]] = {
    **{
        "minute": [("hour", 1 / 60)],
        "hour": [("minute", 60), ("day", 1 / 24)],
        "day": [("hour", 24), ("week", 1 / 7)],
    },
    **{"week": [("day", 7), ("month", 1 / 4)], "month": [("year", 1 / 12), ("week", 4)], "year": [("month", 12)]},
}
_POINTS = {"half": "5", "½": "5", "quarter": "25", "¼": "25", "¾": "75"}


def number_spans(summary: str, dialogue: str) -> list[Span]:
    """Spans of numbers that the dialogue has neither in digits nor in words.

    Numbers in words below three and ordinals in words are skipped ("the two of them", "at first"), and so are the
    numbers of a list's items and vague ones ("thousands of them"). A time or a date is supported in any usual writing
    (19:30, 1930, half past seven; 12/05/2008, December fifth), a decade by its short form (1990s, the nineties), a
    duration in other units (90 minutes, an hour and a half).
    """
    supported, digits = _values(dialogue), _compact(dialogue)
    times, dates = {time for _, time in _times(dialogue)}, _date_parts(dialogue)
    fine = _list_numbers(summary)
    fine += [span for span, time in _times(summary) if time in times]
    fine += [span for date in _dates(summary) for span, part in date if part in supported | dates]
    if re.search(r"(?i)covid|corona", dialogue):
        fine += [match.span() for match in re.finditer(r"(?i)covid\W?19", summary)]
    phones = ((match.span(), re.sub(r"\D", "", match[0])) for match in _PHONE.finditer(summary))
    fine += [span for span, number in phones if len(number) > 6 and number in digits]
    fractions = re.finditer(r"(?<![\d/])(\d)/([2-9])(?![\d/])", summary)
    fine += [match.span() for match in fractions if int(match[1]) / int(match[2]) in supported]
    for match in _DURATION.finditer(summary):  # "90 minutes" of "an hour and a half"
        others = _IN_OTHER_UNITS[match["unit"].lower()]
        number = max(map(float, _readings(match["number"])))
        if any(number * factor in supported and unit in dialogue.lower() for unit, factor in others):
            fine.append(match.span("number"))
    spans = []
    for match in _IN_DIGITS.finditer(summary):
        if match[0].startswith("00") and summary[: match.start()].endswith(":"):  # 9:00
            continue
        if match["scale"]:  # "million" in "50 million" is no number of its own
            fine.append(match.span("scale"))
            said = re.search(rf"(?i)(?:\b|\d){match['scale']}", dialogue) is not None  # "three or four million"
            if _value(match)[1] not in supported and not said and match["scale"].lower() in _SCALES:
                spans.append(match.span("number"))
                continue
        if not supported & _meanings(match, summary) and not _in_parts(match, supported):
            spans.append(match.span("number"))
    for match in _IN_WORDS.finditer(summary):
        for span, value, ordinal in _numbers(match):
            vague = re.fullmatch(
                r"(?i)(?:hundred|thousand|[mb]illion)s", summary[slice(*span)]
            )  # "thousands of people"
            if value > 2 and not ordinal and not vague and value not in supported:
                spans.append(span)
    return outside(sorted(spans), fine)


def outside(spans: list[Span], excluded: Sequence[Span]) -> list[Span]:
    """The spans that overlap none of `excluded`."""
    return [span for span in spans if not any(start < span[1] and span[0] < end for start, end in excluded)]


def _digits(match: re.Match[str]) -> str:
    return re.sub(r"[,\s]", "", match["number"])


def _value(match: re.Match[str]) -> tuple[float, float]:
    plain = float(_digits(match))
    return plain, plain * _SUFFIXES.get((match["scale"] or "").lower(), 1)


def _meanings(match: re.Match[str], text: str) -> set[float]:
    """The values that support a number in digits: of a decade its short form, of an afternoon hour both forms."""
    values = set(_value(match))
    (plain, _), tail = _value(match), text[match.end("number") :]
    if re.match(r"['’]?s\b", tail) and 1000 <= plain < 2100 and plain % 10 == 0:
        values.add(plain % 100)
    if 1 <= plain <= 12 and re.match(r"\s*(?:p\.?\s?m\b|o['’]\s?clock)", tail, re.IGNORECASE):
        values.add(plain + 12)
    if 13 <= plain <= 24 and re.match(r":00|\s?h\b|\s?hrs\b", tail):
        values.add(plain - 12)
    if re.search(r"['’]\Z", text[: match.start()]) and plain < 100:
        values |= {1900 + plain, 2000 + plain}
    if plain < 100 and re.match(r"\s?(?:%|per\s?cent\b)", tail):
        values.add(plain / 100)
    return values


def _in_parts(match: re.Match[str], supported: Set[float]) -> bool:
    """Whether the dialogue has a decimal's parts ("12 dollars 50 cents"), or each group of "555 123"."""
    groups = match["number"].split()
    if len(groups) > 1 and "," not in match["number"]:
        return all(float(group) in supported for group in groups)
    whole, _, cents = _digits(match).partition(".")
    parts = {float(cents), float(f"{cents:0<2}")} if cents else set()
    return bool(parts & supported) and (float(whole) in supported or float(whole) == 0)


@lru_cache(maxsize=1024)  # a dialogue is compared with several summaries
def _values(text: str) -> frozenset[float]:
    """All values that the numbers of a text can have."""
    values = {float(value) for word in words(text) for value in _IMPLIED.get(word, ())}
    for match in _IN_DIGITS.finditer(text):
        values |= {*_value(match), *map(float, re.findall(r"\d+", match["number"]))}
        if re.match(r"['’]?s\b", text[match.end("number") :]):
            values.add(_value(match)[0] % 100)
        if re.search(r"['’]\Z", text[: match.start()]) and _value(match)[0] < 100:
            values |= {century + _value(match)[0] for century in (1900, 2000)}
    thousands = re.findall(r"(?<![\d.])\d{1,3}(?:\.\d{3})+(?![\d.])", text)  # 50.000
    values |= {float(number.replace(".", "")) for number in thousands}
    values |= {float(hour) - 12 for hour in re.findall(r"\b(1[3-9]|2[0-3]):\d\d", text)}
    years = [date[-1][1] for date in _dates(text) if len(date) == 3 and date[-1][1] < 100]
    values |= {float(century + year) for year in years for century in (1900, 2000)}
    for match in _SHORT_YEAR.finditer(text):  # "since ninety-eight"
        values |= {century + max(map(float, _readings(match[1]))) for century in (1900, 2000)}
    for match in _IN_WORDS.finditer(text):
        values |= set(map(float, _readings(match[0])))
    for match in _SHARED_SCALE.finditer(text):  # "three to four hundreds"
        values |= {float(first) * _SUFFIXES[match["scale"].lower()] for first in _readings(match["first"])}
    # "a year and a half" is "one and a half", "two and a half million" is "two point 5 million"
    text = _HALF.sub(lambda half: f"{half['number'] or 'one'} and a half", text)
    text = _PARTS.sub(lambda part: f" point {_POINTS.get((part['part'] or part['sign']).lower(), '75')}", text)
    for match in _AMOUNT.finditer(text):
        scale = _SUFFIXES.get((match["scale"] or "").lower(), 1)
        decimals = f".{_spelt(match['part'])}" if match["part"] else ""
        values |= {float(f"{whole}{decimals}") * scale for whole in _readings(match["whole"] or "0")}
    return frozenset(values)


def _readings(phrase: str) -> set[str]:
    """The digits of a number, or of a run of number words, whose neighbours may be one number.

    "nineteen eighty-four", "three fifty", "one two three four", "three oh five".
    """
    if phrase[0].isdigit():
        return {phrase}
    numbers = [f"{value:.0f}" for match in _IN_WORDS.finditer(phrase) for _, value, _ in _numbers(match)]
    starts = range(len(numbers))
    return {"".join(numbers[start:end]) for start in starts for end in range(start + 1, start + 12)}


def _spelt(decimals: str) -> str:
    """The digits after "point": "25", "two five" and "twenty-five" are 25, "oh five" is 05."""
    zeros = "0" * len(re.findall(r"(?i)\boh?\b", decimals))
    return max(_readings(decimals), key=len) if not zeros else zeros + _readings(decimals.split()[-1]).pop()


def _numbers(run: re.Match[str]) -> list[tuple[Span, float, bool]]:
    """(span, value, is ordinal) of the numbers in a run of number words: "five thirty" is two numbers."""
    numbers = []
    start = end = run.start()
    whole = part = last = 0.0  # value from thousands up; value below; value of the previous word
    ordinal = False
    for piece in re.finditer(rf"(?i)\b({_WORD}|oh?)s?\b", run[0]):
        word = piece[1].lower()
        value = float(_SCALES.get(word) or _CARDINALS.get(word, _ORDINALS.get(word, 0)))
        joins = word in _SCALES or (value and (last >= 100 or (20 <= last < 100 and value < 10)))
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


# Times of day, as minutes after noon or midnight.

_UP_TO_19 = _UNITS.replace(" ", "|")
_HOUR = rf"(?:(?<!\d)(?:2[0-4]|[01]?\d)(?!\d)|{'|'.join(_UNITS.split()[1:13])}|noon|midnight)"
_UP_TO_59 = rf"(?:{_TENS.replace(' ', '|')})(?:[\s-](?:{_UP_TO_19}))?|{_UP_TO_19}"
_MINUTES = rf"(?:half|an?\squarter|quarter|\d{{1,2}}|{_UP_TO_59})"
_CLOCK = re.compile(
    rf"(?i)\b(?:(?P<minutes>{_MINUTES})(?:\sminutes)?\s(?P<way>to|till|before|of|past|after)\s(?P<of>{_HOUR})"
    r"|(?P<hour>[01]?\d|2[0-4])(?:[:.h]|(?<=\d\d))(?P<minute>[0-5]\d)(?![\d%])(?![.,:]\d)"
    rf"|(?P<whole>{_HOUR})\s?(?:(?P<word>{_MINUTES})\s)?(?:[ap]\.?\s?m\b|o['’]\s?clock|h(?:rs?|ours)?\b)"
    r"|(?P<twelve>noon|midnight)\b|(?:at|by|until|till|from|around|about)\s(?P<bare>1[3-9]|2[0-3])(?![\d:.]\d|\d))"
)


def _times(text: str) -> Iterator[tuple[Span, int]]:
    for match in _CLOCK.finditer(text):
        if match["way"]:
            minutes = _amount(match["minutes"])
            time = 60 * _amount(match["of"]) + (minutes if match["way"].lower() in ("past", "after") else -minutes)
        elif match["minute"]:
            time = 60 * int(match["hour"]) + int(match["minute"])
        else:
            time = 60 * _amount(match["whole"] or match["twelve"] or match["bare"]) + _amount(match["word"] or "0")
        yield match.span(), time % 720
    for match in _IN_WORDS.finditer(text):  # "five thirty"
        numbers = [value for _, value, _ in _numbers(match)]
        if len(numbers) == 2 and 1 <= numbers[0] <= 24 and numbers[1] < 60:
            yield match.span(), int(60 * numbers[0] + numbers[1]) % 720


def _amount(word: str) -> int:
    word = re.sub(r"^an?\s", "", word.lower())
    known = {"half": 30, "quarter": 15, "noon": 12, "midnight": 0}.get(word)
    return known if known is not None else max(map(int, _readings(word)))


# Dates: supported when the dialogue has each of their parts.

_DATE = re.compile(r"(?<![\d/.-])(\d{1,4})([/.-])(\d{1,2}(?!\d)|(?:19|20)\d\d)(?:\2(\d{4}|\d\d))?(?![/.-]?\d)")
_PHONE = re.compile(r"(?<!\d)\(?\d+(?:[\s().-]{1,2}\d+)*")


def _dates(text: str) -> Iterator[list[tuple[Span, int]]]:
    for match in _DATE.finditer(text):
        parts = [(match.span(group), int(match[group])) for group in (1, 3, 4) if match[group]]
        if any(1 <= part <= 12 for _, part in parts) and (match[4] or match[2] == "/"):
            yield parts


def _date_parts(text: str) -> set[float]:
    """Numbers of the months named in a text, and the short forms of its years."""
    parts = {1.0 + MONTHS.index(name[:3].lower()) for name in re.findall(rf"(?i)\b{MONTH}\b", text)}
    return parts | {value % 100 for value in _values(text) if 1900 <= value < 2100}


def months_in_dates(text: str) -> set[int]:
    """The months that the numeric dates of a text can mean: 12/05 is December or May."""
    return {part for date in _dates(text) for _, part in date if 1 <= part <= 12}


def _compact(text: str) -> str:
    """The digits of a text, without what separates them in telephone numbers."""
    words_in_digits = re.sub(rf"(?i)\b({'|'.join(_UNITS.split()[:10])}|oh?)\b", _digit, text)
    return re.sub(r"(?<=\d)[\s().,-]+(?=\d)", "", words_in_digits)


def _digit(match: re.Match[str]) -> str:
    return str(_CARDINALS.get(match[1].lower(), 0))


_ITEM = re.compile(r"(?m)(?:^[^\S\n]*|[.;:!?)]\s+|\A)(?:[-•*]\s*)?\(?#?(\d{1,2})[.):](?=\s|\Z)")


def _list_numbers(text: str) -> list[Span]:
    """Spans of numbers that count the items of a list: at a line's start, or 1., 2., ... after a sentence's end."""
    spans, expected = [], 1
    for match in _ITEM.finditer(text):
        line_start = text[: match.start(1)].rpartition("\n")[2].strip(" \t-•*(#") == "" and "\n" in text
        if line_start or int(match[1]) == expected:
            spans.append(match.span(1))
            expected = int(match[1]) + 1
    return spans
