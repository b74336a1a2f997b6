"""run.json read back by an evaluation: defaults, the prompt of the training, the run of an adapter."""

import json
from pathlib import Path
from typing import Any

from dialogsum_sft import InputError
from dialogsum_sft.data.prompts import PromptSettings
from dialogsum_sft.training.record import (
    check_prompt,
    evaluation_defaults,
    note_of_other_run,
    read_run_record,
    use_defaults,
)

import pytest
from transformers import PreTrainedTokenizerFast

ARGUMENTS = {
    **{"model_name_or_path": "org/model", "model_revision": None, "dtype": "auto", "load_in_4bit": True},
    **{"dataset_name": "data.jsonl", "summary_columns": ["note"], "dataset_test_split": "validation"},
    **{"instruction": None, "rename_speakers": True, "max_length": 512, "learning_rate": 1.0},
    **{"eval_max_new_tokens": 80, "eval_rouge_tokenizer": "unicode", "dialogue_column": "turns"},
}


def trained(run: Path, prompt: dict[str, Any] | None = None, **more: Any) -> Path:
    folder = run / "adapter"
    folder.mkdir(parents=True)
    prompt = {"instruction": "Sum up.", "template_sha256": "0"} | (prompt or {})
    record = {"arguments": ARGUMENTS, "prompt": prompt} | more
    (folder / "adapter_config.json").write_text("{}")
    (folder / "run.json").write_text(json.dumps(record))
    return folder


def write_manifest(run: Path, **more: Any) -> None:
    manifest = {"format": 1, "sha256": "abc", "finished_at_step": 3, "run": {}} | more
    (run / "manifest.json").write_text(json.dumps(manifest))


def test_an_evaluation_has_the_options_of_the_training(tmp_path: Path) -> None:
    folder = trained(tmp_path / "run")
    assert evaluation_defaults({"adapter_path": str(folder)}) == {
        **{"model_name_or_path": "org/model", "dtype": "auto", "load_in_4bit": True},
        **{"dataset_name": "data.jsonl", "summary_columns": ["note"], "rename_speakers": True, "max_length": 512},
        **{"dialogue_column": "turns"},
        **{"max_new_tokens": 80, "rouge_tokenizer": "unicode", "output_dir": str(tmp_path / "run")},
    }


FILES = {"train_file": "a.csv", "validation_file": "b.csv", "test_file": "c.csv"}


def test_an_evaluation_has_the_files_of_the_training_unless_it_has_a_dataset(tmp_path: Path) -> None:
    folder = trained(tmp_path, arguments=ARGUMENTS | FILES)
    assert evaluation_defaults({"adapter_path": str(folder)}).items() >= FILES.items()
    defaults = evaluation_defaults({"adapter_path": str(folder), "dataset_name": "other"})
    assert not defaults.keys() & FILES.keys()


def test_time_stamps_that_the_training_left_out_are_left_out_again(tmp_path: Path) -> None:
    given = {"adapter_path": str(trained(tmp_path, arguments=ARGUMENTS | {"drop_times": True}))}
    assert evaluation_defaults(given)["drop_times"] is True
    assert use_defaults(given)["drop_times"] is True


def test_rows_that_the_training_was_allowed_to_drop_are_dropped_again(tmp_path: Path) -> None:
    folder = trained(tmp_path, arguments=ARGUMENTS | {"allow_dropped_rows": True})
    assert evaluation_defaults({"adapter_path": str(folder)})["allow_dropped_rows"] is True
    assert "allow_dropped_rows" not in evaluation_defaults({"adapter_path": str(folder), "dataset_name": "other"})


@pytest.mark.parametrize(("seed", "expected"), [(None, 7), (3, 3)])
def test_a_share_is_that_of_the_training(tmp_path: Path, seed: int | None, expected: int) -> None:
    share = {"validation_share": 0.1, "validation_seed": seed, "seed": 7, "dataset_train_split": "all"}
    folder = trained(tmp_path, arguments=ARGUMENTS | share)
    defaults = evaluation_defaults({"adapter_path": str(folder)})
    assert [defaults[name] for name in ("validation_share", "validation_seed", "dataset_train_split")] == [
        *(0.1, expected, "all"),
    ]
    assert "validation_seed" not in evaluation_defaults({"adapter_path": str(folder), "dataset_name": "other"})


def test_the_only_file_of_a_training_is_not_evaluated(tmp_path: Path) -> None:
    file = tmp_path / "all.csv"
    file.touch()
    splits = {"dataset_train_split": "train", "dataset_test_split": "test"}
    one = {"adapter_path": str(trained(tmp_path, arguments=ARGUMENTS | splits | {"dataset_name": str(file)}))}
    with pytest.raises(InputError, match="all.csv was trained on and would serve the evaluation too: give other"):
        evaluation_defaults(one)
    for other in ({"test_file": "a.csv"}, {"dataset_name": "b.csv"}, {"dataset_test_split": "train"}):
        assert evaluation_defaults(one | other)["dialogue_column"] == "turns"


def test_the_slice_that_a_training_left_is_evaluated(tmp_path: Path) -> None:
    file = tmp_path / "all.csv"
    file.touch()
    splits = {"dataset_train_split": "train[:9]", "dataset_test_split": "train[9:]", "dataset_name": str(file)}
    folder = trained(tmp_path, arguments=ARGUMENTS | splits)
    assert evaluation_defaults({"adapter_path": str(folder)})["dataset_test_split"] == "train[9:]"


