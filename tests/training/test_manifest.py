"""The manifest of an output folder: which runs may start there, and what is set aside."""

import json
from pathlib import Path
from typing import Any

from dialogsum_sft import InputError
from dialogsum_sft.training import manifest
from dialogsum_sft.training.manifest import RunFolder

import pytest

RUN = {"base_model": "m", "learning_rate": 0.1, "lora_r": 8, "rows_fingerprint": "abc"}
OPTIONS = {"chat_template_path": None, "dataset_name": "sample"}


def test_options_without_effect_on_the_weights_are_left_out() -> None:
    arguments = {"learning_rate": 0.1, "logging_steps": 5, "output_dir": Path("a"), "max_length": 9, "seed": 1}
    assert manifest.describe_run(arguments, rows_fingerprint="x") == {
        "learning_rate": 0.1,
        "rows_fingerprint": "x",
        "seed": 1,
    }
    assert (
        manifest.describe_run(arguments, rows_fingerprint=None)["max_length"] == 9
    )  # of a stream, rows are not known


def test_activation_checkpointing_is_left_out() -> None:
    with_it, without = (
        manifest.describe_run({"activation_checkpointing": value, "seed": 1}, rows_fingerprint="x")
        for value in (True, False)
    )
    assert with_it == without
    assert manifest.changes(without | {"activation_checkpointing": False}, without) == []  # an older manifest


def test_a_manifest_is_written_and_marked_as_finished(tmp_path: Path) -> None:
    assert manifest.read_manifest(tmp_path) is None
    run_folder(tmp_path).open(None)
    written = manifest.read_manifest(tmp_path)
    sha256 = manifest.sha256_of(RUN)
    assert written == {
        "format": 1,
        "sha256": sha256,
        "finished_at_step": None,
        "paths": {},
        "options": OPTIONS,
        "run": RUN,
    }
    run_folder(tmp_path).mark_finished(7)
    assert manifest.read_manifest(tmp_path) == written | {"finished_at_step": 7}
    assert manifest.sha256_of(RUN | {"seed": 2}) != sha256


NO_STEP = '{"format": 1, "sha256": "x", "run": {}}'


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"run": 3}', '{"run": {}}', NO_STEP])
def test_a_file_that_is_not_a_manifest_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(InputError, match="manifest.json is not the manifest of a run"):
        manifest.read_manifest(tmp_path)


def run_folder(output_dir: Path, run: dict[str, Any] = RUN, resume: str | None = None, **options: Any) -> RunFolder:
    arguments = {"output_dir": output_dir, "force_resume": False, "overwrite_output_dir": False}
    arguments |= {"model_name_or_path": "m", "dataset_name": "sample", "chat_template_path": None}
    return RunFolder(arguments | {"resume_from_checkpoint": resume} | options, run)


def write_manifest(folder: Path, run: dict[str, Any], **more: Any) -> None:
    record = {"format": 1, "sha256": manifest.sha256_of(run), "finished_at_step": None, "run": run}
    (folder / "manifest.json").write_text(json.dumps(record | more))


def checkpoint_of(folder: Path, run: dict[str, Any] | None, **more: Any) -> Path:
    (folder / "checkpoint-2").mkdir(parents=True)
    if run is not None:
        write_manifest(folder, run, **more)
    return folder


def adapter_of(folder: Path, run: dict[str, Any] | None, **more: Any) -> Path:
    """The files of a finished run without checkpoints."""
    (folder / "adapter").mkdir(parents=True)
    if run is not None:
        write_manifest(folder, run, **more)
        record = {"manifest_sha256": manifest.sha256_of(run)}
        (folder / "adapter" / "run.json").write_text(json.dumps(record))
    return folder


@pytest.mark.parametrize(
    ("there", "force", "message"),
    [
        (None, True, "holds checkpoints but no manifest.json"),
        (
            RUN | {"lora_r": 4},
            True,
            r"holds another run \(--lora_r 4 there, 8 here\): give another --output_dir, or --over",
        ),
        (RUN | {"rows_fingerprint": "def"}, True, r"another run \(other training data under the same options\): give"),
        (RUN | {"learning_rate": 0.2}, False, "other values: learning_rate 0.2 -> 0.1; to resume with the new ones"),
    ],
)
def test_a_folder_with_checkpoints_of_another_run_is_refused(
    tmp_path: Path, there: dict[str, Any] | None, force: bool, message: str
) -> None:
    checkpoint_of(tmp_path, there)
    with pytest.raises(InputError, match=message):
        run_folder(tmp_path, force_resume=force).check_start()
    with pytest.raises(InputError, match=message):
        run_folder(tmp_path / "elsewhere", RUN, str(tmp_path / "checkpoint-2"), force_resume=force).check_start()
    assert run_folder(tmp_path, resume="false").check_start() is None
    assert run_folder(tmp_path, overwrite_output_dir=True).check_start() is None


