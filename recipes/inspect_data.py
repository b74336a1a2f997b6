"""Show a dataset as the model sees it, before training on it: counts, lengths, labels, memory.

    python recipes/inspect_data.py --config recipes/configs/quickstart.yaml [--output data.html] [--gpu_memory_gib 24]
    python recipes/inspect_data.py --config recipes/configs/llama3_2_3b.yaml --processes 8 --accelerate_config fsdp2

Takes any config of recipes/sft.py. No weights are loaded and nothing is trained; only --output writes a file.
"""

import functools
import itertools
import math
import re
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dialogsum_sft import InputError, files
from dialogsum_sft.arguments import DataArguments, TrainArguments
from dialogsum_sft.cli import parse, run
from dialogsum_sft.data import chat_template, prompts
from dialogsum_sft.data.counts import counts_table
from dialogsum_sft.data.training_data import load_training_data
from dialogsum_sft.data.transcripts import dialogue_of
from dialogsum_sft.evaluation.tokenizers import lost_share, suggest_tokenizer
from dialogsum_sft.hardware import Device, training_defaults
from dialogsum_sft.launch import config_path
from dialogsum_sft.modeling import load_config, load_generation_config, load_tokenizer, max_positions, public_name
from dialogsum_sft.report.dataset_tables import (
    Split,
    histogram,
    length_table,
    share,
    speakers_table,
    too_long_table,
)
from dialogsum_sft.tables import Table
from dialogsum_sft.training import memory
from dialogsum_sft.training.activation_checkpointing import set_activation_checkpointing
from dialogsum_sft.training.shards import Sharding, sharding_of

import numpy as np
import torch
from rich.console import Console
from rich.text import Text
from transformers import PreTrainedTokenizerBase
from transformers.hf_argparser import HfArg
from trl import ModelConfig, ScriptArguments, SFTConfig

CARDS = (8, 16, 24, 40, 80)
GIB = 2**30


@dataclass
class InspectArguments:
    output: str | None = HfArg(default=None, help="HTML file for what is printed, with its colours.")
    gpu_memory_gib: float = HfArg(default=24.0, help="GiB of the GPU to suggest a batch size for.")
    accelerate_config: str | None = HfArg(
        default=None, help="Estimate memory for a training by this file of accelerate_configs/, or path."
    )
    processes: int | None = HfArg(default=None, help="Processes of that training, by default those of its config.")
    num_examples: int = HfArg(default=1, help="How many training rows to show as the model sees them.")


