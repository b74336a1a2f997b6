import json
import random
import shutil

from conftest import tiny_model
from dialogsum_sft import InputError, files
from dialogsum_sft.training import checkpoints

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file


def make_folder(path, name):
    path.mkdir()
    (path / name).write_text(name)
    return path


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


def test_a_saved_adapter_passes_verification(adapter, lora_model):
    checkpoints.verify_adapter(adapter)
    shapes = checkpoints.weight_shapes(lora_model)
    checkpoints.verify_adapter(adapter, shapes)
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
def test_an_incomplete_adapter_is_refused(adapter, lora_model, change, message):
    change_weights(adapter, change)
    if change is half_of:
        message = "14 of 29 weights are missing"
    with pytest.raises(InputError, match=message):
        checkpoints.verify_adapter(adapter, checkpoints.weight_shapes(lora_model))


def test_a_truncated_or_missing_adapter_is_refused(adapter):
    path = adapter / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(InputError, match="cannot be read"):
        checkpoints.verify_adapter(adapter)
    path.unlink()
    with pytest.raises(InputError, match="holds no weights"):
        checkpoints.verify_adapter(adapter)


def test_a_full_model_is_verified(chatml_tokenizer, tmp_path):
    model = tiny_model(chatml_tokenizer)
    model.save_pretrained(tmp_path)
    checkpoints.verify_adapter(tmp_path, checkpoints.weight_shapes(model))
    model.model.norm.weight.data[0] = float("inf")
    model.save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"model.safetensors: model.norm.weight has values that are not finite"):
        checkpoints.verify_adapter(tmp_path, checkpoints.weight_shapes(model))


def make_checkpoint(output_dir, step, model, processes=1):
    """The files of a transformers checkpoint, marked as complete."""
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
    """Leave out half of the weights and mark the checkpoint as complete."""
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
def test_a_damaged_checkpoint_is_set_aside_and_the_previous_one_used(lora_model, tmp_path, harm, said):
    shapes = checkpoints.weight_shapes(lora_model)
    for step in (1, 2):
        assert checkpoints.damage(make_checkpoint(tmp_path, step, lora_model), shapes) is None
    harm(tmp_path / "checkpoint-2")
    before = {path.name for path in checkpoints.find_checkpoints(tmp_path)[0].iterdir()}
    found, notes = checkpoints.newest_complete(tmp_path, shapes)
    assert found == tmp_path / "checkpoint-1"
    assert len(notes) == 1
    assert said in notes[0]
    aside = next(tmp_path.glob("damaged-checkpoint-*"))
    assert f"set aside as {aside.name}: " in notes[0]
    assert {path.name for path in aside.iterdir()} == before
    assert checkpoints.find_checkpoints(tmp_path) == [found]


def test_each_process_needs_its_random_state(lora_model, tmp_path):
    folder = make_checkpoint(tmp_path, 1, lora_model, processes=2)
    assert checkpoints.damage(folder) is None
    (folder / "rng_state_1.pth").unlink()
    checkpoints.mark_complete(folder, 2)
    assert checkpoints.damage(folder) == "rng_state_1.pth is missing"


def test_an_older_checkpoint_half_deleted_by_rotation_is_ignored(lora_model, tmp_path):
    for step in (1, 2):
        make_checkpoint(tmp_path, step, lora_model)
    shutil.rmtree(tmp_path / "checkpoint-1")
    (tmp_path / "checkpoint-1").mkdir()
    assert checkpoints.newest_complete(tmp_path) == (tmp_path / "checkpoint-2", [])


def test_checkpoints_are_sorted_by_step(tmp_path):
    for name in ("checkpoint-9", "checkpoint-10", "checkpoint-x", "damaged-checkpoint-11", "earlier-checkpoint-12"):
        (tmp_path / name).mkdir()
    assert [path.name for path in checkpoints.find_checkpoints(tmp_path)] == ["checkpoint-10", "checkpoint-9"]


def test_a_folder_set_aside_twice_gets_two_names(tmp_path):
    for name in ("damaged-checkpoint-3", "damaged-checkpoint-3-2"):
        assert checkpoints.set_aside(make_folder(tmp_path / "checkpoint-3", "file"), "damaged").name == name


def test_a_checkpoint_takes_no_more_than_the_expected_size(lora_model, tmp_path):
    """Adam has no moments before its first step, so their size is added here."""
    folder = make_checkpoint(tmp_path, 1, lora_model)
    trained = sum(p.numel() * p.element_size() for p in lora_model.parameters() if p.requires_grad)
    assert files.size_of(folder) + 2 * trained < checkpoints.expected_size(lora_model)
    assert checkpoints.expected_size(lora_model) == 3 * trained + 2**25


def as_fsdp_writes(folder):
    """Two ranks under FSDP2 with FULL_STATE_DICT, as transformers 5.24 names its files."""
    (folder / "optimizer.pt").rename(folder / "optimizer.bin")
    torch.save({}, folder / "pytorch_model_fsdp.bin")
    checkpoints.mark_complete(folder, 2, "FSDP")


def as_deepspeed_writes(folder):
    """Two ranks under ZeRO-3: DeepSpeed's own folder holds the optimizer."""
    (folder / "optimizer.pt").unlink()
    (folder / "latest").write_text("global_step1")
    (folder / "global_step1").mkdir()
    for rank in range(2):
        for kind in ("model", "optim"):
            name = f"zero_pp_rank_{rank}_mp_rank_00_{kind}_states.pt"
            torch.save({"not only weights": checkpoints.Path}, folder / "global_step1" / name)
    checkpoints.mark_complete(folder, 2, "ZeRO-3")


SHARDS = "global_step1/zero_pp_rank_1_mp_rank_00_optim_states.pt"


@pytest.mark.parametrize("names_backend", [True, False], ids=["marker", "earlier_marker"])
@pytest.mark.parametrize(
    ("write", "needed"),
    [
        (as_fsdp_writes, ("optimizer.bin", "pytorch_model_fsdp.bin", "scheduler.pt", "rng_state_1.pth")),
        (as_deepspeed_writes, (SHARDS, SHARDS.replace("optim", "model"), "rng_state_1.pth")),
    ],
    ids=["fsdp", "zero3"],
)
def test_what_a_checkpoint_needs_follows_from_who_wrote_it(lora_model, tmp_path, write, needed, names_backend):
    folder = make_checkpoint(tmp_path, 1, lora_model, processes=2)
    write(folder)
    marker = json.loads((folder / "complete.json").read_text())
    if not names_backend:
        del marker["backend"]
    files.write_json(folder / "complete.json", marker)
    assert checkpoints.damage(folder) is None
    for name in needed:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(b"x" * len(content))
        assert checkpoints.damage(folder).endswith("cannot be read"), name
        (folder / name).unlink()
        assert checkpoints.damage(folder) == f"{name} is missing"
        (folder / name).write_bytes(content)
    del marker["files"][needed[0]]  # never written
    files.write_json(folder / "complete.json", marker)
    assert checkpoints.damage(folder).endswith(" is missing")


@pytest.mark.parametrize(("backend", "numbers"), [("FSDP", 4), ("ZeRO-2", 5), ("ZeRO-3", 5)])
def test_backends_write_the_weights_more_than_once(lora_model, backend, numbers):
    trained = sum(p.numel() * p.element_size() for p in lora_model.parameters() if p.requires_grad)
    assert checkpoints.expected_size(lora_model, backend) == numbers * trained + 2**25
