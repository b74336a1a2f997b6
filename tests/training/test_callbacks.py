"""The trainer callbacks: evaluation by generation, early stopping, and the training log."""

import copy
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from conftest import ROOT, Recipe, tiny_model
from dialogsum_sft import InputError
from dialogsum_sft.arguments import TrainArguments
from dialogsum_sft.data.prompts import PromptSettings, encode
from dialogsum_sft.generation import transformers_engine
from dialogsum_sft.generation.engine import Completion
from dialogsum_sft.training import callbacks
from dialogsum_sft.training.callbacks import EarlyStopping, GenerationEvaluation, TrainingLog
from dialogsum_sft.training.collator import CompletionOnlyCollator

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import (
    PreTrainedTokenizerFast,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    integrations,
)
from trl import SFTConfig, SFTTrainer

ROWS = [
    {"id": "a", "dialogue": "#Person1#: Is it raining?\n#Person2#: A little.", "references": ["It rains.", "Rain."]},
    {"id": "b", "dialogue": "#Person1#: Tea?\n#Person2#: Coffee, please.", "references": ["#Person2# has coffee."]},
    {"id": "c", "dialogue": "#Person1#: The train is late.\n#Person2#: Again!", "references": ["A late train."]},
    {"id": "d", "dialogue": "Ann: Did you call?\nBob: I will tonight, I promise.", "references": ["Bob will call."]},
    {"id": "e", "dialogue": "Ann: Lunch?\nBob: At one.", "references": ["Ann and Bob have lunch at one."]},
]


def make_trainer(tokenizer: PreTrainedTokenizerFast, folder: Path, **options: Any) -> SFTTrainer:
    """A tiny model under LoRA with dropout, in fp32, with a learning rate at which it soon repeats frequent words."""
    stop_ids = frozenset([tokenizer.eos_token_id])
    rows = [{"id": row["id"]} | encode(tokenizer, row["dialogue"], row["references"][0], stop_ids) for row in ROWS]
    defaults: dict[str, Any] = {
        "max_steps": 4,
        "learning_rate": 3e-2,
        "eval_strategy": "steps",
        "eval_steps": 1,
        "save_strategy": "no",
        "activation_checkpointing": False,
    }
    args = SFTConfig(
        output_dir=str(folder),
        bf16=False,
        use_cpu=True,
        max_length=None,
        remove_unused_columns=False,
        per_device_train_batch_size=2,
        logging_steps=1,
        disable_tqdm=True,
        dataloader_pin_memory=False,
        **(defaults | options),
    )
    return SFTTrainer(
        model=tiny_model(tokenizer),
        args=args,
        data_collator=CompletionOnlyCollator(tokenizer.pad_token_id, stop_token_ids=stop_ids),
        train_dataset=Dataset.from_list(rows),
        eval_dataset=Dataset.from_list(rows),
        processing_class=copy.deepcopy(tokenizer),
        peft_config=LoraConfig(r=4, target_modules="all-linear", lora_dropout=0.3),
    )


def evaluation(trainer: SFTTrainer, settings: PromptSettings | None = None, **options: Any) -> GenerationEvaluation:
    tokenizer = trainer.processing_class
    return GenerationEvaluation(
        trainer,
        ROWS,
        tokenizer,
        settings or PromptSettings(),
        TrainArguments(eval_generate_samples=len(ROWS), eval_max_new_tokens=6),
        stop_ids=frozenset([tokenizer.eos_token_id]),
        **({"max_length": None} | options),
    )


def events(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "training.jsonl").read_text(encoding="utf-8").splitlines()]
    assert lines[0] == {"format": 1}
    return lines[1:]


def rouge_of(*means: float) -> Callable[..., dict[str, list[list[float]]]]:
    """A substitute for `rouge_scores` that returns one of these means for each evaluation."""
    values = iter(means)

    def scores(predictions: Sequence[str], *args: Any) -> dict[str, list[list[float]]]:
        mean = next(values)
        return {name: [[mean]] * len(predictions) for name in ("rouge1", "rouge2", "rougeL")}

    return scores


# Generating while training


