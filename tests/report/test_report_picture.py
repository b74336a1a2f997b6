"""The picture in README.md, made from a page in headless Chromium."""

import struct
from pathlib import Path

from chromium import Browser
from conftest import ROOT
from report_picture import HEIGHT, WIDTH, picture

import pytest


def size(png: bytes) -> tuple[int, int]:
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    return struct.unpack(">II", png[16:24])


@pytest.mark.slow
def test_the_picture_is_the_top_of_the_page(browser: Browser, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_text("<title>A</title><h1>Scores</h1><div style='height:5000px'></div>", encoding="utf-8")
    made = picture(browser, page)
    assert size(made) == (WIDTH, HEIGHT)
    assert made != picture(browser, page, height=HEIGHT + 1)


def test_the_picture_of_the_readme_is_small() -> None:
    made = (ROOT / "report.png").read_bytes()
    assert size(made) == (WIDTH, HEIGHT)
    assert len(made) < 200 * 1024
