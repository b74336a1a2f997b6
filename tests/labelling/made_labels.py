"""Labels that tests make: dialogues with summaries, judged."""

import dataclasses
import json
from typing import Any

from dialogsum_sft.arguments import DialogueArguments
from dialogsum_sft.data.counts import Counts
from dialogsum_sft.data.dialogue_reader import read_dialogue
from dialogsum_sft.labelling.labels import KEPT, Label, distinct, judged

CHAT = "Mila: The boat leaves at six.\nOren: Then I set the alarm for five."


def row(text: str = CHAT, **fields: str) -> dict[str, Any]:
    read = read_dialogue(text, DialogueArguments(), Counts())
    made = {"id": "a", "dialogue": read.text, "turns": read.record(), "fields": json.dumps(fields) if fields else None}
    return distinct([made])[0]


def summary(text: str, **fields: Any) -> dict[str, Any]:
    record = {"text": text, "fault": None, "finish_reason": "stop", "dropped_turns": 0}
    return record | {"unsupported_names": [], "unsupported_numbers": []} | fields


def label(number: int = 0, status: str = KEPT, text: str = CHAT, **fields: Any) -> Label:
    made = judged(row(f"{text}\nMila: Number {number}."), summary(f"Summary {number}."))
    return dataclasses.replace(made, id=f"d{number}", status=status, **fields)
