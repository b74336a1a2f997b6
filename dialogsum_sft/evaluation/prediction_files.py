"""The rows of a file of predictions, whatever its ending and shape: JSON, tables, or text with a summary per line."""

import gzip
import json
import re
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeGuard

from dialogsum_sft import InputError
from dialogsum_sft.data.row_files import BadRow, one_line, read_file, suffix_of

Row = dict[str, Any]
Numbered = list[tuple[str, Row | BadRow]]  # each after its place, as in "line 3"

# Names of columns with predictions, plain (see `plain`).
PREDICTIONS = (
    *("prediction", "predict", "predictions", "predicted", "pred", "preds", "predicted_summary", "prediction_text"),
    *("generated", "generated_text", "generated_summary", "generated_predictions", "generation", "generations"),
    *("hypothesis", "hypotheses", "hyp", "model_output", "model_response", "model_prediction", "model_summary"),
    *("completion", "completions", "response", "responses", "filtered_resps", "resps", "summary_text", "decoded"),
    *("candidate", "system_summary", "system_output", "llm_output", "raw_output", "decoded_preds"),
)
_SPACE = re.compile(r"[\s,]*")  # between objects
INDEX = ""  # the name of an index column, as pandas writes it
# What a plain name of a column with ids or with the rows' numbers contains.
ID_WORDS = re.compile(
    r"(?:^|_|(?<=[a-z]))(?:ids?|uuid|guid|uid)$|(?:^|_)(?:key|no|nr|nos|num|number|index|idx|row|line|name|fname|file"
    r"|filename|position|pos|order|i|n|sample|example|item|question|query|doc|document|dialog|dialogue|conversation"
    r"|ticket|task|record|request|case)(?:$|_)"
)


def plain(name: str) -> str:
    """A column's name in lower case, without white space around it and with _ within."""
    return re.sub(r"[\s-]+", "_", name.strip().lower())


def text_or_rows(path: Path) -> tuple[Numbered, bool]:
    """The rows of a file, each after its place, and whether it is text with a summary per line.

    Texts in JSON are rows with `prediction` alone. Raises InputError for a file that cannot be read, and for text that
    is something else: a table, numbered lines, objects that are not JSON.
    """
    if not path.is_file():
        fault = "is a folder: name the file in it" if path.is_dir() else "there is no such file"
        raise InputError(f"--predictions_file {path}: {fault}")
    if _begin(path).startswith(b"PK\x03\x04"):
        raise InputError(f"{path} is a zip archive or a spreadsheet: give the file in it, or save it as .csv")
    suffix = suffix_of(path)
    if suffix not in (None, ".txt"):
        rows = list(read_file(path))
        if suffix.startswith(".json"):
            _check_keys(_text_of(path), path)
        if suffix.startswith(".json") and not suffix.startswith(".jsonl"):
            rows = _reshaped([row for _, row in rows])
        elif (
            suffix == ".jsonl"
            and rows
            and isinstance(rows[0][1], BadRow)
            and (whole := _objects_over_lines(_text_of(path)))
        ):
            return _named(_reshaped([_bad_unless_object(value) for value in whole]), "row"), False  # a list after all
        return _named(rows, "line" if suffix.startswith(".jsonl") else "row"), False
    text = _text_of(path)
    _check_keys(text, path)
    lines = [line.rstrip("\r") for line in text.split("\n")]  # only \n ends a line
    if not lines[-1]:
        lines.pop()
    values = {number: _json(line) for number, line in enumerate(lines, 1) if line.strip()}
    structured = [number for number, value in values.items() if isinstance(value, (dict, list))]
    if structured and len(structured) == len(values) > 1:
        return _named(((number, _bad_unless_object(value)) for number, value in values.items()), "line"), False
    if isinstance(whole := _json(text) or _objects_over_lines(text), (dict, list)):
        objects = whole if isinstance(whole, list) else [whole]
        return _named(_reshaped([_bad_unless_object(value) for value in objects]), "row"), False
    if structured:
        other = next(number for number in values if number not in structured)
        raise InputError(f"{path}: line {structured[0]} is JSON, but line {other} is not: give lines of one kind")
    if values and all(isinstance(value, str) for value in values.values()):
        return [(f"line {number}", {"prediction": value}) for number, value in values.items()], True
    _check_plain(lines, path)
    return [(f"line {number}", {"prediction": line}) for number, line in enumerate(lines, 1)], True


def _begin(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(4)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error


def _text_of(path: Path) -> str:
    try:
        content = path.read_bytes()
        if content.startswith(b"\x1f\x8b"):
            content = gzip.decompress(content)
        if content.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in content[:1000]:
            raise InputError(f"{path} is UTF-16 text, or no text at all: save it as UTF-8")
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path} is a damaged gz file (cut short?): {error}") from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _objects_over_lines(text: str) -> list[Any] | None:
    """A list, or objects one after the other, each over several lines; None for anything else."""
    if isinstance(whole := _json(text), list):
        return whole
    values, at, decoder = [], 0, json.JSONDecoder()
    text = text.strip()
    while text.startswith("{", at):
        try:
            value, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            return None
        values.append(value)
        at = _SPACE.match(text, at).end()  # type: ignore[union-attr]
    return values if values and at == len(text) else None


class _Repeated(Exception):
    """A key that an object has twice."""


