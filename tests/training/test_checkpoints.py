import contextlib
import json
import os
import platform
import random
import resource
import shutil
import subprocess
from pathlib import Path

from conftest import ROOT, tiny_model
from dialogsum_sft import InputError, files, provenance
from dialogsum_sft.training import checkpoints

import numpy as np
import pytest
import torch
import trl
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file


def git(folder, *command):
    config = ["-c", "user.name=nobody", "-c", "user.email=nobody@example.com"]
    return subprocess.run(["git", "-C", folder, *config, *command], capture_output=True, text=True, check=True).stdout


@contextlib.contextmanager
def full_disk():
    """Files cannot grow beyond 4 KiB, as on a disk that is full: a longer write fails halfway.

    Not a fixture: pytest itself writes while one is in force, and its output may be a file.
    """
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_text_is_written_as_it_is_into_a_new_folder(tmp_path):
    path = tmp_path / "a" / "b" / "text.txt"
    files.write_text(path, "Grüße, 中文\n")
    assert path.read_bytes() == "Grüße, 中文\n".encode()
    assert os.listdir(path.parent) == ["text.txt"]


def test_text_replaces_what_was_there(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("a longer old text")
    files.write_text(path, "new")
    assert path.read_text() == "new"


@pytest.mark.parametrize(
    ("write", "content"),
    [
        (files.write_text, "x" * 100_000),
        (files.write_json, {"key": "x" * 100_000}),
        (files.write_jsonl, [{"key": "x" * 1000}] * 100),
    ],
)
def test_a_write_that_fails_halfway_leaves_the_old_file_whole(tmp_path, write, content):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(OSError, match="File too large"), full_disk():
        write(path, content)
    assert path.read_text() == "old"


def test_a_write_that_fails_halfway_leaves_nothing_under_a_new_name(tmp_path):
    path = tmp_path / "file"
    with pytest.raises(OSError, match="File too large"), full_disk():
        files.write_text(path, "x" * 100_000)
    assert not path.exists()


def test_a_row_that_is_no_json_leaves_the_old_file_whole(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("old")
    with pytest.raises(TypeError):
        files.write_jsonl(path, [{"a": 1}, {"a": object()}])
    assert path.read_text() == "old"


def test_json_keeps_characters_and_order(tmp_path):
    path = tmp_path / "record.json"
    files.write_json(path, {"b": "Zoë 中", "a": [1, 2.5, None, True], "path": Path("runs/x")})
    assert "Zoë 中" in path.read_text(encoding="utf-8")
    assert list(json.loads(path.read_bytes()).items()) == [
        ("b", "Zoë 中"),
        ("a", [1, 2.5, None, True]),
        ("path", "runs/x"),
    ]


def test_jsonl_has_one_line_a_row_whatever_separators_the_text_has(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [{"text": "one\u2028two\u2029three\x85four\nfive\r\nsix"}, {"text": "Zoë 中"}]
    files.write_jsonl(path, rows)
    assert path.read_bytes().count(b"\n") == 2
    with path.open(encoding="utf-8") as file:
        assert [json.loads(line) for line in file] == rows
    assert "Zoë 中" in path.read_text(encoding="utf-8")


def make_folder(path, name):
    path.mkdir()
    (path / name).write_text(name)
    return path


def test_a_folder_takes_its_new_place(tmp_path):
    partial, final = make_folder(tmp_path / ".adapter.partial", "new"), tmp_path / "adapter"
    files.replace_folder(partial, final)
    assert os.listdir(tmp_path) == ["adapter"]
    assert os.listdir(final) == ["new"]


def test_a_folder_replaces_the_one_that_was_there_whole(tmp_path):
    partial, final = make_folder(tmp_path / ".adapter.partial", "new"), make_folder(tmp_path / "adapter", "old")
    files.replace_folder(partial, final)
    assert os.listdir(tmp_path) == ["adapter"]
    assert os.listdir(final) == ["new"]


def test_what_an_interrupted_replacement_left_is_no_hindrance(tmp_path):
    partial, final = make_folder(tmp_path / ".adapter.partial", "new"), make_folder(tmp_path / "adapter", "old")
    make_folder(tmp_path / ".adapter.old", "older")
    files.replace_folder(partial, final)
    assert os.listdir(tmp_path) == ["adapter"]
    assert os.listdir(final) == ["new"]


def test_a_missing_new_folder_leaves_something_to_go_back_to(tmp_path):
    final = make_folder(tmp_path / "adapter", "old")
    with pytest.raises(FileNotFoundError):
        files.replace_folder(tmp_path / "nothing", final)
    assert [path.name for path in tmp_path.rglob("old")] == ["old"]


def test_versions_has_python_and_every_package_that_decides_a_result():
    found = provenance.versions()
    assert set(found) == {
        "python",
        "trl",
        "transformers",
        "datasets",
        "peft",
        "bitsandbytes",
        "accelerate",
        "evaluate",
        "rouge_score",
        "torch",
        "dialogsum_sft",
    }
    assert "not installed" not in found.values()
    assert (found["python"], found["trl"]) == (platform.python_version(), trl.__version__)


def test_hardware_has_what_a_speed_depends_on_and_no_host_name(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    found = provenance.hardware()
    assert set(found) == {"gpus", "cpu_cores", "cpu_capability", "memory_gib", "processes"}
    assert found["cpu_cores"] >= 1
    assert found["memory_gib"] > 0.5
    assert found["processes"] == 3
    assert platform.node() not in json.dumps(found)


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a checkout")
def test_the_revision_of_this_checkout():
    assert provenance.git_revision().removesuffix("+") == git(ROOT, "rev-parse", "HEAD").strip()


def test_the_revision_of_a_changed_checkout_ends_in_a_plus(monkeypatch, tmp_path):
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "provenance.py"))
    (tmp_path / "file").write_text("one")
    git(tmp_path, "init")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "-m", "one")
    head = git(tmp_path, "rev-parse", "HEAD").strip()
    assert len(head) == 40
    assert provenance.git_revision() == head
    (tmp_path / "file").write_text("two")
    assert provenance.git_revision() == head + "+"


def test_there_is_no_revision_outside_a_checkout(monkeypatch, tmp_path):
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "provenance.py"))
    assert provenance.git_revision() is None


