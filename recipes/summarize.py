"""Summarise dialogues with a trained adapter, a model or an endpoint.

    python recipes/summarize.py chats/*.txt --adapter_path runs/quickstart/adapter
    cat chat.txt | python recipes/summarize.py --adapter_path runs/quickstart/adapter
    python recipes/summarize.py calls.csv meetings/ --adapter_path ... --output_file summaries.jsonl
    python recipes/summarize.py chat.txt --engine openai --base_url http://localhost:8000/v1 --served_model_name ...

Base model, prompt and lengths are those of the training. Exported chats, transcripts and subtitles are read as
dialogues. Only summaries go to standard output. With --output_file an interrupted run is continued when it is started
again, from a hidden folder beside the file.
"""

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dialogsum_sft import InputError, Summarizer, files  # Summarizer first: it sets how torch's threads wait
from dialogsum_sft.arguments import DialogueArguments, SummarizeArguments
from dialogsum_sft.cli import parse, run
from dialogsum_sft.data.inputs import Inputs, open_inputs
from dialogsum_sft.report.summary_files import format_of, written
from dialogsum_sft.training.record import trained_columns, use_defaults

from trl import ModelConfig


def main() -> None:
    # 1. Arguments
    model_args, dialogue_args, args = parse(
        (ModelConfig, DialogueArguments, SummarizeArguments), defaults=use_defaults, positional="input_files"
    )
    output_file = Path(args.output_file).expanduser() if args.output_file else None
    kind = format_of(output_file, args.output_format)

    # 2. Model: only its tokenizer is loaded here
    summarizer = Summarizer(model_args, dialogue_args, args)

    # 3. Dialogues
    folder = Path(args.adapter_path or str(model_args.model_name_or_path))
    inputs = open_inputs(args, dialogue_args, trained_columns(folder), output_file)
    for note in [*summarizer.notes, *inputs.notes]:
        print(note, file=sys.stderr)

    # 4. Summaries, each written as it is made; a file when all are
    faults = list(inputs.faults)
    journal = output_file.with_name(f".{output_file.name}.journal") if output_file else None
    summaries = records(summarizer, inputs, faults, journal)
    if output_file is None:
        for piece in written(kind, inputs.rows, summaries):
            sys.stdout.write(piece)
            sys.stdout.flush()
    else:
        files.write_text(output_file, "".join(written(kind, inputs.rows, summaries)))
        print(f"{output_file}: {len(inputs.rows)} summaries", file=sys.stderr)
    summarizer.close()
    if faults:
        more = [f"and {len(faults) - 10} more"] if len(faults) > 10 else []
        raise InputError(*faults[:10], *more)


def records(
    summarizer: Summarizer, inputs: Inputs, faults: list[str], journal: Path | None
) -> Iterator[dict[str, Any]]:
    """The summaries in order, as records; dialogues without a summary are added to `faults`."""
    for row, summary in zip(
        inputs.rows, summarizer.stream(inputs.rows, journal=journal, progress="summarising"), strict=True
    ):
        if summary.fault is not None:
            faults.append(f"{row['id']}: no summary: {summary.fault}")
        yield {name: value for name, value in dataclasses.asdict(summary).items() if name != "fault" or value}


if __name__ == "__main__":
    run(main)
