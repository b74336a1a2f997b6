"""The page of recipes/demo.py in headless Chromium, with a tiny model whose next token the test lets pass."""

import asyncio
import dataclasses
import http.client
import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from chromium import Browser
from dialogsum_sft import Summarizer
from dialogsum_sft.demo import load_page
from dialogsum_sft.demo.answers import Answers
from dialogsum_sft.demo.examples import Example
from dialogsum_sft.demo.waiting import Waiting

import pytest

pytestmark = pytest.mark.slow

TEXT = "Mila: The boat leaves at six.\nOren: Then I set the alarm for five."
EVIL = (
    "<script>window.hit=1</script> <img src=x onerror='window.hit=2'> **bold** [a](javascript:1) ${window.hit=3} "
    "{{value}} {{#each this}}x{{/each}} `${1+1}` &lt;b&gt; @children"
)
STATUS = "(document.querySelector('.demo .status')?.textContent ?? '')"
STATES = "[...document.querySelectorAll('.columns .summary')].map(node => node.dataset.state)"


class Held:
    """A summarizer whose every token waits while `go` is cleared; `tokens` counts them. It writes `says` instead."""

    def __init__(self, summarizer: Summarizer) -> None:
        self.summarizer, self.go, self.tokens = summarizer, threading.Event(), 0
        self.settings, self.read, self.prompts = summarizer.settings, summarizer.read, summarizer.prompts
        self.go.set()
        self.says: str | None = None

    def write(self, row: Any, prompt: Any, watch: Callable[[str], None], *, base: bool) -> Any:
        def watched(text: str) -> None:
            self.tokens += 1
            watch(self.says or text)
            while not self.go.wait(0.02):
                watch(self.says or text)

        summary = self.summarizer.write(row, prompt, watched, base=base)
        return dataclasses.replace(summary, text=self.says or summary.text)


class Site:
    """The page, served in this process."""

    def __init__(self, held: Held) -> None:
        page = load_page()
        waiting = Waiting(max_waiting=2, max_per_minute=99)
        systems = [("Base model", EVIL, True), ("Tuned", "run", False)]
        self.answers = Answers(held, systems, waiting, max_characters=2000)  # type: ignore[arg-type]
        examples = [Example(EVIL, TEXT, ["The boat leaves at six.", "Oren gets up."])]
        application = page.open_page(self.answers, examples, note="A test.")
        self.server = page.uvicorn.Server(page.uvicorn.Config(application, log_level="warning"))
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/"
        self.thread = threading.Thread(target=lambda: asyncio.run(self.server.serve(sockets=[self.listener])))
        self.thread.start()

    def close(self) -> None:
        self.server.force_exit = self.server.should_exit = True
        self.thread.join(20)
        self.answers.close()

    def ask(self, path: str, method: str = "GET", **headers: str) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        return connection.getresponse().status


@pytest.fixture(scope="module")
def held(tiny_folder: Path, whole_run: Callable[..., Path]) -> Held:
    adapter = whole_run() / "adapter"
    return Held(Summarizer.from_pretrained(adapter, model_name_or_path=str(tiny_folder), max_new_tokens=12))


@pytest.fixture(scope="module")
def site(held: Held) -> Iterator[Site]:
    pytest.importorskip("gradio", reason="gradio is not installed")
    one = Site(held)
    yield one
    one.close()


@pytest.fixture
def page(browser: Browser, site: Site, held: Held) -> Iterator[Browser]:
    browser.open(site.url)
    browser.wait_for("document.querySelector('.demo .empty') && document.querySelector('textarea')")
    yield browser
    held.go.set()


def paste(browser: Browser, label: str, text: str) -> None:
    browser.run(
        f"(() => {{ const label = [...document.querySelectorAll('label')].find(node => "
        f"node.textContent.trim().startsWith('{label}')); const area = label.querySelector('textarea'); "
        f"area.value = {json.dumps(text)}; area.dispatchEvent(new Event('input', {{bubbles: true}})); }})()"
    )


def click(browser: Browser, name: str) -> None:
    button = f"[...document.querySelectorAll('button')].find(node => node.textContent.trim() === '{name}')"
    browser.wait_for(f"{button} && !{button}.disabled")
    browser.run(f"{button}.click()")


def test_pasted_is_summarised_by_both_and_compared_with_a_reference(page: Browser, held: Held, site: Site) -> None:
    paste(page, "Dialogue", TEXT)
    paste(page, "Reference", "The boat leaves at six.")
    held.go.clear()
    click(page, "Summarise")
    page.wait_for(f"{STATES}.join() === 'writing,'")
    assert page.run(STATUS) == "Writing …"
    held.go.set()
    page.wait_for(f"{STATUS}.startsWith('Done in')")
    shown = page.run("[...document.querySelectorAll('.prediction')].map(node => node.textContent)")
    assert shown[1] == held.summarizer.summarize(TEXT)
    figures = page.run("[...document.querySelectorAll('.scores')].map(node => node.innerText.split('\\n').join(' '))")
    record = held.summarizer.summarize(TEXT, records=True)
    assert f"prompt tokens {record.prompt_tokens} generated tokens {record.completion_tokens} seconds" in figures[1]
    assert figures[0].startswith("ROUGE-1 ")
    assert page.run("document.querySelectorAll('.read .turn').length") == 2
    assert page.complaints() == []
    assert [url for url in page.requests() if not url.startswith(site.url)] == []


