"""Examples of every source: columns, grouping of references, ids, dropped rows and refusals."""

import json
from collections import Counter

from conftest import ROOT
from dialogsum_sft import InputError
from dialogsum_sft.arguments import DataArguments
from dialogsum_sft.data.counts import DUPLICATE, IN_OTHER_SPLIT, Counts
from dialogsum_sft.data.examples import load_examples
from dialogsum_sft.data.row_files import SUFFIXES
from dialogsum_sft.data.sources import SAMPLE

import datasets
import huggingface_hub
import pytest
from trl import ScriptArguments

DIALOGUE = "#Person1#: Is it raining?\n#Person2#: Not yet."


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path_factory):
    """`datasets` caches into a temporary folder, not into the user's cache."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))


def load(source, split="test", limit=None, **options):
    return load_examples(ScriptArguments(dataset_name=str(source)), DataArguments(**options), split, limit)


def write(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def row(identity="train_0", dialogue=DIALOGUE, summary="It is dry."):
    return {"id": identity, "dialogue": dialogue, "summary": summary}


def hub_rows():
    """Two test dialogues as the hub has them, each spread over three rows."""
    return [
        row(f"test_{number}_{i}", f"#Person1#: Dialogue {number}.", f"Summary {number}, {i}.") | {"topic": "talk"}
        for number in (0, 1)
        for i in (1, 2, 3)
    ]


def author_rows():
    """The same two dialogues as the authors' file has them."""
    return [
        {"fname": f"test_{number}", "dialogue": f"#Person1#: Dialogue {number}."}
        | {f"summary{i}": f"Summary {number}, {i}." for i in (1, 2, 3)}
        | {f"topic{i}": "talk" for i in (1, 2, 3)}
        for number in (0, 1)
    ]


GROUPED = [
    {
        "id": f"test_{number}",
        "dialogue": f"#Person1#: Dialogue {number}.",
        "references": [f"Summary {number}, 1.", f"Summary {number}, 2.", f"Summary {number}, 3."],
        "topic": "talk",
    }
    for number in (0, 1)
]


def test_three_rows_of_the_hub_become_one_example_with_three_references(tmp_path):
    examples = load(write(tmp_path / "test.jsonl", hub_rows()))
    assert examples.rows.remove_columns(["turns", "fields", "reference_rows"]).to_list() == GROUPED
    assert examples.counts == Counts(read=6, kept=6, dialogues=2, references=6, one_speaker=6)


def test_rows_of_a_dialogue_are_grouped_across_the_file(tmp_path):
    rows = hub_rows()
    examples = load(write(tmp_path / "test.jsonl", rows[::2] + rows[1::2]))
    assert [example["id"] for example in examples.rows] == ["test_0", "test_1"]
    assert examples.rows[0]["references"] == ["Summary 0, 1.", "Summary 0, 3.", "Summary 0, 2."]


def test_a_row_of_the_authors_file_becomes_one_example_with_three_references(tmp_path):
    examples = load(write(tmp_path / "test.jsonl", author_rows()))
    assert examples.rows.remove_columns(["turns", "fields", "reference_rows"]).to_list() == GROUPED
    assert examples.counts == Counts(read=2, kept=2, dialogues=2, references=6, one_speaker=2)


def test_the_summary_columns_are_read_in_the_order_of_their_numbers(tmp_path):
    numbers = (10, 2, 1)
    example = {"dialogue": DIALOGUE} | {f"summary{n}": f"Summary {n}." for n in numbers}
    assert load(write(tmp_path / "a.jsonl", [example])).rows[0]["references"] == [
        "Summary 1.",
        "Summary 2.",
        "Summary 10.",
    ]


def author_layout(rows):
    """Rows of the hub's layout as the authors' file has them."""
    groups = [rows[first : first + 3] for first in range(0, len(rows), 3)]
    return [
        {"fname": group[0]["id"].removesuffix("_1"), "dialogue": group[0]["dialogue"]}
        | {f"summary{i}": member["summary"] for i, member in enumerate(group, 1)}
        | {f"topic{i}": member["topic"] for i, member in enumerate(group, 1)}
        for group in groups
    ]


def hub_layout(rows):
    """Rows of the authors' layout as the hub has them."""
    return [
        {"id": f"{row['fname']}_{i}", "dialogue": row["dialogue"]}
        | {"summary": row[f"summary{i}"], "topic": row[f"topic{i}"]}
        for row in rows
        for i in (1, 2, 3)
    ]


def load_streamed(path):
    script_args = ScriptArguments(dataset_name=str(path), dataset_streaming=True)
    return load_examples(script_args, DataArguments(), "test")


