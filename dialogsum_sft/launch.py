"""`--accelerate_config NAME`: a recipe starts its processes as `accelerate launch` would; it has their exit status."""

import argparse
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dialogsum_sft import InputError, Stopped
from dialogsum_sft.files import own_folder

import yaml
from accelerate.commands.launch import _validate_launch_command, launch_command, launch_command_parser
from accelerate.utils.launch import prepare_simple_launcher_cmd_env

OPTION = "--accelerate_config"
HELP = (
    f"{OPTION} NAME (a file in accelerate_configs/, or a path) starts several processes, as accelerate launch does; "
    "beside it go --num_processes N and accelerate's options for several machines."
)
STATUSES = "DIALOGSUM_SFT_STATUSES"  # a folder, in which each process writes its exit status under its rank


def start_processes() -> int | None:
    """Start the processes that `--accelerate_config` asks for, wait for them, and return the run's exit status.

    None where this process is to run the recipe: there is no such option, the help is asked for, or the config is one
    of a single process, whose environment is then set. The option is the name of a file in accelerate_configs/ or a
    path. Beside it go --num_processes and, for several machines, accelerate's own options. All of them are taken out
    of `sys.argv`.

    Raises InputError where the config or one of these options is wrong.
    """
    words = {word.split("=")[0] for word in sys.argv[1:]}
    if OPTION not in words or words & {"-h", "--help", "--help_all", "--version"}:
        return None
    if "RANK" in os.environ:
        raise InputError(f"{OPTION}: a launcher has started this process already: leave one of them out")
    parser = argparse.ArgumentParser(allow_abbrev=False, add_help=False, exit_on_error=False)
    parser.add_argument(OPTION, required=True)
    for name in ("num_processes", "num_machines", "machine_rank", "main_process_port"):
        parser.add_argument(f"--{name}", type=int)
    for name in ("main_process_ip", "rdzv_backend"):
        parser.add_argument(f"--{name}")
    try:
        given, rest = parser.parse_known_args(sys.argv[1:])
    except argparse.ArgumentError as error:
        raise InputError(str(error)) from error
    options = {name: value for name, value in vars(given).items() if value is not None}
    path = config_path(options.pop("accelerate_config"))
    command = ["--config_file", str(path)]
    if _machines(_read(path) | options) == 1:
        options.setdefault("main_process_port", 0)  # any free one: two runs on a machine do not meet
    for name, value in options.items():
        command += [f"--{name}", str(value)]
    command += [sys.argv[0], *rest]
    try:
        args, _, _ = _validate_launch_command(launch_command_parser().parse_args(command))
        if not (args.use_deepspeed or args.use_fsdp or args.multi_gpu) or args.cpu:
            if options.get("num_processes", 1) > 1:
                raise InputError(f"--num_processes {options['num_processes']}: {path.name} starts one process")
            os.environ.update(prepare_simple_launcher_cmd_env(args)[1])
            sys.argv[1:] = rest
            return None
        return _launch(command)
    except (ValueError, ImportError, OSError, SystemExit) as error:
        raise InputError(f"{OPTION}: {error}") from error


def config_path(name: str) -> Path:
    """The accelerate config of a name (a file in accelerate_configs/) or of a path. Raises InputError for neither."""
    folder = own_folder("accelerate_configs")
    for path in (Path(name), folder / f"{name}.yaml"):
        if path.is_file():
            return path
    known = ", ".join(sorted(path.stem for path in folder.glob("*.yaml")))
    raise InputError(f"{OPTION} {name}: there is no such file, and in {folder.name}/ are {known}")


def _read(path: Path) -> dict[str, Any]:
    """The options of an accelerate config."""
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{OPTION} {path} is not readable YAML: {error}") from error
    if not isinstance(config, dict) or "distributed_type" not in config:
        raise InputError(f"{OPTION} {path} is no config of accelerate: it has no distributed_type")
    return config


def _machines(options: Mapping[str, Any]) -> int:
    """How many machines the options name. Raises InputError where they contradict each other, or the ranks would wait
    for each other without an end.
    """
    machines, processes = options.get("num_machines", 1), options.get("num_processes", 1)
    rank = options.get("machine_rank", 0 if machines == 1 else None)
    if min(machines, processes) < 1:
        raise InputError(f"{OPTION}: --num_processes and --num_machines begin at 1")
    if processes % machines:
        raise InputError(f"--num_processes {processes} counts those of all {machines} machines: give a multiple of it")
    if machines > 1 and (rank is None or not options.get("main_process_ip")):
        raise InputError(
            f"{machines} machines need --main_process_ip and, on each, a --machine_rank: recipes/slurm.sh gives both"
        )
    if rank is not None and not 0 <= rank < machines:
        known = (
            "there is one machine" if machines == 1 else f"the ranks of {machines} machines are 0 to {machines - 1}"
        )
        raise InputError(f"--machine_rank {rank}: {known}")
    return int(machines)


def write_status(status: int) -> None:
    """Tell the launcher, if it is ours, how this process ends: torch's launcher would make it 1."""
    if folder := os.environ.get(STATUSES):
        Path(folder, os.environ.get("RANK", "0")).write_text(str(status), encoding="utf-8")


def _launch(command: list[str]) -> int:
    # torch's launcher waits 30 seconds for processes that it has told to stop: too short for a large checkpoint.
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "100")
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # as torch's launcher sets it, with a warning
    from torch.distributed import run  # noqa: F401, PLC0415 (gives the loggers that are silenced here)
    from torch.distributed.elastic.multiprocessing.api import SignalException  # noqa: PLC0415
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError  # noqa: PLC0415

    for name in list(logging.root.manager.loggerDict):
        if name.startswith(("torch.distributed.run", "torch.distributed.elastic", "torch.distributed.launcher")):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    exits: dict[int, int] = {}
    ended_by = 0
    with tempfile.TemporaryDirectory(prefix="dialogsum_sft-") as folder:
        os.environ[STATUSES] = folder
        try:
            launch_command(launch_command_parser().parse_args(command))
        except ChildFailedError as error:
            exits = {rank: failure.exitcode for rank, failure in error.failures.items()}
            rank, failure = error.get_first_failure()
            if failure.exitcode < 0:
                name = signal.Signals(-failure.exitcode).name
                raise Stopped(
                    f"process {rank} was ended by {name}, so all were; see whether memory ran out"
                ) from error
        except SignalException as error:
            ended_by = 128 + error.sigval
        finally:
            del os.environ[STATUSES]
        written = {int(path.name): int(path.read_text(encoding="utf-8")) for path in Path(folder).iterdir()}
    statuses = exits | written
    failed = [status for _, status in sorted(statuses.items()) if status]
    return failed[0] if failed else ended_by
