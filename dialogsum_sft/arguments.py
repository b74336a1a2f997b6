"""The options that TRL and transformers lack, and strict parsing of YAML and command line together."""

import argparse
import difflib
import errno
import json
import os
import re
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from dialogsum_sft import InputError, Stopped
from dialogsum_sft.data.prompts import INSTRUCTION
from dialogsum_sft.distributed import leave

import yaml
from trl import ModelConfig, SFTConfig, TrlParser


@dataclass
class DataArguments:
    """What the dataset looks like and how a dialogue is put to the model; training and evaluation share these."""

    dataset_revision: str | None = field(
        default=None, metadata={"help": "Commit, tag or branch of a dataset on the hub; pin it to publish a number."}
    )
    dialogue_column: str | None = field(
        default=None,
        metadata={"help": "Column with the dialogue: text, or a list of turns. Default: known by its name."},
    )
    summary_columns: list[str] | None = field(
        default=None,
        metadata={"help": "Columns with reference summaries. Default: summary, or summary1, summary2, ..., or alike."},
    )
    id_column: str | None = field(
        default=None,
        metadata={"help": "Column with the id. Default: id or fname if there is one, else the row number."},
    )
    topic_column: str | None = field(
        default=None, metadata={"help": "Column with a topic, by which scores can be told apart. Default: topic."}
    )
    allow_dropped_rows: bool = field(
        default=False,
        metadata={"help": "Go on when more than 1%% of the rows cannot be used; they are counted."},
    )
    rename_speakers: bool = field(
        default=False,
        metadata={"help": "Show the model #Person1#, ... for the speakers' names; summaries get them back."},
    )
    instruction: str = field(
        default=INSTRUCTION,
        metadata={"help": "Put before the dialogue in the user's turn, or around it where {dialogue} stands."},
    )
    system_prompt: str | None = field(
        default=None,
        metadata={"help": "System message; the head of the user's turn where the chat template takes no system role."},
    )
    max_eval_samples: int | None = field(
        default=None, metadata={"help": "Use only the first so many dialogues of the evaluation split."}
    )


@dataclass
class TrainArguments:
    """What only the training recipe needs."""

    max_train_samples: int | None = field(
        default=None, metadata={"help": "Use only the first so many dialogues of the training split."}
    )
    swap_speakers: bool = field(
        default=False,
        metadata={"help": "Train on each row once more with its first two speakers exchanged, in the summary too."},
    )
    eval_generate_samples: int = field(
        default=0,
        metadata={
            "help": "At every evaluation, summarise the first so many validation dialogues and score them: "
            "rouge1_mean, rouge2_mean, rougeL_mean, unfinished (for --metric_for_best_model too). 0: only the loss."
        },
    )
    eval_max_new_tokens: int = field(default=128, metadata={"help": "Longest of these summaries, in tokens."})
    eval_max_batch_tokens: int = field(
        default=16384,
        metadata={"help": "Size of their batches in tokens: rows times (longest prompt + eval_max_new_tokens)."},
    )
    eval_rouge_tokenizer: str = field(
        default="default",
        metadata={
            "help": "default: rouge_score's, for English; unicode: for other scripts.",
            "choices": ["default", "unicode"],
        },
    )
    early_stopping_patience: int | None = field(
        default=None,
        metadata={"help": "Stop after so many evaluations in a row without a better --metric_for_best_model."},
    )
    force_resume: bool = field(
        default=False,
        metadata={"help": "Go on from a checkpoint though options were changed since, with their new values."},
    )
    global_batch_size: int | None = field(
        default=None,
        metadata={
            "help": "Rows of a step, all processes together: gradient_accumulation_steps follows from it, so that a "
            "run is the same on one GPU and on eight."
        },
    )


