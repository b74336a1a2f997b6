"""distributed.py with one process; two processes are tested in test_signals.py."""

from dialogsum_sft import InputError, distributed

import pytest
import torch


def test_one_process() -> None:
    assert distributed.on_any_process(True)
    assert not distributed.on_any_process(False)
    assert distributed.all_reduce_max(torch.tensor([0, 1])).tolist() == [0, 1]
    assert distributed.run_on_main(lambda: 3) == 3
    with pytest.raises(InputError, match="here"):
        distributed.run_on_main(fails)


def fails() -> None:
    raise InputError("here")
