"""The same three rows as a file of each text format."""

import csv
import io
import json

ROWS = [{"id": f"r{n}", "dialogue": f'Ann: "Hi, {n}"\nBob: ä 中\u2028.', "summary": "Talk."} for n in range(3)]


def content(kind: str) -> bytes:
    if kind == "jsonl":
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()
    if kind == "json":
        return json.dumps(ROWS).encode()
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(ROWS[0]), delimiter="\t" if kind == "tsv" else ",")
    writer.writeheader()
    writer.writerows(ROWS)
    return text.getvalue().encode()
