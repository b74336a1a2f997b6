"""The training and validation splits as rows of token ids, for recipes/sft.py and recipes/inspect_data.py."""

import base64
import hashlib
import heapq
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from dialogsum_sft import InputError, files
from dialogsum_sft.arguments import DataArguments, TrainArguments
from dialogsum_sft.data.counts import IN_OTHER_SPLIT, Counts
from dialogsum_sft.data.encoding import training_rows
from dialogsum_sft.data.examples import Examples, load_examples
from dialogsum_sft.data.grouping import text_hash
from dialogsum_sft.data.prompts import PromptSettings
from dialogsum_sft.data.sources import in_folder, serves_both
from dialogsum_sft.data.transcripts import dialogue_of

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
    streamed: set[bytes] = field(default_factory=set)  # digests of the dialogues that a stream has given

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

    def trained_dialogues(self) -> str:
        """The `dialogue_digest` of each training dialogue, sorted, in base64: 8 characters a dialogue.

        With streaming these are the dialogues read, up to 256 more than were trained on.
        """
        rows = self.train.examples.rows
        digests = self.streamed if isinstance(rows, IterableDataset) else set(map(dialogue_digest, rows["dialogue"]))
        return base64.b64encode(b"".join(sorted(digests))).decode()


def dialogue_digest(dialogue: str) -> bytes:
    """Six bytes that say which dialogue this is, whatever its letter case and white space."""
    return hashlib.blake2b("".join(dialogue.casefold().split()).encode(), digest_size=6).digest()


def rows_fingerprint(rows: Dataset) -> str:
    """Hash of the ids, token ids and labels of all training rows, as 16 hex digits."""
    digest = hashlib.sha256()
    for column in ("input_ids", "labels"):
        for chunk in rows.data.column(column).chunks:
            digest.update(chunk.value_lengths().to_numpy().tobytes())
            digest.update(chunk.flatten().to_numpy().tobytes())
    digest.update("\n".join(rows["id"]).encode())
    return digest.hexdigest()[:16]


def evaluated_split(script_args: ScriptArguments, data_args: DataArguments) -> tuple[str, str, bool]:
    """What recipes/eval.py evaluates: its source, its split, and whether it is the share held out of training."""
    train = _source(script_args, data_args, data_args.train_file), script_args.dataset_train_split
    name = _source(script_args, data_args, data_args.test_file or data_args.validation_file)
    split = script_args.dataset_test_split
    if data_args.validation_share is not None and serves_both(*train, name, split):
        return *train, True
    return name, split, False


def load_evaluation(
    script_args: ScriptArguments, data_args: DataArguments, seed: int, *, optional_id: bool = False
) -> Examples:
    """The whole `evaluated_split`. `seed` is that of `validation_share` unless `validation_seed` is given. With
    `optional_id` the dataset may lack `id_column`.

    Raises InputError as `load_examples` does.
    """
    script_args = replace(script_args, dataset_streaming=False)  # all rows are summarised
    name, split, is_share = evaluated_split(script_args, data_args)
    only = _held_out(script_args, data_args, seed) if is_share else None
    try:
        return load_examples(script_args, data_args, split, file=name, only=only)
    except InputError:
        if not optional_id or data_args.id_column is None:
            raise
        return load_examples(script_args, replace(data_args, id_column=None), split, file=name, only=only)


def load_training_data(
    script_args: ScriptArguments,
    data_args: DataArguments,
    train_args: TrainArguments,
    tokenizer: PreTrainedTokenizerBase,
    stop_token_ids: Collection[int],
    *,
    max_length: int | None,
    evaluates: bool,
    seed: int = 42,
    optional_validation: bool = False,
) -> TrainingData:
    """Load and encode the training split and, if the training `evaluates`, the validation split.

    The dialogues of a validation split that is evaluated are left out of the training split, beyond
    `max_eval_samples` too. With `optional_validation` a split that is not evaluated is loaded too; one that is
    missing, or has the same rows as the training split, is left out with a note. `seed` is that of
    `validation_share` unless `validation_seed` is given.

    Raises InputError as `load_examples` and `training_rows` do, where one file serves both splits, and where a stream
    begins with no usable row, or with few.
    """
    notes = []
    whole, held_out = None, frozenset[int]()
    name, split = _source(script_args, data_args, data_args.train_file), script_args.dataset_train_split
    if data_args.validation_share is not None:
        held_out = _held_out(script_args, data_args, seed)
        whole = load_examples(script_args, data_args, split, file=name, only=held_out)
    elif evaluates or optional_validation:
        file, other = _source(script_args, data_args, data_args.validation_file), script_args.dataset_test_split
        if evaluates and serves_both(name, split, file, other):
            raise InputError(_BOTH.format(name))
        try:
            whole = load_examples(script_args, data_args, other, file=file)
        except InputError as error:
            if evaluates:
                raise
            notes.append(f"no evaluation split, and with eval_strategy no none is needed: {error}")
    train = load_examples(
        script_args,
        data_args,
        split,
        train_args.max_train_samples,
        other_split=whole if evaluates else None,
        file=name,
        held_out=held_out,
    )
    validation = None if whole is None else first_examples(whole, data_args.max_eval_samples)
    if validation is not None and optional_validation and validation.fingerprint() == train.fingerprint():
        notes.append(
            "the evaluation split has the same rows as the training split; shown once. A training with evaluations "
            "would be refused: hold dialogues out by --validation_share 0.1"
        )
        validation = None
    streamed: set[bytes] = set()
    if isinstance(train.rows, IterableDataset):
        train.rows = IterableDataset.from_generator(_noting(train.rows, streamed), features=train.rows.features)
    settings = PromptSettings.from_arguments(data_args)
    options = {"allow_dropped_rows": data_args.allow_dropped_rows}
    swap = train_args.swap_speakers
    rows, counts = training_rows(train, tokenizer, stop_token_ids, settings, max_length, swap=swap, **options)
    data = TrainingData(EncodedSplit(train, rows, counts), None, list(dict.fromkeys(notes + train.notes)), streamed)
    if isinstance(rows, IterableDataset):
        _check_beginning(data.train, f"{name} ({split})", data_args.allow_dropped_rows)
    if validation is not None and (evaluates or optional_validation):
        rows, counts = training_rows(validation, tokenizer, stop_token_ids, settings, max_length, **options)
        data.validation = EncodedSplit(validation, rows, counts)
        data.notes = list(dict.fromkeys(data.notes + validation.notes))
    return data


