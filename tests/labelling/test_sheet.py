"""The sheet for a person: what it holds, and the decisions read from it as spreadsheets save them."""

import csv
import dataclasses
import io
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from dialogsum_sft import InputError
from dialogsum_sft.labelling.labels import DROPPED, KEPT, SET_ASIDE, Decision, Label
from dialogsum_sft.labelling.sheet import chosen, read_sheet, write_sheet

import pytest
from made_labels import label


def sheet_rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig"))))


def test_the_choice_depends_on_the_dialogues_and_the_seed() -> None:
    labels = [label(n, (KEPT, KEPT, SET_ASIDE, DROPPED)[n % 4]) for n in range(80)]
    first = chosen(labels, 10, 42)
    assert [one.status for one in first].count(SET_ASIDE) == 5
    assert {one.key for one in chosen(labels[::-1], 10, 42)} == {one.key for one in first}
    assert {one.key for one in chosen(labels, 10, 7)} != {one.key for one in first}
    assert len(chosen(labels, 500, 42)) == 60
    assert len(chosen([one for one in labels if one.status == SET_ASIDE], 10, 42)) == 10
    assert chosen(labels, 0, 42) == []


def test_formulas_are_text_and_long_dialogues_fit_a_cell(tmp_path: Path) -> None:
    one = dataclasses.replace(label(), summary='=HYPERLINK("http://x")', id="-1+1")
    write_sheet(tmp_path, [one, label(1, text="Mila: " + "word " * 8000)], None)
    first, second = sheet_rows(tmp_path / "sheet.csv")
    assert (first["summary"], first["id"]) == ('\'=HYPERLINK("http://x")', "'-1+1")
    assert len(second["dialogue"]) < 32_767
    assert (tmp_path / "sheet.csv").read_bytes().startswith(b"\xef\xbb\xbfkey,id,")
    decisions, faults = read_sheet(
        edited(tmp_path, lambda row: row | {"decision": "accept"}), [one, label(1, text="")]
    )
    assert [decision.summary for decision in decisions] == [one.summary]
    assert len(faults) == 1  # the second is of another dialogue


def edited(folder: Path, change: Callable[[dict[str, str]], dict[str, str] | None], **options: Any) -> Path:
    """The sheet as a spreadsheet saves it after a change of its rows."""
    encoding = options.pop("encoding", "utf-8-sig")
    rows = [made for row in sheet_rows(folder / "sheet.csv") if (made := change(row)) is not None]
    table = io.StringIO()
    writer = csv.DictWriter(table, list(rows[0]) if rows else ["key", "decision"], **options)
    writer.writeheader()
    writer.writerows(rows)
    path = folder / "edited.csv"
    path.write_bytes(table.getvalue().encode(encoding))
    return path


@pytest.fixture
def labels(tmp_path: Path) -> list[Label]:
    """Five labels, of which the last is dropped; the sheet has the others."""
    made = [*(label(n) for n in range(4)), label(4, DROPPED)]
    write_sheet(tmp_path, made[:4], None)
    return made


@pytest.mark.parametrize(
    "options",
    [
        {"encoding": "utf-8"},
        {"delimiter": ";", "lineterminator": "\r\n"},  # Excel where the comma is in numbers
        {"delimiter": "\t", "lineterminator": "\r"},
        {"quoting": csv.QUOTE_ALL},
    ],
)
def test_decisions_are_read_as_spreadsheets_save_them(
    tmp_path: Path, labels: list[Label], options: dict[str, Any]
) -> None:
    decided = {
        labels[0].key: {"decision": "Accept"},
        labels[1].key: {"decision": " reject "},
        labels[2].key: {"corrected": "Fünf; um, sechs.\r\nZwei."},
    }

    def change(row: dict[str, str]) -> dict[str, str]:
        row = row | {"dialogue": row["dialogue"].replace("\n", "\r\n")} | decided.get(row["key"], {})
        return dict(sorted(row.items()))  # other columns first

    decisions, faults = read_sheet(edited(tmp_path, change, **options), labels)
    assert faults == []
    assert decisions == [
        Decision(labels[0].key, "accepted", "Summary 0."),
        Decision(labels[1].key, "rejected", "Summary 1."),
        Decision(labels[2].key, "corrected", "Summary 2.", "Fünf; um, sechs.\nZwei."),
    ]


