"""Evaluation by generation while training, the best model and early stopping."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from conftest import ROOT, Recipe
from dialogsum_sft import InputError
from dialogsum_sft.data.prompts import PromptSettings
from dialogsum_sft.generation import transformers_engine
from dialogsum_sft.generation.engine import Completion
from dialogsum_sft.training import callbacks
from dialogsum_sft.training.callbacks import EarlyStopping

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_trainer import evaluation, events, make_trainer, sft_args
from transformers import (
    PreTrainedTokenizerFast,
    TrainerCallback,
    TrainerControl,
    TrainerState,
)
from trl import SFTConfig


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
    options += ["--max_steps=30", "--per_device_train_batch_size=1", "--learning_rate=1e-2"]
    recipe("sft", *sft_args(tiny_folder, tmp_path, *options))
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


def test_summaries_restore_the_names_of_renamed_speakers(
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


def test_thinking_is_cut_off_and_unfinished_where_it_has_no_end(
    chatml_tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(chatml_tokenizer, tmp_path)
    callback = evaluation(trainer)
    first, *others = [Completion("<think>Hm.</think> Bob calls.", 1, 5, "stop") for _ in callback.prompts]
    first.text = "<think>Hm. Bob calls"
    monkeypatch.setattr(callback, "_completions", lambda: [*others, first])
    metrics: dict[str, float] = {}
    callback.on_evaluate(trainer.args, trainer.state, trainer.control, metrics)
    assert metrics["eval_unfinished"] == 1 / len(callback.prompts)
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


def test_the_best_checkpoint_by_rouge_is_saved_and_training_stops_early(
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


# Two processes


TWO_RANKS = """
import json, os, sys
from pathlib import Path
from tiny_trainer import evaluation, make_trainer
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
