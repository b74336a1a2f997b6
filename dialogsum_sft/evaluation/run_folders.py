"""Folders of runs: whether one holds this run, finished, or another, which is never overwritten; names of new ones."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dialogsum_sft import InputError, files
from dialogsum_sft.data.row_files import suffix_of
from dialogsum_sft.evaluation.rouge import fingerprint
from dialogsum_sft.evaluation.runs import Run, read_run
from dialogsum_sft.provenance import differences, versions

# What differs where no option does, in the words of a message.
_WORDS = {
    "prompts": "dialogues or prompts",
    "references_sha256": "references",
    "weights": "weights of the model",
    "adapter": "weights of the adapter",
}


def finished_run(
    folder: Path,
    settings: Mapping[str, str],
    options: Mapping[str, Any],
    references: Sequence[Sequence[str]],
    *,
    tokenizer: str = "default",
    strip_preamble: bool = False,
    overwrite: bool = False,
) -> Run | None:
    """The run in `folder` if it has all summaries of these settings, else one beside it that has them, else None.

    `settings` are the digests of what decides a summary; that of a run beside it gets these `references`. Raises
    InputError where `folder` holds a finished run of other settings, references or another way of scoring: it names
    the `options` that differ. With `overwrite` such a folder is renamed earlier-NAME instead.
    """
    try:
        run = read_run(folder)
    except InputError:  # missing, incomplete or changed
        return _beside(folder, settings, references)
    record = run.record
    if file := (record.get("model") or {}).get("predictions_file"):
        _set_aside(folder, f"has the scores of {file}", overwrite)
        return None
    known, protocol = record.get("settings") or {}, fingerprint(references, tokenizer, strip_preamble=strip_preamble)
    changed = [name for name in settings if known.get(name) != settings[name]]
    changed += [name for name in protocol if record["fingerprint"].get(name) != protocol[name]]
    if not changed:
        return run
    why = differences(record["options"], options) if "options" in record else []
    if "versions" in changed:
        there, here = record.get("versions") or {}, versions()
        why += differences(there, {name: here[name] for name in there if name in here}, prefix="")
    why = why or [f"other {', '.join(_WORDS.get(name, name) for name in changed)}"]
    _set_aside(folder, f"holds another run ({'; '.join(why)})", overwrite)
    return None


def _set_aside(folder: Path, held: str, overwrite: bool) -> None:
    if not overwrite:
        raise InputError(f"{folder} {held}: give another --output_dir, or --overwrite_output_dir true to set it aside")
    files.set_aside(folder, "earlier")


def _beside(folder: Path, settings: Mapping[str, str], references: Sequence[Sequence[str]]) -> Run | None:
    """A run in another folder eval-NAME that has these summaries, whole, such as one with preambles."""
    for path in sorted(folder.parent.glob("eval-*/metrics.json")):
        if _recorded(path.parent, "settings") != settings:
            continue
        try:
            run = read_run(path.parent)
        except InputError:
            continue
        if not any(row.get("fault") for row in run.rows):
            run.rows = [row | {"references": list(own)} for row, own in zip(run.rows, references, strict=True)]
            return run
    return None


def name_of_file(
    path: Path, output_dir: Path, column: str | None = None, *, strip_preamble: bool = False, **options: Any
) -> tuple[str, str]:
    """Name of the run of a predictions file, and a hash of the file's path, which its record has as `file_id`.

    The name is that of the file without its ending, if that is a known one, then that of the column if one was named,
    and numbered where eval-NAME is the run of another file or column, of this file with other `options`, or of an
    engine.
    """
    given = [f"{name}={value}" for name, value in options.items() if value is not None]
    origin = "\0".join([str(path.resolve()), *([column] if column else []), *given])
    file_id = hashlib.blake2b(origin.encode(errors="surrogateescape"), digest_size=6).hexdigest()
    ending = suffix_of(path) or next((end for end in (".txt.gz", ".txt") if path.name.lower().endswith(end)), "")
    name = path.name[: len(path.name) - len(ending)] or "file"
    if name == "predictions":  # of a run, whose own record stays
        name = f"{path.resolve().parent.name.removeprefix('eval-')}-rescored"
    if re.fullmatch(r"(base|tuned|served)(-map_reduce|-refine)?(-mbr\d+)?(-stripped)?", name):  # of engines' runs
        name += "-file"
    if column:
        name += "-" + re.sub(r"[^\w.-]+", "_", column)[:60]
    if strip_preamble:
        name += "-stripped"
    numbered, number = name, 1
    while (folder := output_dir / f"eval-{numbered}").exists() and _file_id(folder) != file_id:
        number += 1
        numbered = f"{name}-{number}"
    return numbered, file_id


def _file_id(folder: Path) -> Any:
    model = _recorded(folder, "model")
    return model.get("file_id") if isinstance(model, dict) else None


def _recorded(folder: Path, part: str) -> Any:
    """A part of a folder's metrics.json; None where there is none."""
    try:
        return json.loads((folder / "metrics.json").read_text(encoding="utf-8"))[part]
    except (OSError, ValueError, LookupError, TypeError):
        return None
