"""Summaries that a model wrote for dialogues become training data: judged, split, and counted by name."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dialogsum_sft import InputError, files
from dialogsum_sft.arguments import DialogueArguments, LabelArguments
from dialogsum_sft.data.answers import is_cut_off, is_refusal, without_preamble
from dialogsum_sft.data.columns import Columns
from dialogsum_sft.data.counts import Counts
from dialogsum_sft.data.dialogue import Dialogue
from dialogsum_sft.data.dialogue_reader import open_reader
from dialogsum_sft.data.grouping import text_hash
from dialogsum_sft.data.training_data import drawn
from dialogsum_sft.tables import Table

KEPT, SET_ASIDE, DROPPED = "kept", "set aside", "dropped"
DECISIONS = ("accepted", "corrected", "rejected")
# The files that recipes/label.py writes.
OUTPUTS = ("train.jsonl", "validation.jsonl", "set_aside.jsonl", "sheet.csv", "sheet.html", "label.json")
_STATE, _LABELS, _DECISIONS = ".label", "labels.jsonl", "decisions.jsonl"


@dataclass
class Label:
    """A dialogue with the summary that a model wrote for it.

    `key` names the dialogue in sheets and decisions. `status` is KEPT, SET_ASIDE or DROPPED; where a summary is not
    kept, `reason` is the name that it is counted under, `found` what was found in it.
    """

    key: str
    id: str
    dialogue: str
    turns: list[dict[str, Any]]
    fields: dict[str, str]
    summary: str
    status: str
    reason: str | None = None
    found: str | None = None
    had_preamble: bool = False
    is_checked: bool = True  # for names and numbers; not where it is not English
    dropped_turns: int = 0

    @property
    def why(self) -> str:
        return ": ".join(filter(None, (self.reason, self.found)))


@dataclass(frozen=True)
class Decision:
    """What a person decided on `summary` of the dialogue `key`: one of DECISIONS; a text where it is corrected."""

    key: str
    decision: str
    summary: str
    corrected: str | None = None


def distinct(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows {dialogue, fields} of different dialogues, each with a `key` that a spreadsheet leaves as it is."""
    made: dict[str, dict[str, Any]] = {}
    for row in rows:
        digest = hashlib.sha256(repr((row["dialogue"], row["fields"] or "")).encode(errors="replace")).hexdigest()
        made.setdefault(f"k{digest[:12]}", {**row, "key": f"k{digest[:12]}"})
    return list(made.values())


def judged(row: Mapping[str, Any], summary: Mapping[str, Any]) -> Label:
    """The label of a row of `distinct`, from the record of its `Summary`."""
    text = without_preamble(summary["text"])
    status, reason, found = _judgement(text, summary)
    return Label(
        key=row["key"],
        id=row["id"],
        dialogue=row["dialogue"],
        turns=row["turns"],
        fields=json.loads(row["fields"] or "{}"),
        summary=text,
        status=status,
        reason=reason,
        found=found,
        had_preamble=text != summary["text"].strip(),
        is_checked=summary["unsupported_names"] is not None,
        dropped_turns=summary["dropped_turns"],
    )


def _judgement(text: str, summary: Mapping[str, Any]) -> tuple[str, str | None, str | None]:
    fault, reason = summary["fault"], summary["finish_reason"]
    if reason == "content_filter":
        return DROPPED, "content_filter", fault
    if is_cut_off(reason):
        return DROPPED, "cut off at max_new_tokens", reason
    if fault is not None:
        name, _, detail = fault.partition(":")
        return DROPPED, name, detail.strip() or None
    if not text:
        return DROPPED, "empty answer", None
    if is_refusal(text):
        return DROPPED, "refusal", text[:200]
    unsupported = {kind: texts for kind in ("names", "numbers") if (texts := summary[f"unsupported_{kind}"])}
    if unsupported:
        found = "; ".join(", ".join(texts) for texts in unsupported.values())
        return SET_ASIDE, f"{' and '.join(unsupported)} that the dialogue lacks", found
    return KEPT, None, None


def check_folder(folder: Path, args: LabelArguments) -> Path:
    """The folder of the journal and the labels within the output folder.

    Raises InputError where the output folder has files of such names that were not written here, or lies in a folder
    that is read, and for other options that cannot be.
    """
    faults = []
    others = [name for name in OUTPUTS if (folder / name).exists()]
    if others and not (folder / _STATE).is_dir():
        faults.append(f"{folder} has {', '.join(others)} of another program: give another --output_dir")
    for name in args.input_files or []:
        if Path(name).expanduser().is_dir() and folder.resolve().is_relative_to(Path(name).expanduser().resolve()):
            faults.append(f"--output_dir {folder} lies in {name}, which is read: give another")
    if not 0 <= args.validation_share < 1:
        faults.append(f"--validation_share {args.validation_share}: give a share such as 0.1, or 0 for none")
    if args.sheet_size < 0:
        faults.append(f"--sheet_size {args.sheet_size}: give 0 or more")
    if args.accept is not None and (args.input_files or args.dataset_name):
        faults.append("--accept takes decisions in and labels nothing: leave the dialogues out")
    if faults:
        raise InputError(*faults)
    return folder / _STATE


def write_labels(folder: Path, labels: Sequence[Label]) -> None:
    files.write_jsonl(folder / _STATE / _LABELS, map(asdict, labels))


def read_labels(folder: Path) -> list[Label]:
    """Raises InputError where `folder` has no labels."""
    path = folder / _STATE / _LABELS
    try:
        return [Label(**json.loads(line)) for line in path.open(encoding="utf-8")]
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{folder} has no labels yet: label dialogues first, with the same --output_dir") from error


