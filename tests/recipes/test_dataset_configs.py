"""The configs of published datasets, on small files of exactly their shape, from the rows to an evaluation."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from conftest import ROOT, Recipe
from dialogsum_sft.arguments import DataArguments, TrainArguments
from dialogsum_sft.cli import parse
from dialogsum_sft.data.encoding import build_prompts
from dialogsum_sft.data.prompts import PromptSettings
from dialogsum_sft.data.training_data import load_evaluation, load_training_data

import pytest
import yaml
from transformers import PreTrainedTokenizerFast
from trl import ScriptArguments

CONFIGS = ROOT / "recipes" / "configs"


def write_lines(path: Path, *rows: Any) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def mts_dialog(folder: Path) -> None:
    for name in ("TrainingSet", "ValidationSet", "TestSet-1-MEDIQA-Chat-2023", "TestSet-2-MEDIQA-Sum-2023"):
        with (folder / f"MTS-Dialog-{name}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["ID", "section_header", "section_text", "dialogue"])
            writer.writerow([0, "GENHX", f"Knee pain ({name}).", f"Doctor: In the {name}?\r\nPatient: Knee."])
            writer.writerow([1, "MEDICATIONS", "None.", f"Doctor: In the {name}?\r\nPatient: Knee."])


def aci_bench(folder: Path) -> None:
    for name in ("train_full", "valid", "clinicalnlp_taskB_test1", "train_subjective"):
        row = {
            "src": f"[doctor] hi , {name} ?\n[patient] sore .",
            "tgt": "CHIEF COMPLAINT\n\nKnee pain.",
            "file": name,
        }
        (folder / f"{name}.json").write_text(json.dumps({"data": [row]}))


def qmsum(folder: Path) -> None:
    for name in ("train", "val", "test"):
        general = [{"query": "Summarize the meeting.", "answer": f"A lamp ({name})."}]
        special = [{"query": "What did Ola say?", "answer": "Bright.", "relevant_text_span": [["0", "1"]]}]
        turns = [{"speaker": "Ola", "content": f"{name} ."}, {"speaker": "Project Manager", "content": "Okay ."}]
        lists = {"general_query_list": general, "specific_query_list": special, "meeting_transcripts": turns}
        write_lines(folder / f"{name}.jsonl", {"topic_list": []} | lists)


def tweetsumm(folder: Path) -> None:
    for name in ("train", "val", "test"):
        log = [{"turn id": 1, "user utterance": f"Dark ({name})", "system response": "Which?", "dialog history": ""}]
        info = {"summaries": {"extractive_summaries": [], "abstractive_summaries": [["A.", "B."], ["C."]]}}
        row = {"original dialog id": name, "original dialog info": info, "log": log, "prompt": []}
        other = row | {"log": [log[0] | {"user utterance": f"Hot ({name})"}], "original dialog id": f"{name}-2"}
        (folder / name).mkdir()
        (folder / name / "dialogues_1.json").write_text(json.dumps({f"T--{name}--1": row, f"T--{name}--2": other}))


def nikl_dialogue(folder: Path) -> None:
    for name in ("train", "dev", "test"):
        turns = [
            {"speaker": "SD01", "utterance": f"{name} 저는 여행을 좋아해요."},
            {"speaker": "SD02", "utterance": "저도요."},
        ]
        row = {"id": f"{name}-1", "input": {"conversation": turns, "subject_keyword": ["여행", "바다"]}}
        rows = [row if name == "test" else row | {"output": "화자들은 여행을 좋아한다."}]
        (folder / f"일상대화요약_{name}.json").write_text(json.dumps(rows, ensure_ascii=False))


def vcsum(folder: Path) -> None:
    contexts = []
    for number, name in enumerate(("train", "dev", "test")):
        row = {"id": str(number), "av_num": 5, "eos_index": [2]}
        write_lines(folder / f"long_{name}.txt", row | {"summary": "会议讨论了灯。"})
        write_lines(folder / f"short_{name}.txt", row | {"id": f"{number}_0", "discussion": "灯", "agenda": "灯"})
        contexts.append(row | {"speaker": [1, 2], "context": [[f"大家好{name}。", "我们开始。"], ["好的。"]]})
    write_lines(folder / "overall_context.txt", *contexts)


Expected = tuple[int, list[str], str, str]
CASES: dict[str, tuple[Callable[[Path], None], Expected]] = {
    # rows to train on, references of the evaluation, the end of the instruction, the dialogue
    "mts_dialog": (
        mts_dialog,
        (
            2,
            ["Knee pain (TestSet-1-MEDIQA-Chat-2023)."],
            "Write the section GENHX of",
            "Doctor: In the TrainingSet?\nPatient: Knee.",
        ),
    ),
    "aci_bench": (
        aci_bench,
        (
            1,
            ["CHIEF COMPLAINT\n\nKnee pain."],
            "Write the full clinical note",
            "[doctor] hi , train_full ?\n[patient] sore .",
        ),
    ),
    "qmsum": (
        qmsum,
        (2, ["A lamp (test)."], "Request: Summarize the meeting.\n\n", "Ola: train .\nProject Manager: Okay ."),
    ),
    "tweetsumm": (tweetsumm, (4, ["A. B.", "C."], "in two sentences", "User: Dark (train)\nSystem: Which?")),
    "nikl_dialogue": (
        nikl_dialogue,
        (
            1,
            ["화자들은 여행을 좋아한다."],
            "다음은 여행, 바다에 대한",
            "SD01: train 저는 여행을 좋아해요.\nSD02: 저도요.",
        ),
    ),
    "vcsum": (
        vcsum,
        (1, ["会议讨论了灯。"], "请用一段话", "Speaker 1: 大家好train。我们开始。\nSpeaker 2: 好的。"),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_config_reads_its_dataset(chatml_tokenizer: PreTrainedTokenizerFast, tmp_path: Path, name: str) -> None:
    write, (rows, references, instruction, dialogue) = CASES[name]
    write(tmp_path)
    types = (ScriptArguments, DataArguments, TrainArguments)
    config = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text()) | {"dataset_name": str(tmp_path)}
    known = {key: value for key, value in config.items() if any(key in kind.__dataclass_fields__ for kind in types)}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(known, allow_unicode=True))
    script_args, data_args, train_args = parse(types, ["--config", str(tmp_path / "config.yaml")])
    (tmp_path / "config.yaml").unlink()
    data = load_training_data(
        script_args, data_args, train_args, chatml_tokenizer, {chatml_tokenizer.eos_token_id},
        max_length=config["max_length"], evaluates=True,
    )  # fmt: skip
    assert data.validation is not None
    assert [counts.dropped.total() for counts in data.counts().values()] == [0, 0, 0, 0]
    assert (len(data.train.rows), len(data.validation.rows)) == (rows, rows)
    settings = PromptSettings.from_arguments(data_args)
    first, *_ = build_prompts(data.train.examples.rows.to_list(), None, settings, None)
    text = first.messages[-1]["content"]
    assert instruction in text
    assert text.endswith(f"\n\n{dialogue}")
    script_args.dataset_test_split = "validation" if name == "nikl_dialogue" else "test"
    assert load_evaluation(script_args, data_args, 42).rows[0]["references"] == references
    assert train_args.eval_rouge_tokenizer == ("unicode" if name in ("nikl_dialogue", "vcsum") else "default")
    assert "{" not in text


def test_an_evaluation_takes_files_and_columns_from_the_training(
    recipe: Recipe, tiny_folder: Path, tmp_path: Path
) -> None:
    """The transcripts of VCSum are in a file of their own, whose name is in run.json."""
    (tmp_path / "data").mkdir()
    vcsum(tmp_path / "data")
    flags = {
        **{"config": CONFIGS / "vcsum.yaml", "model_name_or_path": tiny_folder, "dataset_name": tmp_path / "data"},
        **{"output_dir": tmp_path / "run", "max_steps": 1, "max_length": 256, "use_cpu": "true", "lora_r": 2},
        **{"eval_strategy": "no", "save_strategy": "no", "dtype": "float32", "bf16": "false"},
    }
    recipe("sft", *(f"--{name}={value}" for name, value in flags.items()))
    recipe("eval", f"--adapter_path={tmp_path / 'run' / 'adapter'}", "--evaluate_base=false", "--max_new_tokens=4")
    folder = tmp_path / "run" / "eval-tuned"
    metrics = json.loads((folder / "metrics.json").read_text())
    (prediction,) = map(json.loads, (folder / "predictions.jsonl").read_text().splitlines())
    assert (prediction["id"], prediction["references"]) == ("2", ["会议讨论了灯。"])
    assert metrics["fingerprint"]["tokenizer"] == "unicode-1"
