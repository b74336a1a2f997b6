"""Lists in the cells of tables: JSON, Python's repr, NumPy's."""

from typing import Any

from dialogsum_sft.data.stored_lists import stored_list

import pytest

TURNS = [{"role": "user", "content": 'it\'s a "table"'}, {"role": "bot", "content": None}]
JSON = r'[{"role": "user", "content": "it\'s a \"table\""}, {"role": "bot", "content": null}]'


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (JSON, TURNS),
        (f" {JSON}\n", TURNS),
        (repr(TURNS), TURNS),
        (repr(TURNS).replace("}, {", "}\n {"), TURNS),
        (f"array({TURNS!r}, dtype=object)", TURNS),
        ("[{'text': array(['a', 'b'], dtype=object), 'x': nan}]", [{"text": ["a", "b"], "x": None}]),
        ("['Hi.' 'Yes?'\n \"It's\"]", ["Hi.", "Yes?", "It's"]),
        ("[('Ann', 'Hi.'), ('Bob', 'Yes?')]", [("Ann", "Hi."), ("Bob", "Yes?")]),
        ("{'speaker': ['Ann'], 'text': ['Hi.']}", {"speaker": ["Ann"], "text": ["Hi."]}),
        (r'"[{\"text\": \"Hi.\"}]"', [{"text": "Hi."}]),
        ("[]", []),
    ],
)
def test_lists_stored_as_text(text: str, value: Any) -> None:
    assert stored_list(text) == value


@pytest.mark.parametrize(
    "text", ["[Ann] Hi.", "[1, 2]", "Ann: Hi.", "[laughs]", "[...]", "[nan]", "{smiles} Hi.", '"Hi."', "", "array("]
)
def test_other_texts(text: str) -> None:
    assert stored_list(text) is None


@pytest.mark.parametrize(
    "text", ['[{"role": "user", "content": "Hi', "[{'role': 'user', 'content': 'Hi", "[['Ann', 'H"]
)
def test_a_list_that_was_cut_off_is_no_dialogue(text: str) -> None:
    with pytest.raises(ValueError, match="looks like a list of turns, but is neither JSON nor a Python list"):
        stored_list(text)
