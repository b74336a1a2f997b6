"""How fast a config trains and summarises on this machine, beside what one would use without this package.

    python recipes/benchmark.py --recipe_config recipes/configs/quickstart.yaml
    python recipes/benchmark.py --quick true

Training, each run in a process of its own: recipes/sft.py, and `trl sft` with bf16 and the config's model, rows, LoRA
shape, batch size, learning rate and schedule, else its defaults (float32 weights under autocast, LoRA dropout,
activation checkpointing). Tokens are real ones, padding not counted; the first step, which allocates and warms up, is
not measured. Start-up is from the command to the first step. With a GPU, sft.py is also run with the options that
--variants names.

Generation with the base model, greedy: `generate` of this package; `pipeline("text-generation", batch_size=16)` in the
same dtype over the same prompts; and the tutorial's loop: float32, a row at a time, a row for each reference, as the
hub has DialogSum. Dialogues are counted, not rows.

All are run in turn (A B A B), --rounds times; the table has the medians. The floor under a training step is the time
of its matrix multiplications alone, see `matmul_floor`. Memory is the peak of the process (resident), or of the GPU.
"""

import importlib.util
import json
import runpy
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from dialogsum_sft import InputError, files, provenance
from dialogsum_sft.arguments import DataArguments, TrainArguments
from dialogsum_sft.cli import parse, run
from dialogsum_sft.data import prompts
from dialogsum_sft.data.examples import Examples, load_examples
from dialogsum_sft.generation.engine import generation_config
from dialogsum_sft.generation.transformers_engine import generate_batches
from dialogsum_sft.hardware import training_defaults
from dialogsum_sft.modeling import EMBEDDED, embedded_model, load_adapter, load_model, load_tokenizer
from dialogsum_sft.training.collator import CompletionOnlyCollator

import psutil
import torch
from peft import PeftModel, get_peft_model
from rich import box
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, pipeline
from trl import ModelConfig, ScriptArguments, SFTConfig, get_peft_config

ROOT = Path(__file__).parent.parent
TRL_SFT = "trl sft"
Figures = dict[str, float]


@dataclass
class BenchmarkArguments:
    recipe_config: str = field(
        default="recipes/configs/quickstart.yaml", metadata={"help": "Config of recipes/sft.py to measure."}
    )
    rounds: int = field(default=2, metadata={"help": "How often each system is run, in turn."})
    max_steps: int = field(default=8, metadata={"help": "Training steps of a run."})
    dialogues: int = field(default=24, metadata={"help": "Dialogues to summarise, the first of the test split."})
    tutorial_dialogues: int = field(
        default=4, metadata={"help": "Of these, so many evenly spread ones for the tutorial's slow loop."}
    )
    max_new_tokens: int = field(default=80, metadata={"help": "Longest summary, in tokens."})
    max_batch_tokens: int = field(default=16384, metadata={"help": "Size of this package's generation batch."})
    quick: bool = field(
        default=False, metadata={"help": "One round, 2 steps, 8 dialogues, 1 for the tutorial's loop, no eval loss."}
    )
    profile: bool = field(default=False, metadata={"help": "Print where the time of a training step goes."})
    variants: str | None = field(
        default=None,
        metadata={
            "help": 'More ways to train, as JSON of name: options, such as {"packed": "--packing true"}. '
            "Default: packed and packed with Liger kernels with a GPU, else none."
        },
    )
    output: str | None = field(default=None, metadata={"help": "JSON file for the figures."})


