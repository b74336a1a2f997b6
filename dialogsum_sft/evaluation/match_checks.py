"""What shows that predictions are not of the dialogues that they are matched with."""

import math
import re
from collections import Counter
from collections.abc import Sequence

from dialogsum_sft import InputError
from dialogsum_sft.data.answers import read_answer
from dialogsum_sft.data.row_files import one_line
from dialogsum_sft.evaluation.known_columns import comparable, owners_of_references
from dialogsum_sft.evaluation.prediction_files import Row
from dialogsum_sft.evaluation.predictions import Predictions
from dialogsum_sft.evaluation.tokenizers import words

# Of each example its predictions, each with the references of its row; None where it is for all.
Given = dict[int, list[tuple[list[int] | None, Row]]]


def check_labels(
    predictions: Predictions, given: Given, examples: Sequence[Row], dataset: str, notes: list[str], by: str
) -> None:
    """Labels are references of the dataset: those of another dialogue, or of none at all, show a wrong order."""
    owners = owners_of_references(examples)
    order = {id(row): n for n, row in enumerate(predictions.rows)}
    placed = sorted((order[id(row)], i, row) for i, several in given.items() for _, row in several)
    labelled = unknown = 0
    for _, i, row in placed:
        labels = [comparable(text) for text in row.get("label") or [] if text.strip()]
        labelled += bool(labels)
        if not labels or any(i in owners.get(label, ()) for label in labels):
            continue
        other = next((min(owners[label]) for label in labels if label in owners), None)
        if other is not None:
            raise InputError(
                f"{predictions.path}: {row['place']} is matched with {examples[i]['id']} of "
                f"{dataset} by its {by.split(' of ')[0]}, but its reference is that of {examples[other]['id']}: "
                + ("give the rows in the dataset's order, or ids" if "order" in by else "correct the rows")
            )
        own = list(map(comparable, examples[i]["references"]))
        unknown += not any(ref.startswith(label) for ref in own for label in labels)  # else it was cut short
    if labelled and unknown == labelled and "order" in by:
        raise InputError(
            f"{predictions.path}: none of its {labelled} references ({predictions.label}) is one of "
            f"{dataset}: give the dataset, --dataset_test_split and --summary_columns of the predictions, or "
            "remove that column"
        )
    if unknown:
        notes.append(f"{predictions.path.name}: {unknown} of its {labelled} references are not in {dataset}")


def check_lines(predictions: Predictions, given: Given, examples: Sequence[Row], notes: list[str]) -> None:
    """Lines of text that begin with the dialogues' ids, and lines that may be parts of one summary."""
    rows = predictions.rows
    if not predictions.is_text:
        return
    ids = {str(example["id"]) for example in examples}
    first = [re.match(r"\W?(\w[\w./:#-]*)", row["prediction"]) for row in rows]
    begins = {match[1].rstrip("./:#-") for match in first if match}
    if len(rows) > 1 and len(begins) == len(rows) and begins <= ids:
        raise InputError(
            f"{predictions.path}: its lines begin with ids ({one_line(rows[0]['prediction'][:30])!r}), which "
            "would be scored: write .jsonl with id and prediction, or a .csv with a header"
        )
    broken = [b["place"] for a, b in zip(rows, rows[1:], strict=False) if continues(a, b)]
    if broken and len(broken) <= len(rows) / 10:
        notes.append(f"{predictions.path.name}: {broken[0]} may be the rest of the summary on the line before it")


def doubtful_order(predictions: Predictions, given: Given, examples: Sequence[Row]) -> list[str]:
    """A warning where most predictions have more of another dialogue's words than of their own: their order is wrong.

    Of 100 predictions at most. Words that few dialogues have count more, by the logarithm of their rarity.
    """
    dialogues = [set(words(example["dialogue"])) for example in examples]
    frequency = Counter(word for dialogue in dialogues for word in dialogue)
    weight = {word: math.log(len(dialogues) / count) for word, count in frequency.items()}
    elsewhere = []
    sampled = sorted(given)[:: len(given) // 100 + 1]
    for i in sampled:
        row = given[i][0][1]
        own = {word for word in words(read_answer(row["prediction"]).summary) if word in weight}
        fits = [sum(weight[word] for word in own & dialogue) for dialogue in dialogues]
        if max(fits) > fits[i] + 1e-9:
            elsewhere.append((row["place"], fits.index(max(fits))))
    several = len({other for _, other in elsewhere}) > len(elsewhere) / 3  # else they are all alike
    if several and len(elsewhere) > max(1, len(sampled) * 2 / 3):
        place, other = elsewhere[0]
        return [
            f"{predictions.path.name}: {len(elsewhere)} of {len(sampled)} predictions fit another dialogue "
            f"better than the one in their place ({place} fits {examples[other]['id']}): is the order the "
            "dataset's?"
        ]
    return []


def continues(line: Row, following: Row) -> bool:
    """Whether a line of text looks like the rest of the one before."""
    before, after = line["prediction"].rstrip(), following["prediction"].lstrip()
    return bool(after) and after[0].islower() and bool(before) and before[-1] not in ".!?…。！？\"”')"
