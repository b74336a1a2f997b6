"""The table of the rows read, kept and dropped."""

from collections import Counter

from dialogsum_sft.data.counts import Counts, counts_table


def test_the_table_has_a_line_for_each_count_that_is_not_zero():
    train = Counts(5, 3, Counter({"too long": 2}), dialogues=3, references=4, shortened=1)
    table = counts_table({"train": train, "test": Counts(1, 1, dialogues=1, references=1)})
    assert [table.header, *table.rows] == [
        ["rows", "train", "test"],
        ["read", "5", "1"],
        ["dropped: too long", "2", ""],
        ["kept", "3", "1"],
        ["dialogues", "3", "1"],
        ["references", "4", "1"],
        ["shortened", "1", ""],
    ]
