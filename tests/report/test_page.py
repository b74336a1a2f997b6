"""The page of the report in headless Chromium."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from chromium import Browser
from dialogsum_sft.evaluation.likelihood import likelihood_record
from dialogsum_sft.report import report

import pytest
from sample_runs import EVIL, Page, fine_tuned, make_run, planted, sample_rows, write_log, zero_shot

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of 500 different dialogues."""
    folder = tmp_path_factory.mktemp("large")
    rows = sample_rows(500)
    runs = [make_run("zero-shot", folder, rows, zero_shot), make_run("tuned", folder, rows, fine_tuned)]
    log = write_log(folder / "training.jsonl", 60)
    report.write_report(folder / "report.html", runs, training_log=log, title="SmolLM2-135M-Instruct, tuned")
    return folder / "report.html"


@pytest.fixture
def page(browser: Browser, large: Path) -> Browser:
    browser.look(1280, 900)
    browser.open(large)
    return browser


STATUS = "document.getElementById('status').textContent"
SHOWN = "document.querySelector('#article h3').firstChild.data"
LISTED = "[...document.querySelectorAll('#list .name')].map(node => node.textContent)"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(1280, 900), (768, 1024), (390, 844)])
def test_page_makes_no_request_logs_nothing_and_fits_the_width(
    browser: Browser, large: Path, width: int, height: int, scheme: str
):
    browser.look(width, height, scheme)
    browser.open(large)
    assert browser.complaints() == []
    assert browser.requests() == [large.as_uri()]
    wide = (
        "[document.documentElement, ...document.querySelectorAll('.scroll')].map(n => n.scrollWidth - n.clientWidth)"
    )
    assert max(browser.run(wide)) <= 0
    assert browser.run(POOR_CONTRAST) == []


# Text with a contrast below the 4.5 of WCAG AA; disabled controls are exempt.
POOR_CONTRAST = """(() => {
  const numbers = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = (color) => {
    const linear = (x) => (x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4);
    const [r, g, b] = numbers(color).map((x) => linear(x / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (node) => {
    for (; node; node = node.parentElement) {
      const color = getComputedStyle(node).backgroundColor;
      if (color.startsWith("rgb(")) return color;
    }
    return "rgb(255, 255, 255)";
  };
  const poor = [];
  for (const node of document.querySelectorAll("body *")) {
    const own = [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
    if (!own || !node.getClientRects().length || node.closest("script, title, noscript, :disabled, option")) continue;
    const style = getComputedStyle(node);
    const [a, b] = [light(node.closest("svg") ? style.fill : style.color), light(behind(node))].sort((x, y) => y - x);
    if ((a + 0.05) / (b + 0.05) < 4.5) poor.push(node.outerHTML.slice(0, 80));
  }
  return poor;
})()"""


def test_search_matches_all_words_anywhere_and_marks_them(page: Browser):
    assert page.run(STATUS) == "500 dialogues"
    page.press("/", *"zanzibar")
    assert page.run(STATUS) == "25 of 500 dialogues"
    assert page.run("[...CSS.highlights.get('search')].map(String)") == ["Zanzibar"]
    page.press(" ", *"TEST_480")
    assert page.run(STATUS) == "1 of 500 dialogues"
    assert page.run(SHOWN) == "test_480"
    page.press(*"nowhere")
    assert page.run(STATUS) == "0 of 500 dialogues"
    assert page.run("document.getElementById('article').textContent") == "No dialogue is like this."
    page.press("Escape")
    assert page.run(STATUS) == "500 dialogues"
    assert page.run("document.activeElement === document.body")


def test_search_responds_within_a_tenth_of_a_second(page: Browser):
    """From the input event to the layout of list and article; the first input also folds all texts."""
    took = page.run("""(() => {
      const search = document.getElementById("search");
      return ["e", "ee", "bee", "bee ", "bee s", "bee", "b", ""].map((text) => {
        const started = performance.now();
        search.value = text;
        search.dispatchEvent(new Event("input"));
        document.getElementById("article").offsetHeight;
        return performance.now() - started;
      });
    })()""")
    assert max(took) < 100, took
    assert page.run("document.querySelectorAll('#list li').length") < 200


def choose(page: Browser, control: str, value: str) -> None:
    node = f"document.getElementById('{control}')"
    page.run(f"{node}.value = '{value}'; {node}.dispatchEvent(new Event('change'))")
    assert page.run(f"{node}.value") == value


def test_sort_by_difference_and_score(page: Browser, large: Path):
    dialogues = json.loads(Page(large.read_text(encoding="utf-8")).scripts[-1])["dialogues"]

    def expected(key: Callable[[dict[str, Any]], float], *, reverse: bool = False) -> list[str]:
        return [one["id"] for one in sorted(dialogues, key=key, reverse=reverse)][:30]

    def gain(one: dict[str, Any]) -> float:
        return one["outputs"][1]["scores"][0] - one["outputs"][0]["scores"][0]

    choose(page, "sort", "gain 1")
    assert page.run(LISTED)[:30] == expected(gain)
    page.run("document.getElementById('turn').click()")
    assert page.run(LISTED)[:30] == expected(gain, reverse=True)
    choose(page, "sort", "score 1")
    choose(page, "measure", "2")
    assert page.run(LISTED)[:30] == expected(lambda one: one["outputs"][1]["scores"][2], reverse=True)
    choose(page, "filter", "number")
    assert page.run(STATUS) == "25 of 500 dialogues"


