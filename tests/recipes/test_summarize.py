"""recipes/summarize.py: what it reads and writes, in which order, continued after an interruption."""

import csv
import glob
import io
import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from conftest import ROOT, Recipe, fails
from dialogsum_sft import command
from fake_endpoint import Server, answer

import pytest

CHAT = "Mila: The boat leaves at six.\nOren: Then I set the alarm for five.\n"
WHATSAPP = (
    "[12.03.24, 10:14:00] Messages and calls are end-to-end encrypted.\n"
    "[12.03.24, 10:15:30] Mila: The boat leaves at six.\n[12.03.24, 10:16:02] Oren: Good.\n"
)
VTT = (
    "WEBVTT\n\n00:00:01.000 --> 00:00:03.000\n<v Mila>The boat leaves at six.\n\n"
    "00:00:04.000 --> 00:00:05.000\n<v Oren>Good.\n"
)


@pytest.fixture
def summarize(
    recipe: Recipe, server: Server, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[str, str]]:
    """What the recipe writes to standard output and standard error with the endpoint."""

    def call(*args: Any, stdin: bytes = b"") -> tuple[str, str]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        recipe("summarize", *args, "--engine=openai", f"--base_url={server.url}", "--served_model_name=m")
        captured = capsys.readouterr()
        return captured.out, captured.err

    return call


def refused(summarize: Any, capsys: pytest.CaptureFixture[str], *args: Any, stdin: bytes = b"") -> list[str]:
    """The lines of the error with which the recipe ends; status 2."""
    with pytest.raises(SystemExit) as end:
        summarize(*args, stdin=stdin)
    assert end.value.code == 2
    return [line[7:] for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_a_pipe_of_one_dialogue_gives_its_summary_alone(summarize: Any) -> None:
    out, err = summarize(stdin=CHAT.encode())
    assert out == "So: Oren: Then I set the alarm for five.\n"
    assert "summarising: 100%" in err


def test_exports_and_subtitles_are_read_as_dialogues(summarize: Any, server: Server, tmp_path: Path) -> None:
    names = [write(tmp_path / name, text) for name, text in (("a.txt", WHATSAPP), ("b.vtt", VTT), ("c", CHAT))]
    out, err = summarize(*names, "--output_format=jsonl")
    assert [json.loads(line)["summary"] for line in out.splitlines()] == [
        *("So: [12.03.24, 10:16:02] Oren: Good.", "So: Oren: Good.", "So: Oren: Then I set the alarm for five."),
    ]
    assert "1 lines that an app wrote are left out" in err
    assert "end-to-end" not in server.contents[0]


def test_what_a_long_dialogue_loses_is_said(summarize: Any, tiny_folder: Path, tmp_path: Path) -> None:
    chat = write(
        tmp_path / "long.txt", "".join(f"{'Ann' if n % 2 else 'Ben'}: This is turn {n}.\n" for n in range(60))
    )
    limits = [f"--model_name_or_path={tiny_folder}", "--max_length=200", "--max_new_tokens=20"]
    out, err = summarize(chat, *limits)
    assert out == "So: Ann: This is turn 59.\n"
    assert re.search(r"long.txt: too long for a prompt: \d+ of 60 turns, \d+ tokens are left out; --long map_red", err)


def test_folders_globs_and_files_keep_their_order(summarize: Any, tmp_path: Path) -> None:
    for name in ("b", "a"):
        write(tmp_path / "chats" / f"{name}.txt", f"Ann: I am {name}.\nBen: {name}!")
    write(tmp_path / "chats" / "photo.jpg", "x")
    last = write(tmp_path / "last.txt", "Ann: I am last.\nBen: last!")
    out, err = summarize(last, tmp_path / "chats", f"{tmp_path}/chats/b*")
    assert out == "So: Ben: last!\nSo: Ben: a!\nSo: Ben: b!\nSo: Ben: b!\n"
    assert "other files are left out: 1 .jpg" in err


def test_files_may_stand_after_options_too(summarize: Any, tmp_path: Path) -> None:
    first, second = (write(tmp_path / f"{name}.txt", f"Ann: I am {name}.\nBen: {name}!") for name in "ab")
    assert summarize(first, "--max_new_tokens", 9, second)[0] == "So: Ben: a!\nSo: Ben: b!\n"


ROWS = [{"ticket": 1, "transcript": CHAT}, {"ticket": 2, "transcript": [{"speaker": "Ann", "text": "Hi, Bo."}]}]


def test_tables_come_out_with_their_columns(summarize: Any, tmp_path: Path) -> None:
    table = write(tmp_path / "calls.jsonl", "".join(json.dumps(row) + "\n" for row in ROWS))
    lines = summarize(table, "--output_format", "jsonl")[0].splitlines()
    first, second = map(json.loads, lines)
    assert (first["ticket"], first["transcript"], second["ticket"]) == (1, CHAT, 2)
    assert second["summary"] == "So: Ann: Hi, Bo."
    assert (first["completion_tokens"], first["finish_reason"], first["dropped_turns"]) == (3, "stop", 0)
    rows = list(csv.DictReader(io.StringIO(summarize(table, "--output_format", "csv")[0])))
    assert [(row["ticket"], row["transcript"]) for row in rows] == [
        ("1", CHAT),
        ("2", json.dumps(ROWS[1]["transcript"])),
    ]
    assert [row["summary"] for row in rows] == [first["summary"], second["summary"]]
    markdown = summarize(table, "--output_format", "markdown", "--id_column", "ticket")[0]
    assert markdown == f"## 1\n\n{first['summary']}\n\n## 2\n\n{second['summary']}\n\n"


def test_a_summary_of_the_input_stays(summarize: Any) -> None:
    row = {"dialogue": CHAT, "summary": "A boat."}
    out = json.loads(summarize("--output_format=jsonl", stdin=json.dumps(row).encode())[0])
    assert (out["summary"], out["prediction"]) == ("A boat.", "So: Oren: Then I set the alarm for five.")


def test_a_file_of_turns_is_one_dialogue(summarize: Any, tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "When?"}, {"role": "assistant", "content": "At six."}]
    file = write(tmp_path / "chat.json", json.dumps(turns))
    table = write(tmp_path / "chat.csv", "speaker,text\nMila,When?\nOren,At six.\n")
    assert summarize(file, table)[0] == "So: assistant: At six.\nSo: Oren: At six.\n"


