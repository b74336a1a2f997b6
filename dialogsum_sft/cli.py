"""Parse YAML and the command line into dataclasses; turn errors into one line and an exit status."""

import argparse
import contextvars
import difflib
import errno
import json
import os
import re
import signal
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, get_args, get_type_hints

from dialogsum_sft import InputError, Stopped, __version__
from dialogsum_sft.distributed import exit_process
from dialogsum_sft.files import own_folder
from dialogsum_sft.launch import HELP, start_processes, write_status
from dialogsum_sft.option_help import Option, help_text, options_of

import yaml
from trl import TrlParser

# Options by the names that they had in earlier versions of transformers and TRL; "" for those that are gone.
_FORMER_NAMES = {
    **{"torch_dtype": "dtype", "bnb_4bit_compute_dtype": "dtype", "bnb_4bit_use_double_quant": "use_bnb_nested_quant"},
    **{"warmup_ratio": "warmup_steps (below 1 a share of all steps)", "max_seq_length": "max_length"},
    **{"group_by_length": "train_sampling_strategy: group_by_length", "evaluation_strategy": "eval_strategy"},
    **{"use_flash_attention_2": "attn_implementation: flash_attention_2", "use_liger": "use_liger_kernel"},
    **{"no_cuda": "use_cpu", "use_lora": "use_peft", "peft_lora_r": "lora_r", "peft_lora_alpha": "lora_alpha"},
    **{"per_gpu_train_batch_size": "per_device_train_batch_size", "push_to_hub_model_id": "hub_model_id"},
    **{"per_gpu_eval_batch_size": "per_device_eval_batch_size", "push_to_hub_token": "hub_token"},
    **{"dataset_train_name": "dataset_train_split", "dataset_test_name": "dataset_test_split"},
    **{"include_inputs_for_metrics": "include_for_metrics: [inputs]", "adafactor": "optim: adafactor"},
    **dict.fromkeys(("save_safetensors", "use_mps_device", "fp16_backend", "half_precision_backend"), ""),
    **dict.fromkeys(("fp16_opt_level", "logging_dir", "jit_mode_eval", "include_tokens_per_second"), ""),
    **dict.fromkeys(("dataset_batch_size", "num_of_sequences", "chars_per_token", "past_index", "ray_scope"), ""),
}


class _Parser(TrlParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message.strip()}. See --help for the options.")


class Described(Exception):
    """Raised by `parse` instead of parsing, for `describe`: the options of a recipe, whether it `launches` processes,
    and the option that takes words without a name (`positional`).
    """

    def __init__(self, options: list[Option], launches: bool, positional: str | None) -> None:
        super().__init__("a recipe's options were asked for")
        self.options, self.launches, self.positional = options, launches, positional


_describing = contextvars.ContextVar("describing", default=False)


def describe(main: Callable[[], None]) -> Described:
    """The options of a recipe's `main`, which is ended where it parses them."""
    token = _describing.set(True)
    try:
        main()
    except Described as described:
        return described
    finally:
        _describing.reset(token)
    raise RuntimeError("this main parses no options")


def _prog() -> str:
    """How the recipe was started: `dialogsum-sft VERB` or the name of its script."""
    words = [Path(word).stem for word in sys.orig_argv]
    if "dialogsum-sft" in words[:3]:
        return " ".join(words[words.index("dialogsum-sft") :][:2])
    return Path(sys.argv[0]).name


class _Yaml12Floats(yaml.SafeLoader):
    """Read 1e-6 as a number, as in YAML 1.2. In YAML 1.1, which PyYAML implements, it is a string."""


