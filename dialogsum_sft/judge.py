"""Ask a model behind an endpoint to judge the summaries of evaluated runs: `Judge`."""

import contextlib
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dialogsum_sft import InputError, files
from dialogsum_sft.arguments import JudgeArguments, json_option
from dialogsum_sft.data.encoding import Prompt
from dialogsum_sft.evaluation.judge_figures import PairFigures, SingleFigures, pair_figures, single_figures
from dialogsum_sft.evaluation.judging import (
    Question,
    Verdict,
    pairwise_questions,
    prompt_record,
    read_verdict,
    single_questions,
)
from dialogsum_sft.evaluation.runs import Run, check_comparable
from dialogsum_sft.generation.cost import Cost, estimated, measured
from dialogsum_sft.generation.engine import Completion
from dialogsum_sft.generation.journal import Journal, digests, locked
from dialogsum_sft.generation.openai_client import addresses
from dialogsum_sft.generation.openai_engine import OpenAIEngine, request_fields
from dialogsum_sft.provenance import git_revision, versions

from tqdm import tqdm

# What messages of the endpoint's client name, and what it is here.
_HERE = {
    **{"--base_url": "--judge_url", "--served_model_name": "--judge_model", "--concurrency": "--judge_concurrency"},
    **{"--request_timeout": "--judge_timeout", "--extra_body": "--judge_extra_body"},
    **{"The summaries so far": "The answers so far", "makes these summaries": "asks these questions"},
}


def check_judge(args: JudgeArguments, runs: int) -> bool:
    """Whether there is a judge for so many runs. Raises InputError for options that cannot be."""
    given = [name for name, value in vars(args).items() if value != getattr(JudgeArguments(), name)]
    if not given:
        return False
    faults = []
    if not args.judge_url or not args.judge_model:
        faults.append(f"--{given[0]}: a judge needs both --judge_url and --judge_model")
    elif "://" in args.judge_model:
        faults.append(f"--judge_model {args.judge_model}: give the model's name; --judge_url has the address")
    if runs < 2 and args.judge_mode in ("pairwise", "both"):
        faults.append(f"--judge_mode {args.judge_mode} needs two or more runs; single judges one")
    for name in ("judge_max_new_tokens", "judge_concurrency", "judge_timeout", "max_requests"):
        if (value := getattr(args, name)) is not None and not 0 < value < float("inf"):
            faults.append(f"--{name} {value}: give a number above 0")
    if faults:
        raise InputError(*faults)
    return True


