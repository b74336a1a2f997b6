"""recipes/compare.py with a judge behind a scripted endpoint."""

import json
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from conftest import Recipe
from dialogsum_sft.evaluation.runs import score_run
from dialogsum_sft.generation import openai_client
from fake_endpoint import KEY, Server, answer, serving
from forked_recipe import start

import pytest

NUMBER = 12
LONGER = {0, 1, 2, 4, 5, 8, 9, 11}  # where the second run's summary has 30 characters; in others 10, the first's 20


def own(number: int) -> str:
    return f"okapi{number:02} says {'o' * 6}."


def other(number: int) -> str:
    return own(7) if number == 7 else f"zebra{number:02}{'o' * 22}." if number in LONGER else f"zebra{number:02}oo."


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """The folders run-first and run-second, of twelve dialogues with equal summaries of the eighth."""
    folders = []
    for name, text in (("run-first", own), ("run-second", other)):
        rows = [
            {"id": f"d{n}", "dialogue": f"Ann: Number {n}.\nBen: Fine.", "references": ["Ann asks."]}
            | {"prediction": own(7) if n == 7 else text(n)}
            for n in range(NUMBER)
        ]
        score_run(name, tmp_path / name, rows).save()
        folders.append(tmp_path / name)
    return folders


def verdict(word: str) -> str:
    return json.dumps({"reason": "Because.", "verdict": word})


def judge(content: str, number: int) -> Any:
    """For the second run in 0, 1, 2 and 11, for the first in 3 and 10, for the first place in 4 and 5, a tie in 6."""
    at = int(re.findall(r"Number (\d+)\.", content)[0])
    is_turned = "zebra" in content and content.index("zebra") < content.index("okapi")
    second, first = ("A", "B") if is_turned else ("B", "A")
    text = verdict({3: first, 10: first, 4: "A", 5: "A", 6: "tie"}.get(at, second))
    if at == 8:  # no verdict in one order, none to be had in the other
        return (500, {"error": {"message": "down"}}, {}) if is_turned else (200, answer(text[:-1]), {})
    if at == 9:
        return 200, answer("I'm sorry, but I cannot judge this.") if is_turned else answer(text, "length"), {}
    if at == 10:  # reasoning before the object, and a fence
        return 200, answer(f"Let me see {{A}}.\n```json\n{text}\n```"), {}
    if at == 11 and number == 1:
        return (429, {"error": {"message": "slow down"}}, {}) if is_turned else (502, "bad gateway", {})
    return 200, answer(text), {}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(openai_client.random, "uniform", lambda low, high: 0.003)  # short waits
    with serving(monkeypatch) as running:
        running.script = judge
        yield running


@pytest.fixture
def compare(
    recipe: Recipe, server: Server, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., tuple[int, str, str]]:
    """Exit status, standard output and standard error; the folder is tmp_path/out."""
    monkeypatch.setenv("COLUMNS", "100")

    def call(*args: Any, endpoint: bool = True) -> tuple[int, str, str]:
        capsys.readouterr()
        options = [f"--judge_url={server.url}", "--judge_model=big"] if endpoint else []
        status = 0
        try:
            recipe("compare", *args, *options, "--resamples=300", f"--output_dir={tmp_path / 'out'}")
        except SystemExit as end:
            status = int(end.code or 0)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


def record_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "judge.json").read_text(encoding="utf-8"))


def lines_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "judge.jsonl").open(encoding="utf-8")]