def assert_same_examples(tmp_path, hub, authors):
    """The rows of the hub and those of the authors give the same examples, read whole or streamed."""
    expected = load(write(tmp_path / "authors.jsonl", authors))
    path = write(tmp_path / "hub.jsonl", hub)
    assert expected.counts.references == len(hub)
    for examples in (load(path), load_streamed(path)):
        assert [(row["id"], row["references"], row["topic"]) for row in examples.rows] == [
            (row["id"], row["references"], row["topic"]) for row in expected.rows
        ]
        assert examples.fingerprint() == expected.fingerprint()
        assert (examples.counts.references, examples.counts.dropped) == (len(hub), Counter())


def test_equal_summaries_of_two_annotators_are_two_references(tmp_path):
    rows = [json.loads(line) for line in (SAMPLE / "test.jsonl").open(encoding="utf-8")]
    for first, second in ((0, 1), (4, 5), (6, 8)):
        rows[second]["summary"] = rows[first]["summary"]
    assert_same_examples(tmp_path, rows, author_layout(rows))


def test_dialogsum_gives_the_same_references_in_both_layouts(tmp_path):
    path = ROOT.parent / "shared" / "data" / "dialogsum" / "test.jsonl"
    if not path.is_file():
        pytest.skip("the authors' file is not there")
    rows = [json.loads(line) for line in path.open(encoding="utf-8")]
    assert len(rows) == 250
    assert any(len({row[f"summary{i}"] for i in (1, 2, 3)}) < 3 for row in rows)
    assert_same_examples(tmp_path, hub_layout(rows), rows)


def test_a_single_row_of_a_dialogue_keeps_its_id(tmp_path):
    assert load(write(tmp_path / "a.jsonl", [row("test_0_1")])).rows["id"][:] == ["test_0_1"]


def test_unrelated_ids_of_one_dialogue_become_the_first_one(tmp_path):
    rows = [row("train_12", summary="It is dry."), row("train_17", summary="No rain yet.")]
    examples = load(write(tmp_path / "train.jsonl", rows), "train")
    assert examples.rows.remove_columns(["turns", "fields", "reference_rows"]).to_list() == [
        {"id": "train_12", "dialogue": DIALOGUE, "references": ["It is dry.", "No rain yet."], "topic": None}
    ]


def test_duplicate_ids_are_made_unique(tmp_path):
    rows = [row(identity, f"#Person1#: {n}.") for n, identity in enumerate(["a", "a", "a-2", "a"])]
    assert load(write(tmp_path / "a.jsonl", rows)).rows["id"][:] == ["a", "a-2", "a-2-2", "a-3"]


def test_rows_without_an_id_are_numbered(tmp_path):
    rows = [{"dialogue": f"#Person1#: {n}.", "summary": "Talk."} for n in range(2)]
    assert load(write(tmp_path / "a.jsonl", rows)).rows["id"][:] == ["1", "2"]


def test_columns_can_be_named(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"key": "k1", "text": DIALOGUE, "short": "Dry.", "long": "It is dry."}])
    examples = load(path, dialogue_column="text", summary_columns=["long", "short"], id_column="key")
    assert examples.rows.remove_columns(["turns", "fields", "reference_rows"]).to_list() == [
        {"id": "k1", "dialogue": DIALOGUE, "references": ["It is dry.", "Dry."], "topic": None}
    ]


@pytest.mark.parametrize("kind", ["csv", "parquet", "json", "jsonl"])
def test_every_file_format_gives_the_same_examples(tmp_path, kind):
    path = tmp_path / f"test.{kind}"
    table = datasets.Dataset.from_list(hub_rows())
    if kind == "csv":
        table.to_csv(path)
    elif kind == "parquet":
        table.to_parquet(path)
    elif kind == "json":
        path.write_text(json.dumps(hub_rows()), encoding="utf-8")
    else:
        write(path, hub_rows())
    assert load(path).rows.remove_columns(["turns", "fields", "reference_rows"]).to_list() == GROUPED


def test_a_unicode_line_separator_does_not_end_a_row(tmp_path):
    dialogue = "#Person1#: One\u2028two.\n#Person2#: Ja, ä 中."
    assert load(write(tmp_path / "a.jsonl", [row(dialogue=dialogue)])).rows["dialogue"][:] == [dialogue]


def test_a_folder_has_a_file_for_each_split(tmp_path):
    write(tmp_path / "train.jsonl", [row("train_0")])
    write(tmp_path / "test.jsonl", [row("test_0")])
    assert load(tmp_path, "train").rows["id"][:] == ["train_0"]
    assert load(tmp_path, "test").rows["id"][:] == ["test_0"]


