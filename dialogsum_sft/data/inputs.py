"""Dialogues to summarise: from texts with one dialogue each, tables with one a row, and standard input."""

import glob
import gzip
import itertools
import json
import re
import sys
import tempfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dialogsum_sft import InputError
from dialogsum_sft.arguments import DialogueArguments, InputArguments
from dialogsum_sft.data.columns import (
    Columns,
    dialogue_column,
    field_of,
    has,
    id_column,
    name_of,
    named_fields,
    value_of,
)
from dialogsum_sft.data.counts import TIMES_STAY, Counts
from dialogsum_sft.data.dialogue import Dialogue
from dialogsum_sft.data.dialogue_reader import open_reader, read_dialogue
from dialogsum_sft.data.file_kinds import KINDS, check_kind, decoded, has_dialogues
from dialogsum_sft.data.row_files import BadRow, Place, Row, one_line, read_file, some, suffix_of
from dialogsum_sft.data.sources import open_source
from dialogsum_sft.data.turn_lists import keys_of
from dialogsum_sft.data.turn_objects import SPEAKER_KEYS, plain_key

STANDARD_INPUT = "standard input"


@dataclass
class Inputs:
    """Dialogues in order: `rows` have {id, dialogue, turns, fields, columns}, of which `columns` are the input's own.

    `faults` say what cannot be summarised and why, a line each; `notes` how the others were read.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    counts: Counts = field(default_factory=Counts)

    def add(self, place: str, dialogue: Dialogue, columns: Mapping[str, Any], fields: Mapping[str, str]) -> None:
        made = {
            "dialogue": dialogue.text,
            "turns": dialogue.record(),
            "fields": json.dumps(fields) if fields else None,
        }
        self.rows.append({"id": place, **made, "columns": dict(columns)})
        self.counts.one_speaker += not dialogue.speakers


def open_inputs(
    args: InputArguments,
    dialogue_args: DialogueArguments,
    trained_columns: Mapping[str, str],
    output_file: Path | None = None,
) -> Inputs:
    """The dialogues that the options name: of files, of a dataset, or of standard input, which is read for them.

    Raises InputError as `read_inputs` does, and where nothing is named on a terminal, or the output is an input.
    """
    names = args.input_files or []
    if args.dataset_name:
        if names:
            raise InputError("give files or --dataset_name, not both")
        return read_dataset(args.dataset_name, args.dataset_split, dialogue_args, trained_columns)
    if not names and sys.stdin.isatty():
        raise InputError("no dialogues: name files, globs or folders, give --dataset_name, or pipe a dialogue in")
    names = names or ["-"]
    if output_file is not None and any(Path(name).resolve() == output_file.resolve() for name in names):
        raise InputError(f"--output_file {output_file} is an input too: give another name")
    piped = sys.stdin.buffer.read() if "-" in names else None
    return read_inputs(
        names, dialogue_args, trained_columns=trained_columns, standard_input=piped, output_file=output_file
    )


def read_inputs(
    names: Sequence[str],
    args: DialogueArguments,
    *,
    trained_columns: Mapping[str, str] | None = None,
    standard_input: bytes | None = None,
    output_file: Path | None = None,
) -> Inputs:
    """The dialogues of files, globs and folders (with those in it), and of `standard_input` for the name `-`.

    `trained_columns` are columns that a training was told; they count where a table has them. `output_file` is no
    input. Raises InputError for a name that does not exist, and where there is no dialogue at all.
    """
    inputs, trained = Inputs(), trained_columns or {}
    for name in names:
        if name == "-":
            _try(inputs, STANDARD_INPUT, lambda: _read_standard_input(inputs, standard_input or b"", args, trained))
            continue
        for path in _files(name, inputs, output_file):
            _try(inputs, str(path), lambda path=path: _read(inputs, path, args, trained))
    return _checked(inputs, args)


def read_dataset(
    name: str, split: str, args: DialogueArguments, trained_columns: Mapping[str, str] | None = None
) -> Inputs:
    """The dialogues of a split of a dataset, as `sources.open_source` finds it."""
    inputs = Inputs()
    _add_rows(inputs, f"{name} ({split})", open_source(name, split, None, None, False), args, trained_columns or {})
    return _checked(inputs, args)


def _checked(inputs: Inputs, args: DialogueArguments) -> Inputs:
    counts = inputs.counts
    if not inputs.rows:
        raise InputError(*inputs.faults[:10] or ["no dialogues"])
    if counts.system_lines:
        such = "; ".join(map(one_line, counts.system_examples))
        inputs.notes.append(f"{counts.system_lines} lines that an app wrote are left out, such as: {such}")
    for name, what in (("skipped_turns", "turns without text"), ("skipped_parts", "images and calls beside a text")):
        if number := getattr(counts, name):
            inputs.notes.append(f"{number} {what} are left out")
    if counts.time_stamps:
        inputs.notes.append(f"{counts.time_stamps} {TIMES_STAY}")
    if counts.one_speaker:
        without = [row["id"] for row in inputs.rows if not any(turn["speaker"] for turn in row["turns"])]
        inputs.notes.append(
            f"no speakers were found in {len(without)} of {len(inputs.rows)} dialogues: {some(without)}"
        )
    if unknown := [
        name for name in named_fields(args) if not any(name in (row["fields"] or "") for row in inputs.rows)
    ]:
        listed = ", ".join(f"{{{name}}}" for name in unknown)
        inputs.notes.append(f"{listed} in the instruction is no column and stays as it is written")
    return inputs


def _try(inputs: Inputs, name: str, read: Any) -> None:
    try:
        read()
    except (InputError, ValueError, RecursionError) as error:
        reason = str(error)
        inputs.faults.append(reason if name in reason else f"{name}: {reason}")


def _files(name: str, inputs: Inputs, output_file: Path | None) -> Iterator[Path]:
    path = Path(name).expanduser()
    if path.is_dir():
        found = sorted(one for one in path.rglob("*") if one.is_file() or (one.is_symlink() and not one.exists()))
        found = [one for one in found if not is_hidden(one.relative_to(path))]
        found = [one for one in found if not is_same(one, output_file)]
        known = [one for one in found if has_dialogues(one)]
        others = Counter(one.suffix.lower() or one.name for one in found if one not in known)
        if not known:
            listed = f"; it has {', '.join(others)}" if others else ""
            raise InputError(f"{name}: the folder has no files with dialogues ({KINDS}){listed}")
        if others:
            listed = ", ".join(f"{number} {suffix}" for suffix, number in others.items())
            inputs.notes.append(f"{name}: other files are left out: {listed}")
        yield from known
    elif path.exists():
        yield path
    elif glob.has_magic(name) and (matches := sorted(glob.glob(str(path), recursive=True))):
        for match in matches:
            if not is_same(Path(match), output_file):
                yield from _files(match, inputs, output_file)
    elif path.is_symlink():
        raise InputError(f"{name} is a link to {path.readlink()}, which does not exist")
    else:
        hint = "" if glob.has_magic(name) or suffix_of(path) else "; a dataset on the hub is given by --dataset_name"
        raise InputError(f"{'no file matches' if glob.has_magic(name) else 'no such file:'} {name}{hint}")


def is_same(path: Path, output_file: Path | None) -> bool:
    """Whether a file is the one that is written."""
    return output_file is not None and path.resolve() == output_file.resolve()


def is_hidden(path: Path) -> bool:
    """Whether a file or a folder above it begins with a dot; `path` is relative to the folder that was given."""
    return any(part.startswith(".") for part in path.parts)


def _read(inputs: Inputs, path: Path, args: DialogueArguments, trained: Mapping[str, str]) -> None:
    suffix = suffix_of(path)
    try:
        if suffix is not None and suffix != ".txt":
            with path.open("rb") as file:
                check_kind(file.read(8))
            _add_rows(inputs, str(path), read_file(path), args, trained)
            return
        content = path.read_bytes()
        text = decoded(gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path} is a damaged gz file: {error}") from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    if suffix == ".txt" and _is_json(text):
        _add_rows(inputs, str(path), read_file(path), args, trained)
    else:
        inputs.add(str(path), read_dialogue(text, args, inputs.counts), {"file": str(path)}, {})


def _read_standard_input(inputs: Inputs, content: bytes, args: DialogueArguments, trained: Mapping[str, str]) -> None:
    text = decoded(content)
    if not _is_json(text):
        inputs.add(STANDARD_INPUT, read_dialogue(text, args, inputs.counts), {}, {})
        return
    with tempfile.TemporaryDirectory(prefix="dialogsum_sft-") as folder:
        path = Path(folder, "input.json")  # which may hold JSON lines
        path.write_text(text, encoding="utf-8")
        try:
            _add_rows(inputs, STANDARD_INPUT, read_file(path), args, trained)
        except InputError as error:
            raise InputError(str(error).replace(str(path), STANDARD_INPUT)) from error


def _is_json(text: str) -> bool:
    """Whether a text is a JSON object or array of objects, or begins with such a line; "[10:15] Anna:" is not."""
    if not re.match(r"\{\s*\"|\[\s*\{", text):
        return False
    for part in (text, text.split("\n", 1)[0]):
        try:
            json.loads(part)
        except (ValueError, RecursionError):
            continue
        return True
    return False


def _add_rows(
    inputs: Inputs,
    source: str,
    rows: Iterable[tuple[Place, Row]],
    args: DialogueArguments,
    trained: Mapping[str, str],
) -> None:
    """The dialogues of a table; all its rows are one dialogue where they are turns."""
    every = list(rows)
    good = [row for _, row in every if not isinstance(row, BadRow)]
    if not good:
        raise InputError(f"{source}: {'no row can be read: ' + every[0][1].reason if every else 'it is empty'}")  # type: ignore[union-attr]
    names = list(dict.fromkeys(name for row in good for name in row))
    args = _with_columns(args, trained, good)
    column = args.dialogue_column or dialogue_column(names)
    if not any(has(row, column) for row in good):
        speaker_keys = [args.speaker_key] if args.speaker_key else SPEAKER_KEYS
        if args.dialogue_column is None and any(plain_key(name) in speaker_keys for name in names):
            inputs.add(source, read_dialogue(good, args, inputs.counts), {"file": source}, {})
            return
        raise InputError(
            f"{source} has no column {column}: there are {', '.join(map(one_line, names))}; name the one with the "
            "dialogues by --dialogue_column"
        )
    fields = [name for name in named_fields(args) if any(has(row, name) for row in good)]
    identity = args.id_column or id_column(names)
    columns = Columns(column, (), identity, None, args.speaker_column, tuple(fields), " ")
    reader = open_reader(list(itertools.islice(good, 100)), columns, args, source)
    for place, row in every:
        if isinstance(row, BadRow):
            inputs.faults.append(f"{source}: row {place}: {row.reason}")
            continue
        try:
            dialogue = reader.dialogue(row, inputs.counts)
            values = {name: field_of(value_of(row, name), name) for name in fields}
        except (ValueError, RecursionError) as error:
            inputs.faults.append(f"{source}: row {place}: {error}")
            continue
        own_id = name_of(value_of(row, identity)) if identity else None
        inputs.add(own_id or f"{source}:{place}", dialogue, row, values)


def _with_columns(
    args: DialogueArguments, trained: Mapping[str, str], rows: list[dict[str, Any]]
) -> DialogueArguments:
    """The options with the columns and keys of the training where the rows have them and the options name none."""
    for name in ("dialogue_column", "id_column", "speaker_column"):
        if getattr(args, name) is None and any(has(row, trained.get(name, "")) for row in rows[:100]):
            args = replace(args, **{name: trained[name]})  # type: ignore[arg-type]
    column = args.dialogue_column or dialogue_column(rows[0])
    keys = {key for row in rows[:100] for key in keys_of(value_of(row, column))}
    for name in ("speaker_key", "text_key"):
        if getattr(args, name) is None and trained.get(name) in keys:
            args = replace(args, **{name: trained[name]})  # type: ignore[arg-type]
    return args
