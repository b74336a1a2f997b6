"""Speed and memory of a config in training and generation, compared with TRL's script, pipeline() and a plain loop.

    python recipes/benchmark.py --recipe_config recipes/configs/quickstart.yaml
    python recipes/benchmark.py --quick true

Training, each run in its own process: recipes/sft.py, and `trl sft` with bf16 and the config's model, rows, LoRA shape
and batch size, learning rate and schedule, else its defaults (float32 weights under autocast, LoRA dropout, activation
checkpointing). Tokens do not include padding. The first step, which allocates and warms up, is not measured. Start-up
is from the command to the first step.

Generation with the base model or an adapter, greedy: this package; `pipeline("text-generation", batch_size=16)` in the
same dtype over the same prompts, with the adapter merged; the tutorial's loop: float32, a row at a time, a row for
each reference, like the hub's DialogSum; and, if asked, vLLM in a process of its own. Dialogues are counted, not rows.

The systems run in turn (A B A B); the tables have the medians, and as a floor the speed of the matrix products alone.
Memory is the peak of the process, or of the GPU.
"""

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from dialogsum_sft import files, provenance
from dialogsum_sft.arguments import DataArguments, TrainArguments
from dialogsum_sft.benchmarking.figures import Comparison
from dialogsum_sft.benchmarking.generation import floor_dialogues_per_second, generation_runs, make_job
from dialogsum_sft.benchmarking.settings import BenchmarkArguments, Settings
from dialogsum_sft.benchmarking.training import floor_tokens_per_second, train_once, training_commands
from dialogsum_sft.cli import parse, run
from dialogsum_sft.hardware import training_defaults

from rich.console import Console
from trl import ModelConfig, ScriptArguments, SFTConfig

console = Console(width=120)

# Columns of the tables, {title: (figure, format)}; the first is compared.
TRAINING = {"tokens/s": ("tokens_per_second", ".0f"), "start-up s": ("start_up_seconds", ".1f")}
TRAINING |= {"peak GiB": ("memory_gib", ".2f"), "eval loss": ("eval_loss", ".3f")}
GENERATION = {"dialogues/s": ("dialogues_per_second", ".2f"), "peak GiB": ("memory_gib", ".2f")}


def main() -> None:
    # 1. Options, and the config that is measured
    (args,) = parse((BenchmarkArguments,))
    types = (ScriptArguments, SFTConfig, ModelConfig, DataArguments, TrainArguments)
    settings = Settings(*parse(types, ["--config", args.recipe_config], defaults=training_defaults))
    args.check(settings.model)

    # 2. Rows, as recipes/sft.py and recipes/eval.py read them
    data = settings.training_data() if args.max_steps else None
    test = settings.test_data(args.dialogues) if args.dialogues else None

    # 3. Train with each system in turn, each run in a process of its own; then the matrix products of a step alone
    training, generation = Comparison(TRAINING), Comparison(GENERATION)
    if data is not None:
        validation = None if args.quick or test is None else data.validation
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            commands = training_commands(args, settings, data.train.examples, folder)
            for turn, system in training.turns(args.rounds, commands):
                console.print(f"round {turn}: training with {system} ...")
                split = validation if turn == 1 else None
                training.measure(system, partial(train_once, settings, commands[system], folder, split))
            if args.profile:
                console.print("profiling a training step of ours ...")
                show_profile(settings, commands["ours"], folder)
        console.print("the matrix products of a training step alone ...")
        training.floor = floor_tokens_per_second(settings, data.train.rows, args.rounds)

    # 4. Summarise with each system in turn; then the matrix products of prefill and decoding alone
    if test is not None:
        job = make_job(args, settings, test)
        runs = generation_runs(settings, job)
        for turn, system in generation.turns(args.rounds, runs):
            console.print(f"round {turn}: summarising with {system} ...")
            generation.measure(system, runs[system])
        console.print("the matrix products of prefill and decoding alone ...")
        generation.floor = floor_dialogues_per_second(settings, job)

    # 5. Print and save the figures
    record = show_results(args, training, generation)
    if args.output:
        record |= {"arguments": vars(args), "hardware": provenance.hardware(), "versions": provenance.versions()}
        files.write_json(Path(args.output), record | {"git_revision": provenance.git_revision()})
        console.print(f"saved {args.output}", soft_wrap=True)


def show_profile(settings: Settings, command: list[str], folder: Path) -> None:
    """Train two steps, and print where the time of the second went."""
    profile = folder / "profile.txt"
    train_once(settings, [*command, "--max_steps=2"], folder, profile=profile)
    console.print(profile.read_text(encoding="utf-8"), highlight=False, soft_wrap=True)


def show_results(args: BenchmarkArguments, training: Comparison, generation: Comparison) -> dict[str, Any]:
    """Print the medians and the ratios; return them with the figures of every round."""
    failed = training.failed | generation.failed
    for system, reason in failed.items():
        console.print(f"{system}: {reason}", markup=False, soft_wrap=True)
    if training.figures:
        console.print(training.table(f"training, {args.recipe_config}, {args.max_steps} steps x {args.rounds}"))
    if generation.figures:
        model = "with the adapter" if args.adapter_path else "base model"
        title = f"generation, {model}, {args.dialogues} dialogues, {args.max_new_tokens} tokens at most"
        console.print(generation.table(title))
    return {
        "training": training.figures,
        "generation": generation.figures,
        "floor_tokens_per_second": training.floor,
        "floor_dialogues_per_second": generation.floor,
        "ratios": {"training": training.ratios(), "generation": generation.ratios()},
        "failed": failed,
    }


if __name__ == "__main__":
    run(main)
