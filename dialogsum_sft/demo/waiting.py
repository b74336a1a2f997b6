"""Requests of the page, served one at a time in their order, up to a number in a minute."""

import threading
import time
from collections import deque
from collections.abc import Callable

from dialogsum_sft import InputError


class Waiting:
    """The requests that are being served or wait: at most `max_waiting` behind the first.

    `clock` returns seconds. Threads may share it.
    """

    def __init__(self, max_waiting: int, max_per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.max_waiting, self.max_per_minute, self._clock = max_waiting, max_per_minute, clock
        self._lock = threading.Lock()
        self._line: list[object] = []
        self._times: deque[float] = deque()

    def enter(self) -> object:
        """A ticket at the end of the line. Raises InputError where the line is full, or the minute's requests are
        used up.
        """
        with self._lock:
            now = self._clock()
            while self._times and self._times[0] <= now - 60:
                self._times.popleft()
            if len(self._times) >= self.max_per_minute:
                wait = self._times[0] + 60 - now
                number = f"{self.max_per_minute} request{'s' * (self.max_per_minute != 1)}"
                raise InputError(f"{number} in a minute are the limit: try again in {wait:.0f} s.")
            if len(self._line) > self.max_waiting:
                number = "1 request waits" if self.max_waiting == 1 else f"{self.max_waiting} requests wait"
                raise InputError(f"{number} already: try again later.")
            self._times.append(now)
            self._line.append(ticket := object())
            return ticket

    def ahead(self, ticket: object) -> int:
        """How many requests are served before this one; with 0 it is its turn."""
        with self._lock:
            return self._line.index(ticket)

    def leave(self, ticket: object) -> None:
        with self._lock:
            self._line.remove(ticket)