@dataclass
class EvalArguments:
    """What only the evaluation recipe needs."""

    output_dir: str = field(
        default="runs/eval",
        metadata={"help": "Folder for eval-base/ and, with an adapter, eval-tuned/ (eval-served/ of an endpoint)."},
    )
    adapter_path: str | None = field(
        default=None, metadata={"help": "Adapter to evaluate beside its base: what recipes/sft.py left in adapter/."}
    )
    evaluate_base: bool = field(
        default=True, metadata={"help": "Whether to evaluate the base model too when an adapter is given."}
    )
    max_new_tokens: int = field(default=128, metadata={"help": "Longest summary, in tokens."})
    max_length: int | None = field(
        default=None,
        metadata={
            "help": "Longest prompt and summary together, in tokens; a longer dialogue loses turns. "
            "Default: what the model can hold."
        },
    )
    rouge_tokenizer: str = field(
        default="default",
        metadata={
            "help": "default: rouge_score's, for English; unicode: for other scripts.",
            "choices": ["default", "unicode"],
        },
    )
    max_batch_tokens: int = field(
        default=16384,
        metadata={"help": "Size of a generation batch in tokens: rows times (longest prompt + max_new_tokens)."},
    )
    generation_kwargs: str | None = field(
        default=None, metadata={"help": 'More GenerationConfig options as JSON, such as {"num_beams": 4}.'}
    )
    num_candidates: int = field(
        default=1,
        metadata={
            "help": "Draw so many summaries and keep the one nearest to the others by ROUGE-1 (minimum Bayes risk); "
            "at temperature 0.7 unless --generation_kwargs say otherwise."
        },
    )
    engine: str = field(
        default="transformers",
        metadata={
            "help": "transformers; vllm: its offline engine; openai: an endpoint that answers /chat/completions.",
            "choices": ["transformers", "vllm", "openai"],
        },
    )
    vllm_kwargs: str | None = field(
        default=None, metadata={"help": 'More arguments of vllm.LLM as JSON, such as {"tensor_parallel_size": 2}.'}
    )
    base_url: str | None = field(
        default=None,
        metadata={"help": "Endpoint of --engine openai, up to /v1; its key is taken from OPENAI_API_KEY."},
    )
    served_model_name: str | None = field(
        default=None, metadata={"help": "Name of the model at the endpoint. Default: --model_name_or_path."}
    )
    concurrency: int = field(default=8, metadata={"help": "How many requests the endpoint gets at once."})
    request_timeout: float = field(default=120.0, metadata={"help": "Seconds that one request may take."})
    seed: int = field(default=42, metadata={"help": "Seed of sampling and of the bootstrap intervals."})
    num_examples: int = field(default=3, metadata={"help": "How many dialogues to print with their summaries."})
    predictions_file: str | None = field(
        default=None,
        metadata={
            "help": "Score these summaries, with no model: a predictions.jsonl, which brings its references, or with "
            "--dataset_name any .jsonl (prediction, id) or a text file with a summary a line."
        },
    )
    bertscore: str | None = field(
        default=None,
        metadata={
            "help": "Encoder for BERTScore beside ROUGE: a folder, or a model in the hub's cache. Default: none."
        },
    )
    bertscore_layer: int | None = field(
        default=None, metadata={"help": "Its layer to compare. Default: 17 of 24, and in that proportion."}
    )


@dataclass
class MergeArguments:
    """The merging recipe's; it does not take ModelConfig's, as nothing is quantised or trained there."""

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Base model of the adapter, unquantised: a hub id, a folder, or 'embedded'."}
    )
    model_revision: str | None = field(default=None, metadata={"help": "Commit, tag or branch of the base model."})
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Whether the base model may run code of its own."}
    )
    adapter_path: str | None = field(
        default=None, metadata={"help": "Adapter to merge: what recipes/sft.py left in adapter/."}
    )
    output_dir: str | None = field(default=None, metadata={"help": "Default: merged/ beside the adapter."})
    dtype: str = field(
        default="bfloat16",
        metadata={"help": "What the merged weights are saved in.", "choices": ["bfloat16", "float16", "float32"]},
    )
    max_difference: float = field(
        default=1e-4,
        metadata={
            "help": "How far a logit of the merged weights may be from the adapter's in float32, as a share of the "
            "largest logit."
        },
    )
    num_prompts: int = field(default=4, metadata={"help": "How many bundled dialogues to compare logits on."})
    push_to_hub: bool = field(default=False, metadata={"help": "Push the merged model; the token is HF_TOKEN's."})
    hub_model_id: str | None = field(
        default=None, metadata={"help": "Name to push to. Default: the name of the output folder."}
    )
    hub_private_repo: bool | None = field(default=None, metadata={"help": "Whether a new repository is private."})


# Where the recipe knows better than SFTConfig and ModelConfig; a dtype of None is settled in `parse`.
_TRAINING_DEFAULTS = {
    "dtype": None,
    "lora_target_modules": ["all-linear"],
    "train_sampling_strategy": "group_by_length",
}


class _Parser(TrlParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message.strip()}. See --help for the options.")


class _Yaml12Floats(yaml.SafeLoader):
    """In YAML 1.1, which PyYAML reads, 1e-6 is a string; in YAML 1.2 and everybody's mind it is a number."""