def read_decisions(folder: Path) -> dict[str, Decision]:
    """The decisions taken in so far, by key."""
    path = folder / _STATE / _DECISIONS
    if not path.is_file():
        return {}
    return {one.key: one for line in path.open(encoding="utf-8") if (one := Decision(**json.loads(line)))}


def write_decisions(folder: Path, decisions: Mapping[str, Decision]) -> None:
    files.write_jsonl(folder / _STATE / _DECISIONS, map(asdict, decisions.values()))


def write_rows(folder: Path, labels: Sequence[Label], share: float, seed: int) -> dict[str, Any]:
    """Write train.jsonl, validation.jsonl and set_aside.jsonl with the decisions taken in; returns their counts.

    A decision about another summary than that of the label is not used. What a person decides moves no other dialogue
    between training and validation: those set aside, once accepted, are trained on.
    """
    decisions = read_decisions(folder)
    held_out = _held_out(labels, share, seed)
    train: list[dict[str, Any]] = []
    validation: list[dict[str, Any]] = []
    aside: list[dict[str, Any]] = []
    counts: Counter[str] = Counter()
    reasons: dict[str, Counter[str]] = {SET_ASIDE: Counter(), DROPPED: Counter()}
    dialogues = _readable([Dialogue.from_record(label.dialogue, label.turns) for label in labels])
    for label, dialogue in zip(labels, dialogues, strict=True):
        decision = decisions.get(label.key)
        if decision is not None and decision.summary != label.summary:
            counts["decisions about other summaries"] += 1
            decision = None
        row = {"id": label.id, "dialogue": dialogue, "summary": label.summary, **_columns(label.fields)}
        if label.status == DROPPED:
            reasons[DROPPED][str(label.reason)] += 1
        elif decision is not None and decision.decision == "rejected":
            reasons[DROPPED]["rejected by a person"] += 1
        elif decision is None and label.status == SET_ASIDE:
            reasons[SET_ASIDE][str(label.reason)] += 1
            aside.append({**row, "reason": label.reason, "found": label.found})
        else:
            corrected = decision.corrected if decision is not None else None
            (validation if label.key in held_out else train).append(
                row | ({"summary": corrected} if corrected else {})
            )
        if decision is not None:
            counts[decision.decision] += 1
        counts["preambles taken off"] += label.had_preamble and label.status != DROPPED
        counts["not checked, as not English"] += not label.is_checked and label.status == KEPT
        counts["summaries of shortened dialogues"] += label.dropped_turns > 0 and label.status != DROPPED
    for name, rows in (("train", train), ("validation", validation), ("set_aside", aside)):
        if rows or name == "train":
            files.write_jsonl(folder / f"{name}.jsonl", rows)
        else:
            (folder / f"{name}.jsonl").unlink(missing_ok=True)
    return {
        "dialogues": len(labels),
        "train": len(train),
        "validation": len(validation),
        "set_aside": dict(reasons[SET_ASIDE]),
        "dropped": dict(reasons[DROPPED]),
        "decisions": {name: counts.pop(name) for name in DECISIONS if name in counts},
        "notes": {name: number for name, number in counts.items() if number},
    }


def counts_table(inputs: Mapping[str, int], counts: Mapping[str, Any]) -> Table:
    """What became of the dialogues: `inputs` are those read, `counts` those of `write_rows`."""
    table = Table(header=["", "dialogues"])
    for name, number in inputs.items():
        if number or name == "read":
            table.add_row(name, str(number))
    table.section_ends.add(len(table.rows) - 1)
    for split in ("train", "validation"):
        table.add_row(f"{split}.jsonl", (str(counts[split]), "bold"))
    for what, reasons in (("set aside", counts["set_aside"]), ("dropped", counts["dropped"])):
        for reason, number in sorted(reasons.items()):
            table.add_row(f"{what}: {reason}", str(number))
    table.section_ends.add(len(table.rows) - 1)
    for name, number in (counts["decisions"] | counts["notes"]).items():
        table.add_row(f"of them {name}", str(number), style="dim")
    return table


def _held_out(labels: Sequence[Label], share: float, seed: int) -> set[str]:
    """The keys of a share of the dialogues whose summaries are kept; at least one stays to train on."""
    keys = {text_hash(label.key): label.key for label in labels if label.status == KEPT}
    count = min(max(1, round(share * len(keys))), len(keys) - 1) if share and len(keys) > 1 else 0
    return {keys[digest] for digest in drawn(keys, count, seed)}


def _readable(dialogues: Sequence[Dialogue]) -> list[Any]:
    """The dialogues for a file that is read with default options: texts where these are read as the same turns, else
    lists of turns."""
    texts = [{"dialogue": dialogue.text} for dialogue in dialogues]
    if not texts:
        return []
    columns = Columns("dialogue", (), None, None, None, (), " ")
    reader = open_reader(texts[:100], columns, DialogueArguments(), "the labels")
    if all(_turns(one) == _turns(dialogue) for one, dialogue in zip(_read(reader, texts), dialogues, strict=True)):
        return [dialogue.text for dialogue in dialogues]
    return [
        [{"speaker": turn.speaker, "text": turn.text} for turn in dialogue.turns if turn.text]
        for dialogue in dialogues
    ]


def _read(reader: Any, rows: Iterable[dict[str, Any]]) -> Iterator[Dialogue | None]:
    for row in rows:
        try:
            yield reader.dialogue(row, Counts())
        except ValueError:
            yield None


def _turns(dialogue: Dialogue | None) -> Any:
    return dialogue and (dialogue.text, [(turn.speaker, turn.text) for turn in dialogue.turns])


def _columns(fields: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in fields.items() if name not in ("id", "dialogue", "summary")}
