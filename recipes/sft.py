"""Fine-tune a chat model to summarise dialogues.

    python recipes/sft.py --config recipes/configs/quickstart.yaml
    accelerate launch --config_file accelerate_configs/ddp.yaml recipes/sft.py --config FILE.yaml

Leaves `output_dir`/adapter (model/ with full fine-tuning): weights, tokenizer, chat template, run.json and a model
card. Started again after a stop (exit status 75), a crash or a kill, it goes on from the newest whole checkpoint.
"""

import functools
import itertools
import os
import time
from pathlib import Path
from typing import Any

from dialogsum_sft import files, provenance
from dialogsum_sft.arguments import DataArguments, TrainArguments
from dialogsum_sft.checks import check_training
from dialogsum_sft.cli import parse, run
from dialogsum_sft.data import prompts
from dialogsum_sft.data.encoding import training_rows
from dialogsum_sft.data.examples import counts_table, load_examples
from dialogsum_sft.distributed import run_on_main
from dialogsum_sft.kernels.supervised_logits import without_triton
from dialogsum_sft.modeling import load_generation_config, load_model, load_tokenizer, public_name
from dialogsum_sft.publish import hub, model_card
from dialogsum_sft.training import checkpoints, manifest
from dialogsum_sft.training.callbacks import (
    EarlyStopping,
    GenerationEvaluation,
    TrainingLog,
)
from dialogsum_sft.training.collator import CompletionOnlyCollator
from dialogsum_sft.training.sampler import accumulation_steps
from dialogsum_sft.training.stopping import AlreadyTrained, StopCallback, StopRequest
from dialogsum_sft.training.trainer import ResumableSFTTrainer, SupervisedLogitsSFTTrainer

import torch
from accelerate import PartialState
from datasets import Dataset, IterableDataset
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase
from trl import ModelConfig, ScriptArguments, SFTConfig, get_peft_config


