"""Ending a run early, on all processes at the same step: by a signal, or by a loss that is not finite."""

import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path
from types import FrameType
from typing import Any

from dialogsum_sft import RESUMABLE, InputError, Stopped
from dialogsum_sft.distributed import all_reduce_max, run_on_main
from dialogsum_sft.files import free_space
from dialogsum_sft.training.checkpoints import expected_size, find_checkpoints
from dialogsum_sft.training.trainer import AlreadyTrained, ResumableSFTTrainer, mib, resume_hint

import numpy as np
import torch
from accelerate.utils import gather_object
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState


class StopRequest:
    """SIGTERM or Ctrl-C, kept until the running step ends; a second Ctrl-C exits at once with status 130.

    A terminal and the launcher may both send one Ctrl-C: another within a second counts as the first.
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
                # No print() in a signal handler: it could interrupt itself.
                os.write(2, f"\n{self.signal.name}: stopping after this step; Ctrl-C exits at once\n".encode())
        elif number == signal.SIGINT and time.monotonic() - self._since > 1:
            os._exit(130)  # a checkpoint that is being written has no marker; older ones are complete


class StopCallback(TrainerCallback, ExportableState):
    """Ends training between two steps, on every process at the same one.

    - After SIGTERM or Ctrl-C on any process all save a checkpoint; the recipe then exits with status 75.
    - A loss or gradient that is not finite raises `Stopped` before the optimizer's step, naming step and rows.
    - Too little disk space for the checkpoints raises `InputError` before the first step.

    It also restores the count of tokens when a run resumes.
    """

    def __init__(self, trainer: ResumableSFTTrainer, rows: Iterable[dict[str, Any]]) -> None:
        self.trainer = trainer
        self.request = StopRequest()
        self.rows = rows  # with `id` and `input_ids`, before any packing
        self.stopping: signal.Signals | None = None  # sent to any process; the same on all

    def state(self) -> dict[str, Any]:
        return {"args": {}, "attributes": {"num_tokens": self.trainer._total_train_tokens}}

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        saved = state.stateful_callbacks.get(type(self).__name__)
        if isinstance(saved, dict):
            self.trainer._total_train_tokens = saved["attributes"].get("num_tokens", 0)
        if state.global_step >= state.max_steps:
            self.trainer.is_in_train = False
            raise AlreadyTrained
        run_on_main(lambda: self._check_space(args, state))

    def _check_space(self, args: TrainingArguments, state: TrainerState) -> None:
        size = expected_size(self.trainer.model, self.trainer.backend)
        remaining = state.max_steps - state.global_step
        count = 0
        if args.save_strategy == "steps":
            count = -(-remaining // int(state.save_steps))
        elif args.save_strategy != "no":
            count = max(1, round(args.num_train_epochs))
        if self.trainer.save_total_limit:
            kept = len(find_checkpoints(Path(args.output_dir)))
            count = min(count, max(1, self.trainer.save_total_limit + 1 - kept))
        needed, free = size * count + size // 3, free_space(Path(args.output_dir))
        if free < needed:
            raise InputError(
                f"{args.output_dir} has {mib(free)} free, and this run takes about {mib(needed)} ({count} "
                f"checkpoints of {mib(size)}, then the final weights): make room, or lower --save_total_limit"
            )

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.trainer.step_batches.clear()

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        loss = self.trainer._tr_loss  # the sum since it was last logged, finite before this step
        finite = loss.isfinite() & self._gradient_is_finite(loss.device)
        received = torch.tensor(self.request.signal or 0, device=loss.device)
        not_finite, number = all_reduce_max(torch.stack([(~finite).int(), received.int()])).tolist()
        self.stopping = signal.Signals(number) if number else None
        if not_finite:
            raise self._not_finite(state.global_step + 1, loss)

    def _gradient_is_finite(self, device: torch.device) -> torch.Tensor:
        gradients = [p.grad for p in self.trainer.model.parameters() if p.grad is not None]
        gradients = [getattr(g, "_local_tensor", g) for g in gradients]  # this process's shard
        if not gradients or self.trainer.accelerator.scaler is not None:  # fp16: the scaler skips such a step
            return torch.tensor(True, device=device)
        return torch.stack([norm.float() for norm in torch._foreach_norm(gradients)]).sum().isfinite().to(device)

    def _not_finite(self, step: int, loss: torch.Tensor) -> Stopped:
        what = "gradient is not finite" if loss.isfinite() else f"loss is {loss.item()}"
        gathered = gather_object([(what, self._rows_of_step())])
        what = next((what for what, _ in gathered if what.startswith("loss")), what)
        rows = [row for _, rows in gathered for row in rows]
        return Stopped(
            f"the {what} at step {step}, in which these rows were trained on: {', '.join(rows)}. Look at them with "
            "recipes/inspect_data.py; if they are sound, lower --learning_rate or --max_grad_norm. "
            + resume_hint(Path(self.trainer.args.output_dir))
        )

    def _rows_of_step(self) -> list[str]:
        """The ids of the rows in this process's batches, padded or packed, in dataset order, by their token ids."""
        batches = [row.tobytes() for batch in self.trainer.step_batches for row in batch.cpu().numpy()]
        names = []
        for row in self.rows:
            ids = np.asarray(row["input_ids"], dtype=np.int64).tobytes()
            if any(_contains_ids(batch, ids) for batch in batches):
                names.append(str(row["id"]))
        return names

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.stopping:
            control.should_save = control.should_training_stop = True
            control.should_evaluate = False

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.stopping:
            control.should_evaluate = control.should_save = False

    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """End a long evaluation too, within the time that a SIGTERM leaves: save the step before it and stop."""
        number = int(all_reduce_max(torch.tensor(self.request.signal or 0, device=args.device)).item())
        if number:
            self.stopping = signal.Signals(number)
            if state.global_step:
                self.trainer.save_in_evaluation()
            self.raise_if_stopped()

    def raise_if_stopped(self) -> None:
        """Raise `Stopped` if a signal ended the run: its step, and the command that resumes."""
        if self.stopping:
            state = self.trainer.state
            raise Stopped(
                f"stopped by {self.stopping.name} after step {state.global_step} of {state.max_steps}. "
                + resume_hint(Path(self.trainer.args.output_dir)),
                status=RESUMABLE,
            )


def _contains_ids(batch: bytes, ids: bytes) -> bool:
    """Whether `batch` contains the sequence `ids`; both have 8 bytes an id."""
    at = batch.find(ids)
    while at >= 0 and at % 8:
        at = batch.find(ids, at + 1)
    return at >= 0