def test_a_dataset_and_its_split(summarize: Any) -> None:
    out, _ = summarize("--dataset_name", "sample", "--dataset_split", "test[:6]")
    assert len(out.splitlines()) == 6


def test_an_interrupted_run_makes_what_is_missing(summarize: Any, server: Server, tmp_path: Path) -> None:
    rows = "".join(json.dumps({"id": n, "dialogue": f"Ann: {n}.\nBen: Number {n}."}) + "\n" for n in range(200))
    table, output = write(tmp_path / "many.jsonl", rows), tmp_path / "summaries.jsonl"

    def interrupting(content: str, number: int) -> Any:
        if "Number 150." in content:
            return 401, {"error": {"message": "no"}}, {}
        return 200, answer(f"So: {content.splitlines()[-1]}"), {}

    own = server.script
    server.script = interrupting
    with pytest.raises(SystemExit):
        summarize(table, "--output_file", output)
    assert not output.exists()
    before = set(server.contents)
    server.contents.clear()
    server.script = own
    out, _ = summarize(table, "--output_file", output)
    assert out == ""
    made = [json.loads(line) for line in output.open(encoding="utf-8")]
    assert [row["id"] for row in made] == list(range(200))
    assert [row["summary"] for row in made] == [f"So: Ben: Number {n}." for n in range(200)]
    assert len(before) > 100
    assert len(server.contents) == len(set(server.contents)) < 100
    summarize(table, "--output_file", output)
    assert len(server.contents) < 100


