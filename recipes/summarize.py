"""Summarise dialogues with a trained adapter, a model or an endpoint.

    python recipes/summarize.py chats/*.txt --adapter_path runs/quickstart/adapter
    cat chat.txt | python recipes/summarize.py --adapter_path runs/quickstart/adapter
    python recipes/summarize.py calls.csv meetings/ --adapter_path ... --output_file summaries.jsonl
    python recipes/summarize.py chat.txt --engine openai --base_url http://localhost:8000/v1 --served_model_name ...
    python recipes/summarize.py --follow calls --adapter_path runs/quickstart/adapter

Base model, prompt and lengths are those of the training. Exported chats, transcripts and subtitles are read as
dialogues. Only summaries go to standard output. With --output_file an interrupted run is continued when it is started
again, from a hidden folder beside the file.
"""

import contextlib
import dataclasses
import io
import itertools
import signal
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, TextIO

# First, as Summarizer sets how the threads of torch wait.
from dialogsum_sft import RESUMABLE, InputError, Stopped, Summarizer, files
from dialogsum_sft.arguments import DialogueArguments, SummarizeArguments
from dialogsum_sft.cli import note, parse, run, shortened
from dialogsum_sft.data.file_kinds import has_dialogues, why_not
from dialogsum_sft.data.following import Done, Version, Watch, summary_path, version_of
from dialogsum_sft.data.inputs import Inputs, open_inputs, read_inputs
from dialogsum_sft.generation.journal import Journal, locked
from dialogsum_sft.generation.openai_client import KEPT
from dialogsum_sft.report.summary_files import FORMATS, csv_header, format_of, output_path, written
from dialogsum_sft.training.record import trained_columns, use_defaults

from trl import ModelConfig

MARK = "\ufeff"  # by which spreadsheets know a CSV as UTF-8
AT_ONCE = 256  # files of --follow that are summarised together


class Interruption:
    """Ctrl-C or SIGTERM, raised where it arrives. `check` raises it again: what arrives while a generator is closed is
    lost.
    """

    received = ""

    def listen(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._receive)

    def check(self) -> None:
        if self.received:
            raise KeyboardInterrupt(self.received)

    def _receive(self, number: int, _: object) -> None:
        self.received = signal.Signals(number).name
        self.check()


def main() -> None:
    # 1. Arguments
    model_args, dialogue_args, args = parse(
        (ModelConfig, DialogueArguments, SummarizeArguments), defaults=use_defaults, positional="input_files"
    )
    interruption = Interruption()
    interruption.listen()
    kind = format_of(Path(args.output_file) if args.output_file else None, args.output_format)
    output_file = output_path(args.output_file) if args.output_file else None

    # 2. Model: only its tokenizer is loaded here
    summarizer = Summarizer(model_args, dialogue_args, args)
    note(*summarizer.notes)
    trained = trained_columns(Path(args.adapter_path or str(model_args.model_name_or_path)))
    if args.follow is not None:
        read_file = partial(read_inputs, args=dialogue_args, trained_columns=trained)
        follow(args, read_file, summarizer, kind, output_file, interruption)

    # 3. Dialogues
    inputs = open_inputs(args, dialogue_args, trained, output_file)
    note(*inputs.notes)

    # 4. Summaries, each written as it is made
    faults, lost = list(inputs.faults), list[str]()
    journal = journal_of(output_file)
    made = records(
        summarizer, inputs.rows, faults, lost, journal, show=output_file is not None or not sys.stdout.isatty()
    )
    with kept(journal), opened(output_file) as file:
        for piece in written(kind, inputs.rows, made, mark=MARK if output_file else ""):
            interruption.check()
            file.write(piece)
            file.flush()
    note(*shortened(lost))
    if output_file is not None:
        note(f"{output_file}: {len(inputs.rows)} summaries")
    summarizer.close()
    if faults:
        raise InputError(*shortened(faults))


def records(
    summarizer: Summarizer,
    rows: list[dict[str, Any]],
    faults: list[str],
    lost: list[str],
    journal: Path | None,
    *,
    show: bool = False,
) -> Iterator[dict[str, Any]]:
    """The summaries in order, as records; dialogues without one are added to `faults`, shortened ones to `lost`."""
    progress = "summarising" if show else None
    for row, summary in zip(rows, summarizer.stream(rows, journal=journal, progress=progress), strict=True):
        if summary.fault is not None:
            faults.append(f"{row['id']}: no summary: {summary.fault}")
        elif summary.dropped_tokens and summary.windows == 1:
            what = f"{summary.dropped_turns} of {len(row['turns'])} turns, {summary.dropped_tokens} tokens"
            lost.append(f"{row['id']}: too long for a prompt: {what} are left out; --long map_reduce reads all")
        yield dataclasses.asdict(summary)


