"""Match predictions with the dialogues of a dataset: by ids, or by order."""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from dialogsum_sft import InputError
from dialogsum_sft.data.row_files import one_line, some
from dialogsum_sft.data.transcripts import dialogue_of
from dialogsum_sft.evaluation.known_columns import KnownColumn, Place, check_columns, known_columns
from dialogsum_sft.evaluation.match_checks import Given, check_labels, check_lines, continues, doubtful_order
from dialogsum_sft.evaluation.prediction_files import Row, plain
from dialogsum_sft.evaluation.predictions import Matched, Predictions, check_limit, fault, public, repeated
from dialogsum_sft.evaluation.row_order import is_count, numbers_of


def match_examples(
    examples: Sequence[Row],
    predictions: Predictions,
    dataset: str,
    *,
    rows_read: int | None = None,
    limit: int | None = None,
) -> Matched:
    """Each example {id, dialogue, references, reference_rows, topic}, or the first `limit`, with its prediction.

    Predictions are matched by ids in any column, by dialogues that they repeat, else by order: one for each dialogue,
    or one for each row of the dataset (`rows_read` of them, as the hub lays DialogSum out), whose ids may be those of
    the rows. Where the predictions for the rows of a dialogue differ, each is scored against its own row's reference.

    Lines of text that begin with an id and a tab are split there.

    Raises InputError when the numbers differ, ids are missing, unknown or repeated, or labels belong elsewhere.
    """
    check_limit(limit)
    matched = _Matcher(examples, predictions, dataset, rows_read, limit).matched()
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
    warnings: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.chosen = self.examples[: self.limit]
        self.given: Given = defaultdict(list)
        self.places = self._places()
        plain_names = Counter(map(plain, self.places))
        # Test-1 is test_1, where no other id reads so.
        self.plain = {plain(name): place for name, place in self.places.items() if plain_names[plain(name)] == 1}

    def matched(self) -> Matched:
        self._split_ids()
        predictions, rows = self.predictions, self.predictions.rows
        columns = known_columns(predictions, self.examples, self._place)
        self._choose_ids(columns)
        by = self._match(columns)
        check_labels(predictions, self.given, self.examples, self.dataset, self.notes, by)
        at = {id(row): number for number, row in enumerate(rows)}
        placed = sorted((at[id(row)], i) for i, several in self.given.items() for _, row in several)
        checked = [one for one in columns if not one.is_numbers]
        check_columns(predictions, checked, placed, self.examples, self.dataset, by)
        texts = [one for one in checked if one.name != predictions.label and (one.kind != "ids" or "order" in by)]
        if "order" in by:
            self._note(f"{one_line(one.name)} has {one.kind} of the dataset and confirms the order" for one in texts)
            check_lines(predictions, self.given, self.examples, self.notes)
            if predictions.label is None and not texts:
                self.warnings += doubtful_order(predictions, self.given, self.examples)
        return self._joined(by)

    def _note(self, notes: Iterable[str]) -> None:
        self.notes += [f"{self.predictions.path.name}: {note}" for note in notes]

    def _split_ids(self) -> None:
        """Lines of text that begin with an id of the dataset and a tab are ids and summaries; all of them, or none."""
        predictions = self.predictions
        parts = [row["prediction"].partition("\t") for row in predictions.rows] if predictions.is_text else []
        known = [bool(tab) and self._place(name.strip()) is not None for name, tab, _ in parts]
        if not any(known):
            names = {name for name, tab, _ in parts if tab and re.fullmatch(r"\S*\d\S*", name)}
            if parts and len(names) == len(parts):
                few = ", ".join(example["id"] for example in self.chosen[:3])
                raise InputError(
                    f"{predictions.path}: each line begins with an id and a tab, such as {parts[0][0]}, none of them "
                    f"of {self.dataset}, whose ids are {few}, ...: give those, or another --id_column"
                )
            return
        if not all(known):
            other = predictions.rows[known.index(False)]["place"]
            raise InputError(
                f"{predictions.path}: {sum(known)} of {len(known)} lines begin with an id of {self.dataset} and a "
                f"tab, {other} does not: begin each line so, or none"
            )
        for row, (name, _, text) in zip(predictions.rows, parts, strict=True):
            row |= {"id": name.strip(), "prediction": text}
        predictions.raw = [{"id": row["id"], "prediction": row["prediction"]} for row in predictions.rows]
        self._note(["its lines are read as id, tab and summary"])

    def _choose_ids(self, columns: Sequence[KnownColumn]) -> None:
        """Take ids from a column that has the dataset's, unless they are in one known by name."""
        predictions = self.predictions
        known = sum(self._place(row["id"]) is not None for row in predictions.rows if "id" in row)
        if predictions.id_is_named or known > len(predictions.rows) / 2:
            return
        several = [one for one in columns if one.kind == "ids" and one.is_distinct]
        if not several:
            return
        chosen = min(several, key=lambda one: (not all(one.owners), one.is_numbers))
        for row, name in zip(predictions.rows, chosen.texts, strict=True):
            row.pop("id", None)
            if name is not None:
                row["id"] = name
        self._note([f"ids are taken from {one_line(chosen.name)}"])

    def _match(self, columns: Sequence[KnownColumn]) -> str:
        """Fill `given`; by ids, dialogues or order, which is returned."""
        rows, path = self.predictions.rows, self.predictions.path
        with_id = sum("id" in row for row in rows)
        if with_id not in (0, len(rows)):
            without = next(row["place"] for row in rows if "id" not in row)
            raise InputError(
                f"{path}: {with_id} of {len(rows)} rows have an id, {without} has none: give all of them one"
            )
        ids = [row["id"] for row in rows] if with_id else []
        found, count = [self._place(name) for name in ids], numbers_of(ids)
        has_own_ids = any(name is not None for example in self.examples for _, name in _reference_rows(example))
        if is_count(count) and (not any(found) or (min(count) == 0 and not has_own_ids)):
            self._note(["its ids count the rows, which are matched by order"])
            self.predictions.sort(count)
            return self.by_order()
        if any(found):
            of_rows = sorted({(n, i) for i, example in enumerate(self.examples) for n, _ in _reference_rows(example)})
            if repeated(ids) and [place and place[0] for place in found] == [i for _, i in of_rows]:
                self._note(["its ids are those of the dataset's rows, in order"])
                return self.by_order()
            return self.by_places(found, ids, "ids")
        by_text = [one for one in columns if one.kind != "ids"]
        if ids and by_text:
            self._note(["its ids are not the dataset's and are not used"])
        for one in by_text:
            if one.kind == "dialogues" and (places := self._places_of_dialogues(one)):
                self._note([f"{one_line(one.name)} has the dataset's dialogues, by which rows are matched"])
                return self.by_places(places, [row["place"] for row in rows], "dialogues")
        return self.by_places(found, ids, "ids") if ids and not by_text else self.by_order()

    def by_places(self, found: Sequence[Place | None], names: Sequence[str], by: str) -> str:
        for row, place in zip(self.predictions.rows, found, strict=True):
            if place is not None:
                self.given[place[0]].append((place[1], row))
        faults = {
            "ids are repeated": repeated(names),
            f"ids are not in {self.dataset}": [name for name, place in zip(names, found, strict=True) if not place],
            f"dialogues of {self.dataset} have no prediction": [
                example["id"] for i, example in enumerate(self.chosen) if i not in self.given
            ],
        }
        faults["dialogues have a prediction and others for their rows"] = [
            self.examples[i]["id"] for i, several in self.given.items() if len({p is None for p, _ in several}) > 1
        ]
        self._refuse(faults)
        by_rows = any(place is not None for several in self.given.values() for place, _ in several)
        return f"{by} of rows" if by_rows else by

    def _places_of_dialogues(self, column: KnownColumn) -> list[Place] | None:
        """Where rows that repeat their dialogue belong: one for a dialogue, or one for each of its rows in order."""
        if not all(len(owners) == 1 for owners in column.owners):
            return None
        owners = [min(own) for own in column.owners]
        counts, rows = Counter(owners), {i: list(_by_row(self.examples[i]).values()) for i in set(owners)}
        if max(counts.values()) == 1:
            return [(i, None) for i in owners]
        if any(counts[i] != len(rows[i]) for i in counts):
            return None
        return [(i, rows[i].pop(0)) for i in owners]

    def by_order(self) -> str:
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
        return by

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
        broken = [b["place"] for a, b in zip(rows, rows[1:], strict=False) if continues(a, b)]
        if broken and count > len(self.chosen):
            return f" ({broken[0]} may be the rest of the summary before it: a summary must be one line)"
        return ""

    def _places(self) -> dict[str, Place]:
        """Where an id belongs: an example, and the references of the row that has this id."""
        places: dict[str, Place] = {}
        for i, example in enumerate(self.examples):
            places[example["id"]] = (i, None)
        for i, example in enumerate(self.examples):
            ids = [name for _, name in _reference_rows(example)]
            for name in {name for name in ids if name is not None} - places.keys():
                places[name] = (i, [n for n, other in enumerate(ids) if other == name])
        return places

    def _place(self, name: str) -> Place | None:
        """Where an id belongs; test_0_2 is the second reference of test_0, where no row has that id."""
        if place := self.places.get(name) or self.plain.get(plain(name)):
            return place
        match = re.fullmatch(r"(.*\d)[_.-](\d{1,6})", name)
        place = self.places.get(match[1]) if match else None
        if match is None or place is None or not 1 <= int(match[2]) <= len(self.examples[place[0]]["references"]):
            return None
        return place[0], [int(match[2]) - 1]

    def _refuse(self, faults: dict[str, list[str]]) -> None:
        problems = [f"{len(several)} {what}: {some(several)}" for what, several in faults.items() if several]
        if problems:
            raise InputError(f"{self.predictions.path} and {self.dataset} do not match: {'; '.join(problems)}")

    def _joined(self, by: str) -> Matched:
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
        return Matched(rows, by, differing, notes, self.warnings)


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
