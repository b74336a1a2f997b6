"""Training that can be stopped: by a signal, a loss that is not finite or a full disk, on all processes together."""

import atexit
import contextlib
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

from dialogsum_sft import InputError, Stopped
from dialogsum_sft.batches import GlobalBatchSFTTrainer
from dialogsum_sft.checkpoints import (
    MARKER,
    expected_size,
    find_checkpoints,
    free_space,
    mark_complete,
    size_of,
    verify_adapter,
    weight_shapes,
)

import psutil
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from safetensors import SafetensorError
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import rotate_checkpoints

RESUMABLE = 75  # sysexits' EX_TEMPFAIL: the run goes on when it is started again
Result = TypeVar("Result")


class AlreadyTrained(Exception):
    """The checkpoint that training was to go on from is that of its last step."""


class StopRequest:
    """SIGTERM or Ctrl-C, remembered until the running step is done; a second Ctrl-C leaves at once with status 130.

    A terminal and the launcher may both pass one Ctrl-C on: what follows within a second is still the first.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._since = 0.0

    def listen(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._receive)

    def _receive(self, number: int, _: FrameType | None) -> None:
        if self.signal is None:
            self.signal, self._since = signal.Signals(number), time.monotonic()
            if os.environ.get("RANK", "0") == "0":
                # print() may not be called from here: it could interrupt itself.
                os.write(2, f"\n{self.signal.name}: stopping after this step; Ctrl-C leaves at once\n".encode())
        elif number == signal.SIGINT and time.monotonic() - self._since > 1:
            os._exit(130)  # a checkpoint that is being written stays without its marker, older ones are whole


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
        self.step_batches: list[torch.Tensor] = []  # input ids of the micro-batches of the running step
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
        together(lambda: self._complete(folder))
        self._last_saved = folder

    def save_verified(self, folder: Path) -> None:
        """`save_model`, checked: every weight is there, in its shape and finite. Raises `Stopped` on all processes."""
        self._write(folder, lambda: self.save_model(str(folder)))
        together(lambda: self._verify(folder))

    def _write(self, folder: Path, save: Callable[[], None]) -> None:
        error: Exception | None = None
        try:
            save()
        except (OSError, RuntimeError, SafetensorError) as caught:
            error = caught
            if self.args.world_size > 1 and (self.state.best_global_step or self.is_fsdp_enabled):
                # The others may be waiting inside the save, not at `all_agree`: their launcher ends them.
                os.write(2, f"error: {self._not_saved(folder, error)}\n".encode())
                os._exit(1)
        if all_agree(error is not None):
            raise self._not_saved(folder, error or RuntimeError("another process could not write its part"))

    def _check_space(self, folder: Path) -> None:
        needed = size_of(self._last_saved) if self._last_saved else expected_size(self.model)
        free = free_space(folder.parent)
        if free < needed:
            raise OSError(f"it takes about {_mib(needed)} and {_mib(free)} are free")

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
        return Stopped(f"{folder} could not be written: {reason}. {_way_back(Path(self.args.output_dir))}")

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


class StopTogether(TrainerCallback, ExportableState):
    """Ends training between two steps, on every process at the same one: saved when asked to stop, else at once.

    - After SIGTERM or Ctrl-C on any process all save a checkpoint; the recipe then leaves with status 75.
    - A loss or gradient that is not finite raises `Stopped` before the optimizer's step, naming step and rows.
    - Too little disk space for the checkpoints to come raises `InputError` before the first step.

    It also makes a resumed run the same as an uninterrupted one: the order of length-grouped batches is drawn from
    the seed and the epoch, not from the state of the global generator; the count of tokens goes on.
    """

    def __init__(self, trainer: ResumableSFTTrainer, request: StopRequest) -> None:
        self.trainer = trainer
        self.request = request
        self.stopping: signal.Signals | None = None  # what any process was sent; all agree on it

    def state(self) -> dict[str, Any]:
        return {"args": {}, "attributes": {"num_tokens": self.trainer._total_train_tokens}}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        saved = state.stateful_callbacks.get(type(self).__name__)
        if isinstance(saved, dict):
            self.trainer._total_train_tokens = saved["attributes"].get("num_tokens", 0)
        if state.global_step >= state.max_steps:
            self.trainer.is_in_train = False
            raise AlreadyTrained
        together(lambda: self._check_space(args, state))

    def _check_space(self, args: TrainingArguments, state: TrainerState) -> None:
        size = expected_size(self.trainer.model)
        left = state.max_steps - state.global_step
        count = 0
        if args.save_strategy == "steps":
            count = -(-left // int(state.save_steps))
        elif args.save_strategy != "no":
            count = max(1, round(args.num_train_epochs))
        if self.trainer.save_total_limit:
            kept = len(find_checkpoints(Path(args.output_dir)))
            count = min(count, max(1, self.trainer.save_total_limit + 1 - kept))
        needed, free = size * count + size // 3, free_space(Path(args.output_dir))
        if free < needed:
            raise InputError(
                f"{args.output_dir} has {_mib(free)} free, and this run takes about {_mib(needed)} ({count} "
                f"checkpoints of {_mib(size)}, then the final weights): make room, or lower --save_total_limit"
            )

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.trainer.step_batches.clear()

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        loss = self.trainer._tr_loss  # summed since it was last logged, and finite before this step
        finite = loss.isfinite() & self._gradient_is_finite(loss.device)
        received = torch.tensor(self.request.signal or 0, device=loss.device)
        not_finite, number = _maximum(torch.stack([(~finite).int(), received.int()])).tolist()
        self.stopping = signal.Signals(number) if number else None
        if not_finite:
            raise self._not_finite(state.global_step + 1, loss)

    def _gradient_is_finite(self, device: torch.device) -> torch.Tensor:
        gradients = [p.grad for p in self.trainer.model.parameters() if p.grad is not None]
        gradients = [getattr(g, "_local_tensor", g) for g in gradients]  # this process's part of a sharded one
        if not gradients or self.trainer.accelerator.scaler is not None:  # fp16: the scaler skips such a step
            return torch.tensor(True, device=device)
        return torch.stack([norm.float() for norm in torch._foreach_norm(gradients)]).sum().isfinite().to(device)

    def _not_finite(self, step: int, loss: torch.Tensor) -> Stopped:
        what = "gradient is not finite" if loss.isfinite() else f"loss is {loss.item()}"
        found = gather_object([(what, self._rows_of_step())])
        what = next((what for what, _ in found if what.startswith("loss")), what)
        rows = [row for _, rows in found for row in rows]
        return Stopped(
            f"the {what} at step {step}, in which these rows were trained on: {', '.join(rows)}. Look at them with "
            "recipes/inspect_data.py; if they are sound, lower --learning_rate or --max_grad_norm. "
            + _way_back(Path(self.trainer.args.output_dir))
        )

    def _rows_of_step(self) -> list[str]:
        """The ids of the rows whose token ids were in this process's batches, in dataset order."""
        pad = self.trainer.processing_class.pad_token_id
        wanted = {_without_padding(row, pad) for batch in self.trainer.step_batches for row in batch.tolist()}
        rows = self.trainer.train_dataset
        return [str(row["id"]) for row in rows if _without_padding(row["input_ids"], pad) in wanted]

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.stopping:
            control.should_save = control.should_training_stop = True
            control.should_evaluate = False

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.stopping:
            control.should_evaluate = control.should_save = False

    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """A long evaluation does not outlast the grace after a SIGTERM: what was trained before it is saved."""
        number = int(_maximum(torch.tensor(self.request.signal or 0, device=args.device)).item())
        if number:
            self.stopping = signal.Signals(number)
            if state.global_step:
                self.trainer.save_in_evaluation()
            raise self.stopped()

    def stopped(self) -> Stopped:
        """What to say of a run that was asked to stop: where it stands, and the command that goes on."""
        state, name = self.trainer.state, self.stopping.name if self.stopping else "request"
        return Stopped(
            f"stopped by {name} after step {state.global_step} of {state.max_steps}. "
            + _way_back(Path(self.trainer.args.output_dir)),
            status=RESUMABLE,
        )