@pytest.mark.parametrize("split", ["train", "validation", "anything"])
def test_a_single_file_serves_any_split(tmp_path, split):
    assert load(write(tmp_path / "a.jsonl", [row()]), split).rows["id"][:] == ["train_0"]


def test_the_bundled_sample():
    examples = load("sample", "test")
    assert examples.counts == Counts(read=72, kept=72, dialogues=24, references=72)
    assert examples.rows["id"][:] == [f"test_{n}" for n in range(24)]
    assert {len(references) for references in examples.rows["references"]} == {3}


def test_a_limit_counts_dialogues_not_rows(tmp_path):
    examples = load(write(tmp_path / "test.jsonl", hub_rows()), limit=1)
    assert examples.rows.remove_columns(["turns", "fields", "reference_rows"]).to_list() == GROUPED[:1]
    assert examples.counts == Counts(read=6, kept=6, dialogues=2, references=6, one_speaker=6)


def test_a_limit_above_the_number_of_dialogues_takes_all(tmp_path):
    assert len(load(write(tmp_path / "test.jsonl", hub_rows()), limit=9).rows) == 2


@pytest.mark.parametrize(
    "other",
    [
        [row(identity="train_1")],
        [row(dialogue=DIALOGUE + " No.")],
        [row(summary="It is wet.")],
        [row(), row(summary="No rain yet.")],
        [row(), row("train_1", "#Person1#: More.")],
    ],
)
def test_the_fingerprint_changes_with_the_content(tmp_path, other):
    first = load(write(tmp_path / "a.jsonl", [row()])).fingerprint()
    assert load(write(tmp_path / "same.jsonl", [row()])).fingerprint() == first
    assert load(write(tmp_path / "other.jsonl", other)).fingerprint() != first


