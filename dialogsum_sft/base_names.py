"""Names of one base model: of the hub, of its cache and of Kaggle, and those of quantised twins."""

import re
from pathlib import PurePosixPath

# How the hub names the same weights, quantised.
_QUANTISED = re.compile(r"(-unsloth)?(-(bnb-[48]bit|[48]bit|awq|gptq|gptq-int[48]|int[48]|fp8|nf4))+$", re.I)


def same_base(name: str, other: str) -> bool:
    """Whether two names or paths are of the same base model, or one of its quantised twin, as far as names tell.

    A moved folder keeps its last part.
    """
    return not _names(name).isdisjoint(_names(other))


def cached_name(path: str) -> str | None:
    """The name of the model in a folder of the hub's cache or of Kaggle; None for any other folder or name.

    They are `models--OWNER--NAME/snapshots/COMMIT` and `MODEL/transformers/VARIATION/VERSION`, where the variation may
    be the whole name or its end.
    """
    parts = _parts(path)
    for part in parts:
        if match := re.fullmatch(r"models--(.+)", part):
            return match[1].replace("--", "/")
    for at, part in enumerate(parts[1:-1], 1):
        if part.lower() in ("transformers", "pytorch") and parts[at + 2 : at + 3] and parts[-1].isdecimal():
            model, variation = parts[at - 1], parts[at + 1]
            return variation if _plain(variation).startswith(_plain(model)) else f"{model}-{variation}"
    return None


def _parts(path: str) -> list[str]:
    return [part for part in PurePosixPath(path.replace("\\", "/")).parts if part.strip("/")]


def _names(path: str) -> set[str]:
    names = {cached_name(path) or "", *(part for part in _parts(path)[-1:] if not part.isdecimal())}
    return {_plain(_QUANTISED.sub("", name.split("/")[-1])) for name in names} - {""}


def _plain(name: str) -> str:
    """Without case, punctuation, and what only some hubs put around a name."""
    return re.sub(r"[^a-z0-9]", "", re.sub(r"^meta-|-hf$", "", name.lower()))
