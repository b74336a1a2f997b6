"""The trainers: SFTTrainer with complete checkpoints and a global batch, and its variant without Triton."""

import argparse
import contextlib
import os
import shlex
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dialogsum_sft import InputError, Stopped
from dialogsum_sft.checks import backend_of, check_steps
from dialogsum_sft.distributed import lost_another, on_any_process, run_on_main
from dialogsum_sft.files import free_space, size_of
from dialogsum_sft.hardware import is_out_of_memory
from dialogsum_sft.kernels.fused_lora import fuse_lora
from dialogsum_sft.kernels.supervised_logits import supervised_forward
from dialogsum_sft.modeling import train_in_float32
from dialogsum_sft.training import checkpoints
from dialogsum_sft.training.sampler import GlobalBatchSampler

import psutil
import torch
from datasets import Dataset, IterableDataset
from peft import PeftModel
from safetensors import SafetensorError
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from transformers.trainer_utils import TrainOutput, rotate_checkpoints
from trl import SFTConfig, SFTTrainer


class AlreadyTrained(Exception):
    """The checkpoint to resume from is that of the last step."""


class ResumableSFTTrainer(SFTTrainer):
    """`SFTTrainer` that completes a checkpoint before rotating older ones, with one row order for any process count.

    A checkpoint is verified and marked as complete when all processes have written their part; only then
    `save_total_limit` is applied. A checkpoint that cannot be written ends the run (`Stopped`) and leaves the older
    ones. `train_dataset` holds rows of token ids from `training_rows`. `args` are changed.
    """

    def __init__(self, *, args: SFTConfig, train_dataset: Dataset | IterableDataset, **kwargs: Any) -> None:
        args.chat_template_path = None  # the tokenizer has it already
        args.remove_unused_columns = False  # the collator names rows by their id
        if not args.packing:
            args.max_length = None  # rows fit already; TRL would cut the summary off a longer one
        if isinstance(train_dataset, IterableDataset):
            args.train_sampling_strategy = "random"  # a stream cannot be sorted by length
        args.use_cache = True  # is saved in the model's config, where false would slow down generation
        args.logging_nan_inf_filter = False  # it hides a loss that is not finite and trains on
        try:
            super().__init__(args=args, train_dataset=train_dataset, **kwargs)
        except ValueError as error:  # options that do not fit each other or the model
            raise InputError(f"SFTTrainer refuses these options: {error}") from error
        check_steps(self.args, self.train_dataset, self.args.world_size)  # packed rows are fewer
        self.save_total_limit = self.args.save_total_limit
        self.args.save_total_limit = None  # transformers would delete the older one before the new one is marked
        self.backend = backend_of(self.args)
        self.weight_shapes = checkpoints.weight_shapes(self.model)
        # Input ids of the micro-batches of the running step; `StopCallback` empties it before each step.
        self.step_batches: deque[torch.Tensor] = deque(maxlen=self.args.gradient_accumulation_steps)
        self._last_saved: Path | None = None
        if self.args.fp16 and not self.is_deepspeed_enabled:  # DeepSpeed scales losses itself
            train_in_float32(self.model)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: publish/model_card.py writes a card beside the final weights."""

    def get_train_dataloader(self) -> DataLoader[Any]:
        loader = super().get_train_dataloader()
        sampler = getattr(loader.batch_sampler, "batch_sampler", loader.batch_sampler)
        if isinstance(getattr(sampler, "sampler", None), GlobalBatchSampler):
            # No step is short. accelerate counts rows, would take some ranks' last figures for duplicates and leave
            # them out of what TRL logs, such as num_tokens.
            loader._drop_last = True
        return loader

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Any:
        dataset = self.train_dataset if train_dataset is None else train_dataset
        strategy = self.args.train_sampling_strategy
        if not isinstance(dataset, Dataset) or strategy not in ("random", "group_by_length"):
            return super()._get_train_sampler(dataset)
        # Packed rows have no length column: all are about as long, so there is nothing to group.
        grouped = strategy == "group_by_length" and self.args.length_column_name in dataset.column_names
        return GlobalBatchSampler(
            len(dataset),
            self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size,
            self.args.seed if self.args.data_seed is None else self.args.data_seed,
            epoch=lambda: int(self.state.epoch or 0),
            lengths=list(dataset[self.args.length_column_name]) if grouped else None,
            drop_last=self.args.dataloader_drop_last,
        )

    def repeated_rows(self) -> list[str]:
        """A line on the rows that an epoch takes twice, to fill its last step; none for a stream of unknown length."""
        step = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        if not isinstance(self.train_dataset, Dataset) or self.args.dataloader_drop_last:
            return []
        rows = len(self.train_dataset)
        return [f"{rows} rows in steps of {step}: {-rows % step} more fill the last step of an epoch"] * bool(
            rows % step
        )

    def train(self, *args: Any, **kwargs: Any) -> TrainOutput:
        """`SFTTrainer.train`, but a run that was stopped after its last step trains no further.

        Raises Stopped where memory runs out.
        """
        try:
            return super().train(*args, **kwargs)
        except AlreadyTrained:
            return TrainOutput(self.state.global_step, 0.0, {"train_runtime": 0.0})
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            size = "x".join(map(str, self.step_batches[-1].shape)) if self.step_batches else "unknown size"
            raise Stopped(
                f"out of memory in step {self.state.global_step + 1}, after a batch of {size} tokens: give a smaller "
                "--per_device_train_batch_size and more --gradient_accumulation_steps, --activation_checkpointing "
                f"true, or --load_in_4bit true. {resume_hint(Path(self.args.output_dir))}",
                status=1,
            ) from error

    def final_metrics(self, metrics: dict[str, Any]) -> dict[str, Any]:
        """`metrics` of the training, the tokens trained on, and the evaluation of the weights that will be saved.

        Raises InputError where no step was trained.
        """
        if self.state.global_step == 0:
            raise InputError("not one step was trained, so nothing is saved: the rows do not fill a batch")
        metrics = metrics | {"num_tokens": int(self._total_train_tokens)}
        if self.eval_dataset is None:
            return metrics
        best = self.state.best_model_checkpoint if self.args.load_best_model_at_end else None
        step = checkpoints.step_of(Path(best)) if best else self.state.global_step
        events = [event for event in self.state.log_history if event["step"] == step]
        measured = {name: event[name] for event in events for name in event if name.startswith("eval_")}
        return metrics | {"step": step} | (measured or self.evaluate())

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        self.step_batches.append(inputs["input_ids"])
        return super().training_step(model, inputs, *args, **kwargs)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Restores the global generator after it, from which a loader draws: evaluations do not change training."""
        self._rng_state = torch.get_rng_state()
        try:
            return super().evaluate(*args, **kwargs)
        finally:
            torch.set_rng_state(self._rng_state)

    def save_in_evaluation(self) -> None:
        """Save a checkpoint of the step that is being evaluated."""
        torch.set_rng_state(self._rng_state)
        self._save_checkpoint(self.model, None)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        folder = Path(self.args.output_dir).absolute() / f"checkpoint-{self.state.global_step}"
        if folder == self._last_saved:  # stopped in the evaluation after it: a complete one is never overwritten
            return

        def save() -> None:
            if self.args.should_save:
                self._check_space(folder)
            super(ResumableSFTTrainer, self)._save_checkpoint(model, trial)

        self._write(folder, save)
        run_on_main(lambda: self._complete(folder))
        self._last_saved = folder

    def save_verified(self, folder: Path) -> None:
        """`save_model`, then check that each weight is there, in its shape and finite; else all raise `Stopped`."""
        self._write(folder, lambda: self.save_model(str(folder)))
        run_on_main(lambda: self._verify(folder))
        if self.args.should_save:
            for leftover in ("training_args.bin", "README.md"):  # a pickle that can hold a token; TRL's model card
                (folder / leftover).unlink(missing_ok=True)

    def _write(self, folder: Path, save: Callable[[], None]) -> None:
        error: Exception | None = None
        try:
            save()
        except (OSError, RuntimeError, SafetensorError) as caught:
            error = caught
            if self.args.world_size > 1 and (self.state.best_global_step or self.backend):
                # The others may be waiting inside the save and not at `on_any_process`: the launcher ends them.
                if not lost_another(error):
                    os.write(2, f"error: {self._not_saved(folder, error)}\n".encode())
                os._exit(1)
        if on_any_process(error is not None):
            raise self._not_saved(folder, error or RuntimeError("another process could not write its part"))

    def _check_space(self, folder: Path) -> None:
        needed = size_of(self._last_saved) if self._last_saved else checkpoints.expected_size(self.model, self.backend)
        free = free_space(folder.parent)
        if free < needed:
            raise OSError(f"it takes about {mib(needed)} and {mib(free)} are free")

    def _complete(self, folder: Path) -> None:
        """Call it on the main process when all have written."""
        (folder / "training_args.bin").unlink(missing_ok=True)  # a pickle that nothing reads and that can hold a token
        self._verify(folder)
        try:
            checkpoints.mark_complete(folder, self.args.world_size, self.backend)
        except OSError as error:
            raise self._not_saved(folder, error) from error
        rotate_checkpoints(
            output_dir=self.args.output_dir,
            save_total_limit=self.save_total_limit,
            best_model_checkpoint=self.state.best_model_checkpoint,
        )

    def _verify(self, folder: Path) -> None:
        try:
            checkpoints.verify_adapter(folder, self.weight_shapes)
        except InputError as error:
            raise self._not_saved(folder, error) from error

    def _not_saved(self, folder: Path, error: Exception) -> Stopped:
        reason = " ".join(str(error).split())[:300]
        folder = Path(os.path.relpath(folder)) if folder.is_relative_to(Path.cwd()) else folder
        return Stopped(
            f"{folder} could not be written (is the disk full?): {reason}. {resume_hint(Path(self.args.output_dir))}"
        )

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        # PEFT loads an adapter as float32.
        dtypes = {name: parameter.dtype for name, parameter in self.model.named_parameters()}
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        self._last_saved = Path(resume_from_checkpoint).absolute()
        for name, parameter in self.model.named_parameters():
            if parameter.dtype != dtypes[name]:
                parameter.data = parameter.data.to(dtypes[name])

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Load the state but keep this run's options, which --force_resume may have changed."""
        if checkpoint is None or self.is_deepspeed_enabled:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        kept = ("params", "lr")
        fresh = [{k: v for k, v in group.items() if k not in kept} for group in self.optimizer.param_groups]
        super()._load_optimizer_and_scheduler(checkpoint)
        scheduler = self.lr_scheduler
        for i, (group, options) in enumerate(zip(self.optimizer.param_groups, fresh, strict=True)):
            group.update(options)
            if isinstance(scheduler, LambdaLR):
                scheduler.base_lrs[i] = options["initial_lr"]
                group["lr"] = options["initial_lr"] * scheduler.lr_lambdas[i](scheduler.last_epoch)
                scheduler._last_lr[i] = group["lr"]  # what is logged


