"""Have a model write the summaries of dialogues that have none: training data for recipes/sft.py.

    python recipes/label.py calls/ --engine openai --base_url URL --served_model_name NAME --output_dir data/calls
    python recipes/label.py --output_dir data/calls --accept data/calls/sheet.csv
    python recipes/sft.py --dataset_name data/calls --dataset_test_split validation --model_name_or_path NAME

What it may cost in tokens is printed first. Answers are kept as they come: started again, an interrupted run asks only
for what is missing. Refusals and summaries that were cut off are dropped and counted; those with names or numbers that
their dialogue lacks are set aside. A person accepts or corrects some of them on sheet.html or sheet.csv.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

from dialogsum_sft import RESUMABLE, InputError, Stopped, files
from dialogsum_sft.arguments import DialogueArguments, LabelArguments
from dialogsum_sft.cli import note, parse, run, shortened
from dialogsum_sft.data.inputs import open_inputs
from dialogsum_sft.data.prompts import LABEL_INSTRUCTIONS
from dialogsum_sft.generation.cost import estimated, measured, new_completions
from dialogsum_sft.generation.journal import locked
from dialogsum_sft.labelling.labels import (
    check_folder,
    counts_table,
    distinct,
    judged,
    read_decisions,
    read_labels,
    write_decisions,
    write_labels,
    write_rows,
)
from dialogsum_sft.labelling.sheet import chosen, read_sheet, write_sheet
from dialogsum_sft.provenance import git_revision, versions
from dialogsum_sft.summarizer import Summarizer
from dialogsum_sft.training.record import trained_columns, use_defaults

from rich.console import Console
from trl import ModelConfig


def main() -> None:
    # 1. Arguments
    model_args, dialogue_args, args = parse(
        (ModelConfig, DialogueArguments, LabelArguments), defaults=use_defaults, positional="input_files"
    )
    folder = Path(args.output_dir).expanduser()
    state = check_folder(folder, args)
    if args.accept is not None:
        read_labels(folder)  # or say that there are none
        with locked(state):
            accept(folder, Path(args.accept).expanduser())
        return

    # 2. Model: only its tokenizer is loaded here
    model = Path(args.adapter_path or str(model_args.model_name_or_path))
    name = args.instruction_name
    if name is None and dialogue_args.instruction is None and not (model / "run.json").is_file():
        name = "short"  # a model that was trained on summaries keeps its own instruction
    if name is not None:
        if dialogue_args.instruction is not None:
            raise InputError("give --instruction_name or --instruction, not both")
        dialogue_args.instruction = LABEL_INSTRUCTIONS[name]
    summarizer = Summarizer(model_args, dialogue_args, args)

    # 3. Dialogues, each once
    inputs = open_inputs(args, dialogue_args, trained_columns(model))
    rows = distinct(inputs.rows)

    with locked(state):  # a second run would ask for the same summaries
        # 4. What is to be asked, and what it may cost
        prompts = summarizer.prompts(rows)
        before = summarizer.kept(prompts, state)
        number, most = estimated(before, args.num_candidates, args.max_new_tokens, args.max_requests)
        note(*summarizer.notes, *inputs.notes, f"{len(rows)} dialogues; {most.before('summaries')}")
        note(f"answers are kept in {state} as they come: the same command goes on after an interruption")

        # 5. Summaries, judged as they come
        summaries = summarizer.stream(
            rows[:number], prompts=prompts[:number], journal=state, progress="labelling", faults_again=False
        )
        labels = [judged(row, dataclasses.asdict(one)) for row, one in zip(rows[:number], summaries, strict=True)]
        after = summarizer.kept(prompts, state)
        summarizer.close()

        # 6. Files
        total = measured(one for _, done in after[:number] for one in done)
        about = summarizer.record() | {
            "instruction_name": name,
            "num_candidates": args.num_candidates,
            "seed": args.seed,
        }
        about |= {"validation_share": args.validation_share, "sheet_size": args.sheet_size, "tokens": total.record()}
        read = {"read": len(inputs.rows) + len(inputs.faults), "unreadable": len(inputs.faults)}
        read |= {"repeated": len(inputs.rows) - len(rows), "left": len(rows) - number}
        write_labels(folder, labels)
        counts = write(folder, about | {"inputs": read, "versions": versions(), "git_revision": git_revision()})
        note(f"this run took {measured(new_completions(before, after)).after()}; all of it {total.after()}")
    if number < len(rows):
        note(*shortened(inputs.faults))
        left = f"stopped after --max_requests {args.max_requests}; {len(rows) - number} dialogues are left"
        raise Stopped(f"{left}: the same command goes on with them", status=RESUMABLE)
    end(folder, counts, inputs.faults)


def write(folder: Path, about: dict[str, Any]) -> dict[str, Any]:
    """Write the files of a folder from its labels and decisions, and `about` into label.json; prints the counts."""
    labels = read_labels(folder)
    counts = write_rows(folder, labels, about["validation_share"], about["seed"])
    earlier = record_of(folder)
    sheet = chosen(labels, about["sheet_size"], about["seed"])
    digest, is_left = write_sheet(folder, sheet, earlier.get("sheet_sha256"))
    record = {"format": files.FORMAT, **about, "counts": counts, "sheet_sha256": digest}
    files.write_json(folder / "label.json", files.public(record))
    Console().print(counts_table(about["inputs"], counts))
    note(f"written to {folder}: train.jsonl and the like, sheet.html and sheet.csv for a person, label.json")
    if is_left:
        note(f"{folder / 'sheet.csv'} was changed by hand and stays: take it in by --accept, or move it away")
    return counts


def accept(folder: Path, sheet: Path) -> None:
    """Take the decisions of a sheet in. The files of the folder are written anew; the sheet stays."""
    labels, decisions = read_labels(folder), read_decisions(folder)
    made, faults = read_sheet(sheet, labels)
    write_decisions(folder, decisions | {one.key: one for one in made})
    about = record_of(folder)
    if not about:
        raise InputError(f"{folder / 'label.json'} is missing: run label.py once more with the dialogues")
    counts = write_rows(folder, labels, about["validation_share"], about["seed"])
    files.write_json(folder / "label.json", about | {"counts": counts})
    Console().print(counts_table(about["inputs"], counts))
    note(f"{sheet}: {len(made)} decisions taken in", *([training_line(folder, counts)] if counts["train"] else []))
    if faults:
        more = [f"and {len(faults) - 50} more rows"] if len(faults) > 50 else []
        raise InputError(*faults[:50], *more)


def record_of(folder: Path) -> dict[str, Any]:
    path = folder / "label.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def end(folder: Path, counts: dict[str, Any], faults: list[str]) -> None:
    """Say how to go on; or, with exit status 2, what could not be read, or that no summary is kept."""
    if not counts["train"]:
        faults = [f"{folder}: no summary is kept to train on, see the counts above", *faults]
    if faults:
        raise InputError(*shortened(faults))
    note(training_line(folder, counts))


def training_line(folder: Path, counts: dict[str, Any]) -> str:
    split = "--dataset_test_split validation" if counts["validation"] else "--validation_share 0.1"
    return f"train with: dialogsum-sft sft --dataset_name {folder} {split} --model_name_or_path ..."


if __name__ == "__main__":
    run(main)
