"""The options that --help lists and messages name."""

import ast
import dataclasses
import os
import re
import subprocess
import sys
from functools import cache

from conftest import ROOT
from dialogsum_sft import arguments

import pytest

RECIPES = ["sft", "eval", "compare", "inspect_data", "merge", "benchmark", "summarize", "label"]
OURS = {
    "sft": (arguments.DataArguments, arguments.TrainArguments),
    "eval": (arguments.DataArguments, arguments.EvalArguments),
    "inspect_data": (arguments.DataArguments, arguments.TrainArguments),
    "merge": (arguments.MergeArguments,),
    "summarize": (arguments.DialogueArguments, arguments.SummarizeArguments),
    "label": (arguments.DialogueArguments, arguments.LabelArguments),
}
# Options of other programs, which messages, docstrings or the code name.
OTHERS = {"no-build-isolation", "no-deps", "config_file", "quiet", "watch", "max-model-len"}


@cache
def help_of(recipe: str) -> str:
    command = [sys.executable, ROOT / "recipes" / f"{recipe}.py", "--help"]
    environment = os.environ | {"COLUMNS": "200", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_help_lists_the_options_of_a_recipe(recipe):
    shown = help_of(recipe)

    for options in OURS.get(recipe, ()):
        for option in dataclasses.fields(options):
            assert f"--{option.name}" in shown
            words = option.metadata["help"].replace("%%", "%").split()
            assert " ".join(words[:4]) in " ".join(shown.split())


@pytest.mark.slow
def test_messages_name_options_that_exist():
    known = {name for recipe in RECIPES for name in re.findall(r"--([A-Za-z][\w-]*)", help_of(recipe))} | OTHERS
    unknown = []
    for path in [*(ROOT / "dialogsum_sft").rglob("*.py"), *(ROOT / "recipes").glob("*.py")]:
        texts = [n.value for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Constant)]
        named = {name for text in texts if isinstance(text, str) for name in re.findall(r"--([a-z][\w-]+)", text)}
        unknown += [f"{path.name}: --{name}" for name in sorted(named - known)]
    assert unknown == []
