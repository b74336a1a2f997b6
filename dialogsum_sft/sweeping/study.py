"""The study of a sweep: Optuna's record of its trials in SQLite, which several workers share."""

import contextlib
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dialogsum_sft import InputError, files
from dialogsum_sft.provenance import differences
from dialogsum_sft.sweeping.plan import Plan, digest_of, parts_of
from dialogsum_sft.sweeping.space import suggest

import optuna
import psutil
from filelock import BaseFileLock, FileLock, Timeout
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

optuna.logging.set_verbosity(optuna.logging.ERROR)
logging.getLogger("alembic").setLevel(logging.WARNING)

STATES = {
    TrialState.COMPLETE: "done",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}
RANDOM_TRIALS = 20  # of random and tpe, where --trials is not given
_REDRAWS = 100  # how often random draws a point that it has, before all are taken


@dataclass
class Claimed:
    """A trial that this worker runs, and holds a lock on: `number` is from 1, `values` are its point, and `reported`
    of its evaluations are in the study.
    """

    trial: optuna.Trial
    number: int
    folder: Path
    values: dict[str, Any]
    is_continued: bool
    lock: BaseFileLock
    reported: int = 0


class SharedStudy:
    """The trials of a sweep in `output_dir`/study.db, for any number of processes and threads.

    Grid and random have their trials planned at the start; a worker takes the next. A trial that runs is locked by
    its worker, and the lock of a process that was killed is free: its trial is continued by the next worker.

    Raises InputError where the folder holds another sweep.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.folder = Path(plan.args.output_dir)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"--output_dir {self.folder}: no folder can be made there ({error.strerror})") from error
        with self._alone():
            self._study = _open(self.folder / "study.db", plan)
            self._check_identity()
            self._add_trials()
            if plan.args.retry_failed:
                self._retry_failed()

    def claim(self) -> Claimed | None:
        """The next trial: one that was interrupted, else a new one; None where all are done or others run them."""
        with self._alone():
            for one in self._trials(TrialState.RUNNING):
                if lock := self._lock(self._folder(one)):
                    if self._state(one.number).is_finished():  # between the list of trials and the lock
                        lock.release()
                        continue
                    trial = optuna.Trial(self._study, one._trial_id)
                    claimed = self._claimed(trial, self._folder(one), lock, is_continued=True)
                    claimed.reported = len(one.intermediate_values)
                    return claimed
            trials = self._trials()
            if not self._may_ask(trials) and not any(one.state is TrialState.WAITING for one in trials):
                return None
            if self.plan.args.method == "tpe":
                seed = self.plan.args.seed + len(trials)
                self._study.sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True)
            trial = self._study.ask()
            folder = self._folder(next(one for one in self._trials() if one.number == trial.number))
            lock = self._lock(folder)
            if lock is None:
                raise InputError(f"{folder}: another process has it: give another --output_dir")
            return self._claimed(trial, folder, lock, is_continued=False)

    def is_over(self) -> bool:
        """Whether no trial is waiting or running, here or elsewhere."""
        trials = self._trials()
        return all(one.state.is_finished() for one in trials) and not self._may_ask(trials)

    def number(self) -> int:
        """How many trials there are to be."""
        if self.plan.args.method == "tpe":
            return self.plan.args.trials or RANDOM_TRIALS
        return len(_first_tries(self._trials()))

    def ended(self) -> int:
        return sum(record["state"] in ("done", "pruned", "failed") for record in self.records())

    def note_process(self, claimed: Claimed, pid: int) -> None:
        """Record the process of a trial, which may outlive its worker."""
        with contextlib.suppress(psutil.Error):  # it has ended
            record = {"pid": pid, "created": psutil.Process(pid).create_time()}
            files.write_json(claimed.folder / "process.json", record)

    def tell(self, claimed: Claimed, state: str, score: float | None, **measured: Any) -> None:
        """End a trial as `done`, `pruned` or `failed`, with its score and what else was `measured`."""
        for name, value in measured.items():
            claimed.trial.set_user_attr(name, value)
        (kind,) = [kind for kind, name in STATES.items() if name == state]
        self._study.tell(claimed.trial.number, score if state == "done" else None, state=kind)

    def release(self, claimed: Claimed) -> None:
        claimed.lock.release()

    def records(self) -> list[dict[str, Any]]:
        """A dict for each trial: `trial, state, values, score, ...`; one that was begun again once only."""
        records: dict[str, dict[str, Any]] = {}
        for one in self._trials():
            name = self._folder(one).name
            records[name] = {
                "trial": int(name.removeprefix("trial-")),
                "state": STATES[one.state],
                "values": self._values(one),
                "score": one.value if one.state is TrialState.COMPLETE else None,
                "evaluations": len(one.intermediate_values),
                "last_evaluation": None if one.last_step is None else one.intermediate_values[one.last_step],
                "folder": name,
                **{key: value for key, value in one.user_attrs.items() if key != "folder"},
            }
        return sorted(records.values(), key=lambda record: record["trial"])

    def _values(self, one: FrozenTrial) -> dict[str, Any]:
        stored = dict(one.params) or dict(one.system_attrs.get("fixed_params", {}))
        return {each.name: each.read(stored[each.name]) for each in self.plan.space if each.name in stored}

    def _claimed(self, trial: optuna.Trial, folder: Path, lock: BaseFileLock, *, is_continued: bool) -> Claimed:
        values = suggest(self.plan.space, trial, self.plan.fixed)
        return Claimed(trial, int(folder.name.removeprefix("trial-")), folder, values, is_continued, lock)

    def _folder(self, one: FrozenTrial) -> Path:
        return self.folder / one.user_attrs.get("folder", f"trial-{one.number + 1:03d}")

    def _lock(self, folder: Path) -> BaseFileLock | None:
        """The lock of a trial; None where its worker, or the process that this one started, is alive."""
        folder.mkdir(exist_ok=True)
        lock = FileLock(folder / ".lock", thread_local=False)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return None
        with contextlib.suppress(OSError, ValueError, KeyError, psutil.Error):
            record = json.loads((folder / "process.json").read_text(encoding="utf-8"))
            process = psutil.Process(record["pid"])
            if process.create_time() == record["created"] and process.status() != psutil.STATUS_ZOMBIE:
                lock.release()
                return None
        return lock

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        with FileLock(self.folder / ".study.lock", thread_local=False):
            yield

    def _trials(self, *states: TrialState) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False, states=states or None)

    def _state(self, number: int) -> TrialState:
        return next(one.state for one in self._trials() if one.number == number)

    def _check_identity(self) -> None:
        own, known = digest_of(self.plan.identity()), self._study.user_attrs.get("sweep")
        if known is None:
            self._study.set_user_attr("sweep", own)
        elif changed := differences(parts_of(known), parts_of(own)):
            raise InputError(
                f"{self.folder} holds another sweep ({'; '.join(changed)}): give another --output_dir; "
                "trials may be raised"
            )

    def _may_ask(self, trials: list[FrozenTrial]) -> bool:
        """Whether the sampler is to make another trial; those of grid and random are there from the start."""
        return self.plan.args.method == "tpe" and len(_first_tries(trials)) < self.number()

    def _add_trials(self) -> None:
        method = self.plan.args.method
        points = self.plan.points if method == "grid" else _random_points(self.plan) if method == "random" else []
        for point in points[len(_first_tries(self._trials())) : self.plan.args.trials]:
            own = [one for one in self.plan.space if one.name in point]
            self._study.enqueue_trial({one.name: one.stored(point[one.name]) for one in own})

    def _retry_failed(self) -> None:
        latest = {self._folder(one): one for one in self._trials()}
        for folder, one in latest.items():
            if one.state is TrialState.FAIL:
                self._study.enqueue_trial(one.params, user_attrs={"folder": folder.name})


def _first_tries(trials: list[FrozenTrial]) -> list[FrozenTrial]:
    """Without those that were begun again."""
    return [one for one in trials if "folder" not in one.user_attrs]


def _open(path: Path, plan: Plan) -> optuna.Study:
    try:
        return optuna.create_study(
            study_name="sweep",
            storage=optuna.storages.RDBStorage(
                f"sqlite:///{path.absolute()}", engine_kwargs={"connect_args": {"timeout": 60}}
            ),
            direction="maximize" if plan.maximizes else "minimize",
            pruner=_pruner(plan),
            load_if_exists=True,
        )
    except (optuna.exceptions.OptunaError, SQLAlchemyError, RuntimeError) as error:
        raise InputError(f"{path} is not a study that can be read: give another --output_dir ({error})") from error


def _pruner(plan: Plan) -> optuna.pruners.BasePruner:
    """The resource of a trial is its number of evaluations in training."""
    factor = plan.args.reduction_factor
    if plan.args.pruner == "successive_halving":
        return optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=factor)
    if plan.args.pruner == "hyperband":
        return optuna.pruners.HyperbandPruner(min_resource=1, reduction_factor=max(2, factor))
    return optuna.pruners.MedianPruner() if plan.args.pruner == "median" else optuna.pruners.NopPruner()


def _random_points(plan: Plan) -> list[dict[str, Any]]:
    """Different points, the same for a seed; the first N of more are those of N. Fewer where the space has fewer."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=plan.args.seed))
    points: dict[str, dict[str, Any]] = {}
    number, tries = plan.args.trials or RANDOM_TRIALS, 0
    while len(points) < number and tries < _REDRAWS:
        point = suggest(plan.space, study.ask(), plan.fixed)
        key = json.dumps(point, sort_keys=True)
        tries = tries + 1 if key in points else 0
        points.setdefault(key, point)
    return list(points.values())