_BOTH = (
    "{} serves both splits, training and evaluation: hold dialogues out by --validation_share 0.1, or give another "
    "file by --validation_file, or slices by --dataset_train_split 'train[:90%]' --dataset_test_split 'train[90%:]', "
    "or train without evaluations"
)


def first_examples(examples: Examples, limit: int | None) -> Examples:
    """The first `limit` dialogues, or all. The counts stay those of the whole split."""
    if limit is None:
        return examples
    if limit < 1:
        raise InputError(f"--max_eval_samples {limit} leaves no dialogue: give 1 or more")
    rows = examples.rows
    first = rows.take(limit) if isinstance(rows, IterableDataset) else rows.select(range(len(rows))[:limit])
    return replace(examples, rows=first)


def _source(script_args: ScriptArguments, data_args: DataArguments, file: str | None) -> str:
    """A file of its own, else `dataset_name`, else the training file if that is all there is."""
    if file is not None:
        return in_folder(file, script_args.dataset_name)
    return script_args.dataset_name or data_args.train_file or ""


def _held_out(script_args: ScriptArguments, data_args: DataArguments, seed: int) -> frozenset[int]:
    """The `text_hash` of the dialogues that `validation_share` holds out of the training split."""
    share = data_args.validation_share
    if share is None or not 0 < share < 1:
        raise InputError(f"--validation_share {share}: give a share between 0 and 1, such as 0.1")
    if data_args.validation_file is not None:
        raise InputError("--validation_share and --validation_file are two validation splits: leave one out")
    if script_args.dataset_streaming:
        raise InputError("--validation_share needs all dialogues, which a stream does not give: use --validation_file")
    name, split = _source(script_args, data_args, data_args.train_file), script_args.dataset_train_split
    examples = load_examples(script_args, data_args, split, file=name)
    texts = bare_texts = examples.rows["dialogue"]
    if examples.counts.time_stamps:  # drawn without them, so that --drop_times holds out the same dialogues
        bare_texts = [dialogue_of(row).without_times().text for row in examples.rows]
    bare = dict(zip(map(text_hash, texts), map(text_hash, bare_texts), strict=True))
    dialogues = list(dict.fromkeys(bare.values()))
    count = max(1, round(share * len(dialogues)))
    if count == len(dialogues):
        raise InputError(f"--validation_share {share} of {count} dialogues in {name} leaves none to train on")
    chosen = drawn(dialogues, count, seed if data_args.validation_seed is None else data_args.validation_seed)
    return frozenset(own for own, digest in bare.items() if digest in chosen)


def drawn(dialogues: Iterable[int], count: int, seed: int) -> frozenset[int]:
    """`count` of these dialogues (by `text_hash`), which depend on them and the seed alone."""
    return frozenset(heapq.nsmallest(count, dialogues, key=lambda digest: text_hash(str(seed), str(digest))))


def _noting(rows: IterableDataset, digests: set[bytes]) -> Any:
    """A generator function of `rows` that adds the digest of each dialogue to `digests`."""

    def generate() -> Iterator[dict[str, Any]]:
        for row in rows:
            digests.add(dialogue_digest(row["dialogue"]))
            yield row

    return generate


def _check_beginning(train: EncodedSplit, source: str, allow_dropped_rows: bool) -> None:
    """Raise InputError where no row of a stream can be used, or where most of its first rows cannot."""
    is_empty = next(iter(train.rows), None) is None
    read, rows = train.examples.counts, train.counts
    most = rows.lost > rows.read / 2 and not allow_dropped_rows
    if not is_empty and not most:
        return
    reasons = "; ".join((rows.named or read.named)[:5])
    if is_empty:
        overlap = read.dropped[IN_OTHER_SPLIT]
        more = f" ({overlap} are in the evaluation split too)" if overlap else ""
        raise InputError(f"{source}: none of {read.read} rows can be used{more}: {reasons}")
    raise InputError(
        f"{source}: {rows.lost} of the first {rows.read} rows cannot be used: {reasons}. Correct them, or continue "
        "without them: --allow_dropped_rows true"
    )


def data_record(script_args: ScriptArguments, data_args: DataArguments, examples: Examples) -> dict[str, Any]:
    """What metrics.json says of the evaluated split."""
    name, split, is_share = evaluated_split(script_args, data_args)
    return {
        "dataset_name": files.public(name),
        "revision": data_args.dataset_revision,
        "split": f"{data_args.validation_share:g} held out of {split}" if is_share else split,
        "counts": examples.counts.record(),
        "fingerprint": examples.fingerprint(),
    }
