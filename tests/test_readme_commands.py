"""Every command of every README is run here, or by the test that is named here, or says why no test runs it."""

import csv
import json
import re
import shlex
import sys
from functools import cache
from pathlib import Path
from typing import Any

from conftest import ROOT, SAMPLE, recipe_caller, recipe_module
from dialogsum_sft import cli, command

import pytest

READMES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("[a-z]*/README.md"))]
READMES += [ROOT / "recipes" / "configs" / "README.md", ROOT / "tests" / "data" / "README.md"]

# Commands that this file does not run: what begins so, and the test that runs it or the reason why none does.
ELSEWHERE = {
    r"(cat \S+ \| )?dialogsum-sft summarize": "tests/recipes/test_summarize.py; --follow: test_summarize_follow.py",
    r"dialogsum-sft label": "tests/recipes/test_label.py, with an endpoint of its own",
    r"dialogsum-sft sft .*--dataset_name data/calls": "tests/recipes/test_label.py, after the two before it",
    r"dialogsum-sft (merge|eval|compare) .*merged": "tests/recipes/test_serving.py",
    r"dialogsum-sft merge .*--gguf": "tests/recipes/test_serving.py",
    r"transformers serve": "tests/recipes/test_serving.py",
    r"dialogsum-sft demo": "serves until Ctrl-C: tests/recipes/test_demo.py and tests/demo/",
    r"dialogsum-sft --completion": "tests/test_completion.py, in a real bash",
    r"python recipes/compare.py .*--judge_url": "tests/recipes/test_compare_judge.py, with an endpoint of its own",
    r"python recipes/sweep.py": "tests/recipes/test_sweep.py, with fewer and shorter trials",
    r"python recipes/benchmark.py": "tests/recipes/test_benchmark.py, with fewer steps",
    r"python recipes/merge.py": "tests/recipes/test_merge.py",
    r"python recipes/(sft|eval).py .*--accelerate_config fsdp2": "tests/recipes/test_sharded.py, on two CPU ranks",
    r"accelerate launch .*fsdp2": "tests/recipes/test_sharded.py, on two CPU ranks",
    r"(accelerate launch|dialogsum-sft sft|python recipes/(eval|inspect_data).py) .*(qwen3_8b|llama3_2_3b|CONFIG)": (
        "needs the hub: tests/recipes/test_families.py trains a tiny model of the class"
    ),
    r"python tests/cost_table.py": "tests/test_cost_table.py",
    r"python tests/long_dialogues_table.py": "takes minutes: tests/recipes/test_long_meetings.py runs each --long",
    r"python tests/report_picture.py": "tests/report/test_report_picture.py",
    r"make quickstart": "its two commands are run here, from the Makefile",
    r"make (test|lint)|(OMP_NUM_THREADS=1 )?(\.venv/bin/python -m )?pytest|\.venv/bin/": "what CI runs, or some of it",
    r"make test-vllm|vllm serve": "needs vLLM, which no CI has: make test-vllm runs tests/recipes/test_vllm.py",
    r"llama-server|ollama": "no package has it: tests/publish/test_llama_cpp.py and test_modelfile.py",
    r"(uv )?pip |pipx |uvx |apt-get ": "installs what make test has installed; tests/test_command.py: the wheel",
    r"raw=|curl |score=|\$score ": "needs the network; tests/recipes/test_published_outputs.py: such files",
    r"hf auth login": "needs an account of the hub",
    r"mkdir ": "no program of ours",
}
VERB = re.compile(r"(dialogsum-sft [a-z]+|(python|accelerate launch .*) recipes/\w+\.py)( .*|$)")
PROGRAM = re.compile(
    r"(dialogsum-sft|accelerate launch|transformers serve|vllm serve|ollama|llama-server) \S"
    r"|(make|pytest|pip|uv|pipx|uvx) \S"
    r"|(python|\S+/python) (recipes|tests)/|apt-get |hf auth "
)
# Shorter than they stand there, with a tiny model in place of theirs.
SHORT = {
    "sft": ["--max_steps=1", "--max_length=512", "--per_device_train_batch_size=2", "--max_train_samples=4"],
    "eval": ["--dtype=float32", "--max_eval_samples=3", "--max_new_tokens=4"],
    "inspect_data": [],
    "compare": [],
}
SHORT["sft"] += ["--gradient_accumulation_steps=1", "--eval_strategy=no", "--save_strategy=no", "--bf16=false"]