@pytest.mark.parametrize(
    ("value", "seen"),
    [
        ("/home/ana/runs/one", "one"),
        ("~/runs/one", "one"),
        (Path("/data/rows.jsonl"), "rows.jsonl"),
        ("runs/one", "runs/one"),
        ("Qwen/Qwen3-8B", "Qwen/Qwen3-8B"),
        (["/data/a.csv", 3, None], ["a.csv", 3, None]),
        (
            {"model_init_kwargs": {"cache_dir": "/home/ana", "token": "hf_x"}},
            {"model_init_kwargs": {"cache_dir": "ana", "token": "<TOKEN>"}},
        ),
        (
            {"hub_token": "hf_x", "push_token": None, "eos_token": "</s>"},
            {"hub_token": "<HUB_TOKEN>", "push_token": None, "eos_token": "</s>"},
        ),
        (
            {"instruction": "/no_think Sum up", "system_prompt": "/a/b"},
            {"instruction": "/no_think Sum up", "system_prompt": "/a/b"},
        ),
    ],
)
def test_what_others_may_see(value: object, seen: object) -> None:
    assert files.public(value) == seen


# Whole adapters and checkpoints.


@pytest.fixture(scope="module")
def lora_model(chatml_tokenizer):
    model = tiny_model(chatml_tokenizer)
    return get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", modules_to_save=["lm_head"]))


@pytest.fixture
def adapter(lora_model, tmp_path):
    lora_model.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def change_weights(folder, change):
    path = folder / "adapter_model.safetensors"
    save_file(change(load_file(path)), path)


def half_of(weights):
    return dict(list(weights.items())[::2])


def with_nan(weights):
    next(iter(weights.values()))[0, 0] = float("nan")
    return weights


def narrower(weights):
    name = next(iter(weights))
    return weights | {name: weights[name][:, :-1].contiguous()}


def test_a_saved_adapter_is_whole(adapter, lora_model):
    checkpoints.verify_adapter(adapter)
    checkpoints.verify_adapter(adapter, lora_model)
    shapes = checkpoints.weight_shapes(lora_model)
    assert shapes == {
        name: tuple(tensor.shape) for name, tensor in load_file(adapter / "adapter_model.safetensors").items()
    }
    assert checkpoints.weight_shapes(lora_model.get_base_model()) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (half_of, "15 weights are missing"),
        (with_nan, "has values that are not finite"),
        (narrower, "has the shape"),
        (lambda weights: {}, "has no weights in it"),
    ],
)
def test_an_adapter_that_is_not_whole_is_refused(adapter, lora_model, change, message):
    change_weights(adapter, change)
    if change is half_of:
        message = "14 of 29 weights are missing"
    with pytest.raises(InputError, match=message):
        checkpoints.verify_adapter(adapter, lora_model)


def test_forty_bytes_are_no_adapter(adapter):
    path = adapter / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(InputError, match="cannot be read"):
        checkpoints.verify_adapter(adapter)
    path.unlink()
    with pytest.raises(InputError, match="holds no weights"):
        checkpoints.verify_adapter(adapter)


def test_a_full_model_is_verified_by_its_own_files(chatml_tokenizer, tmp_path):
    model = tiny_model(chatml_tokenizer)
    model.save_pretrained(tmp_path)
    checkpoints.verify_adapter(tmp_path, model)
    model.model.norm.weight.data[0] = float("inf")
    model.save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"model.safetensors: model.norm.weight has values that are not finite"):
        checkpoints.verify_adapter(tmp_path, model)


def make_checkpoint(output_dir, step, model, processes=1):
    """The files of transformers' checkpoint, marked as whole."""
    folder = output_dir / f"checkpoint-{step}"
    model.save_pretrained(folder)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    torch.save(optimizer.state_dict(), folder / "optimizer.pt")
    torch.save({"last_epoch": step}, folder / "scheduler.pt")
    state = {"python": random.getstate(), "numpy": np.random.get_state(), "cpu": torch.get_rng_state()}
    for name in ["rng_state.pth"] if processes == 1 else [f"rng_state_{rank}.pth" for rank in range(processes)]:
        torch.save(state, folder / name)
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    checkpoints.mark_complete(folder, processes)
    return folder


