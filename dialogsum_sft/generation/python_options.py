"""Options that are given in Python: their names and values are checked as on the command line."""

import json
import numbers
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import Field, fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

from dialogsum_sft import InputError

_TYPES = {
    bool: (bool, "True or False"),
    int: (numbers.Integral, "a whole number"),
    float: (numbers.Real, "a number"),
    str: (str, "a text"),
}


def checked_options(kinds: Sequence[type[Any]], options: Mapping[str, Any]) -> dict[str, Any]:
    """The options, of which the dataclasses `kinds` are made: paths as texts, and objects as JSON where the command
    line takes that. Raises InputError with a line for each that no kind has or whose value cannot be.
    """
    made = {name: str(value) if isinstance(value, Path) else value for name, value in options.items()}
    known = {field.name: (field, get_type_hints(kind)[field.name]) for kind in kinds for field in fields(kind)}
    faults = []
    if unknown := sorted(made.keys() - known):
        faults.append(f"Summarizer has no option {', '.join(unknown)}")
    for name, value in made.items():
        if name.endswith("_kwargs") or name == "extra_body":
            made[name] = json.dumps(value) if isinstance(value, Mapping) else value
        if name in known:
            faults += _faults(*known[name], made[name])
    if faults:
        raise InputError(*faults)
    return made


def _faults(field: Field[Any], hint: Any, value: Any) -> Iterator[str]:
    hints = get_args(hint) or (hint,)
    if value is None and (type(None) in hints or field.default is None):
        return
    choices = field.metadata.get("choices")
    if choices and value not in choices:
        yield f"{field.name}={value!r}: give {', '.join(choices[:-1])} or {choices[-1]}"
    elif (expected := next((_TYPES[one] for one in hints if one in _TYPES), None)) is not None:
        kind, what = expected
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            yield f"{field.name}={value!r}: give {what}"