class Judge:
    """The questions about `runs`, the answers to them and the figures; files are in `folder`.

    Every answer is on disk before the next is asked for, in `.judge` within `folder`: a folder for each judge, as its
    answers do not depend on other judges. What is there is not asked again, but for faults that may pass. Equal
    questions are asked once. `notes` says what is tried again.
    """

    def __init__(self, args: JudgeArguments, runs: Sequence[Run], folder: Path) -> None:
        """Raises InputError for options that cannot be, and for runs that cannot be compared."""
        check_judge(args, len(runs))
        check_comparable(runs)
        if folder.exists() and not folder.is_dir():
            raise InputError(f"--output_dir {folder} is no folder: give another")
        self._args, self._runs, self._folder = args, runs, folder
        mode = args.judge_mode or ("pairwise" if len(runs) > 1 else "single")
        self.questions: list[Question] = []
        if mode in ("pairwise", "both"):
            self.questions += pairwise_questions(runs)
        if mode in ("single", "both"):
            self.questions += single_questions(runs)
        self._mode = mode
        with _named_here():
            addresses(str(args.judge_url))
            extra = json_option("judge_extra_body", args.judge_extra_body)
            fields = request_fields(args.judge_max_new_tokens, {}, extra)
        self._engine = OpenAIEngine(
            str(args.judge_url),
            str(args.judge_model),
            fields,
            samples=False,
            max_new_tokens=args.judge_max_new_tokens,
            concurrency=args.judge_concurrency,
            timeout=args.judge_timeout,
        )
        self._settings = {"endpoint": args.judge_url, "model": args.judge_model, "fields": fields}
        name = hashlib.sha256(json.dumps(digests(self._settings)).encode()).hexdigest()[:12]
        self.state = folder / ".judge" / name
        prompts = {one.digest: Prompt("", [{"role": "user", "content": one.text}]) for one in self.questions}
        self._names, self._prompts = list(prompts), list(prompts.values())
        journal = Journal(self.state, self._settings, self._names)
        self.notes = [note.replace(" dialogues that ", " answers that ") for note in journal.notes]
        self.done: dict[int, Completion] = journal.done
        self.taken = Cost(0, 0, 0)  # by the last `ask`

    def cost(self) -> Cost:
        """The most that the next `ask` costs."""
        return self._allowed()[1]

    def ask(self) -> int:
        """Ask what is missing, at most `max_requests`, with a progress bar; returns how many are then left.

        Raises InputError where the endpoint cannot be used; the answers so far are kept.
        """
        made: dict[int, Completion] = {}
        with _named_here(), locked(self.state), Journal(self.state, self._settings, self._names) as journal:
            self.done = journal.done
            number = self._allowed()[0]
            missing = [i for i in range(number) if i not in self.done]
            self._engine.has_succeeded = any(completion.fault is None for completion in self.done.values())
            prompts = [self._prompts[i] for i in missing]
            with tqdm(total=len(missing), desc="judging", disable=not missing) as bar:
                for batch in self._engine.complete(prompts, adapter=False) if missing else ():
                    numbered = [(missing[at], completion) for at, completion in batch]
                    journal.append(numbered)
                    made.update(numbered)
                    bar.update(len(batch))
        self.done |= made
        self.taken = measured(made.values())
        return len(self._prompts) - number

    def _allowed(self) -> tuple[int, Cost]:
        kept = [(prompt, [self.done[i]] if i in self.done else []) for i, prompt in enumerate(self._prompts)]
        return estimated(kept, 1, self._engine.max_new_tokens, self._args.max_requests)

    def verdicts(self) -> list[tuple[Question, Verdict]]:
        """Of all questions, when they are asked."""
        return [
            (question, read_verdict(question, done.text, done.finish_reason, done.fault))
            for question, done in zip(self.questions, self._completions(), strict=True)
        ]

    def _completions(self) -> list[Completion]:
        at = {name: i for i, name in enumerate(self._names)}
        return [self.done[at[question.digest]] for question in self.questions]

    def save(self, *, seed: int = 42, resamples: int = 10_000) -> tuple[list[PairFigures], list[SingleFigures]]:
        """Write judge.jsonl, a line for each question, and judge.json; returns the figures."""
        verdicts = self.verdicts()
        draws = {"seed": seed, "resamples": resamples}
        pairs = pair_figures(self._runs, verdicts, **draws) if self._mode != "single" else []
        single = single_figures(self._runs, verdicts, **draws) if self._mode != "pairwise" else []
        lines = (
            self._line(question, verdict, completion)
            for (question, verdict), completion in zip(verdicts, self._completions(), strict=True)
        )
        files.write_jsonl(self._folder / "judge.jsonl", lines)
        record = {
            "format": files.FORMAT,
            "judge": {"model": self._args.judge_model, **self._engine.record},
            "prompts": prompt_record(),
            "runs": [run.name for run in self._runs],
            "pairwise": [asdict(one) | {"ties": one.ties} for one in pairs],
            "single": [asdict(one) for one in single],
            "tokens": measured(self.done.values()).record(),
            "seed": seed,
            "resamples": resamples,
            "versions": versions(),
            "git_revision": git_revision(),
        }
        files.write_json(self._folder / "judge.json", files.public(record))
        return pairs, single

    def _line(self, question: Question, verdict: Verdict, completion: Completion) -> dict[str, Any]:
        value = ("first", "second")[verdict.value] if type(verdict.value) is int else verdict.value
        line = {
            "id": self._runs[0].rows[question.row]["id"],
            "kind": question.kind,
            "order": [self._runs[number].name for number in question.runs],
            "prompt": question.digest,
            "answer": completion.text,
            "verdict": value,
            "failure": verdict.failure,
            "fault": completion.fault,
            "finish_reason": completion.finish_reason,
            "prompt_tokens": completion.prompt_tokens,
            "completion_tokens": completion.completion_tokens,
        }
        return {name: item for name, item in line.items() if item is not None or name in ("verdict", "failure")}


@contextlib.contextmanager
def _named_here() -> Iterator[None]:
    """Name the judge's options in messages."""
    try:
        yield
    except InputError as error:
        faults = []
        for fault in map(str, error.args):
            for name, here in _HERE.items():
                fault = fault.replace(name, here)
            faults.append(fault)
        raise InputError(*faults) from error