def test_bad_files_are_named_and_the_others_summarised(
    summarize: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    good, empty = write(tmp_path / "a.txt", CHAT), write(tmp_path / "b.txt", " \n")
    (tmp_path / "c.txt").write_bytes(b"\x89PNG\x00\x01")
    (tmp_path / "d.txt").write_bytes("Zoë: Ja.".encode("latin-1"))
    output = tmp_path / "out.txt"
    lines = refused(summarize, capsys, good, empty, tmp_path / "c.txt", tmp_path / "d.txt", "--output_file", output)
    assert output.read_text() == "So: Oren: Then I set the alarm for five.\n"
    assert [line.split("/")[-1] for line in lines] == [
        *("b.txt: the text is empty", "c.txt: this is an image, not text"),
        "d.txt: this is no UTF-8 text (byte 2): save it as UTF-8",
    ]


@pytest.mark.parametrize(
    ("args", "stdin", "message"),
    [
        ((), b"", "standard input: the text is empty"),
        (("missing.txt",), b"", "no such file: missing.txt"),
        (("no*.txt",), b"", "no file matches no*.txt"),
        (("FOLDER",), b"", ".*the folder has no files with dialogues .*"),
        ((), b'{"text": "Ann: Hi."}', "standard input has no column dialogue: there are text; name the one .*"),
        (("--output_file=a.doc",), b"", "--output_file a.doc: end its name in .txt, .jsonl, .csv, .md, or give .*"),
        (("a.txt", "--dataset_name=sample"), b"", "give files or --dataset_name, not both"),
    ],
)
def test_what_cannot_be_read_is_one_line(
    summarize: Any,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    args: tuple[str, ...],
    stdin: bytes,
    message: str,
) -> None:
    names = [str(tmp_path) if name == "FOLDER" else name for name in args]
    (line,) = refused(summarize, capsys, *names, stdin=stdin)
    assert re.fullmatch(re.escape(message).replace(r"\.\*", ".*"), line)


def test_a_dialogue_that_is_refused_has_an_empty_summary(
    summarize: Any, server: Server, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    first, second = write(tmp_path / "a.txt", CHAT), write(tmp_path / "b.txt", "Ann: Hello.\nBen: Hi.")
    own = server.script
    filtered = 400, {"error": {"message": "against the policy"}}, {}
    server.script = lambda content, number: filtered if "alarm" in content else own(content, number)
    output = tmp_path / "out.jsonl"
    (line,) = refused(summarize, capsys, second, first, "--output_file", output)
    assert re.search("a.txt: no summary: .*against the policy", line)
    assert [json.loads(row)["summary"] for row in output.open()] == ["So: Ben: Hi.", ""]
    server.script = own  # what failed is tried again
    summarize(second, first, "--output_file", output)
    assert json.loads(output.read_text().splitlines()[1])["summary"] == "So: Oren: Then I set the alarm for five."


@pytest.mark.slow
def test_a_line_of_a_megabyte_is_shortened(recipe: Recipe, tiny_folder: Path, tmp_path: Path, capsys: Any) -> None:
    text = write(tmp_path / "long.txt", "Ann: " + "das Boot legt um sechs Uhr ab " * 35_000)
    assert text.stat().st_size > 1_000_000
    recipe("summarize", text, f"--model_name_or_path={tiny_folder}", "--max_new_tokens=4", "--output_format=jsonl")
    assert json.loads(capsys.readouterr().out)["dropped_tokens"] > 100_000


def test_without_a_model_or_with_an_adapter_alone(recipe: Recipe, capsys: Any, tmp_path: Path) -> None:
    assert "no model: give --model_name_or_path" in fails(recipe, capsys, "summarize", "a.txt")
    assert "adapter_config.json is missing" in fails(recipe, capsys, "summarize", f"--adapter_path={tmp_path}")


@pytest.fixture
def workplace(whole_run: Any, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with the adapter and the files that the README names; the base is that of run.json."""
    adapter = tmp_path / "runs" / "quickstart" / "adapter"
    shutil.copytree(Path(whole_run()) / "adapter", adapter)
    record = json.loads((adapter / "run.json").read_text(encoding="utf-8"))
    record["arguments"] |= {"model_name_or_path": str(tiny_folder), "eval_max_new_tokens": 4}
    record["cut_paths"] = []
    (adapter / "run.json").write_text(json.dumps(record), encoding="utf-8")
    write(tmp_path / "chats" / "a.txt", WHATSAPP)
    write(tmp_path / "chats" / "b.txt", VTT)
    write(tmp_path / "chat.txt", CHAT)
    write(tmp_path / "calls.csv", "id,transcript\n7,Ann: Hi. Ben: Hello.\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_commands_of_the_readme(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = re.findall(r"^(?:cat (\S+) \| )?dialogsum-sft (summarize .*)$", README, re.MULTILINE)
    follow = [line for _, line in lines if "--follow" in line]
    assert (len(lines), len(follow)) == (4, 1)  # test_summarize_follow.py runs that one
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    outputs = []
    for piped, line in lines[:3]:
        words = [name for word in line.split() for name in (sorted(glob.glob(word)) or [word])]
        monkeypatch.setattr(sys, "argv", ["dialogsum-sft", *words])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(Path(piped).read_bytes() if piped else b"")))
        command.main()
        outputs.append(capsys.readouterr().out)
    assert [len(output.splitlines()) for output in outputs[:2]] == [2, 1]
    made = [json.loads(line) for line in (workplace / "summaries.jsonl").open(encoding="utf-8")]
    assert [row.get("id") or row["file"] for row in made] == ["7", "chats/a.txt", "chats/b.txt"]


def test_the_python_of_the_readme(workplace: Path) -> None:
    (code,) = (block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "Summarizer" in block)
    names: dict[str, Any] = {}
    exec(code, names)
    assert isinstance(names["text"], str)
    assert names["records"][0].completion_tokens <= 4


def test_an_adapter_without_its_base_is_one_line(
    workplace: Path, recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    path = workplace / "runs" / "quickstart" / "adapter" / "run.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    record["arguments"]["model_name_or_path"] = "base"
    path.write_text(json.dumps(record | {"cut_paths": ["model_name_or_path"]}), encoding="utf-8")
    error = fails(recipe, capsys, "summarize", "chat.txt", "--adapter_path=runs/quickstart/adapter")
    assert "has only the last part of the model_name_or_path of the training (base): give --model_name_or_p" in error
