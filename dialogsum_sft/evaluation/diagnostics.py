"""What ROUGE does not see in a summary: unfinished, copied, repeated, wrong speakers, facts the dialogue lacks.

Numbers and names are found by rules (see facts.py), which are wrong now and then: compare a system's rate with that of
the human references, which metrics.json has beside it.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dialogsum_sft.data.dialogue import split_turns
from dialogsum_sft.evaluation.rouge import rouge_scores
from dialogsum_sft.evaluation.tokenizers import words
from dialogsum_sft.evaluation.unsupported import Span, unsupported_names, unsupported_numbers

import numpy as np


@dataclass(frozen=True)
class Diagnosis:
    """A prediction beside its dialogue and references; spans are character offsets into the prediction.

    `length_ratio` is its words over the references' mean, `compression` the dialogue's words over its own (Grusky et
    al. 2018), 0 where one is missing. `copied_run` is the longest run of words that stands in the dialogue too, as a
    share of the prediction; `novel_bigrams` the share of its bigrams that the dialogue does not have;
    `repeated_trigrams` the share of its trigrams that occurred before.
    """

    words: int
    length_ratio: float
    compression: float
    unfinished: bool
    empty: bool
    copied_run: float
    novel_bigrams: float
    repeated_trigrams: float
    wrong_tags: list[Span]  # speakers whom the dialogue does not have, in any format
    foreign_tags: list[Span]  # speakers of the dialogue in a format that no reference uses
    unsupported_numbers: list[Span]
    unsupported_names: list[Span]


def diagnose(row: Mapping[str, Any]) -> Diagnosis:
    """Diagnosis of a line of predictions.jsonl: `prediction`, `dialogue`, `references`, `finish_reason` if known."""
    prediction, dialogue = row["prediction"], row["dialogue"]
    said, source = words(prediction), words(dialogue)
    wanted = sum(len(words(ref)) for ref in row["references"]) / len(row["references"])
    known = set(_ngrams(source, 2))
    bigrams, trigrams = _ngrams(said, 2), _ngrams(said, 3)
    tags = _tags(prediction, _stems(dialogue))
    present = {tag.speaker for tag in _tags(dialogue, _stems(dialogue))}
    formats = _formats(row)
    taken = [tag.span for tag in tags]
    return Diagnosis(
        words=len(said),
        length_ratio=len(said) / wanted if wanted else 0.0,
        compression=len(source) / len(said) if said else 0.0,
        unfinished=row.get("finish_reason") == "length",
        empty=not said,
        copied_run=_longest_common_run(said, source) / len(said) if said else 0.0,
        novel_bigrams=sum(pair not in known for pair in bigrams) / len(bigrams) if bigrams else 0.0,
        repeated_trigrams=1 - len(set(trigrams)) / len(trigrams) if trigrams else 0.0,
        wrong_tags=[tag.span for tag in tags if tag.speaker not in present],
        foreign_tags=[tag.span for tag in tags if tag.speaker in present and tag.format not in formats],
        unsupported_numbers=unsupported_numbers(prediction, dialogue, taken),
        unsupported_names=unsupported_names(prediction, dialogue, taken),
    )


def _ngrams(tokens: list[str], n: int) -> list[tuple[str, ...]]:
    return list(zip(*(tokens[i:] for i in range(n)), strict=False))


def _longest_common_run(first: list[str], second: list[str]) -> int:
    places: dict[str, list[int]] = {}
    for at, token in enumerate(second):
        places.setdefault(token, []).append(at)
    longest = 0
    ends: dict[int, int] = {}  # length of the run that ends at each place of `second`
    for token in first:
        ends = {at: ends.get(at - 1, 0) + 1 for at in places.get(token, ())}
        longest = max(longest, *ends.values(), 0)
    return longest


# Speakers' tags: #Person1#, and what models make of it.

_SPELT = {"a": "1", "b": "2", "c": "3", "d": "4", "one": "1", "two": "2", "three": "3", "four": "4"}


@dataclass(frozen=True)
class _Tag:
    span: Span
    speaker: tuple[str, str]  # as in ("person", "1"), whatever the format
    format: str  # as in "#Person{}#"; "Person A" and "Person One" are "Person {} spelt"


def _stems(dialogue: str) -> frozenset[str]:
    """The words that a tag is made of: "Person" always, and those before a number in the dialogue's labels."""
    labels = (re.fullmatch(r"#?([^\W\d_]+)[\s_-]?#?\d+#?", turn.speaker or "") for turn in split_turns(dialogue))
    return frozenset({"person", *(label[1].lower() for label in labels if label)})