def main() -> None:
    (args,) = parse((BenchmarkArguments,))
    script_args, training_args, model_args, data_args, train_args = parse(
        (ScriptArguments, SFTConfig, ModelConfig, DataArguments, TrainArguments),
        ["--config", args.recipe_config],
        defaults=training_defaults,
    )
    if args.max_steps < 2:
        raise InputError(f"--max_steps {args.max_steps}: the first step is not measured, so give 2 or more")
    if args.quick:
        args.rounds, args.max_steps, args.dialogues, args.tutorial_dialogues = 1, 2, 8, 1
    gpu = torch.cuda.is_available()
    packed = {"packed": "--packing true", "packed, Liger": "--packing true --use_liger_kernel true"}
    try:
        variants: dict[str, str] = json.loads(args.variants) if args.variants else packed if gpu else {}
    except json.JSONDecodeError as error:
        raise InputError(f"--variants is not JSON: {error}") from error
    console = Console(width=120)
    training: dict[str, list[Figures]] = defaultdict(list)
    generation: dict[str, list[Figures]] = defaultdict(list)
    failed: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        # 1. The rows, as trl sft reads them
        train = load_examples(script_args, data_args, script_args.dataset_train_split, train_args.max_train_samples)
        validation = load_examples(script_args, data_args, script_args.dataset_test_split, data_args.max_eval_samples)
        settings = prompts.PromptSettings.from_arguments(data_args)
        rows = Path(folder) / "rows"
        files.write_jsonl(
            rows / "train.jsonl",
            (settings.messages(row["dialogue"], summary) for row in train.rows for summary in row["references"]),
        )

        # 2. Training: ours, theirs, ours, theirs, ...
        steps = [f"--max_steps={args.max_steps}", "--logging_steps=1", "--eval_strategy=no", "--save_strategy=no"]
        ours = [str(ROOT / "recipes" / "sft.py"), "--config", args.recipe_config, *steps, "--report_to=none"]
        theirs = trl_sft(training_args, model_args, rows) + [*steps, "--report_to=none"]
        commands = {"ours": ours}
        commands |= {f"ours, {name}": [*ours, *options.split()] for name, options in variants.items()}
        commands[TRL_SFT] = theirs
        for turn in range(args.rounds):
            for system, command in commands.items():
                console.print(f"round {turn + 1}: training with {system} ...")
                output_dir = Path(folder) / system.replace(" ", "-").replace(",", "")
                try:
                    figures = train_once([*command, f"--output_dir={output_dir}"], Path(folder))
                except InputError as error:
                    if system == "ours":
                        raise
                    failed[system] = str(error)
                    continue
                if not args.quick and turn == 0:
                    adapter = output_dir if system == TRL_SFT else output_dir / "adapter"
                    figures["eval_loss"] = eval_loss(model_args, data_args, validation, str(adapter))
                training[system].append(figures)

        if args.profile:
            console.print("profiling a training step of ours ...")
            profile = Path(folder) / "profile.txt"
            train_once([*ours, "--max_steps=2", f"--output_dir={Path(folder) / 'profiled'}"], Path(folder), profile)
            console.print(profile.read_text(encoding="utf-8"), highlight=False, soft_wrap=True)

    # 3. The floor: the matrix multiplications of a step, of rows of like length as they are batched
    tokenizer, model = load_tokenizer(model_args), load_model(model_args)
    floor = None
    if not (model_args.load_in_4bit or model_args.load_in_8bit) and model_args.use_peft:
        console.print("the matrix multiplications of a step alone ...")
        model.to(torch.accelerator.current_accelerator() or "cpu")
        stop_ids = prompts.stop_token_ids(tokenizer, model.generation_config)
        encoded = prompts.encode_batch(
            tokenizer, [(row["dialogue"], row["references"][0]) for row in train.rows], stop_ids, settings
        )
        encoded.sort(key=lambda row: len(row["input_ids"]))
        middle = max(0, len(encoded) // 2 - training_args.per_device_train_batch_size // 2)
        batch = encoded[middle : middle + training_args.per_device_train_batch_size]
        adapted = get_peft_model(model, get_peft_config(model_args), autocast_adapter_dtype=False)
        lengths = [len(row["input_ids"]) for row in batch]
        supervised = sum(len(row["input_ids"]) - row["prompt_tokens"] for row in batch)
        floor = sum(lengths) / statistics.median(
            matmul_floor(adapted, lengths, supervised) for _ in range(args.rounds)
        )
        del adapted
    del model

    # 4. Generation, in turn again
    split = "test" if script_args.dataset_name == "sample" else script_args.dataset_test_split
    test = load_examples(script_args, data_args, split, args.dialogues)
    chats = [settings.messages(row["dialogue"])["prompt"] for row in test.rows]
    references = [len(row["references"]) for row in test.rows]
    device = str(torch.accelerator.current_accelerator() or "cpu")
    works = {"ours": with_ours, "pipeline": with_pipeline, "tutorial loop": with_tutorial_loop}
    for turn in range(args.rounds):
        for system, work in works.items():
            console.print(f"round {turn + 1}: summarising with {system} ...")
            dtype = "float32" if work is with_tutorial_loop else model_args.dtype
            model = load_model(ModelConfig(**vars(model_args) | {"dtype": dtype})).to(device).eval()
            generation[system].append(timed(work, model, tokenizer, chats, references, args))
            del model

    # 5. Tell
    record = tell(console, args, training, generation, floor, failed)
    if args.output:
        record |= {"arguments": vars(args), "hardware": provenance.hardware(), "versions": provenance.versions()}
        files.write_json(Path(args.output), record | {"git_revision": provenance.git_revision()})
        console.print(f"saved {args.output}")


def trl_sft(training_args: SFTConfig, model_args: ModelConfig, rows: Path) -> list[str]:
    """TRL's own script with what the two must share, bf16, and else its defaults."""
    spec = importlib.util.find_spec("trl.scripts.sft")
    assert spec is not None
    name = str(model_args.model_name_or_path)
    shared = "per_device_train_batch_size gradient_accumulation_steps per_device_eval_batch_size learning_rate seed"
    command = [str(spec.origin), "--bf16=true", f"--dataset_name={rows}"]
    command += [f"--model_name_or_path={embedded_model() if name == EMBEDDED else name}"]
    command += [] if torch.accelerator.is_available() else ["--use_cpu=true"]
    command += [f"--{option}={getattr(training_args, option)}" for option in shared.split()]
    command += [f"--lr_scheduler_type={training_args.lr_scheduler_type.value}"]
    command += [f"--warmup_steps={training_args.warmup_steps}"]
    command += [f"--{option}={getattr(model_args, option)}" for option in ("use_peft", "lora_r", "lora_alpha")]
    targets = model_args.lora_target_modules
    return command + ["--lora_target_modules", *([targets] if isinstance(targets, str) else targets or [])]


def train_once(command: list[str], folder: Path, profile: Path | None = None) -> Figures:
    """Run a training script in a process of its own, with `watch` looking on."""
    result = folder / "figures.json"
    result.unlink(missing_ok=True)
    watched = [sys.executable, __file__, "--watch", str(result), str(profile or ""), str(time.time()), *command]
    done = subprocess.run(watched, cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0 or not result.is_file():
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise InputError(f"{Path(command[0]).name} failed: {lines[-1]}")
    figures: Figures = json.loads(result.read_text(encoding="utf-8"))
    return figures


def watch() -> None:
    """In the process of a training: run its script, note the first step, the logged figures and the peak memory."""
    result, profile, started, *sys.argv = sys.argv[2:]
    seen: dict[str, Any] = {}
    done: list[tuple[float, float]] = []  # when a step was over, and the tokens until then
    steps = 0
    log, training_step = Trainer.log, Trainer.training_step

    def watched_log(self: Trainer, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if "loss" in logs:
            done.append((time.perf_counter(), logs["num_tokens"]))
        log(self, logs, *args, **kwargs)

    def watched_step(self: Trainer, *args: Any, **kwargs: Any) -> Any:
        nonlocal steps
        steps += 1
        seen.setdefault("start_up_seconds", time.time() - float(started))
        if not profile or steps != 2:
            return training_step(self, *args, **kwargs)
        with torch.profiler.profile() as profiler:
            loss = training_step(self, *args, **kwargs)
        sort = "self_cuda_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
        table = profiler.key_averages().table(sort_by=sort, row_limit=20, max_name_column_width=45)
        Path(profile).write_text(table, encoding="utf-8")
        return loss

    Trainer.log, Trainer.training_step = watched_log, watched_step
    with PeakMemory() as peak:
        runpy.run_path(sys.argv[0], run_name="__main__")
    (start, before), (end, after) = done[0], done[-1]  # the first step allocates, compiles and warms up
    tokens, seconds = after - before, end - start
    figures = {"tokens": tokens, "seconds": seconds, "tokens_per_second": tokens / seconds}
    figures |= {"start_up_seconds": seen["start_up_seconds"], "memory_gib": peak.gib}
    files.write_json(Path(result), figures)


class PeakMemory:
    """The most memory in use within a `with` block, as `gib`: of the GPU where there is one, else of this process.

    The memory of a process (resident) is read every 10 ms, which misses shorter peaks.
    """

    def __enter__(self) -> Self:
        self.gib = 0.0
        self._done = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        else:
            self._reader.start()
        return self

    def _read(self) -> None:
        process, peak = psutil.Process(), 0
        while not self._done.is_set():
            peak = max(peak, process.memory_info().rss)
            self._done.wait(0.01)
        self.gib = peak / 2**30

    def __exit__(self, *_: object) -> None:
        if torch.cuda.is_available():
            self.gib = torch.cuda.max_memory_allocated() / 2**30
        else:
            self._done.set()
            self._reader.join()


def timed(work: Callable[..., int], *arguments: Any) -> Figures:
    """`work` returns how many dialogues it summarised."""
    with PeakMemory() as peak:
        started = time.perf_counter()
        dialogues = work(*arguments)
        seconds = time.perf_counter() - started
    return {"dialogues_per_second": dialogues / seconds, "seconds": seconds, "memory_gib": peak.gib}


def with_ours(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    chats: list[Any],
    references: list[int],
    args: BenchmarkArguments,
) -> int:
    ids = prompts.render_batch(tokenizer, chats, add_generation_prompt=True)
    stop_ids = prompts.stop_token_ids(tokenizer, model.generation_config)
    config = generation_config(tokenizer, stop_ids, args.max_new_tokens)
    batches = generate_batches(model, tokenizer, ids, config, max_batch_tokens=args.max_batch_tokens)
    return sum(map(len, batches))


def with_pipeline(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    chats: list[Any],
    references: list[int],
    args: BenchmarkArguments,
) -> int:
    summarise = pipeline("text-generation", model=model, tokenizer=tokenizer, batch_size=16)
    options = {"max_new_tokens": args.max_new_tokens, "do_sample": False, "return_full_text": False}
    return len(summarise(chats, **options))


def with_tutorial_loop(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    chats: list[Any],
    references: list[int],
    args: BenchmarkArguments,
) -> int:
    every = max(1, len(chats) // args.tutorial_dialogues)
    sample = list(zip(chats, references, strict=True))[every // 2 :: every][: args.tutorial_dialogues]
    for chat, rows in sample:
        for _ in range(rows):  # the same dialogue again, for the hub has a row for each reference
            ids = prompts.render_batch(tokenizer, [chat], add_generation_prompt=True)[0]
            inputs = torch.tensor([ids], device=model.device)
            with torch.no_grad():
                output = model.generate(
                    input_ids=inputs,
                    attention_mask=torch.ones_like(inputs),
                    max_new_tokens=args.max_new_tokens,
                    do_sample=False,
                    pad_token_id=tokenizer.pad_token_id,
                )
            tokenizer.decode(output[0, inputs.shape[1] :], skip_special_tokens=True)
    return len(sample)


def matmul_floor(model: PeftModel, lengths: list[int], supervised: int) -> float:
    """Seconds of the matrix multiplications that one LoRA step over rows of `lengths` tokens cannot do without.

    Each is run alone as a bare product, in the model's dtype, of the shape it has in a step without padding; its
    operands are warm, and the fastest of three counts, so no real step reaches this. Counted are: the linear layers
    forward and the gradient of their input (frozen weights need none); the adapter's two products forward and four
    backward; of causal attention, over each row, the half of its two products forward and four backward (without
    computing the scores again) that lies before the diagonal; and the LM head forward and backward over the
    `supervised` tokens alone. Norms, activations, softmax, loss, rotation and optimiser are what is left out.
    """
    config = model.get_base_model().config.get_text_config()
    head = model.get_output_embeddings()
    products: Counter[tuple[int, ...]] = Counter()  # ([batch,] rows, inner, columns): how many
    tokens = sum(lengths)
    vocabulary, hidden = head.weight.shape
    products[supervised, hidden, vocabulary] += 1
    products[supervised, vocabulary, hidden] += 1
    for module in model.modules():
        adapters = getattr(module, "lora_A", None)
        if adapters:
            rank = next(iter(adapters.values())).out_features
            m, n = module.in_features, module.out_features
            products[tokens, m, rank] += 1
            products[tokens, rank, n] += 1
            products[tokens, n, rank] += 1
            products[tokens, rank, m] += 1
            products[rank, tokens, m] += 1
            products[n, tokens, rank] += 1
        is_base = type(module) is nn.Linear and module is not head and not module.weight.requires_grad
        if is_base and not (module.out_features == vocabulary and module.in_features == hidden):
            products[tokens, module.in_features, module.out_features] += 1
            products[tokens, module.out_features, module.in_features] += 1
    heads = config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    for length in lengths:
        half = max(1, length // 2)
        products[heads, length, size, half] += 2 * config.num_hidden_layers
        products[heads, length, half, size] += 2 * config.num_hidden_layers
        products[heads, half, length, size] += 2 * config.num_hidden_layers
    seconds = 0.0
    for (*batch, m, k, n), count in products.items():
        left = torch.randn(*batch, m, k, dtype=model.dtype, device=model.device)
        right = torch.randn(*batch, n, k, dtype=model.dtype, device=model.device).mT
        times = []
        for _ in range(4):
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            started = time.perf_counter()
            torch.matmul(left, right)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            times.append(time.perf_counter() - started)
        seconds += count * min(times[1:])
    return seconds


def eval_loss(model_args: ModelConfig, data_args: DataArguments, examples: Examples, adapter: str) -> float:
    """Mean negative log-likelihood over the supervised tokens of `examples`, in nats."""
    tokenizer, model = load_tokenizer(model_args), load_adapter(load_model(model_args), adapter).eval()
    stop_ids = prompts.stop_token_ids(tokenizer, model.generation_config)
    collator = CompletionOnlyCollator(tokenizer.pad_token_id, stop_token_ids=stop_ids)
    settings = prompts.PromptSettings.from_arguments(data_args)
    total = count = 0.0
    for row in examples.rows:
        for summary in row["references"]:
            encoded = prompts.encode(tokenizer, row["dialogue"], summary, stop_ids, settings)
            batch = collator([encoded])
            with torch.inference_mode():
                logits = model(input_ids=batch["input_ids"].to(model.device)).logits
            labels = batch["labels"][0, 1:].to(model.device)
            total += F.cross_entropy(logits[0, :-1].float(), labels, ignore_index=-100, reduction="sum").item()
            count += int((labels != -100).sum())
    return total / count


def tell(
    console: Console,
    args: BenchmarkArguments,
    training: dict[str, list[Figures]],
    generation: dict[str, list[Figures]],
    floor: float | None,
    failed: dict[str, str],
) -> dict[str, Any]:
    """Print the medians and how many times faster ours is; return them with the figures of every round."""

    def median(figures: list[Figures], name: str) -> float:
        return statistics.median(figure[name] for figure in figures if name in figure)

    ratios: dict[str, float] = {}
    table = Table(box=box.SIMPLE, title=f"training, {args.recipe_config}, {args.max_steps} steps x {args.rounds}")
    for column in ("", "tokens/s", "ours is", "start-up s", "peak GiB", "eval loss"):
        table.add_column(column, justify="right" if column else "left")
    speed = median(training["ours"], "tokens_per_second")
    for system, figures in training.items():
        theirs = median(figures, "tokens_per_second")
        if system != "ours":
            ratios[system] = speed / theirs
        loss = [f"{figure['eval_loss']:.3f}" for figure in figures if "eval_loss" in figure]
        table.add_row(
            system,
            f"{theirs:.0f}",
            f"{ratios[system]:.2f} x" if system in ratios else "",
            f"{median(figures, 'start_up_seconds'):.1f}",
            f"{median(figures, 'memory_gib'):.2f}",
            loss[0] if loss else "",
        )
    if floor is not None:
        ratios["floor"] = speed / floor
        table.add_row("its matrix products alone", f"{floor:.0f}", f"{ratios['floor']:.2f} x", "", "", "")
    for system, reason in failed.items():
        table.add_row(system, "failed", "", "", "", "")
        console.print(f"{system}: {reason}")
    console.print(table)
    table = Table(
        box=box.SIMPLE, title=f"generation, {args.dialogues} dialogues, {args.max_new_tokens} tokens at most"
    )
    for column in ("", "dialogues/s", "ours is", "peak GiB"):
        table.add_column(column, justify="right" if column else "left")
    speed = median(generation["ours"], "dialogues_per_second")
    for system, figures in generation.items():
        theirs = median(figures, "dialogues_per_second")
        if system != "ours":
            ratios[system] = speed / theirs
        ratio = f"{ratios[system]:.2f} x" if system in ratios else ""
        table.add_row(system, f"{theirs:.2f}", ratio, f"{median(figures, 'memory_gib'):.2f}")
    console.print(table)
    record = {"training": training, "generation": generation, "floor_tokens_per_second": floor}
    return record | {"ratios": ratios, "failed": failed}


if __name__ == "__main__":
    if sys.argv[1:2] == ["--watch"]:
        watch()
    else:
        run(main)
