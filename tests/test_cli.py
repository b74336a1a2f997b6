"""YAML and the command line become the dataclasses of arguments.py; the exit status of errors."""

import dataclasses
import re

from dialogsum_sft import InputError, __version__
from dialogsum_sft.arguments import DataArguments, EvalArguments, TrainArguments
from dialogsum_sft.cli import _FORMER_NAMES, parse, run

import pytest
from trl import ModelConfig, ScriptArguments, SFTConfig

SFT = (ScriptArguments, SFTConfig, ModelConfig, DataArguments, TrainArguments)
EVAL = (ScriptArguments, ModelConfig, DataArguments, EvalArguments)
NO_BF16 = ["--bf16", "false"]  # the default, true, is refused on a machine without a GPU


@pytest.fixture
def config(tmp_path):
    """Writes a YAML file and returns the flags that name it."""

    def write(text):
        path = tmp_path / "config.yaml"
        path.write_text(text, encoding="utf-8")
        return ["--config", str(path)]

    return write


def refusal(types, argv):
    """The message of the InputError that `parse` raises: one line."""
    with pytest.raises(InputError) as error:
        parse(types, argv)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_defaults():
    script, model, data, evaluation = parse(EVAL, [])
    assert script.dataset_name is None
    assert model.model_name_or_path is None
    assert (data.dialogue_column, data.summary_columns, data.instruction) == (None, None, None)
    assert (evaluation.max_new_tokens, evaluation.evaluate_base) == (128, True)


def test_parse_returns_one_instance_of_each_dataclass_in_order():
    assert [type(part) for part in parse(SFT, ["--output_dir", "runs/x", *NO_BF16])] == list(SFT)


def test_version(capsys):
    with pytest.raises(SystemExit) as end:
        parse(SFT, ["--config", "quickstart", "--version"])
    assert not end.value.code
    assert capsys.readouterr().out == f"dialogsum-sft {__version__}\n"


def test_no_in_yaml_is_the_choice_no(config):
    training = parse(SFT, config("eval_strategy: no\nsave_strategy: no") + NO_BF16)[1]
    assert (training.eval_strategy, training.save_strategy) == ("no", "no")


@pytest.mark.parametrize("text", ["2e-4", "2.0e-4", "0.0002", "2E-4"])
def test_floats_in_every_notation(config, text):
    assert parse(SFT, config(f"learning_rate: {text}") + NO_BF16)[1].learning_rate == 0.0002


@pytest.mark.parametrize(("text", "value"), [("true", True), ("yes", True), ("false", False), ("no", False)])
def test_truth_values_in_every_notation(config, text, value):
    assert parse(EVAL, config(f"evaluate_base: {text}"))[3].evaluate_base is value


@pytest.mark.parametrize("text", ["[q_proj, v_proj]", "\n  - q_proj\n  - v_proj"])
def test_a_list(config, text):
    assert parse(EVAL, config(f"lora_target_modules: {text}"))[1].lora_target_modules == ["q_proj", "v_proj"]


def test_a_mapping_keeps_the_types_of_its_values(config):
    text = "activation_checkpointing_kwargs: {use_reentrant: false}\nmodel_init_kwargs: {layers: 3, revision: null}"
    training = parse(SFT, config(text) + NO_BF16)[1]
    assert training.activation_checkpointing_kwargs == {"use_reentrant": False}
    assert training.model_init_kwargs == {"layers": 3, "revision": None}


def test_a_text_of_several_lines(config):
    text = "instruction: |-\n  Summarize -- in one 'sentence'.\n\n  {dialogue}\n\n  Summary:"
    assert parse(EVAL, config(text))[2].instruction == "Summarize -- in one 'sentence'.\n\n{dialogue}\n\nSummary:"


@pytest.mark.parametrize("text", ["-x", "--model_name_or_path", "=", "a=b", "ä 中"])
def test_a_text_that_looks_like_a_flag(config, text):
    assert parse(EVAL, config(f"system_prompt: '{text}'"))[2].system_prompt == text


@pytest.mark.parametrize("text", ["null", "~", ""])
def test_null_leaves_the_default(config, text):
    _, _, data, evaluation = parse(EVAL, config(f"max_eval_samples: {text}\nmax_new_tokens: {text}"))
    assert (data.max_eval_samples, evaluation.max_new_tokens) == (None, 128)