def together(function: Callable[[], Result]) -> Result:
    """Call on the main process only; every process gets what it returns, or raises what it raises."""
    state = PartialState()
    result: list[Any] = [None, None]
    if state.is_main_process:
        try:
            result[0] = function()
        except (InputError, Stopped) as error:
            result[1] = error
    if state.num_processes > 1:
        broadcast_object_list(result)
    if result[1] is not None:
        raise result[1]
    return result[0]


def all_agree(flag: bool) -> bool:
    """Whether `flag` is true on any process; every process waits for all others."""
    state = PartialState()
    return bool(_maximum(torch.tensor([flag], device=state.device).int()).item())


def leave(status: int) -> None:
    """End the process: with several at once, without the destructors in which one may hang."""
    if PartialState._shared_state and PartialState().num_processes > 1:
        # gloo's waits, holding the interpreter's lock, for a thread that may be waiting for that lock: a finished
        # process would hang there now and then (seen with torch 2.13). All is saved, so leave without it.
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    if status:
        sys.exit(status)


def _maximum(flags: torch.Tensor) -> torch.Tensor:
    """The elementwise maximum over all processes."""
    if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
        torch.distributed.all_reduce(flags, op=torch.distributed.ReduceOp.MAX)
    return flags


def _without_padding(row: list[int] | tuple[int, ...], pad: int) -> tuple[int, ...]:
    end = len(row)
    while end and row[end - 1] == pad:
        end -= 1
    return tuple(row[:end])


def _way_back(output_dir: Path) -> str:
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


def _mib(size: int) -> str:
    return f"{size / 2**20:,.0f} MiB"
