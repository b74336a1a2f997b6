"""The line of requests: one at a time in order, full at its limit, so many in a minute."""

from dialogsum_sft import InputError
from dialogsum_sft.demo.waiting import Waiting

import pytest


def test_requests_are_served_in_their_order() -> None:
    waiting = Waiting(max_waiting=2, max_per_minute=9)
    first, second, third = waiting.enter(), waiting.enter(), waiting.enter()
    assert [waiting.ahead(ticket) for ticket in (first, second, third)] == [0, 1, 2]
    waiting.leave(second)
    waiting.leave(first)
    assert waiting.ahead(third) == 0


def test_a_full_line_refuses_until_one_leaves() -> None:
    waiting = Waiting(max_waiting=1, max_per_minute=9)
    first = waiting.enter()
    waiting.enter()
    with pytest.raises(InputError, match="1 request waits already"):
        waiting.enter()
    waiting.leave(first)
    waiting.enter()


def test_a_minute_has_its_number_of_requests() -> None:
    now = 100.0
    waiting = Waiting(max_waiting=1, max_per_minute=2, clock=lambda: now)
    waiting.leave(waiting.enter())
    now = 130.0
    waiting.leave(waiting.enter())
    now = 150.0
    with pytest.raises(InputError, match="2 requests in a minute are the limit: try again in 10 s"):
        waiting.enter()
    now = 160.0
    waiting.enter()
    with pytest.raises(InputError, match="try again in 30 s"):
        waiting.enter()
