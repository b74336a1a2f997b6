"""What a sweep refuses before anything starts, and the configs of its trials."""

import json
from pathlib import Path
from typing import Any

from conftest import ROOT
from dialogsum_sft import InputError
from dialogsum_sft.arguments import SweepArguments
from dialogsum_sft.cli import parse, read_config
from dialogsum_sft.sweeping.plan import config_text, read_plan

import pytest
import yaml

SEARCH = {"lora_r": [8, 16]}
BASE = {
    "model_name_or_path": "tiny",
    "dataset_name": "sample",
    "dataset_test_split": "validation",
    "output_dir": "runs/x",
    "use_peft": "true",
    "eval_strategy": "epoch",
    "save_strategy": "no",
    "bf16": "false",
}


@pytest.fixture
def plan(tmp_path: Path) -> Any:
    def make(base: dict[str, Any] | None = None, search: dict[str, Any] | None = None, /, **args: Any) -> Any:
        path = tmp_path / "base.yaml"
        path.write_text(config_text(BASE | (base or {})), encoding="utf-8")
        words: dict[str, Any] = {
            "base": str(path),
            "search": json.dumps(search or SEARCH),
            "output_dir": str(tmp_path / "sweep"),
        }
        words |= {name: json.dumps(value) if isinstance(value, dict) else value for name, value in args.items()}
        return read_plan(SweepArguments(**words))

    return make


def test_a_config_is_read_as_it_was_written(tmp_path: Path) -> None:
    options = {
        **{"learning_rate": 1e-05, "save_strategy": "no", "use_peft": True, "max_length": None, "lora_r": 16},
        **{"instruction": "Sum up: {dialogue}\nBe # short. ", "lora_target_modules": ["q_proj", "v_proj"]},
        **{"dataset_revision": "12e4567", "test_file": "", "generation": {"num_beams": 4}},
    }
    path = tmp_path / "config.yaml"
    path.write_text(config_text(options, "python recipes/sft.py"), encoding="utf-8")
    written = path.read_text(encoding="utf-8")
    assert written.startswith("# python recipes/sft.py\nlearning_rate: 1e-05\nsave_strategy: no\nuse_peft: true\n")
    assert read_config(str(path)) == options | {
        "learning_rate": "1e-05",
        "use_peft": "true",
        "lora_r": "16",
        "generation": '{"num_beams": 4}',
    }


def test_a_trial_has_the_options_of_base_options_and_its_point(plan: Any) -> None:
    found = plan({"lora_alpha": "32", "seed": "7"}, options={"seed": 5, "lora_dropout": 0.1})
    config = found.config(found.points[1], Path("out"))
    assert {name: config[name] for name in ("lora_alpha", "seed", "lora_dropout", "lora_r", "output_dir")} == {
        **{"lora_alpha": "32", "seed": 5, "lora_dropout": 0.1, "lora_r": 16, "output_dir": "out"}
    }
    assert (config["save_strategy"], config["save_total_limit"]) == ("epoch", 1)
    kept = plan(options={"save_strategy": "no"})
    assert kept.fixed["save_strategy"] == "no"
    assert kept.notes == []


@pytest.mark.parametrize(
    ("base", "evaluation"),
    [
        ({}, {"dataset_test_split": "validation"}),
        ({"test_file": "b.jsonl"}, {"dataset_test_split": "validation", "test_file": ""}),
        (
            {"validation_file": "a.jsonl", "test_file": "b.jsonl", "dataset_test_split": "test"},
            {"dataset_test_split": "test", "test_file": "a.jsonl"},
        ),
        ({"validation_share": "0.2", "dataset_test_split": "test"}, {"dataset_test_split": "train"}),
        (
            {"validation_share": "0.2", "train_file": "a.jsonl", "test_file": "b.jsonl"},
            {"dataset_test_split": "train", "test_file": "a.jsonl"},
        ),
    ],
)
def test_rouge_is_of_the_validation_split(plan: Any, base: dict[str, str], evaluation: dict[str, str]) -> None:
    assert plan(base, objective="rouge1").evaluation == evaluation


def test_a_searched_seed_holds_out_the_same_dialogues(plan: Any) -> None:
    assert plan({"validation_share": "0.2", "seed": "3"}, {"seed": [1, 2]}).fixed["validation_seed"] == 3


@pytest.mark.parametrize(
    ("base", "search", "args", "message"),
    [
        ({"dataset_test_split": "test"}, SEARCH, {}, "not on a test split (dataset_test_split: test): give"),
        ({"dataset_test_split": "test[:20]"}, SEARCH, {}, "not on a test split"),
        ({"validation_file": "data/test.jsonl"}, SEARCH, {}, "(validation_file: data/test.jsonl)"),
        ({"validation_file": "a.csv", "test_file": "a.csv"}, SEARCH, {}, "not on a test split"),
        ({}, {"dataset_test_split": ["validation", "test"]}, {}, "scores would be of other dialogues"),
        ({}, {"loss_type": ["nll", "dft"]}, {}, "losses could not be compared"),
        ({}, {"lora_rr": [1, 2]}, {}, "lora_rr is no option of recipes/sft.py: did you mean lora_r?"),
        ({}, {"lora_r": [8, "many"]}, {}, "a trial: argument --lora_r/--lora-r: invalid int value: 'many'"),
        ({"lora_rr": "8"}, SEARCH, {}, "unknown option in the options of a trial: lora_rr; did you mean lora_r?"),
        ({}, SEARCH, {"options": {"lora_r": 8}}, "lora_r: searched and in options too"),
        ({}, SEARCH, {"options": {"eval_strategy": "no"}}, "add eval_strategy: epoch to options"),
        ({}, SEARCH, {"trials": 0}, "--trials 0: give 1 or more"),
        ({}, SEARCH, {"search": "8"}, "--search must be a JSON object"),
        ({}, SEARCH, {"base": "nowhere"}, "config file not found: nowhere; the package has aci_bench"),
        ({}, SEARCH, {"base": None}, "--base: give a config"),
    ],
)
def test_what_cannot_work_is_refused(
    plan: Any, base: dict[str, str], search: dict[str, Any], args: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError) as caught:
        plan(base, search, **args)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


SWEEPS = sorted((ROOT / "recipes" / "sweeps").glob("*.yaml"))


@pytest.mark.parametrize("path", SWEEPS, ids=[path.stem for path in SWEEPS])
def test_the_sweeps_of_the_package_are_planned(path: Path) -> None:
    assert path.read_text().split("\n")[0] == f"# python recipes/sweep.py --config {path.relative_to(ROOT)}"
    (args,) = parse((SweepArguments,), ["--config", path.stem])
    found = read_plan(args)
    assert found.args.trials or len(found.points) == 15
    assert set(yaml.safe_load(path.read_text())["search"]) == {one.name for one in found.space}
    assert found.evaluation == {"dataset_test_split": "validation"}
