"""The options that --help lists and messages name."""

import argparse
import ast
import dataclasses
import re
import runpy
import sys
from functools import cache

from conftest import ROOT
from dialogsum_sft import arguments
from dialogsum_sft.cli import Described, describe, parse

import pytest

RECIPES = sorted(path.stem for path in (ROOT / "recipes").glob("*.py"))
OURS = {
    "sft": (arguments.DataArguments, arguments.TrainArguments),
    "eval": (arguments.DataArguments, arguments.EvalArguments),
    "inspect_data": (arguments.DataArguments, arguments.TrainArguments),
    "merge": (arguments.MergeArguments,),
    "summarize": (arguments.DialogueArguments, arguments.SummarizeArguments),
    "label": (arguments.DialogueArguments, arguments.LabelArguments),
    "compare": (arguments.JudgeArguments,),
    "demo": (arguments.DialogueArguments, arguments.DemoArguments),
}
# Options of other programs, which messages, docstrings or the code name.
OTHERS = {"no-build-isolation", "no-deps", "config_file", "quiet", "watch", "max-model-len"}
# Options that the parser of no recipe has: of every recipe, of a launch, of the command.
COMMON = {"config", "help", "help_all", "completion", "version"}
COMMON |= {"accelerate_config", "num_processes", "num_machines", "machine_rank", "main_process_ip"}


@cache
def main_of(recipe):
    return runpy.run_path(str(ROOT / "recipes" / f"{recipe}.py"), run_name=recipe)["main"]


@cache
def options_of(recipe) -> Described:
    return describe(main_of(recipe))


def fields_of(recipe):
    """Our options of a recipe."""
    return [field for kind in OURS.get(recipe, ()) for field in dataclasses.fields(kind) if field.init]


@pytest.fixture
def help_of(monkeypatch, capsys):
    def call(recipe, option="--help", columns=100):
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setattr(sys, "argv", [f"{recipe}.py", option])
        with pytest.raises(SystemExit) as end:
            main_of(recipe)()
        assert not end.value.code
        return capsys.readouterr().out

    return call


def listed(text):
    return re.findall(r"^  --([a-z]\w+)", text, re.MULTILINE)


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("recipe", RECIPES)
def test_help_lists_our_options_within_the_width(help_of, recipe, columns):
    shown = help_of(recipe, columns=columns)

    names = listed(shown)
    assert len(names) == len(set(names))
    assert {field.name for field in fields_of(recipe)} <= set(names)
    assert max(map(len, shown.splitlines())) <= columns
    assert shown.startswith(f"usage: {recipe}.py [--config NAME|FILE.yaml] [options]")


@pytest.mark.parametrize(
    ("recipe", "groups"),
    [
        ("sft", ["this recipe", "data", "model", "training"]),
        ("eval", ["this recipe", "data", "model", "generation"]),
        ("summarize", ["this recipe", "data", "model", "generation"]),
        ("compare", ["this recipe"]),
    ],
)
def test_help_is_grouped(help_of, recipe, groups):
    assert re.findall(r"^([a-z ]+):$", help_of(recipe), re.MULTILINE) == groups


def test_the_hundred_other_options_of_trl_are_behind_help_all(help_of):
    short, full = help_of("sft"), help_of("sft", "--help_all")
    hidden = set(listed(full)) - set(listed(short))
    assert {"adam_beta1", "dataloader_num_workers", "fsdp"} <= hidden
    assert "learning_rate" in listed(short)
    assert f"list the other {len(hidden)} options too" in " ".join(short.split())
    assert len(hidden) > 80
    for recipe in OURS:
        words = " ".join(help_of(recipe, "--help_all").split())
        for field in fields_of(recipe):
            assert " ".join(field.metadata["help"].replace("%%", "%").split()) in words


def test_windows_of_long_dialogues_are_of_the_recipes_that_make_them():
    names = {recipe: {option.name for option in options_of(recipe).options} for recipe in RECIPES}
    assert {recipe for recipe, own in names.items() if {"long", "long_overlap"} & own} == {"eval", "summarize"}


def test_a_generating_recipe_does_not_list_training_options(help_of):
    assert not {"lora_r", "use_peft", "learning_rate"} & set(listed(help_of("summarize")))


def test_defaults_values_and_switches(help_of):
    shown = help_of("sft", columns=120)
    assert re.search(r"--lora_r N +Rank of the adapter. \[16\]", shown)
    assert re.search(r"--use_peft  +Train", shown)
    assert "--eval_strategy no|steps|epoch" in shown
    assert "1% of the rows" in shown
    assert "2e-4 with an adapter" in shown


def test_help_wins_over_what_cannot_be_parsed(monkeypatch, capsys):
    with pytest.raises(SystemExit):
        parse((arguments.MergeArguments,), ["--config", "nowhere.yaml", "--num_prompts", "x", "-h"])
    assert "--max_difference" in capsys.readouterr().out


def test_messages_name_options_that_exist():
    known = {option.name for recipe in RECIPES for option in options_of(recipe).options} | OTHERS | COMMON
    unknown = []
    for path in [*(ROOT / "dialogsum_sft").rglob("*.py"), *(ROOT / "recipes").glob("*.py")]:
        texts = [n.value for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Constant)]
        named = {name for text in texts if isinstance(text, str) for name in re.findall(r"--([a-z][\w-]+)", text)}
        unknown += [f"{path.name}: --{name}" for name in sorted(named - known)]
    assert unknown == []


def test_describe_names_what_words_and_launches_are():
    assert (options_of("summarize").positional, options_of("summarize").launches) == ("input_files", False)
    assert (options_of("sft").positional, options_of("sft").launches) == (None, True)
    assert all(isinstance(option.action, argparse.Action) for option in options_of("merge").options)