def refusal(*args, **options):
    """The message of the InputError that `load` raises: one line."""
    with pytest.raises(InputError) as error:
        load(*args, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
def test_a_missing_file_is_named(tmp_path, suffix):
    path = tmp_path / f"nothing{suffix}"
    assert refusal(path) == f"dataset file not found: {path}"


def test_an_unknown_file_type_is_refused_with_the_known_types(tmp_path):
    path = tmp_path / "dialogues.docx"
    path.touch()
    assert refusal(path) == (
        f"{path}: cannot read such a file, only {', '.join(SUFFIXES)}; a row has a dialogue and its summary"
    )


def test_no_dataset_at_all():
    with pytest.raises(InputError, match="give --dataset_name"):
        load_examples(ScriptArguments(), DataArguments(), "test")


def test_a_missing_split_is_refused_with_the_existing_ones(tmp_path):
    write(tmp_path / "train.jsonl", [row()])
    write(tmp_path / "test.jsonl", [row()])
    by_name = "name the file by --train_file, --validation_file or --test_file"
    message = f"no split 'validation' in {tmp_path}: there are test.jsonl, train.jsonl; {by_name}"
    assert refusal(tmp_path, "validation") == message


def test_a_folder_without_data_files_says_so(tmp_path):
    assert refusal(tmp_path, "train") == f"no split 'train' in {tmp_path}: there are no data files"


@pytest.mark.parametrize(
    ("options", "missing"),
    [
        ({"dialogue_column": "text"}, "text"),
        ({"summary_columns": ["summary", "gist"]}, "gist"),
        ({"id_column": "key"}, "key"),
        ({"dialogue_column": "text", "summary_columns": ["gist"], "id_column": "key"}, "text, gist, key"),
    ],
)
def test_missing_columns_are_refused_with_the_existing_ones(tmp_path, options, missing):
    path = write(tmp_path / "a.jsonl", [row()])
    message = refusal(path, **options)
    assert message.startswith(f"{path} has no column {missing}: there are id, dialogue, summary;")
    assert "--dialogue_column, --summary_columns, --id_column" in message


@pytest.mark.parametrize("column", ["dialogue", "summary"])
@pytest.mark.parametrize(
    ("value", "fault"),
    [
        (None, "is null"),
        ("", "is empty"),
        (" \n\t", "is empty"),
        (5, {"dialogue": "a number, neither text nor a list of turns", "summary": "is not text"}),
        ({"a": "b"}, {"dialogue": "an object without a list of turns: it has a", "summary": "is not text"}),
        ([["a", "b", "c"]], {"dialogue": "turn 1 is a list, neither an object nor text", "summary": "is not text"}),
    ],
)
def test_an_unusable_row_is_named_by_number_and_id(tmp_path, column, value, fault):
    rows = [row("train_0"), row("train_1", "#Person1#: More.") | {column: value}]
    path = write(tmp_path / "a.jsonl", rows)
    message = refusal(path, "train")
    reason = fault if isinstance(fault, str) else fault[column]
    assert message.startswith(f"{path} (train): 1 of 2 rows cannot be used: row 2 (train_1): {column}")
    assert f" {reason}" in message
    assert message.endswith("Correct them, or continue without them: --allow_dropped_rows true")


def test_unusable_rows_are_reported_in_one_message(tmp_path):
    rows = [row("a", summary=None), row("b", dialogue=""), *(row(f"c{n}", summary="") for n in range(5))]
    path = write(tmp_path / "a.jsonl", rows)
    assert refusal(path) == (
        f"{path} (test): 7 of 7 rows cannot be used: row 1 (a): summary is null; row 2 (b): dialogue is empty; "
        "row 3 (c0): summary is empty; row 4 (c1): summary is empty; row 5 (c2): summary is empty; and 2 more"
    )


def test_one_percent_of_the_rows_may_be_dropped(tmp_path):
    rows = [row(f"t{n}", f"#Person1#: {n}.") for n in range(100)]
    assert load(write(tmp_path / "a.jsonl", [*rows[1:], row("bad", summary="")])).counts == Counts(
        *(100, 99, Counter({"summary is empty": 1}), ["row 100 (bad): summary is empty"]),
        **{"dialogues": 99, "references": 99, "one_speaker": 99},
    )
    path = write(tmp_path / "b.jsonl", [*rows[2:], row("bad", summary=""), row("worse", dialogue="")])
    assert "2 of 100 rows cannot be used" in refusal(path)
    assert load(path, allow_dropped_rows=True).counts.kept == 98


def test_duplicate_rows_are_dropped_and_counted(tmp_path):
    rows = [row("a"), row("a"), row("b"), row("c", summary="Dry.")]
    path = write(tmp_path / "a.jsonl", rows)
    for examples in (load(path), load_streamed(path)):
        assert [row["references"] for row in examples.rows] == [["It is dry.", "It is dry.", "Dry."]]
        counts = examples.counts
        assert (counts.read, counts.kept, dict(counts.dropped)) == (4, 3, {DUPLICATE: 1})
        assert (counts.dialogues, counts.references) == (1, 3)


@pytest.mark.parametrize("identity", [{}, {"id": None}])
def test_rows_without_ids_are_duplicates_by_their_content(tmp_path, identity):
    rows = [{"dialogue": DIALOGUE, "summary": "Dry."} | identity for _ in range(3)]
    counts = load(write(tmp_path / "a.jsonl", rows)).counts
    assert (counts.read, counts.kept, dict(counts.dropped)) == (3, 1, {DUPLICATE: 2})


def test_dialogues_of_the_other_split_are_left_out(tmp_path):
    other = load(write(tmp_path / "test.jsonl", [row("test_0")]))
    path = write(tmp_path / "train.jsonl", [row("a", summary="Dry."), *(row(f"b{n}", f"{n}") for n in range(200))])
    examples = load_examples(ScriptArguments(dataset_name=str(path)), DataArguments(), "train", other_split=other)
    assert examples.counts.dropped == {IN_OTHER_SPLIT: 1}
    assert examples.counts.named == [f"row 1 (a): {IN_OTHER_SPLIT}"]


@pytest.mark.parametrize(
    ("names", "notes"),
    [
        (("dialogue", "summary"), []),
        (("conversation", "highlights"), ["dialogues taken from conversation", "summaries taken from highlights"]),
        (("Transcript", "Summary"), ["dialogues taken from Transcript", "summaries taken from Summary"]),
    ],
)
def test_columns_are_recognised_by_their_names_with_a_note(tmp_path, names, notes):
    path = write(tmp_path / "a.jsonl", [{names[0]: DIALOGUE, names[1]: "Dry.", "other": 1}])
    examples = load(path)
    assert examples.rows[0]["references"] == ["Dry."]
    assert examples.notes == [f"{path}: {note}" for note in notes]


def test_two_possible_dialogue_columns_are_refused(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"chat": DIALOGUE, "transcript": DIALOGUE, "summary": "Dry."}])
    assert refusal(path).startswith(f"{path} has no column dialogue: there are chat, transcript, summary")


