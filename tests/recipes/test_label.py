"""recipes/label.py: from dialogues without summaries to a folder that recipes/sft.py takes."""

import csv
import io
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from conftest import ROOT, Recipe, training_args
from dialogsum_sft import command
from dialogsum_sft.data.prompts import INSTRUCTION, LABEL_INSTRUCTIONS
from dialogsum_sft.generation.journal import locked
from fake_endpoint import Server, answer

import pytest

CHAT = "Mila: The boat leaves at six.\nOren: Then I set the alarm for five.\n"


@pytest.fixture
def label(
    recipe: Recipe, server: Server, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., tuple[int, str, str]]:
    """Exit status, standard output and standard error of the recipe with the endpoint; its folder is tmp_path/out."""

    def call(*args: Any, endpoint: bool = True) -> tuple[int, str, str]:
        capsys.readouterr()
        options = ["--engine=openai", f"--base_url={server.url}", "--served_model_name=m"] if endpoint else []
        status = 0
        try:
            recipe("label", *args, *options, f"--output_dir={tmp_path / 'out'}")
        except SystemExit as end:
            status = int(end.code or 0)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


def table(path: Path, number: int, text: str = "Ann: Number {n}.\nBen: Fine.\nAnn: Then {n} it is.") -> Path:
    rows = ({"id": f"c{n}", "dialogue": text.format(n=n)} for n in range(number))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.open(encoding="utf-8")]


def record_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "label.json").read_text(encoding="utf-8"))


