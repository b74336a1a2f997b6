"""The memory of sharded processes against formulas, and against the measured peaks of two CPU ranks."""

import importlib.util
import json
from pathlib import Path

from conftest import tiny_model
from dialogsum_sft import InputError
from dialogsum_sft.launch import config_path
from dialogsum_sft.training import memory, shards
from dialogsum_sft.training.shards import BUCKET, Sharding, sharding_of
from ranks import CONFIGS, ForkedSft
from sft_runs import text_of

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import ModelConfig, SFTConfig

LAYER = 2 * 64 * 64 + 2 * 32 * 64 + 3 * 160 * 64 + 2 * 64  # q, o, k, v, gate, up, down, norms
HEAD = 1000 * 64
ALL = 2 * LAYER + 2 * HEAD + 64
ADAPTER = 8 * (7 * 64 + 160 + 3 * 64 + 2 * 32 + 2 * 160 - 64)  # rank 8, inputs and outputs of a layer
ROTARY = 8 * 4 * 2


def estimate(sharding: Sharding, device: str = "cpu", bf16: bool = False, steps: int = 1, **options):
    config = LlamaConfig(
        vocab_size=1000,
        hidden_size=64,
        intermediate_size=160,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=False,
    )
    options = {"dtype": "float32", "lora_r": 8, "lora_target_modules": "all-linear"} | options
    args = ModelConfig(**options)
    training = SFTConfig(
        output_dir="unused",
        bf16=bf16,
        use_cpu=True,
        report_to="none",
        activation_checkpointing=False,
        gradient_accumulation_steps=steps,
    )
    model = memory.meta_model(config, args, device=device)
    shape = {"rows": 2, "length": 50, "supervised": 10, "device": device}
    found = memory.estimate(model, args, training, sharding=sharding, **shape)
    whole = memory.estimate(model, args, training, **shape)
    for part in ("activations", "logits", "overhead"):  # of the process's own rows
        assert getattr(found, part) == getattr(whole, part)
    assert memory.with_sharding(whole, model, args, training, sharding=sharding, device=device) == found
    return found


def states(found) -> tuple[int, ...]:
    return found.weights - ROTARY, found.adapter, found.gradients, found.optimizer, found.gathered


@pytest.mark.parametrize(
    ("backend", "weights", "gradients", "optimizer", "gathered"),
    [
        (None, 4, 4, 8, 4 * ALL),  # DDP's buckets
        ("FSDP", 1, 1, 2, 4 * (2 * LAYER + LAYER + HEAD)),
        ("ZeRO-2", 4, 1, 3, 4 * ALL),  # a quarter of float32 copies and of Adam's two states
        ("ZeRO-3", 1, 1, 2, 2 * 4 * ALL + 4 * ALL),
    ],
)
def test_full_fine_tuning_in_float32_on_four_processes(backend, weights, gradients, optimizer, gathered):
    found = estimate(Sharding(backend, 4))
    assert states(found) == (weights * ALL, 0, gradients * ALL, optimizer * ALL, gathered)


@pytest.mark.parametrize(
    ("backend", "expected"),
    [
        (None, (8 * ALL, 0, 8 * ALL, 16 * ALL, 8 * ALL)),
        ("FSDP", (4 * ALL, 0, 4 * ALL, 8 * ALL, 4 * (3 * LAYER + HEAD))),
        ("ZeRO-2", (4 * ALL, 0, 2 * ALL, 12 * ALL, 4 * BUCKET)),
        ("ZeRO-3", (2 * ALL, 0, 2 * ALL, 12 * ALL, 4 * BUCKET + 4 * ALL + 4 * ALL)),
    ],
)
def test_full_fine_tuning_under_autocast_on_two_gpus(backend, expected):
    """Twice the bytes: FSDP shards float32 and gathers bf16; DeepSpeed has bf16 weights and float32 copies."""
    found = estimate(Sharding(backend, 2), device="cuda", bf16=True)
    assert tuple(2 * part for part in states(found)) == expected


