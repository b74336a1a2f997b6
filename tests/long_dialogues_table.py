"""ROUGE, coverage and seconds of each --long on long dialogues, which are made by joining short ones.

    python tests/long_dialogues_table.py runs/quickstart/adapter
    python tests/long_dialogues_table.py runs/quickstart/adapter --file test.jsonl --joined 8 --number 20

The dialogues of a file of rows {dialogue, summary or summary1, ...} (default: the sample's test split) are joined in
their order, `--joined` at a time, and so are their references. `--meeting` joins all up to that many characters.
"""

import argparse
import json
import sys
import time
from pathlib import Path

from conftest import SAMPLE
from dialogsum_sft import Summarizer
from dialogsum_sft.evaluation.rouge import HEADLINE, mean, rouge_scores
from dialogsum_sft.tables import Table

from rich.console import Console

WAYS = ("shorten", "map_reduce", "refine")


def joined(path: Path, at_a_time: int, number: int) -> list[tuple[str, list[str]]]:
    """(dialogue, references) of `number` long dialogues, each of `at_a_time` dialogues of the file."""
    dialogues: dict[str, list[str]] = {}
    for line in path.open(encoding="utf-8"):
        row = json.loads(line)
        dialogues.setdefault(row["dialogue"], []).extend(row[key] for key in sorted(row) if key.startswith("summary"))
    pairs = list(dialogues.items())
    parts = [pairs[start : start + at_a_time] for start in range(0, len(pairs) - at_a_time + 1, at_a_time)][:number]
    return [
        (
            "\n".join(text for text, _ in part),
            [" ".join(refs) for refs in zip(*(refs for _, refs in part), strict=False)],
        )
        for part in parts
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--file", type=Path, default=SAMPLE / "test.jsonl")
    parser.add_argument("--joined", type=int, default=6)
    parser.add_argument("--number", type=int, default=20)
    parser.add_argument("--meeting", type=int, help="one dialogue of this many characters, without a score")
    parser.add_argument("--overlap", type=float, default=2.0)
    parser.add_argument("--max_new_tokens", type=int, default=128)
    parser.add_argument("--ways", nargs="+", default=WAYS)
    args = parser.parse_args()
    long = joined(args.file, args.joined, args.number)
    if args.meeting:
        text = "\n".join(text for text, _ in joined(args.file, 1, 10**6))
        long = [((text + "\n") * (args.meeting // len(text) + 1), [])]
        long = [(text[: text.rindex("\n", 0, args.meeting)], refs) for text, refs in long]
    words = mean([len(text.split()) for text, _ in long])
    title = f"{len(long)} dialogues of {words:.0f} words (mean)"
    table = Table(title, ["", *HEADLINE.values(), "words", "turns seen", "tokens seen", "windows", "calls", "seconds"])
    for way in args.ways:
        summarizer = Summarizer.from_pretrained(
            args.model, long=way, long_overlap=args.overlap, max_new_tokens=args.max_new_tokens
        )
        started = time.time()
        made = list(summarizer.stream([summarizer.read(text) for text, _ in long], progress=way))
        seconds = time.time() - started
        texts = [one.text for one in made]
        scores = {} if args.meeting else rouge_scores(texts, [refs for _, refs in long])
        means = [f"{mean([mean(row) for row in scores[kind]]):.1f}" if scores else "" for kind in HEADLINE]
        seen = [f"{mean([getattr(one, name) for one in made]):.3f}" for name in ("turns_seen", "tokens_seen")]
        totals = [str(sum(getattr(one, name) for one in made)) for name in ("windows", "calls")]
        length = f"{mean([len(text.split()) for text in texts]):.0f}"
        table.add_row(way, *means, length, *seen, *totals, f"{seconds:.0f}")
        summarizer.close()
        print(way, *means, length, *seen, *totals, f"{seconds:.0f}", file=sys.stderr)
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
