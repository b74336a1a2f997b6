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


def test_an_error_that_another_process_caused() -> None:
    gloo = "[third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:32410"
    assert distributed.lost_another(RuntimeError(gloo))
    assert distributed.lost_another(torch.distributed.DistBackendError("NCCL"))
    assert not distributed.lost_another(RuntimeError("PytorchStreamWriter failed writing file data/0"))
    assert not distributed.lost_another(OSError(28, "No space left on device"))
