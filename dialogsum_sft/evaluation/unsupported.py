"""Numbers, dates and names of a summary that its dialogue does not contain.

The rules need no model. They are for English: a text of another language has neither count. Inferred values (a sum, a
nationality from a city) count as unsupported.
"""

from collections.abc import Sequence

from dialogsum_sft.evaluation.english import is_english
from dialogsum_sft.evaluation.name_rules import name_spans
from dialogsum_sft.evaluation.number_rules import Span, number_spans, outside


def unsupported_numbers(summary: str, dialogue: str, excluded: Sequence[Span] = ()) -> list[Span]:
    """Spans of numbers that the dialogue has in no form, outside `excluded`; none where a text is not English."""
    return outside(number_spans(summary, dialogue), excluded) if is_english(summary, dialogue) else []


def unsupported_names(summary: str, dialogue: str, excluded: Sequence[Span] = ()) -> list[Span]:
    """Spans of names that the dialogue has in no form, outside `excluded`; none where a text is not English."""
    return outside(name_spans(summary, dialogue), excluded) if is_english(summary, dialogue) else []