def test_the_command_line_wins_over_yaml(config):
    flags = config("max_new_tokens: 60\nsummary_columns: [a, b]\nevaluate_base: false\nseed: 7")
    # Before or after --config, in every way to give a flag.
    argv = ["--max_new_tokens", "70", *flags, "--summary_columns", "c", "--evaluate_base=true"]
    _, _, data, evaluation = parse(EVAL, argv)
    assert (evaluation.max_new_tokens, evaluation.evaluate_base, evaluation.seed) == (70, True, 7)
    assert data.summary_columns == ["c"]


def test_the_config_can_be_given_with_an_equals_sign(config):
    _, path = config("max_new_tokens: 60")
    assert parse(EVAL, [f"--config={path}"])[3].max_new_tokens == 60


def test_an_empty_mapping_is_a_config(config):
    assert parse(EVAL, config("{}"))[3].max_new_tokens == 128


def test_an_unknown_yaml_key_is_refused_with_a_suggestion(config):
    message = "unknown option in the config file: learing_rate; did you mean learning_rate?"
    assert refusal(SFT, config("learing_rate: 2e-4")) == message


def test_all_unknown_yaml_keys_are_named(config):
    assert refusal(EVAL, config("zzz: 1\nmax_new_tokens: 5\nqqq: 2")) == "unknown option in the config file: zzz, qqq"


def test_a_yaml_key_of_another_recipe_is_unknown(config):
    assert "unknown option in the config file: lora_rank" in refusal(SFT, config("lora_rank: 8"))
    assert "unknown option in the config file: learning_rate" in refusal(EVAL, config("learning_rate: 1"))


@pytest.mark.parametrize(
    ("former", "now"),
    [
        ("torch_dtype", "dtype"),
        ("warmup_ratio", "warmup_steps (below 1 a share of all steps)"),
        ("group_by_length", "train_sampling_strategy: group_by_length"),
        ("max_seq_length", "max_length"),
        ("evaluation_strategy", "eval_strategy"),
        ("no_cuda", "use_cpu"),
        ("use_flash_attention_2", "attn_implementation: flash_attention_2"),
        ("bnb_4bit_use_double_quant", "use_bnb_nested_quant"),
    ],
)
def test_an_option_by_its_former_name(config, former, now):
    assert (
        refusal(SFT, config(f"{former}: 1")) == f"unknown option in the config file: {former}; {former} is now {now}"
    )
    assert refusal(SFT, [f"--{former}", "1"]).endswith(f"; {former} is now {now}")


def test_all_former_names_are_explained_and_are_no_options():
    fields = {field.name for kind in SFT for field in dataclasses.fields(kind)}
    assert not fields & _FORMER_NAMES.keys()
    for now in filter(None, _FORMER_NAMES.values()):
        assert re.match(r"\w+", now)[0] in fields
    message = refusal(SFT, ["--output_dir=x", "--torch_dtype=auto", "--zzz=1", "--save_safetensors=true"])
    words = (
        "torch_dtype, zzz, save_safetensors",
        "torch_dtype is now dtype",
        "save_safetensors is gone: leave it out",
    )
    assert message == "unknown option in the command line: " + "; ".join(words)


def test_a_former_name_is_not_explained_where_the_option_is_unknown():
    assert refusal(EVAL, ["--evaluation_strategy=epoch"]) == (
        "unknown option in the command line: evaluation_strategy"
    )


@pytest.mark.parametrize("text", ["null", "~", ""])
def test_null_is_a_value_where_an_option_takes_it(config, text):
    flags = config(f"max_length: {text}\nreport_to: {text}") + NO_BF16
    assert parse(SFT, flags)[1].max_length is None
    assert parse(SFT, [*flags, "--max_length=5"])[1].max_length == 5


def test_null_is_given_to_the_defaults(config):
    seen = {}
    argv = ["--output_dir=x", *NO_BF16, *config("max_length: null")]
    (training,) = parse((SFTConfig,), argv, defaults=lambda given: seen.update(given) or {"max_length": 7})
    assert training.max_length is None
    assert seen["max_length"] is None


def test_an_unknown_option_that_is_null_is_refused(config):
    assert "unknown option in the config file: max_lenght; did you mean" in refusal(SFT, config("max_lenght: null"))


@pytest.mark.parametrize("argv", [["--learing_rate", "1"], ["--learing_rate=1"]])
def test_an_unknown_flag_is_refused_with_a_suggestion(argv):
    message = "unknown option in the command line: learing_rate; did you mean learning_rate?"
    assert refusal(SFT, argv) == message


@pytest.mark.parametrize("argv", [["--learning_rat", "1"], ["--learning_rat=1"]])
def test_a_flag_cannot_be_abbreviated(argv):
    message = "unknown option in the command line: learning_rat; did you mean learning_rate?"
    assert refusal(SFT, argv) == message