def test_an_empty_reference_of_three_is_left_out_and_counted(tmp_path):
    rows = author_rows()
    rows[1]["summary2"] = ""
    examples = load(write(tmp_path / "a.jsonl", rows))
    assert examples.rows[1]["references"] == ["Summary 1, 1.", "Summary 1, 3."]
    assert examples.counts == Counts(read=2, kept=2, dialogues=2, references=5, empty_references=1, one_speaker=2)


def test_a_csv_file_with_only_a_header_is_refused(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("id,dialogue,summary\n")
    assert str(path) in refusal(path)


def test_an_empty_list_is_refused(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("[]")
    assert str(path) in refusal(path)


def test_parquet_without_rows_is_refused(tmp_path):
    path = tmp_path / "a.parquet"
    datasets.Dataset.from_list([row()]).select([]).to_parquet(path)
    assert str(path) in refusal(path)


def test_unreadable_parquet_is_refused_with_the_reason(tmp_path):
    path = tmp_path / "a.parquet"
    path.write_text("no parquet")
    assert refusal(path).startswith(f"{path} is a damaged parquet file, or none at all: ")


def test_an_unknown_hub_id_while_offline(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert refusal("nobody/nothing").startswith("cannot read dataset 'nobody/nothing': Couldn't reach")


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_below_one_is_refused(limit):
    assert refusal("sample", limit=limit) == f"a limit of {limit} dialogues leaves none; give 1 or more"


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv"])
def test_an_empty_file_is_refused(tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    path.touch()
    assert str(path) in refusal(path)


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_a_file_that_is_not_utf8_is_refused(tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    text = {"jsonl": '{"id": "1", "dialogue": "café", "summary": "b"}\n', "csv": "id,dialogue,summary\n1,café,b\n"}[
        kind
    ]
    path.write_bytes(text.encode("latin-1"))
    assert str(path) in refusal(path)


def test_a_file_name_is_not_a_pattern(tmp_path):
    write(tmp_path / "a1.jsonl", [row("train_1")])
    path = write(tmp_path / "a[1].jsonl", [row("train_2")])
    assert load(path).rows["id"][:] == ["train_2"]


def test_rows_with_the_same_id_get_unique_ids(tmp_path):
    rows = [row("", f"{n}") for n in range(2)] + [row("a", f"a{n}") for n in range(100)]
    ids = load(write(tmp_path / "a.jsonl", rows)).rows["id"][:]
    assert ids == ["1", "2", "a", *(f"a-{n}" for n in range(2, 101))]


def test_rows_of_shards_without_ids_are_named_by_file_and_line(tmp_path):
    for shard in (1, 2):
        write(tmp_path / f"test-{shard}.jsonl", [{"dialogue": f"{shard}, {n}", "summary": "a"} for n in (1, 2)])
    names = ["test-1.jsonl:1", "test-1.jsonl:2", "test-2.jsonl:1", "test-2.jsonl:2"]
    assert load(tmp_path).rows["id"][:] == names


@pytest.mark.parametrize("column", ["topic", "topic1"])
def test_a_topic_is_text_or_null(tmp_path, column):
    topics = ["rain", 5, None, "", ["rain"]]
    rows = [row(f"t{n}", f"{n}") | {column: topic} for n, topic in enumerate(topics)]
    assert load(write(tmp_path / "a.jsonl", rows)).rows["topic"][:] == ["rain", "5", None, None, None]


def test_a_topic_column_can_be_named(tmp_path):
    path = write(tmp_path / "a.jsonl", [row() | {"topic": "a", "subject": "b"}])
    assert load(path, topic_column="subject").rows["topic"][:] == ["b"]
    assert "has no column theme: there are id, dialogue, summary, topic, subject;" in refusal(
        path, topic_column="theme"
    )


def test_a_refusal_names_dropped_rows_but_not_duplicates(tmp_path):
    rows = [*(row("same") for _ in range(9)), row("bad", summary=None)]
    assert ": 1 of 10 rows cannot be used: row 10 (bad): summary is null. Correct" in refusal(
        write(tmp_path / "a.jsonl", rows)
    )


def test_the_record_has_all_counts(tmp_path):
    rows = [row("a"), row("a"), row("c", "More.") | {"summaries": ["Dry.", ""]}, row("d", None)]
    rows = [{"summaries": [one.pop("summary")]} | one for one in rows]
    assert load(write(tmp_path / "a.jsonl", rows), allow_dropped_rows=True).counts.record() == {
        "rows_read": 4,
        "rows_kept": 2,
        "rows_dropped": {DUPLICATE: 1, "dialogue is null": 1},
        "dialogues": 2,
        "references": 2,
        "empty_references": 1,
        "shortened": 0,
        "one_speaker": 1,
    }