@pytest.fixture
def drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Generation that draws random numbers, as sampling would."""
    generate_batches = transformers_engine.generate_batches

    def drawing(*args: Any, **kwargs: Any) -> Iterator[Any]:
        random.random(), np.random.rand(), torch.rand(1)
        yield from generate_batches(*args, **kwargs)

    monkeypatch.setattr(transformers_engine, "generate_batches", drawing)


def random_states() -> tuple[Any, ...]:
    kind, keys, *position = np.random.get_state()
    return random.getstate(), keys.tolist(), position, torch.get_rng_state().tolist()


@pytest.mark.usefixtures("drawing")
def test_generating_does_not_change_the_training(chatml_tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    losses, weights = [], []
    for generating in (False, True):
        trainer = make_trainer(chatml_tokenizer, tmp_path)
        if generating:
            trainer.add_callback(evaluation(trainer))
        trainer.train()
        losses.append([log["loss"] for log in trainer.state.log_history if "loss" in log])
        weights.append([parameter.detach().clone() for parameter in trainer.model.parameters()])
    assert sum("eval_rouge1_mean" in log for log in trainer.state.log_history) == 4
    assert len(losses[0]) == 4
    assert losses[0] == losses[1]
    assert all(torch.equal(one, other) for one, other in zip(*weights, strict=True))


@pytest.mark.usefixtures("drawing")
@pytest.mark.parametrize("training", [True, False])
def test_generating_restores_model_tokenizer_and_random_states(
    chatml_tokenizer: PreTrainedTokenizerFast, tmp_path: Path, training: bool
) -> None:
    trainer = make_trainer(chatml_tokenizer, tmp_path)
    model, tokenizer = trainer.model, trainer.processing_class
    model.config.use_cache, tokenizer.padding_side = False, "right"
    model.train(training)
    own = (model.generation_config, model.get_base_model().generation_config)
    drawn = random_states()
    evaluation(trainer).on_evaluate(trainer.args, trainer.state, trainer.control, {})
    assert {module.training for module in model.modules()} == {training}
    assert (model.config.use_cache, tokenizer.padding_side) == (False, "right")
    assert (model.generation_config, model.get_base_model().generation_config) == own
    assert random_states() == drawn


def test_generation_uses_the_cache_under_activation_checkpointing(
    chatml_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    trainer = make_trainer(chatml_tokenizer, tmp_path, activation_checkpointing=True, max_steps=1)
    trainer.add_callback(evaluation(trainer))
    widths: list[int] = []
    embed = trainer.model.get_input_embeddings()
    embed.register_forward_hook(lambda _, args, out: widths.append(args[0].shape[1]) if not embed.training else None)
    trainer.train()
    assert widths[-6:].count(1) == 5  # the prompts once, then a token at a time


def test_metrics_equal_those_of_the_evaluation_recipe(
    recipe: Recipe, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same adapter on the same dialogues: equal scores, equal summaries."""
    options = ["--eval_strategy=steps", "--eval_steps=30", "--eval_generate_samples=9", "--eval_max_new_tokens=12"]
    recipe("sft", *sft_args(tiny_folder, tmp_path, "--max_steps=30", "--learning_rate=1e-2", *options))
    assert "step 30: dev_2" in capsys.readouterr().out
    recipe(
        "eval",
        *(f"--model_name_or_path={tiny_folder}", f"--output_dir={tmp_path}", "--dataset_name=sample"),
        *("--dataset_test_split=validation", "--max_eval_samples=9", "--max_new_tokens=12", "--evaluate_base=no"),
        f"--adapter_path={tmp_path / 'adapter'}",
    )
    record = json.loads((tmp_path / "adapter" / "run.json").read_text())
    scored = json.loads((tmp_path / "eval-tuned" / "metrics.json").read_text())
    for name in ("rouge1", "rouge2", "rougeL"):
        assert record["metrics"][f"eval_{name}_mean"] == scored[name]["mean"]
    assert record["metrics"]["eval_rouge1_mean"] > 0
    assert record["metrics"]["eval_unfinished"] == scored["unfinished"]
    predictions = [json.loads(line) for line in (tmp_path / "eval-tuned" / "predictions.jsonl").open()]
    (of_step_30,) = record["evaluations"]
    names = ("id", "dialogue", "references", "prediction", "finish_reason")
    assert of_step_30["samples"] == [{name: row[name] for name in names} for row in predictions[:3]]
    logged = [event for event in events(tmp_path) if "eval_rouge1_mean" in event]
    assert [event["eval_rouge1_mean"] for event in logged] == [scored["rouge1"]["mean"]]


