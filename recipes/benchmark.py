"""Speed and memory of a config in training and generation, compared with TRL's script, pipeline() and a plain loop.

    python recipes/benchmark.py --recipe_config recipes/configs/quickstart.yaml
    python recipes/benchmark.py --quick true

Training, each run in its own process: recipes/sft.py, and `trl sft` with bf16 and the config's model, rows, LoRA shape
and batch size, learning rate and schedule, else its defaults (float32 weights under autocast, LoRA dropout, activation
checkpointing). Tokens do not include padding. The first step, which allocates and warms up, is not measured. Start-up
is from the command to the first step.

Generation with the base model, greedy: this package; `pipeline("text-generation", batch_size=16)` in the same dtype
over the same prompts; and the tutorial's loop: float32, a row at a time, a row for each reference, like the hub's
DialogSum. Dialogues are counted, not rows.

The systems run in turn (A B A B); the tables have the medians. Memory is the peak of the process, or of the GPU.
"""

import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from dialogsum_sft import InputError, files, provenance
from dialogsum_sft.arguments import DataArguments, TrainArguments, json_option
from dialogsum_sft.benchmarking.figures import Results, median, peak_memory, speed_table
from dialogsum_sft.benchmarking.generation import Job, with_ours, with_pipeline, with_tutorial_loop
from dialogsum_sft.benchmarking.settings import BenchmarkArguments, Settings
from dialogsum_sft.benchmarking.training import (
    TRL_SFT,
    TRL_TUNED,
    eval_loss,
    floor_tokens_per_second,
    train_once,
    trl_sft,
)
from dialogsum_sft.cli import parse, run
from dialogsum_sft.data.examples import Examples, load_examples
from dialogsum_sft.hardware import training_defaults
from dialogsum_sft.modeling import load_model, load_tokenizer

import torch
from rich.console import Console
from trl import ModelConfig, ScriptArguments, SFTConfig

ROOT = Path(__file__).parent.parent
console = Console(width=120)


def main() -> None:
    (args,) = parse((BenchmarkArguments,))
    types = (ScriptArguments, SFTConfig, ModelConfig, DataArguments, TrainArguments)
    settings = Settings(*parse(types, ["--config", args.recipe_config], defaults=training_defaults))
    if args.max_steps < 2:
        raise InputError(f"--max_steps {args.max_steps}: the first step is not measured, so give 2 or more")
    if args.quick:
        args.rounds, args.max_steps, args.dialogues, args.tutorial_dialogues = 1, 2, 8, 1

    # 1. Load the rows
    script_args, data_args = settings.script, settings.data
    train = load_examples(script_args, data_args, script_args.dataset_train_split, settings.train.max_train_samples)
    split = "test" if script_args.dataset_name == "sample" else script_args.dataset_test_split
    test = load_examples(script_args, data_args, split, args.dialogues) if args.dialogues else None

    # 2. Train with each system on the same rows, and compute the floor under a step
    training, failed = train_in_turn(args, settings, train)
    console.print("the matrix multiplications of a step alone ...")
    floor = floor_tokens_per_second(settings, train, args.rounds)

    # 3. Summarise with each system
    generation = summarise_in_turn(args, settings, test) if test else {}

    # 4. Print and save the figures
    record = show_results(args, training, generation, floor, failed)
    if args.output:
        record |= {"arguments": vars(args), "hardware": provenance.hardware(), "versions": provenance.versions()}
        files.write_json(Path(args.output), record | {"git_revision": provenance.git_revision()})
        console.print(f"saved {args.output}", soft_wrap=True)


