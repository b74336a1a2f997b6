"""What a sweep searches: options with lists or ranges, and the points that a grid has."""

import difflib
import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dialogsum_sft import InputError

_KEYS = {"values", "low", "high", "log", "step", "count", "when"}


@dataclass(frozen=True)
class Dimension:
    """An option and its values: `choices`, or a range from `low` to `high`, both included.

    A choice that is a mapping sets several options; the name of its dimension is then free. Whole numbers are drawn
    where both ends (and the step) are whole. `count` is how many points a grid takes of the range. The dimension has
    a value only where the options before it, and those of all trials, have the values of `when`.
    """

    name: str
    choices: tuple[Any, ...] | None = None
    low: float = 0
    high: float = 0
    log: bool = False
    step: float | None = None
    count: int | None = None
    when: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def is_whole(self) -> bool:
        return all(isinstance(number, int) for number in (self.low, self.high, self.step or 0))

    def stored(self, value: Any) -> Any:
        """A value as a study stores it: lists and mappings as JSON."""
        return json.dumps(value) if isinstance(value, dict | list) else value

    def read(self, stored: Any) -> Any:
        """The value that a study stores."""
        of_text = {text(self.stored(one)): one for one in self.choices or ()}
        return stored if self.choices is None else of_text[text(stored)]

    def applies(self, options: Mapping[str, Any]) -> bool:
        return all(text(options.get(name)) in wanted for name, wanted in self.when.items())

    def points(self) -> list[Any]:
        """The values that a grid takes. Raises InputError for a range with neither `step` nor `count`."""
        if self.choices is not None:
            return list(self.choices)
        if self.step is not None:
            number = math.floor((self.high - self.low) / self.step + 1e-9) + 1
            values = [self.low + self.step * i for i in range(number)]
        elif self.count is not None:
            ends = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
            parts = [ends[0] + (ends[1] - ends[0]) * i / max(1, self.count - 1) for i in range(self.count)]
            values = [math.exp(part) for part in parts] if self.log else parts
        else:
            raise InputError(f"search: {self.name}: a grid needs a list, or a range with count (or step)")
        if self.is_whole:
            return list(dict.fromkeys(round(value) for value in values))
        return [float(f"{value:.6g}") for value in values]

    def suggest(self, trial: Any) -> Any:
        """The value of an Optuna trial: the one that it has, or one that its study's sampler draws."""
        if self.choices is not None:
            return self.read(trial.suggest_categorical(self.name, list(map(self.stored, self.choices))))
        options = {"log": self.log} | ({} if self.step is None else {"step": self.step})
        if self.is_whole:
            return trial.suggest_int(self.name, self.low, self.high, **options)
        return trial.suggest_float(self.name, self.low, self.high, **options)

    def label(self, value: Any) -> str:
        """A value in a few words, such as `16` or `lora_r 16, lora_alpha 32`."""
        if isinstance(value, dict):
            return ", ".join(f"{name} {text(one)}" for name, one in value.items())
        return f"{value:.4g}" if isinstance(value, float) else text(value)


Space = Sequence[Dimension]


def text(value: Any) -> str:
    """A value as a config of recipes/sft.py has it: `true`, `null`, `0.001`."""
    return value if isinstance(value, str) else json.dumps(value)


def read_space(search: Mapping[str, Any], known: Collection[str]) -> list[Dimension]:
    """The dimensions of `search`, whose options are to be among `known`. Raises InputError with all faults."""
    space, faults = [], []
    for name, given in search.items():
        try:
            space.append(_dimension(name, given, known))
        except InputError as error:
            faults.append(f"search: {name}: {error}")
    if not search:
        faults = ["search: nothing to search: give options with lists or ranges, such as lora_r: [8, 16]"]
    if faults:
        raise InputError(*faults)
    return space


