"""The manifest of an output folder: which run it belongs to, and whether a start there resumes or begins anew."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dialogsum_sft import InputError
from dialogsum_sft.files import FORMAT, write_json
from dialogsum_sft.training.checkpoints import damage, find_checkpoints, newest_whole, set_aside, step_of

from datasets import Dataset, IterableDataset

NAME = "manifest.json"
# With another value of one of these options the folder belongs to another run, which cannot be resumed.
_IDENTITY = (
    *("base_model", "model_revision", "data_fingerprint", "rows_fingerprint", "template_sha256", "use_peft", "lora_r"),
    *("lora_target_modules", "lora_target_parameters", "lora_modules_to_save", "use_dora", "use_rslora", "lora_alpha"),
    *("dtype", "load_in_4bit", "load_in_8bit", "bnb_4bit_quant_type", "use_bnb_nested_quant"),
)
# Options with these beginnings do not change the weights: where, how often and on which device something is written,
# shown or evaluated; what is recomputed to save memory; what the fingerprints, base_model and template_sha256 cover.
_WITHOUT_EFFECT = (
    *("logging_", "save_", "eval_", "hub_", "push_to_hub", "report_to", "run_name", "project", "trackio_"),
    *("output_dir", "overwrite_output_dir", "disable_tqdm", "log_level", "log_on_each_node", "do_", "use_cpu"),
    *("per_device_eval_batch_size", "max_eval_samples", "activation_checkpointing", "gradient_checkpointing"),
    *("resume_from_checkpoint", "force_resume", "enable_jit_checkpoint", "restore_callback_states", "load_best_model"),
    *("metric_for_best_model", "greater_is_better", "prediction_loss_only", "batch_eval_metrics", "include_", "debug"),
    *("dataloader_num_workers", "dataloader_pin_memory", "dataloader_persistent", "dataloader_prefetch"),
    *("dataloader_in_order", "dataloader_multiprocessing", "ddp_", "local_rank", "skip_memory_metrics"),
    *("torch_empty_cache_steps", "label_names", "full_determinism", "bf16_full", "fp16_full"),
    *("model_name_or_path", "chat_template_path", "trust_remote_code", "length_column_name", "remove_unused_columns"),
    *("truncation_mode", "eos_token", "pad_token", "ignore_bias_buffers", "allow_dropped_rows"),
)
# Options that determine the rows. The fingerprints cover them, except in a stream, whose rows are not known before.
_ROW_OPTIONS = (
    *("dataset_", "dialogue_column", "summary_columns", "id_column", "topic_column", "max_train_samples"),
    *("instruction", "system_prompt", "max_length", "swap_speakers", "rename_speakers"),
)


def rows_fingerprint(rows: Dataset | IterableDataset) -> str | None:
    """Hash of the ids, token ids and labels of all training rows, as 16 hex digits; None of a stream."""
    if isinstance(rows, IterableDataset):
        return None
    digest = hashlib.sha256()
    for column in ("input_ids", "labels"):
        for chunk in rows.data.column(column).chunks:
            digest.update(chunk.value_lengths().to_numpy().tobytes())
            digest.update(chunk.flatten().to_numpy().tobytes())
    digest.update("\n".join(rows["id"]).encode())
    return digest.hexdigest()[:16]


def describe_run(arguments: dict[str, Any], **facts: Any) -> dict[str, Any]:
    """What determines the final weights of a run: the `arguments` that have an effect on them, and `facts`."""
    left_out = _WITHOUT_EFFECT if facts.get("rows_fingerprint") is None else _WITHOUT_EFFECT + _ROW_OPTIONS
    options = {name: value for name, value in arguments.items() if not name.startswith(left_out)}
    return json.loads(json.dumps(options | facts, default=str, sort_keys=True))


def read_manifest(output_dir: Path) -> dict[str, Any] | None:
    """The manifest of the run that a folder belongs to, or None. Raises InputError when it cannot be read."""
    path = output_dir / NAME
    if not path.is_file():
        return None
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        run, _, _ = (manifest[key] for key in ("run", "sha256", "finished_at_step"))
        dict(run)
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is not the manifest of a run: give another --output_dir, or delete it") from error
    return manifest


def write_manifest(output_dir: Path, run: dict[str, Any], **more: Any) -> None:
    text = json.dumps(run, sort_keys=True)
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    write_json(output_dir / NAME, {"format": FORMAT, "sha256": sha256, "finished_at_step": None, **more, "run": run})


def mark_finished(output_dir: Path, step: int) -> None:
    """Note in the manifest that the final weights of `step` are in their place."""
    manifest = read_manifest(output_dir)
    if manifest is not None:
        write_json(output_dir / NAME, manifest | {"finished_at_step": step})


def changes(old: dict[str, Any], new: dict[str, Any], names: Iterable[str] | None = None) -> list[str]:
    """`learning_rate 0.001 -> 0.002` for each value that differs, of these `names` or of all."""
    if names is None:  # an older manifest may hold options that are left out by now
        names = sorted(name for name in old.keys() | new.keys() if not name.startswith(_WITHOUT_EFFECT))
    return [f"{name} {old.get(name)} -> {new.get(name)}" for name in names if old.get(name) != new.get(name)]


def check_start(output_dir: Path, run: dict[str, Any], option: str | None, force: bool) -> str | None:
    """Whether `run` may start in `output_dir`; changes nothing there. Returns a line when it is finished already.

    `option` is --resume_from_checkpoint: None or true (go on where there is something to go on from), false (begin
    anew), or the path of a checkpoint. A folder without checkpoints is free for any run: its adapter is replaced.

    Raises InputError when the checkpoints there are not this run's, or are but for a changed option unless `force`.
    """
    if _says(option, "false"):
        return None
    given = None if option is None or _says(option, "true") else Path(option)
    if given is not None and not given.is_dir():
        raise InputError(f"--resume_from_checkpoint: no such folder: {given}; give a checkpoint's, true or false")
    folder = output_dir if given is None else given.parent
    if not find_checkpoints(folder):
        return None
    ways = "give another --output_dir, or --resume_from_checkpoint false to begin anew (checkpoints are set aside)"
    manifest = read_manifest(folder)
    if manifest is None:
        raise InputError(f"{folder} holds checkpoints but no {NAME} that says of which run: {ways}")
    other = changes(manifest["run"], run, _IDENTITY)
    if other:
        raise InputError(f"{folder} holds the checkpoints of another run ({', '.join(other)}): {ways}")
    changed = changes(manifest["run"], run)
    if changed and not force:
        raise InputError(
            f"{folder} holds checkpoints of this run with other values: {', '.join(changed)}; "
            f"to go on with the new ones add --force_resume true, or {ways}"
        )
    if given is None and not changed and manifest["finished_at_step"] is not None:
        return (
            f"this run is finished since step {manifest['finished_at_step']}, nothing to do in {output_dir}; "
            "--resume_from_checkpoint false runs it anew (its checkpoints are set aside)"
        )
    return None


def open_run(
    output_dir: Path, run: dict[str, Any], option: str | None, shapes: dict[str, tuple[int, ...]] | None
) -> tuple[Path | None, list[str]]:
    """The checkpoint to go on from (None: begin at step 0), and what was set aside; `run` is put in the manifest.

    Call it after `check_start`, just before training, on one process. No checkpoint is deleted: damaged ones become
    damaged-checkpoint-N, those that this run does not go on from earlier-checkpoint-N.

    Raises InputError when the checkpoint named by `option` is damaged.
    """
    given = None if option is None or _says(option, "true") or _says(option, "false") else Path(option)
    notes: list[str] = []
    checkpoint: Path | None = None
    superseded: list[Path] = []
    if given is not None:
        fault = damage(given, shapes)
        if fault is not None:
            raise InputError(f"--resume_from_checkpoint: {given} is damaged: {fault}")
        checkpoint = given
        superseded = [path for path in find_checkpoints(output_dir) if step_of(path) > step_of(given)]
    elif _says(option, "false"):
        superseded = find_checkpoints(output_dir)
    else:
        checkpoint, notes = newest_whole(output_dir, shapes)
        if checkpoint is None and notes:
            notes.append(f"no whole checkpoint is left in {output_dir}: beginning at step 0")
    notes += [f"{path} is set aside as {set_aside(path, 'earlier').name}" for path in superseded]
    manifest = read_manifest(output_dir)
    forced = [] if checkpoint is None or manifest is None else list(manifest.get("changed", []))
    if checkpoint is not None and manifest is not None:
        forced += [f"from step {step_of(checkpoint)}: {change}" for change in changes(manifest["run"], run)]
    write_manifest(output_dir, run, **({"changed": forced} if forced else {}))
    return checkpoint, notes


def _says(option: str | None, word: str) -> bool:
    return (
        option is not None and option.lower() in ({"true": ("true", "yes", "1"), "false": ("false", "no", "0")}[word])
    )
