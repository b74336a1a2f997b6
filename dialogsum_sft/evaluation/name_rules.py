"""The rules of unsupported.py for names: capitalised words where an ordinary word would not be."""

import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from itertools import combinations, pairwise

from dialogsum_sft.evaluation.english import SAME, is_never_a_name, is_ordinary, is_title_word
from dialogsum_sft.evaluation.number_rules import MONTH, MONTHS, Span, months_in_dates, outside
from dialogsum_sft.evaluation.tokenizers import words

_NAME = re.compile(r"[^\W\d_][^\W_]*(?:[-'’][^\W\d_]+)*")
_TITLES = frozenset(
    ["mr", "mrs", "ms", "miss", "mx", "dr", "prof", "st", "sir", "madam", "doctor", "mister", "ph", "hon"]
)
_TITLES |= {"jr", "sr", "inc", "ltd", "co", "no", "fig"}
# Function words: capitalised within a sentence they are no names, and neither before a verb that a name could have.
_STARTERS = re.compile(
    r"(?i)(?:s?he|i|it|this|that|there|here|wh(?:at|o|ich|ere|en|ile)|how|(?:every|some|any|no)(?:one|body|thing)"
    r"|one|each|n?either|another|both|all|some|many|most|few|none?|only|people|and|but|or|so|then|if|as|because|since"
    r"|after|before|(?:al)?though|un(?:less|til)|once|in|on|at|for|from|with(?:out)?|(?:un)?like|despite|during|to|of"
    r"|by|about|the|an?|his|her|its|their|they|we|you|my|your|our|these|those|also|let|today|tomorrow|yesterday"
    r"|tonight|now|later|maybe|perhaps)"
)
_VERB = re.compile(
    r"['’]s\b|(?:\s+[a-z]+ly)?\s+(?:[a-z]+(?:[^s\W\d_]s|ed|n['’]t)|is|had|made|told|will|would|can(?:not)?|could|should"
    r"|may|might|did)\b"
    r"|\s+and\s+#?[A-Z]"
)
# A plural between the first word and the verb: "Bowel sounds are".
_PLURAL = re.compile(r"\s+[a-z]+s\s+(?:are|were|have|do)\b")
_CALENDAR = re.compile(rf"(?:mon|tues?|wed(?:nes)?|thur?s?|fri|sat(?:ur)?|sun)(?:days?)?|{MONTH}")
# What a note has in place of sentences: bullets, headings, labels before a colon.
_BULLET = r"(?:[-•*·‣▪◦–—]+|\(?\d{1,2}[.)])"
_NOTE = re.compile(rf"(?m)^[^\S\n]*(?:{_BULLET}\s+\S|[^a-z\n]*[A-Z]{{3}}[^a-z\n]*$|[A-Z][^.!?\n]{{,60}}:[^\S\n]*$)")
_CAPITALISED = r"[A-Z][\w'’-]*"
_LABEL = re.compile(
    rf"(?:(?m:^)[^\S\n]*(?:{_BULLET}\s*)?|[.!?;]\s+)"
    rf"({_CAPITALISED}(?:[ ,/&]+(?:{_CAPITALISED}|and|or|of|the|for|in|to|with))*)\s*:(?!\S)"
)
# Abbreviations that name nothing: of the clock, offices, prescriptions, examinations and units; and Roman numerals.
_NOTATION = re.compile(
    r"[AP]M|OK|BC|AD|NA|FAQ|ASAP|FYI|PS|RE|VS|ID|HR|IT|PR|CEO|VIP|PDF|SMS|DMs?|PIN|ETA|DIY|RSVP|PPE|OTC|PRN|BID|TID|QID"
    r"|QHS|QD|PO|IM|SQ|NPO|NKDA|NKA|WNL|NAD|HPI|ROS|PMH|PE|CC|HE?ENT|ENT|CV|CNS|GI|GU|GYN|MSK|NEURO|PSYCH|ROM|PERRLA?"
    r"|EOMI|RRR|CTAB?|IU|EU|MG|ML|DL|MCG|KG|LBS?|CM|MM|BPM|X{0,3}(?:I[XV]|V?I{0,3})[AB]?"
)
_SMALL = r"(?:of|and|the|for|in|to|an?|&)"


