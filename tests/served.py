"""A server of another program, for the length of a test."""

import contextlib
import socket
import subprocess
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest


@contextlib.contextmanager
def server(command: Sequence[str | Path], ready: str) -> Iterator[None]:
    """A process that serves until the end of the block, which begins when it has said `ready`."""
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    with process:
        assert process.stdout is not None
        drain = threading.Thread(target=process.stdout.read)  # a full pipe would stop the server
        try:
            said = []
            for line in process.stdout:
                said.append(line)
                if ready in line:
                    break
            else:
                pytest.fail("".join(said[-20:]))
            drain.start()
            yield
        finally:
            process.terminate()
            if drain.is_alive():
                drain.join()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
