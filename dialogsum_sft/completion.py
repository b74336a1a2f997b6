"""Shell completion of `dialogsum-sft`: a script for bash, zsh or fish with all verbs, options and choices in it."""

import argparse
import runpy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dialogsum_sft.cli import Described, describe
from dialogsum_sft.files import own_folder

import shtab

_FILES = {"FILE", "PATH", "FOLDER", "NAME|PATH"}  # metavars of values that are files or folders


def script(shell: str, verbs: Mapping[str, tuple[str, str]]) -> str:
    """The script, for verbs {name: (recipe, description)}. The recipes are imported for it, not when it completes."""
    root = argparse.ArgumentParser("dialogsum-sft", add_help=False)
    root.add_argument("--help", action="store_true", help="list the verbs")
    root.add_argument("--version", action="store_true", help="print the version")
    root.add_argument("--completion", choices=["bash", "zsh", "fish"], help="print the completion of a shell")
    names = root.add_subparsers()
    functions = [_names_and_files(shell, folder) for folder in ("recipes/configs", "accelerate_configs")]
    for verb, (recipe, what) in verbs.items():
        main = runpy.run_path(str(own_folder("recipes") / f"{recipe}.py"), run_name=recipe)["main"]
        _add_options(names.add_parser(verb, help=what, add_help=False), describe(main))
    preamble = "\n".join(function for function in functions if function)
    return str(shtab.complete(root, shell, preamble=preamble))


def _add_options(parser: argparse.ArgumentParser, described: Described) -> None:
    parser.add_argument("--help", action="store_true", help="list the options")
    parser.add_argument("--help_all", action="store_true", help="list all options")
    _complete(parser.add_argument("--config", help="a YAML file, or the name of one in the package"), "configs")
    if described.launches:
        launch = parser.add_argument("--accelerate_config", help="a file, or the name of one in the package")
        _complete(launch, "accelerate_configs")
        parser.add_argument("--num_processes", help="how many processes it starts")
    for option in described.options:
        values: dict[str, Any] = {"nargs": option.action.nargs if option.action.nargs in ("?", "+") else None}
        if option.action.choices is not None:
            values["choices"] = list(map(str, option.action.choices))
        elif option.metavar in ("", "true|false"):
            values["choices"] = ["true", "false"]
        help_line = (option.listed or option.action.help or "").split(". ")[0].replace("\n", " ")
        action = parser.add_argument(f"--{option.name}", help=help_line, **values)
        if option.name == "accelerate_config":
            _complete(action, "accelerate_configs")
        elif option.metavar in _FILES:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
    if described.positional:
        parser.add_argument("words", nargs="*").complete = shtab.FILE  # type: ignore[attr-defined]


def _complete(action: argparse.Action, folder: str) -> None:
    """Complete an option with the names of the package's YAML files in `folder`, and with files."""
    names = " ".join(_names(folder))
    fish = f"(printf '%s\\n' {names}; __fish_complete_path (commandline -ct))"
    action.complete = {"bash": f"_dialogsum_sft_{folder}", "zsh": f"_dialogsum_sft_{folder}", "fish": fish}  # type: ignore[attr-defined]


def _names(folder: str) -> list[str]:
    path = own_folder("recipes") / "configs" if folder == "configs" else own_folder(folder)
    return sorted(file.stem for file in Path(path).glob("*.yaml"))


def _names_and_files(shell: str, folder: str) -> str:
    folder = Path(folder).name
    names = " ".join(_names(folder))
    if shell == "bash":
        return f'_dialogsum_sft_{folder}() {{ compgen -W "{names}" -- "$1"; _shtab_compgen_files "$1"; }}'
    if shell == "zsh":
        return f"_dialogsum_sft_{folder}() {{ compadd -- {names}; _files -g '*.y(a|)ml'; }}"
    return ""
