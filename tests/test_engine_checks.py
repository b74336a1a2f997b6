"""Each check of an evaluation refuses its combination of options with a line that names the remedy."""

from dialogsum_sft import InputError
from dialogsum_sft.arguments import EvalArguments
from dialogsum_sft.engine_checks import check_engine

import pytest
from trl import ModelConfig

MODEL = ModelConfig(model_name_or_path="m")


def test_sharded_evaluation_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    check_engine(EvalArguments(), MODEL, 1)
    for name in ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"):
        with monkeypatch.context() as patch:
            patch.setenv(name, "true")
            with pytest.raises(InputError, match=r"ddp\.yaml"):
                check_engine(EvalArguments(), MODEL, 1)


def test_all_faults_of_an_evaluation_are_named() -> None:
    options = EvalArguments(engine="vllm", base_url="http://localhost/v1", extra_body="{}", num_candidates=0)
    with pytest.raises(InputError) as error:
        check_engine(options, ModelConfig(load_in_4bit=True), 1)
    assert [str(fault).split(":")[0] for fault in error.value.args] == [
        "--num_candidates 0",
        "--base_url and --served_model_name are for --engine openai, not vllm",
        "--extra_body is for --engine openai, not vllm",
        "no model",
        "--load_in_4bit with --engine vllm",
    ]
