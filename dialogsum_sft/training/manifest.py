"""The manifest of an output folder: which run it belongs to, and whether a start there resumes or begins anew."""

import hashlib
import json
from pathlib import Path
from typing import Any

from dialogsum_sft import InputError, files
from dialogsum_sft.provenance import differences
from dialogsum_sft.training.checkpoints import Shapes, damage, find_checkpoints, newest_complete, step_of

NAME = "manifest.json"
# With another value of one of these options the folder belongs to another run, which cannot be resumed.
_IDENTITY = (
    *("base_model", "model_revision", "data_fingerprint", "rows_fingerprint", "template_sha256", "use_peft", "lora_r"),
    *("lora_target_modules", "lora_target_parameters", "lora_modules_to_save", "use_dora", "use_rslora", "lora_alpha"),
    *("dtype", "load_in_4bit", "load_in_8bit", "bnb_4bit_quant_type", "use_bnb_nested_quant", "sharded_by"),
)
_FACTS = {"base_model": "--model_name_or_path", "processes": "--num_processes", "sharded_by": "sharding"}
# Of these, the hashes: a message names the options that differ, or this where none of them does.
_HASHES = {
    "data_fingerprint": "other training data under the same options",
    "rows_fingerprint": "other training data under the same options",
    "template_sha256": "another chat template",
}
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
    *("truncation_mode", "eos_token", "pad_token", "ignore_bias_buffers", "allow_dropped_rows", "test_file"),
)
# Options that determine the rows. The fingerprints cover them, except in a stream, whose rows are not known before.
_ROW_OPTIONS = (
    *("dataset_", "dialogue_column", "summary_columns", "id_column", "topic_column", "max_train_samples"),
    *("instruction", "system_prompt", "max_length", "swap_speakers", "rename_speakers", "drop_times"),
    *("dialogue_format", "speaker_key", "text_key", "speaker_column", "summary_join"),
    *("train_file", "validation_file", "dialogue_file", "validation_share", "validation_seed"),
)
_FILES = ("train_file", "validation_file", "test_file", "dialogue_file")


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


def sha256_of(run: dict[str, Any]) -> str:
    """The hash of a run; also stored in the run.json of its adapter, which shows that the two belong together."""
    return hashlib.sha256(json.dumps(run, sort_keys=True).encode()).hexdigest()