def test_the_folder_has_rows_a_sheet_and_a_record(label: Any, server: Server, tmp_path: Path) -> None:
    status, out, err = label(table(tmp_path / "calls.jsonl", 20), "--sheet_size=5", "--instruction_name=outcome")
    folder = tmp_path / "out"
    assert status == 0
    assert sorted(path.name for path in folder.iterdir() if path.name[0] != ".") == [
        *("label.json", "sheet.csv", "sheet.html", "train.jsonl", "validation.jsonl"),
    ]
    train, validation = rows_of(folder / "train.jsonl"), rows_of(folder / "validation.jsonl")
    assert (len(train), len(validation)) == (18, 2)
    assert {row["summary"] for row in train + validation} == {f"So: Ann: Then {n} it is." for n in range(20)}
    record = record_of(folder)
    assert record["prompt"]["instruction"] == LABEL_INSTRUCTIONS["outcome"]
    assert (record["model"], record["instruction_name"]) == ({"name": "m"}, "outcome")
    assert record["engine"]["generation"] == {"max_tokens": 128, "temperature": 0.0}
    assert record["tokens"] == {"requests": 20, "prompt_tokens": 140, "completion_tokens": 60, "uncounted": 0}
    assert record["inputs"] == {"read": 20, "unreadable": 0, "repeated": 0, "left": 0}
    assert (record["counts"]["train"], record["counts"]["validation"]) == (18, 2)
    characters = sum(len(content) // 4 + 4 for content in server.contents)
    estimate = f"20 requests: {characters:,} tokens of prompts (estimated from their characters) and at most 2,560 of"
    assert f"20 dialogues; {estimate} summaries" in err
    assert "this run took 20 requests: 140 + 60 tokens; all of it 20 requests: 140 + 60 tokens" in err
    assert re.search(r"train\.jsonl +18 *\n", out)
    assert len(list(csv.DictReader(io.StringIO((folder / "sheet.csv").read_text(encoding="utf-8-sig"))))) == 5


def test_what_is_not_kept_is_counted_by_name(label: Any, server: Server, tmp_path: Path) -> None:
    answers: dict[str, Any] = {
        "Then 0 ": (200, answer("I'm sorry, but I can't help with that."), {}),
        "Then 1 ": (200, answer("Ann and", "length"), {}),
        "Then 2 ": (400, {"error": {"message": "against the policy", "code": "content_filter"}}, {}),
        "Then 3 ": (200, answer("Ann and Zora agree on 3."), {}),
        "Then 4 ": (200, answer("Ann and Ben agree on 77."), {}),
        "Then 5 ": (200, answer("Here is a summary:\n\nAnn and Ben agree on 5."), {}),
    }
    own = server.script
    server.script = lambda text, n: next((a for key, a in answers.items() if key in text), None) or own(text, n)
    calls = table(tmp_path / "calls.jsonl", 12)
    assert label(calls)[0] == 0
    folder = tmp_path / "out"
    counts = record_of(folder)["counts"]
    assert counts["dropped"] == {"refusal": 1, "cut off at max_new_tokens": 1, "content_filter": 1}
    assert counts["set_aside"] == {"names that the dialogue lacks": 1, "numbers that the dialogue lacks": 1}
    assert counts["notes"]["preambles taken off"] == 1
    assert [(row["id"], row["found"]) for row in rows_of(folder / "set_aside.jsonl")] == [("c3", "Zora"), ("c4", "77")]
    kept = {row["id"]: row["summary"] for name in ("train", "validation") for row in rows_of(folder / f"{name}.jsonl")}
    assert kept.keys() == {f"c{n}" for n in range(5, 12)}
    assert kept["c5"] == "Ann and Ben agree on 5."
    asked = len(server.contents)
    assert label(calls)[0] == 0  # what was refused is not asked again
    assert len(server.contents) == asked == 12


def test_a_dialogue_is_labelled_once_and_bad_input_is_named(label: Any, server: Server, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in "ab":
        (tmp_path / "in" / f"{name}.txt").write_text(CHAT, encoding="utf-8")
    (tmp_path / "in" / "c.txt").write_bytes(b"\x89PNG\x00")
    status, _, err = label(tmp_path / "in", "--validation_share=0")
    assert status == 2
    assert err.splitlines()[-1] == f"error: {tmp_path / 'in' / 'c.txt'}: this is an image, not text"
    assert len(server.contents) == 1
    assert record_of(tmp_path / "out")["inputs"] == {"read": 3, "unreadable": 1, "repeated": 1, "left": 0}
    assert [row["dialogue"] for row in rows_of(tmp_path / "out" / "train.jsonl")] == [CHAT.strip()]


def test_max_requests_stops_and_the_same_command_goes_on(
    label: Any, server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    calls = table(tmp_path / "calls.jsonl", 10)
    status, _, err = label(calls, "--max_requests=4")
    assert status == 75
    assert err.splitlines()[-1] == (
        "stopped after --max_requests 4; 6 dialogues are left: the same command goes on with them"
    )
    assert len(rows_of(tmp_path / "out" / "train.jsonl")) == 3
    assert (len(server.contents), record_of(tmp_path / "out")["inputs"]["left"]) == (4, 6)
    status, _, err = label(calls)
    assert "this run took 6 requests: 42 + 18 tokens; all of it 10 requests: 70 + 30 tokens" in err
    assert (status, len(server.contents), len(set(server.contents))) == (0, 10, 10)
    assert label(calls, "--max_requests=1", "--num_candidates=2")[0] == 2
    for tokens, aside in ((9, "jsonl.old"), (128, "jsonl.old2")):  # other settings, and the earlier ones once more
        caplog.clear()
        said = label(calls, f"--max_new_tokens={tokens}", "--max_requests=1")[2] + caplog.text
        assert re.findall(r"set aside as predictions\.partial\.(.*)", said) == [aside]


def test_a_second_run_in_the_folder_is_refused(label: Any, server: Server, tmp_path: Path) -> None:
    """It would ask, and pay, for the same summaries."""
    calls = table(tmp_path / "calls.jsonl", 3)
    assert label(calls)[0] == 0
    asked = len(server.contents)
    with locked(tmp_path / "out" / ".label"):
        for second in (table(tmp_path / "more.jsonl", 5), f"--accept={tmp_path / 'out' / 'sheet.csv'}"):
            status, _, err = label(second, endpoint=second != f"--accept={tmp_path / 'out' / 'sheet.csv'}")
            assert (status, len(server.contents)) == (2, asked)
            assert "another process makes these summaries" in err


def test_candidates_are_chosen_by_consensus_among_whole_ones(label: Any, server: Server, tmp_path: Path) -> None:
    texts = {42: ("Ann and Ben", "length"), 43: ("Ann and Ben agree on a number.", "stop"), 44: ("Well.", "stop")}
    texts |= {45: ("Ann and Ben agree on one number.", "stop")}
    server.script = lambda content, n: (200, answer(*texts[server.bodies[-1]["seed"]]), {})
    label(table(tmp_path / "calls.jsonl", 1), "--num_candidates=4", "--concurrency=1")
    assert [row["summary"] for row in rows_of(tmp_path / "out" / "train.jsonl")] == ["Ann and Ben agree on a number."]
    assert record_of(tmp_path / "out")["tokens"]["requests"] == 4


def test_decisions_are_taken_in_and_stay(label: Any, server: Server, tmp_path: Path) -> None:
    own = server.script
    server.script = lambda text, n: (200, answer("Ann met Zora."), {}) if "Then 3 " in text else own(text, n)
    calls, folder = table(tmp_path / "calls.jsonl", 6), tmp_path / "out"
    label(calls)
    sheet = folder / "sheet.csv"
    rows = {row["id"]: row for row in csv.DictReader(io.StringIO(sheet.read_text(encoding="utf-8-sig")))}
    assert rows["c3"]["why"] == "names that the dialogue lacks: Zora"
    rows["c3"]["decision"], rows["c1"]["decision"], rows["c0"]["corrected"] = "accept", "reject", "They agree."
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows["c0"]), delimiter=";")
    writer.writeheader()
    writer.writerows([*rows.values(), rows["c0"] | {"key": "k1"}])
    sheet.write_text("\ufeff" + text.getvalue(), encoding="utf-8")
    asked = len(server.contents)
    status, out, err = label("--accept", sheet, endpoint=False)
    assert (status, len(server.contents)) == (2, asked)
    split = "--dataset_test_split validation" if (folder / "validation.jsonl").exists() else "--validation_share 0.1"
    assert err.splitlines()[-3:] == [
        f"{sheet}: 3 decisions taken in",
        f"train with: dialogsum-sft sft --dataset_name {folder} {split} --model_name_or_path ...",
        f"error: {sheet}: row 7 (c0): no summary has the key 'k1': is the sheet of another --output_dir?",
    ]
    assert re.findall(r"of them (\w+) +1 *\n", out) == ["accepted", "corrected", "rejected"]

    def made() -> dict[str, str]:
        both = [row for name in ("train", "validation") for row in rows_of(folder / f"{name}.jsonl")]
        return {row["id"]: row["summary"] for row in both}

    assert made().keys() == {"c0", "c2", "c3", "c4", "c5"}
    assert (made()["c0"], made()["c3"]) == ("They agree.", "Ann met Zora.")
    assert record_of(folder)["counts"]["dropped"] == {"rejected by a person": 1}
    edited = sheet.read_bytes()
    status, _, err = label(calls)  # once more: decisions stay, and so does the sheet of the person
    assert status == 0
    assert made()["c0"] == "They agree."
    assert sheet.read_bytes() == edited
    assert "sheet.csv was changed by hand and stays: take it in by --accept, or move it away" in err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--instruction_name=short", "--instruction=Hm."), "give --instruction_name or --instruction, not both"),
        (("missing.txt",), "no such file: missing.txt"),
        (("--validation_share=2",), "--validation_share 2.0: give a share such as 0.1, or 0 for none"),
        (("--accept=sheet.csv",), ".*out has no labels yet: label dialogues first, with the same --output_dir"),
        (("chat.txt", "--num_candidates=3", "--max_requests=2"), "--max_requests 2: a dialogue takes 3 .*"),
    ],
)
def test_what_cannot_be_is_one_line(
    label: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: tuple[str, ...], message: str
) -> None:
    (tmp_path / "chat.txt").write_text(CHAT, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    status, _, err = label(*args)
    assert status == 2
    assert re.fullmatch(f"error: {message}", err.splitlines()[-1])


def test_no_summary_to_keep_is_one_line(label: Any, server: Server, tmp_path: Path) -> None:
    server.script = lambda content, number: (200, answer("I cannot help with that."), {})
    status, out, err = label(table(tmp_path / "calls.jsonl", 3))
    assert (status, re.findall(r"dropped: refusal +3 *\n", out) != []) == (2, True)
    assert err.splitlines()[-1] == f"error: {tmp_path / 'out'}: no summary is kept to train on, see the counts above"


def test_an_endpoint_without_a_valid_key_is_one_line(label: Any, server: Server, tmp_path: Path) -> None:
    server.script = lambda content, number: (401, {"error": {"message": "no such key"}}, {})
    status, _, err = label(table(tmp_path / "calls.jsonl", 3))
    assert status == 2
    assert re.search("HTTP 401: no such key. Set OPENAI_API_KEY", err.splitlines()[-1])
    assert not (tmp_path / "out" / "train.jsonl").exists()


def test_a_local_model_counts_its_tokens(label: Any, tiny_folder: Path, tmp_path: Path) -> None:
    options = [f"--model_name_or_path={tiny_folder}", "--max_new_tokens=4", "--num_candidates=2"]
    status, _, err = label(table(tmp_path / "calls.jsonl", 3), *options, endpoint=False)
    assert status == 2  # each is cut off, so that none is kept
    estimate = re.search(r"6 requests: (\d+) tokens of prompts \(counted\) and at most 24 of summaries", err)
    tokens = record_of(tmp_path / "out")["tokens"]
    assert estimate is not None
    assert (tokens["prompt_tokens"], tokens["completion_tokens"] <= 24) == (int(estimate[1]), True)
    assert "this run took 6 requests" in err


def test_an_adapter_labels_under_its_own_instruction(label: Any, whole_run: Any, tiny_folder: Path, tmp_path: Path):
    options = [
        f"--adapter_path={whole_run() / 'adapter'}",
        f"--model_name_or_path={tiny_folder}",
        "--max_new_tokens=4",
    ]
    calls = table(tmp_path / "calls.jsonl", 2)
    label(calls, *options, endpoint=False)
    record = record_of(tmp_path / "out")
    assert (record["instruction_name"], record["prompt"]["instruction"]) == (None, INSTRUCTION)
    assert record["model"]["adapter"] == "adapter"
    status, _, err = label(calls, *options, "--instruction_name=short", endpoint=False)
    assert status == 2
    assert "was trained with another prompt: instruction is" in err.splitlines()[-1]


def test_the_commands_of_the_readme(
    server: Server, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "calls").mkdir()
    for number in range(12):
        (tmp_path / "calls" / f"{number}.txt").write_text(f"Ann: Number {number}.\nBen: Fine.", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("## Label dialogues without summaries")[1]
    lines = re.findall(r"^dialogsum-sft (.*)$", section.split("\n## ")[0], re.MULTILINE)
    assert [line.split()[0] for line in lines] == ["label", "label", "sft"]
    lines[0] = lines[0].replace("https://example.org/v1", server.url)
    lines[2] = " ".join([lines[2], *training_args(tiny_folder, Path("runs/calls"), "--dataset_name=data/calls")])
    for line in lines:
        monkeypatch.setattr(sys, "argv", ["dialogsum-sft", *line.split()])
        command.main()
    assert (tmp_path / "runs" / "calls" / "adapter" / "adapter_model.safetensors").is_file()
