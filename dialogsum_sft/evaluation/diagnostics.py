"""Faults that ROUGE does not measure: cut off, copied, repeated, wrong speakers, unsupported numbers and names.

Numbers and names are detected by rules for English (see unsupported.py), which err now and then: compare a system's
rate with that of the human references, which stands beside it in metrics.json. Both are None for other languages.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dialogsum_sft.data.answers import is_unfinished, written
from dialogsum_sft.data.transcripts import dialogue_of
from dialogsum_sft.evaluation.english import is_english
from dialogsum_sft.evaluation.number_rules import Span
from dialogsum_sft.evaluation.rouge import HEADLINE, rouge_scores
from dialogsum_sft.evaluation.tokenizers import words
from dialogsum_sft.evaluation.unsupported import unsupported_names, unsupported_numbers

import numpy as np


@dataclass(frozen=True)
class Diagnosis:
    """Properties of a prediction; spans are character offsets into it.

    `length_ratio` is its words divided by the references' mean, `compression` the dialogue's words divided by its own
    (Grusky et al. 2018), 0 where the divisor is 0. `copied_run` is the longest run of words that the dialogue has too,
    as a share of the prediction; `novel_bigrams` is the share of its bigrams that the dialogue does not have;
    `repeated_trigrams` is the share of its trigrams that occurred before.
    """

    words: int
    length_ratio: float
    compression: float
    unfinished: bool
    empty: bool
    copied_run: float
    novel_bigrams: float
    repeated_trigrams: float
    wrong_tags: list[Span]  # speakers that the dialogue does not have, in any format
    foreign_tags: list[Span]  # speakers of the dialogue in a format that no reference uses
    unsupported_numbers: list[Span] | None  # None where the prediction or its dialogue is not English
    unsupported_names: list[Span] | None
    preamble: bool = False  # "Here is a summary:" or the like was written, whether it is taken off or not
    marks: bool = False  # special tokens were written around it, which are no part of the prediction
    thinking: bool = False  # thinking was written, which is no part of the prediction


def diagnose(row: Mapping[str, Any]) -> Diagnosis:
    """Diagnose a line of predictions.jsonl {prediction, dialogue, references}, with `finish_reason` if known."""
    prediction, dialogue = row["prediction"], row["dialogue"]
    tokens, source = words(prediction), words(dialogue)
    reference_words = sum(len(words(ref)) for ref in row["references"]) / len(row["references"])
    source_bigrams = set(_ngrams(source, 2))
    bigrams, trigrams = _ngrams(tokens, 2), _ngrams(tokens, 3)
    stems = _stems(row)
    tags = _tags(prediction, stems)
    speakers = {tag.speaker for tag in _tags(dialogue, stems)}
    formats = _formats(row)
    spans = [tag.span for tag in tags]
    english, answers = is_english(prediction, dialogue), written(row)
    return Diagnosis(
        words=len(tokens),
        length_ratio=len(tokens) / reference_words if reference_words else 0.0,
        compression=len(source) / len(tokens) if tokens else 0.0,
        unfinished=is_unfinished(row),
        empty=not tokens,
        preamble=any(answer.has_preamble for answer in answers),
        marks=any(answer.has_marks for answer in answers),
        thinking=any(answer.has_thinking for answer in answers),
        copied_run=_longest_common_run(tokens, source) / len(tokens) if tokens else 0.0,
        novel_bigrams=sum(pair not in source_bigrams for pair in bigrams) / len(bigrams) if bigrams else 0.0,
        repeated_trigrams=1 - len(set(trigrams)) / len(trigrams) if trigrams else 0.0,
        wrong_tags=[tag.span for tag in tags if tag.speaker not in speakers],
        foreign_tags=[tag.span for tag in tags if tag.speaker in speakers and tag.format not in formats],
        unsupported_numbers=unsupported_numbers(prediction, dialogue, spans) if english else None,
        unsupported_names=unsupported_names(prediction, dialogue, spans) if english else None,
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


# Speakers' tags: #Person1#, and the variants that models write.

_SPELT = {"a": "1", "b": "2", "c": "3", "d": "4", "one": "1", "two": "2", "three": "3", "four": "4"}


@dataclass(frozen=True)
class _Tag:
    span: Span
    speaker: tuple[str, str]  # as in ("person", "1"), whatever the format
    format: str  # as in "#Person{}#"; "Person A" and "Person One" are "Person {} spelt"


def _stems(row: Mapping[str, Any]) -> frozenset[str]:
    """The words that a tag is made of: "Person" always, and those before a number in the dialogue's labels."""
    labels = (re.fullmatch(r"#?([^\W\d_]+)[\s_-]?#?\d+#?", speaker) for speaker in dialogue_of(row).speakers)
    return frozenset({"person", *(label[1].lower() for label in labels if label)})


