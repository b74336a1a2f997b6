"""The chat templates that TRL ships, and a dialogue to render by them."""

from pathlib import Path

import trl

DIALOGUE = "#Person1#: Is the printer broken again?\n#Person2#: Yes, I'll call someone."
SUMMARY = "#Person2# will call someone about the printer."
SYSTEM_PROMPT = "You write minutes in British English."

FOLDER = Path(trl.__file__).parent / "chat_templates"

# Templates that are refused: a reasoning block starts every answer at inference, even with `enable_thinking=False`,
# but none in training; or the content of a message must be a list of parts.
REFUSED = {
    "deepseek_r1_distill.jinja": "<think> in the prompt alone",
    "deepseek_r1_distill_training.jinja": "<think> in the prompt alone",
    "deepseekv3.jinja": "<think> in the prompt alone",
    "deepseekv3_training.jinja": "<think> in the prompt alone",
    "idefics3.jinja": "drops content that is a string",
    "idefics3_training.jinja": "drops content that is a string",
    "llava_next.jinja": "fails on content that is a string",
    "llava_next_training.jinja": "fails on content that is a string",
    "smolvlm.jinja": "drops content that is a string",
    "smolvlm_training.jinja": "drops content that is a string",
}
TEMPLATES = sorted(path.name for path in FOLDER.glob("*.jinja") if path.name not in REFUSED)