@pytest.mark.parametrize(
    ("there", "message"),
    [
        (None, "holds adapter but no manifest.json"),
        (RUN | {"lora_r": 4}, r"holds another run \(--lora_r 4 there, 8 here\): give another --output_dir, or --over"),
        (RUN | {"learning_rate": 0.2}, "other values: learning_rate 0.2 -> 0.1; give another --output_dir, or --over"),
    ],
)
def test_a_folder_with_the_adapter_of_another_run_is_refused(
    tmp_path: Path, there: dict[str, Any] | None, message: str
) -> None:
    adapter_of(tmp_path, there, finished_at_step=2)
    for force in (False, True):
        with pytest.raises(InputError, match=message):
            run_folder(tmp_path, force_resume=force).check_start()
    assert run_folder(tmp_path, overwrite_output_dir=True).check_start() is None


def test_other_training_data_is_named_by_its_options(tmp_path: Path) -> None:
    other = RUN | {"rows_fingerprint": "def", "base_model": "n"}
    checkpoint_of(tmp_path, other, options=OPTIONS | {"dataset_name": "calls.csv", "max_train_samples": 5})
    why = "--model_name_or_path n there, m here; --dataset_name calls.csv there, sample here; --max_train_samples 5"
    with pytest.raises(InputError, match=rf"holds another run \({why} there, not given here\): give"):
        run_folder(tmp_path).check_start()


@pytest.mark.parametrize("option", [None, "true", "True"])
def test_a_run_may_start_in_an_empty_folder_or_its_own(tmp_path: Path, option: str | None) -> None:
    assert run_folder(tmp_path / "new", resume=option).check_start() is None
    checkpoint_of(tmp_path, RUN)
    assert run_folder(tmp_path, resume=option).check_start() is None
    assert run_folder(tmp_path, RUN | {"learning_rate": 0.2}, option, force_resume=True).check_start() is None


@pytest.mark.parametrize("report", [False, True])
@pytest.mark.parametrize("checkpoints", [False, True])
def test_a_finished_run_has_nothing_to_do(tmp_path: Path, checkpoints: bool, report: bool) -> None:
    adapter_of(tmp_path, RUN, finished_at_step=2)
    if checkpoints:
        (tmp_path / "checkpoint-2").mkdir()
    if report:
        (tmp_path / "report.html").touch()
    line = str(run_folder(tmp_path).check_start())
    assert line.startswith(f"nothing to do: this run finished at step 2 and its adapter is {tmp_path}/adapter")
    assert (f"its report is {tmp_path}/report.html" in line) is report
    assert run_folder(tmp_path, resume="false").check_start() is None


def test_a_finished_run_without_its_adapter_starts(tmp_path: Path) -> None:
    checkpoint_of(tmp_path, RUN, finished_at_step=2)
    assert run_folder(tmp_path).check_start() is None


@pytest.mark.parametrize("option", ["false", None])
def test_beginning_anew_sets_the_adapter_aside(tmp_path: Path, option: str | None) -> None:
    other = RUN | {"lora_r": 4}
    for number in (1, 2):
        adapter_of(tmp_path, RUN, finished_at_step=2)
        (tmp_path / "checkpoint-2").mkdir()
        checkpoint, notes = run_folder(tmp_path, other, option, overwrite_output_dir=option is None).open(None)
        assert checkpoint is None
        assert len(notes) == 2
        assert notes[1].endswith(f"adapter is set aside as earlier-adapter{'-2' * (number - 1)}")
    folders = {"earlier-adapter", "earlier-adapter-2", "earlier-checkpoint-2", "earlier-checkpoint-2-2"}
    assert {path.name for path in tmp_path.iterdir()} == folders | {"manifest.json"}
    record = manifest.read_manifest(tmp_path)
    assert record is not None
    assert (record["run"], record["finished_at_step"]) == (other, None)


def test_overwriting_resumes_the_same_run_if_unfinished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A requeued job has the same command and must resume."""
    monkeypatch.setattr(manifest, "newest_complete", lambda folder, shapes: (folder / "checkpoint-2", []))
    checkpoint_of(tmp_path, RUN)
    assert run_folder(tmp_path, overwrite_output_dir=True).open(None)[0] == tmp_path / "checkpoint-2"
    assert run_folder(tmp_path, RUN | {"seed": 2}, overwrite_output_dir=True).open(None)[0] is None


def test_beginning_anew_ignores_an_unreadable_manifest(tmp_path: Path) -> None:
    adapter_of(tmp_path, RUN)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(InputError, match="is not the manifest of a run"):
        run_folder(tmp_path).check_start()
    assert run_folder(tmp_path, overwrite_output_dir=True).check_start() is None
    assert run_folder(tmp_path, overwrite_output_dir=True).open(None)[0] is None


def test_an_unfinished_run_that_begins_anew_sets_the_adapter_aside(tmp_path: Path) -> None:
    """As after a kill between saving the adapter and marking the run as finished, without checkpoints."""
    adapter_of(tmp_path, RUN)
    assert run_folder(tmp_path).check_start() is None
    run_folder(tmp_path).open(None)
    assert not (tmp_path / "adapter").exists()
    assert (tmp_path / "earlier-adapter").is_dir()


def test_the_manifest_keeps_local_paths(tmp_path: Path) -> None:
    run_folder(tmp_path, model_name_or_path="/models/llama", dataset_name="data/rows.jsonl").open(None)
    record = manifest.read_manifest(tmp_path)
    assert record is not None
    assert record["paths"] == {"model_name_or_path": "/models/llama"}
    assert record["sha256"] == manifest.sha256_of(RUN)
