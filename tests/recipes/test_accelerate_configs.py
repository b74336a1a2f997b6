"""Each accelerate config, read by accelerate's launcher, builds the plugins that it describes."""

import os
import re
from argparse import Namespace

from dialogsum_sft.arguments import TrainArguments
from dialogsum_sft.checks import check_training
from ranks import CONFIGS, launched

import pytest
import torch
from accelerate import DeepSpeedPlugin, FullyShardedDataParallelPlugin
from torch.distributed.fsdp import StateDictType
from trl import ModelConfig, ScriptArguments, SFTConfig


def launch(name: str, *flags: str, monkeypatch: pytest.MonkeyPatch) -> Namespace:
    """The launcher's arguments; its processes' environment is set."""
    args, env = launched(name, *flags)
    for key, value in env.items():
        monkeypatch.setenv(key, value)
    return args


@pytest.mark.parametrize(("name", "ram_efficient"), [("fsdp2", True), ("fsdp2_qlora", False)])
def test_fsdp2(name: str, ram_efficient: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    args = launch(name, monkeypatch=monkeypatch)
    assert args.use_fsdp
    plugin = FullyShardedDataParallelPlugin()
    assert plugin.fsdp_version == 2
    assert plugin.reshard_after_forward is True
    assert plugin.state_dict_type is StateDictType.FULL_STATE_DICT
    assert plugin.auto_wrap_policy.__name__ == "transformer_auto_wrap_policy"
    assert plugin.activation_checkpointing is False
    assert plugin.cpu_ram_efficient_loading is ram_efficient
    assert os.environ["ACCELERATE_MIXED_PRECISION"] == "bf16"


def test_the_command_in_fsdp2_qlora_passes_the_guards(monkeypatch: pytest.MonkeyPatch) -> None:
    launch("fsdp2_qlora", monkeypatch=monkeypatch)
    for where in (torch.accelerator, torch.cuda):
        monkeypatch.setattr(where, "is_available", lambda: True)
    command = (CONFIGS / "fsdp2_qlora.yaml").read_text().split("\n")[0]
    given = dict(re.findall(r"--(bnb_4bit_quant_storage|optim) (\S+)", command))
    args = SFTConfig(output_dir="out", use_cpu=True, bf16=False, optim=given["optim"])
    storage = given["bnb_4bit_quant_storage"]
    model_args = ModelConfig(dtype="bfloat16", use_peft=True, load_in_4bit=True, bnb_4bit_quant_storage=storage)
    check_training(ScriptArguments(), args, model_args, TrainArguments(), 2)


@pytest.mark.parametrize("stage", [2, 3])
def test_zero(stage: int, monkeypatch: pytest.MonkeyPatch) -> None:
    args = launch(f"zero{stage}", monkeypatch=monkeypatch)
    assert args.use_deepspeed
    config = DeepSpeedPlugin().deepspeed_config
    assert config["zero_optimization"]["stage"] == stage
    assert config["zero_optimization"]["stage3_gather_16bit_weights_on_model_save"] is (stage == 3)
    # The Trainer fills these in; a number here has to equal its own, or it stops.
    for key in ("train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping"):
        assert config[key] == "auto", key
    assert os.environ["ACCELERATE_DEEPSPEED_ZERO3_INIT"] == str(stage == 3).lower()
    assert os.environ["ACCELERATE_MIXED_PRECISION"] == "bf16"


@pytest.mark.parametrize("name", ["zero2", "zero3"])
def test_zero_on_several_machines_is_launched_by_torchrun(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """DeepSpeed's default launcher, pdsh, needs a hostfile, which SLURM does not write."""
    where = ("--main_process_ip", "10.0.0.1", "--machine_rank", "1", "--num_machines", "2", "--num_processes", "16")
    args = launch(name, *where, monkeypatch=monkeypatch)
    assert (args.nnodes, args.nproc_per_node, args.node_rank) == ("2", "8", 1)
    assert args.rdzv_endpoint.startswith("10.0.0.1:")


def test_multi_node(monkeypatch: pytest.MonkeyPatch) -> None:
    header = (CONFIGS / "multi_node.yaml").read_text()
    flags = re.search(r"#   (--machine_rank 0 .*)", header)[1].replace("(or 1) ", "").split()
    args = launch("multi_node", *flags, monkeypatch=monkeypatch)
    assert args.multi_gpu
    assert (args.nnodes, args.nproc_per_node, args.node_rank) == ("2", "8", 0)
    assert (args.rdzv_backend, args.rdzv_endpoint) == ("c10d", "ADDRESS_OF_THE_FIRST:29500")


def test_every_config_is_tested() -> None:
    assert {path.stem for path in CONFIGS.glob("*.yaml")} == {
        *("cpu", "single_gpu", "ddp"),  # started for real, or one process of accelerate's
        *("fsdp2", "fsdp2_qlora", "zero2", "zero3", "multi_node"),
    }
