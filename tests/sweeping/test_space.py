"""Lists, ranges, conditions and options that are set together, and the points that a grid has of them."""

import json
from typing import Any

from dialogsum_sft import InputError
from dialogsum_sft.sweeping.space import grid, options_of, read_space

import pytest

KNOWN = {"learning_rate", "lora_r", "lora_alpha", "use_peft", "use_rslora", "seed", "lora_target_modules"}


def points(search: dict[str, Any], **fixed: Any) -> list[dict[str, Any]]:
    space = read_space(search, KNOWN)
    return [options_of(space, point) for point in grid(space, fixed)]


def test_a_grid_has_all_combinations_and_the_last_option_changes_fastest() -> None:
    assert points({"lora_r": [8, 16], "use_rslora": [False, True]}) == [
        {"lora_r": 8, "use_rslora": False},
        {"lora_r": 8, "use_rslora": True},
        {"lora_r": 16, "use_rslora": False},
        {"lora_r": 16, "use_rslora": True},
    ]


@pytest.mark.parametrize(
    ("given", "values"),
    [
        ({"low": 1e-4, "high": 1e-2, "log": True, "count": 3}, [1e-4, 1e-3, 1e-2]),
        ({"low": 0.0, "high": 0.3, "step": 0.1}, [0.0, 0.1, 0.2, 0.3]),
        ({"low": 8, "high": 32, "step": 8}, [8, 16, 24, 32]),
        ({"low": 4, "high": 64, "log": True, "count": 5}, [4, 8, 16, 32, 64]),
    ],
)
def test_points_of_a_range(given: dict[str, Any], values: list[float]) -> None:
    (dimension,) = read_space({"lora_r": given}, KNOWN)
    assert dimension.points() == values
    assert [type(value) for value in dimension.points()] == [type(value) for value in values]


def test_options_that_are_set_together_and_a_condition() -> None:
    search = {
        "adapter": [{"use_peft": True, "lora_r": 8, "lora_alpha": 16}, {"use_peft": False}],
        "use_rslora": {"values": [False, True], "when": {"use_peft": True}},
    }
    assert points(search) == [
        {"use_peft": True, "lora_r": 8, "lora_alpha": 16, "use_rslora": False},
        {"use_peft": True, "lora_r": 8, "lora_alpha": 16, "use_rslora": True},
        {"use_peft": False},
    ]
    # What a config has as text counts too.
    only = {"use_rslora": {"values": [False, True], "when": {"lora_r": [8, 16]}}}
    assert points(only, lora_r="16") == [{"use_rslora": False}, {"use_rslora": True}]
    assert points(only, lora_r="64") == [{}]


def test_lists_and_mappings_are_stored_as_json() -> None:
    (dimension,) = read_space({"lora_target_modules": [["q_proj", "v_proj"], ["all-linear"]]}, KNOWN)
    assert dimension.stored(["all-linear"]) == json.dumps(["all-linear"])
    assert dimension.read(json.dumps(["q_proj", "v_proj"])) == ["q_proj", "v_proj"]


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ({}, "nothing to search"),
        ({"learning_rat": [1, 2]}, "learning_rat is no option of recipes/sft.py: did you mean learning_rate?"),
        ({"group": [{"lora_rr": 1}]}, "lora_rr is no option of recipes/sft.py: did you mean lora_r?"),
        ({"lora_r": 8}, "8 is one value: put it into options"),
        ({"lora_r": []}, "values needs a list"),
        ({"lora_r": [8, 8]}, "a value is given twice"),
        ({"lora_r": [8, {"lora_r": 16}]}, "give all as mappings"),
        ({"lora_r": {"low": 8}}, "a range needs numbers: low, high, and perhaps step or count; high is null"),
        ({"lora_r": {"low": 16, "high": 8}}, "low 16 is not below high 8"),
        ({"learning_rate": {"low": 0, "high": 1, "log": True}}, "a logarithmic range begins above 0"),
        ({"lora_r": {"low": 8, "high": 16, "steps": 2}}, "steps is none of values, low, high"),
        ({"lora_r": {"low": 8, "high": 16, "count": 1}}, "count a whole number of 2 or more"),
        ({"lora_r": {"values": [8], "when": {"use_pef": True}}}, "use_pef is no option"),
    ],
)
def test_a_wrong_search_is_refused(search: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        read_space(search, KNOWN)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_grid_needs_points_of_a_range() -> None:
    with pytest.raises(InputError, match="learning_rate: a grid needs a list, or a range with count"):
        points({"learning_rate": {"low": 1e-4, "high": 1e-2}})
