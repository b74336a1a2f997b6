"""Match predictions with the dialogues of a dataset: by ids, or by order."""

import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from dialogsum_sft import InputError
from dialogsum_sft.data.answers import read_answer
from dialogsum_sft.data.row_files import one_line
from dialogsum_sft.data.transcripts import dialogue_of
from dialogsum_sft.evaluation.prediction_columns import Predictions
from dialogsum_sft.evaluation.prediction_files import Row
from dialogsum_sft.evaluation.predictions import Matched, check_limit, fault, public, repeated, some
from dialogsum_sft.evaluation.tokenizers import words


def match_examples(
    examples: Sequence[Row],
    predictions: Predictions,
    dataset: str,
    *,
    rows_read: int | None = None,
    limit: int | None = None,
) -> Matched:
    """Each example {id, dialogue, references, reference_rows, topic}, or the first `limit`, with its prediction.

    Predictions are matched by id, else by order: one for each dialogue, or one for each row of the dataset
    (`rows_read` of them, as the hub lays DialogSum out), whose ids may be those of the rows. Where the predictions for
    the rows of a dialogue differ, each is scored against its own row's reference.

    Raises InputError when the numbers differ, ids are missing, unknown or repeated, or labels belong elsewhere.
    """
    check_limit(limit)
    rows, path = predictions.rows, predictions.path
    with_id = sum("id" in row for row in rows)
    if with_id not in (0, len(rows)):
        without = next(row["place"] for row in rows if "id" not in row)
        raise InputError(f"{path}: {with_id} of {len(rows)} rows have an id, {without} has none: give all of them one")
    matcher = _Matcher(examples, predictions, dataset, rows_read, limit)
    matched = matcher.by_id() if with_id else matcher.by_order()
    matched.notes = [*predictions.notes, *matched.notes]
    return matched


