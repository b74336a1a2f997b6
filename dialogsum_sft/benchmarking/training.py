"""Training runs, each in a process of its own: recipes/sft.py with a config, and TRL's script with what it shares."""

import shutil
import statistics
import sys
import time
from pathlib import Path

from dialogsum_sft import files
from dialogsum_sft.arguments import json_option
from dialogsum_sft.benchmarking.figures import OURS, Figures, figures_of
from dialogsum_sft.benchmarking.floors import training_floor
from dialogsum_sft.benchmarking.settings import BenchmarkArguments, Settings
from dialogsum_sft.data.examples import Examples
from dialogsum_sft.data.training_data import EncodedSplit
from dialogsum_sft.files import own_folder
from dialogsum_sft.modeling import EMBEDDED, embedded_model, load_adapter, load_model, lora_config

import torch
import trl
from datasets import Dataset
from peft import get_peft_model
from torch.nn import functional as F

WATCHED = "dialogsum_sft.benchmarking.watched"
TRL_SFT = "trl sft"
TRL_TUNED = ["--dtype=bfloat16", "--activation_checkpointing=false", "--lora_dropout=0.0"]


def training_commands(
    args: BenchmarkArguments, settings: Settings, train: Examples, folder: Path
) -> dict[str, list[str]]:
    """The script and options of each system; the rows that TRL's script reads are written to `folder`."""
    variants = json_option("variants", args.variants)
    if args.variants is None and torch.cuda.is_available():
        variants = {"packed": "--packing true", "packed, Liger": "--packing true --use_liger_kernel true"}
    pairs = ((row["dialogue"], summary) for row in train.rows for summary in row["references"])
    files.write_jsonl(folder / "rows" / "train.jsonl", (settings.prompt.messages(*pair) for pair in pairs))
    steps = [f"--max_steps={args.max_steps}", "--logging_steps=1", "--eval_strategy=no", "--save_strategy=no"]
    steps += ["--report_to=none", f"--output_dir={folder / 'run'}"]
    ours = [str(own_folder("recipes") / "sft.py"), "--config", args.recipe_config, *steps]
    commands = {OURS: ours}
    commands |= {f"{OURS}, {name}": [*ours, *options.split()] for name, options in variants.items()}
    commands[TRL_SFT] = [*trl_sft(settings, folder / "rows"), *steps]
    if "trl_tuned" in args.peers:
        commands[f"{TRL_SFT}, tuned"] = [*commands[TRL_SFT], *TRL_TUNED]
    return commands


def trl_sft(settings: Settings, rows: Path) -> list[str]:
    """The command of TRL's script: bf16 and what the two systems must share, else its defaults."""
    training_args, model_args = settings.training, settings.model
    name = str(model_args.model_name_or_path)
    shared = ("gradient_accumulation_steps", "per_device_eval_batch_size", "learning_rate", "warmup_steps", "seed")
    command = [str(Path(trl.__file__).parent / "scripts" / "sft.py"), "--bf16=true", f"--dataset_name={rows}"]
    command += [f"--model_name_or_path={embedded_model() if name == EMBEDDED else name}"]
    command += [] if torch.accelerator.is_available() else ["--use_cpu=true"]
    command += [f"--lr_scheduler_type={training_args.lr_scheduler_type.value}"]
    command += [f"--{option}={getattr(training_args, option)}" for option in ("per_device_train_batch_size", *shared)]
    command += [f"--{option}={getattr(model_args, option)}" for option in ("use_peft", "lora_r", "lora_alpha")]
    if model_args.load_in_4bit:
        quantisation = ("load_in_4bit", "bnb_4bit_quant_type", "use_bnb_nested_quant", "dtype")
        command += [f"--{option}={getattr(model_args, option)}" for option in quantisation]
    targets = model_args.lora_target_modules
    return command + ["--lora_target_modules", *([targets] if isinstance(targets, str) else targets or [])]


def train_once(
    settings: Settings,
    command: list[str],
    folder: Path,
    validation: EncodedSplit | None = None,
    profile: Path | None = None,
) -> Figures:
    """Run one of `training_commands` in a process of its own, measured by `watched`.

    The figures have the eval loss if `validation` is given and an adapter was trained. Raises InputError where the
    run fails.
    """
    shutil.rmtree(folder / "run", ignore_errors=True)
    result = folder / "figures.json"
    watched = [sys.executable, "-P", "-m", WATCHED, str(result), str(profile or ""), str(time.time()), *command]
    figures = figures_of(watched, result, Path(command[0]).name)
    if validation is not None and settings.model.use_peft:
        figures["eval_loss"] = eval_loss(settings, validation.rows, folder / "run")
    return figures


def eval_loss(settings: Settings, rows: Dataset, run: Path) -> float:
    """Mean negative log-likelihood over the supervised tokens of `rows`, in nats, with the adapter of a run."""
    folder = run / "adapter" if (run / "adapter").is_dir() else run  # TRL's script leaves it in the run's folder
    model = load_adapter(load_model(settings.model), str(folder)).eval()
    total = count = 0.0
    for row in rows:
        ids, start = torch.tensor([row["input_ids"]], device=model.device), row["prompt_tokens"]
        with torch.inference_mode():
            logits = model(input_ids=ids).logits[0].float()
        total += F.cross_entropy(logits[start - 1 : -1], ids[0, start:], reduction="sum").item()
        count += ids.shape[1] - start
    return total / count


def floor_tokens_per_second(settings: Settings, rows: Dataset, rounds: int) -> float | None:
    """Speed of a step's matrix products alone, on rows of middle length; None for a quantised or full model."""
    model_args, size = settings.model, settings.training.per_device_train_batch_size
    if model_args.load_in_4bit or model_args.load_in_8bit or not model_args.use_peft:
        return None
    model = load_model(model_args).to(torch.accelerator.current_accelerator() or "cpu")
    by_length = sorted(rows, key=lambda row: len(row["input_ids"]))
    batch = by_length[max(0, len(by_length) // 2 - size // 2) :][:size]
    adapted = get_peft_model(model, lora_config(model_args, model), autocast_adapter_dtype=False)
    lengths = [len(row["input_ids"]) for row in batch]
    supervised = sum(len(row["input_ids"]) - row["prompt_tokens"] for row in batch)
    seconds = statistics.median(training_floor(adapted, lengths, supervised) for _ in range(rounds))
    return sum(lengths) / seconds
