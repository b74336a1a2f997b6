"""The plan of a sweep: its options checked before anything starts, and the config of each trial."""

import json
import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from dialogsum_sft import InputError
from dialogsum_sft.arguments import DataArguments, SweepArguments, TrainArguments, json_option
from dialogsum_sft.cli import parse, read_config
from dialogsum_sft.hardware import training_defaults
from dialogsum_sft.sweeping.space import Space, grid, options_of, read_space, text

import yaml
from trl import ModelConfig, ScriptArguments, SFTConfig

TYPES = (ScriptArguments, SFTConfig, ModelConfig, DataArguments, TrainArguments)
# Trials that differ in these are scored on other dialogues, or otherwise.
_VALIDATION = (
    *("dataset_name", "dataset_config", "dataset_revision", "dataset_test_split", "validation_file", "test_file"),
    *("validation_share", "validation_seed", "max_eval_samples", "dialogue_file", "output_dir", "eval_strategy"),
    *("eval_rouge_tokenizer", "eval_generate_samples", "eval_max_new_tokens"),
)
# The losses of trials that differ in these are of other tokens, or computed otherwise.
_LOSS = ("model_name_or_path", "chat_template_path", "rename_speakers", "loss_type", "label_smoothing_factor")


@dataclass(frozen=True)
class Plan:
    """`fixed` are the options of every trial, as texts of a config or JSON values; `points` those of a grid.

    `evaluation` are the options with which recipes/eval.py scores the split that the training evaluates.
    """

    args: SweepArguments
    space: Space
    fixed: dict[str, Any]
    points: list[dict[str, Any]]
    evaluation: dict[str, Any]
    notes: list[str]

    @property
    def maximizes(self) -> bool:
        return self.args.objective != "loss"

    def config(self, values: Mapping[str, Any], output_dir: Path) -> dict[str, Any]:
        """All options of the trial at a point."""
        return self.fixed | options_of(self.space, values) | {"output_dir": str(output_dir)}

    def evaluation_of(self, weights: Path, output_dir: Path) -> dict[str, Any]:
        """Options of recipes/eval.py that score an adapter/ or model/ of a run on the validation split."""
        option = "adapter_path" if weights.name == "adapter" else "model_name_or_path"
        options = {option: str(weights), "evaluate_base": False, "num_examples": 0, "overwrite_output_dir": True}
        return options | self.evaluation | {"output_dir": str(output_dir)}

    def identity(self) -> dict[str, Any]:
        """What must be the same for trials to belong to one study."""
        args = self.args
        own = {name: getattr(args, name) for name in ("method", "objective", "pruner", "reduction_factor", "seed")}
        own |= {name: json_option(name, getattr(args, name)) for name in ("search", "eval_options")}
        return own | {"options": self.fixed}


class _AsWritten(yaml.SafeDumper):
    """Writes texts without quotes where YAML allows it, as recipes read every scalar as it is written."""

    yaml_implicit_resolvers: dict[str, Any] = {}

    def represent_str(self, data: str) -> yaml.ScalarNode:
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=None if data else "'")


_AsWritten.add_representer(str, _AsWritten.represent_str)


def config_text(options: Mapping[str, Any], *comments: str) -> str:
    """A YAML file with these options, which recipes/sft.py reads as they are."""
    written = {
        name: list(map(text, value)) if isinstance(value, list) else text(value) for name, value in options.items()
    }
    lines = yaml.dump(written, Dumper=_AsWritten, sort_keys=False, allow_unicode=True, width=119)
    return "".join(f"# {comment}\n" for comment in comments) + lines


