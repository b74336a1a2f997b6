"""The package imports on systems that lack POSIX's modules and /proc, such as Windows."""

import os
import subprocess
import sys

from conftest import ROOT

import pytest

# Run in a process of its own. Third parties are imported first, with all that this system has.
IMPORT_ALL = """
import builtins, io, os, pathlib, pkgutil, runpy, sys
import accelerate, aiohttp, bitsandbytes, datasets, filelock, peft, psutil, scipy.stats, torch, transformers, trl
import transformers.generation, transformers.trainer, trl.trainer.sft_trainer

def without_proc(function):
    def guarded(path, *args, **kwargs):
        if str(path).startswith("/proc"):
            raise FileNotFoundError(path)
        return function(path, *args, **kwargs)
    return guarded

builtins.open = io.open = without_proc(open)
os.open = without_proc(os.open)
for name in ("fcntl", "resource", "termios", "pwd", "grp"):
    sys.modules[name] = None
import dialogsum_sft
for module in pkgutil.walk_packages(dialogsum_sft.__path__, "dialogsum_sft."):
    __import__(module.name)
    print(module.name)
for recipe in sorted(pathlib.Path("recipes").glob("*.py")):
    runpy.run_path(str(recipe), run_name=recipe.stem)
    print(recipe.name)
"""


@pytest.mark.slow
def test_every_module_and_recipe_imports_without_posix():
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert {"dialogsum_sft.modeling", "benchmark.py", "sft.py"} <= set(done.stdout.split())
