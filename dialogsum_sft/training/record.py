"""run.json: the record of a training, saved beside its weights and read back by an evaluation."""

import base64
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dialogsum_sft import InputError, files, provenance
from dialogsum_sft.arguments import GenerationArguments
from dialogsum_sft.data.prompts import PromptSettings
from dialogsum_sft.data.sources import serves_both
from dialogsum_sft.data.training_data import TrainingData, dialogue_digest
from dialogsum_sft.modeling import check_adapter, check_adapter_folder
from dialogsum_sft.training import manifest
from dialogsum_sft.training.checkpoints import step_of
from dialogsum_sft.training.trainer import ResumableSFTTrainer

from transformers import PreTrainedTokenizerBase
from trl import ModelConfig

# Options of the training that are an evaluation's default: the dataset and the prompt; the base model of an adapter.
_SPLITS = ("train_file", "validation_file", "test_file", "dialogue_file", "validation_share", "validation_seed")
_DATA: tuple[str, ...] = (
    *("dataset_name", "dataset_config", "dataset_revision", "summary_columns", "summary_join", "topic_column"),
    "dialogue_format",
    *_SPLITS,
)
_COLUMNS = ("dialogue_column", "id_column", "speaker_key", "text_key", "speaker_column")
_PROMPT = ("instruction", "system_prompt", "drop_times", "rename_speakers", "max_length", "trust_remote_code")
_BASE = ("model_name_or_path", "model_revision", "dtype", "attn_implementation")
_QUANTISATION = ("load_in_4bit", "load_in_8bit", "bnb_4bit_quant_type", "use_bnb_nested_quant")
_PATHS = ("model_name_or_path", "dataset_name")  # which stand in arguments without their folders if absolute
_RENAMED = {"max_new_tokens": "eval_max_new_tokens", "rouge_tokenizer": "eval_rouge_tokenizer"}


def run_record(
    trainer: ResumableSFTTrainer,
    data: TrainingData,
    arguments: dict[str, Any],
    run: dict[str, Any],
    prompt: dict[str, Any],
    metrics: dict[str, Any],
    checkpoint: Path | None,
    started: float,
) -> dict[str, Any]:
    """The contents of run.json; it may be published, so paths and tokens are cut.

    `arguments` are all resolved options, `run` is what the manifest holds, `checkpoint` is the one resumed from,
    `started` the time at which the recipe started.
    """
    return {
        "format": files.FORMAT,
        "base_model": run["base_model"],
        "arguments": files.public(arguments | {"hub_model_id": trainer.args.hub_model_id}),
        "cut_paths": [name for name in _PATHS if files.public(arguments[name]) != arguments[name]],
        "data": {name.replace(" ", "_"): counts.record() for name, counts in data.counts().items()},
        "data_fingerprint": run["data_fingerprint"],
        "manifest_sha256": manifest.sha256_of(run),
        "prompt": prompt,
        "resumed_from_step": step_of(checkpoint) if checkpoint else None,
        "metrics": metrics,
        "evaluations": [event for event in trainer.state.log_history if "samples" in event],
        "versions": provenance.versions(),
        "git_revision": provenance.git_revision(),
        "hardware": provenance.hardware(),
        "seconds": round(time.time() - started, 1),
        "peak_memory_gib": provenance.peak_memory_gib(),
        "trained_dialogues": data.trained_dialogues(),
    }


def read_run_record(folder: Path) -> dict[str, Any] | None:
    """run.json of trained weights, or None where there is none. Raises InputError where it cannot be read."""
    path = folder / "run.json"
    if not path.is_file():
        return None
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        dict(record["arguments"]), str(record["prompt"]["instruction"]), str(record["prompt"]["template_sha256"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} is not the record of a training: restore it, or rename it to evaluate without what it records "
            "(give the model, dataset, prompt and dtype as options then)"
        ) from error
    return record