def _tags(text: str, stems: frozenset[str]) -> list[_Tag]:
    stem = "|".join(sorted(map(re.escape, stems), key=len, reverse=True))
    # Before a number any case matches ("person 1"), before a word or a letter only a capital ("Person A").
    numbered = rf"#?(?<![^\W_])(?i:(?P<stem>{stem}))[\s_-]?#?(?P<number>\d+)(?!\d)(?![.,:]\d)#?"
    capitals = "|".join(re.escape(stem.capitalize()) for stem in sorted(stems))
    spelt = rf"(?<![^\W_])(?P<Stem>{capitals}) (?P<word>(?i:one|two|three|four)|[A-D])\b"
    tags = []
    for match in re.finditer(rf"{numbered}|{spelt}", text):
        name, number = match["stem"] or match["Stem"], match["number"] or match["word"]
        start, end = match.span("number" if match["number"] else "word")
        shape = f"{text[match.start() : start]}{{}}{text[end : match.end()]}"
        speaker = (name.lower(), _SPELT.get(number.lower(), number))
        tags.append(_Tag(match.span(), speaker, shape if match["number"] else f"{shape} spelt"))
    return tags


def _formats(row: Mapping[str, Any]) -> Counter[str]:
    """The formats of the references' tags; of the dialogue's where the references have none."""
    stems = _stems(row)
    used = Counter(tag.format for ref in row["references"] for tag in _tags(ref, stems))
    return used or Counter(tag.format for tag in _tags(row["dialogue"], stems))


def rewrite_tags(row: Mapping[str, Any], foreign_tags: Sequence[Span]) -> str:
    """The prediction with its foreign tags in the references' format.

    A tag is written as a reference or the dialogue writes this speaker, else as the references write other speakers.
    It stays unchanged where neither is known.
    """
    text: str = row["prediction"]
    formats, stems = _formats(row), _stems(row)
    written = {
        tag.speaker: source[slice(*tag.span)]
        for source in (row["dialogue"], *row["references"])
        for tag in _tags(source, stems)
        if tag.format in formats
    }
    numbered = next((shape for shape, _ in formats.most_common() if not shape.endswith(" spelt")), None)
    for tag in reversed(_tags(text, stems)):
        if tag.span in foreign_tags:
            start, end = tag.span
            other = numbered.format(tag.speaker[1]) if numbered else text[start:end]
            text = text[:start] + written.get(tag.speaker, other) + text[end:]
    return text


def rates(
    rows: Sequence[Mapping[str, Any]],
    diagnoses: Sequence[Diagnosis],
    tokenizer: str = "default",
    *,
    rouge1: Sequence[Sequence[float]] | None = None,
) -> dict[str, float | None]:
    """The diagnoses of all rows as one record: means of numbers; of lists the share of summaries with an entry.

    `unfinished` is None where no row has a `finish_reason`, `thinking` where there is none, `unsupported_numbers` and
    `unsupported_names` where most rows are not English; the others of a mixed set count as having none. `compression`
    is over the summaries that are not empty. `foreign_tags_cost` is ROUGE-1 (F1 x 100, mean over references) with the
    foreign tags rewritten, minus ROUGE-1 of the predictions (`rouge1`, [dialogue][reference], computed here if not
    given), over all dialogues.
    """
    foreign = [i for i, diagnosis in enumerate(diagnoses) if diagnosis.foreign_tags]
    references = [rows[i]["references"] for i in foreign]
    rewritten = [rewrite_tags(rows[i], diagnoses[i].foreign_tags) for i in foreign]
    if rouge1 is None:
        before = rouge_scores([rows[i]["prediction"] for i in foreign], references, tokenizer)["rouge1"]
    else:
        before = [list(rouge1[i]) for i in foreign]
    after = rouge_scores(rewritten, references, tokenizer)["rouge1"]
    gains = [np.mean(new) - np.mean(old) for new, old in zip(after, before, strict=True)]
    means = ("words", "length_ratio", "copied_run", "novel_bigrams", "repeated_trigrams")
    shares = ("empty", "preamble", "wrong_tags", "foreign_tags", "unsupported_numbers", "unsupported_names")
    counts = {name: count(diagnoses, name) for name in shares}
    compressions = [diagnosis.compression for diagnosis in diagnoses if not diagnosis.empty]
    return {
        **{name: float(np.mean([getattr(diagnosis, name) for diagnosis in diagnoses])) for name in means},
        "compression": float(np.mean(compressions)) if compressions else 0.0,
        "unfinished": unfinished_share(rows),
        **{name: (count(diagnoses, name) or 0) / len(diagnoses) or None for name in ("thinking", "marks")},
        **{name: None if number is None else number / len(diagnoses) for name, number in counts.items()},
        "foreign_tags_cost": float(sum(gains)) / len(rows),
    }