def test_the_figures_are_those_counted_by_hand(compare: Any, server: Server, runs: list[Path], tmp_path: Path) -> None:
    status, out, err = compare(*runs)
    assert status == 0
    record, lines = record_of(tmp_path / "out"), lines_of(tmp_path / "out")
    (figures,) = record["pairwise"]
    counts = {name: figures[name] for name in ("dialogues", "wins", "ties", "losses", "failed")}
    assert counts == {"dialogues": 12, "wins": 4, "ties": 4, "losses": 2, "failed": 2}
    assert [figures[f"ties_{kind}"] for kind in ("said", "by_order", "equal")] == [1, 2, 1]
    assert figures["failures"] == {"bad JSON": 1, "HTTP 500 at each try": 1, "cut off": 1, "refusal": 1}
    assert figures["win_rate"] == pytest.approx(60)  # (4 + 4/2) of 10
    # Longer: 5 of 6; shorter: half of 3, so 1/6 and 5/6, whose logits cancel out; and the tie at equal length agrees.
    assert (figures["rate_when_longer"], figures["rate_when_shorter"]) == pytest.approx((500 / 6, 100 / 6))
    assert figures["length_controlled"] == pytest.approx(50)
    # Six decided dialogues have the first place once of two, two twice of two.
    assert (figures["first_shown"], figures["decided"]) == (pytest.approx(100 * 10 / 16), 16)
    assert figures["reversed"] == pytest.approx(100 * 2 / 9)

    assert len(lines) == 22
    assert lines[0]["order"] == ["run-first", "run-second"]
    assert (lines[0]["verdict"], lines[1]["verdict"], lines[0]["answer"]) == ("second", "first", verdict("B"))
    assert (lines[0]["prompt_tokens"], lines[0]["completion_tokens"], len(lines[0]["prompt"])) == (7, 3, 24)
    assert [line["failure"] for line in lines if line["id"] == "d9"] == ["cut off", "refusal"]
    assert record["tokens"] == {"requests": 22, "prompt_tokens": 147, "completion_tokens": 63, "uncounted": 1}
    assert record["judge"]["generation"] == {"max_tokens": 1024, "temperature": 0.0}
    assert record["prompts"]["pairwise"]["file"] == "pairwise.jinja"

    assert not any("run-" in content for content in server.contents)
    assert "22 questions to the judge; 22 requests: " in err
    assert "and at most 22,528 of answers" in err
    assert "the judge took 22 requests: 147 + 63 tokens (1 requests without a count)" in err
    assert re.search(r"run-second +win rate +60\.0 +\S+ to \S+ +10 *\n +at equal length +50\.0 ", out)
    assert re.search(r"where it is longer +83\.3 +6 *\n +where it is shorter +16\.7 +3 *\n", out)
    assert re.search(r"run-second +4 +2 +1 +2 +1 +2 +62\.5 +22\.2 *\n", out)
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "Judge big: win rate against run-first, 12 dialogues" in page
    files = [path.read_text(encoding="utf-8") for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert not any(KEY in text for text in files)


def test_only_what_may_have_passed_is_asked_again(
    compare: Any, server: Server, runs: list[Path], tmp_path: Path
) -> None:
    assert compare(*runs)[0] == 0
    server.contents.clear()
    server.script = lambda content, number: (200, answer(verdict("tie")), {})
    assert compare(*runs)[0] == 0
    assert len(server.contents) == 1  # the one with 500 at each try
    assert record_of(tmp_path / "out")["pairwise"][0]["failures"] == {"bad JSON": 1, "cut off": 1, "refusal": 1}
    server.contents.clear()
    assert compare(*runs, "--judge_max_new_tokens=99")[0] == 0  # another setting is another judge
    assert len(server.contents) == 22
    server.contents.clear()
    assert compare(*runs)[0] == 0
    assert server.contents == []


def test_max_requests_stops_and_the_same_command_goes_on(
    compare: Any, server: Server, runs: list[Path], tmp_path: Path
) -> None:
    server.script = lambda content, number: (200, answer(verdict("A")), {})
    status, _, err = compare(*runs, "--max_requests=5")
    assert (status, len(server.contents)) == (75, 5)
    assert "stopped after --max_requests 5; 17 requests are left: the same command goes on with them" in err
    assert not (tmp_path / "out" / "judge.json").exists()
    assert compare(*runs)[0] == 0
    assert len(server.contents) == len(set(server.contents)) == 22
    assert record_of(tmp_path / "out")["pairwise"][0]["first_shown"] == 100


@pytest.mark.slow
def test_killed_it_asks_only_what_is_missing(server: Server, runs: list[Path], tmp_path: Path) -> None:
    running: list[Any] = []

    def killing(content: str, number: int) -> Any:
        with server.lock:
            if len(running) == 1 and len(server.contents) == 9:
                running[0].send(signal.SIGKILL)
        return 200, answer(verdict("tie")), {}

    server.script = killing
    folder = tmp_path / "judged"
    args = [*runs, f"--judge_url={server.url}", "--judge_model=big", f"--output_dir={folder}", "--judge_concurrency=1"]
    statuses = []
    for _ in range(2):
        with server.lock:
            running.append(start(tmp_path, "compare", [*args, "--resamples=100"]))
        statuses.append(running[-1].wait())
    assert statuses == [-9, 0]
    assert len(set(server.contents)) == 22
    assert len(server.contents) <= 23  # the one that was under way when it was killed
    (state,) = (folder / ".judge").iterdir()
    _, *lines = (state / "predictions.partial.jsonl").read_text().splitlines()
    kept = [json.loads(line)["id"] for line in lines]
    assert len(kept) == len(set(kept)) == 22


def test_one_run_is_judged_sentence_by_sentence(
    compare: Any, server: Server, runs: list[Path], tmp_path: Path
) -> None:
    """Its first six summaries are faithful, one answer fails; all convey the reference, but the last."""

    def script(content: str, number: int) -> Any:
        if "<points>" in content:
            numbers = [] if "okapi11" in content else [1]
            return 200, answer(json.dumps({"points": [{"point": 1, "reason": "x", "sentences": numbers}]})), {}
        at = int(re.findall(r"Number (\d+)\.", content)[0])
        entries = [{"sentence": 1, "reason": "x", "faithful": at < 6}] if at != 8 else []
        return 200, answer(json.dumps({"sentences": entries})), {}

    server.script = script
    status, out, _ = compare(runs[0])
    assert status == 0
    (figures,) = record_of(tmp_path / "out")["single"]
    means = {name: (score["mean"], score["dialogues"]) for name, score in figures["scores"].items()}
    assert means["faithfulness"] == (pytest.approx(100 * 6 / 11), 11)
    assert means["completeness"] == means["conciseness"] == (pytest.approx(100 * 11 / 12), 12)
    assert figures["failures"] == {"no verdict": 1}
    assert re.search(r"run-first +faithfulness +54\.5 +\S+ to \S+ +11", out)
    server.contents.clear()
    assert compare(*runs, "--judge_mode=both", "--format=markdown")[0] == 0
    asked = ["<points>" in content for content in server.contents]
    assert (len(asked), sum(asked)) == (22 + 22, 11)  # those of the first run, and of equal summaries, are there


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--judge_url=http://localhost:1/v1"], "--judge_url: a judge needs both --judge_url and --judge_model"),
        (["--judge_model=m"], "--judge_model: a judge needs both"),
        (["--max_requests=3"], "--max_requests: a judge needs both"),
        (["--judge_url=localhost", "--judge_model=m"], "--judge_url localhost: give a URL such as"),
        (["--judge_url=http://u:p@h/v1", "--judge_model=m"], "--judge_url holds more than an address"),
        (["--judge_url=http://h/v1", "--judge_model=m", "--judge_concurrency=0"], "--judge_concurrency 0: give a"),
        (["--judge_url=http://h/v1", "--judge_model=m", "--max_requests=0"], "--max_requests 0: give a number"),
        (["--judge_url=http://h/v1", "--judge_model=m", "--judge_extra_body=[]"], "--judge_extra_body must be a JSON"),
        (["--judge_url=http://localhost:1/v1", "--judge_model=m"], "Is the server running there?"),
        (["--judge_url=http://h/v1", "--judge_model=m", "--judge_mode=best"], "invalid choice: 'best'"),
        (["--judge_url=http://h/v1", "--judge_model=http://h/v1"], "--judge_model http://h/v1: give the model's name"),
    ],
)
def test_bad_options_are_a_line(compare: Any, runs: list[Path], args: list[str], message: str) -> None:
    status, _, err = compare(*runs, *args, endpoint=False)
    faults = [line for line in err.splitlines() if line.startswith("error: ")]
    assert (status, len(faults)) == (2, 1)
    assert message in faults[0]


def test_one_run_cannot_be_judged_by_pairs_and_other_dialogues_are_refused_first(
    compare: Any, server: Server, runs: list[Path], tmp_path: Path
) -> None:
    status, _, err = compare(runs[0], "--judge_mode=pairwise")
    assert (status, "--judge_mode pairwise needs two or more runs" in err) == (2, True)
    rows = [{"id": "x", "dialogue": "Ann: Hi.\nBen: Hi.", "references": ["They greet."], "prediction": "They do."}]
    score_run("few", tmp_path / "few", rows).save()
    status, _, err = compare(runs[0], tmp_path / "few")
    assert (status, "cannot be compared with" in err, server.contents) == (2, True, [])
    (tmp_path / "out").write_text("a file")
    status, _, err = compare(*runs)
    assert (status, err) == (2, f"error: --output_dir {tmp_path / 'out'} is no folder: give another\n")


def test_messages_name_the_options_of_the_judge(compare: Any, server: Server, runs: list[Path]) -> None:
    server.script = lambda content, number: (404, {"error": {"message": "model big not found"}}, {})
    status, _, err = compare(*runs)
    assert status == 2
    assert "Is there a model big (--judge_model), and does --judge_url end in /v1?" in err