def test_summaries_get_the_renamed_speakers_back(
    chatml_tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(chatml_tokenizer, tmp_path)
    callback = evaluation(trainer, PromptSettings(rename_speakers=True))
    completion = Completion("#Person2# calls.", 1, 5, "stop")
    monkeypatch.setattr(callback, "_completions", lambda: [completion] * len(callback.prompts))
    metrics: dict[str, float] = {}
    callback.on_evaluate(trainer.args, trainer.state, trainer.control, metrics)
    assert metrics["eval_unfinished"] == 0.0
    assert "Bob" in chatml_tokenizer.decode(evaluation(trainer).prompts[3].ids)
    assert "Bob" not in chatml_tokenizer.decode(callback.prompts[3].ids)
    callback.rows = callback.rows[3:]
    callback.prompts, callback.references = callback.prompts[3:], callback.references[3:]
    callback.on_evaluate(trainer.args, trainer.state, trainer.control, metrics)
    assert trainer.state.log_history[-1]["samples"][0]["prediction"] == "Bob calls."


def test_a_dialogue_that_cannot_fit_is_refused_before_training(
    chatml_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    trainer = make_trainer(chatml_tokenizer, tmp_path)
    with pytest.raises(InputError, match=r"--eval_generate_samples: validation dialogue 1 is too long .* 20 are"):
        evaluation(trainer, max_length=26)


def test_a_prompt_and_its_summary_share_max_length_as_in_the_evaluation_recipe(
    chatml_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    trainer = make_trainer(chatml_tokenizer, tmp_path)
    whole = max(len(prompt.ids) for prompt in evaluation(trainer).prompts)
    fits, shortened = (evaluation(trainer, max_length=length).prompts for length in (whole + 6, whole + 5))
    assert max(len(prompt.ids) for prompt in fits) == whole
    assert max(len(prompt.ids) for prompt in shortened) <= whole - 1


# The best model, and stopping early


def test_the_best_by_rouge_is_saved_and_training_stops_early(
    recipe: Recipe, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(callbacks, "rouge_scores", rouge_of(10, 30, 20, 25, 99))
    options = ["--max_steps=8", "--eval_strategy=steps", "--eval_steps=1", "--eval_generate_samples=2"]
    options += ["--save_strategy=steps", "--save_steps=1", "--load_best_model_at_end=true", "--eval_max_new_tokens=2"]
    options += ["--metric_for_best_model=rouge1_mean", "--early_stopping_patience=2"]
    recipe("sft", *sft_args(tiny_folder, tmp_path, *options))
    assert (tmp_path / "checkpoint-4").is_dir()
    assert not (tmp_path / "checkpoint-5").exists()  # 20 and 25 were no better than 30: patience is at its end
    record = json.loads((tmp_path / "adapter" / "run.json").read_text())
    assert (record["metrics"]["step"], record["metrics"]["eval_rouge1_mean"]) == (2, 30.0)
    assert [evaluation["eval_rouge1_mean"] for evaluation in record["evaluations"]] == [10.0, 30.0, 20.0, 25.0]
    best, saved, last = (
        load_file(tmp_path / name / "adapter_model.safetensors")
        for name in ("checkpoint-2", "adapter", "checkpoint-4")
    )
    assert all(torch.equal(best[name], saved[name]) for name in best)
    assert any(not torch.equal(last[name], saved[name]) for name in last)


def test_a_resume_restores_the_early_stopping_count(
    chatml_tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two evaluations without improvement before the checkpoint and one after it make three."""
    monkeypatch.setattr(callbacks, "rouge_scores", rouge_of(30, 20, 20, 20, 20, 20))
    options = {
        "max_steps": 6,
        "save_strategy": "steps",
        "save_steps": 1,
        "load_best_model_at_end": True,
        "metric_for_best_model": "rouge1_mean",
    }

    class Killed(TrainerCallback):
        def on_step_begin(self, args: SFTConfig, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
            if state.global_step == 3:
                raise KeyboardInterrupt

    for killed in (True, False):
        trainer = make_trainer(chatml_tokenizer, tmp_path, **options)
        trainer.add_callback(evaluation(trainer))
        trainer.add_callback(EarlyStopping(3))
        if killed:
            trainer.add_callback(Killed())
            with pytest.raises(KeyboardInterrupt):
                trainer.train()
        else:
            trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert trainer.state.global_step == 4


# training.jsonl


def test_every_event_is_written_when_it_is_logged(chatml_tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    trainer = make_trainer(chatml_tokenizer, tmp_path)
    lines_seen = []

    class Reader(TrainerCallback):
        def on_log(self, args: SFTConfig, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
            lines_seen.append(len(events(tmp_path)))

    trainer.add_callback(TrainingLog(tmp_path))
    trainer.add_callback(Reader())
    trainer.train()
    assert lines_seen == list(range(1, 10))  # four steps, four evaluations, the end
    assert events(tmp_path) == trainer.state.log_history
    first = events(tmp_path)[0]
    assert list(first)[:3] == ["step", "epoch", "time"]
    assert {"loss", "learning_rate", "grad_norm", "num_tokens"} < set(first)


def test_a_resumed_run_logs_every_event_once(chatml_tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    options = {"max_steps": 6, "eval_steps": 2, "save_strategy": "steps", "save_steps": 2}
    trainer = make_trainer(chatml_tokenizer, tmp_path, **options)
    trainer.add_callback(TrainingLog(tmp_path))
    trainer.train()
    whole = events(tmp_path)
    with (tmp_path / "training.jsonl").open("a") as file:
        file.write('{"step": 6, "los')  # killed while writing
    resumed = make_trainer(chatml_tokenizer, tmp_path, **options)
    resumed.add_callback(TrainingLog(tmp_path))
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    again = events(tmp_path)
    kinds = [(event["step"], next(name for name in event if name.endswith("loss"))) for event in again]
    assert kinds == [
        *((1, "loss"), (2, "loss"), (2, "eval_loss"), (3, "loss"), (4, "loss"), (4, "eval_loss")),
        *((5, "loss"), (6, "loss"), (6, "eval_loss"), (6, "train_loss")),
    ]
    assert again[:6] == whole[:6]
    assert again[6]["time"] > whole[-1]["time"]


def test_another_run_starts_a_new_log(chatml_tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    (tmp_path / "training.jsonl").write_text('{"format": 1}\n{"step": 7, "loss": 1.0}\n')
    trainer = make_trainer(chatml_tokenizer, tmp_path, max_steps=1, eval_strategy="no")
    trainer.add_callback(TrainingLog(tmp_path))
    trainer.train()
    assert [event["step"] for event in events(tmp_path)] == [1, 1]


def test_a_number_that_is_not_finite_is_null(tmp_path: Path) -> None:
    log, state = TrainingLog(tmp_path), TrainerState()
    args, control = SFTConfig(str(tmp_path), bf16=False), TrainerControl()
    state.log_history = [{"loss": float("inf"), "step": 1}]
    log.on_train_begin(args, state, control)
    state.log_history.append({"loss": float("nan"), "grad_norm": 2.0, "step": 2})
    log.on_log(args, state, control)
    one, two = events(tmp_path)
    assert one == {"step": 1, "loss": None}
    assert two == {"step": 2, "time": two["time"], "loss": None, "grad_norm": 2.0}


def test_only_rank_0_writes_the_log(tmp_path: Path) -> None:
    log, state = TrainingLog(tmp_path), TrainerState(is_world_process_zero=False, log_history=[{"step": 1}])
    args, control = SFTConfig(str(tmp_path), bf16=False), TrainerControl()
    log.on_train_begin(args, state, control)
    log.on_log(args, state, control)
    assert list(tmp_path.iterdir()) == []


# Trackers


def test_samples_are_logged_to_tensorboard_as_text(
    chatml_tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "logs"))
    trainer = make_trainer(chatml_tokenizer, tmp_path, report_to="tensorboard", max_steps=2, eval_steps=2)
    trainer.add_callback(evaluation(trainer))
    trainer.train()
    board = EventAccumulator(str(tmp_path / "logs"))
    board.Reload()
    (scalar,) = board.Scalars("eval/rouge1_mean")
    assert scalar.step == 2
    (text,) = board.Tensors("eval/samples/text_summary")
    shown = text.tensor_proto.string_val[0].decode()
    assert text.step == 2
    assert "**dialogue**\n\n    #Person1#: Tea?\n    #Person2#: Coffee, please.\n\n**reference**" in shown
    assert shown.count("**prediction**") == 3


@pytest.mark.parametrize(("tracker", "package"), [("WandbCallback", "_wandb"), ("TrackioCallback", "_trackio")])
def test_samples_are_logged_to_other_trackers_as_a_table(
    chatml_tokenizer: PreTrainedTokenizerFast, tmp_path: Path, tracker: str, package: str
) -> None:
    logged: list[dict[str, Any]] = []
    callback = object.__new__(getattr(integrations, tracker))  # without the package
    library = SimpleNamespace(
        log=logged.append, Table=lambda columns, data: [dict(zip(columns, row, strict=True)) for row in data]
    )
    vars(callback).update({package: library, "_initialized": True})
    trainer = make_trainer(chatml_tokenizer, tmp_path)
    trainer.add_callback(callback)
    evaluation(trainer).on_evaluate(trainer.args, trainer.state, trainer.control, {})
    metrics, samples = logged
    assert {"eval/rouge1_mean", "eval/unfinished"} < set(metrics)
    assert samples["train/global_step"] == 0
    assert [row["id"] for row in samples["eval/samples"]] == ["a", "b", "c"]
    assert samples["eval/samples"][0]["reference"] == "It rains."


@pytest.mark.parametrize("name", ["tensorboard", "trackio", "wandb"])
def test_a_missing_tracker_is_refused_before_the_model_loads(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    monkeypatch.setattr(integrations.integration_utils, f"is_{name}_available", lambda: False)
    with pytest.raises(SystemExit) as left:
        recipe("sft", *sft_args(Path("no/such/model"), tmp_path, f"--report_to={name}"))
    assert left.value.code == 2
    assert capsys.readouterr().err == (
        f"error: --report_to {name}: the package is not installed: pip install {name}, or leave it out\n"
    )


# Two processes


TWO_RANKS = """
import json, os, sys
from pathlib import Path
from test_callbacks import evaluation, make_trainer
from accelerate import PartialState
from transformers import AutoTokenizer, EarlyStoppingCallback

tokenizer, folder = AutoTokenizer.from_pretrained(sys.argv[1]), Path(sys.argv[2])
options = dict(max_steps=8, save_strategy="steps", save_steps=1, learning_rate=0.0)
options |= dict(load_best_model_at_end=True, metric_for_best_model="rouge1_mean", ddp_find_unused_parameters=False)
trainer = make_trainer(tokenizer, folder / "out", **options)
callback = evaluation(trainer)
shared = callback._completions
seen = []
callback._completions = lambda: seen.append(shared()) or seen[-1]
trainer.add_callback(callback)
trainer.add_callback(EarlyStoppingCallback(2))
trainer.train()
state = trainer.state
record = {
    "texts": [completion.text for completion in seen[0]],
    "metrics": [log for log in state.log_history if "samples" in log],
    "stopped": state.global_step,
    "best": Path(state.best_model_checkpoint).name,
}
(folder / f"rank{PartialState().process_index}.json").write_text(json.dumps(record))
os._exit(0)  # as the recipe leaves: gloo may hang at the end
"""


@pytest.mark.slow
def test_two_ranks_share_the_dialogues_and_the_metrics(
    chatml_tokenizer: PreTrainedTokenizerFast, tiny_folder: Path, tmp_path: Path
) -> None:
    """Five dialogues on two ranks: each once, equal metrics, and the summaries of one process alone.

    With a learning rate of zero nothing improves on the first evaluation: both ranks stop after the third.
    """
    script = tmp_path / "two_ranks.py"
    script.write_text(TWO_RANKS)
    done = subprocess.run(
        [
            *(Path(sys.executable).parent / "accelerate", "launch", "--config_file", "accelerate_configs/cpu.yaml"),
            *("--main_process_port", "0", script, tiny_folder, tmp_path),
        ],
        cwd=ROOT,
        env=os.environ
        | {"HF_HUB_OFFLINE": "1", "ACCELERATE_USE_CPU": "true"}
        | {"PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tests", Path(__file__).parent)))},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert [log.pop("eval_generate_runtime") > 0 for log in one["metrics"] + two["metrics"]] == [True] * 6
    assert one == two
    assert (one["stopped"], one["best"]) == (3, "checkpoint-1")
    alone = evaluation(make_trainer(chatml_tokenizer, tmp_path / "alone"))._completions()
    assert one["texts"] == [completion.text for completion in alone]


def sft_args(model: Path, output_dir: Path, *more: str) -> list[str]:
    flags = {
        "model_name_or_path": model,
        "dataset_name": "sample",
        "dataset_test_split": "validation",
        "output_dir": output_dir,
        "use_peft": "true",
        "lora_target_modules": "all-linear",
        "lora_dropout": 0,
        "per_device_train_batch_size": 4,
        "bf16": "false",
        "activation_checkpointing": "false",
        "save_strategy": "no",
        "max_eval_samples": 12,
    }
    return [f"--{name}={value}" for name, value in flags.items()] + list(more)
