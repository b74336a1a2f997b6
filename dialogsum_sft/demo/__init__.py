"""The page of recipes/demo.py. Only the module `page` needs gradio."""

import importlib
import importlib.util
import os
from types import ModuleType

from dialogsum_sft import InputError


def load_page() -> ModuleType:
    """The module `page`. Raises InputError where gradio is not installed."""
    if importlib.util.find_spec("gradio") is None:
        raise InputError("the page needs gradio: pip install gradio")
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported
    return importlib.import_module("dialogsum_sft.demo.page")