def _unique(pairs: list[tuple[str, Any]]) -> Row:
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        name = next(name for at, name in enumerate(names) if name in names[:at])
        first = f" (in the object that begins with {one_line(pairs[0][0])}: {one_line(pairs[0][1])[:30]})"
        raise _Repeated(f"{one_line(name)} twice" + (first if pairs[0][0] != name else ""))
    return row


def _check_keys(text: str, path: Path) -> None:
    """Refuse JSON of which an object has a key twice: one of the values would be lost."""
    for number, line in enumerate(text.split("\n"), 1):
        _check_object(line, f"{path}: line {number}")
    _check_object(text, str(path))


def _check_object(text: str, place: str) -> None:
    text, at, decoder = text.strip(), 0, json.JSONDecoder(object_pairs_hook=_unique)
    try:
        while text.startswith(("{", "["), at):
            at = decoder.raw_decode(text, at)[1]
            at = _SPACE.match(text, at).end()  # type: ignore[union-attr]
    except _Repeated as error:
        raise InputError(f"{place} has the key {error}: remove one") from None
    except (ValueError, RecursionError):
        return  # no JSON, which is said elsewhere


def _bad_unless_object(value: Any) -> Row | BadRow:
    return value if isinstance(value, dict) else BadRow("not a JSON object", value)


def _named(rows: Iterable[tuple[int, Row | BadRow]], what: str) -> Numbered:
    """A text becomes a row with `prediction`; a list of one object, as pipelines of transformers give, that object."""
    named: Numbered = []
    for number, row in rows:
        if isinstance(row, BadRow) and isinstance(row.value, str):
            row = {"prediction": row.value}
        elif isinstance(row, BadRow) and isinstance(row.value, list) and len(row.value) == 1:
            row = row.value[0] if isinstance(row.value[0], dict) else row
        named.append((f"{what} {number}", row))
    return named


def _reshaped(rows: Sequence[Row | BadRow]) -> list[tuple[int, Row | BadRow]]:
    """The rows of a JSON file, also where it is one object: of ids and texts, of ids and rows, or of columns."""
    if len(rows) == 1 and isinstance(rows[0], dict) and rows[0]:
        content = rows[0]
        values = list(content.values())
        table, columns_of = content.get("data"), content.get("columns")
        if isinstance(table, list) and isinstance(columns_of, list) and table and columns_of:  # pandas, orient="split"
            fits = all(isinstance(cells, list) and len(cells) == len(columns_of) for cells in table)
            if fits and all(isinstance(name, str) for name in columns_of):
                return list(enumerate((dict(zip(columns_of, cells, strict=True)) for cells in table), 1))
        name = next((key for key in content if plain(key) in PREDICTIONS), None)
        column = content.get(name or "")
        if _are_objects(column):
            rows = column
        elif isinstance(column, list) and len(column) != 1:
            columns = {key: own for key, own in content.items() if isinstance(own, list) and len(own) == len(column)}
            rows = [{key: own[i] for key, own in columns.items()} for i in range(len(column))]
        elif isinstance(column, dict):  # columns as pandas writes them, {name: {index: value}}
            tables = {
                key: own for key, own in content.items() if isinstance(own, dict) and own.keys() == column.keys()
            }
            rows = [{INDEX: at} | {key: own[at] for key, own in tables.items()} for at in column]
        elif name is None and len(lists := [value for value in values if _are_objects(value)]) == 1:
            rows = lists[0]
        elif name is None and all(isinstance(value, dict) for value in values) and len(values) > 1:
            rows = [{"id": key} | value for key, value in content.items()]
        elif name is None and all(isinstance(value, (str, list)) for value in values) and len(values) > 1:
            rows = [{"id": key, "prediction": value} for key, value in content.items()]
    return list(enumerate(rows, 1))


def _are_objects(value: Any) -> TypeGuard[list[Row]]:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


def _check_plain(lines: Sequence[str], path: Path) -> None:
    """Refuse text that is something else: a table, objects as Python writes them, numbered lines."""
    first = lines[0] if lines else ""
    for delimiter in ",\t;|":
        names = [plain(name.strip(" \"'")) for name in first.split(delimiter)]
        if any(name in (*PREDICTIONS, "summary") for name in names) and all(len(name) < 30 for name in names):
            ending = ".tsv" if "\t" in first else ".csv"
            raise InputError(f"{path}: line 1 ({one_line(first)}) is the header of a table: name the file {ending}")
    full = [line.strip() for line in lines if line.strip()]
    if len(full) > 1 and all(line.startswith("{") and line.endswith("}") for line in full):
        raise InputError(f"{path}: line 1 is an object, but not JSON: write each line with json.dumps")
    end = r"(?:[.):\]\t|]|\s)" if len(full) > 3 else r"(?:[.):\]\t|]|\s-)"
    begin = rf"(?i:(?:line|dialogue|summary|example|sample|output|prediction|no\.?)[ _]?)?[#(\[]?(\d{{1,9}}){end}"
    numbers = [int(match[1]) for line in full if (match := re.match(begin, line))]
    if len(full) > 1 and numbers and numbers == list(range(numbers[0], numbers[0] + len(full))):
        raise InputError(
            f"{path}: its lines are numbered ({one_line(full[0][:20])!r}), and the numbers would be scored: remove "
            "them, or write .jsonl with id and prediction"
        )