def test_missing_and_reordered_rows_and_the_columns_of_the_page(tmp_path: Path, labels: list[Label]) -> None:
    path = tmp_path / "decisions.csv"
    path.write_text(f'\ufeff"key","decision"\n"{labels[3].key}","reject"\n"{labels[0].key}","accept"\n', "utf-8")
    decisions, faults = read_sheet(path, labels)
    assert [one.decision for one in decisions] == ["rejected", "accepted"]
    assert faults == []


def test_each_row_that_does_not_match_is_named_and_the_others_are_taken(tmp_path: Path, labels: list[Label]) -> None:
    keys = [one.key for one in labels]
    lines = [
        *("key,id,summary,decision,corrected", f"{keys[0]},d0,Summary 0.,accept,", f"{keys[0]},d0,Summary 0.,reject,"),
        *("k0,x,,accept,", f"{keys[1]},d1,Summary changed.,accept,", f"{keys[2]},d2,Summary 2.,maybe,"),
        *(f"{keys[2]},d2,,reject,Another.", f"{keys[3]},d3,,corrected,", f"{keys[4]},d4,,accept,", ",,,,", "a,b"),
        *(f"{keys[3]},d3,,correct,Summary  3.", f"{keys[0]},d0,,ok,"),
    ]
    path = tmp_path / "mixed.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    decisions, faults = read_sheet(path, labels)
    assert decisions == [Decision(keys[0], "accepted", "Summary 0."), Decision(keys[3], "accepted", "Summary 3.")]
    assert [fault.removeprefix(f"{path}: ") for fault in faults] == [
        f"row 2 (d0): row 1 decides otherwise on {keys[0]}",
        "row 3 (x): no summary has the key 'k0': is the sheet of another --output_dir?",
        "row 4 (d1): its summary is another than the one written: put a corrected text into the column corrected",
        "row 5 (d2): the decision 'maybe' is none of accept, reject, corrected, or nothing",
        "row 6 (d2): it is rejected and has a corrected text: leave one out",
        "row 7 (d3): it is corrected, but the column corrected is empty",
        f"row 8 (d4): no summary has the key '{keys[4]}': is the sheet of another --output_dir?",
        "row 10: row has another number of fields than the header (a comma without quotes?)",
    ]


def test_text_of_another_encoding_is_named(tmp_path: Path, labels: list[Label]) -> None:
    for column in ("corrected", "summary"):
        path = edited(tmp_path, lambda row, column=column: row | {column: "Grün"}, encoding="cp1252")
        decisions, faults = read_sheet(path, labels)
        assert decisions == []
        end = f"{column} is not UTF-8 text: save the sheet as CSV in UTF-8"
        assert [fault.split(": ", 1)[1] for fault in faults] == [f"row {n + 1} (d{n}): {end}" for n in range(4)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has no columns key and decision: it has no rows"),
        (b"a,b\n1,2\n", "has no columns key and decision: there are a, b. Give the sheet.csv that label.py wrote"),
        ("key,decision\n1,2\n".encode("utf-16"), "is UTF-16 text: save it as UTF-8"),
    ],
)
def test_what_is_no_sheet_is_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_sheet(path, [])
    with pytest.raises(InputError, match="cannot read such a file"):
        read_sheet(tmp_path / "x.xlsx", [])
    with pytest.raises(InputError, match="cannot read .*: No such file"):
        read_sheet(tmp_path / "none.csv", [])


def test_a_sheet_that_was_changed_by_hand_stays(tmp_path: Path) -> None:
    digest, is_left = write_sheet(tmp_path, [label()], None)
    assert not is_left
    assert write_sheet(tmp_path, [label(), label(1)], digest)[1] is False
    path = tmp_path / "sheet.csv"
    digest, _ = write_sheet(tmp_path, [label()], write_sheet(tmp_path, [label()], None)[0] or digest)
    path.write_text(path.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    before = path.read_bytes()
    assert write_sheet(tmp_path, [label(), label(1)], digest) == (digest, True)
    assert path.read_bytes() == before


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_is_self_contained_and_text_is_text(tmp_path: Path) -> None:
    planted = '</textarea><script>alert(1)</script>"'
    one = dataclasses.replace(label(text=f"Mila: {planted}"), summary=planted, id=planted, reason=planted)
    write_sheet(tmp_path, [one], None)
    page = _Page()
    page.feed((tmp_path / "sheet.html").read_text(encoding="utf-8"))
    names = [tag for tag, _ in page.tags]
    assert names.count("script") == names.count("textarea") == names.count("article") == 1
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in page.tags
    assert not [attrs for _, attrs in page.tags if attrs.keys() & {"src", "href"}]
    assert page.text.count(planted) == 5