@pytest.mark.parametrize("backend", [None, "FSDP", "ZeRO-2", "ZeRO-3"])
def test_lora_on_two_gpus(backend):
    """The bf16 base is shared by FSDP and ZeRO-3; gradients and states are those of the adapter alone."""
    found = estimate(Sharding(backend, 2), device="cuda", bf16=True, use_peft=True, dtype="bfloat16")
    base, adapter = 2 * ALL, 2 * ADAPTER  # numbers of two layers
    both = LAYER + ADAPTER
    assert (
        states(found)
        == {
            None: (base, 4 * adapter, 4 * adapter, 8 * adapter, 4 * adapter),
            "FSDP": (base // 2, 2 * adapter, 2 * adapter, 4 * adapter, 2 * (2 * both + ADAPTER + HEAD)),
            "ZeRO-2": (base, 2 * adapter, adapter, 6 * adapter, 2 * BUCKET),
            "ZeRO-3": (base // 2, adapter, adapter, 6 * adapter, 2 * BUCKET + 2 * adapter + 2 * (ALL + adapter)),
        }[backend]
    )


def test_a_quantised_base_is_shared_as_stored():
    whole = estimate(Sharding(), device="cuda", bf16=True, use_peft=True, dtype="bfloat16", load_in_4bit=True)
    found = estimate(Sharding("FSDP", 2), device="cuda", bf16=True, use_peft=True, dtype="bfloat16", load_in_4bit=True)
    assert found.weights - ROTARY == (whole.weights - ROTARY) // 2
    assert found.adapter == whole.adapter // 2 == 2 * ADAPTER  # in bf16, as TRL makes it


def test_fsdp_keeps_accumulated_gradients_whole():
    assert estimate(Sharding("FSDP", 4), steps=2).gradients == 4 * ALL
    assert estimate(Sharding("ZeRO-2", 4), steps=2).gradients == ALL


def test_zero3_keeps_no_more_than_its_limit_gathered(monkeypatch):
    monkeypatch.setattr(shards, "LIVE", 1000)
    assert estimate(Sharding("ZeRO-3", 4)).gathered == 2 * 4 * ALL + 4 * 1000


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ddp", Sharding(None, 8)),
        ("cpu", Sharding(None, 2)),
        ("single_gpu", Sharding(None, 1)),
        ("multi_node", Sharding(None, 16)),
        ("fsdp2", Sharding("FSDP", 8)),
        ("fsdp2_qlora", Sharding("FSDP", 2)),
        ("zero2", Sharding("ZeRO-2", 8)),
        ("zero3", Sharding("ZeRO-3", 8)),
    ],
)
def test_sharding_of_an_accelerate_config(name, expected):
    assert sharding_of(config_path(name), None) == expected
    assert config_path(str(CONFIGS / f"{name}.yaml")) == config_path(name)
    assert sharding_of(config_path(name), 3) == Sharding(expected.backend, 3)


def test_sharding_without_a_config():
    assert sharding_of(None, None) == Sharding()
    assert sharding_of(None, 4) == Sharding(None, 4)
    with pytest.raises(InputError, match="--processes 0: give 1 or more"):
        sharding_of(config_path("fsdp2"), 0)
    with pytest.raises(InputError, match="there is no such file, and in accelerate_configs/ are cpu, ddp"):
        config_path("fsdp3")


@pytest.mark.parametrize("text", ["a: [", "- a\n", "distributed_type: FSDP\nnum_processes: many\n", "color: red\n"])
def test_a_config_that_cannot_be_read(tmp_path, text):
    path = tmp_path / "own.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match="--accelerate_config .*own.yaml: "):
        sharding_of(path, None)


@pytest.fixture(scope="module")
def measured_folder(chatml_tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of 71 MiB in float32."""
    folder = tmp_path_factory.mktemp("measured") / "llama"
    config = tiny_model(chatml_tokenizer).config
    options = {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 6, "num_attention_heads": 8}
    config.update(options | {"num_key_value_heads": 4, "head_dim": 64, "tie_word_embeddings": False})
    LlamaForCausalLM(config).save_pretrained(folder)
    chatml_tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.slow
@pytest.mark.skipif(torch.accelerator.is_available(), reason="measures trainings on the CPU")
@pytest.mark.skipif(not Path("/proc/self/clear_refs").is_file(), reason="reads the peak from /proc")
def test_the_measured_peaks_of_two_ranks(forked: ForkedSft, measured_folder: Path, tmp_path: Path) -> None:
    """Full fine-tuning, whose states are most of the memory; a row of 230 to 256 tokens a step.

    Under LoRA, and with short rows, what libraries allocate at their first use (about 30 MiB) is no small share.
    """
    for name in ("ddp", "fsdp2", *(["zero3"] if importlib.util.find_spec("deepspeed") else [])):
        log, facts = tmp_path / f"{name}.log", tmp_path / f"{name}-"
        forked.start(
            tmp_path / name,
            log,
            config=name,
            model_name_or_path=measured_folder,
            faults={"facts": str(facts), "memory": True},
            use_peft=False,
            dtype="float32",
            max_length=256,
            per_device_train_batch_size=1,
            max_steps=2,
            save_strategy="no",
        )
        assert forked.wait() == [0, 0], text_of(log)[-5000:]
        args, training = (
            ModelConfig(dtype="float32"),
            SFTConfig(
                output_dir="unused",
                bf16=False,
                use_cpu=True,
                report_to="none",
                activation_checkpointing=False,
            ),
        )
        model = memory.meta_model(LlamaConfig.from_pretrained(measured_folder), args, device="cpu")
        shape = {"rows": 1, "length": 256, "supervised": 40, "device": "cpu"}
        found = memory.estimate(model, args, training, sharding=sharding_of(config_path(name), 2), **shape)
        expected = found.total - found.overhead  # freed memory goes back to the system at once in these ranks
        for rank in (0, 1):
            measured = json.loads(Path(f"{facts}{rank}").read_text())
            assert expected == pytest.approx(measured["peak"] - measured["before"], rel=0.15), name