def _dimension(name: str, given: Any, known: Collection[str]) -> Dimension:
    if isinstance(given, list):
        given = {"values": given}
    if not isinstance(given, dict):
        raise InputError(f"{text(given)} is one value: put it into options, or give a list or {{low: .., high: ..}}")
    if unknown := given.keys() - _KEYS:
        raise InputError(f"{', '.join(sorted(unknown))} is none of values, low, high, log, step, count, when")
    when = _conditions(given.get("when", {}), known)
    if "values" not in given:
        return _range(name, given, when, known)
    values = given["values"]
    if not isinstance(values, list) or not values or given.keys() & {"low", "high", "log", "step", "count"}:
        raise InputError("values needs a list, and no range beside it")
    if len(set(map(text, values))) < len(values):
        raise InputError("a value is given twice")
    groups = [one for one in values if isinstance(one, dict)]
    if groups and len(groups) < len(values):
        raise InputError("some values are mappings of several options, others are not: give all as mappings")
    check_names({option for group in groups for option in group} if groups else {name}, known)
    return Dimension(name, tuple(values), when=when)


def _range(
    name: str, given: Mapping[str, Any], when: Mapping[str, tuple[str, ...]], known: Collection[str]
) -> Dimension:
    check_names({name}, known)
    numbers: dict[str, Any] = {key: given.get(key) for key in ("low", "high", "step", "count")}
    for key, value in numbers.items():
        needed = key in ("low", "high")
        if (value is None and needed) or (value is not None and (isinstance(value, bool | str | list | dict))):
            raise InputError(f"a range needs numbers: low, high, and perhaps step or count; {key} is {text(value)}")
    dimension = Dimension(name, **numbers, log=given.get("log", False), when=when)
    if dimension.low >= dimension.high:
        raise InputError(f"low {dimension.low} is not below high {dimension.high}")
    if not isinstance(dimension.log, bool) or (dimension.log and (dimension.low <= 0 or dimension.step is not None)):
        raise InputError("log is true or false; a logarithmic range begins above 0 and has no step")
    count = 2 if dimension.count is None else dimension.count
    if (dimension.step is not None and dimension.step <= 0) or not isinstance(count, int) or count < 2:
        raise InputError("step is above 0, count a whole number of 2 or more")
    return dimension


def _conditions(given: Any, known: Collection[str]) -> dict[str, tuple[str, ...]]:
    if not isinstance(given, dict):
        raise InputError("when needs options and their values, such as {use_peft: true}")
    check_names(set(given), known)
    return {name: tuple(map(text, one if isinstance(one, list) else [one])) for name, one in given.items()}


def check_names(names: Collection[str], known: Collection[str]) -> None:
    """Raise InputError for names that are no option, with one that is near."""
    for name in sorted(set(names) - set(known)):
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
        raise InputError(f"{name} is no option of recipes/sft.py{f': did you mean {near[0]}?' if near else ''}")


def options_of(space: Space, values: Mapping[str, Any]) -> dict[str, Any]:
    """The options that the values of a point set, in the order of the dimensions."""
    options: dict[str, Any] = {}
    for dimension in space:
        if dimension.name in values:
            value = values[dimension.name]
            options |= value if isinstance(value, dict) else {dimension.name: value}
    return options


def grid(space: Space, fixed: Mapping[str, Any]) -> list[dict[str, Any]]:
    """All points {dimension: value}; the last dimension changes fastest. `fixed` are the options of all trials."""
    points: list[dict[str, Any]] = [{}]
    for dimension in space:
        points = [
            point | own
            for point in points
            for own in (
                [{dimension.name: value} for value in dimension.points()]
                if dimension.applies(dict(fixed) | options_of(space, point))
                else [{}]
            )
        ]
    return points


def suggest(space: Space, trial: Any, fixed: Mapping[str, Any]) -> dict[str, Any]:
    """The point of an Optuna trial: its values, and those still missing drawn by its study's sampler."""
    values: dict[str, Any] = {}
    for dimension in space:
        if dimension.applies(dict(fixed) | options_of(space, values)):
            values[dimension.name] = dimension.suggest(trial)
    return values