class SupervisedLogitsSFTTrainer(ResumableSFTTrainer):
    """For machines without Triton: the same loss in about half the time, by `supervised_forward`.

    Only the model's forward is replaced; the loss, its normalisation and the logged metrics stay TRL's. The adapter
    takes the base model's dtype, as TRL does for QLoRA: PEFT's fp32 adapters on a bf16 base cost a third more.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        dtype = self.model.get_input_embeddings().weight.dtype
        for parameter in self.model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.to(dtype)
        if self.model.device.type == "cpu":
            fuse_lora(self.model)

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        unwrapped = self.accelerator.unwrap_model(model)
        base = unwrapped.get_base_model() if isinstance(unwrapped, PeftModel) else unwrapped
        autocast = self.accelerator.mixed_precision in ("bf16", "fp16")
        return super().compute_loss(supervised_forward(model, base, autocast=autocast), inputs, *args, **kwargs)


def resume_hint(output_dir: Path) -> str:
    """The command that starts this run again, and the checkpoint that it resumes from."""
    saved = checkpoints.find_checkpoints(output_dir)
    whole = next((path for path in saved if (path / checkpoints.MARKER).is_file()), None)
    where = f"resumes from {whole}" if whole else "begins at step 0, as no checkpoint was written"
    return f"The same command {where}: {_command()}"


def _command() -> str:
    """The command that started this process, its launcher's where it has one, without --resume_from_checkpoint."""
    words = ["python", *sys.argv]
    with contextlib.suppress(psutil.Error, AttributeError):
        launcher = psutil.Process().parent().cmdline()  # python .../bin/accelerate launch ... recipes/sft.py ...
        if sys.argv[0] in launcher and Path(launcher[1]).name in ("accelerate", "torchrun"):
            words = [Path(launcher[1]).name, *launcher[2:]]
        elif sys.argv[0] in launcher and os.environ.get("WORLD_SIZE", "1") != "1":  # --accelerate_config
            words = ["python", *launcher[launcher.index(sys.argv[0]) :]]
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--resume_from_checkpoint")
    return shlex.join(parser.parse_known_args(words)[1])


def mib(size: int) -> str:
    return f"{size / 2**20:,.0f} MiB"
