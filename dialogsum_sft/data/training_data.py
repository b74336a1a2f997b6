"""The training and validation splits as rows of token ids, for recipes/sft.py and recipes/inspect_data.py."""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass, field

from dialogsum_sft import InputError
from dialogsum_sft.arguments import DataArguments, TrainArguments
from dialogsum_sft.data.counts import Counts
from dialogsum_sft.data.encoding import training_rows
from dialogsum_sft.data.examples import Examples, load_examples
from dialogsum_sft.data.prompts import PromptSettings

from datasets import Dataset, IterableDataset
from transformers import PreTrainedTokenizerBase
from trl import ScriptArguments


@dataclass
class EncodedSplit:
    """A split as examples and as rows for the model; `counts` are those of the rows."""

    examples: Examples
    rows: Dataset | IterableDataset
    counts: Counts


@dataclass
class TrainingData:
    train: EncodedSplit
    validation: EncodedSplit | None
    notes: list[str] = field(default_factory=list)

    def counts(self) -> dict[str, Counts]:
        """The counts of examples and rows by name, as printed and as stored in run.json."""
        counts = {"training": self.train.examples.counts, "rows to train on": self.train.counts}
        if self.validation is not None:
            counts |= {"validation": self.validation.examples.counts, "rows to validate on": self.validation.counts}
        return counts

    def fingerprints(self) -> dict[str, str | None]:
        """The hashes of the training examples and rows; None for a stream, which is not known before it is read."""
        if isinstance(self.train.rows, IterableDataset):
            return {"data_fingerprint": None, "rows_fingerprint": None}
        examples, rows = self.train.examples.fingerprint(), rows_fingerprint(self.train.rows)
        return {"data_fingerprint": examples, "rows_fingerprint": rows}


def rows_fingerprint(rows: Dataset) -> str:
    """Hash of the ids, token ids and labels of all training rows,as 16 hex digits."""
    digest = hashlib.sha256()
    for column in ("input_ids", "labels"):
        for chunk in rows.data.column(column).chunks:
            digest.update(chunk.value_lengths().to_numpy().tobytes())
            digest.update(chunk.flatten().to_numpy().tobytes())
    digest.update("\n".join(rows["id"]).encode())
    return digest.hexdigest()[:16]


def load_training_data(
    script_args: ScriptArguments,
    data_args: DataArguments,
    train_args: TrainArguments,
    tokenizer: PreTrainedTokenizerBase,
    stop_token_ids: Collection[int],
    *,
    max_length: int | None,
    evaluates: bool,
    optional_validation: bool = False,
) -> TrainingData:
    """Load and encode the training split and, if the training `evaluates`, the validation split.

    The dialogues of a validation split that is evaluated are left out of the training split. With
    `optional_validation` a split that is not evaluated is loaded too; one that is missing, or has the same rows as the
    training split, is left out with a note.

    Raises InputError as `load_examples` and `training_rows` do.
    """
    notes = []
    validation = None
    if evaluates or optional_validation:
        try:
            split, limit = script_args.dataset_test_split, data_args.max_eval_samples
            validation = load_examples(script_args, data_args, split, limit)
        except InputError as error:
            if evaluates:
                raise
            notes.append(f"no evaluation split, and with eval_strategy no none is needed: {error}")
    train = load_examples(
        script_args,
        data_args,
        script_args.dataset_train_split,
        train_args.max_train_samples,
        other_split=validation if evaluates else None,
    )
    if validation is not None and optional_validation and validation.fingerprint() == train.fingerprint():
        notes.append("the evaluation split has the same rows as the training split; shown once")
        validation = None
    settings = PromptSettings.from_arguments(data_args)
    options = {"allow_dropped_rows": data_args.allow_dropped_rows}
    swap = train_args.swap_speakers
    rows, counts = training_rows(train, tokenizer, stop_token_ids, settings, max_length, swap=swap, **options)
    data = TrainingData(EncodedSplit(train, rows, counts), None, list(dict.fromkeys(notes + train.notes)))
    if validation is not None:
        rows, counts = training_rows(validation, tokenizer, stop_token_ids, settings, max_length, **options)
        data.validation = EncodedSplit(validation, rows, counts)
        data.notes = list(dict.fromkeys(data.notes + validation.notes))
    return data