def test_least_supported_first(browser: Browser, tmp_path: Path):
    """Summaries without a likelihood come last; a run without any is no choice."""
    rows = sample_rows(6)
    runs = [make_run(name, tmp_path, rows, fine_tuned) for name in ("zero-shot", "tuned")]
    gains = [0.5, -0.25, None, 1.5, 0.125, -1.0]
    for row, gain in zip(runs[1].rows, gains, strict=True):
        row |= {"log_likelihood": None if gain is None else gain - 3, "log_likelihood_gain": gain}
    runs[1].record["likelihood"] = likelihood_record(runs[1].rows) | {"fingerprint": {"model": "m", "adapter": None}}
    report.write_report(tmp_path / "report.html", runs, title="likelihoods")
    browser.look(1280, 900)
    browser.open(tmp_path / "report.html")
    choices = browser.run("[...document.getElementById('sort').options].map(option => option.value)")
    assert [choice for choice in choices if choice.startswith("support")] == ["support 1"]
    choose(browser, "sort", "support 1")
    assert browser.run(LISTED) == [f"test_{i}" for i in (5, 1, 4, 0, 3, 2)]
    values = browser.run("[...document.querySelectorAll('#list .values')].map(node => node.textContent.trim())")
    assert values[0].endswith("\u22121.00")
    assert values[5].endswith("\u2013")
    browser.run("document.querySelector('#list button').click()")
    scores = [browser.run(f"document.querySelector('.s{i} .scores').textContent") for i in (0, 1)]
    assert scores[1].endswith("Likelihood\u22124.00Gain\u22121.00")
    assert "Likelihood" not in scores[0]
    assert browser.complaints() == []


def test_keyboard_shortcuts(page: Browser):
    page.press("j", "j", "ArrowRight")
    assert page.run(SHOWN) == "test_3"
    page.press("k", "ArrowLeft")
    assert page.run(SHOWN) == "test_1"
    page.press("k", "k", "k")
    assert page.run(SHOWN) == "test_0"
    page.run("document.querySelector('#list li:nth-child(5) button').click()")
    page.press("ArrowDown", "ArrowDown", "ArrowUp")
    assert page.run(SHOWN) == "test_5"
    assert page.run("document.activeElement.textContent").startswith("test_5")
    assert page.run("document.activeElement.getAttribute('aria-current')") == "true"
    page.press("?")
    assert page.run("document.getElementById('help').open")
    page.press("j")
    assert page.run(SHOWN) == "test_5"
    page.run("document.querySelector('#help button').click()")
    page.press("/", "j")
    assert page.run("document.getElementById('search').value") == "j"


def test_list_grows_while_it_is_stepped_through(page: Browser):
    page.press(*["j"] * 70)
    assert page.run(SHOWN) == "test_70"
    box = "document.querySelector('{}').getBoundingClientRect()"
    outer, inner = box.format("#list"), box.format("[aria-current]")
    assert page.run(f"{outer}.top <= {inner}.top && {inner}.bottom <= {outer}.bottom + 1")


def test_fragment_of_the_address_opens_its_dialogue(page: Browser, large: Path):
    page.open(large, "#id=test_321")
    assert page.run(SHOWN) == "test_321"


def test_marks_name_the_fault(page: Browser):
    marks = page.run("[...document.querySelectorAll('.s1 .prediction mark')].map(n => [n.className, n.textContent])")
    assert marks == [["tag", "#Person9#"], ["number", "4711"], ["name", "Zanzibar"]]


def test_switch_between_light_and_dark(page: Browser):
    color = "getComputedStyle(document.body).backgroundColor"
    light = page.run(color)
    page.run("document.getElementById('theme').click()")
    assert page.run(color) != light
    page.run("document.getElementById('theme').click()")
    assert page.run(color) == light
    page.run("localStorage.clear()")


def test_planted_scripts_do_not_run(browser: Browser, tmp_path: Path):
    report.write_report(tmp_path / "report.html", planted(tmp_path), title=f"title {EVIL}")
    browser.look(1280, 900)
    browser.open(tmp_path / "report.html")
    browser.press("j", "j", "/", *"<script>")
    assert browser.run("typeof window.hacked") == "undefined"
    assert browser.run(SHOWN) == f"{EVIL}2"
    assert browser.run("document.querySelectorAll('img, article script').length") == 0
    assert browser.complaints() == []
    assert browser.requests() == [(tmp_path / "report.html").as_uri()]


def test_without_javascript_only_the_reader_is_missing(browser: Browser, large: Path):
    browser.look(1280, 900)
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(large)
        text = browser.run("document.body.innerText")
        assert "needs JavaScript" in text
        assert browser.run("getComputedStyle(document.getElementById('search')).display !== 'none'")
        assert browser.run("document.getElementById('search').getClientRects().length") == 0
        assert browser.run("document.querySelectorAll('figure > svg').length") == 10
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)


def test_controls_have_names_for_screen_readers(page: Browser):
    nodes = page.call("Accessibility.getFullAXTree")["nodes"]
    roles = (
        "button",
        "textbox",
        "searchbox",
        "combobox",
        "image",
        "region",
        "navigation",
        "link",
        "heading",
        "dialog",
    )
    named = [node for node in nodes if node.get("role", {}).get("value") in roles and not node["ignored"]]
    assert len(named) > 50
    assert [node["role"]["value"] for node in named if not node.get("name", {}).get("value")] == []
    assert page.run("[...document.querySelectorAll('th:not([scope], [aria-hidden])')].length") == 0
    landmarks = {node["role"]["value"] for node in nodes if not node["ignored"]}
    assert {"banner", "navigation", "main", "search", "contentinfo"} <= landmarks