def _tags(text: str, stems: frozenset[str]) -> list[_Tag]:
    stem = "|".join(sorted(map(re.escape, stems), key=len, reverse=True))
    # With a number any case will do ("person 1"); before a word or a letter only a capital ("Person A", "Person One").
    numbered = rf"#?(?<![^\W_])(?i:(?P<stem>{stem}))[\s_-]?#?(?P<number>\d+)(?!\d)(?![.,:]\d)#?"
    capitals = "|".join(re.escape(stem.capitalize()) for stem in sorted(stems))
    spelt = rf"(?<![^\W_])(?P<Stem>{capitals}) (?P<word>(?i:one|two|three|four)|[A-D])\b"
    found = []
    for match in re.finditer(rf"{numbered}|{spelt}", text):
        name, number = match["stem"] or match["Stem"], match["number"] or match["word"]
        start, end = match.span("number" if match["number"] else "word")
        shape = f"{text[match.start() : start]}{{}}{text[end : match.end()]}"
        speaker = (name.lower(), _SPELT.get(number.lower(), number))
        found.append(_Tag(match.span(), speaker, shape if match["number"] else f"{shape} spelt"))
    return found


def _formats(row: Mapping[str, Any]) -> Counter[str]:
    """The formats of the references' tags, or, where they have none, of the dialogue's."""
    stems = _stems(row["dialogue"])
    used = Counter(tag.format for ref in row["references"] for tag in _tags(ref, stems))
    return used or Counter(tag.format for tag in _tags(row["dialogue"], stems))


def rewrite_tags(row: Mapping[str, Any]) -> str:
    """The prediction with its foreign tags in the references' format: as a reference or the dialogue writes this very
    speaker, else as the references write others. Left as it is where that cannot be known.
    """
    text: str = row["prediction"]
    formats, stems = _formats(row), _stems(row["dialogue"])
    written = {
        tag.speaker: source[slice(*tag.span)]
        for source in (row["dialogue"], *row["references"])
        for tag in _tags(source, stems)
        if tag.format in formats
    }
    numbered = next((shape for shape, _ in formats.most_common() if not shape.endswith(" spelt")), None)
    foreign = set(diagnose(row).foreign_tags)
    for tag in reversed(_tags(text, stems)):
        if tag.span in foreign:
            start, end = tag.span
            other = numbered.format(tag.speaker[1]) if numbered else text[start:end]
            text = text[:start] + written.get(tag.speaker, other) + text[end:]
    return text


