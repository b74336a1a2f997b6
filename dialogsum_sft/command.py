"""`dialogsum-sft VERB ...`: the recipes as verbs of one command, with the options of `python recipes/X.py`."""

import difflib
import importlib
import runpy
import sys

from dialogsum_sft import __version__
from dialogsum_sft.files import own_folder

VERBS = {
    "sft": ("sft", "fine-tune a model on dialogues with summaries"),
    "eval": ("eval", "summarise a test set with a model, and score it"),
    "compare": ("compare", "evaluated runs side by side, with paired tests"),
    "sweep": ("sweep", "search the options of a training, by the validation split"),
    "inspect": ("inspect_data", "a dataset as the model will see it"),
    "merge": ("merge", "merge an adapter into its base model"),
    "benchmark": ("benchmark", "speed and memory on this machine"),
    "summarize": ("summarize", "summarise files, folders or standard input"),
    "label": ("label", "dialogues without summaries to training data, by a model"),
    "demo": ("demo", "a page in the browser: base and tuned side by side"),
}
SHELLS = ("bash", "zsh", "fish")
_HELP = """usage: dialogsum-sft VERB [options]

{verbs}

dialogsum-sft VERB --help lists the options of a verb. --config takes a YAML file, or the name of one in the package:

    dialogsum-sft sft --config quickstart
    dialogsum-sft eval --adapter_path runs/quickstart/adapter
    cat chat.txt | dialogsum-sft summarize --adapter_path runs/quickstart/adapter

configs: {configs}

--version prints the version, --completion bash (or zsh, fish) a script that completes verbs, options and configs.
"""


def main() -> None:
    """Run the recipe that the first word of the command line names, as its script is run."""
    words = sys.argv[1:]
    if not words or words[0] in ("-h", "--help", "help"):
        sys.stdout.write(_help())
    elif words[0] == "--version":
        sys.stdout.write(f"dialogsum-sft {__version__}\n")
    elif words[0] == "--completion":
        if len(words) != 2 or words[1] not in SHELLS:
            sys.stderr.write(f"error: --completion needs the name of a shell: {', '.join(SHELLS)}\n")
            sys.exit(2)
        completion = importlib.import_module("dialogsum_sft.completion")  # with TRL, which takes seconds
        sys.stdout.write(completion.script(words[1], VERBS))
    elif words[0] not in VERBS:
        near = difflib.get_close_matches(words[0].replace("ise", "ize"), VERBS, n=1, cutoff=0.75)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(VERBS)}"
        sys.stderr.write(f"error: {words[0]} is no verb of dialogsum-sft: {hint}\n")
        sys.exit(2)
    else:
        recipe = str(own_folder("recipes") / f"{VERBS[words[0]][0]}.py")
        sys.argv = [recipe, *words[1:]]  # which --accelerate_config starts in other processes
        runpy.run_path(recipe, run_name="__main__")


def _help() -> str:
    verbs = "\n".join(f"  {name:<11}{what}" for name, (_, what) in VERBS.items())
    names = sorted(path.stem for path in (own_folder("recipes") / "configs").glob("*.yaml"))
    lines = [""]
    for name in names:
        lines = [*lines[:-1], f"{lines[-1]} {name}"] if len(lines[-1]) + len(name) < 100 else [*lines, f" {name}"]
    return _HELP.format(verbs=verbs, configs="\n        ".join(line.strip() for line in lines))


if __name__ == "__main__":
    main()
