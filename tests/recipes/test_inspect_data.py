"""The figures of recipes/inspect_data.py equal those computed here from the files; its notes on odd data."""

import contextlib
import io
import json
import re
import shutil
from types import SimpleNamespace

from conftest import SAMPLE, recipe_caller, recipe_module
from dialogsum_sft.data import prompts
from dialogsum_sft.report import dataset_tables
from dialogsum_sft.training import memory

import numpy as np
import pytest

GOOD = {"id": "a", "dialogue": "#Person1#: Hi.\n#Person2#: Bye.", "summary": "They greet."}


inspect_data = recipe_module("inspect_data")


def flags(model, *more):
    options = {"model_name_or_path": model, "dataset_name": "sample", "use_peft": True, "output_dir": "unused"}
    options |= {"lora_target_modules": "all-linear", "dataset_test_split": "validation"}
    return [*(f"--{name}={value}" for name, value in options.items()), *more]


@pytest.fixture(scope="module")
def shown_sample(tiny_folder):
    """What the recipe prints of the sample."""
    output = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(output):
        patch.setenv("COLUMNS", "100")
        recipe_caller(patch)("inspect_data", *flags(tiny_folder))
    return output.getvalue()


@pytest.fixture
def inspect(recipe, monkeypatch, capsys, tiny_folder):
    """Run the recipe in this process, on a model folder without weights, and return what it printed."""
    monkeypatch.setenv("COLUMNS", "100")

    def call(*args, model=tiny_folder):
        recipe("inspect_data", *flags(model, *args))
        return capsys.readouterr().out

    return call


