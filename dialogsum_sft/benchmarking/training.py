"""Training runs, each in a process of its own: recipes/sft.py with a config, and TRL's script with what it shares."""

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

from dialogsum_sft import InputError
from dialogsum_sft.benchmarking.figures import Figures
from dialogsum_sft.benchmarking.floors import training_floor
from dialogsum_sft.benchmarking.settings import Settings
from dialogsum_sft.data import prompts
from dialogsum_sft.data.examples import Examples
from dialogsum_sft.modeling import EMBEDDED, embedded_model, load_adapter, load_model, load_tokenizer, lora_config

import torch
import trl
from peft import get_peft_model
from torch.nn import functional as F

WATCHED = "dialogsum_sft.benchmarking.watched"
TRL_SFT = "trl sft"
TRL_TUNED = ["--dtype=bfloat16", "--activation_checkpointing=false", "--lora_dropout=0.0"]


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


def train_once(command: list[str], folder: Path, profile: Path | None = None) -> Figures:
    """Run a training script in its own process, measured by `watched`."""
    result = folder / "figures.json"
    result.unlink(missing_ok=True)
    watched = [sys.executable, "-P", "-m", WATCHED, str(result), str(profile or ""), str(time.time()), *command]
    done = subprocess.run(watched, capture_output=True, text=True)
    if done.returncode != 0 or not result.is_file():
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise InputError(f"{Path(command[0]).name} failed: {lines[-1]}")
    return json.loads(result.read_text(encoding="utf-8"))


def eval_loss(settings: Settings, examples: Examples, adapter: str) -> float:
    """Mean negative log-likelihood over the supervised tokens of `examples`, in nats."""
    tokenizer, model = load_tokenizer(settings.model), load_adapter(load_model(settings.model), adapter).eval()
    stop_ids = prompts.stop_token_ids(tokenizer, model.generation_config)
    total = count = 0.0
    for row in examples.rows:
        for summary in row["references"]:
            encoded = prompts.encode(tokenizer, row["dialogue"], summary, stop_ids, settings.prompt)
            ids = torch.tensor([encoded["input_ids"]], device=model.device)
            with torch.inference_mode():
                logits = model(input_ids=ids).logits[0].float()
            start = encoded["prompt_tokens"]
            total += F.cross_entropy(logits[start - 1 : -1], ids[0, start:], reduction="sum").item()
            count += ids.shape[1] - start
    return total / count


def floor_tokens_per_second(settings: Settings, train: Examples, rounds: int) -> float | None:
    """Speed of a step's matrix multiplications alone, on rows of middle length; None for a quantised or full model."""
    model_args, size = settings.model, settings.training.per_device_train_batch_size
    if model_args.load_in_4bit or model_args.load_in_8bit or not model_args.use_peft:
        return None
    tokenizer, model = load_tokenizer(model_args), load_model(model_args)
    model.to(torch.accelerator.current_accelerator() or "cpu")
    pairs = [(row["dialogue"], row["references"][0]) for row in train.rows]
    stop_ids = prompts.stop_token_ids(tokenizer, model.generation_config)
    encoded = prompts.encode_batch(tokenizer, pairs, stop_ids, settings.prompt)
    encoded.sort(key=lambda row: len(row["input_ids"]))
    batch = encoded[max(0, len(encoded) // 2 - size // 2) :][:size]
    adapted = get_peft_model(model, lora_config(model_args, model), autocast_adapter_dtype=False)
    lengths = [len(row["input_ids"]) for row in batch]
    supervised = sum(len(row["input_ids"]) - row["prompt_tokens"] for row in batch)
    seconds = statistics.median(training_floor(adapted, lengths, supervised) for _ in range(rounds))
    return sum(lengths) / seconds