def follow(
    args: SummarizeArguments,
    read_file: Callable[[list[str]], Inputs],
    summarizer: Summarizer,
    kind: str,
    output_file: Path | None,
    interruption: Interruption,
) -> NoReturn:
    """Summarise the files of a folder as they appear, until Ctrl-C or SIGTERM; started again, it goes on."""
    folder = Path(str(args.follow)).expanduser()
    if args.input_files or args.dataset_name:
        raise InputError("give files, --dataset_name or --follow, one of them")
    if not folder.is_dir():
        raise InputError(f"--follow {args.follow}: there is no such folder")
    if args.settle_seconds < 0:
        raise InputError(f"--settle_seconds {args.settle_seconds}: give 0 or more")
    journal = journal_of(output_file or folder / "summaries")
    if journal is None:
        raise InputError(f"--output_file {output_file}: with --follow give a file, or leave it out")
    number, watch = 0, None
    try:
        with kept(journal):
            done = Done(journal / "followed.jsonl", folder, output_file)
            watch = Watch(folder, args.settle_seconds, done)
            note(f"following {folder}: Ctrl-C ends it")
            while True:
                interruption.check()
                ready = read_settled(watch, read_file)
                faults: list[str] = []
                lost: list[str] = []
                made = records(summarizer, [row for *_, inputs in ready for row in inputs.rows], faults, lost, journal)
                for path, version, inputs in ready:
                    own = list(itertools.islice(made, len(inputs.rows)))
                    try:
                        place = add(done, path, version, inputs, own, kind) if len(faults) < len(own) else None
                    except InputError as error:
                        faults, place = [f"{path}: {error}"], None
                    note(*shortened(faults), *shortened(lost))
                    if place is None:
                        watch.leave(path, version)
                    else:
                        note(f"{path}: {len(own) - len(faults)} of {len(own)} summaries in {place}")
                        number += 1
                        watch.unused.discard(path)
                    faults.clear()
                    lost.clear()
                if ready:
                    Journal.remove(journal)
                else:
                    time.sleep(min(1.0, max(0.05, args.settle_seconds / 4)))
    except Stopped as stopped:
        left = f", {len(watch.unused)} were not used" if watch and watch.unused else ""
        line = f"stopped: {number} files were summarised{left}; started again, it goes on"
        raise Stopped(line, 0 if stopped.status == RESUMABLE else 130) from None


def read_settled(watch: Watch, read_file: Callable[[list[str]], Inputs]) -> list[tuple[Path, Version, Inputs]]:
    """The files that are complete and new, with their dialogues; a line names each that is not used, and why."""
    ready = []
    for path, version in watch.settled()[:AT_ONCE]:
        if not has_dialogues(path):
            if path not in watch.unused:
                note(f"{path}: not used: {why_not(path)}")
            watch.leave(path, version)
            continue
        try:
            inputs = read_file([str(path)])
        except InputError as error:
            note(*shortened(list(error.args)))
            watch.leave(path, version)
            continue
        if version_of(path) == version:
            note(*(f"{path}: {line}" for line in inputs.notes), *shortened(inputs.faults))
            ready.append((path, version, inputs))
    return ready


def add(done: Done, path: Path, version: Version, inputs: Inputs, own: list[dict[str, Any]], kind: str) -> Path:
    """Write the summaries of a file beside it or at the end of the output file, whose name is returned."""
    if done.output_file is not None:
        header = csv_header(done.output_file) if kind == "csv" else []
        done.add(path, version, "".join(written(kind, inputs.rows, own, several=True, header=header, mark=MARK)))
        return done.output_file
    place = summary_path(path, next(suffix for suffix, name in FORMATS.items() if name == kind))
    with opened(place) as file:
        file.writelines(written(kind, inputs.rows, own, mark=MARK))
    done.add(path, version, "")
    return place


def journal_of(output_file: Path | None) -> Path | None:
    """The hidden folder with the finished summaries; none for standard output and the like."""
    if output_file is None or (output_file.exists() and not output_file.is_file()):
        return None
    return output_file.with_name(f".{output_file.name}.journal")


@contextlib.contextmanager
def kept(journal: Path | None) -> Iterator[None]:
    """Hold the journal, if there is one; an end before the time says whether the summaries so far are kept."""
    try:
        with locked(journal) if journal else contextlib.nullcontext():
            yield
    except KeyboardInterrupt as error:
        terminated = error.args == ("SIGTERM",)
        if journal is None:
            raise Stopped("interrupted", 143 if terminated else 130) from None
        line = "interrupted: the summaries so far are kept, the same command goes on"
        raise Stopped(line, RESUMABLE if terminated else 130) from None
    except InputError as error:
        raise InputError(
            *(line if journal else str(line).replace(KEPT, "").rstrip() for line in error.args)
        ) from error


def opened(output_file: Path | None) -> contextlib.AbstractContextManager[TextIO]:
    """The file or standard output, in UTF-8; half an emoji of the input is written as \\ud83d."""
    if output_file is not None:
        return files.writing(output_file, newline="", errors="backslashreplace")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace", newline="")
    return contextlib.nullcontext(sys.stdout)


if __name__ == "__main__":
    run(main)