def count(diagnoses: Sequence[Diagnosis], field: str) -> int | None:
    """Number of diagnoses whose field is true or not empty; None where it is None for most of them."""
    values = [getattr(diagnosis, field) for diagnosis in diagnoses]
    return None if 2 * values.count(None) > len(values) else sum(map(bool, values))


def unfinished_share(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """Share of the rows with a `finish_reason` that were cut off at max_new_tokens; None where no row has one.

    Thinking that did not end is cut off too: of all rows where none has a `finish_reason`.
    """
    unfinished = [is_unfinished(row) for row in rows]
    known = [row.get("finish_reason") is not None for row in rows]
    if not any(known):
        return sum(unfinished) / len(rows) if any(unfinished) else None
    return sum(unfinished) / sum(a or b for a, b in zip(unfinished, known, strict=True))


def slices(
    rows: Sequence[Mapping[str, Any]], scores: Mapping[str, Sequence[Sequence[float]]]
) -> dict[str, dict[str, dict[str, float | None]]]:
    """Scores by topic, dialogue length (quarters of the dialogues), number of speakers, and shortened or not.

    Returns {slice: {label: {"examples", "rouge1", "rouge2", "rougeL", "unfinished"}}}; `scores` is {type:
    [dialogue][reference]}. Topics of fewer than five dialogues share one label. A slice with one label is left out.
    """
    lengths = [len(words(row["dialogue"])) for row in rows]
    speakers = [len(dialogue_of(row).speakers) for row in rows]
    topics = [row.get("topic") for row in rows]
    frequent = {topic for topic, count in Counter(topics).items() if topic is not None and count >= 5}
    labels: dict[str, list[str]] = {
        "topic": [str(topic) if topic in frequent else "other topics" for topic in topics],
        "dialogue length": _quarters(lengths),
        "speakers": ["no labels" if n == 0 else f"{n}" if n < 4 else "4 or more" for n in speakers],
        "shortened": [_how_read(row) for row in rows],
    }
    result: dict[str, dict[str, dict[str, float | None]]] = {}
    for name, by_row in labels.items():
        if len(set(by_row)) > 1:
            order = sorted(set(by_row), key=_order)
            result[name] = {label: _slice(rows, scores, [label == of_row for of_row in by_row]) for label in order}
    return result


def _how_read(row: Mapping[str, Any]) -> str:
    if row.get("windows", 1) > 1:
        return "in windows"
    return "shortened" if row.get("dropped_turns") or row.get("cut_turns") else "whole"


def _quarters(lengths: Sequence[int]) -> list[str]:
    edges = np.quantile(lengths, (0.25, 0.5, 0.75))
    quarters = [int(np.searchsorted(edges, length)) for length in lengths]
    spans = {quarter: [n for n, q in zip(lengths, quarters, strict=True) if q == quarter] for quarter in quarters}
    return [f"{min(spans[quarter])} to {max(spans[quarter])} words" for quarter in quarters]


def _order(label: str) -> tuple[bool, int, str]:
    number = re.match(r"\d+", label)
    return label in ("other topics", "no labels", "shortened", "in windows"), int(number[0]) if number else 0, label


def _slice(
    rows: Sequence[Mapping[str, Any]], scores: Mapping[str, Sequence[Sequence[float]]], inside: Sequence[bool]
) -> dict[str, float | None]:
    chosen = [i for i, belongs in enumerate(inside) if belongs]
    return {
        "examples": len(chosen),
        **{name: float(np.mean([np.mean(scores[name][i]) for i in chosen])) for name in HEADLINE},
        "unfinished": unfinished_share([rows[i] for i in chosen]),
    }