@cache
def commands() -> list[str]:
    """The lines of code blocks without a language, and the commands within the text, without comments."""
    found: list[str] = []
    for path in READMES:
        parts = re.split(r"^```(\w*)\n(.*?)^```$", path.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
        for text, language, block in zip(parts[::3], [*parts[1::3], ""], [*parts[2::3], ""], strict=True):
            spans = (" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text))
            found += [span for span in spans if PROGRAM.match(span) and "..." not in span]
            found += [line for line in block.splitlines() if line.strip()] if language == "" else []
    lines = (re.split(r"\s+#\s|\s*&$|\s+>\s", line)[0].strip() for line in found)
    return list(dict.fromkeys(lines))


def reason(line: str) -> str | None:
    return next((why for begin, why in ELSEWHERE.items() if re.match(begin, line)), None)


def recipe_and_words(line: str) -> tuple[str, list[str]]:
    """The recipe that a command starts, and its options."""
    words = shlex.split(line.split(" | ")[-1])
    if words[0] == "dialogsum-sft":
        return command.VERBS[words[1]][0], words[2:]
    at = next(n for n, word in enumerate(words) if word.startswith("recipes/"))
    return Path(words[at]).stem, words[at + 1 :]


def parsed_lines() -> list[str]:
    return [line for line in commands() if VERB.fullmatch(line.split(" | ")[-1])]


def run_lines() -> list[str]:
    """What this file runs: the Makefile's quickstart, then the commands for which no other test is named."""
    makefile = re.findall(r"^\t\$\(BIN\)/(python recipes/.*)$", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    assert len(makefile) == 2
    return makefile + [line for line in commands() if reason(line) is None and line not in makefile]


@pytest.mark.parametrize("line", parsed_lines())
def test_every_command_of_a_recipe_parses(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name, rest = recipe_and_words(line)
    if "--adapter_path" in rest:
        adapter = tmp_path / rest[rest.index("--adapter_path") + 1]
        adapter.mkdir(parents=True)
        (adapter / "adapter_config.json").write_text("{}")
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    module = recipe_module(name)
    parsed: list[object] = []

    def parse_alone(*args: Any, **options: Any) -> None:
        parsed.extend(cli.parse(*args, **options))
        raise StopIteration

    monkeypatch.setattr(module, "parse", parse_alone)
    rest = ["quickstart" if word == "CONFIG" else word for word in rest]
    if "--accelerate_config" in rest and name in ("sft", "eval"):  # read by the launcher, with the number of processes
        at = rest.index("--accelerate_config")
        assert (ROOT / "accelerate_configs" / f"{rest[at + 1]}.yaml").is_file()
        assert rest[at + 2] == "--num_processes"
        del rest[at : at + 4]
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *rest])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StopIteration):
        module.main()
    assert parsed


def test_every_command_is_run_or_has_a_reason() -> None:
    assert len(commands()) > 40
    unknown = [line for line in run_lines() if not VERB.fullmatch(line) or recipe_and_words(line)[0] not in SHORT]
    assert unknown == []
    unused = [begin for begin in ELSEWHERE if not any(re.match(begin, line) for line in commands())]
    assert unused == []


def test_the_tests_that_are_named_exist() -> None:
    for why in ELSEWHERE.values():
        for name in re.findall(r"tests/\S+\.py", why):
            assert (ROOT / name).is_file(), name


def test_the_readme_shows_the_console_script() -> None:
    verbs = {line.split()[1] for line in commands() if line.startswith("dialogsum-sft ")}
    assert {"sft", "eval", "summarize", "label", "merge", "compare", "demo"} <= verbs


@pytest.fixture(scope="module")
def workplace(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the READMEs name, in which their commands are run one after the other."""
    folder = tmp_path_factory.mktemp("workplace")
    data = folder / "data" / "my_dialogues"
    data.mkdir(parents=True)
    for split in ("train", "validation", "test"):
        rows = [json.loads(line) for line in (SAMPLE / f"{split}.jsonl").open(encoding="utf-8")][:6]
        with (data / f"{split}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["ticket", "transcript", "note"])
            writer.writerows([row["id"], row["dialogue"], row["summary"]] for row in rows)
    (folder / "bart.txt").write_text("They talk about the boat.\n" * 24, encoding="utf-8")
    (folder / "recipes").symlink_to(ROOT / "recipes")
    return folder


@pytest.mark.parametrize("line", run_lines())
def test_the_command_runs(
    line: str, workplace: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the order of the READMEs, each after those before it; alone it lacks their files."""
    monkeypatch.chdir(workplace)
    name, words = recipe_and_words(line)
    instead = {"knkarthick/dialogsum": "sample", "embedded": str(tiny_folder)}
    words = [instead.get(word, word) for word in words]
    more = list(SHORT[name])
    if name in ("sft", "inspect_data"):
        more.append(f"--model_name_or_path={tiny_folder}")
    if "--predictions_file" in words:
        more = []
    recipe_caller(monkeypatch)(name, *words, *more)
    assert capsys.readouterr().out
