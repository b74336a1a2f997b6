"""Trainer callbacks: the training log, early stopping, and evaluation by generated summaries."""

import contextlib
import json
import logging
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from dialogsum_sft import InputError, files
from dialogsum_sft.arguments import TrainArguments
from dialogsum_sft.data.answers import is_unfinished, read_answer
from dialogsum_sft.data.dialogue import restore_speakers
from dialogsum_sft.data.encoding import build_prompts
from dialogsum_sft.data.prompts import PromptSettings
from dialogsum_sft.evaluation.rouge import HEADLINE, mean, rouge_scores
from dialogsum_sft.evaluation.tokenizers import suggest_tokenizer
from dialogsum_sft.generation.engine import Completion, generation_config, max_prompt_tokens
from dialogsum_sft.generation.summarise import summarise
from dialogsum_sft.generation.transformers_engine import TransformersEngine
from dialogsum_sft.modeling import length_limit

import numpy as np
import torch
from transformers import EarlyStoppingCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations import TensorBoardCallback, TrackioCallback, WandbCallback
from trl import SFTTrainer

logger = logging.getLogger(__name__)

LOG_NAME = "training.jsonl"
SAMPLES = 3  # summaries of an evaluation that are printed and recorded


class TrainingLog(TrainerCallback):
    """Writes `training.jsonl`: {"format": 1}, then a line for every event as the trainer logs it; rank 0 only.

    A line has `step`, `epoch`, `time` (seconds since 1970) and what was logged: `loss`, `learning_rate`, `grad_norm`,
    `num_tokens`, ..., or `eval_loss`, ...; a number that is not finite is null. Lines are flushed one by one, so a
    killed process loses none. A resumed run starts the file with the history of its checkpoint: later events of the
    interrupted attempt, and a half-written line, are removed, so that no step is logged twice.
    """

    def __init__(self, output_dir: str | Path) -> None:
        self.path = Path(output_dir) / LOG_NAME

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.is_world_process_zero:
            files.write_jsonl(self.path, [{"format": files.FORMAT}, *map(_line, state.log_history)])

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.is_world_process_zero:
            # Stored in the event, so that a checkpoint restores it.
            state.log_history[-1]["time"] = round(time.time(), 3)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(_line(state.log_history[-1]), allow_nan=False) + "\n")


class EarlyStopping(EarlyStoppingCallback):
    """transformers' early stopping, with its count of evaluations without improvement restored from a checkpoint.

    `restore_callback_states_from_checkpoint` does so too, but also restores the decision to stop.
    """

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        super().on_train_begin(args, state, control)
        saved = state.stateful_callbacks.get(type(self).__name__)
        if isinstance(saved, dict):
            self.early_stopping_patience_counter = saved["attributes"]["early_stopping_patience_counter"]


def _line(event: dict[str, Any]) -> dict[str, Any]:
    first = {name: event[name] for name in ("step", "epoch", "time") if name in event}
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in (first | event).items()
        if name != "samples"
    }


