"""--long map_reduce and refine in eval.py and summarize.py: records, protocol, resuming, processes, a meeting."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from conftest import ROOT, Recipe, evaluation_args, fails, sample_dialogues
from dialogsum_sft import Summarizer
from dialogsum_sft.generation import transformers_engine
from fake_endpoint import Server, answer, serving

import pytest
from transformers import PreTrainedTokenizerFast


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with serving(monkeypatch) as running:
        yield running


def run_of(folder: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    rows = [json.loads(line) for line in (folder / "predictions.jsonl").open(encoding="utf-8")]
    return rows, json.loads((folder / "metrics.json").read_text(encoding="utf-8"))


def meeting(characters: int = 60_000) -> str:
    """The sample's test dialogues one after the other, as often as makes a meeting of this length."""
    text = "\n".join(row["dialogue"] for row in sample_dialogues())
    return f"{text}\n" * (characters // len(text) + 1)


def flags(model: Path, output_dir: Path, way: str, *more: str) -> list[str]:
    return evaluation_args(model, output_dir, "--max_length=300", f"--long={way}", "--num_examples=0", *more)


def test_another_model_in_the_same_journal_keeps_its_windows(
    server: Server, tiny_folder: Path, tmp_path: Path
) -> None:
    """The windows are made before the journal of whole dialogues is opened."""
    server.script = lambda content, number: (200, answer("Fine."), {})
    for model in ("first", "second"):
        options = {"model_name_or_path": str(tiny_folder), "max_length": 300, "max_new_tokens": 8}
        summarizer = Summarizer.from_pretrained(server.url, served_model_name=model, long="map_reduce", **options)
        rows = [summarizer.read(text) for text in (meeting(4000), "Ann: Hello.\nBen: Good morning.")]
        list(summarizer.stream(rows, journal=tmp_path))
    asked = len(server.contents)
    list(summarizer.stream(rows, journal=tmp_path))
    assert len(server.contents) == asked > 4


def test_an_evaluation_names_its_way_and_its_coverage(
    recipe: Recipe, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for way in ("shorten", "map_reduce", "refine"):
        recipe("eval", *flags(tiny_folder, tmp_path, way))
    printed = " ".join(capsys.readouterr().out.split())
    shorten, of_shorten = run_of(tmp_path / "eval-base")
    reduced, of_reduced = run_of(tmp_path / "eval-base-map_reduce")
    refined, of_refined = run_of(tmp_path / "eval-base-refine")
    long = [number for number, row in enumerate(shorten) if "windows" in row]
    assert 0 < len(long) < 3
    for number, (one, two, three) in enumerate(zip(shorten, reduced, refined, strict=True)):
        if number not in long:  # a dialogue that fits is summarised in one call, with any way
            assert one == two == three
            continue
        assert (one["windows"], one["calls"], one["tokens_seen"] < 1) == (1, 1, True)
        assert two["windows"] < two["calls"]
        assert two["windows"] > 1 < three["windows"] == three["calls"]
        for row in (two, three):
            assert (row["turns_seen"], row["tokens_seen"], row.get("dropped_turns")) == (1.0, 1.0, None)
    assert of_shorten["long"]["way"] == "shorten"
    assert of_shorten["long"]["turns_seen"] < 1
    assert "long" not in of_shorten["fingerprint"]
    assert of_shorten["data"]["shortened"] == len(long)
    windows, calls = (sum(reduced[number][name] for number in long) for name in ("windows", "calls"))
    assert of_reduced["long"] == {
        **{"way": "map_reduce", "overlap": 2.0, "dialogues": len(long), "windows": windows, "calls": calls},
        **{"turns_seen": 1.0, "tokens_seen": 1.0},
    }
    assert (of_reduced["fingerprint"]["long"], of_reduced["data"]["shortened"]) == ("map_reduce, overlap 2", 0)
    assert set(of_reduced["slices"]["shortened"]) == {"whole", "in windows"}
    assert f"{len(long)} dialogues are longer than a prompt (--long map_reduce): {windows} windows" in printed
    assert of_refined["fingerprint"]["long"] == "refine, overlap 2"
    folders = [str(tmp_path / name) for name in ("eval-base", "eval-base-map_reduce")]
    assert "long is 'map_reduce, overlap 2', not None" in fails(recipe, capsys, "compare", *folders)
    before = (tmp_path / "eval-base-map_reduce" / "predictions.jsonl").read_bytes()
    recipe("eval", *flags(tiny_folder, tmp_path, "map_reduce"))
    assert "all 3 summaries are there" in " ".join(capsys.readouterr().out.split())
    assert run_of(tmp_path / "eval-base-map_reduce")[1]["long"] == of_reduced["long"]
    assert (tmp_path / "eval-base-map_reduce" / "predictions.jsonl").read_bytes() == before


def test_another_word_in_a_later_window_is_another_evaluation(
    recipe: Recipe, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, text = tmp_path / "test.jsonl", meeting(2000)
    args = [*flags(tiny_folder, tmp_path, "refine", f"--test_file={data}"), "--dataset_name="]
    data.write_text(json.dumps({"dialogue": text, "summary": "They talk."}) + "\n", encoding="utf-8")
    recipe("eval", *args)
    recipe("eval", *args)
    assert "all 1 summaries are there" in " ".join(capsys.readouterr().out.split())
    other = text[:-400] + "zebra" + text[-400:]
    data.write_text(json.dumps({"dialogue": other, "summary": "They talk."}) + "\n", encoding="utf-8")
    assert "eval-base-refine holds another run (other dialogues or prompts)" in fails(recipe, capsys, "eval", *args)


def test_candidates_are_drawn_for_windows_too(recipe: Recipe, tiny_folder: Path, tmp_path: Path) -> None:
    recipe("eval", *flags(tiny_folder, tmp_path, "map_reduce", "--num_candidates=3"))
    rows, _ = run_of(tmp_path / "eval-base-map_reduce-mbr3")
    assert [len(row["candidates"]) for row in rows] == [3] * 3


def test_an_interrupted_evaluation_goes_on_between_windows(
    recipe: Recipe, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, made = transformers_engine.generate_batches, list[int]()

    def interrupted(model: Any, tokenizer: Any, prompts: list[list[int]], *args: Any, **kwargs: Any) -> Any:
        made.append(len(prompts))
        if len(made) == 2:  # after all windows
            raise KeyboardInterrupt
        yield from original(model, tokenizer, prompts, *args, **kwargs)

    monkeypatch.setattr(transformers_engine, "generate_batches", interrupted)
    with pytest.raises(SystemExit):  # 130, of Ctrl-C
        recipe("eval", *flags(tiny_folder, tmp_path / "cut", "map_reduce"))
    recipe("eval", *flags(tiny_folder, tmp_path / "cut", "map_reduce"))
    assert made[1] == made[2]  # the windows are there
    made.clear()
    made += [0, 0]
    recipe("eval", *flags(tiny_folder, tmp_path / "whole", "map_reduce"))
    (rows, metrics), (whole, _) = (run_of(tmp_path / name / "eval-base-map_reduce") for name in ("cut", "whole"))
    assert rows == whole
    assert metrics["engine"]["resumed"] == made[2]


@pytest.mark.slow
def test_two_processes_share_the_windows(recipe: Recipe, tiny_folder: Path, tmp_path: Path) -> None:
    accelerate = [Path(sys.executable).parent / "accelerate", "launch", "--config_file", "accelerate_configs/cpu.yaml"]
    command = [*accelerate, "--main_process_port", "0", "recipes/eval.py"]
    command += flags(tiny_folder, tmp_path / "two", "map_reduce")
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    recipe("eval", *flags(tiny_folder, tmp_path / "one", "map_reduce"))
    (two, metrics), (one, _) = (run_of(tmp_path / name / "eval-base-map_reduce") for name in ("two", "one"))
    assert two == one
    assert metrics["hardware"]["processes"] == 2


def summarize_args(model: Path | str, output_file: Path, *more: str) -> list[str]:
    return [f"--model_name_or_path={model}", f"--output_file={output_file}", "--max_new_tokens=8", *more]


def test_a_window_that_an_endpoint_refuses_is_tried_again(
    recipe: Recipe, server: Server, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "meeting.txt").write_text(meeting(4000), encoding="utf-8")
    args = [
        str(tmp_path / "meeting.txt"),
        "--concurrency=1",
        "--engine=openai",
        f"--base_url={server.url}",
        "--served_model_name=m",
    ]
    args += summarize_args(tiny_folder, tmp_path / "out.jsonl", "--long=map_reduce")
    assert "--long map_reduce makes windows by tokens: give --max_length" in fails(recipe, capsys, "summarize", *args)
    args.append("--max_length=400")
    refused = (400, {"error": {"message": "against the policy"}}, {})
    server.script = lambda content, number: (
        refused if number == 1 and len(server.contents) == 3 else (200, answer("A."), {})
    )
    assert "no summary: " in fails(recipe, capsys, "summarize", *args)
    first = json.loads((tmp_path / "out.jsonl").read_text())
    assert (first["summary"], first["turns_seen"]) == ("", 0.0)
    sent = len(server.contents)
    recipe("summarize", *args)
    assert len(server.contents) == sent + 2  # the refused one, and the summary of all
    made = json.loads((tmp_path / "out.jsonl").read_text())
    assert made["summary"] == "A."
    assert (made["calls"], made["turns_seen"], made["dropped_turns"]) == (made["windows"] + 1, 1.0, 0)
    assert sent == made["windows"]


def test_the_summarizer_takes_the_way(tiny_folder: Path) -> None:
    summarizer = Summarizer.from_pretrained(tiny_folder, long="refine", max_length=400, max_new_tokens=8)
    short, long = summarizer.summarize(["Mila: The boat leaves at six.\nOren: Good.", meeting(3000)], records=True)
    assert (short.windows, short.calls, short.turns_seen) == (1, 1, 1.0)
    assert (long.windows > 3, long.calls == long.windows, long.turns_seen) == (True, True, 1.0)


@pytest.mark.slow
def test_a_meeting_of_60000_characters_both_ways(
    recipe: Recipe, tiny_folder: Path, tmp_path: Path, chatml_tokenizer: PreTrainedTokenizerFast
) -> None:
    """Killed in the middle, too: then only the missing windows are made."""
    text = meeting()
    (tmp_path / "meeting.txt").write_text(text, encoding="utf-8")
    records = {}
    for way in ("shorten", "map_reduce"):
        args = summarize_args(tiny_folder, tmp_path / f"{way}.jsonl", f"--long={way}", "--max_length=2000")
        args.append("--max_batch_tokens=4000")
        if way == "map_reduce":
            made = killed(["recipes/summarize.py", str(tmp_path / "meeting.txt"), *args], tmp_path)
        recipe("summarize", tmp_path / "meeting.txt", *args)
        records[way] = json.loads((tmp_path / f"{way}.jsonl").read_text(encoding="utf-8"))
    shorten, reduced = records["shorten"], records["map_reduce"]
    assert (shorten["calls"], shorten["turns_seen"] < 0.2, shorten["tokens_seen"] < 0.2) == (1, True, True)
    assert (reduced["turns_seen"], reduced["tokens_seen"], reduced["dropped_turns"]) == (1.0, 1.0, 0)
    assert reduced["windows"] >= len(chatml_tokenizer(text)["input_ids"]) / 2000
    journal = (tmp_path / ".map_reduce.jsonl.journal" / "predictions.partial.1.jsonl").read_text(encoding="utf-8")
    ids = [json.loads(line)["id"] for line in journal.splitlines()[1:]]
    assert 0 < made < len(ids)
    assert len(ids) == len(set(ids)) <= reduced["calls"]  # the meeting repeats itself, and its windows may


def killed(command: list[str], folder: Path) -> int:
    """Kill a run when it has made two summaries of windows; returns how many are in its journal."""
    journal = folder / ".map_reduce.jsonl.journal" / "predictions.partial.1.jsonl"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen([sys.executable, *command], env=environment, cwd=ROOT, stderr=subprocess.DEVNULL) as process:
        while not journal.is_file() or journal.read_bytes().count(b"\n") < 3:
            assert process.poll() is None
            time.sleep(0.02)
        process.kill()
    return journal.read_bytes().count(b"\n") - 1