def test_a_word_without_a_flag_is_refused():
    assert "'stray'" in refusal(EVAL, ["--max_new_tokens", "5", "stray"])


def test_a_wrong_choice_is_refused_in_yaml_and_on_the_command_line(config):
    message = refusal(EVAL, config("dtype: bfloat17"))
    assert message.startswith("argument --dtype: invalid choice: 'bfloat17' (choose from")
    assert "bfloat16" in message
    assert refusal(EVAL, ["--dtype", "bfloat17"]) == message


@pytest.mark.parametrize(
    ("option", "value", "reason"),
    [
        ("learning_rate", "fast", "invalid float value: 'fast'"),
        ("lora_r", "1.5", "invalid int value: '1.5'"),
        ("use_peft", "perhaps", "got perhaps but expected one of yes/no, true/false"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused_in_yaml_and_on_the_command_line(config, option, value, reason):
    message = refusal(SFT, config(f"{option}: {value}"))
    assert f"argument --{option}" in message
    assert reason in message
    assert refusal(SFT, [f"--{option}", value]) == message


def test_config_without_a_value():
    assert refusal(EVAL, ["--max_new_tokens", "5", "--config"]) == "--config needs the path of a YAML file"


@pytest.mark.parametrize("argv", [["--config", "nothing.yaml"], ["--config=nothing.yaml"]])
def test_a_missing_config_file(argv):
    assert refusal(EVAL, argv) == "config file not found: nothing.yaml"


@pytest.mark.parametrize("text", ["- a\n- b", "just text", "", "# a comment alone"])
def test_yaml_that_is_not_a_mapping(config, text):
    flags = config(text)
    assert refusal(EVAL, flags) == f"{flags[1]} must hold a YAML mapping of option: value"


@pytest.mark.parametrize("text", ["a: [1", "a: 1: 2", "\ta: 1", "'a"])
def test_broken_yaml(config, text):
    flags = config(text)
    message = refusal(EVAL, flags)
    assert message.startswith(f"{flags[1]} is not readable YAML: ")
    assert "line 1, column" in message


def test_a_config_that_is_not_utf8(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_bytes("system_prompt: café".encode("latin-1"))
    assert refusal(EVAL, ["--config", str(path)]).startswith(f"{path} is not readable YAML: ")


def mistake():
    raise InputError("no such thing in file.csv:\n  row 3,\n  give another")


def test_run_prints_a_mistake_in_one_line_and_exits_with_2(capsys):
    with pytest.raises(SystemExit) as exit_:
        run(mistake)
    assert exit_.value.code == 2
    assert capsys.readouterr() == ("", "error: no such thing in file.csv: row 3, give another\n")


def test_run_prints_on_rank_0_only(capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(SystemExit) as exit_:
        run(mistake)
    assert exit_.value.code == 2
    assert capsys.readouterr() == ("", "")


def test_run_raises_other_exceptions():
    with pytest.raises(ZeroDivisionError):
        run(lambda: 1 / 0)


def test_run_returns_when_main_does(capsys):
    run(lambda: print("done"))
    assert capsys.readouterr() == ("done\n", "")


def test_a_second_config_is_refused(config, tmp_path):
    other = tmp_path / "other.yaml"
    other.write_text("dtype: bfloat17")
    assert "--config" in refusal(EVAL, [*config("max_new_tokens: 60"), "--config", str(other)])


def test_an_empty_text_in_quotes_is_a_value(config):
    assert parse(EVAL, config("instruction: ''"))[2].instruction == ""


def test_a_float_in_a_mapping_is_a_float(config):
    training = parse(SFT, config("lr_scheduler_kwargs: {min_lr: 1e-6}") + NO_BF16)[1]
    assert training.lr_scheduler_kwargs == {"min_lr": 1e-6}


def test_defaults_receive_the_given_options_and_lose_to_them(tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text("learning_rate: 1e-3\nload_in_4bit: true\n")
    seen = {}

    def defaults(given):
        seen.update(given)
        return {"learning_rate": 5.0, "warmup_steps": 7}

    training_args, model_args = parse(
        (SFTConfig, ModelConfig),
        ["--config", str(config), "--use_cpu", "true", "--bf16=false", "--output_dir", "x", "--dtype", "float16"],
        defaults=defaults,
    )

    expected = {"learning_rate": 1e-3, "load_in_4bit": True, "use_cpu": True, "bf16": False, "output_dir": "x"}
    expected["dtype"] = "float16"
    assert seen == expected
    assert (training_args.learning_rate, training_args.warmup_steps) == (1e-3, 7)
    assert (model_args.load_in_4bit, training_args.seed) == (True, 42)
