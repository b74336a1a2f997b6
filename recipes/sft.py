"""Fine-tune a chat model to summarise dialogues.

    python recipes/sft.py --config recipes/configs/quickstart.yaml
    accelerate launch --config_file accelerate_configs/ddp.yaml recipes/sft.py --config FILE.yaml

Leaves `output_dir`/adapter (model/ with full fine-tuning): weights, tokenizer, chat template, run.json and a model
card. Started again after a stop (exit status 75), a crash or a kill, it resumes from the newest complete checkpoint.
"""

import functools
import itertools
import time
from pathlib import Path
from typing import Any

from dialogsum_sft import files
from dialogsum_sft.arguments import DataArguments, TrainArguments
from dialogsum_sft.checks import backend_of, check_steps, check_training
from dialogsum_sft.cli import parse, run
from dialogsum_sft.data import prompts
from dialogsum_sft.data.counts import counts_table
from dialogsum_sft.data.training_data import TrainingData, load_training_data
from dialogsum_sft.distributed import run_on_main, started_processes
from dialogsum_sft.hardware import describe, training_defaults
from dialogsum_sft.kernels.supervised_logits import without_triton
from dialogsum_sft.modeling import (
    length_limit,
    load_config,
    load_generation_config,
    load_model,
    load_tokenizer,
    lora_config,
    public_name,
)
from dialogsum_sft.publish import hub, model_card
from dialogsum_sft.training import manifest
from dialogsum_sft.training.activation_checkpointing import set_activation_checkpointing
from dialogsum_sft.training.callbacks import EarlyStopping, GenerationEvaluation, TrainingLog
from dialogsum_sft.training.collator import CompletionOnlyCollator
from dialogsum_sft.training.record import run_record
from dialogsum_sft.training.sampler import accumulation_steps
from dialogsum_sft.training.stopping import StopCallback
from dialogsum_sft.training.trainer import ResumableSFTTrainer, SupervisedLogitsSFTTrainer

from accelerate import PartialState
from datasets import Dataset, IterableDataset
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase
from trl import ModelConfig, ScriptArguments, SFTConfig


def main() -> None:
    # 1. Arguments; options that cannot work end the run here
    started, processes = time.time(), started_processes()
    script_args, training_args, model_args, data_args, train_args = parse(
        (ScriptArguments, SFTConfig, ModelConfig, DataArguments, TrainArguments),
        defaults=training_defaults,
        launches=True,
    )
    state = PartialState()
    check_training(script_args, training_args, model_args, train_args, processes, connected=state.num_processes)
    training_args.gradient_accumulation_steps = accumulation_steps(training_args, train_args, processes)
    output_dir = Path(training_args.output_dir)
    console = Console(quiet=not state.is_main_process, soft_wrap=True)
    if training_args.push_to_hub and state.is_main_process:
        name = training_args.hub_model_id or output_dir.resolve().name
        training_args.hub_model_id = hub.create_repo(name, training_args.hub_private_repo)

    # 2. Data: dialogues to chat messages to token ids
    trust, template = training_args.trust_remote_code, training_args.chat_template_path
    tokenizer = load_tokenizer(model_args, chat_template_path=template, trust_remote_code=trust)
    max_length = length_limit(training_args.max_length, load_config(model_args, trust_remote_code=trust))
    stop_ids = prompts.stop_token_ids(tokenizer, load_generation_config(model_args, trust_remote_code=trust))
    settings = prompts.PromptSettings.from_arguments(data_args)
    evaluates = training_args.eval_strategy != "no"
    options = {"max_length": max_length, "evaluates": evaluates, "seed": training_args.seed}
    data = load_training_data(script_args, data_args, train_args, tokenizer, stop_ids, **options)
    script_args.dataset_name = script_args.dataset_name or data_args.train_file
    check_steps(training_args, data.train.rows, processes)
    set_activation_checkpointing(training_args, model_args, data.train.rows)
    console.print(describe(training_args, model_args), highlight=False)
    show_data(data, tokenizer, console)

    # 3. Model, unless this run has finished; a folder that holds another run is refused
    arguments = training_args.to_dict() | vars(script_args) | vars(model_args) | vars(data_args) | vars(train_args)
    push_to_hub, training_args.push_to_hub = training_args.push_to_hub, False  # TRL would upload training_args.bin too
    prompt = settings.record(tokenizer)
    facts = {"base_model": public_name(str(model_args.model_name_or_path)), "processes": processes}
    facts |= data.fingerprints() | {"template_sha256": prompt["template_sha256"]}
    facts |= {"sharded_by": backend} if (backend := backend_of(training_args)) else {}
    folder = manifest.RunFolder(arguments, manifest.describe_run(arguments, **facts))
    if finished := run_on_main(folder.check_start):
        console.print(finished)
        return
    model = load_model(model_args, trust_remote_code=trust)

    # 4. Trainer: SFTTrainer with complete checkpoints; without Triton also with a cheaper LM head
    trainer_class = SupervisedLogitsSFTTrainer if without_triton() else ResumableSFTTrainer
    is_flat = training_args.packing or training_args.padding_free  # TRL's collator joins rows into one
    trainer = trainer_class(
        model=model,
        args=training_args,
        data_collator=None if is_flat else CompletionOnlyCollator(tokenizer.pad_token_id, stop_token_ids=stop_ids),
        train_dataset=data.train.rows,
        eval_dataset=data.validation and data.validation.rows,
        processing_class=tokenizer,
        peft_config=lora_config(model_args, model),
    )
    stop = add_callbacks(trainer, data, settings, train_args, stop_ids, max_length, console)

    # 5. Train, from the newest complete checkpoint of this run if there is one
    checkpoint, notes = run_on_main(lambda: folder.open(trainer.weight_shapes))
    notes += trainer.repeated_rows()
    console.print(*notes, sep="\n", end="\n" if notes else "")
    stop.request.listen()
    trained = trainer.train(resume_from_checkpoint=checkpoint and str(checkpoint))
    stop.raise_if_stopped()
    metrics = trainer.final_metrics(trained.metrics)

    # 6. Save the weights, the record of how they were made, and the model card
    final = output_dir / ("adapter" if model_args.use_peft else "model")
    partial = output_dir / f".{final.name}.partial"
    trainer.save_verified(partial)
    if state.is_main_process:
        record = run_record(trainer, data, arguments, folder.run, prompt, metrics, checkpoint, started)
        files.write_json(partial / "run.json", record)
        model_card.write(partial)
        files.replace_folder(partial, final)
        folder.mark_finished(trainer.state.global_step)
        show_result(metrics, data, final, console)
    if push_to_hub and state.is_main_process:
        what = f"{final.name} of {record['base_model']}, trained on {record['arguments']['dataset_name']}"
        console.print("pushed: " + hub.upload(final, training_args.hub_model_id, what, training_args.hub_revision))
    trainer.end()


