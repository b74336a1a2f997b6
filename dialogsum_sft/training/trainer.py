"""The trainer whose checkpoints are whole before an older one goes, and what to say of going on from one."""

import contextlib
import os
import shlex
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dialogsum_sft import InputError, Stopped
from dialogsum_sft.distributed import on_any_process, run_on_main
from dialogsum_sft.files import free_space, size_of
from dialogsum_sft.training.checkpoints import (
    MARKER,
    expected_size,
    find_checkpoints,
    mark_complete,
    verify_adapter,
    weight_shapes,
)
from dialogsum_sft.training.sampler import GlobalBatchSFTTrainer

import psutil
import torch
from safetensors import SafetensorError
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from transformers.trainer_utils import rotate_checkpoints


class ResumableSFTTrainer(GlobalBatchSFTTrainer):
    """`SFTTrainer` whose checkpoints are whole before an older one is deleted, and that knows the rows of its step.

    A checkpoint is checked and marked as complete when all processes have written their part; only then
    `save_total_limit` is applied. One that cannot be written ends the run (`Stopped`) and leaves the older ones.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.save_total_limit = self.args.save_total_limit
        self.args.save_total_limit = None  # transformers would delete the older one before the new one is marked
        self.weight_shapes = weight_shapes(self.model)
        # Input ids of the micro-batches of the running step; `StopTogether` empties it before each.
        self.step_batches: deque[torch.Tensor] = deque(maxlen=self.args.gradient_accumulation_steps)
        self._last_saved: Path | None = None

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        self.step_batches.append(inputs["input_ids"])
        return super().training_step(model, inputs, num_items_in_batch)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Leaves the global generator as it was (a loader draws from it): training is the same with and without."""
        self._rng_state = torch.get_rng_state()
        try:
            return super().evaluate(*args, **kwargs)
        finally:
            torch.set_rng_state(self._rng_state)

    def save_in_evaluation(self) -> None:
        """A checkpoint of the step that is being evaluated."""
        torch.set_rng_state(self._rng_state)
        self._save_checkpoint(self.model, None)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        folder = Path(self.args.output_dir).absolute() / f"checkpoint-{self.state.global_step}"
        if folder == self._last_saved:  # a stop in the evaluation after it: a whole one is never written over
            return

        def save() -> None:
            if self.args.should_save:
                self._check_space(folder)
            super(ResumableSFTTrainer, self)._save_checkpoint(model, trial)

        self._write(folder, save)
        run_on_main(lambda: self._complete(folder))
        self._last_saved = folder

    def save_verified(self, folder: Path) -> None:
        """`save_model`, checked: every weight is there, in its shape and finite. Raises `Stopped` on all processes."""
        self._write(folder, lambda: self.save_model(str(folder)))
        run_on_main(lambda: self._verify(folder))

    def _write(self, folder: Path, save: Callable[[], None]) -> None:
        error: Exception | None = None
        try:
            save()
        except (OSError, RuntimeError, SafetensorError) as caught:
            error = caught
            if self.args.world_size > 1 and (self.state.best_global_step or self.is_fsdp_enabled):
                # The others may be waiting inside the save, not at `on_any_process`: their launcher ends them.
                os.write(2, f"error: {self._not_saved(folder, error)}\n".encode())
                os._exit(1)
        if on_any_process(error is not None):
            raise self._not_saved(folder, error or RuntimeError("another process could not write its part"))

    def _check_space(self, folder: Path) -> None:
        needed = size_of(self._last_saved) if self._last_saved else expected_size(self.model)
        free = free_space(folder.parent)
        if free < needed:
            raise OSError(f"it takes about {mib(needed)} and {mib(free)} are free")

    def _complete(self, folder: Path) -> None:
        """On the main process, when all have written."""
        (folder / "training_args.bin").unlink(missing_ok=True)  # nobody needs this pickle, and it can hold a token
        self._verify(folder)
        try:
            mark_complete(folder, self.args.world_size)
        except OSError as error:
            raise self._not_saved(folder, error) from error
        rotate_checkpoints(
            output_dir=self.args.output_dir,
            save_total_limit=self.save_total_limit,
            best_model_checkpoint=self.state.best_model_checkpoint,
        )

    def _verify(self, folder: Path) -> None:
        try:
            verify_adapter(folder, self.weight_shapes)
        except InputError as error:
            raise self._not_saved(folder, error) from error

    def _not_saved(self, folder: Path, error: Exception) -> Stopped:
        reason = " ".join(str(error).split())[:300]
        folder = Path(os.path.relpath(folder)) if folder.is_relative_to(Path.cwd()) else folder
        return Stopped(
            f"{folder} could not be written (is the disk full?): {reason}. {way_back(Path(self.args.output_dir))}"
        )

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        # PEFT casts an adapter that it loads to float32.
        dtypes = {name: parameter.dtype for name, parameter in self.model.named_parameters()}
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        self._last_saved = Path(resume_from_checkpoint).absolute()
        for name, parameter in self.model.named_parameters():
            if parameter.dtype != dtypes[name]:
                parameter.data = parameter.data.to(dtypes[name])

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """The state is the checkpoint's, the options this run's: --force_resume may have changed them."""
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


def way_back(output_dir: Path) -> str:
    """Where a run that is started again goes on, and how it is started."""
    whole = next((path for path in find_checkpoints(output_dir) if (path / MARKER).is_file()), None)
    where = f"goes on from {whole}" if whole else "begins at step 0, as no checkpoint was written"
    return f"The same command {where}: {_command()}"


def _command() -> str:
    """The command that started this process, its launcher's where it has one, without the option to begin anew."""
    words = ["python", *sys.argv]
    with contextlib.suppress(psutil.Error, AttributeError):
        launcher = psutil.Process().parent().cmdline()  # python .../bin/accelerate launch ... recipes/sft.py ...
        if sys.argv[0] in launcher and Path(launcher[1]).name in ("accelerate", "torchrun"):
            words = [Path(launcher[1]).name, *launcher[2:]]
    option = "--resume_from_checkpoint"
    kept = [
        word
        for i, word in enumerate(words)
        if not (word.startswith(f"{option}=") or word == option or (i and words[i - 1] == option))
    ]
    return shlex.join(kept)


def mib(size: int) -> str:
    return f"{size / 2**20:,.0f} MiB"
