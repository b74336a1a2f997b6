"""README.md is short, its links lead somewhere, and the lines of its table of errors are in the code."""

import ast
import re
from functools import cache
from pathlib import Path

from conftest import ROOT
from dialogsum_sft import __version__

import pytest
import yaml

PAGES = sorted(path for pattern in ("*.md", "[a-z]*/README.md", "[a-z]*/*/README.md") for path in ROOT.glob(pattern))
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 250


@cache
def anchors(path: Path) -> set[str]:
    """The names by which the headings of a page are linked, as GitHub makes them."""
    text = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), target
        assert not anchor or anchor in anchors(path), target


def constants() -> set[str]:
    """The texts of the library's strings, without what is put into them."""
    found = set()
    for path in [*(ROOT / "dialogsum_sft").rglob("*.py"), *(ROOT / "recipes").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
    return found


def test_the_lines_of_the_table_of_errors_are_ours() -> None:
    section = README.split("\n## When it goes wrong\n")[1].split("\n## ")[0]
    rows = [row.split("`")[1] for row in section.splitlines() if row.startswith("| `")]
    assert len(rows) >= 11
    texts = constants()
    for row in rows:
        for part in filter(None, (part.strip(" :.") for part in re.split(r"\.\.\.|nan", row))):
            assert any(part in text for text in texts), part


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == __version__
    assert {"cff-version", "message", "title", "authors", "license"} <= set(citation)
