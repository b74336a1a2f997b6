"""Makes report.png, the picture in README.md, from the page of a run.

    python tests/report_picture.py runs/quickstart/report.html

Needs Chromium. The picture shows the top of the page at a width of 1,200 points, in light colours.
"""

import base64
import sys
import tempfile
from pathlib import Path

from chromium import CHROMIUM, Browser

WIDTH, HEIGHT = 1200, 776  # down to the row of human annotators


def picture(browser: Browser, page: Path, width: int = WIDTH, height: int = HEIGHT) -> bytes:
    """The top of a page as PNG."""
    browser.look(width, height)
    browser.open(page.resolve())
    return base64.b64decode(browser.call("Page.captureScreenshot", format="png")["data"])


def main() -> None:
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_file():
        sys.exit("usage: python tests/report_picture.py runs/quickstart/report.html")
    if CHROMIUM is None:
        sys.exit("no chromium: install it, for example by apt-get install chromium")
    with tempfile.TemporaryDirectory() as folder:
        browser = Browser(Path(folder))
        try:
            made = picture(browser, Path(sys.argv[1]))
        finally:
            browser.close()
    path = Path(__file__).parents[1] / "report.png"
    path.write_bytes(made)
    print(f"{path.name}: {len(made) / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