_Yaml12Floats.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def parse(
    types: tuple[type[Any], ...],
    argv: Sequence[str] | None = None,
    *,
    defaults: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None,
    launches: bool = False,
    positional: str | None = None,
) -> tuple[Any, ...]:
    """Parse `--config FILE.yaml` and the command line, which wins, into one instance of each dataclass.

    In place of a file, the name of one of recipes/configs/ is enough.

    YAML values are parsed like flags, with the same checks of types and choices. (TrlParser makes them argparse
    defaults: `no` becomes False, `2e-4` a string, and choices are not checked.)

    `defaults` receives the options that were given, {name: value}, and returns defaults of others. A training passes
    `hardware.training_defaults`. The help of a recipe that `launches` names `--accelerate_config`. Words that belong
    to no option are values of the option `positional`, a list.

    Raises InputError for an unknown key or flag (naming similar ones), an invalid value or a missing file.
    """
    parser = _Parser(types, allow_abbrev=False, add_help=False)
    flags = {option for action in parser._actions for option in action.option_strings if option.startswith("--")}
    args = list(sys.argv[1:] if argv is None else argv)
    if "--version" in args:
        sys.stdout.write(f"dialogsum-sft {__version__}\n")
        sys.exit()
    asked = {"-h", "--help", "--help_all"} & set(args)
    if asked or _describing.get():
        parser.set_defaults(**(defaults({}) if defaults is not None else {}))
        described = Described(options_of(parser, types), launches, positional)
        if not asked:
            raise described
        epilog, everything = HELP if launches else "", "--help_all" in asked
        sys.stdout.write(help_text(described.options, _prog(), everything, positional, epilog))
        sys.exit()
    unknown = [word.split("=")[0] for word in args if re.match(r"--[A-Za-z]", word)]
    unknown = [word for word in unknown if word not in flags | {"--config"}]
    source, unset = "the command line", []
    if positional and not unknown:
        words, args = _split_words(parser, args)
        args += [f"--{positional}", *words] if words else []
    if any(word == "--config" or word.startswith("--config=") for word in args):
        config, args = _split_config(args)
        if not unknown:
            unknown, source = [f"--{key}" for key in config if f"--{key}" not in flags], "the config file"
        unset = [key for key, value in config.items() if value is None and _takes_none(types, key)]
        args = _to_argv(config) + args
    if unknown:
        words = [word.removeprefix("--") for word in unknown]
        hint = "".join(
            f"; {word} is now {now}" if now else f"; {word} is gone: leave it out"
            for word in words
            if (now := _FORMER_NAMES.get(word)) is not None
            and (not now or f"--{now.split(':')[0].split()[0]}" in flags)
        )
        if launches and words[0] in ("num_processes", "num_machines", "machine_rank"):
            hint = "; it goes beside --accelerate_config"
        known = {flag for flag in flags if "-" not in flag[2:]} | {"--config"}
        near = difflib.get_close_matches(unknown[0], known, n=2, cutoff=0.75)
        if near and not hint:
            hint = f"; did you mean {' or '.join(word.removeprefix('--') for word in near)}?"
        raise InputError(f"unknown option in {source}: {', '.join(words)}{hint}")
    try:
        if defaults is not None:
            parser.set_defaults(**defaults(dict.fromkeys(unset) | _given_options(parser, args)))
        parser.set_defaults(**dict.fromkeys(unset))
        return tuple(parser.parse_args_and_config(args))
    except (
        ValueError,
        TypeError,
        ImportError,
        argparse.ArgumentError,
    ) as error:  # ImportError: --deepspeed without it
        raise InputError(_one_line(error)) from error


def _given_options(parser: argparse.ArgumentParser, args: list[str]) -> dict[str, Any]:
    """The options that `args` set, without defaults."""
    own, own_defaults = [(action, action.default) for action in parser._actions], parser._defaults
    for action, _ in own:
        action.default = argparse.SUPPRESS
    parser._defaults = {}
    try:
        return vars(parser.parse_args(args, argparse.Namespace()))
    finally:
        for action, default in own:
            action.default = default
        parser._defaults = own_defaults


def _split_words(parser: argparse.ArgumentParser, args: list[str]) -> tuple[list[str], list[str]]:
    """The words that belong to no option, and the others."""
    actions = {option: action for action in parser._actions for option in action.option_strings}
    words: list[str] = []
    rest: list[str] = []
    left: float = 0  # how many words the last option may still take
    for word in args:
        action = actions.get(word.split("=")[0])
        if action is not None or word == "--config":
            many = action is not None and action.nargs in ("*", "+")
            none = "=" in word or (action is not None and action.nargs == 0)
            left = 0 if none else float("inf") if many else 1
            rest.append(word)
        elif left and not (action is None and word.startswith("--")):
            left -= 1
            rest.append(word)
        else:
            words.append(word)
    return words, rest


def _split_config(args: list[str]) -> tuple[dict[str, Any], list[str]]:
    at = next(i for i, word in enumerate(args) if word == "--config" or word.startswith("--config="))
    inline = args[at].startswith("--config=")
    if not inline and at + 1 == len(args):
        raise InputError("--config needs the path of a YAML file")
    path = args[at].removeprefix("--config=") if inline else args[at + 1]
    rest = args[:at] + args[at + (1 if inline else 2) :]
    config = read_config(path)
    if any(word == "--config" or word.startswith("--config=") for word in rest):
        raise InputError("--config is given twice; put both files' options into one")
    return config, rest


