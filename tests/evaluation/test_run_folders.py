"""A folder with another run is refused with the options that differ; a run beside it lends its summaries."""

import json
from pathlib import Path
from typing import Any

from dialogsum_sft import InputError
from dialogsum_sft.evaluation.run_folders import finished_run, name_of_file
from dialogsum_sft.evaluation.runs import read_run, score_run

import pytest

ROWS = [
    {
        "id": str(number),
        "dialogue": f"Ann: I lost my {thing}.\nBen: I saw it.",
        "references": [f"Ann lost the {thing}."],
        "prediction": f"Summary: Ann lost a {thing}.",
    }
    for number, thing in enumerate(["key", "cat"])
]
REFERENCES = [["Ann lost the key."], ["Ann lost the cat."]]
SETTINGS = {"engine": "1", "prompts": "2", "versions": "3"}
OPTIONS = {"max_new_tokens": 80, "instruction": None, "strip_preamble": False}
VERSIONS = {"torch": "2.0", "no_such_package": "1"}


def write(folder: Path, rows: list[dict[str, Any]] = ROWS, **options: Any) -> Path:
    record = {"settings": SETTINGS, "options": OPTIONS, "versions": VERSIONS} | options
    score_run("m", folder, rows, **record).save()
    return folder


def test_a_run_of_these_settings_is_finished(tmp_path: Path) -> None:
    run = finished_run(write(tmp_path / "eval-m"), SETTINGS, OPTIONS, REFERENCES)
    assert run is not None
    assert run.rows == ROWS


@pytest.mark.parametrize(
    ("settings", "options", "references", "why"),
    [
        ({"engine": "9"}, {"max_new_tokens": 100}, REFERENCES, "--max_new_tokens 80 there, 100 here"),
        (
            {"prompts": "9"},
            {"instruction": "Sum up: ", "max_new_tokens": 100},
            REFERENCES,
            "--max_new_tokens 80 there, 100 here; --instruction not given there, 'Sum up:' here",
        ),
        ({"prompts": "9"}, {}, REFERENCES, "other dialogues or prompts"),
        ({}, {}, [["Another."], ["Another."]], "other references"),
    ],
)
def test_another_run_is_refused_with_what_differs(
    tmp_path: Path, settings: dict[str, str], options: dict[str, Any], references: list[list[str]], why: str
) -> None:
    folder = write(tmp_path / "eval-m")
    with pytest.raises(InputError) as caught:
        finished_run(folder, SETTINGS | settings, OPTIONS | options, references)
    anew = "give another --output_dir, or --overwrite_output_dir true to set it aside"
    assert str(caught.value) == f"{folder} holds another run ({why}): {anew}"
    assert finished_run(folder, SETTINGS | settings, OPTIONS | options, references, overwrite=True) is None
    assert not folder.exists()
    assert read_run(tmp_path / "earlier-eval-m").rows == ROWS


def test_other_versions_are_named(tmp_path: Path) -> None:
    folder = write(tmp_path / "eval-m")
    with pytest.raises(InputError, match=r"holds another run \(torch '?2.0'? there, .* here\): give another"):
        finished_run(folder, SETTINGS | {"versions": "9"}, OPTIONS, REFERENCES)


@pytest.mark.parametrize("other", [{"tokenizer": "unicode"}, {"strip_preamble": True}])
def test_a_run_that_was_scored_in_another_way_is_refused(tmp_path: Path, other: dict[str, Any]) -> None:
    folder = write(tmp_path / "eval-m")
    with pytest.raises(InputError, match="holds another run"):
        finished_run(folder, SETTINGS, OPTIONS, REFERENCES, **other)


def test_a_record_without_options_names_what_differs(tmp_path: Path) -> None:
    folder = write(tmp_path / "eval-m")
    record = json.loads((folder / "metrics.json").read_text())
    del record["options"]
    (folder / "metrics.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match=r"holds another run \(other engine\): give another --output_dir"):
        finished_run(folder, SETTINGS | {"engine": "9"}, OPTIONS, REFERENCES)


def test_a_run_beside_it_has_the_summaries_and_not_the_references(tmp_path: Path) -> None:
    write(tmp_path / "eval-m")
    stripped = tmp_path / "eval-m-stripped"
    run = finished_run(stripped, SETTINGS, OPTIONS, [["One."], ["Two."]], strip_preamble=True)
    assert run is not None
    assert [(row["prediction"], row["references"]) for row in run.rows] == [
        ("Summary: Ann lost a key.", ["One."]),
        ("Summary: Ann lost a cat.", ["Two."]),
    ]
    assert finished_run(stripped, SETTINGS | {"engine": "9"}, OPTIONS, REFERENCES) is None
    write(tmp_path / "eval-m", [ROWS[0], ROWS[1] | {"fault": "timeout"}])
    assert finished_run(stripped, SETTINGS, OPTIONS, REFERENCES) is None


def test_a_file_scored_in_another_way_has_a_folder_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "bart.txt"
    name, file_id = name_of_file(path, tmp_path)
    assert name == "bart"
    (tmp_path / "eval-bart").mkdir()
    (tmp_path / "eval-bart" / "metrics.json").write_text(json.dumps({"model": {"file_id": file_id}}))
    assert name_of_file(path, tmp_path)[0] == "bart"
    assert name_of_file(path, tmp_path, strip_preamble=True)[0] == "bart-stripped"
    assert name_of_file(path, tmp_path, max_eval_samples=5)[0] == "bart-2"
    assert name_of_file(path, tmp_path, references="abc")[0] == "bart-2"
    assert name_of_file(path, tmp_path, max_eval_samples=None)[0] == "bart"
    assert name_of_file(tmp_path / "base-stripped.txt", tmp_path)[0] == "base-stripped-file"