def name_spans(summary: str, dialogue: str) -> list[Span]:
    """Spans of capitalised names, weekdays and months that the dialogue does not have in any case.

    The first word of a sentence is a name only before a verb ("Anna wants") or another name; in a note, which has
    bullets or headings, only before another name. Headings, labels before a colon and ordinary words are no names,
    unless they stand beside a name ("Oxford Street"), and a text in capitals or title case has none. Two words of four
    letters or more are the same name when one begins with the other (America, American). Countries match their
    adjectives, abbreviations the initials of words (NYC, New York; M R I), names their short forms (Mike, Michael) and
    handles (@virgintrains), weekdays and months their abbreviations, and months the numbers of a date.
    """
    plain = [word[0] for word in _NAME.finditer(summary) if len(word[0]) > 3]
    if len(plain) > 3 and sum(word[0].isupper() for word in plain) > 0.8 * len(plain):
        return []
    known = _known(dialogue)
    stems = _stems(dialogue)
    in_note = "\n" in summary and _NOTE.search(summary) is not None
    spans = []
    for match in _NAME.finditer(summary):
        name = re.sub(r"['’]s$", "", match[0])
        if not name[0].isupper() or _is_no_name(name):
            continue
        if _begins_sentence(summary, match.start()) and not _is_subject(
            name, summary[match.start() + len(name) :], in_note
        ):
            continue
        if not _is_known(name, known, stems, dialogue):
            spans.append((match.start(), match.start() + len(name)))
    return outside(spans, [*_headings(summary), *_abbreviated(summary, dialogue)])


def _is_no_name(name: str) -> bool:
    letters = re.sub(r"[\W\d_]", "", name)
    return (
        len(name) < 2
        or name.lower() in _TITLES
        or _STARTERS.fullmatch(name) is not None
        or re.match(r"I['’]", name) is not None
        or _NOTATION.fullmatch(name) is not None
        or re.fullmatch(r"[A-Z]-[a-z]+", name) is not None  # X-ray
        or (len(letters) <= 2 and len(letters) < len(name))  # A1c, B12
        or is_title_word(name.split("-")[0])
    )


def _is_subject(name: str, rest: str, in_note: bool) -> bool:
    """Whether a word that begins a sentence is a name, judged by what follows."""
    if is_ordinary(name) or is_ordinary(name.split("-")[0]):  # Adult-onset
        return False
    if (following := re.match(r"\s+([A-Z][a-z][\w-]*)", rest)) and not is_ordinary(following[1]):
        return True
    return not in_note and _VERB.match(rest) is not None and _PLURAL.match(rest) is None


def _begins_sentence(text: str, at: int) -> bool:
    head = text[max(0, at - 20) : at]
    if re.search(r"(?i:\b(?:mrs?|ms|dr|prof|st))\.\s*\Z", head):
        return False
    if re.search(r"(?<![\w'’])[A-Z]\.\s*\Z", head):  # "J. Smith", but "plan B. Students agree."
        return is_ordinary(text[at:].split(maxsplit=1)[0].strip(",.;:"))
    before = rf"\A|[.!?:;…\n][\"”’')\]]*|[\"“‘(\[]|\s'|(?:\A|\n)[^\S\n]*{_BULLET}"
    return re.search(rf"(?:{before})\s*[\"“‘(\[]?\Z", head) is not None


def _headings(text: str) -> Iterator[Span]:
    """Labels ("Medical Reasoning: ...") with an ordinary word or in capitals, such lines in title case, and phrases of
    ordinary words alone ("Chronic Kidney Disease", "Psychiatry")."""
    for match in re.finditer(r"[A-Z][\w-]*(?:\s+[A-Z][\w-]*)*", text):
        capitalised = match[0].split()
        if (len(capitalised) == 1 and is_never_a_name(match[0])) or all(
            (len(capitalised) > 1 and is_ordinary(word) and not word.endswith("ly")) or _NOTATION.fullmatch(word)
            for word in capitalised
        ):
            yield match.span()
    for match in _LABEL.finditer(text):
        if _is_heading(match[1]):
            yield match.span(1)
    if "\n" in text:
        for match in re.finditer(r"[^\n]+", text):
            capitals = [word[0].isupper() for word in re.findall(r"[^\W\d_]{4,}", match[0])]
            if all(capitals) and not match[0].rstrip().endswith((".", "!", "?")) and _is_heading(match[0]):
                yield match.span()


def _is_heading(line: str) -> bool:
    return line.isupper() or any(map(is_ordinary, re.findall(r"[^\W\d_]+", line)))