_Yaml12Floats.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def parse(types: tuple[type[Any], ...], argv: Sequence[str] | None = None) -> tuple[Any, ...]:
    """Parse `--config FILE.yaml` and the command line, which wins, into one instance of each dataclass.

    A YAML value takes the same road as a flag, so its type and choices are checked alike (TrlParser alone takes YAML
    values as argparse defaults: `no` arrives as False, `2e-4` as a string, a wrong choice unseen).

    In a training (where SFTConfig is among `types`) adapters go on all linear layers, batches are grouped by length,
    and the dtype is auto with an adapter, float32 without: the small updates of full fine-tuning get lost in bfloat16.

    Raises InputError for an unknown key or flag (with the nearest one there is), a bad value or a missing file.
    """
    parser = _Parser(types, allow_abbrev=False)
    if SFTConfig in types and ModelConfig in types:
        parser.set_defaults(**_TRAINING_DEFAULTS)
    flags = {option for action in parser._actions for option in action.option_strings if option.startswith("--")}
    args = list(sys.argv[1:] if argv is None else argv)
    unknown = [word.split("=")[0] for word in args if re.match(r"--[A-Za-z]", word)]
    unknown = [word for word in unknown if word not in flags | {"--config"}]
    source = "the command line"
    if any(word == "--config" or word.startswith("--config=") for word in args):
        config, args = _split_config(args)
        if not unknown:
            unknown, source = [f"--{key}" for key in config if f"--{key}" not in flags], "the config file"
        args = _to_argv(config) + args
    if unknown:
        near = difflib.get_close_matches(unknown[0], {flag for flag in flags if "-" not in flag[2:]}, n=2, cutoff=0.75)
        hint = f"; did you mean {' or '.join(word.removeprefix('--') for word in near)}?" if near else ""
        names = ", ".join(word.removeprefix("--") for word in unknown)
        raise InputError(f"unknown option in {source}: {names}{hint}")
    try:
        parts = tuple(parser.parse_args_and_config(args))
    except (
        ValueError,
        TypeError,
        ImportError,
        argparse.ArgumentError,
    ) as error:  # ImportError: --deepspeed without it
        raise InputError(_one_line(error)) from error
    for part in parts:
        if isinstance(part, ModelConfig) and part.dtype is None:
            part.dtype = "auto" if part.use_peft else "float32"
    return parts


def _split_config(args: list[str]) -> tuple[dict[str, Any], list[str]]:
    at = next(i for i, word in enumerate(args) if word == "--config" or word.startswith("--config="))
    inline = args[at].startswith("--config=")
    if not inline and at + 1 == len(args):
        raise InputError("--config needs the path of a YAML file")
    path = args[at].removeprefix("--config=") if inline else args[at + 1]
    rest = args[:at] + args[at + (1 if inline else 2) :]
    if not Path(path).is_file():
        raise InputError(f"config file not found: {path}")
    try:
        # BaseLoader keeps every scalar as it is written (`no`, `2e-4`), so that argparse alone decides its type.
        text = Path(path).read_text(encoding="utf-8")
        as_written, typed = yaml.load(text, Loader=yaml.BaseLoader), yaml.load(text, Loader=_Yaml12Floats)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not readable YAML: {_one_line(error)}") from error
    if not isinstance(as_written, dict):
        raise InputError(f"{path} must hold a YAML mapping of option: value")
    if any(word == "--config" or word.startswith("--config=") for word in rest):
        raise InputError("--config is given twice; put both files' options into one")
    # A mapping is a JSON option (model_init_kwargs, ...), whose values keep their YAML types; null is left out.
    values = {key: typed[key] if isinstance(value, dict) else value for key, value in as_written.items()}
    return {key: value for key, value in values.items() if typed[key] is not None}, rest


def _to_argv(config: dict[str, Any]) -> list[str]:
    argv: list[str] = []
    for key, value in config.items():
        if isinstance(value, list):
            argv += [f"--{key}", *map(str, value)]
        else:
            argv.append(f"--{key}={json.dumps(value) if isinstance(value, dict) else value}")
    return argv


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def run(main: Callable[[], None]) -> None:
    """Call a recipe's main; what ends it becomes one line on standard error (rank 0 only) and an exit status.

    2 is a user's mistake, 75 a run that was asked to stop and goes on when started again, 1 one that cannot go on (a
    loss that is not finite, a full disk), 130 a Ctrl-C before there was anything to save.
    """
    # Deprecations inside and between the libraries, which a user cannot act on.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|trl|peft)\.")
    # On saving, PEFT asks the hub whether the base model's vocabulary was changed; offline it may well not answer.
    warnings.filterwarnings(
        "ignore", message="Unable to fetch remote file|Could not find a config file", module="peft"
    )
    status, line = 0, ""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        main()
    except InputError as error:
        status, line = 2, f"error: {_one_line(error)}"
    except Stopped as error:
        status, line = error.status, _one_line(error) if error.status == 75 else f"error: {_one_line(error)}"
    except KeyboardInterrupt:
        status, line = 130, "interrupted"
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        status, line = 1, f"error: {_one_line(error)}: make room and start again"
    finally:
        for number, action in before.items():
            signal.signal(number, action)
    if line and os.environ.get("RANK", "0") == "0":
        print(line, file=sys.stderr)
    leave(status)