def read_plan(args: SweepArguments) -> Plan:
    """Check the options of a sweep. Raises InputError for what cannot work, or would choose on a test split."""
    if args.base is None:
        raise InputError("--base: give a config of recipes/sft.py, or the name of one in the package")
    for name, least in (("trials", 1), ("workers", 1), ("gpus_per_trial", 1), ("reduction_factor", 2), ("seed", 0)):
        if (value := getattr(args, name)) is not None and value < least:
            raise InputError(f"--{name} {value}: give {least} or more")
    own = json_option("options", args.options)
    space = read_space(json_option("search", args.search), {field.name for kind in TYPES for field in fields(kind)})
    searched = {name for one in space for name in (one.choices and _names(one.choices)) or {one.name}}
    if both := searched & own.keys():
        raise InputError(f"{', '.join(sorted(both))}: searched and in options too: leave one out")
    if wrong := searched & {*_VALIDATION, *(_LOSS if args.objective == "loss" else ())}:
        why = "scores would be of other dialogues" if wrong & set(_VALIDATION) else "losses could not be compared"
        raise InputError(f"search: {', '.join(sorted(wrong))}: {why}: put it into options, or choose by ROUGE")
    base = read_config(args.base)
    fixed = base | own
    points = grid(space, fixed) if args.method == "grid" else []
    script_args, training_args, data_args = _parsed(fixed, args.base)
    evaluation = _evaluation(script_args, data_args)
    faults = []
    for point in points[:200]:
        try:
            _parsed(fixed | options_of(space, point), "a trial")
        except InputError as error:
            faults += list(error.args)
    if faults:
        raise InputError(*dict.fromkeys(faults))
    strategy = str(getattr(training_args.eval_strategy, "value", training_args.eval_strategy))
    if strategy == "no" and (args.objective == "loss" or args.pruner != "none"):
        raise InputError("the trials have no evaluations to choose or prune by: add eval_strategy: epoch to options")
    notes = []
    if data_args.validation_share is not None and data_args.validation_seed is None:
        fixed["validation_seed"] = training_args.seed  # a searched seed would hold other dialogues out
    if "save_strategy" not in own and base.get("save_strategy", "no") == "no" and "save_strategy" not in searched:
        fixed["save_strategy"] = "steps" if strategy == "steps" else "epoch"
        fixed |= {"save_steps": text(training_args.eval_steps)} if strategy == "steps" else {}
        fixed.setdefault("save_total_limit", 1)
        notes.append(f"save_strategy {fixed['save_strategy']}: an interrupted trial goes on from its checkpoint")
    return Plan(args, space, fixed, points, evaluation | json_option("eval_options", args.eval_options), notes)


def _names(choices: tuple[Any, ...]) -> set[str]:
    return {name for one in choices if isinstance(one, dict) for name in one}


def _parsed(options: Mapping[str, Any], where: str) -> tuple[ScriptArguments, SFTConfig, DataArguments]:
    """The options as recipes/sft.py parses them from a config; what they set in the environment is not kept."""
    environment = dict(os.environ)
    with tempfile.TemporaryDirectory(prefix="dialogsum_sft-") as folder:
        path = Path(folder) / "config.yaml"
        path.write_text(config_text(options), encoding="utf-8")
        try:
            script_args, training_args, _, data_args, _ = parse(
                TYPES, ["--config", str(path)], defaults=training_defaults
            )
        except InputError as error:
            message = str(error).replace("the config file", "the options of a trial")
            raise InputError(f"{where}: {message.removesuffix(' See --help for the options.')}") from error
        finally:
            os.environ.clear()
            os.environ.update(environment)
    return script_args, training_args, data_args


def _evaluation(script_args: ScriptArguments, data_args: DataArguments) -> dict[str, Any]:
    """Options with which recipes/eval.py takes the split that the training evaluates; a test split is refused."""
    if data_args.validation_share is not None:  # held out of the training split
        file, split = data_args.train_file, script_args.dataset_train_split
    else:
        file, split = data_args.validation_file, script_args.dataset_test_split
        name = Path(file).name if file else ""
        is_test = re.match(r"test([\W_]|$)", name or split) is not None
        if is_test or (file is not None and file == data_args.test_file):
            found = f"validation_file: {file}" if file else f"dataset_test_split: {split}"
            raise InputError(
                f"a sweep chooses on validation dialogues, not on a test split ({found}): give dataset_test_split: "
                "validation, validation_file or validation_share: 0.1 in options"
            )
    return {"dataset_test_split": split} | ({"test_file": file or ""} if file or data_args.test_file else {})


def digest_of(identity: Mapping[str, Any]) -> dict[str, str]:
    """Each part of an identity as JSON, to say which differs."""
    return {name: json.dumps(value, sort_keys=True, default=str) for name, value in identity.items()}


def parts_of(digest: Mapping[str, str]) -> dict[str, Any]:
    """The options of an identity that was made JSON, of a mapping each of its entries as `search lora_r`."""
    made: dict[str, Any] = {}
    for name, written in digest.items():
        value = json.loads(written)
        made |= {f"{name} {key}": one for key, one in value.items()} if isinstance(value, dict) else {name: value}
    return made
