"""Files with odd rows, for the tests of what is read, counted and refused."""

import io
import json
from pathlib import Path
from typing import Any

from dialogsum_sft import InputError
from dialogsum_sft.arguments import DataArguments
from dialogsum_sft.data.examples import Examples, load_examples

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from trl import ScriptArguments

HELLO = {"id": "hello", "dialogue": "#Person1#: Hello.\n#Person2#: Hi.", "summary": "They greet."}
TEA = {"id": "tea", "dialogue": "#Person1#: Tea?\n#Person2#: Please.", "summary": "Tea is offered."}
GREETING = (HELLO["dialogue"], HELLO["summary"])  # an example as expected: the dialogue, its references
OFFER = (TEA["dialogue"], TEA["summary"])
TOO_DEEP = "[" * 100_000 + "]" * 100_000


def load(path: Path, *, streaming: bool = False, other_split: Examples | None = None, **options: Any) -> Examples:
    script_args = ScriptArguments(dataset_name=str(path), dataset_streaming=streaming)
    return load_examples(script_args, DataArguments(**options), "test", other_split=other_split)


def lines(*rows: Any) -> bytes:
    """JSON lines; text stands as it is, so that it need not be JSON."""
    return "".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows).encode()


def records(*rows: str, end: str = "\n") -> bytes:
    """A CSV file of a good row and these."""
    return end.join(["id,dialogue,summary", "1,Hello.,They greet.", *rows, ""]).encode()


def parquet(**columns: Any) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file, row_group_size=50)
    return file.getvalue()


def found(examples: Examples) -> list[tuple[str, ...]]:
    return [(row["dialogue"], *row["references"]) for row in examples.rows]


def rows_of(examples: Examples) -> tuple[int, int, dict[str, int]]:
    return examples.counts.read, examples.counts.kept, dict(examples.counts.dropped)


def refusal(path: Path, **options: Any) -> str:
    """The message with which a source is refused, at the latest while its rows are read."""
    with pytest.raises(InputError) as error:
        list(load(path, **options).rows)
    message = str(error.value)
    assert message.isprintable()  # so it is one line
    assert len(message) < 1000
    return message


def write(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path