def read_config(path: str) -> dict[str, Any]:
    """The options of a YAML file, or of one of the package by its name; scalars are texts as they are written.

    A mapping is a JSON option (model_init_kwargs, ...) whose values keep their YAML types. Raises InputError.
    """
    if not Path(path).is_file():
        recipes = own_folder("recipes")
        named = {file.stem: file for folder in ("sweeps", "configs") for file in (recipes / folder).glob("*.yaml")}
        if path not in named:
            hint = f"; the package has {', '.join(sorted(file.stem for file in (recipes / 'configs').glob('*.yaml')))}"
            if path.endswith((".yaml", ".yml")):
                hint = f"; --config {stem} is in the package" if (stem := Path(path).stem) in named else ""
            raise InputError(f"config file not found: {path}{hint}")
        path = str(named[path])
    try:
        # BaseLoader keeps every scalar as written (`no`, `2e-4`), and argparse converts it.
        text = Path(path).read_text(encoding="utf-8")
        as_written, typed = yaml.load(text, Loader=yaml.BaseLoader), yaml.load(text, Loader=_Yaml12Floats)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not readable YAML: {_one_line(error)}") from error
    if not isinstance(as_written, dict):
        raise InputError(f"{path} must hold a YAML mapping of option: value")
    return {
        key: typed[key] if isinstance(value, dict) or typed[key] is None else value
        for key, value in as_written.items()
    }


def _takes_none(types: tuple[type[Any], ...], option: str) -> bool:
    """Whether null is a value of an option, such as no limit for max_length; for others it means the default."""
    hints = next((hints for hints in map(get_type_hints, types) if option in hints), {})
    return type(None) in get_args(hints.get(option))


def _to_argv(config: dict[str, Any]) -> list[str]:
    """The words of a command line for these options; those that are null are left out."""
    argv: list[str] = []
    for key, value in config.items():
        if value is None:
            continue
        if isinstance(value, list):
            argv += [f"--{key}", *map(str, value)]
        else:
            argv.append(f"--{key}={json.dumps(value, default=str) if isinstance(value, dict) else value}")
    return argv


def _one_line(error: BaseException | str) -> str:
    return " ".join(str(error).split())


def note(*lines: str) -> None:
    """Print lines to standard error, beside the results on standard output."""
    for line in lines:
        print(line, file=sys.stderr, flush=True)  # noqa: T201


def shortened(faults: Sequence[str], most: int = 10) -> list[str]:
    """The first faults, and how many more there are."""
    return [*faults[:most], *([f"and {len(faults) - most} more"] if len(faults) > most else [])]


def run(main: Callable[[], None], *, launches: bool = False) -> None:
    """Call a recipe's main; an error becomes one line on standard error (rank 0 only) and an exit status.

    A recipe that `launches` starts several processes of itself where `--accelerate_config` says so.

    2: a user's mistake. 75: the run was asked to stop and can be resumed. 1: the run cannot continue (a loss that is
    not finite, a full disk). 130: Ctrl-C that the recipe does not handle; summaries and answers so far are kept. 141:
    nobody reads the output any more.
    """
    # Deprecations inside the libraries, which a user cannot fix.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|trl|peft)\.")
    # On saving, PEFT checks on the hub whether the base model's vocabulary was changed, which fails offline.
    warnings.filterwarnings(
        "ignore", message="Unable to fetch remote file|Could not find a config file", module="peft"
    )
    status, line = 0, ""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        launched = start_processes() if launches else None
        if launched is None:
            main()
        status = launched or 0
    except InputError as error:
        status, line = 2, "\n".join(f"error: {_one_line(fault)}" for fault in error.args)
    except Stopped as error:
        asked = error.status not in (1, 2)
        status, line = error.status, _one_line(error) if asked else f"error: {_one_line(error)}"
    except KeyboardInterrupt:
        status, line = 130, "interrupted"
    except BrokenPipeError:  # the reader of the output has ended, such as `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        status = 141  # as of a process that SIGPIPE ends
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        status, line = 1, f"error: {_one_line(error)}: make room and start again"
    finally:
        for number, action in before.items():
            signal.signal(number, action)
    if line and os.environ.get("RANK", "0") == "0":
        print(line, file=sys.stderr)  # noqa: T201
    write_status(status)
    exit_process(status)
