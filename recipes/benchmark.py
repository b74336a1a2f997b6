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

import contextlib
import json
import runpy
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dialogsum_sft import InputError, files, provenance
from dialogsum_sft.arguments import DataArguments, TrainArguments, json_option
from dialogsum_sft.cli import parse, run
from dialogsum_sft.data import chat_template, prompts
from dialogsum_sft.data.examples import Examples, load_examples
from dialogsum_sft.generation.engine import generation_config
from dialogsum_sft.generation.transformers_engine import generate_batches
from dialogsum_sft.hardware import training_defaults
from dialogsum_sft.modeling import EMBEDDED, embedded_model, load_adapter, load_model, load_tokenizer, lora_config
from dialogsum_sft.tables import Table
from dialogsum_sft.training.matmul_floor import matmul_floor

import psutil
import torch
import trl
from peft import get_peft_model
from rich.console import Console
from torch.nn import functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, pipeline
from transformers.hf_argparser import HfArg
from trl import ModelConfig, ScriptArguments, SFTConfig

ROOT = Path(__file__).parent.parent
TRL_SFT = "trl sft"
TRL_TUNED = ["--dtype=bfloat16", "--activation_checkpointing=false", "--lora_dropout=0.0"]
Figures = dict[str, float]
Results = dict[str, list[Figures]]  # of each system, in each round
console = Console(width=120)


@dataclass
class BenchmarkArguments:
    recipe_config: str = HfArg(default="quickstart", help="Config of recipes/sft.py: a file, or a name in configs/.")
    rounds: int = HfArg(default=2, help="How often each system is run, in turn.")
    max_steps: int = HfArg(default=8, help="Training steps of a run.")
    dialogues: int = HfArg(
        default=24, help="Dialogues to summarise, the first of the test split; 0: only the speed of training."
    )
    tutorial_dialogues: int = HfArg(
        default=4, help="Of these, so many evenly spread ones for the tutorial's slow loop."
    )
    max_new_tokens: int = HfArg(default=80, help="Longest summary, in tokens.")
    max_batch_tokens: int = HfArg(default=16384, help="Size of this package's generation batch.")
    quick: bool = HfArg(
        default=False, help="One round, 2 steps, 8 dialogues, 1 for the tutorial's loop, no eval loss."
    )
    profile: bool = HfArg(default=False, help="Print where the time of a training step goes.")
    variants: str | None = HfArg(
        default=None,
        help='More ways to train, as JSON of name: options, such as {"packed": "--packing true"}. '
        "Default: packed and packed with Liger kernels with a GPU, else none.",
    )
    peers: list[str] = HfArg(
        default_factory=list,
        help="More systems: trl_tuned, `trl sft` with bf16 weights, no activation checkpointing and no dropout.",
        metadata={"choices": ["trl_tuned"]},
    )
    output: str | None = HfArg(default=None, help="JSON file for the figures.")


@dataclass
class Settings:
    """The config of recipes/sft.py that is measured."""

    script: ScriptArguments
    training: SFTConfig
    model: ModelConfig
    data: DataArguments
    train: TrainArguments

    @property
    def prompt(self) -> prompts.PromptSettings:
        return prompts.PromptSettings.from_arguments(self.data)


@dataclass
class Job:
    """The dialogues to summarise, as chats, with the number of references of each."""

    tokenizer: PreTrainedTokenizerBase
    chats: list[Any]
    references: list[int]
    args: BenchmarkArguments


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
    floor = floor_tokens_per_second(args, settings, train)

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


def floor_tokens_per_second(args: BenchmarkArguments, settings: Settings, train: Examples) -> float | None:
    """Speed of a step's matrix multiplications alone, on rows of middle length; None for a quantised or full model."""
    model_args, size = settings.model, settings.training.per_device_train_batch_size
    if model_args.load_in_4bit or model_args.load_in_8bit or not model_args.use_peft:
        return None
    console.print("the matrix multiplications of a step alone ...")
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
    seconds = statistics.median(matmul_floor(adapted, lengths, supervised) for _ in range(args.rounds))
    return sum(lengths) / seconds


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
    """Run a training script in its own process, measured by `watch`."""
    result = folder / "figures.json"
    result.unlink(missing_ok=True)
    watched = [sys.executable, __file__, "--watch", str(result), str(profile or ""), str(time.time()), *command]
    done = subprocess.run(watched, capture_output=True, text=True)
    if done.returncode != 0 or not result.is_file():
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise InputError(f"{Path(command[0]).name} failed: {lines[-1]}")
    return json.loads(result.read_text(encoding="utf-8"))


