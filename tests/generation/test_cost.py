"""The cost of requests in tokens."""

from dialogsum_sft import InputError
from dialogsum_sft.data.encoding import Prompt
from dialogsum_sft.generation.cost import Cost, estimated, measured, new_completions
from dialogsum_sft.generation.engine import Completion

import pytest


def prompt(text: str, ids: list[int] | None = None) -> Prompt:
    return Prompt(text, [{"role": "user", "content": text}], ids or [])


ONE, OTHER = Completion("a", 7, 3, "stop"), Completion("b", 7, 2, "stop")


def test_prompts_are_counted_or_estimated() -> None:
    counted = [(prompt("x" * 400, [1] * 50), []), (prompt("y", [1] * 20), [ONE])]
    assert estimated(counted, 2, 10, None) == (2, Cost(3, 2 * 50 + 20, 30))
    assert estimated([(prompt("x" * 400), []), (prompt("чай"), [])], 1, 10, None) == (
        2,
        Cost(2, 100 + 4 + 1 + 4, 20, from_characters=True),
    )


def test_max_requests_are_of_whole_dialogues() -> None:
    kept = [(prompt("a", [1]), [ONE, ONE]), (prompt("b", [1]), [ONE]), (prompt("c", [1]), []), (prompt("d", [1]), [])]
    assert [estimated(kept, 2, 10, limit)[0] for limit in (2, 3, 4, 5, None)] == [2, 3, 3, 4, 4]
    with pytest.raises(InputError, match="--max_requests 1: a dialogue takes 2"):
        estimated(kept, 2, 10, 1)


def test_new_completions_are_measured_also_where_they_equal_old_ones() -> None:
    before, after = [(prompt("a"), [ONE]), (prompt("b"), [])], [(prompt("a"), [ONE, ONE]), (prompt("b"), [OTHER])]
    assert new_completions(before, after) == [ONE, OTHER]
    unknown = Completion("", None, None, "content_filter")
    assert measured([ONE, OTHER, unknown]) == Cost(3, 14, 5, uncounted=1)
