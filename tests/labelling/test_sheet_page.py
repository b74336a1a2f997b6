"""sheet.html in headless Chromium: on a phone, decided, kept when closed, saved as a file that is taken in."""

import dataclasses
from pathlib import Path

from chromium import Browser
from dialogsum_sft.labelling.labels import SET_ASIDE, Decision
from dialogsum_sft.labelling.sheet import read_sheet, write_sheet

import pytest
from made_labels import label

pytestmark = pytest.mark.slow


CHECK = "document.querySelector(`article:nth-of-type({}) input[value='{}']`).click()"
SHOWN = "[...document.querySelectorAll('textarea')].map(node => !node.hidden)"
COUNT = "document.getElementById('count').textContent"


def test_decisions_on_a_phone_are_taken_in(browser: Browser, tmp_path: Path) -> None:
    planted = '<script>document.title = "run"</script><img src=x onerror="document.title = 1">'
    labels = [
        *(label(n) for n in range(3)),
        dataclasses.replace(
            label(3, SET_ASIDE, reason="names that the dialogue lacks", text=f"Mila: {planted} {'w' * 300}"),
            summary=f'{planted} "quoted", twice',
        ),
    ]
    write_sheet(tmp_path, labels, None)
    page = tmp_path / "sheet.html"
    browser.look(390, 844)
    browser.open(page)
    assert browser.run("document.documentElement.scrollWidth") <= 390
    assert browser.run("document.title") == "Summaries to accept or correct"
    assert (browser.run(COUNT), browser.run(SHOWN)) == ("0 of 4 decided", [False] * 4)
    for number, word in ((1, "accept"), (2, "reject"), (3, "corrected"), (4, "accept")):
        browser.run(CHECK.format(number, word))
    browser.run(
        "{const text = document.querySelectorAll('textarea')[2]; text.value = 'Two lines,\\nand a \"quote\".';"
        "text.dispatchEvent(new Event('input', {bubbles: true}))}"
    )
    assert browser.run(COUNT) == "4 of 4 decided"
    browser.open(page)
    assert (browser.run(COUNT), browser.run(SHOWN)) == ("4 of 4 decided", [False, False, True, False])
    browser.run("URL.createObjectURL = blob => { window.saved = blob; return '#'; }")
    browser.run("document.getElementById('save').click()")
    saved = tmp_path / "decisions.csv"
    saved.write_text(browser.run("saved.text()"), encoding="utf-8")
    assert browser.complaints() == []
    decisions, faults = read_sheet(saved, labels)
    assert faults == []
    assert decisions == [
        Decision(labels[0].key, "accepted", "Summary 0."),
        Decision(labels[1].key, "rejected", "Summary 1."),
        Decision(labels[2].key, "corrected", "Summary 2.", 'Two lines,\nand a "quote".'),
        Decision(labels[3].key, "accepted", labels[3].summary),
    ]