def add_callbacks(
    trainer: ResumableSFTTrainer,
    data: TrainingData,
    settings: prompts.PromptSettings,
    train_args: TrainArguments,
    stop_ids: frozenset[int],
    max_length: int | None,
    console: Console,
) -> StopCallback:
    """The log, evaluation by generation, early stopping; returns the callback that ends a run early, the last."""
    trainer.add_callback(TrainingLog(trainer.args.output_dir))
    if data.validation is not None and train_args.eval_generate_samples:
        rows = list(itertools.islice(data.validation.examples.rows, train_args.eval_generate_samples))
        show = functools.partial(show_samples, console)
        evaluation = GenerationEvaluation(
            trainer, rows, settings, train_args, stop_ids=stop_ids, max_length=max_length, show=show
        )
        trainer.add_callback(evaluation)
    if train_args.early_stopping_patience is not None:  # after the callback that adds the metrics
        trainer.add_callback(EarlyStopping(train_args.early_stopping_patience))
    stop = StopCallback(trainer, data.train.rows)
    trainer.add_callback(stop)
    return stop


def show_data(data: TrainingData, tokenizer: PreTrainedTokenizerBase, console: Console) -> None:
    """Print the first row as the model sees it, then the counts; all labels were checked as they were made.

    The rows of a stream are counted during training: `show_result` prints their counts.
    """
    row = next(iter(data.train.rows))
    n = row["prompt_tokens"]
    console.print(
        Text(f"\ntraining row {row['id']}, supervised between ⟦ and ⟧ ({len(row['labels']) - n} tokens):", "bold")
    )
    console.print(
        Text(tokenizer.decode(row["input_ids"][:n]), "dim")
        + Text(f"⟦{tokenizer.decode(row['input_ids'][n:])}⟧", "bold green")
    )
    if isinstance(data.train.rows, Dataset):
        console.print(*data.notes, counts_table(data.counts()), sep="\n")


def show_samples(console: Console, step: int, samples: list[dict[str, Any]]) -> None:
    """Print the summaries of a few validation dialogues between the lines of the progress bar."""
    with tqdm.external_write_mode():
        for sample in samples:
            table = Table.grid(padding=(0, 2))
            table.add_row(Text("reference", "bold"), Text(sample["references"][0]))
            table.add_row(Text("summary", "bold"), Text(sample["prediction"] or "(empty)"))
            console.print(Panel(table, title=f"step {step}: {sample['id']}", title_align="left"))


def show_result(metrics: dict[str, Any], data: TrainingData, final: Path, console: Console) -> None:
    if isinstance(data.train.rows, IterableDataset):
        console.print(*data.notes, counts_table(data.counts()), sep="\n")
    console.print(
        f"trained on {metrics['num_tokens']} tokens in {metrics['train_runtime']:.0f} s, evaluations included"
        + (f"; eval loss {metrics['eval_loss']:.3f}" if "eval_loss" in metrics else "")
        + f"; saved to {final}"
    )


if __name__ == "__main__":
    run(main, launches=True)
