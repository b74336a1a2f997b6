"""Fine-tune open LLMs to summarise dialogues with TRL's SFTTrainer, and evaluate them."""

import logging
import os

__version__ = "0.1.0"


class InputError(Exception):
    """A user's mistake: what was found, where, and what to do. Recipes exit with status 2 on it.

    Each argument is one fault, printed as a line of its own.
    """

    def __str__(self) -> str:
        return "\n".join(map(str, self.args))


class Stopped(Exception):
    """A run that ends before its end, told in one line.

    Recipes exit with `status`: 75, it was asked to stop and goes on when started again; 1, it cannot go on as it is.
    """

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status


# On a CPU with bf16 it warns at import that an optional kernel from the hub is missing, whether 4-bit is used or not.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

# On a CPU oneDNN keeps the last 1,024 matrix products by their shapes, each with memory of its own, and batches
# without padding have shapes of their own: the quickstart's memory grew by 60%, for no speed.
for _cache in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
    os.environ.setdefault(_cache, "64")
