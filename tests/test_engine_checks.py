"""Each check of an evaluation refuses its combination of options with a line that names the remedy."""

import json
from typing import Any

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


def test_options_of_vllm_are_not_taken_for_decoding_options() -> None:
    options = EvalArguments(engine="vllm", vllm_kwargs='{"tensor_parallel_size": 2}', generation_kwargs="{")
    with pytest.raises(InputError) as error:
        check_engine(options, MODEL, 1)
    (fault,) = error.value.args
    assert fault.startswith("--generation_kwargs is not JSON")


@pytest.mark.parametrize(
    ("kwargs", "fault"),
    [
        ({"temperature": "0.7"}, 'temperature "0.7" is a text: give the number'),
        ({"num_beams": "4"}, 'num_beams "4" is a text: give the number'),
        ({"no_repeat_ngram_size": "3"}, 'no_repeat_ngram_size "3" is a text'),
        ({"max_time": "10s"}, 'max_time "10s" is a text'),
        ({"do_sample": "true"}, 'do_sample "true": give true or false'),
        ({"do_sample": 1}, "do_sample 1: give true or false"),
        ({"do_sample": True, "temperature": 0}, "temperature 0: greedy decoding, which is the default, has none"),
        ({"do_sample": True, "temperature": 0.0}, "temperature 0.0: greedy decoding"),
        ({"do_sample": True, "temperature": -1}, "temperature -1: greedy decoding"),
        ({"do_sample": True, "top_p": 1.5}, "top_p 1.5: give more than 0, up to 1"),
        ({"do_sample": True, "top_p": 0}, "top_p 0: give more than 0, up to 1"),
        ({"num_beams": 0}, "num_beams 0: give 1 or more"),
        ({"num_beams": 1.5}, "num_beams 1.5: give 1 or more"),
        ({"stop_strings": []}, "stop_strings []: give a text or a list of texts"),
        ({"stop_strings": ["a", ""]}, 'stop_strings ["a", ""]: give a text'),
        ({"stop_strings": [3]}, "stop_strings [3]: give a text"),
        ({"stop_strings": None}, "stop_strings null: give a text"),
        ({"prompt_lookup_num_tokens": 3}, "prompt_lookup_num_tokens: it is for one prompt at a time"),
        ({"assistant_early_exit": 1}, "assistant_early_exit: it is for one prompt at a time"),
        ({"return_dict_in_generate": True}, "return_dict_in_generate: only token ids are read"),
        ({"output_scores": True}, "output_scores: only token ids are read"),
        ({"penalty_alpha": 0.6}, "penalty_alpha: transformers has moved it"),
        ({"dola_layers": "low"}, "dola_layers: transformers has moved it"),
        ({"num_beam_groups": 2}, "num_beam_groups: transformers has moved it"),
        ({"max_new_tokens": 5}, "max_new_tokens: give --max_new_tokens instead"),
        ({"num_return_sequences": 2}, "num_return_sequences: give --num_candidates instead"),
    ],
)
@pytest.mark.parametrize("engine", ["transformers", "openai"])
def test_decoding_options_that_fail_late_are_refused(kwargs: dict[str, Any], fault: str, engine: str) -> None:
    more = {"base_url": "http://localhost/v1"} if engine == "openai" else {}
    with pytest.raises(InputError) as error:
        check_engine(EvalArguments(engine=engine, generation_kwargs=json.dumps(kwargs), **more), MODEL, 1)
    (line,) = error.value.args
    assert line.startswith(f"--generation_kwargs {fault}")


@pytest.mark.parametrize(
    "kwargs",
    [
        {"num_beams": 4, "early_stopping": "never"},
        {"do_sample": True, "temperature": 0.7, "top_p": 1},
        {"stop_strings": "a"},
        {"stop_strings": ["a", "b"]},
        {"cache_implementation": "static"},
    ],
)
def test_other_decoding_options_are_not(kwargs: dict[str, Any]) -> None:
    check_engine(EvalArguments(generation_kwargs=json.dumps(kwargs)), MODEL, 1)


def test_windows_need_a_way_a_whole_overlap_and_tokens() -> None:
    def faults(model: str | None = None, **options: Any) -> list[str]:
        with pytest.raises(InputError) as error:
            check_engine(EvalArguments(**options), ModelConfig(model_name_or_path=model), 1)
        return [str(fault) for fault in error.value.args]

    check_engine(EvalArguments(long="map_reduce", long_overlap=0.25), MODEL, 1)
    assert faults("m", long="windows") == ["--long windows: give shorten, map_reduce or refine"]
    for overlap in (-1, 1.5, float("nan"), float("inf")):
        (fault,) = faults("m", long="refine", long_overlap=overlap)
        assert fault.endswith("give a number of turns, or a share from 0 up to 1")
    endpoint = {"engine": "openai", "base_url": "http://localhost/v1", "served_model_name": "m", "long": "refine"}
    check_engine(EvalArguments(**endpoint, max_length=4000), MODEL, 1)
    for model, more in ((None, {}), (None, {"max_length": 4000}), ("m", {})):
        (fault,) = faults(model, **endpoint, **more)
        assert fault.startswith("--long refine makes windows by tokens: give --max_length")
