"""The table of the rows read, kept and dropped."""

from collections import Counter

from dialogsum_sft.data.counts import Counts, counts_table


def test_the_table_has_a_line_for_each_count_that_is_not_zero():
    train = Counts(5, 3, Counter({"too long": 2}), dialogues=3, references=4, shortened=1)
    table = counts_table({"train": train, "test": Counts(1, 1, dialogues=1, references=1)})
    assert [[str(column.header), *map(str, column.cells)] for column in table.columns] == [
        ["rows", "read", "dropped: too long", "kept", "dialogues", "references", "shortened"],
        ["train", "5", "2", "3", "3", "4", "1"],
        ["test", "1", "", "1", "1", "1", ""],
    ]