def main() -> None:
    without_gpu = not torch.accelerator.is_available()
    # A config for a GPU can be inspected without one, where transformers would refuse its bf16.
    argv = sys.argv[1:] + (["--use_cpu", "true"] if without_gpu else [])
    types = (ScriptArguments, SFTConfig, ModelConfig, DataArguments, TrainArguments, InspectArguments)
    script_args, training_args, model_args, data_args, train_args, inspect_args = parse(
        types, argv, defaults=training_defaults
    )
    if inspect_args.output is not None and Path(inspect_args.output).suffix != ".html":
        raise InputError(f"--output {inspect_args.output}: give the name of an .html file")
    config = inspect_args.accelerate_config
    sharding = sharding_of(config_path(config) if config else None, inspect_args.processes)
    script_args.dataset_streaming = False  # all rows are inspected
    refuses, data_args.allow_dropped_rows = not data_args.allow_dropped_rows, True  # dropped rows are shown
    console = Console(record=inspect_args.output is not None, highlight=False)
    console.width = min(console.width, 100)

    # 1. Data: both splits as recipes/sft.py makes them, but with rows of any length
    trust, evaluates = training_args.trust_remote_code, training_args.eval_strategy != "no"
    tokenizer = load_tokenizer(
        model_args, chat_template_path=training_args.chat_template_path, trust_remote_code=trust
    )
    positions = max_positions(load_config(model_args, trust_remote_code=trust)) or sys.maxsize
    data = load_training_data(
        script_args,
        data_args,
        train_args,
        tokenizer,
        prompts.stop_token_ids(tokenizer, load_generation_config(model_args, trust_remote_code=trust)),
        max_length=None,
        evaluates=evaluates,
        seed=training_args.seed,
        optional_validation=True,
    )
    splits = {"training": Split(**vars(data.train))}
    if data.validation is not None:
        splits["validation" if evaluates else "evaluation"] = Split(**vars(data.validation))

    # 2. Counts and texts; the encoding has checked the labels of every row
    name, dataset = public_name(str(model_args.model_name_or_path)), data_args.train_file or script_args.dataset_name
    console.print(Text.assemble("\n", (str(dataset), "bold"), " as ", (name, "bold"), " sees it"))
    console.print(*map(Text, data.notes), sep="\n", soft_wrap=True)
    show_counts(splits, refuses, console)
    console.print(text_table(splits, tokenizer), speakers_table(splits))
    dialogues = [set(split.examples.rows["dialogue"]) for split in splits.values()]
    if len(dialogues) == 2 and (shared := dialogues[0] & dialogues[1]):
        console.print(f"[yellow]  dialogues in both splits: {len(shared)}; that flatters scores\n")

    # 3. Lengths
    console.print(length_table(splits))
    console.print(histogram(splits["training"].total, "tokens of the training rows"), "")
    console.print(too_long_table(splits, training_args.max_length, positions), "")

    # 4. Rows as the model sees them
    for row in itertools.islice(splits["training"].rows, inspect_args.num_examples):
        show_row(row, tokenizer, console)

    # 5. Memory of a training step, and the options that suit this data
    gpu_memory, batch_size = inspect_args.gpu_memory_gib, None
    quantised = model_args.load_in_4bit or model_args.load_in_8bit
    settings: dict[str, tuple[SFTConfig, ModelConfig]] = {}
    for device in ("cuda", "cpu") if without_gpu and not quantised and not sharding.backend else ("cuda",):
        # The options that are not given follow the device.
        gpu = Device("cuda", bf16=True) if device == "cuda" and without_gpu else None
        _, *parts = parse(types, argv, defaults=functools.partial(training_defaults, device=gpu))
        settings[device] = (parts[0], parts[1])
        total = int(gpu_memory * GIB) if device == "cuda" else None
        card: dict[str, Any] = {"kind": device, "total_memory": total, "sharding": sharding}
        set_activation_checkpointing(*settings[device], splits["training"].rows, **card)
    try:
        estimates, batch_size = step_memory(splits["training"], settings, gpu_memory, positions, sharding)
        console.print(memory_table(estimates, sharding))
    except (ValueError, RuntimeError) as error:  # a model's own code may need real tensors
        console.print(Text(f"memory not estimated: {str(error).splitlines()[0]}", "yellow"))
    references = [text for row in data.train.examples.rows for text in row["references"]]
    tokenizer_name = suggest_tokenizer(references)
    console.print(suggestions(splits["training"], batch_size, gpu_memory, tokenizer_name, positions))

    # 6. Save the page
    if inspect_args.output is not None:
        files.write_text(Path(inspect_args.output), console.export_html(inline_styles=True))
        console.print(f"saved {inspect_args.output}", soft_wrap=True)


def show_counts(splits: dict[str, Split], refuses: bool, console: Console) -> None:
    """The rows kept and dropped; `refuses` is whether a training would refuse to lose more than 1% of them."""
    counts = {name: split.examples.counts for name, split in splits.items()}
    console.print(counts_table(counts | {f"{name} rows": split.counts for name, split in splits.items()}))
    for name, split in splits.items():
        for part in (split.examples.counts, split.counts):
            for row in part.named:
                console.print(Text(f"  dropped of {name}: {row}", "yellow"))
            if refuses and part.lost > part.read / 100:
                console.print("[yellow]  more than 1% are lost: training needs --allow_dropped_rows true")
    console.print("  Each row is supervised on its summary and stop token alone, after the prompt of an evaluation.")