def evaluation_defaults(given: Mapping[str, Any]) -> dict[str, Any]:
    """Defaults of recipes/eval.py, from the training of the adapter or model that is `given`; see `cli.parse`.

    run.json has only the last part of an absolute path; the manifest of the run, beside the folder, has the whole one.
    """
    folder, record = _record_of(given)
    if record is None or given.get("predictions_file"):
        return {}
    names = _DATA + _COLUMNS + _PROMPT + _model_options(given)
    if "dataset_name" in given:  # other data than that of the training
        names = tuple(name for name in names if name not in _SPLITS)
    else:
        names += ("allow_dropped_rows",)
    arguments = _whole_paths(folder, record, names, given)
    defaults = {option: arguments[option] for option in names if arguments.get(option) is not None}
    defaults |= {option: arguments[own] for option, own in _RENAMED.items() if arguments.get(own) is not None}
    if "validation_share" in defaults:  # held out by the seed of the training
        defaults = {"validation_seed": arguments["seed"]} | defaults
        defaults["dataset_train_split"] = arguments["dataset_train_split"]
    elif not {"dataset_name", "dataset_test_split", "validation_file", "test_file"} & given.keys():
        defaults |= _other_split(arguments)
    return defaults | {"output_dir": str(folder.parent)}


def use_defaults(given: Mapping[str, Any]) -> dict[str, Any]:
    """Defaults for summaries of new dialogues: base model, prompt and lengths of the training, nothing of its data.

    `given` is as for `evaluation_defaults`. The folder of the adapter suffices.
    """
    folder, record = _record_of(given)
    if record is None:
        return {}
    names = _PROMPT + _model_options(given)
    arguments = _whole_paths(folder, record, names, given)
    defaults = {option: arguments[option] for option in names if arguments.get(option) is not None}
    limit = arguments.get(_RENAMED["max_new_tokens"])
    return defaults if limit is None else defaults | {"max_new_tokens": limit}


def trained_columns(folder: Path) -> dict[str, str]:
    """The columns and keys that a training was told, {option: name}; empty without run.json."""
    arguments = (read_run_record(folder) or {}).get("arguments", {})
    return {name: arguments[name] for name in _COLUMNS if arguments.get(name) is not None}


def _record_of(given: Mapping[str, Any]) -> tuple[Path, dict[str, Any] | None]:
    """The folder of the adapter or model that is given, and its run.json; of an endpoint, that of the served model."""
    adapter, model = given.get("adapter_path"), given.get("model_name_or_path")
    folder = Path(adapter or model or "")
    if given.get("engine") == "openai":
        return folder, read_run_record(folder) if model and not adapter else None
    if adapter:
        check_adapter_folder(folder)
    return folder, read_run_record(folder)


def _model_options(given: Mapping[str, Any]) -> tuple[str, ...]:
    if not given.get("adapter_path"):
        return ()
    return _BASE if given.get("engine") == "vllm" else _BASE + _QUANTISATION


def _whole_paths(
    folder: Path, record: dict[str, Any], names: tuple[str, ...], given: Mapping[str, Any]
) -> dict[str, Any]:
    """The arguments of a training, with whole paths. Raises InputError for one of `names` that is not known whole."""
    paths = (_manifest_beside(folder) or {}).get("paths", {})
    for name in record.get("cut_paths", []):
        if name in names and name not in paths and name not in given:
            raise InputError(
                f"{folder / 'run.json'} has only the last part of the {name} of the training "
                f"({record['arguments'][name]}): give --{name}"
            )
    return record["arguments"] | paths


