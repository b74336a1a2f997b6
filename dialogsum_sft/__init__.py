"""Fine-tune open LLMs to summarise dialogues with TRL's SFTTrainer, and evaluate them."""

import importlib
import logging
import os
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"


RESUMABLE = 75  # exit status (EX_TEMPFAIL) of a run that was asked to stop and goes on when it is started again


class InputError(Exception):
    """A user's mistake: what was found, where, and what to do. Recipes exit with status 2 on it.

    Each argument is one fault, printed as a line of its own.
    """

    def __str__(self) -> str:
        return "\n".join(map(str, self.args))


class Stopped(Exception):
    """A run that ends early, described in one line.

    Recipes exit with `status`: RESUMABLE if it was asked to stop and goes on when started again, else 1.
    """

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status


# On a CPU with bf16, bitsandbytes warns at import that an optional kernel is missing, whether 4-bit is used or not.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

# On a CPU oneDNN caches 1,024 matrix products by shape, each with its own memory. Batches without padding have many
# shapes: the cache grew the quickstart's memory by 60% and made nothing faster.
for _cache in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
    os.environ.setdefault(_cache, "64")


if TYPE_CHECKING:
    from dialogsum_sft.summarizer import Summarizer, Summary

__all__ = ["RESUMABLE", "InputError", "Stopped", "Summarizer", "Summary", "__version__"]


# torch and transformers are imported when the first of these names is used.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name in ("Summarizer", "Summary"):
            # A summary is thousands of small matrix products. Threads of OpenMP spin between them: beside another job
            # on the same cores each wait takes a time slice, and a summary ten times as long as with passive threads.
            os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # without effect where torch is imported already
            return getattr(importlib.import_module("dialogsum_sft.summarizer"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