def text_table(splits: dict[str, Split], tokenizer: PreTrainedTokenizerBase) -> Table:
    """Speakers, person tags, control tokens and script in the texts of each split."""
    control = control_tokens(tokenizer)
    lines: dict[str, list[str]] = {}
    speakers = [Counter(len(dialogue_of(row).speakers) for row in split.examples.rows) for split in splits.values()]
    for number in sorted(set().union(*speakers)):
        label = f"dialogues with {number} speaker{'s' * (number != 1)}"
        lines[label] = [share(counts[number], counts.total()) for counts in speakers]
    for split in splits.values():
        rows = split.examples.rows
        summaries = [text for references in rows["references"] for text in references]
        tagged = sum(re.search(r"#Person\d+#", text) is not None for text in summaries)
        with_control = sum(control.search(text) is not None for text in itertools.chain(rows["dialogue"], summaries))
        lines.setdefault("summaries with a #PersonN# tag", []).append(share(tagged, len(summaries)))
        lines.setdefault("texts with control tokens, kept as text", []).append(str(with_control))
        lines.setdefault("summaries' letters and digits outside a-z, 0-9", []).append(f"{lost_share(summaries):.1%}")
    table = Table(header=["texts", *splits])
    for label, values in lines.items():
        table.add_row(label, *values)
    return table


def control_tokens(tokenizer: PreTrainedTokenizerBase) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, chat_template.control_tokens(tokenizer))) or "(?!)")


def show_row(row: dict[str, Any], tokenizer: PreTrainedTokenizerBase, console: Console) -> None:
    n = row["prompt_tokens"]
    prompt, summary = (decode(ids, tokenizer) for ids in (row["input_ids"][:n], row["input_ids"][n:]))
    prompt.style = "dim"
    title = f"row {row['id']}, supervised between ⟦ and ⟧ ({row['length'] - n} tokens); control tokens in blue"
    supervised = Text.assemble("⟦", summary, "⟧", style="bold green")
    console.print(Text(title, "bold"), Text.assemble(prompt, supervised), "", sep="\n")


def decode(ids: list[int], tokenizer: PreTrainedTokenizerBase) -> Text:
    """Token ids as text: control tokens in blue; text that reads like a control token in red between ‹ and ›."""
    control = control_tokens(tokenizer)
    control_ids = set(tokenizer.convert_tokens_to_ids(chat_template.control_tokens(tokenizer)))
    text = Text()
    for is_control, group in itertools.groupby(ids, key=lambda token: token in control_ids):
        words = tokenizer.decode(list(group), clean_up_tokenization_spaces=False)
        if is_control:
            text.append(words, "not dim blue")
            continue
        end = 0
        for match in control.finditer(words):
            text.append(words[end : match.start()]).append(f"‹{match[0]}›", "not dim bold red")
            end = match.end()
        text.append(words[end:])
    return text