@dataclass
class _Matcher:
    examples: Sequence[Row]
    predictions: Predictions
    dataset: str
    rows_read: int | None
    limit: int | None
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.chosen = self.examples[: self.limit]
        # Of each example its predictions, each with the references of its row; None where it is for all.
        self.given: dict[int, list[tuple[list[int] | None, Row]]] = defaultdict(list)

    def by_id(self) -> Matched:
        rows = self.predictions.rows
        ids = [row["id"] for row in rows]
        places = self._places()
        found = [places.get(name) or self._place_of_stem(name, places) for name in ids]
        if not any(found) and ids in ([str(i + start) for i in range(len(ids))] for start in (0, 1)):
            matched = self.by_order()
            matched.notes.append(f"{self.predictions.path.name}: its ids count the rows, which are matched by order")
            return matched
        for row, place in zip(rows, found, strict=True):
            if place is not None:
                self.given[place[0]].append((place[1], row))
        faults = {
            "ids are repeated": repeated(ids),
            f"ids are not in {self.dataset}": [name for name, place in zip(ids, found, strict=True) if place is None],
            f"dialogues of {self.dataset} have no prediction": [
                example["id"] for i, example in enumerate(self.chosen) if i not in self.given
            ],
        }
        faults["dialogues have a prediction and others for their rows"] = [
            self.examples[i]["id"] for i, several in self.given.items() if len({p is None for p, _ in several}) > 1
        ]
        self._refuse(faults)
        by_rows = any(place is not None for several in self.given.values() for place, _ in several)
        return self._matched("ids of rows" if by_rows else "ids")

    def by_order(self) -> Matched:
        rows, path = self.predictions.rows, self.predictions.path
        places = sorted(
            (number, i, n)
            for i, example in enumerate(self.examples)
            for n, (number, _) in enumerate(_reference_rows(example))
        )
        numbers = sorted({number for number, _, _ in places})
        count, by = len(rows), "order of rows"
        of_chosen = [place for place in places if place[1] < len(self.chosen)]
        if count in (len(self.chosen), len(self.examples)):
            self.given |= {i: [(None, row)] for i, row in enumerate(rows)}
            by = "order"
        elif count == len(places) or (count == len(of_chosen) and places[:count] == of_chosen):
            for (_, i, n), row in zip(places, rows, strict=False):
                self.given[i].append(([n], row))
        elif count in (len(numbers), self.rows_read):
            by_number = dict(zip(numbers if count == len(numbers) else range(count), rows, strict=True))
            for i, example in enumerate(self.examples):
                for number, references in _by_row(example).items():
                    if number in by_number:
                        self.given[i].append((references, by_number[number]))
        else:
            raise InputError(
                f"{path} has {count} predictions but {self.dataset} has {self._size(len(numbers))}: give one for each "
                f"dialogue in the dataset's order, one for each row, or ids{self._hint(count)}"
            )
        self._check_labels()
        self._check_lines()
        if self.predictions.label is None:
            self._check_words()
        return self._matched(by)

    def _size(self, rows: int) -> str:
        size = f"{len(self.examples)} dialogues"
        if len(self.chosen) < len(self.examples):
            size += f" (--max_eval_samples {self.limit})"
        return size + (f" in {rows} rows" if rows > len(self.examples) else "")

    def _hint(self, count: int) -> str:
        rows = self.predictions.rows
        if not self.predictions.is_text or not count:
            return ""
        if empty := sum(not row["prediction"].strip() for row in rows):
            return f" ({empty} of its lines are empty)"
        broken = [b["place"] for a, b in zip(rows, rows[1:], strict=False) if _continues(a, b)]
        if broken and count > len(self.chosen):
            return f" ({broken[0]} may be the rest of the summary before it: a summary must be one line)"
        return ""

    def _places(self) -> dict[str, tuple[int, list[int] | None]]:
        """Where an id belongs: an example, and the references of the row that has this id."""
        places: dict[str, tuple[int, list[int] | None]] = {}
        for i, example in enumerate(self.examples):
            places[example["id"]] = (i, None)
        for i, example in enumerate(self.examples):
            ids = [name for _, name in _reference_rows(example)]
            for name in {name for name in ids if name is not None} - places.keys():
                places[name] = (i, [n for n, other in enumerate(ids) if other == name])
        return places

    def _place_of_stem(
        self, name: str, places: dict[str, tuple[int, list[int] | None]]
    ) -> tuple[int, list[int] | None] | None:
        """test_0_2 is the second reference of test_0."""
        match = re.fullmatch(r"(.*\d)[_.-](\d{1,6})", name)
        place = places.get(match[1]) if match else None
        if match is None or place is None or not 1 <= int(match[2]) <= len(self.examples[place[0]]["references"]):
            return None
        return place[0], [int(match[2]) - 1]

    def _check_labels(self) -> None:
        """Labels are references of the dataset: those of another dialogue, or of none at all, show a wrong order."""
        owners: dict[str, set[int]] = defaultdict(set)
        for i, example in enumerate(self.examples):
            for text in example["references"]:
                owners[_comparable(text)].add(i)
        order = {id(row): n for n, row in enumerate(self.predictions.rows)}
        placed = sorted((order[id(row)], i, row) for i, several in self.given.items() for _, row in several)
        labelled = unknown = 0
        for _, i, row in placed:
            labels = [_comparable(text) for text in row.get("label") or [] if text.strip()]
            labelled += bool(labels)
            if not labels or any(i in owners[label] for label in labels):
                continue
            other = next((min(owners[label]) for label in labels if owners[label]), None)
            if other is not None:
                raise InputError(
                    f"{self.predictions.path}: {row['place']} is matched with {self.examples[i]['id']} of "
                    f"{self.dataset} by its order, but its reference is that of {self.examples[other]['id']}: give "
                    "the rows in the dataset's order, or ids"
                )
            own = list(map(_comparable, self.examples[i]["references"]))
            unknown += not any(ref.startswith(label) for ref in own for label in labels)  # else it was cut short
        if labelled and unknown == labelled:
            raise InputError(
                f"{self.predictions.path}: none of its {labelled} references ({self.predictions.label}) is one of "
                f"{self.dataset}: give the dataset, --dataset_test_split and --summary_columns of the predictions, or "
                "remove that column"
            )
        if unknown:
            self.notes.append(
                f"{self.predictions.path.name}: {unknown} of its {labelled} references are not in {self.dataset}"
            )

    def _check_lines(self) -> None:
        """Lines of text that begin with the dialogues' ids, and lines that may be parts of one summary."""
        rows = self.predictions.rows
        if not self.predictions.is_text:
            return
        begins = [str(self.examples[i]["id"]) for i in sorted(self.given)]
        if len(rows) > 1 and all(
            re.match(rf"\W?{re.escape(name)}\b", several[0][1]["prediction"])
            for name, several in zip(begins, (self.given[i] for i in sorted(self.given)), strict=True)
        ):
            raise InputError(
                f"{self.predictions.path}: its lines begin with ids ({one_line(rows[0]['prediction'][:30])!r}), which "
                "would be scored: write .jsonl with id and prediction, or a .csv with a header"
            )
        broken = [b["place"] for a, b in zip(rows, rows[1:], strict=False) if _continues(a, b)]
        if broken and len(broken) <= len(rows) / 10:
            self.notes.append(
                f"{self.predictions.path.name}: {broken[0]} may be the rest of the summary on the line before it"
            )

    def _check_words(self) -> None:
        """Note where most predictions have more of another dialogue's words than of their own: their order is wrong.

        Of 100 predictions at most. Words that few dialogues have count more, by the logarithm of their rarity.
        """
        dialogues = [set(words(example["dialogue"])) for example in self.examples]
        frequency = Counter(word for dialogue in dialogues for word in dialogue)
        weight = {word: math.log(len(dialogues) / count) for word, count in frequency.items()}
        elsewhere = []
        sampled = sorted(self.given)[:: len(self.given) // 100 + 1]
        for i in sampled:
            row = self.given[i][0][1]
            own = {word for word in words(read_answer(row["prediction"]).summary) if word in weight}
            fits = [sum(weight[word] for word in own & dialogue) for dialogue in dialogues]
            if max(fits) > fits[i] + 1e-9:
                elsewhere.append((row["place"], fits.index(max(fits))))
        several = len({other for _, other in elsewhere}) > len(elsewhere) / 3  # else they are all alike
        if several and len(elsewhere) > max(1, len(sampled) * 2 / 3):
            place, other = elsewhere[0]
            self.notes.append(
                f"{self.predictions.path.name}: {len(elsewhere)} of {len(sampled)} predictions fit another dialogue "
                f"better than the one in their place ({place} fits {self.examples[other]['id']}): is the order the "
                "dataset's?"
            )

    def _refuse(self, faults: dict[str, list[str]]) -> None:
        problems = [f"{len(several)} {what}: {some(several)}" for what, several in faults.items() if several]
        if problems:
            raise InputError(f"{self.predictions.path} and {self.dataset} do not match: {'; '.join(problems)}")

    def _matched(self, by: str) -> Matched:
        rows, differing, lacking = [], 0, []
        for i, example in enumerate(self.chosen):
            several = self.given[i]
            first = several[0][1]
            joined = _joined(example, first)
            if wrong := fault(joined):
                raise InputError(f"{self.predictions.path}: {first['place']} {wrong}")
            if any(row["prediction"] != first["prediction"] for _, row in several):
                texts = {n: row["prediction"] for references, row in several for n in references or []}
                differing += 1
                if len(texts) < len(example["references"]):
                    lacking.append(example["id"])
                joined["predictions_by_reference"] = [texts.get(n, "") for n in range(len(example["references"]))]
            rows.append(joined)
        self._refuse({"dialogues have predictions that differ, but not one for each reference": lacking})
        notes = self.notes
        unused = len(self.predictions.rows) - sum(len(self.given[i]) for i in range(len(self.chosen)))
        if unused:
            notes.append(f"{self.predictions.path.name}: {unused} predictions are of rows that are not evaluated")
        if differing:
            notes.append(
                f"{self.predictions.path.name}: the predictions for the rows of {differing} dialogues differ, so each "
                "is scored against its own row's reference"
            )
        return Matched(rows, by, differing, notes)


def _reference_rows(example: Row) -> list[tuple[int, str | None]]:
    """Number and id of the row of each reference."""
    return [(number, name) for number, name in json.loads(example.get("reference_rows") or "[]")]


def _by_row(example: Row) -> dict[int, list[int]]:
    """The references of each row of an example."""
    rows: dict[int, list[int]] = defaultdict(list)
    for n, (number, _) in enumerate(_reference_rows(example)):
        rows[number].append(n)
    return rows


def _joined(example: Row, prediction: Row) -> Row:
    own = {name: example[name] for name in ("id", "dialogue", "references")}
    dialogue = dialogue_of(example)
    if dialogue != dialogue_of({"dialogue": example["dialogue"]}):
        own["turns"] = dialogue.record()
    topic = {"topic": example["topic"]} if example.get("topic") is not None else {}
    others = {name: value for name, value in public(prediction).items() if name not in (*own, "topic", "turns")}
    return own | others | topic


def _continues(line: Row, following: Row) -> bool:
    """Whether a line of text looks like the rest of the one before."""
    before, after = line["prediction"].rstrip(), following["prediction"].lstrip()
    return bool(after) and after[0].islower() and bool(before) and before[-1] not in ".!?…。！？\"”')"


def _comparable(text: str) -> str:
    """A reference without special tokens, case and white space, in which programs change it."""
    return "".join(re.sub(r"<\|[^<>|]+\|>|</?s>|<(?:pad|eos|bos|end_of_turn)>", "", text).casefold().split())
