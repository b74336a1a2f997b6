"""Training on two CPU ranks, sharded as our accelerate configs say: equal to one process, and resumable."""

import importlib.util
import json
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cpu_ranks import PROBE
from dialogsum_sft.training.checkpoints import MARKER, find_checkpoints
from ranks import ForkedSft
from sft_runs import names, record, text_of

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

pytestmark = pytest.mark.slow
needs_deepspeed = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="deepspeed is not installed: make test installs it"
)
CONFIGS = [
    *("ddp", "fsdp2"),
    *(pytest.param(name, marks=needs_deepspeed) for name in ("zero2", "zero3")),
]
Trained = Callable[..., tuple[Path, list[dict[str, Any]]]]


CELLS = [
    pytest.param(config, method, id=f"{config}-{method}", marks=needs_deepspeed if config.startswith("zero") else ())
    for config in ("ddp", "fsdp2", "zero2", "zero3")
    for method in ("lora", "full", "qlora")
    if method != "qlora" or config in ("ddp", "fsdp2")
]


def options(method: str = "lora", config: str | None = None) -> dict[str, Any]:
    """Six steps of four rows in fp32, without dropout."""
    quantised = {"load_in_4bit": True} if method == "qlora" else {}
    if quantised and config == "fsdp2_qlora":
        quantised["bnb_4bit_quant_storage"] = "float32"  # the dtype of the model, as its YAML says
    return quantised | {
        "use_peft": method != "full",
        "dtype": "float32",
        "lora_dropout": 0.0,
        "global_batch_size": 4,
        "per_device_train_batch_size": 2,
        "learning_rate": 1e-3,
    }


