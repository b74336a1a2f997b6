"""Random dialogues of labelled lines, and their turns, for property tests."""

from dialogsum_sft.data.dialogue import Dialogue
from dialogsum_sft.data.transcripts import parse

from hypothesis import strategies as st

WORDS = ["tea", "the", "bill", "please", "yes", "no", "Ann", "10:30", "http://a.b", "#Person1#", "Bob's", "-", "é"]
SPEAKERS = ["#Person1#", "#Person2#", "Ann", "Dr. Lee", "Customer"]
lines = st.lists(st.sampled_from(WORDS), min_size=1, max_size=12).map(" ".join)
turns = st.tuples(st.sampled_from(SPEAKERS), lines).map(": ".join)
dialogues = st.lists(turns, min_size=1, max_size=30).map("\n".join)


def labelled(text: str) -> Dialogue:
    return parse(text, "labels")[0]