def test_a_whole_model_keeps_its_own_weights_and_dtype(tmp_path: Path) -> None:
    defaults = evaluation_defaults({"model_name_or_path": str(trained(tmp_path))})
    assert not {"model_name_or_path", "dtype", "load_in_4bit"} & defaults.keys()
    assert defaults["dataset_name"] == "data.jsonl"


def test_vllm_takes_no_quantisation_from_the_training(tmp_path: Path) -> None:
    assert "load_in_4bit" not in evaluation_defaults({"adapter_path": str(trained(tmp_path)), "engine": "vllm"})


def test_absolute_paths_come_from_the_manifest(tmp_path: Path) -> None:
    folder = trained(tmp_path)
    write_manifest(tmp_path, paths={"dataset_name": "/data/data.jsonl"})
    assert evaluation_defaults({"adapter_path": str(folder)})["dataset_name"] == "/data/data.jsonl"


@pytest.mark.parametrize("given", [{}, {"model_name_or_path": "org/model"}])
def test_without_a_record_there_are_no_defaults(given: dict[str, str]) -> None:
    assert evaluation_defaults(given) == {}


def test_a_damaged_record_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"arguments": 3}')
    with pytest.raises(InputError, match="is not the record of a training"):
        read_run_record(tmp_path)


def test_another_prompt_than_that_of_the_training_is_refused(
    tmp_path: Path, chatml_tokenizer: PreTrainedTokenizerFast
) -> None:
    settings = PromptSettings("Sum up.", rename_speakers=True)
    record = {"prompt": settings.record(chatml_tokenizer), "arguments": {}}
    check_prompt(tmp_path, record, settings, chatml_tokenizer)
    with pytest.raises(InputError, match="rename_speakers is False, not True. Leave these options out"):
        check_prompt(tmp_path, record, PromptSettings("Sum up."), chatml_tokenizer)
    with pytest.raises(InputError, match="instruction is 'Shorten.', not 'Sum up.'"):
        check_prompt(tmp_path, record, PromptSettings("Shorten.", rename_speakers=True), chatml_tokenizer)
    bare = PromptSettings("Sum up.", rename_speakers=True, drop_times=True)
    with pytest.raises(InputError, match="drop_times is True, not False"):
        check_prompt(tmp_path, record, bare, chatml_tokenizer)
    record["prompt"]["template_sha256"] = "0"
    with pytest.raises(InputError, match="another prompt: the chat template differs"):
        check_prompt(tmp_path, record, settings, chatml_tokenizer)


def test_records_of_the_first_version_are_read(tmp_path: Path, chatml_tokenizer: PreTrainedTokenizerFast) -> None:
    """They have rename_speakers among the arguments, and not in the hash."""
    prompt = {"instruction": "Sum up.", "system_prompt": None}
    prompt["template_sha256"] = PromptSettings("Sum up.").sha256(chatml_tokenizer)
    plain = {"prompt": prompt, "arguments": {"rename_speakers": False}}
    check_prompt(tmp_path, plain, PromptSettings("Sum up."), chatml_tokenizer)
    renamed = {"prompt": prompt, "arguments": {"rename_speakers": True}}
    check_prompt(tmp_path, renamed, PromptSettings("Sum up.", rename_speakers=True), chatml_tokenizer)
    with pytest.raises(InputError, match="rename_speakers is False, not True"):
        check_prompt(tmp_path, renamed, PromptSettings("Sum up."), chatml_tokenizer)


def test_an_adapter_of_another_run_than_the_manifest_is_noted(tmp_path: Path) -> None:
    folder = trained(tmp_path)
    write_manifest(tmp_path, sha256="abc")
    assert note_of_other_run(folder, {"manifest_sha256": "abc"}) is None
    assert note_of_other_run(folder, {}) is None
    assert "was not trained by the run that" in str(note_of_other_run(folder, {"manifest_sha256": "0"}))


def test_a_folder_without_an_adapter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no adapter in .*: adapter_config.json is missing"):
        evaluation_defaults({"adapter_path": str(tmp_path)})
    with pytest.raises(InputError, match="no adapter in .*nowhere: there is no such folder"):
        evaluation_defaults({"adapter_path": str(tmp_path / "nowhere")})
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(InputError, match="it is a whole model: give it as --model_name_or_path"):
        evaluation_defaults({"adapter_path": str(tmp_path)})
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(InputError, match="no adapter in .*: it is in .*adapter$"):
        evaluation_defaults({"adapter_path": str(tmp_path)})


def test_a_path_that_is_no_longer_known_must_be_given(tmp_path: Path) -> None:
    folder = trained(tmp_path, cut_paths=["dataset_name"])
    with pytest.raises(
        InputError, match=r"only the last part of the dataset_name of the training \(data.jsonl\): give --dataset_name"
    ):
        evaluation_defaults({"adapter_path": str(folder)})
    assert evaluation_defaults({"adapter_path": str(folder), "dataset_name": "x"})["model_name_or_path"] == "org/model"


def test_a_damaged_manifest_beside_an_adapter_is_ignored(tmp_path: Path) -> None:
    folder = trained(tmp_path)
    (tmp_path / "manifest.json").write_text("{}")
    assert evaluation_defaults({"adapter_path": str(folder)})["dataset_name"] == "data.jsonl"