def changes(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """`learning_rate 0.001 -> 0.002` for each value that differs."""
    # An older manifest may hold options that are left out by now.
    names = sorted(name for name in old.keys() | new.keys() if not name.startswith(_WITHOUT_EFFECT))
    return [f"{name} {old.get(name)} -> {new.get(name)}" for name in names if old.get(name) != new.get(name)]


class RunFolder:
    """An output folder, and the run that is to be trained there.

    `arguments` are all resolved options; those read here are `output_dir`, `force_resume`, `overwrite_output_dir` and
    `resume_from_checkpoint`: None or true (resume if there is a checkpoint), false (begin anew), or the path of a
    checkpoint. `run` comes from `describe_run`.
    """

    def __init__(self, arguments: dict[str, Any], run: dict[str, Any]) -> None:
        self.run = run
        self.output_dir = Path(arguments["output_dir"])
        self.force: bool = arguments["force_resume"]
        self.overwrite: bool = arguments["overwrite_output_dir"]
        resume: str | None = arguments["resume_from_checkpoint"]
        word = "" if resume is None else resume.lower()
        self.anew = word in ("false", "no", "0")
        self.named = Path(resume) if resume and not self.anew and word not in ("true", "yes", "1") else None
        # run.json, which may be published, has only the last part of these.
        names = ("model_name_or_path", "chat_template_path", "dataset_name", *_FILES)
        paths = {name: arguments.get(name) for name in names}
        self.paths = {name: str(path) for name, path in paths.items() if files.public(path) != path}
        # What the hashes of the run cover, for messages.
        rows = {name for name in arguments if name.startswith(_ROW_OPTIONS)}
        options = {name: arguments.get(name) for name in sorted(rows | {"chat_template_path"})}
        self.options: dict[str, Any] = json.loads(json.dumps(options, default=str))

    def check_start(self) -> str | None:
        """Whether the run may start; changes nothing. Returns a line if the run has finished already.

        A folder without checkpoints, adapter or model is free. `overwrite_output_dir` and `resume_from_checkpoint
        false` allow any start. Raises InputError if the folder holds another run, or this run with changed options
        (which `force_resume` allows for a checkpoint).
        """
        if self.anew or self.overwrite:
            return None
        if self.named is not None:
            if not self.named.is_dir():
                raise InputError(
                    f"--resume_from_checkpoint: no such folder: {self.named}; give a checkpoint's, true or false"
                )
            self._check_folder(self.named.parent)
        manifest, final = self._check_folder(self.output_dir), _final_folders(self.output_dir)
        if self.named is not None or manifest is None or not final or manifest["finished_at_step"] is None:
            return None
        if changes(manifest["run"], self.run):
            return None
        step, report = manifest["finished_at_step"], self.output_dir / "report.html"
        return (
            f"nothing to do: this run finished at step {step} and its {final[0].name} is {final[0]}"
            + (f", its report is {report}" if report.is_file() else "")
            + "; --resume_from_checkpoint false trains it again and sets the old files aside"
        )

    def _check_folder(self, folder: Path) -> dict[str, Any] | None:
        """The manifest of a folder that this run may use, None if it is free; raises InputError for another run."""
        checkpoints, final = find_checkpoints(folder), _final_folders(folder)
        if not checkpoints and not final:
            return None
        anew = "give another --output_dir, or --overwrite_output_dir true to begin anew (the old files are set aside)"
        manifest = read_manifest(folder)
        if manifest is None:
            contents = "checkpoints" if checkpoints else final[0].name
            raise InputError(f"{folder} holds {contents} but no {NAME} that says of which run: {anew}")
        if other := self._differences(manifest):
            raise InputError(f"{folder} holds another run ({'; '.join(other)}): {anew}")
        changed = changes(manifest["run"], self.run)
        # The checkpoint of a finished run has no steps left, unless there are more of them now.
        finished = manifest["finished_at_step"] is not None and final
        longer = any(change.startswith(("max_steps", "num_train_epochs")) for change in changed)
        resumable = checkpoints and (longer or not finished)
        if changed and not (self.force and resumable):
            resumes = "to resume with the new ones add --force_resume true, or " if resumable else ""
            raise InputError(f"{folder} holds this run with other values: {', '.join(changed)}; {resumes}{anew}")
        return manifest

    def _differences(self, manifest: dict[str, Any]) -> list[str]:
        """What makes the run of a manifest another one, by the options that differ; none where it is this one."""
        old = manifest["run"]
        # DeepSpeed's optimizer states are one file a process, which it cannot share anew.
        identity = (*_IDENTITY, "processes") if str(self.run.get("sharded_by")).startswith("ZeRO") else _IDENTITY
        names = [name for name in identity if old.get(name) != self.run.get(name)]
        there, here = (
            {_FACTS.get(name, f"--{name}"): run.get(name) for name in names if name not in _HASHES}
            for run in (one | {"sharded_by": one.get("sharded_by") or "none"} for one in (old, self.run))
        )
        hashes = [name for name in names if name in _HASHES]
        named = differences(manifest["options"], self.options) if hashes and "options" in manifest else []
        named = named or list(dict.fromkeys(_HASHES[name] for name in hashes))
        return differences(there, here, prefix="") + named

    def open(self, shapes: Shapes | None) -> tuple[Path | None, list[str]]:
        """Write the manifest; return the checkpoint to resume from (None: step 0), and notes on what was done.

        Call it after `check_start`, just before training, on one process. Nothing is deleted: damaged checkpoints
        become damaged-checkpoint-N, those after the one resumed from earlier-checkpoint-N, and an adapter or model
        that another run made, or that this run makes anew, becomes earlier-adapter or earlier-model; its evaluations
        and report.html are renamed likewise.
        `overwrite_output_dir` resumes this run if it is unfinished, so that a queued job may repeat its command.

        Raises InputError when the checkpoint named by `resume_from_checkpoint` is damaged.
        """
        notes: list[str] = []
        checkpoint, old_files = self.named, []
        if self.anew or (self.overwrite and not self._is_unfinished()):
            old_files = find_checkpoints(self.output_dir)
        elif checkpoint is not None:
            fault = damage(checkpoint, shapes)
            if fault is not None:
                raise InputError(f"--resume_from_checkpoint: {checkpoint} is damaged: {fault}")
            old_files = [path for path in find_checkpoints(self.output_dir) if step_of(path) > step_of(checkpoint)]
        else:
            checkpoint, notes = newest_complete(self.output_dir, shapes)
            if checkpoint is None and notes:
                notes.append(f"no complete checkpoint is left in {self.output_dir}: beginning at step 0")
        final = _final_folders(self.output_dir)
        old_files += [path for path in final if checkpoint is None or _run_of(path) != sha256_of(self.run)]
        if any(path in old_files for path in final):  # their scores go with them
            evaluations = sorted(self.output_dir.glob("eval-*"))
            old_files += [path for path in evaluations if not path.name.startswith("eval-base")]
            names = ["report.html", *(["training.jsonl"] if checkpoint is None else [])]
            old_files += [path for name in names if (path := self.output_dir / name).is_file()]
        notes += [f"{path} is set aside as {files.set_aside(path, 'earlier').name}" for path in old_files]
        more: dict[str, Any] = {}
        if checkpoint is not None:
            notes.append(f"resuming from {checkpoint}")
            old = read_manifest(checkpoint.parent) or {"run": self.run}
            changed = [f"from step {step_of(checkpoint)}: {change}" for change in changes(old["run"], self.run)]
            if history := old.get("changed", []) + changed:
                more["changed"] = history
        record = {"format": files.FORMAT, "sha256": sha256_of(self.run), "finished_at_step": None, "paths": self.paths}
        record["options"] = self.options
        files.write_json(self.output_dir / NAME, record | more | {"run": self.run})
        return checkpoint, notes

    def mark_finished(self, step: int) -> None:
        """Record in the manifest that the weights of `step` are saved."""
        manifest = read_manifest(self.output_dir)
        if manifest is not None:
            files.write_json(self.output_dir / NAME, manifest | {"finished_at_step": step})

    def _is_unfinished(self) -> bool:
        """Whether the folder holds this run, stopped before its end."""
        try:
            manifest = read_manifest(self.output_dir)
        except InputError:
            return False
        return manifest is not None and manifest["finished_at_step"] is None and not changes(manifest["run"], self.run)


def _final_folders(output_dir: Path) -> list[Path]:
    return [output_dir / name for name in ("adapter", "model") if (output_dir / name).is_dir()]


def _run_of(folder: Path) -> str | None:
    """The `sha256_of` the run that saved this adapter or model; None if its record does not say."""
    try:
        return str(json.loads((folder / "run.json").read_text(encoding="utf-8"))["manifest_sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