def rates(rows: Sequence[Mapping[str, Any]], tokenizer: str = "default") -> dict[str, float | None]:
    """The diagnoses of all rows as one record: means, and of the lists the share of summaries where there is any.

    `unfinished` is None where no row says why it ended. `compression` is of the summaries that are not empty.
    `foreign_tags_cost` is ROUGE-1 (F1 x 100, mean over references) with the tags rewritten into the references' format
    minus as they stand, over all dialogues.
    """
    found = [diagnose(row) for row in rows]
    foreign = [row for row, diagnosis in zip(rows, found, strict=True) if diagnosis.foreign_tags]
    references = [row["references"] for row in foreign]
    after = rouge_scores([rewrite_tags(row) for row in foreign], references, tokenizer)["rouge1"]
    before = rouge_scores([row["prediction"] for row in foreign], references, tokenizer)["rouge1"]
    gains = [np.mean(new) - np.mean(old) for new, old in zip(after, before, strict=True)]
    means = ("words", "length_ratio", "copied_run", "novel_bigrams", "repeated_trigrams")
    shares = ("empty", "wrong_tags", "foreign_tags", "unsupported_numbers", "unsupported_names")
    compressions = [diagnosis.compression for diagnosis in found if not diagnosis.empty]
    return {
        **{name: float(np.mean([getattr(diagnosis, name) for diagnosis in found])) for name in means},
        "compression": float(np.mean(compressions)) if compressions else 0.0,
        "unfinished": unfinished_share(rows),
        **{name: float(np.mean([bool(getattr(diagnosis, name)) for diagnosis in found])) for name in shares},
        "foreign_tags_cost": float(sum(gains)) / len(rows),
    }


def unfinished_share(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """Share of the summaries cut off at max_new_tokens, of those that say why they ended; None where none does."""
    reasons = [row["finish_reason"] for row in rows if row.get("finish_reason") is not None]
    return reasons.count("length") / len(reasons) if reasons else None


def slices(
    rows: Sequence[Mapping[str, Any]], scores: Mapping[str, Sequence[Sequence[float]]]
) -> dict[str, dict[str, dict[str, float | None]]]:
    """ROUGE-1, 2, L (mean over references) by topic, dialogue length (quarters of the dialogues), number of speakers,
    and whether the dialogue was shortened: {slice: {label: {"examples", "rouge1", "rouge2", "rougeL", "unfinished"}}}.

    A topic is a slice where at least five dialogues have it. A slice with one label says nothing and is left out.
    """
    lengths = [len(words(row["dialogue"])) for row in rows]
    speakers = [len({turn.speaker for turn in split_turns(row["dialogue"])} - {None}) for row in rows]
    topics = [row.get("topic") for row in rows]
    common = {topic for topic, count in Counter(topics).items() if topic is not None and count >= 5}
    labels: dict[str, list[str]] = {
        "topic": [str(topic) if topic in common else "other topics" for topic in topics],
        "dialogue length": _quarters(lengths),
        "speakers": ["no labels" if n == 0 else f"{n}" if n < 4 else "4 or more" for n in speakers],
        "shortened": ["shortened" if row.get("dropped_turns") else "whole" for row in rows],
    }
    result: dict[str, dict[str, dict[str, float | None]]] = {}
    for name, by_row in labels.items():
        if len(set(by_row)) > 1:
            order = sorted(set(by_row), key=_order)
            result[name] = {label: _slice(rows, scores, [label == of_row for of_row in by_row]) for label in order}
    return result


def _quarters(lengths: Sequence[int]) -> list[str]:
    edges = np.quantile(lengths, (0.25, 0.5, 0.75))
    quarters = [int(np.searchsorted(edges, length)) for length in lengths]
    spans = {quarter: [n for n, q in zip(lengths, quarters, strict=True) if q == quarter] for quarter in quarters}
    return [f"{min(spans[quarter])} to {max(spans[quarter])} words" for quarter in quarters]


def _order(label: str) -> tuple[bool, int, str]:
    number = re.match(r"\d+", label)
    return label in ("other topics", "no labels", "shortened"), int(number[0]) if number else 0, label


def _slice(
    rows: Sequence[Mapping[str, Any]], scores: Mapping[str, Sequence[Sequence[float]]], inside: Sequence[bool]
) -> dict[str, float | None]:
    chosen = [i for i, belongs in enumerate(inside) if belongs]
    return {
        "examples": len(chosen),
        **{
            name: float(np.mean([np.mean(scores[name][i]) for i in chosen])) for name in ("rouge1", "rouge2", "rougeL")
        },
        "unfinished": unfinished_share([rows[i] for i in chosen]),
    }
