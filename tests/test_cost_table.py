"""The table of memory in accelerate_configs/README.md is what its command prints, for the published sizes."""

from conftest import ROOT
from cost_table import MODELS, cost_table, model_config
from dialogsum_sft.training import memory

import pytest
from trl import ModelConfig

PARAMETERS = {  # in millions, as the models' pages give them
    "llama3_2_1b": 1236,
    "qwen3_1_7b": 1721,
    "smollm3_3b": 3075,
    "llama3_2_3b": 3213,
    "phi4_mini": 3836,
    "qwen3_4b": 4022,
    "gemma3_4b": 4300,
    "llama2_7b_qlora": 6738,
    "mistral_7b_qlora": 7248,
    "llama3_1_8b_qlora": 8030,
    "qwen3_8b_qlora": 8191,
}


@pytest.mark.parametrize("name", MODELS)
def test_sizes_of_the_models(name):
    model = memory.meta_model(model_config(name), ModelConfig(dtype="bfloat16"))
    assert round(sum(parameter.numel() for parameter in model.parameters()) / 1e6) == PARAMETERS[name]


@pytest.mark.slow
def test_the_readme_has_the_printed_table():
    assert cost_table() in (ROOT / "accelerate_configs" / "README.md").read_text(encoding="utf-8")