def step_memory(
    training: Split,
    settings: dict[str, tuple[SFTConfig, ModelConfig]],
    gpu_memory: float,
    positions: int,
    sharding: Sharding,
) -> tuple[dict[str, memory.MemoryEstimate], int]:
    """Estimates by `rows x tokens`, and the largest batch size that fits.

    The estimates are for the configured batch, and for the largest batch (a power of two up to 64) of the longest rows
    that leaves a tenth of the GPU's memory free. The batch size is 0 if not even one row fits. `settings` are the
    options of a training on each device; rows are shortened to `positions`, what the model can hold.
    """
    training_args, model_args = settings["cuda"]
    trust = training_args.trust_remote_code
    config = load_config(model_args, trust_remote_code=trust)
    models = {
        device: memory.meta_model(config, args, device=device, trust_remote_code=trust)
        for device, (_, args) in settings.items()
    }
    longest_first = np.argsort(-training.total, kind="stable")  # as group_by_length begins
    summary = (training.total - training.prompt)[longest_first]

    def of(device: str, rows: int, length: int) -> memory.MemoryEstimate:
        supervised = float(summary[:rows].mean())
        beginnings = zip(*(training.rows[int(i)]["input_ids"] for i in longest_first[:rows]), strict=False)
        shared = sum(1 for _ in itertools.takewhile(lambda ids: len(set(ids)) == 1, beginnings)) if rows > 1 else 0
        options: dict[str, Any] = {"rows": rows, "length": length, "supervised": supervised, "shared": shared}
        args, model_options = settings[device]
        return memory.estimate(models[device], model_options, args, device=device, sharding=sharding, **options)

    longest = min(int(training.total.max()), positions)
    configured, batch_size = training_args.per_device_train_batch_size, 0
    for rows in (2**power for power in range(7) if 2**power <= len(training.total)):
        if not of("cuda", rows, longest).fits(int(0.9 * gpu_memory * GIB)):
            break
        batch_size = rows
    length = min(longest, training_args.max_length or longest)
    shapes = dict.fromkeys([("cuda", configured, length), ("cuda", batch_size or 1, longest)])
    shapes |= {(device, configured, length): None for device in settings if device != "cuda"}
    names = {"cuda": "GPU", "cpu": "CPU"}
    return {f"{rows} x {n}, {names[device]}": of(device, rows, n) for device, rows, n in shapes}, batch_size


def memory_table(estimates: dict[str, memory.MemoryEstimate], sharding: Sharding) -> Table:
    """The memory of a step by purpose, and the cards (for a CPU, the machines) on which it fits."""
    each = f"of each of {sharding.processes} processes, {sharding.backend or 'with whole copies'}; calculated"
    table = Table(header=["GiB of a step, rows x tokens, estimated", *estimates])
    table.note = each if sharding.processes > 1 else ""
    names = list(vars(next(iter(estimates.values()))))
    names = names if sharding.processes > 1 else names[:-1]  # nothing is gathered
    for name in names:
        values = (f"{getattr(estimate, name) / GIB:.2f}" for estimate in estimates.values())
        table.add_row(name, *values, end_section=name == names[-1])
    totals = (f"{estimate.total / GIB:.2f}" for estimate in estimates.values())
    table.add_row("total", *totals, style="bold", end_section=True)
    for card in CARDS:
        table.add_row(f"fits {card} GB", *(verdict(estimate, card * GIB) for estimate in estimates.values()))
    return table


def verdict(estimate: memory.MemoryEstimate, total_bytes: int) -> tuple[str, str]:
    if not estimate.fits(total_bytes):
        return "no", "red"
    return ("yes", "green") if estimate.fits(int(0.9 * total_bytes)) else ("barely", "yellow")


def suggestions(
    training: Split, batch_size: int | None, gpu_memory: float, rouge_tokenizer: str, positions: int
) -> Table:
    """Options for the config, within the `positions` that the model can hold.

    A `batch_size` of 0 means that no row fits, None that it is unknown.
    """
    longest, summary = int(training.total.max()), int((training.total - training.prompt).max())
    table = Table("suggested", labels=3)
    reason = f"the longest row has {longest} tokens" + f"; the model can hold {positions}" * (longest > positions)
    table.add_row("max_length:", str(min(math.ceil(longest / 64) * 64, positions)), reason)
    fit = f"such rows fit {gpu_memory:g} GiB, a tenth left free"
    if batch_size == 0:
        fit = f"not one row fits {gpu_memory:g} GiB: load_in_4bit, activation_checkpointing or a smaller model"
    if batch_size is not None:
        table.add_row("per_device_train_batch_size:", str(batch_size or "-"), fit)
    new_tokens = min(max(48, math.ceil(1.2 * summary / 16) * 16), max(1, positions - int(training.prompt.min())))
    table.add_row("max_new_tokens:", str(new_tokens), f"for evaluation; the longest summary has {summary}")
    table.add_row("rouge_tokenizer:", rouge_tokenizer, "for evaluation; by the letters of the summaries")
    return table


if __name__ == "__main__":
    run(main)