def _other_split(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Where a training had one file: the slice that it was evaluated on. Raises InputError where there is none."""
    name, train = str(arguments.get("dataset_name") or ""), str(arguments.get("dataset_train_split"))
    file = arguments.get("train_file") or name
    if arguments.get("test_file") or arguments.get("validation_file") or not serves_both(file, train, name, "test"):
        return {}
    test = str(arguments.get("dataset_test_split"))
    if "[" in test and not serves_both(file, train, name, test):
        return {"dataset_test_split": test}
    raise InputError(
        f"{name} was trained on and would serve the evaluation too: give other dialogues by --test_file or "
        "--dataset_name, or a slice by --dataset_test_split"
    )


def check_use(
    model_args: ModelConfig,
    args: GenerationArguments,
    settings: PromptSettings,
    tokenizer: PreTrainedTokenizerBase | None,
    dialogues: Sequence[str] = (),
) -> tuple[int | None, list[str]]:
    """How many of the `dialogues` the model was trained on (None: unknown), and warnings about it.

    Raises InputError for an adapter of another base model, and for another prompt than that of the training.
    """
    base = str(model_args.model_name_or_path)
    if args.adapter_path is not None:
        check_adapter(args.adapter_path, base, any_base=args.any_base)
    prompt = None if args.allow_other_prompt or tokenizer is None else (settings, tokenizer)
    return compare_with_training(Path(args.adapter_path or base), prompt, dialogues)


def compare_with_training(
    folder: Path, prompt: tuple[PromptSettings, PreTrainedTokenizerBase] | None, dialogues: Sequence[str]
) -> tuple[int | None, list[str]]:
    """How many of the `dialogues` the weights in `folder` were trained on (None: unknown), and warnings.

    Raises InputError where a `prompt` is given and is another one than that of the training.
    """
    record = read_run_record(folder)
    if record is None:
        is_adapter = (folder / "adapter_config.json").is_file()
        return None, [f"no run.json in {folder}: prompt and dtype are not those of its training"] * is_adapter
    if prompt is not None:
        check_prompt(folder, record, *prompt)
    warnings, known = [note_of_other_run(folder, record)], trained_on(record, dialogues)
    if known:
        warnings.append(
            f"{known} of the {len(dialogues)} dialogues of the evaluation split were trained on: scores on them do "
            "not show how well new dialogues are summarised"
        )
    return known, [line for line in warnings if line]


def trained_on(record: Mapping[str, Any], dialogues: Iterable[str]) -> int | None:
    """How many of the `dialogues` a training had, by `TrainingData.trained_dialogues`; None in earlier records."""
    if record.get("trained_dialogues") is None:
        return None
    digests = base64.b64decode(record["trained_dialogues"])
    trained = {digests[at : at + 6] for at in range(0, len(digests), 6)}
    return sum(dialogue_digest(dialogue) in trained for dialogue in dialogues)


def check_prompt(
    folder: Path, record: Mapping[str, Any], settings: PromptSettings, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Raise InputError where `settings` give other prompts than those of the training."""
    trained = PromptSettings.from_record(record)
    same_hash = settings.sha256(tokenizer) == record["prompt"]["template_sha256"]
    hash_is_partial = trained.rename_speakers and "rename_speakers" not in record["prompt"]  # in early records
    if settings == trained and (same_hash or hash_is_partial):
        return
    differences = [
        f"{name} is {getattr(settings, name)!r}, not {getattr(trained, name)!r}"
        for name in PromptSettings.__dataclass_fields__
        if getattr(settings, name) != getattr(trained, name)
    ]
    raise InputError(
        f"{folder} was trained with another prompt: {'; '.join(differences) or 'the chat template differs'}. Leave "
        "these options out to use those of the training, or add --allow_other_prompt true"
    )


def note_of_other_run(folder: Path, record: Mapping[str, Any]) -> str | None:
    """A warning where the manifest beside an adapter is of another run than the one that trained the adapter."""
    trained_by, run = record.get("manifest_sha256"), _manifest_beside(folder)
    if trained_by is None or run is None or run["sha256"] == trained_by:
        return None
    return f"{folder} was not trained by the run that {folder.parent / manifest.NAME} describes"


def _manifest_beside(folder: Path) -> dict[str, Any] | None:
    """The manifest of the run that `folder` lies in; None where there is none or it is damaged."""
    try:
        return manifest.read_manifest(folder.parent)
    except InputError:
        return None