def main() -> None:
    started = time.time()
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size > 1 and not torch.accelerator.is_available():
        os.environ["ACCELERATE_USE_CPU"] = "true"  # else each process takes itself for the only one
    script_args, training_args, model_args, data_args, train_args = parse(
        (ScriptArguments, SFTConfig, ModelConfig, DataArguments, TrainArguments)
    )
    state = PartialState()
    check_training(script_args, training_args, model_args, train_args, world_size, connected=state.num_processes)
    if train_args.global_batch_size is not None:
        training_args.gradient_accumulation_steps = accumulation_steps(
            train_args.global_batch_size, training_args.per_device_train_batch_size, world_size
        )
    arguments: dict[str, Any] = training_args.to_dict()  # as resolved, before this recipe changes any
    for others in (script_args, model_args, data_args, train_args):
        arguments |= vars(others)
    console = Console(quiet=not state.is_main_process, soft_wrap=True)
    output_dir = Path(training_args.output_dir)
    push_to_hub, training_args.push_to_hub = training_args.push_to_hub, False  # TRL's own uploads training_args.bin
    if push_to_hub and state.is_main_process:
        training_args.hub_model_id = hub.create_repo(
            training_args.hub_model_id or output_dir.resolve().name, training_args.hub_private_repo
        )

    # 1. Data: dialogues to chat messages to token ids, and a look at what is supervised
    tokenizer = load_tokenizer(
        model_args,
        chat_template_path=training_args.chat_template_path,
        trust_remote_code=training_args.trust_remote_code,
    )
    validation = None
    if training_args.eval_strategy != "no":
        validation = load_examples(script_args, data_args, script_args.dataset_test_split, data_args.max_eval_samples)
    train = load_examples(
        script_args,
        data_args,
        script_args.dataset_train_split,
        train_args.max_train_samples,
        other_split=validation,
    )
    stop_ids = prompts.stop_token_ids(tokenizer, load_generation_config(model_args))
    collator = CompletionOnlyCollator(pad_token_id=tokenizer.pad_token_id, stop_token_ids=stop_ids)
    max_length = training_args.max_length
    settings, allow = prompts.PromptSettings.from_arguments(data_args), data_args.allow_dropped_rows
    train_rows, train_counts = training_rows(
        train, tokenizer, stop_ids, settings, max_length, swap=train_args.swap_speakers, allow_dropped_rows=allow
    )
    counts = {"training": train.counts, "rows to train on": train_counts}
    validation_rows = None
    if validation is not None:
        validation_rows, validation_counts = training_rows(
            validation, tokenizer, stop_ids, settings, max_length, allow_dropped_rows=allow
        )
        counts |= {"validation": validation.counts, "rows to validate on": validation_counts}
    show(train_rows, tokenizer, console)
    if not script_args.dataset_streaming:
        console.print(
            *dict.fromkeys(train.notes + (validation.notes if validation else [])), counts_table(counts), sep="\n"
        )

    # 2. Model: quantised or not, in its dtype; unless checkpoints of another run are in the way
    data_fingerprint = None if script_args.dataset_streaming else train.fingerprint()
    prompt = settings.record(tokenizer)
    this_run = manifest.describe_run(
        arguments,
        base_model=public_name(str(model_args.model_name_or_path)),
        data_fingerprint=data_fingerprint,
        rows_fingerprint=manifest.rows_fingerprint(train_rows),
        template_sha256=prompt["template_sha256"],
        processes=state.num_processes,
    )
    resume = training_args.resume_from_checkpoint
    overwrite = train_args.overwrite_output_dir
    finished = run_on_main(
        lambda: manifest.check_start(output_dir, this_run, resume, train_args.force_resume, overwrite=overwrite)
    )
    if finished:
        console.print(finished)
        return
    model = load_model(model_args, trust_remote_code=training_args.trust_remote_code)

    # 3. Trainer: TRL's with complete checkpoints; without Triton also with a cheaper LM head
    trainer_class = SupervisedLogitsSFTTrainer if without_triton() else ResumableSFTTrainer
    trainer = trainer_class(
        model=model,
        args=training_args,
        # Rows are packed and flattened by TRL's own collator; their labels were checked as they were made.
        data_collator=None if training_args.packing or training_args.padding_free else collator,
        train_dataset=train_rows,
        eval_dataset=validation_rows,
        processing_class=tokenizer,
        peft_config=get_peft_config(model_args),
    )
    trainer.add_callback(TrainingLog(output_dir))
    if validation is not None and train_args.eval_generate_samples:
        rows = list(itertools.islice(validation.rows, train_args.eval_generate_samples))
        options = {"stop_ids": stop_ids, "max_length": max_length, "show": functools.partial(show_samples, console)}
        trainer.add_callback(GenerationEvaluation(trainer, rows, tokenizer, data_args, train_args, **options))
    if train_args.early_stopping_patience is not None:  # behind the callback that measures what it looks at
        trainer.add_callback(EarlyStopping(train_args.early_stopping_patience))

    # 4. Train, from the newest whole checkpoint of this run if there is one
    request = StopRequest()
    stop = StopCallback(trainer, request, train_rows)
    trainer.add_callback(stop)
    paths = manifest.local_paths(arguments)
    checkpoint, notes = run_on_main(
        lambda: manifest.open_run(
            output_dir, this_run, resume, trainer.weight_shapes, overwrite=overwrite, paths=paths
        )
    )
    for note in notes + ([f"resuming from {checkpoint}"] if checkpoint else []):
        console.print(note)
    request.listen()
    try:
        metrics: dict[str, Any] = dict(trainer.train(resume_from_checkpoint=checkpoint and str(checkpoint)).metrics)
    except AlreadyTrained:  # it was stopped between its last step and the end
        metrics = {"train_runtime": 0.0}
    if stop.stopping:
        raise stop.stopped()
    logged = trainer.state.log_history
    metrics["num_tokens"] = int(trainer._total_train_tokens)
    if validation_rows is not None:
        best = trainer.state.best_model_checkpoint if training_args.load_best_model_at_end else None
        step = int(best.rpartition("-")[2]) if best else trainer.state.global_step  # of the weights that are saved
        events = [log for log in logged if log["step"] == step]
        measured = {name: log[name] for log in events for name in log if name.startswith("eval_")}
        metrics |= {"step": step} | (measured or trainer.evaluate())

    # 5. Save what is needed to use it, and what is needed to know how it came about
    final = output_dir / ("adapter" if model_args.use_peft else "model")
    partial = output_dir / f".{final.name}.partial"
    trainer.save_verified(partial)
    if state.is_main_process:
        for leftover in ("training_args.bin", "README.md"):  # a pickle that can hold a token; a card of TRL's
            (partial / leftover).unlink(missing_ok=True)
        record = {
            "format": files.FORMAT,
            "base_model": public_name(str(model_args.model_name_or_path)),
            "arguments": files.public(arguments | {"hub_model_id": training_args.hub_model_id}),
            "data": {name.replace(" ", "_"): split.record() for name, split in counts.items()},
            "data_fingerprint": data_fingerprint,
            "manifest_sha256": manifest.sha256_of(this_run),
            "prompt": prompt,
            "resumed_from_step": checkpoints.step_of(checkpoint) if checkpoint else None,
            "metrics": metrics,
            "evaluations": [log for log in logged if "samples" in log],
            "versions": provenance.versions(),
            "git_revision": provenance.git_revision(),
            "hardware": provenance.hardware(),
            "seconds": round(time.time() - started, 1),
        }
        files.write_json(partial / "run.json", record)
        model_card.write(partial)
        files.replace_folder(partial, final)
        manifest.mark_finished(output_dir, trainer.state.global_step)
    console.print(
        f"trained on {metrics['num_tokens']} tokens in {metrics['train_runtime']:.0f} s, evaluations included"
        + (f"; eval loss {metrics['eval_loss']:.3f}" if "eval_loss" in metrics else "")
        + f"; saved to {final}"
    )
    if push_to_hub and state.is_main_process:
        what = f"{final.name} of {record['base_model']}, trained on {record['arguments']['dataset_name']}"
        console.print("pushed: " + hub.upload(final, training_args.hub_model_id, what, training_args.hub_revision))
    trainer.end()


def show(rows: Dataset | IterableDataset, tokenizer: PreTrainedTokenizerBase, console: Console) -> None:
    """A row as the model will see it; that all are supervised alike has been checked while they were made."""
    row = next(iter(rows))
    n = row["prompt_tokens"]
    console.print(
        Text(f"\ntraining row {row['id']}, supervised between ⟦ and ⟧ ({len(row['labels']) - n} tokens):", "bold")
    )
    console.print(
        Text(tokenizer.decode(row["input_ids"][:n]), "dim")
        + Text(f"⟦{tokenizer.decode(row['input_ids'][n:])}⟧", "bold green")
    )


def show_samples(console: Console, step: int, samples: list[dict[str, Any]]) -> None:
    """What the model makes of a few validation dialogues by now, between the lines of the progress bar."""
    with tqdm.external_write_mode():
        for sample in samples:
            table = Table.grid(padding=(0, 2))
            table.add_row(Text("reference", "bold"), Text(sample["references"][0]))
            table.add_row(Text("summary", "bold"), Text(sample["prediction"] or "(empty)"))
            console.print(Panel(table, title=f"step {step}: {sample['id']}", title_align="left"))


if __name__ == "__main__":
    run(main)
