"""Likelihoods of summaries: exact against a naive loop, in order, counted where there is none, and resumable."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from conftest import tiny_model
from dialogsum_sft import InputError
from dialogsum_sft.data.dialogue import rename_speakers
from dialogsum_sft.data.encoding import TOO_LONG
from dialogsum_sft.data.prompts import PromptSettings, encode
from dialogsum_sft.data.transcripts import dialogue_of
from dialogsum_sft.generation import likelihood
from dialogsum_sft.generation.likelihood import EMPTY, LikelihoodJournal, LikelihoodModel
from dialogsum_sft.kernels.unpadded import can_unpad

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import PreTrainedModel, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

Make = Callable[..., LikelihoodModel]

PAIRS = [
    ("Ana: Is it raining?\nBo: A little. Take an umbrella.", "Bo advises Ana to take an umbrella."),
    ("Ana: Tea?\nBo: Coffee, please, and a slice of that lemon cake.", "Bo has coffee and cake."),
    ("Cy: The train is late.\nDee: Again! It was late on Monday, on Tuesday and on Friday.", "It is late <|im_end|>."),
    ("Cy: Did you call your mother?\nDee: I will tonight, I promise.", "Dee will call."),
    ("Ana: Lunch?\nBo: At one.", "Yes."),
]
ROWS = [{"id": f"row {i}", "dialogue": dialogue, "prediction": text} for i, (dialogue, text) in enumerate(PAIRS)]


def lora(model: PreTrainedModel) -> PeftModel:
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear"))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:  # zero at first
            parameter.data.normal_(std=0.1, generator=torch.Generator().manual_seed(1))
    return adapted


@pytest.fixture
def make(chatml_tokenizer: PreTrainedTokenizerFast) -> Make:
    def make(
        model: Any = None, settings: PromptSettings | None = None, max_length: int | None = None, tokens: int = 400
    ) -> LikelihoodModel:
        return LikelihoodModel(
            lambda: model or tiny_model(chatml_tokenizer),
            chatml_tokenizer,
            frozenset([chatml_tokenizer.eos_token_id]),
            settings or PromptSettings(),
            max_length=max_length,
            max_batch_tokens=tokens,
            fingerprint={"model": "tiny", "dtype": "float32"},
        )

    return make


@torch.no_grad()
def naive(measure: LikelihoodModel, dialogue: str, summary: str) -> float:
    """One row at a time, all positions, in float64."""
    row = encode(measure.tokenizer, dialogue, summary, measure.stop_ids, measure.settings)
    ids, start = row["input_ids"], row["prompt_tokens"]
    log_probs = measure.model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    values = [float(log_probs[at - 1, ids[at]]) for at in range(start, len(ids) - 1)]
    return sum(values) / len(values)


def assert_exact(measure: LikelihoodModel, folder: Path) -> None:
    values = measure.measure(folder, ROWS).values
    for row, value in zip(ROWS, values, strict=True):
        assert value is not None
        given, alone = (naive(measure, text, row["prediction"]) for text in (row["dialogue"], ""))
        assert value[0] == pytest.approx(given, abs=1e-4)
        assert value[1] == pytest.approx(given - alone, abs=1e-4)


def test_values_equal_a_naive_loop_without_padding(make: Make, tmp_path: Path) -> None:
    measure = make()
    assert can_unpad(measure.model)
    assert_exact(measure, tmp_path)
    measure.close()
    assert "model" not in vars(measure)


def test_values_equal_a_naive_loop_with_an_adapter(
    make: Make, chatml_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    assert_exact(make(lora(tiny_model(chatml_tokenizer))), tmp_path)


def test_values_equal_a_naive_loop_with_padding(
    make: Make, chatml_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    """A model with a sliding window keeps its padded batch."""
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 8}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    window = {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 0}
    torch.manual_seed(0)
    config = Qwen3Config(vocab_size=len(chatml_tokenizer), **sizes, **heads, **window)
    model = Qwen3ForCausalLM(config)
    assert not can_unpad(model)
    assert_exact(make(model), tmp_path)


def test_only_summaries_reach_the_head(make: Make, tmp_path: Path) -> None:
    measure, shapes = make(tokens=10_000), list[int]()
    measure.model.lm_head.register_forward_hook(lambda _, args, out: shapes.append(out.shape[0]))
    measure.measure(tmp_path, ROWS)
    pairs, _ = measure.encode(ROWS)
    assert shapes == [sum(len(one.ids) - one.start for pair in pairs.values() for one in pair)]


def test_empty_summaries_have_no_value_and_are_counted(make: Make, tmp_path: Path) -> None:
    rows = [ROWS[0], ROWS[1] | {"prediction": ""}, ROWS[2] | {"prediction": " \n"}, ROWS[3]]
    result = make().measure(tmp_path, rows)
    assert result.values[1] is result.values[2] is None
    assert result.left_out == {EMPTY: 2}
    alone = [make().measure(tmp_path / str(i), [rows[i]]).values[0] for i in (0, 3)]
    assert [result.values[0][0], result.values[3][0]] == pytest.approx([value[0] for value in alone], abs=1e-5)
    nothing = make().measure(tmp_path / "none", [rows[1]])
    assert (nothing.values, nothing.left_out) == ([None], {EMPTY: 1})


def test_dialogues_are_shortened_as_in_training_and_counted(make: Make, tmp_path: Path) -> None:
    turns = [f"{'AB'[i % 2]}na: This is turn number {i} of a long talk." for i in range(30)]
    rows = [ROWS[0], ROWS[1] | {"dialogue": "\n".join(turns)}, ROWS[2] | {"prediction": "long " * 200}]
    measure = make(max_length=150)
    pairs, result = measure.encode(rows)
    assert result.shortened == 1
    assert result.left_out == {TOO_LONG: 1}
    assert list(pairs) == [0, 1]
    text = measure.tokenizer.decode(pairs[1][0].ids)
    assert "turn number 0 " in text
    assert "[...]" in text
    assert "turn number 15 " not in text
    assert len(pairs[1][0].ids) < 150
    values = measure.measure(tmp_path, rows).values
    shortened = text.split("dialogue does.\n\n")[1].split("<|im_end|>")[0]
    assert values[1][0] == pytest.approx(naive(measure, shortened, rows[1]["prediction"]), abs=1e-4)
    assert values[2] is None


def test_speakers_are_renamed_as_in_training(make: Make, tmp_path: Path) -> None:
    measure = make(settings=PromptSettings(rename_speakers=True))
    renamed = rename_speakers(dialogue_of(ROWS[0]), ROWS[0]["prediction"])
    assert renamed.summary is not None
    assert "#Person2#" in renamed.summary
    ((given, _),) = measure.measure(tmp_path, ROWS[:1]).values
    assert given == pytest.approx(naive(measure, renamed.dialogue.text, renamed.summary), abs=1e-4)


def test_columns_in_the_instruction(make: Make, tmp_path: Path) -> None:
    settings = PromptSettings(instruction="Write the {section}.")
    with pytest.raises(InputError, match=r"names columns \(section\), which the row row 0 does not have"):
        make(settings=settings).measure(tmp_path, ROWS)
    rows = [ROWS[0] | {"fields": '{"section": "plan"}'}]
    measure = make(settings=settings)
    ((given, _),) = measure.measure(tmp_path, rows).values
    measure.settings = PromptSettings(instruction="Write the plan.")
    assert given == pytest.approx(naive(measure, ROWS[0]["dialogue"], ROWS[0]["prediction"]), abs=1e-4)


def test_after_kill_9_only_missing_ones_are_measured(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, original = make().measure(tmp_path / "whole", ROWS), likelihood.log_likelihoods
    batches: list[int] = []

    def counted(model: Any, sequences: Any) -> list[float]:
        batches.append(len(sequences))
        return original(model, sequences)

    def killed(model: Any, sequences: Any) -> list[float]:
        if len(batches) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return counted(model, sequences)

    folder = tmp_path / "killed"
    pid = os.fork()
    if pid == 0:
        likelihood.log_likelihoods = killed
        make().measure(folder, ROWS)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL
    monkeypatch.setattr(likelihood, "log_likelihoods", counted)
    again = make().measure(folder, ROWS)
    assert 2 <= again.resumed < 10
    assert sum(batches) == 10 - again.resumed
    assert [value[0] for value in again.values] == pytest.approx([value[0] for value in whole.values], abs=1e-6)
    assert make().measure(folder, ROWS).resumed == 10
    LikelihoodJournal.remove(folder)
    assert list(folder.iterdir()) == []


def test_a_journal_of_other_summaries_is_set_aside(make: Make, tmp_path: Path) -> None:
    make().measure(tmp_path, ROWS)
    other = make().measure(tmp_path, [*ROWS[:4], ROWS[4] | {"prediction": "No."}])
    assert other.resumed == 0
    assert "with other settings (other summaries); set aside as likelihood.partial.jsonl.old" in other.notes[0]


def test_a_value_that_is_not_finite_is_refused(
    make: Make, chatml_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    model = tiny_model(chatml_tokenizer)
    model.lm_head.weight.data[:] = float("nan")
    with pytest.raises(InputError, match="under tiny in float32 is not a finite number: give --likelihood_dtype"):
        make(model).measure(tmp_path, ROWS)
