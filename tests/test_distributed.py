"""One process among itself; two are in test_resume.py."""

from dialogsum_sft import InputError
from dialogsum_sft import distributed as processes

import pytest
import torch


def test_one_process_agrees_with_itself() -> None:
    assert processes.on_any_process(True)
    assert not processes.on_any_process(False)
    assert processes.maximum(torch.tensor([0, 1])).tolist() == [0, 1]
    assert processes.together(lambda: 3) == 3
    with pytest.raises(InputError, match="here"):
        processes.together(fails)


def fails() -> None:
    raise InputError("here")
