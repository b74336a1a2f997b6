"""run.json: the record of a training, saved beside its weights."""

import time
from pathlib import Path
from typing import Any

from dialogsum_sft import files, provenance
from dialogsum_sft.data.training_data import TrainingData
from dialogsum_sft.training.checkpoints import step_of
from dialogsum_sft.training.manifest import sha256_of
from dialogsum_sft.training.trainer import ResumableSFTTrainer


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
        "data": {name.replace(" ", "_"): counts.record() for name, counts in data.counts().items()},
        "data_fingerprint": run["data_fingerprint"],
        "manifest_sha256": sha256_of(run),
        "prompt": prompt,
        "resumed_from_step": step_of(checkpoint) if checkpoint else None,
        "metrics": metrics,
        "evaluations": [event for event in trainer.state.log_history if "samples" in event],
        "versions": provenance.versions(),
        "git_revision": provenance.git_revision(),
        "hardware": provenance.hardware(),
        "seconds": round(time.time() - started, 1),
    }
