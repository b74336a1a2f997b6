"""Training speed of a config on this machine, beside TRL's own `trl sft` on the same model, rows, batches and steps.

    python recipes/benchmark.py --recipe_config recipes/configs/quickstart.yaml --max_steps 20

`trl sft` gets bf16, the config's LoRA shape, learning rate and schedule, and is otherwise left at its defaults:
float32 weights under autocast, LoRA dropout, activation checkpointing. The two run one after the other, in processes
of their own. Tokens are real ones, padding not counted; seconds are those of the steps, start-up not counted. The eval
loss of both adapters is computed here, alike: the mean over the tokens of the summaries and their stop tokens.
"""

import ast
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dialogsum_sft import InputError, checkpoints, prompts
from dialogsum_sft.arguments import DataArguments, TrainArguments, parse, run
from dialogsum_sft.collator import CompletionOnlyCollator
from dialogsum_sft.data import Examples, load_examples
from dialogsum_sft.modeling import EMBEDDED, embedded_model, load_adapter, load_model, load_tokenizer

import torch
from rich import box
from rich.console import Console
from rich.table import Table
from torch.nn import functional as F
from trl import ModelConfig, ScriptArguments, SFTConfig

ROOT = Path(__file__).parent.parent


@dataclass
class BenchmarkArguments:
    recipe_config: str = field(
        default="recipes/configs/quickstart.yaml", metadata={"help": "Config of recipes/sft.py to measure."}
    )
    max_steps: int = field(default=20, metadata={"help": "Steps of each run."})
    output: str | None = field(default=None, metadata={"help": "JSON file for the figures."})


def main() -> None:
    (args,) = parse((BenchmarkArguments,))
    script_args, training_args, model_args, data_args, train_args = parse(
        (ScriptArguments, SFTConfig, ModelConfig, DataArguments, TrainArguments), ["--config", args.recipe_config]
    )
    console = Console()
    with tempfile.TemporaryDirectory() as folder:
        # 1. The rows, as trl sft reads them
        train = load_examples(script_args, data_args, script_args.dataset_train_split, train_args.max_train_samples)
        validation = load_examples(script_args, data_args, script_args.dataset_test_split, data_args.max_eval_samples)
        options = {"instruction": data_args.instruction, "system_prompt": data_args.system_prompt}
        rows = Path(folder) / "rows"
        checkpoints.write_jsonl(
            rows / "train.jsonl",
            (
                prompts.to_messages(row["dialogue"], summary, **options)
                for row in train.rows
                for summary in row["references"]
            ),
        )

        # 2. Ours, then theirs
        steps = [f"--max_steps={args.max_steps}", "--logging_steps=1"]
        steps += ["--eval_strategy=no", "--save_strategy=no", "--report_to=none"]
        ours = [sys.executable, str(ROOT / "recipes" / "sft.py"), "--config", args.recipe_config, *steps]
        name = str(model_args.model_name_or_path)
        theirs = [str(Path(sys.executable).parent / "trl"), "sft", *steps, "--bf16=true"]
        theirs += [f"--model_name_or_path={embedded_model() if name == EMBEDDED else name}", f"--dataset_name={rows}"]
        theirs += [] if torch.accelerator.is_available() else ["--use_cpu=true"]
        shared = (
            "per_device_train_batch_size gradient_accumulation_steps per_device_eval_batch_size learning_rate seed"
        )
        theirs += [f"--{option}={getattr(training_args, option)}" for option in shared.split()]
        theirs += [f"--lr_scheduler_type={training_args.lr_scheduler_type.value}"]
        theirs += [f"--warmup_steps={training_args.warmup_steps}"]
        theirs += [f"--{option}={getattr(model_args, option)}" for option in ("use_peft", "lora_r", "lora_alpha")]
        targets = model_args.lora_target_modules
        theirs += ["--lora_target_modules", *([targets] if isinstance(targets, str) else targets or [])]
        figures: dict[str, dict[str, float]] = {}
        for system, command in (("ours", ours), ("trl sft", theirs)):
            output_dir = Path(folder) / system
            console.print(f"running {system} ...")
            figures[system] = speed([*command, f"--output_dir={output_dir}"])
            adapter = output_dir / "adapter" if system == "ours" else output_dir
            figures[system]["eval_loss"] = eval_loss(model_args, data_args, validation, str(adapter))

    # 3. Tell
    table = Table(box=box.SIMPLE, title=f"{args.recipe_config}, {args.max_steps} steps")
    for column in ("", "tokens/s", "tokens", "seconds", "eval loss"):
        table.add_column(column, justify="right" if column else "left")
    for name, figure in figures.items():
        table.add_row(
            name,
            f"{figure['tokens_per_second']:.0f}",
            f"{figure['tokens']:.0f}",
            f"{figure['seconds']:.1f}",
            f"{figure['eval_loss']:.3f}",
        )
    ratio = figures["ours"]["tokens_per_second"] / figures["trl sft"]["tokens_per_second"]
    console.print(table)
    console.print(f"ours / trl sft: {ratio:.2f} x tokens/s")
    if args.output:
        record = {"figures": figures, "ratio": ratio, "hardware": checkpoints.hardware()}
        checkpoints.write_json(Path(args.output), record | {"versions": checkpoints.versions()})
        console.print(f"saved {args.output}")


def speed(command: list[str]) -> dict[str, float]:
    """Run a training and read its speed from what the Trainer prints."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        raise InputError(f"{' '.join(command[:2])} failed: {done.stderr.strip().splitlines()[-1]}")
    logged: dict[str, Any] = {}
    for line in done.stdout.replace("\r", "\n").splitlines():
        start, end = line.find("{'"), line.rfind("}")
        if start >= 0 and end > start:
            logged |= ast.literal_eval(line[start : end + 1])
    tokens, seconds = float(logged["num_tokens"]), float(logged["train_runtime"])
    return {"tokens": tokens, "seconds": seconds, "tokens_per_second": tokens / seconds}


def eval_loss(model_args: ModelConfig, data_args: DataArguments, examples: Examples, adapter: str) -> float:
    """Mean negative log-likelihood over the supervised tokens of `examples`, in nats."""
    tokenizer, model = load_tokenizer(model_args), load_adapter(load_model(model_args), adapter).eval()
    stop_ids = prompts.stop_token_ids(tokenizer, model.generation_config)
    collator = CompletionOnlyCollator(tokenizer.pad_token_id, stop_token_ids=stop_ids)
    options: dict[str, Any] = {"instruction": data_args.instruction, "system_prompt": data_args.system_prompt}
    total = count = 0.0
    for row in examples.rows:
        for summary in row["references"]:
            encoded = prompts.encode(tokenizer, row["dialogue"], summary, stop_ids, **options)
            batch = collator([encoded])
            with torch.inference_mode():
                logits = model(input_ids=batch["input_ids"].to(model.device)).logits
            labels = batch["labels"][0, 1:].to(model.device)
            total += F.cross_entropy(logits[0, :-1].float(), labels, ignore_index=-100, reduction="sum").item()
            count += int((labels != -100).sum())
    return total / count


if __name__ == "__main__":
    run(main)