def cut(name, to=0.5):
    def damage(folder):
        path = folder / name
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * to)])

    return damage


def unlink(name):
    return lambda folder: (folder / name).unlink()


def garbage(name):
    return lambda folder: (folder / name).write_bytes(b"x" * (folder / name).stat().st_size)


def unmarked_half_adapter(folder):
    """A writer that left out half of the keys and then marked its work as whole."""
    change_weights(folder, half_of)
    checkpoints.mark_complete(folder, 1)


def nan_adapter(folder):
    change_weights(folder, with_nan)
    checkpoints.mark_complete(folder, 1)


DAMAGES = [
    (unlink("complete.json"), "it was not written to its end (complete.json is missing)"),
    (cut("complete.json"), "complete.json cannot be read"),
    (cut("adapter_model.safetensors"), "adapter_model.safetensors has"),
    (unlink("adapter_model.safetensors"), "adapter_model.safetensors is missing"),
    (unmarked_half_adapter, "14 of 29 weights are missing"),
    (nan_adapter, "has values that are not finite"),
    (unlink("optimizer.pt"), "optimizer.pt is missing"),
    (cut("optimizer.pt"), "optimizer.pt has"),
    (garbage("optimizer.pt"), "optimizer.pt cannot be read"),
    (unlink("scheduler.pt"), "scheduler.pt is missing"),
    (cut("scheduler.pt"), "scheduler.pt has"),
    (unlink("rng_state.pth"), "rng_state.pth is missing"),
    (garbage("rng_state.pth"), "rng_state.pth cannot be read"),
    (cut("trainer_state.json"), "trainer_state.json has"),
    (garbage("trainer_state.json"), "trainer_state.json cannot be read"),
    (lambda folder: folder.rename(folder.with_name("checkpoint-9")), "trainer_state.json is that of step 2"),
]


@pytest.mark.parametrize(("harm", "said"), DAMAGES)
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_taken(lora_model, tmp_path, harm, said):
    shapes = checkpoints.weight_shapes(lora_model)
    for step in (1, 2):
        assert checkpoints.damage(make_checkpoint(tmp_path, step, lora_model), shapes) is None
    harm(tmp_path / "checkpoint-2")
    before = {path.name for path in checkpoints.find_checkpoints(tmp_path)[0].iterdir()}
    found, notes = checkpoints.newest_whole(tmp_path, shapes)
    assert found == tmp_path / "checkpoint-1"
    assert len(notes) == 1
    assert said in notes[0]
    aside = next(tmp_path.glob("damaged-checkpoint-*"))
    assert f"set aside as {aside.name}: " in notes[0]
    assert {path.name for path in aside.iterdir()} == before
    assert checkpoints.find_checkpoints(tmp_path) == [found]


def test_each_process_needs_its_own_random_state(lora_model, tmp_path):
    folder = make_checkpoint(tmp_path, 1, lora_model, processes=2)
    assert checkpoints.damage(folder) is None
    (folder / "rng_state_1.pth").unlink()
    checkpoints.mark_complete(folder, 2)
    assert checkpoints.damage(folder) == "rng_state_1.pth is missing"


def test_a_checkpoint_half_deleted_by_a_rotation_does_not_matter(lora_model, tmp_path):
    for step in (1, 2):
        make_checkpoint(tmp_path, step, lora_model)
    shutil.rmtree(tmp_path / "checkpoint-1")
    (tmp_path / "checkpoint-1").mkdir()
    assert checkpoints.newest_whole(tmp_path) == (tmp_path / "checkpoint-2", [])


def test_checkpoints_are_numbered_not_named(tmp_path):
    for name in ("checkpoint-9", "checkpoint-10", "checkpoint-x", "damaged-checkpoint-11", "earlier-checkpoint-12"):
        (tmp_path / name).mkdir()
    assert [path.name for path in checkpoints.find_checkpoints(tmp_path)] == ["checkpoint-10", "checkpoint-9"]


def test_what_is_set_aside_twice_has_two_names(tmp_path):
    for name in ("damaged-checkpoint-3", "damaged-checkpoint-3-2"):
        assert checkpoints.set_aside(make_folder(tmp_path / "checkpoint-3", "file"), "damaged").name == name


def test_free_space_is_that_of_the_folder_to_come(tmp_path):
    assert files.free_space(tmp_path / "a" / "b") == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.1)


def test_a_checkpoint_is_smaller_than_expected(lora_model, tmp_path):
    """Adam has moments only after a step, so the file that there will be is written here."""
    folder = make_checkpoint(tmp_path, 1, lora_model)
    trained = sum(p.numel() * p.element_size() for p in lora_model.parameters() if p.requires_grad)
    assert files.size_of(folder) + 2 * trained < checkpoints.expected_size(lora_model)
    assert checkpoints.expected_size(lora_model) == 3 * trained + 2**25