def test_an_example_is_chosen_with_its_references(page: Browser) -> None:
    page.run("document.querySelector('[role=listbox], input[role=combobox], input[aria-label^=Example]').focus()")
    page.wait_for("document.querySelector('[role=option]')")
    page.run("document.querySelector('[role=option]').dispatchEvent(new MouseEvent('mousedown', {bubbles: true}))")
    page.wait_for("[...document.querySelectorAll('textarea')].some(area => area.value.startsWith('Mila'))")
    values = page.run("[...document.querySelectorAll('textarea')].map(area => area.value)")
    assert values == [TEXT, "The boat leaves at six.\n\nOren gets up."]
    assert page.run("window.hit") is None


def test_stop_ends_the_generation(page: Browser, held: Held) -> None:
    paste(page, "Dialogue", TEXT)
    held.go.clear()
    held.tokens = 0
    click(page, "Summarise")
    page.wait_for(f"{STATES}.join() === 'writing,'")
    click(page, "Stop")
    page.wait_for(f"{STATUS}.startsWith('Stopped after')")
    assert page.run(STATES) == ["stopped", ""]
    held.go.set()
    assert held.tokens < 12
    page.run("new Promise(done => setTimeout(done, 1000))")  # Stop also ends a click of this moment
    click(page, "Summarise")
    page.wait_for(f"{STATUS}.startsWith('Done in')")


def test_a_second_tab_waits_in_the_queue_and_a_closed_one_makes_room(page: Browser, held: Held, site: Site) -> None:
    paste(page, "Dialogue", TEXT)
    held.go.clear()
    click(page, "Summarise")
    page.wait_for(f"{STATES}.join() === 'writing,'")
    first, _ = page.tab, page.new_tab()
    page.look(1280, 900)
    page.open(site.url)
    page.wait_for("document.querySelector('.demo .empty') && document.querySelector('textarea')")
    paste(page, "Dialogue", TEXT)
    click(page, "Summarise")
    page.wait_for(f"{STATUS} === 'In the queue: 1 request is served before this one.'")
    second, page.tab = page.tab, first
    page.call("Page.navigate", url="about:blank")
    page.tab = second
    page.wait_for(f"{STATES}.join() === 'writing,'")
    held.go.set()
    page.wait_for(f"{STATUS}.startsWith('Done in')")
    page.call("Page.close")
    page.tab = first


def test_markup_and_templates_are_shown_as_text(page: Browser, held: Held) -> None:
    paste(page, "Dialogue", f"Mila {EVIL}\nMila: {EVIL}\nOren: {EVIL}")
    paste(page, "Reference", EVIL)
    held.says = EVIL
    held.go.clear()
    click(page, "Summarise")
    page.wait_for(f"document.querySelector('.prediction')?.textContent === {json.dumps(EVIL)}")
    held.go.set()
    page.wait_for(f"{STATUS}.startsWith('Done in')")
    held.says = None
    assert page.run("[...document.querySelectorAll('.prediction')].map(node => node.textContent)") == [EVIL, EVIL]
    assert page.run("window.hit") is None
    assert page.run("document.querySelectorAll('.demo script, .demo img, .demo a, .demo strong').length") == 0
    assert EVIL in page.run("document.querySelector('.read').textContent")
    assert page.run("document.querySelector('.columns h4 .quiet').textContent") == EVIL


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_scrolls_down_only(page: Browser, scheme: str) -> None:
    page.look(390, 844, scheme)
    paste(page, "Dialogue", f"Mila: {'x' * 300}\nOren: https://example.invalid/{'y' * 200}")
    click(page, "Summarise")
    page.wait_for(f"{STATUS}.startsWith('Done in')")
    assert page.run("document.documentElement.scrollWidth") == 390
    wide = "[...document.querySelectorAll('.demo, .demo *, textarea, button')].filter(node => "
    assert page.run(f"{wide}node.getBoundingClientRect().right > 390).length") == 0
    page.look(1280, 900)


def test_what_the_page_does_not_need_is_closed(site: Site) -> None:
    assert site.ask("/") == 200
    closed = ("/docs", "/redoc", "/openapi.json", "/monitoring", "/login", "/pwa_icon")
    api = ("info", "openapi.json", "upload", "file=/etc/passwd", "proxy=http://example.invalid/", "runs", "call/x")
    for path in (*closed, *(f"/gradio_api/{name}" for name in api)):
        assert (path, site.ask(path), site.ask(path, "POST")) == (path, 404, 404)
    assert site.ask("/", Host="evil.invalid") == 400
    assert site.ask("/gradio_api/queue/join", "POST", Sec_Fetch_Site="cross-site") == 403
    assert site.ask("/gradio_api/queue/join", "POST", Content_Length="99999999") == 413