@pytest.fixture(scope="module")
def trained(forked: ForkedSft, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """The folder and the facts of each rank of an uninterrupted run; each run is trained once."""
    runs: dict[str, tuple[Path, list[dict[str, Any]]]] = {}

    def train(config: str | None, method: str = "lora", **more: Any) -> tuple[Path, list[dict[str, Any]]]:
        key = json.dumps([config, method, more])
        if key not in runs:
            folder = tmp_path_factory.mktemp("sharded")
            faults = {"facts": str(folder / "facts-")}
            more = {"save_strategy": "no"} | more
            started = forked.start(
                folder / "out", folder / "log", config=config, faults=faults, **(options(method, config) | more)
            )
            assert forked.wait() == [0] * len(started), text_of(folder / "log")[-5000:]
            facts = [json.loads(path.read_text()) for path in sorted(folder.glob("facts-*"))]
            runs[key] = folder / "out", facts
        return runs[key]

    return train


def yaml_of(config: str, method: str) -> str:
    return "fsdp2_qlora" if (config, method) == ("fsdp2", "qlora") else config


def final_weights(output_dir: Path) -> dict[str, torch.Tensor]:
    (path,) = [*output_dir.glob("adapter/adapter_model.safetensors"), *output_dir.glob("model/model.safetensors")]
    return load_file(path)


def assert_sharded(config: str, ranks: list[dict[str, Any]], method: str) -> None:
    """Each of two ranks holds half of the weights (fsdp2, zero3), or of the optimizer's states (zero2)."""
    kinds = {"fsdp2": "DTensor", "fsdp2_qlora": "DTensor", "zero3": "ds_tensor"}
    for facts in ranks:
        held, whole = sum(facts["local"].values()), sum(facts["full"].values())
        assert facts["kinds"].keys() == {kinds.get(config, "whole")}
        assert held == (whole // 2 if config in kinds else whole)
        assert facts["wrapped_by"].startswith(
            {"ddp": "DDP", "zero": "DeepSpeedEngine"}.get(config.rstrip("23"), "FSDP")
        )
        if config == "zero2":
            numbers = sum(n for name, n in facts["full"].items() if "lora" in name or method == "full")
            assert facts["optimizer"] == numbers // 2


@pytest.mark.parametrize(("config", "method"), CELLS)
def test_ranks_equal_one_process(trained: Trained, tiny_folder: Path, config: str, method: str) -> None:
    config = yaml_of(config, method)
    (one, (alone,)), (two, ranks) = trained(None, method), trained(config, method)
    assert_sharded(config, ranks, method)
    losses = [sum(step) / len(ranks) for step in zip(*(facts["losses"] for facts in ranks), strict=True)]
    assert len(losses) == 6
    # TRL trains the adapter of a quantised base in bfloat16; ours for the CPU, of one process, in the model's dtype.
    bf16 = config == "fsdp2_qlora"
    assert losses == pytest.approx(alone["losses"], abs=1e-4 if bf16 else 1e-5)
    weights, others = final_weights(one), final_weights(two)
    assert weights.keys() == others.keys()
    for name, weight in weights.items():
        torch.testing.assert_close(others[name].float(), weight, rtol=0, atol=5e-3 if bf16 else 1e-5)

    final = two / ("model" if method == "full" else "adapter")
    quantised = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4") if method == "qlora" else None
    base = final if method == "full" else tiny_folder
    model = AutoModelForCausalLM.from_pretrained(base, quantization_config=quantised)
    model = model if method == "full" else PeftModel.from_pretrained(model, final)
    model.train(method == "qlora")  # without dropout; bitsandbytes' kernel for inference fails on such small layers
    with torch.no_grad():
        logits = model(torch.tensor(PROBE)).logits
    for facts in ranks:
        torch.testing.assert_close(torch.tensor(facts["logits"]), logits, rtol=0, atol=1e-3 if bf16 else 1e-5)


@pytest.mark.parametrize(("config", "method"), CELLS)
def test_interrupted_ranks_resume_to_the_same_weights(
    trained: Trained, forked: ForkedSft, tmp_path: Path, config: str, method: str
) -> None:
    """SIGTERM to one rank, kill -9 of one in a step and of one in a save, and a checkpoint that lost a file."""
    config = yaml_of(config, method)
    whole, _ = trained(config, method)
    output_dir, log = tmp_path / "out", tmp_path / "log"

    def train(**faults: Any) -> list[int]:
        forked.start(output_dir, log, config=config, faults=faults, **options(method, config))
        return forked.wait()

    def complete() -> list[int]:
        return [int(path.name.split("-")[1]) for path in find_checkpoints(output_dir) if (path / MARKER).exists()]

    assert train(at_step={"step": 2, "rank": 1, "signal": signal.SIGTERM}) == [75, 75], text_of(log)[-5000:]
    assert complete() == [2, 1]
    assert text_of(log).count("stopped by SIGTERM after step 2 of 6") == 1

    assert train(at_step={"step": 4, "rank": 1, "signal": signal.SIGKILL})[1] == -signal.SIGKILL
    assert f"resuming from {output_dir}/checkpoint-2" in text_of(log)
    assert complete() == [3, 2, 1]

    assert train(in_save={"step": 5, "rank": 0})[0] == -signal.SIGKILL
    assert f"resuming from {output_dir}/checkpoint-3" in text_of(log)
    assert complete() == [4, 3, 2, 1]

    files = [path for path in (output_dir / "checkpoint-4").rglob("*") if path.is_file()]
    max(files, key=lambda path: path.stat().st_size).unlink()
    assert train() == [0, 0], text_of(log)[-5000:]
    assert text_of(log).count(f"resuming from {output_dir}/checkpoint-3") == 2
    assert {"damaged-checkpoint-4", "damaged-checkpoint-5"} <= set(names(output_dir))
    weights, others = final_weights(whole), final_weights(output_dir)
    assert [name for name in weights if not torch.equal(weights[name], others[name])] == []
    if method != "full":
        assert record(output_dir)["metrics"]["num_tokens"] == record(whole)["metrics"]["num_tokens"]


@pytest.mark.parametrize("config", CONFIGS)
def test_a_full_disk_or_a_nan_on_one_rank_ends_all(forked: ForkedSft, tmp_path: Path, config: str) -> None:
    """The older checkpoints are left, and one line says what happened."""
    output_dir = tmp_path / "out"

    def train(name: str, **faults: Any) -> tuple[list[int], list[str]]:
        forked.start(output_dir, tmp_path / name, config=config, faults=faults, **options())
        statuses = forked.wait()
        return statuses, [line for line in text_of(tmp_path / name).splitlines() if line.startswith("error: ")]

    for rank in (0, 1):
        statuses, errors = train(f"full{rank}", full_disk={"step": 2, "rank": rank})
        assert statuses[rank] == 1
        assert statuses[1 - rank] != 0
        assert len(errors) == 1, text_of(tmp_path / f"full{rank}")[-5000:]
        assert "checkpoint-2 could not be written (is the disk full?)" in errors[0]
        assert f"The same command resumes from {output_dir}/checkpoint-1" in errors[0]
        assert find_checkpoints(output_dir)[-1].name == "checkpoint-1"
    statuses, errors = train("nan", nan={"step": 3, "rank": 1})
    assert statuses == [1, 1]
    assert len(errors) == 1, text_of(tmp_path / "nan")[-5000:]
    assert errors[0].startswith("error: the loss is nan at step 3, in which these rows were trained on: train_")
    assert errors[0].partition(". Look at")[0].count("train_") == 4
    assert (output_dir / "checkpoint-2" / MARKER).exists()
    assert not (output_dir / "checkpoint-3").exists()


@pytest.mark.parametrize("config", CONFIGS)
def test_the_best_checkpoint_is_kept_and_exported(trained: Trained, config: str) -> None:
    more = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_total_limit": 1, "max_steps": 4}
    # No token is right in four steps, so that the first checkpoint stays the best.
    more |= {"load_best_model_at_end": True, "metric_for_best_model": "mean_token_accuracy", "greater_is_better": True}

    def losses(output_dir: Path) -> list[float]:
        events = map(json.loads, (output_dir / "training.jsonl").read_text().splitlines())
        return [event["eval_loss"] for event in events if "eval_loss" in event]

    (one, _), (two, _) = trained(None, **more), trained(config, **more)
    assert len(losses(two)) == 4
    assert losses(two) == pytest.approx(losses(one), abs=1e-5)
    assert {path.name for path in find_checkpoints(two)} == {"checkpoint-1", "checkpoint-4"}
    exported, saved = final_weights(two), load_file(two / "checkpoint-1" / "adapter_model.safetensors")
    assert saved.keys() == exported.keys()
    assert [name for name in saved if not torch.equal(saved[name], exported[name])] == []


@pytest.mark.parametrize(
    ("config", "other", "said", "resumes"),
    [
        ("fsdp2", ("fsdp2", 1), "processes 2 -> 1", True),
        ("fsdp2", ("ddp", 2), "sharding FSDP there, none here", False),
        ("ddp", (None, 1), "processes 2 -> 1", True),
        ("ddp", ("fsdp2", 2), "sharding none there, FSDP here", False),
        (None, ("ddp", 2), "processes 1 -> 2", True),
        pytest.param("zero2", ("zero2", 1), "--num_processes 2 there, 1 here", False, marks=needs_deepspeed),
        pytest.param("zero2", ("zero3", 2), "sharding ZeRO-2 there, ZeRO-3 here", False, marks=needs_deepspeed),
    ],
)
def test_going_on_with_other_ranks(
    trained: Trained,
    forked: ForkedSft,
    tmp_path: Path,
    config: str | None,
    other: tuple[str | None, int],
    said: str,
    resumes: bool,
) -> None:
    """It is refused with both numbers; forced, it ends with the same weights or is refused again."""
    output_dir, log = tmp_path / "out", tmp_path / "log"
    faults = {"at_step": {"step": 3, "rank": 0, "signal": signal.SIGTERM}}
    started = forked.start(output_dir, log, config=config, faults=faults, **options())
    assert forked.wait() == [75] * len(started), text_of(log)[-5000:]
    name, processes = other
    forked.start(output_dir, log, config=name, processes=processes, **options())
    assert forked.wait() == [2] * processes
    assert said in text_of(log).splitlines()[-1]
    forked.start(output_dir, log, config=name, processes=processes, force_resume=True, **options())
    statuses = forked.wait()
    if not resumes:
        assert statuses == [2] * processes
        assert said in text_of(log).splitlines()[-1]
        return
    assert statuses == [0] * processes, text_of(log)[-5000:]
    assert f"resuming from {output_dir}/checkpoint-3" in text_of(log)
    whole, _ = trained(config)
    weights, others = final_weights(whole), final_weights(output_dir)
    for name in weights:
        torch.testing.assert_close(others[name], weights[name], rtol=0, atol=1e-5)


@pytest.mark.parametrize("config", ["fsdp2", pytest.param("zero3", marks=needs_deepspeed)])
def test_two_machines_stop_and_resume(trained: Trained, forked: ForkedSft, tmp_path: Path, config: str) -> None:
    """A rank on each of two machines with a common folder: both are the first of their machine."""
    whole, _ = trained(config)
    output_dir, log = tmp_path / "out", tmp_path / "log"
    for faults, statuses in (
        ({"at_step": {"step": 2, "rank": 1, "signal": signal.SIGTERM}}, [75, 75]),
        ({}, [0, 0]),
    ):
        forked.start(output_dir, log, config=config, machines=2, faults=faults, **options())
        assert forked.wait() == statuses, text_of(log)[-5000:]
    assert f"resuming from {output_dir}/checkpoint-2" in text_of(log)
    weights, others = final_weights(whole), final_weights(output_dir)
    assert [name for name in weights if not torch.equal(weights[name], others[name])] == []


STREAMED = {"dataset_streaming": True, "max_steps": 9}
PACKED = {"packing": True, "max_length": 512, "per_device_train_batch_size": 1}


@pytest.mark.parametrize(
    ("config", "processes", "more", "said"),
    [
        ("ddp", 2, {}, "101 rows in steps of 8: 3 more fill the last step of an epoch"),
        ("fsdp2", 3, {"padding_free": True}, "101 rows in steps of 12: 7 more fill the last step of an epoch"),
        ("ddp", 3, STREAMED, None),
        pytest.param("zero3", 3, STREAMED, None, marks=needs_deepspeed),
        ("fsdp2", 3, PACKED, None),
    ],
    ids=["padded", "padding_free", "streamed", "streamed-zero3", "packed"],
)
def test_an_epoch_has_each_row(
    forked: ForkedSft, tmp_path: Path, config: str, processes: int, more: dict[str, Any], said: str | None
) -> None:
    """101 rows in one epoch of 2 or 3 ranks: all are trained on, and those of one step or fewer a second time."""
    log, faults = tmp_path / "log", {"facts": str(tmp_path / "facts-"), "name_rows": True}
    given = {"per_device_train_batch_size": 4, "max_train_samples": 101, "num_train_epochs": 1, "save_strategy": "no"}
    forked.start(
        tmp_path / "out", tmp_path / "log", config=config, processes=processes, faults=faults, **(given | more)
    )
    assert forked.wait() == [0] * processes, text_of(tmp_path / "log")[-5000:]
    ranks = [json.loads(path.read_text())["rows"] for path in tmp_path.glob("facts-*")]
    trained_on = Counter(row for rank in ranks for step in rank for row in step)
    assert len(trained_on) == 101
    assert max(trained_on.values()) <= 2
    assert sum(trained_on.values()) - 101 < (given | more)["per_device_train_batch_size"] * processes
    assert said is None or said in text_of(log)