@lru_cache(maxsize=1024)  # a dialogue is compared with several summaries
def _known(dialogue: str) -> frozenset[str]:
    """The words of a dialogue that can name something, in lower case, and their other forms."""
    tokens = words(_folded(dialogue))
    known = {_key(word) for word in tokens}
    # "you tube" and "i phone" in one word
    known |= {first + second for first, second in pairwise(tokens) if len(first + second) > 5}
    known |= {part.lower() for part in re.findall(r"[A-Z]+(?![a-z])|[A-Z][a-z]+", dialogue)}  # AppleSupport
    for run in re.finditer(r"(?<![^\W_])[^\W\d_](?:[\s._-]{1,2}[^\W\d_](?![^\W_]))+", dialogue):
        letters = re.sub(r"[\W_]", "", run[0]).lower()
        known |= {letters[at : at + length] for at in range(len(letters) - 1) for length in range(2, 13)}
    if re.search(r"\bU\.?S\b", dialogue):
        known.add("usa")
    return frozenset(known | {MONTHS[number - 1] for number in months_in_dates(dialogue)})


@lru_cache(maxsize=1024)
def _stems(dialogue: str) -> tuple[str, ...]:
    """The words of four letters or more."""
    return tuple(word for word in map(_key, words(_folded(dialogue))) if len(word) > 3)


def _is_known(name: str, known: frozenset[str], stems: tuple[str, ...], dialogue: str) -> bool:
    folded = _folded(name)
    parts = [part for part in re.split(r"[-'’]", folded) if len(part) > 1 and part[0].isupper()]
    halves = re.findall(r"[A-Z][a-z]+", folded) if re.fullmatch(r"(?:[A-Z][a-z]+){2,}", folded) else []  # YouTube
    known_halves = [half for half in halves if _is_word_known(half, known, stems, dialogue)]
    whole = "".join(words(folded))
    return (
        whole in known
        or not SAME.get(whole, frozenset()).isdisjoint(known)
        or all(_is_word_known(part, known, stems, dialogue) for part in parts)
        or (len(known_halves) > 0 and all(half in known_halves or is_ordinary(half) for half in halves))
    )


def _is_word_known(part: str, known: frozenset[str], stems: tuple[str, ...], dialogue: str) -> bool:
    word = _key("".join(words(part)))
    singular = word.removesuffix("s")
    return (
        word in known
        or (len(singular) > 1 and singular in known)
        or not SAME.get(word, SAME.get(singular, frozenset())).isdisjoint(known)
        or (len(word) > 3 and any(word.startswith(stem) or stem.startswith(word) for stem in stems))
        or (len(word) > 3 and re.search(rf"[@#]\w*{word}", dialogue, re.IGNORECASE) is not None)
        or (re.fullmatch(r"[A-Z]{2,6}s?", part) is not None and _has_initials(part.removesuffix("s"), dialogue))
    )


def _has_initials(abbreviation: str, text: str) -> bool:
    """Whether words in a row have these initials; of three letters or more, long words can give several of them."""
    return re.search(rf"(?i){_initials(abbreviation)}", text) is not None


def _initials(letters: str, several: bool | None = None) -> str:
    several = len(letters) > 2 if several is None else several
    ways = []
    for end in range(1, len(letters) + 1 if several else 2):
        word = r"\b(?=\w{10})" if end > 1 else r"\b"
        word += r"\w{0,20}?".join(letters[:end]) + r"\w{0,30}"
        rest = rf"[\s_-]+(?:{_SMALL}\s+)*{_initials(letters[end:], several)}" if end < len(letters) else ""
        ways.append(word + rest)
    return rf"(?:{'|'.join(ways)})"


def _abbreviated(summary: str, dialogue: str) -> Iterator[Span]:
    """Spans of names of several words whose initials the dialogue has, or begins with: New York of NYC."""
    short = {word.lower() for word in re.findall(r"\b[A-Z]{2,6}\b|\b[b-df-hj-np-tv-z]{3,6}\b", dialogue)}
    spelt = re.findall(r"\b(?:[A-Za-z][\s._-]){1,5}[A-Za-z]\b", dialogue)
    short |= {re.sub(r"[\W_]", "", letters).lower() for letters in spelt}
    short |= {word[:-1] for word in short if len(word) > 2}
    for run in re.finditer(rf"{_CAPITALISED}(?:\s+(?:{_SMALL}\s+)?{_CAPITALISED})+", summary):
        names = list(re.finditer(_CAPITALISED, run[0]))
        for first, last in combinations(range(len(names)), 2):
            if last - first < 6 and "".join(name[0][0] for name in names[first : last + 1]).lower() in short:
                yield run.start() + names[first].start(), run.start() + names[last].end()


def _key(word: str) -> str:
    return word[:3] if _CALENDAR.fullmatch(word) else word


def _folded(text: str) -> str:
    """The text without accents."""
    return "".join(letter for letter in unicodedata.normalize("NFKD", text) if not unicodedata.combining(letter))
