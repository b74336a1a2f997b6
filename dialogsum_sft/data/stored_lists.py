"""Lists and objects that a text holds: as JSON, as Python's repr, as NumPy prints them."""

import ast
import io
import json
import re
import tokenize
from typing import Any

_LOOKS_STORED = re.compile(r"""(?:array\()?\[\s*(?:\{\s*['"]|[\[(]\s*['"])|\{\s*['"]\w+['"]\s*:""")
_NAMES = {"nan": "None", "null": "None", "true": "True", "false": "False", "NaN": "None"}
_Errors = (ValueError, SyntaxError, MemoryError, RecursionError, TypeError)


def stored_list(text: str) -> Any:
    """The list or object that a text holds; None for any other text.

    Raises ValueError for a text that begins as a list of turns and cannot be read, such as one that was cut off.
    """
    text = text.strip()
    if text[:1] == '"' and text[1:3] in (r"[{", r"{\\", "[\\"):
        try:
            text = json.loads(text)
        except _Errors:
            return None
    if not text.startswith(("[", "{", "array(")):
        return None
    for load in (json.loads, _from_repr):
        try:
            value = load(text)
        except _Errors:
            continue
        first = value[0] if isinstance(value, list) and value else ""
        if isinstance(value, (list, dict)) and isinstance(first, (str, list, tuple, dict)):
            return value
    if _LOOKS_STORED.match(text):
        raise ValueError("looks like a list of turns, but is neither JSON nor a Python list")
    return None


def _from_repr(text: str) -> Any:
    try:
        # Between texts, NumPy prints no comma, and Python would join them.
        if not re.search(r"""['"]\s+['"]""", text):
            return ast.literal_eval(text)
    except _Errors:
        pass
    return ast.literal_eval(_with_commas(text))


def _with_commas(text: str) -> str:
    """A list as NumPy prints it, `[{...}\\n {...}]` or `array([...], dtype=object)`, as a Python list."""
    out: list[str] = []
    arrays: list[bool] = []  # for each open parenthesis, whether it is that of an array
    skipping = False
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(text).readline))
    except (tokenize.TokenError, IndentationError) as error:
        raise ValueError(str(error)) from error
    for token in tokens:
        word = token.string
        if token.type in (tokenize.NL, tokenize.NEWLINE, tokenize.ENDMARKER, tokenize.INDENT, tokenize.DEDENT):
            continue
        if word == "(":
            arrays.append(bool(out) and out[-1] == "array")
            if arrays[-1]:
                out.pop()
                continue
        elif word == ")" and arrays and arrays.pop():
            skipping = False
            continue
        elif word == "dtype":
            skipping = True
            out.pop()  # the comma
        if skipping:
            continue
        opens = token.type == tokenize.STRING or word in ("{", "[", "(", "array")
        if out and opens and (out[-1] in ("}", "]", ")") or out[-1][-1:] in ("'", '"')):
            out.append(",")
        out.append(_NAMES.get(word, word))
    return " ".join(out)
