"""training.jsonl, and samples in trackers."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from conftest import Recipe
from dialogsum_sft.training.callbacks import TrainingLog

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_trainer import evaluation, events, make_trainer, sft_args
from transformers import (
    PreTrainedTokenizerFast,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    integrations,
)
from trl import SFTConfig


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