def watch() -> None:
    """Run a training script in this process, and write its start-up time, speed and peak memory."""
    result, profile, started, *sys.argv = sys.argv[2:]
    begun: list[float] = []  # when each step began
    done: list[tuple[float, float]] = []  # when it was over, and the tokens until then
    log, training_step = Trainer.log, Trainer.training_step

    def watched_log(self: Trainer, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if "loss" in logs:
            done.append((time.perf_counter(), logs["num_tokens"]))
        log(self, logs, *args, **kwargs)

    def watched_step(self: Trainer, *args: Any, **kwargs: Any) -> Any:
        begun.append(time.time())
        if not profile or len(begun) != 2:
            return training_step(self, *args, **kwargs)
        with torch.profiler.profile() as profiler:
            loss = training_step(self, *args, **kwargs)
        sort = "self_cuda_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
        table = profiler.key_averages().table(sort_by=sort, row_limit=20, max_name_column_width=45)
        Path(profile).write_text(table, encoding="utf-8")
        return loss

    Trainer.log, Trainer.training_step = watched_log, watched_step
    with peak_memory() as peak:
        runpy.run_path(sys.argv[0], run_name="__main__")
    (start, before), (end, after) = done[0], done[-1]  # the first step allocates, compiles and warms up
    tokens, seconds = after - before, end - start
    figures = {"tokens": tokens, "seconds": seconds, "tokens_per_second": tokens / seconds}
    files.write_json(Path(result), figures | {"start_up_seconds": begun[0] - float(started)} | peak)


@contextlib.contextmanager
def peak_memory() -> Iterator[dict[str, float]]:
    """Measure the peak within a `with` block, as `memory_gib`: of the GPU where there is one, else of this process.

    The resident memory of the process is read every 10 ms, which misses shorter peaks.
    """
    figures, done, process = {"memory_gib": 0.0}, threading.Event(), psutil.Process()

    def read() -> None:
        while not done.wait(0.01):
            figures["memory_gib"] = max(figures["memory_gib"], process.memory_info().rss / 2**30)

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        yield figures
        figures["memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
        return
    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    yield figures
    done.set()
    reader.join()


def with_ours(model: PreTrainedModel, job: Job) -> int:
    """Like the other systems, return how many dialogues were summarised."""
    tokenizer, args = job.tokenizer, job.args
    ids = chat_template.render_batch(tokenizer, job.chats, add_generation_prompt=True)
    stop_ids = prompts.stop_token_ids(tokenizer, model.generation_config)
    config = generation_config(tokenizer, stop_ids, args.max_new_tokens)
    batches = generate_batches(model, tokenizer, ids, config, max_batch_tokens=args.max_batch_tokens)
    return sum(map(len, batches))


def with_pipeline(model: PreTrainedModel, job: Job) -> int:
    summarise = pipeline("text-generation", model=model, tokenizer=job.tokenizer, batch_size=16)
    options = {"max_new_tokens": job.args.max_new_tokens, "do_sample": False, "return_full_text": False}
    return len(summarise(job.chats, **options))


def with_tutorial_loop(model: PreTrainedModel, job: Job) -> int:
    tokenizer, count = job.tokenizer, job.args.tutorial_dialogues
    every = max(1, len(job.chats) // count)
    sample = list(zip(job.chats, job.references, strict=True))[every // 2 :: every][:count]
    for chat, rows in sample:
        ids = chat_template.render_batch(tokenizer, [chat], add_generation_prompt=True)[0]
        inputs = torch.tensor([ids], device=model.device)
        options: dict[str, Any] = {"max_new_tokens": job.args.max_new_tokens, "do_sample": False}
        options |= {"attention_mask": torch.ones_like(inputs), "pad_token_id": tokenizer.pad_token_id}
        for _ in range(rows):  # the same dialogue again: the hub has a row for each reference
            with torch.no_grad():
                output = model.generate(input_ids=inputs, **options)
            tokenizer.decode(output[0, inputs.shape[1] :], skip_special_tokens=True)
    return len(sample)


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


def speed_table(title: str, results: Results, columns: dict[str, tuple[str, str]]) -> tuple[Table, dict[str, float]]:
    """A row of medians for each system, and the ratios of ours by the first of `columns` {title: (figure, format)}."""
    table, ratios = Table(title, ["", *columns, "ours is"]), {}
    speed = next(iter(columns.values()))[0]
    for system, figures in results.items():
        if system != "ours":
            ratios[system] = median(results["ours"], speed) / median(figures, speed)
        known = {name for figure in figures for name in figure}
        cells = [format(median(figures, name), spec) if name in known else "" for name, spec in columns.values()]
        table.add_row(system, *cells, f"{ratios[system]:.2f} x" if system in ratios else "")
    return table, ratios


def median(figures: list[Figures], name: str) -> float:
    return statistics.median(figure[name] for figure in figures if name in figure)


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
    if sys.argv[1:2] == ["--watch"]:
        watch()
    else:
        run(main)
