"""Prints the table of accelerate_configs/README.md: what our configs need on each GPU, by calculation.

    python tests/cost_table.py

The sizes of the models are those that their makers have published; nothing is loaded. A step has the config's rows of
max_length tokens, 128 of them supervised, with activation checkpointing, in bf16. Sharded weights in 4 bits are stored
in bf16, and trained with adamw_torch_fused, as `recipes/sft.py` asks for.
"""

import sys
from typing import Any

from conftest import ROOT
from dialogsum_sft.arguments import DataArguments, TrainArguments
from dialogsum_sft.cli import parse
from dialogsum_sft.hardware import Device, training_defaults
from dialogsum_sft.tables import Table
from dialogsum_sft.training import memory
from dialogsum_sft.training.shards import Sharding

from transformers import AutoConfig, PreTrainedConfig
from trl import ModelConfig, ScriptArguments, SFTConfig

GIB = 2**30
CARDS = (16, 24, 40, 80)
COLUMNS = {
    "1 GPU": Sharding(),
    "`ddp`": Sharding(None, 8),
    **{f"`fsdp2` x {n}": Sharding("FSDP", n) for n in (2, 4, 8)},
    "`zero3` x 8": Sharding("ZeRO-3", 8),
}


def sizes(vocabulary: int, hidden: int, intermediate: int, layers: int, heads: int, key_value_heads: int) -> Any:
    return {
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": key_value_heads,
    }


TIED = {"tie_word_embeddings": True}
UNTIED = {"tie_word_embeddings": False}
GEMMA_VISION = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16}
GEMMA_VISION |= {"image_size": 896, "patch_size": 14, "vision_use_head": False}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama3_2_1b": ("llama", sizes(128256, 2048, 8192, 16, 32, 8) | TIED),
    "qwen3_1_7b": ("qwen3", sizes(151936, 2048, 6144, 28, 16, 8) | TIED | {"head_dim": 128}),
    "smollm3_3b": ("smollm3", sizes(128256, 2048, 11008, 36, 16, 4) | TIED),
    "llama3_2_3b": ("llama", sizes(128256, 3072, 8192, 28, 24, 8) | TIED | {"head_dim": 128}),
    "phi4_mini": ("phi3", sizes(200064, 3072, 8192, 32, 24, 8) | TIED | {"partial_rotary_factor": 0.75}),
    "qwen3_4b": ("qwen3", sizes(151936, 2560, 9728, 36, 32, 8) | TIED | {"head_dim": 128}),
    "gemma3_4b": (
        "gemma3",
        {"text_config": sizes(262208, 2560, 10240, 34, 8, 4) | {"head_dim": 256}, "vision_config": GEMMA_VISION},
    ),
    "llama2_7b_qlora": ("llama", sizes(32000, 4096, 11008, 32, 32, 32) | UNTIED),
    "mistral_7b_qlora": ("mistral", sizes(32768, 4096, 14336, 32, 32, 8) | UNTIED),
    "llama3_1_8b_qlora": ("llama", sizes(128256, 4096, 14336, 32, 32, 8) | UNTIED),
    "qwen3_8b_qlora": ("qwen3", sizes(151936, 4096, 12288, 36, 32, 8) | UNTIED | {"head_dim": 128}),
}


def model_config(name: str) -> PreTrainedConfig:
    kind, options = MODELS[name]
    return AutoConfig.for_model(kind, **options)


def estimates(name: str) -> tuple[str, list[memory.MemoryEstimate]]:
    """The shape of the config's batch, and its memory in each of COLUMNS."""

    def arguments(*more: str) -> tuple[ModelConfig, SFTConfig]:
        argv = [f"--config={ROOT / 'recipes' / 'configs' / name}.yaml", "--use_cpu=true", "--report_to=none", *more]
        argv.append("--activation_checkpointing=true")
        types = (ScriptArguments, SFTConfig, ModelConfig, DataArguments, TrainArguments)

        def on_gpu(given: Any) -> dict[str, Any]:
            return training_defaults(given, device=Device("cuda", bf16=True))

        _, training_args, model_args, *_ = parse(types, argv, defaults=on_gpu)
        return model_args, training_args

    whole, sharded = arguments(), arguments("--optim=adamw_torch_fused")
    model = memory.meta_model(model_config(name), whole[0])
    rows, length = whole[1].per_device_train_batch_size, whole[1].max_length
    assert length is not None
    first = memory.estimate(model, *whole, rows=rows, length=length, supervised=128)
    found = []
    for sharding in COLUMNS.values():
        options = sharded if sharding.shards_weights else whole
        found.append(memory.with_sharding(first, model, *options, sharding=sharding))
    return f"{rows} x {length}", found


def cell(estimate: memory.MemoryEstimate) -> str:
    """GiB, and the smallest of CARDS of whose memory a tenth is left free."""
    card = next((f"{card} GB" for card in CARDS if estimate.fits(int(0.9 * card * GIB))), "none")
    return f"{estimate.total / GIB:.1f} ({card})"


def cost_table() -> str:
    table = Table(header=["config", "rows x tokens", *COLUMNS])
    for name in MODELS:
        shape, found = estimates(name)
        table.add_row(f"`{name}`", shape, *map(cell, found))
    return table.markdown()


if __name__ == "__main__":
    sys.stdout.write(cost_table() + "\n")