class GenerationEvaluation(TrainerCallback):
    """Summarises the same validation dialogues at every evaluation, as recipes/eval.py does, and scores them.

    `rows` have id, dialogue and references. Adds to the evaluation's metrics, so that `metric_for_best_model` and
    early stopping see them, and logs: `eval_rouge1_mean`, `eval_rouge2_mean`, `eval_rougeL_mean` (F1 x 100, mean over
    references, then dialogues), `eval_unfinished` (share of the summaries cut off at `eval_max_new_tokens`, 0 to 1)
    and `eval_generate_runtime` (seconds). The first summaries go to the trackers, to `show(step, samples)`, and into
    the trainer's `log_history` as `samples`; a sample has id, dialogue, references, prediction and finish_reason.

    A prompt and its longest summary have at most `max_length` tokens together, and no more than the model's positions.
    The processes share the dialogues and all get the same metrics. The random state, the model's mode and its
    generation config are restored.

    Add it after the trackers and before `EarlyStoppingCallback`, by `trainer.add_callback`. Raises InputError when a
    dialogue does not fit even when shortened to one turn.
    """

    def __init__(
        self,
        trainer: SFTTrainer,
        rows: Sequence[dict[str, Any]],
        settings: PromptSettings,
        train_args: TrainArguments,
        *,
        stop_ids: frozenset[int],
        max_length: int | None,
        show: Callable[[int, list[dict[str, Any]]], None] = lambda step, samples: None,
    ) -> None:
        self.trainer, self.show, tokenizer = trainer, show, trainer.processing_class
        self.rows = list(rows)
        self.references = [row["references"] for row in self.rows]
        self.rouge_tokenizer = train_args.eval_rouge_tokenizer
        self.engine = TransformersEngine(
            lambda: trainer.model,
            tokenizer,
            generation_config(tokenizer, stop_ids, train_args.eval_max_new_tokens),
            max_length=length_limit(max_length, trainer.model.config),
            max_batch_tokens=train_args.eval_max_batch_tokens,
        )
        try:
            self.prompts = build_prompts(self.rows, tokenizer, settings, max_prompt_tokens(self.engine))
        except InputError as error:
            raise InputError(f"--eval_generate_samples: validation {error}") from error
        if self.rouge_tokenizer == "default" and suggest_tokenizer(sum(self.references, [])) == "unicode":
            logger.warning("ROUGE's default tokenizer has a-z and 0-9 only: give --eval_rouge_tokenizer unicode")

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, metrics: dict[str, Any], **_: Any
    ) -> None:
        started = time.time()
        completions = self._completions()
        summaries = [
            restore_speakers(read_answer(completion.text).summary, prompt.names)
            for completion, prompt in zip(completions, self.prompts, strict=True)
        ]
        scores = rouge_scores(summaries, self.references, self.rouge_tokenizer)
        measured = {
            f"eval_{name}_mean": float(np.mean([mean(values) for values in scores[name]])) for name in HEADLINE
        }
        cut_off = sum(
            is_unfinished({"prediction": one.text, "finish_reason": one.finish_reason}) for one in completions
        )
        measured["eval_unfinished"] = cut_off / len(self.rows)
        measured["eval_generate_runtime"] = round(time.time() - started, 2)
        metrics.update(measured)
        self.trainer.log(measured)
        samples = [
            {name: row[name] for name in ("id", "dialogue", "references")}
            | {"prediction": summary, "finish_reason": completion.finish_reason}
            for row, summary, completion in zip(self.rows[:SAMPLES], summaries, completions, strict=False)
        ]
        state.log_history[-1]["samples"] = samples
        if state.is_world_process_zero:
            self._to_trackers(state.global_step, samples)
        self.show(state.global_step, samples)

    def _completions(self) -> list[Completion]:
        with _random_state_kept(self.trainer.model.device):
            return [candidates[0] for candidates in summarise(self.engine, self.prompts, adapter=True)]

    def _to_trackers(self, step: int, samples: list[dict[str, Any]]) -> None:
        """Log them as text to TensorBoard and as a table to Weights & Biases and Trackio; other trackers get none."""
        columns = ["id", "dialogue", "reference", "prediction"]
        table = [[s["id"], s["dialogue"], s["references"][0], s["prediction"]] for s in samples]
        for tracker in self.trainer.callback_handler.callbacks:
            if isinstance(tracker, TensorBoardCallback) and tracker.tb_writer is not None:
                # Markdown keeps <names>, # and line ends as they are when they are indented by four.
                text = "\n\n".join(
                    f"**{column}**\n\n" + "\n".join(f"    {line}" for line in value.splitlines())
                    for row in table
                    for column, value in zip(columns, row, strict=True)
                )
                tracker.tb_writer.add_text("eval/samples", text, step)
                tracker.tb_writer.flush()
            elif isinstance(tracker, WandbCallback | TrackioCallback):
                module = tracker._wandb if isinstance(tracker, WandbCallback) else tracker._trackio
                module.log({"eval/samples": module.Table(columns=columns, data=table), "train/global_step": step})


@contextlib.contextmanager
def _random_state_kept(device: torch.device) -> Iterator[None]:
    """Restore all random states, so that generating does not change dropout and shuffling of later steps."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