def write_rows(path, *rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return f"--dataset_name={path}"


def read_sample(split):
    return [json.loads(line) for line in (SAMPLE / f"{split}.jsonl").open(encoding="utf-8")]


def figures(shown, label):
    """The numbers in a line of a table, without those in brackets."""
    line = next(line for line in shown.splitlines() if line.strip().startswith(label))
    return [int(n) for n in re.findall(r"(?<![\w.(#])\d+(?![\w.%#])", re.sub(r"\(.*?\)", "", line.replace(label, "")))]


def lengths(tokenizer, rows):
    """Prompt and whole of each row, in tokens, as prompts.encode makes them."""
    encoded = [prompts.encode(tokenizer, row["dialogue"], row["summary"], {tokenizer.eos_token_id}) for row in rows]
    return [row["prompt_tokens"] for row in encoded], [len(row["input_ids"]) for row in encoded]


def at(values, percent):
    """The smallest value that so many percent of the values do not exceed."""
    return next(v for v in sorted(values) if sum(w <= v for w in values) >= len(values) * percent / 100)


def test_percentiles():
    assert dataset_tables.percentiles(np.array([30, 10, 20, 40])) == [10, 20, 40, 40, 40]
    assert dataset_tables.percentiles(np.arange(1, 201)) == [1, 100, 180, 198, 200]
    assert dataset_tables.percentiles(np.array([7])) == [7, 7, 7, 7, 7]


def test_figures_of_the_sample(shown_sample, chatml_tokenizer):
    shown = shown_sample
    train, validation = read_sample("train"), read_sample("validation")
    assert figures(shown, "read") == [156, 24, 156, 24] == 2 * [len(train), len(validation)]
    assert figures(shown, "dialogues ") == figures(shown, "references") == [156, 24]

    for split, rows in (("training", train), ("evaluation", validation)):
        prompt, total = lengths(chatml_tokenizer, rows)
        summary = [whole - part for part, whole in zip(prompt, total, strict=True)]
        block = shown[shown.index(f"{split}: prompt") :]
        for label, values in ((f"{split}: prompt", prompt), ("summary and stop", summary), ("both", total)):
            assert figures(block, label) == [at(values, p) for p in (0, 50, 90, 99, 100)]
        block = shown[shown.index("rows longer than max_length") :]
        limits = (256, 512, 768, 1024, 2048)  # the model can hold 2048
        assert figures(block, split) == [sum(n > limit for n in total) for limit in limits]

    bars = re.findall(r"(\d+) to (\d+) +█* (\d+)", shown)
    prompt, total = lengths(chatml_tokenizer, train)
    assert [int(n) for *_, n in bars] == [sum(int(a) <= n <= int(b) for n in total) for a, b, _ in bars]
    assert sum(int(n) for *_, n in bars) == 156
    assert len(bars) <= 12

    tagged = [sum("#Person" in row["summary"] for row in rows) for rows in (train, validation)]
    assert figures(shown, "summaries with a #PersonN# tag") == tagged
    names = [[set(re.findall(r"^#Person\d#", row["dialogue"], re.M)) for row in rows] for rows in (train, validation)]
    assert figures(shown, "dialogues with 2 speakers") == [sum(len(n) == 2 for n in split) for split in names]

    longest = max(whole - part for part, whole in zip(prompt, total, strict=True))
    assert figures(shown, "max_length:") == [-(-max(total) // 64) * 64, max(total)]
    assert figures(shown, "max_new_tokens:") == [max(48, -(-12 * longest // 160) * 16), longest]
    assert re.search(r"rouge_tokenizer: +default", shown)


def test_an_example_shows_what_is_supervised(inspect):
    shown = inspect("--num_examples=2")
    row, after = shown[shown.index("row train_0,") :].split("row train_1,")
    assert "<|im_start|>user\nSummarize the following dialogue in one or two sentences." in row
    assert "#Person2#: Which size have you got on there?" in row
    summary = " ".join(row[row.index("⟦#Person1# finds") : row.index("⟧\n")].split())
    assert summary.endswith("would not arrive before Saturday.<|im_end|>")
    assert "row train_2," not in after


def test_a_control_token_in_the_text_is_marked(inspect, tmp_path):
    planted = GOOD | {"dialogue": "#Person1#: <|im_end|> Hi.\n#Person2#: Bye."}
    shown = inspect(write_rows(tmp_path / "rows.jsonl", planted))
    assert "#Person1#: ‹<|im_end|>› Hi." in shown
    assert shown.count("‹") == 1
    assert figures(shown, "texts with control tokens, kept as text") == [1]


def test_too_long_rows_are_counted(inspect, chatml_tokenizer):
    shown = inspect("--max_length=300")
    _, total = lengths(chatml_tokenizer, read_sample("train"))
    block = shown[shown.index("rows longer than max_length") :]
    assert "300*" in block
    assert figures(block, "training")[1] == sum(n > 300 for n in total) > 0


def test_dropped_rows_are_shown_with_the_reason(inspect, tmp_path):
    rows = [GOOD, *(GOOD | {"id": name, "dialogue": f"#Person1#: No {name}.", "summary": ""} for name in "bc")]
    shown = inspect(write_rows(tmp_path / "rows.jsonl", *rows))
    lines = shown.splitlines()
    start = lines.index("  dropped of training: row 2 (b): summary is empty")
    assert lines[start + 1 : start + 3] == [
        "  dropped of training: row 3 (c): summary is empty",
        "  more than 1% are lost: training needs --allow_dropped_rows true",
    ]
    assert "more than 1%" not in inspect(write_rows(tmp_path / "rows.jsonl", *rows), "--allow_dropped_rows=yes")


def test_memory_of_the_longest_batch(inspect, chatml_tokenizer):
    """The configured batch of 8, the largest that fits, and the cards that it fits."""
    shown = inspect("--per_device_train_batch_size=8", "--gpu_memory_gib=100")
    prompt, total = lengths(chatml_tokenizer, read_sample("train"))
    header = next(line for line in shown.splitlines() if "GiB of a step" in line)
    assert f"8 x {max(total)}, GPU" in header
    assert f"64 x {max(total)}, GPU" in header
    assert figures(shown, "per_device_train_batch_size:")[0] == 64
    block = shown[shown.index("GiB of a step") : shown.index("suggested")]
    lines = [line.split() for line in block.splitlines() if "." in line]
    table = {name: [float(number) for number in numbers] for name, *numbers in lines}
    parts = [name for name in table if name != "total"]
    assert parts == ["weights", "adapter", "gradients", "optimizer", "activations", "logits", "overhead"]
    assert [sum(table[name][0] for name in parts)] == pytest.approx(table["total"][:1], abs=0.04)
    assert all(re.search(rf"fits {card} GB +yes", shown) for card in (8, 16, 24, 40, 80))


def test_a_gpu_too_small_for_one_row(inspect):
    shown = inspect("--gpu_memory_gib=0.5")
    assert re.search(r"per_device_train_batch_size: +- +not one row fits 0.5 GiB: load_in_4bit", shown)


def test_suggested_lengths_are_rounded_up():
    """To multiples of 64 and, with a fifth to spare, of 16."""
    training = SimpleNamespace(total=np.array([100, 193]), prompt=np.array([10, 112]))
    table = inspect_data.suggestions(training, 4, 24.0, "default", 8192)
    assert [row[1] for row in table.rows] == ["256", "4", "112", "default"]  # 1.2 x 90 = 108
    training = SimpleNamespace(total=np.array([128]), prompt=np.array([100]))
    table = inspect_data.suggestions(training, None, 24.0, "unicode", 8192)
    assert [row[1] for row in table.rows] == ["128", "48", "unicode"]
    table = inspect_data.suggestions(training, None, 24.0, "unicode", 120)
    assert [row[1] for row in table.rows] == ["120", "20", "unicode"]


def test_memory_verdicts():
    estimate = memory.MemoryEstimate(80, 0, 0, 0, 0, 0, 15)
    assert [inspect_data.verdict(estimate, size) for size in (94, 95, 106)] == [
        ("no", "red"),
        ("barely", "yellow"),
        ("yes", "green"),
    ]


def test_no_weights_are_needed(inspect, tiny_folder, tmp_path):
    folder = shutil.copytree(tiny_folder, tmp_path / "tiny", ignore=shutil.ignore_patterns("*.safetensors"))
    assert "suggested" in inspect("--max_train_samples=4", "--max_eval_samples=4", model=folder)


def test_another_script_suggests_another_rouge_tokenizer(inspect, tmp_path):
    chinese = {"dialogue": "王芳: 你好。\n李雷: 再见。", "summary": "王芳和李雷互相问好。"}
    shown = inspect(write_rows(tmp_path / "rows.jsonl", chinese))
    assert "100.0%" in next(line for line in shown.splitlines() if "outside a-z" in line)
    assert re.search(r"rouge_tokenizer: +unicode", shown)


def test_a_file_without_splits_is_shown_once(inspect, tmp_path):
    shown = inspect(write_rows(tmp_path / "rows.jsonl", GOOD))
    assert "the evaluation split has the same rows as the training split; shown once" in shown
    assert "would be refused: hold dialogues out by --validation_share" in " ".join(shown.split())
    assert "evaluation: prompt" not in shown


def test_the_speakers_found_most_often_are_listed(inspect, tmp_path):
    """Ten of them, so that a speaker who is missing in all dialogues is seen at once."""
    names = [(f"Guest {number}", "Host", "Anna") for number in range(12)]
    rows = [{"dialogue": "\n".join(f"{name}: Hi." for name in own), "summary": "Hi."} for own in names]
    rows.append({"dialogue": "Host: Hi.\nBen: No.", "summary": "No."})
    block = inspect(write_rows(tmp_path / "rows.jsonl", *rows)).split("speakers found most often")[1]
    lines = [line.split() for line in block.splitlines() if "%" in line][:10]
    assert lines[:2] == [["Host", "13", "(100.0%)"], ["Anna", "12", "(92.3%)"]]
    assert len(lines) == 10
    assert "and 5 others" in block


def test_dialogues_in_both_splits(inspect, tmp_path):
    """They are reported without evaluation while training, and left out of training with it."""
    other = GOOD | {"id": "b", "dialogue": "#Person1#: No."}
    write_rows(tmp_path / "train.jsonl", GOOD, other)
    write_rows(tmp_path / "validation.jsonl", other)
    assert "dialogues in both splits: 1" in inspect(f"--dataset_name={tmp_path}")
    shown = inspect(f"--dataset_name={tmp_path}", "--eval_strategy=epoch")
    assert "in both splits" not in shown
    assert figures(shown, "kept") == [1, 1, 1, 1]


def test_without_an_evaluation_split(inspect, capsys, tmp_path):
    write_rows(tmp_path / "train.jsonl", GOOD)
    shown = inspect(f"--dataset_name={tmp_path}")
    assert "no evaluation split" in shown
    assert "training: prompt" in shown
    with pytest.raises(SystemExit) as exit_info:
        inspect(f"--dataset_name={tmp_path}", "--eval_strategy=epoch")
    assert exit_info.value.code == 2
    assert "no split 'validation'" in capsys.readouterr().err


def test_html_is_self_contained_and_escaped(inspect, tmp_path):
    planted = GOOD | {"dialogue": "#Person1#: <script>alert(1)</script> [bold]Hi.[/bold]\n#Person2#: Bye."}
    page = tmp_path / "pages" / "x.html"
    shown = inspect(write_rows(tmp_path / "rows.jsonl", planted), f"--output={page}")
    assert f"saved {page}" in shown.replace("\n", "")
    html = page.read_text(encoding="utf-8")
    assert "&lt;script&gt;alert(1)&lt;/script&gt; [bold]Hi.[/bold]" in html
    assert "<script" not in html
    assert not re.search(r"https?://|<link|@import|src=|href=", html)
    assert '<span style="color: #008000; text-decoration-color: #008000; font-weight: bold">⟦They greet.' in html
    text = re.sub(r"<style>.*?</style>|<[^>]+>", "", html, flags=re.DOTALL)
    assert "per_device_train_batch_size:" in text
    assert "⟦They greet." in text


def test_output_fits_a_hundred_columns(shown_sample):
    assert max(map(len, shown_sample.splitlines())) <= 100


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--config=nowhere.yaml"], "config file not found: nowhere.yaml"),
        (["--gpu_memory=24"], "unknown option in the command line: gpu_memory; did you mean gpu_memory_gib"),
        (["--output=page.txt"], "--output page.txt: give the name of an .html file"),
        (["--dataset_name=nowhere.jsonl"], "dataset file not found: nowhere.jsonl"),
        (["--dataset_train_split=all"], "no split 'all' in sample"),
        (["--processes=0"], "--processes 0: give 1 or more"),
        (
            ["--accelerate_config=fsdp3"],
            "--accelerate_config fsdp3: there is no such file, and in accelerate_configs/",
        ),
        (["--model_name_or_path=./nowhere"], "cannot load the tokenizer of './nowhere'"),
    ],
)
def test_inspect_bad_input(inspect, capsys, more, message):
    with pytest.raises(SystemExit) as exit_info:
        inspect(*more)
    assert exit_info.value.code == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1
    assert errors[0].startswith("error: ")
    assert message in errors[0]


def test_memory_of_sharded_processes(inspect):
    few = ("--max_train_samples=4", "--max_eval_samples=4")
    alone, shared = inspect(*few), inspect(*few, "--accelerate_config=fsdp2", "--processes=4")
    assert "of each of 4 processes, FSDP; calculated" in shared
    assert re.search(r"^ *gathered +\d", shared, re.M)
    assert "CPU" not in shared.split("GiB of a step")[1]  # FSDP needs GPUs
    assert "processes" not in alone.split("GiB of a step")[1]
    assert "gathered" not in alone
    assert "of each of 8 processes, with whole copies; calculated" in inspect(*few, "--processes=8")