def train_in_turn(args: BenchmarkArguments, settings: Settings, train: Examples) -> tuple[Results, dict[str, str]]:
    """The figures of each system and round, and the error of each that failed: ours, theirs, ours, theirs, ..."""
    variants = json_option("variants", args.variants)
    if args.variants is None and torch.cuda.is_available():
        variants = {"packed": "--packing true", "packed, Liger": "--packing true --use_liger_kernel true"}
    split, limit = settings.script.dataset_test_split, settings.data.max_eval_samples
    validation = load_examples(settings.script, settings.data, split, limit)
    training: Results = defaultdict(list)
    failed: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pairs = ((row["dialogue"], summary) for row in train.rows for summary in row["references"])
        files.write_jsonl(folder / "rows" / "train.jsonl", (settings.prompt.messages(*pair) for pair in pairs))
        steps = [f"--max_steps={args.max_steps}", "--logging_steps=1", "--eval_strategy=no", "--save_strategy=no"]
        ours = [str(ROOT / "recipes" / "sft.py"), "--config", args.recipe_config, *steps, "--report_to=none"]
        commands = {"ours": ours}
        commands |= {f"ours, {name}": [*ours, *options.split()] for name, options in variants.items()}
        commands[TRL_SFT] = [*trl_sft(settings, folder / "rows"), *steps, "--report_to=none"]
        if "trl_tuned" in args.peers:
            commands[f"{TRL_SFT}, tuned"] = [*commands[TRL_SFT], *TRL_TUNED]
        for turn in range(args.rounds):
            for system, command in commands.items():
                console.print(f"round {turn + 1}: training with {system} ...")
                output_dir = folder / system.replace(" ", "-").replace(",", "")
                try:
                    figures = train_once([*command, f"--output_dir={output_dir}"], folder)
                except InputError as error:
                    if system == "ours":
                        raise
                    failed[system] = str(error)
                    continue
                if not args.quick and turn == 0 and args.dialogues:
                    adapter = output_dir if system.startswith(TRL_SFT) else output_dir / "adapter"
                    figures["eval_loss"] = eval_loss(settings, validation, str(adapter))
                training[system].append(figures)
        if args.profile:
            console.print("profiling a training step of ours ...")
            profile = folder / "profile.txt"
            train_once([*ours, "--max_steps=2", f"--output_dir={folder / 'profiled'}"], folder, profile)
            console.print(profile.read_text(encoding="utf-8"), highlight=False, soft_wrap=True)
    return training, failed


def summarise_in_turn(args: BenchmarkArguments, settings: Settings, test: Examples) -> Results:
    """The figures of each system and round."""
    chats = [settings.prompt.messages(row["dialogue"])["prompt"] for row in test.rows]
    job = Job(load_tokenizer(settings.model), chats, [len(row["references"]) for row in test.rows], args)
    device = str(torch.accelerator.current_accelerator() or "cpu")
    systems = {"ours": with_ours, "pipeline": with_pipeline, "tutorial loop": with_tutorial_loop}
    generation: Results = defaultdict(list)
    for turn in range(args.rounds):
        for system, summarise in systems.items():
            console.print(f"round {turn + 1}: summarising with {system} ...")
            dtype = "float32" if summarise is with_tutorial_loop else settings.model.dtype
            model = load_model(ModelConfig(**vars(settings.model) | {"dtype": dtype})).to(device).eval()
            with peak_memory() as peak:
                started = time.perf_counter()
                dialogues = summarise(model, job)
                seconds = time.perf_counter() - started
            generation[system].append({"dialogues_per_second": dialogues / seconds, "seconds": seconds} | peak)
            del model
    return generation


def show_results(
    args: BenchmarkArguments, training: Results, generation: Results, floor: float | None, failed: dict[str, str]
) -> dict[str, Any]:
    """Print the medians and the ratios; return them with the figures of every round."""
    columns = {"tokens/s": ("tokens_per_second", ".0f"), "start-up s": ("start_up_seconds", ".1f")}
    columns |= {"peak GiB": ("memory_gib", ".2f"), "eval loss": ("eval_loss", ".3f")}
    title = f"training, {args.recipe_config}, {args.max_steps} steps x {args.rounds}"
    table, ratios = speed_table(title, training, columns)
    if floor is not None:
        ratios["floor"] = median(training["ours"], "tokens_per_second") / floor
        table.add_row("its matrix products alone", f"{floor:.0f}", "", "", "", f"{ratios['floor']:.2f} x")
    for system, reason in failed.items():
        table.add_row(system, "failed", "", "", "", "")
        console.print(f"{system}: {reason}")
    console.print(table)
    title = f"generation, {args.dialogues} dialogues, {args.max_new_tokens} tokens at most"
    columns = {"dialogues/s": ("dialogues_per_second", ".2f"), "peak GiB": ("memory_gib", ".2f")}
    table, of_generation = speed_table(title, generation, columns)
    if generation:
        console.print(table)
    record = {"training": training, "generation": generation, "floor_tokens_per_second": floor}
    return record | {"ratios": ratios | of_generation, "failed": failed}


if __name__ == "__main__":
    run(main)
