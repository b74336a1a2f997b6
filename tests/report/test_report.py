"""The report as a file, and in headless Chromium."""

import base64
import copy
import hashlib
import json
import os
import select
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from dialogsum_sft import InputError
from dialogsum_sft.evaluation.diagnostics import Diagnosis
from dialogsum_sft.evaluation.rouge import rouge_scores
from dialogsum_sft.evaluation.runs import Run, score_run
from dialogsum_sft.report import report

import pytest

SAMPLE = Path(report.__file__).parents[1] / "data" / "sample" / "test.jsonl"
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
EVIL = "<script>window.hacked = true</script></script><img src=x onerror='window.hacked = true'>\"'&amp;"


def sample_rows(count: int) -> list[dict[str, Any]]:
    """`count` dialogues from the bundled ones, shortened differently, with three references each."""
    grouped: dict[str, dict[str, Any]] = {}
    for line in SAMPLE.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        one = grouped.setdefault(
            row["dialogue"], {"dialogue": row["dialogue"], "references": [], "topic": row["topic"]}
        )
        one["references"].append(row["summary"])
    rows = []
    for number in range(count):
        row = list(grouped.values())[number % len(grouped)]
        turns = row["dialogue"].split("\n")
        kept = turns[: max(2, len(turns) - number // len(grouped) % 4)]
        rows.append({"id": f"test_{number}", **row, "dialogue": "\n".join(kept)})
    return rows


def zero_shot(row: dict[str, Any], number: int) -> str:
    said = " ".join(row["dialogue"].split("\n")[: 1 + number % 3]).replace("#Person1#:", "Person 1 said")
    return said if number % 37 else ""


def fine_tuned(row: dict[str, Any], number: int) -> str:
    words = row["references"][number % 3].split()
    rest = row["dialogue"].split()[number % 17 : number % 17 + 9]
    planted = ["#Person9#", "paid", "4711", "euros", "to", "Zanzibar."] if number % 20 == 0 else []
    return " ".join([*words[: len(words) // 3], *rest[: number % 10], *planted])


def make_run(
    name: str, folder: Path, rows: list[dict[str, Any]], summarise: Callable[[dict[str, Any], int], str]
) -> Run:
    predictions = [
        row | {"prediction": summarise(row, i), "finish_reason": "stop" if i % 19 else "length"}
        for i, row in enumerate(rows)
    ]
    return score_run(
        name,
        folder,
        predictions,
        model={"base": "SmolLM2-135M-Instruct", "adapter": None},
        data={"dataset_name": "sample", "split": "test"},
        seconds=12.3,
    )


def write_log(path: Path, steps: int) -> Path:
    lines: list[dict[str, Any]] = [{"format": 1}]
    for step in range(1, steps + 1):
        lines.append(
            {
                "step": step,
                "epoch": step / 20,
                "loss": 1.6 + 2 / (1 + step / 8) + 0.1 * (step % 3),
                "learning_rate": 1e-3 * (1 - step / steps),
                "grad_norm": 1 + 1 / step,
            }
        )
        if step % 15 == 0:
            rouge = {f"eval_rouge{n}_mean": 30 - 8 * i - 60 / step for i, n in enumerate("12L")}
            lines.append({"step": step, "eval_loss": 1.9 + 2 / (1 + step / 8), **rouge})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    """Two runs over 24 dialogues."""
    folder = tmp_path_factory.mktemp("small")
    rows = sample_rows(24)
    return [make_run("zero-shot", folder / "a", rows, zero_shot), make_run("tuned", folder / "b", rows, fine_tuned)]


class Page(HTMLParser):
    """The tags, attributes, scripts and tables of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.tables: list[list[str]] = []
        self._inside: str | None = None
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag
        if tag == "script":
            self.scripts.append("")
        if tag == "tr":
            self.tables.append([])
        if tag in ("th", "td"):
            self.tables[-1].append("")

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[-1] += data
        elif self.tables and self.tables[-1]:
            self.tables[-1][-1] += data

    def handle_endtag(self, tag: str) -> None:
        self._inside = None if tag == "script" else self._inside


def write(folder: Path, runs: list[Run], **options: Any) -> Page:
    report.write_report(folder / "report.html", runs, **{"title": "A report"} | options)
    return Page((folder / "report.html").read_text(encoding="utf-8"))


def test_page_refers_to_no_other_file_and_its_policy_allows_its_script_only(small: list[Run], tmp_path: Path):
    page = write(tmp_path, small)
    links = [value for _, attrs in page.tags for name in ("src", "href") if (value := attrs.get(name)) is not None]
    assert all(link.startswith("#") or link == "data:," for link in links)
    assert not {tag for tag, _ in page.tags} & {"img", "iframe", "object", "embed", "base"}
    policy = next(attrs["content"] for _, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy")
    digest = base64.b64encode(hashlib.sha256(page.scripts[0].encode()).digest()).decode()
    assert policy is not None
    assert policy.startswith("default-src 'none'; ")
    assert f"script-src 'sha256-{digest}';" in policy
    assert "url(" not in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_table_has_the_scores_of_the_record(small: list[Run], tmp_path: Path):
    rows = write(tmp_path, small).tables
    for run in small:
        metrics = run.record
        row = next(row for row in rows if row[0] == run.name)
        for cell, kind in zip(row[1:4], ("rouge1", "rouge2", "rougeL"), strict=True):
            low, high = metrics[kind]["ci95"]
            assert cell == f"{metrics[kind]['mean']:.2f}{low:.1f} to {high:.1f}"
        assert row[4] == f"{100 * metrics['share_of_human']['rouge1']:.0f}%"
    human = next(row for row in rows if row[0] == "human")
    assert human[1:4] == [f"{metrics['human'][kind]['mean']:.2f}" for kind in ("rouge1", "rouge2", "rougeL")]
    assert {"lead-1", "lead-3", "longest", "longest-3", "whole dialogue", "constant"} <= {
        row[0] for row in rows if row
    }


def test_reader_has_every_dialogue_with_its_scores(small: list[Run], tmp_path: Path):
    data = json.loads(write(tmp_path, small).scripts[-1])
    rows = small[1].rows
    assert [one["id"] for one in data["dialogues"]] == [row["id"] for row in rows]
    assert data["systems"] == ["zero-shot", "tuned"]
    for one, row in zip(data["dialogues"], rows, strict=True):
        assert "".join(text for text, _ in one["outputs"][1]["text"]) == row["prediction"]
        assert one["references"] == row["references"]
        scores = rouge_scores([row["prediction"]], [row["references"]])
        assert one["outputs"][1]["scores"] == [
            pytest.approx(sum(scores[kind][0]) / 3, abs=0.005) for kind in ("rouge1", "rouge2", "rougeL")
        ]
    assert data["dialogues"][0]["outputs"][1]["findings"] == ["unfinished", "name", "number", "tag"]


def planted(folder: Path) -> list[Run]:
    """Two runs with markup in every text that a user can write."""
    rows = [
        {
            "id": f"{EVIL}{i}",
            "topic": f"topic {EVIL}",
            "dialogue": f"#Person1#: {EVIL}\n{EVIL}: hello",
            "references": [f"{EVIL} says hello.", "Hello \u2028 there."],
        }
        for i in range(6)
    ]
    run = make_run(
        f"system {EVIL}", folder, rows, lambda row, number: f"{EVIL} said hello to #Person7# \U0001f600 99 times."
    )
    record = copy.deepcopy(run.record)
    record["model"] = {"base": EVIL, EVIL: EVIL}
    record["data"] = {"dataset_name": EVIL}
    record["baselines"][EVIL] = record["baselines"]["lead-1"]
    record["slices"][EVIL] = {EVIL: {"examples": 3, "rouge1": 1.0}, "b": {"examples": 3, "rouge1": 2.0}}
    return [replace(run, record=record), replace(run, record=record, name="other")]


def test_planted_markup_stays_text(small: list[Run], tmp_path: Path):
    page = write(tmp_path, planted(tmp_path), title=f"title {EVIL}")
    clean = write(tmp_path, small)
    assert len(page.scripts) == len(clean.scripts) == 2
    assert page.scripts[0] == clean.scripts[0]
    assert not [attrs for tag, attrs in page.tags if tag == "img" or "onerror" in attrs]
    data = json.loads(page.scripts[1])
    assert data["dialogues"][0]["id"] == f"{EVIL}0"
    assert data["dialogues"][0]["references"][1] == "Hello \u2028 there."
    assert "<" not in page.scripts[1]


def test_segments_count_characters_outside_the_basic_plane_once():
    nothing: dict[str, Any] = {name: [] for name in ("wrong_tags", "foreign_tags", "unsupported_numbers")}
    numbers = dict.fromkeys(("length_ratio", "compression", "copied_run", "novel_bigrams", "repeated_trigrams"), 0.0)
    text = "\U0001f600 Ann met Bo"
    found = Diagnosis(
        words=3, unfinished=False, empty=False, unsupported_names=[(2, 5), (10, 12)], **numbers, **nothing
    )
    assert report.segments(text, found) == [["\U0001f600 ", ""], ["Ann", "name"], [" met ", ""], ["Bo", "name"]]


def test_single_run_with_one_reference_has_no_human_and_no_differences(tmp_path: Path):
    rows = [row | {"references": row["references"][:1], "topic": None} for row in sample_rows(3)]
    page = write(tmp_path, [make_run("tuned", tmp_path, rows, zero_shot)])
    sections = [attrs["id"] for tag, attrs in page.tags if tag == "section"]
    assert sections == ["scores", "spread", "faults", "slices", "dialogues", "record"]
    names = [row[0] for row in page.tables if row]
    assert "lead-3" in names
    assert "human" not in names
    assert "ROUGE-1, mean" in names
    assert "ROUGE-1, reference 1" not in names
    assert not [name for name in names if "−" in name]


def test_script_that_the_default_tokenizer_drops_scores_0_and_has_no_share_of_human(tmp_path: Path):
    row = {"id": "1", "dialogue": "甲：你好。\n乙：再见。", "references": ["甲问好。", "乙告别。"]}
    page = write(tmp_path, [make_run("a", tmp_path, [row, row | {"id": "2"}], lambda row, number: "甲走了。")])
    assert next(row for row in page.tables if row[:1] == ["a"])[1:5] == ["0.000.0 to 0.0"] * 3 + ["–"]


def test_no_count_of_cut_off_summaries_without_finish_reasons(small: list[Run], tmp_path: Path):
    rows = [{name: value for name, value in row.items() if name != "finish_reason"} for row in small[1].rows]
    row = next(row for row in write(tmp_path, [replace(small[1], rows=rows)]).tables if row[0].startswith("cut off"))
    assert row[1] == ""


def test_training_log_may_miss_values_but_not_whole_lines(tmp_path: Path):
    path = tmp_path / "training.jsonl"
    lines = ['{"format": 1}', '{"step": 1, "loss": 2.5, "grad_norm": null}', '{"loss": 9}', '{"step": 2, "loss": NaN}']
    lines += ['{"step": 2, "eval_loss": 2.0, "note": "text"}', '{"step": 3, "loss": 1.5}', '{"step": 4, "lo']
    path.write_text("\n".join(lines), encoding="utf-8")
    assert report.read_training_log(path) == {"loss": [(1, 2.5), (3, 1.5)], "eval_loss": [(2, 2.0)]}
    path.write_text('{"format": 1}\n{"step"\n{"step": 3}\n', encoding="utf-8")
    with pytest.raises(InputError, match=r"training.jsonl line 2 is not a JSON object: remove it"):
        report.read_training_log(path)


def test_curves_need_two_logged_values(small: list[Run], tmp_path: Path):
    log = write_log(tmp_path / "training.jsonl", 30)
    labels = [str(attrs.get("aria-label")) for _, attrs in write(tmp_path, small, training_log=log).tags]
    drawn = [label.partition(":")[0] for label in labels]
    assert {"Loss", "ROUGE of validation samples", "Learning rate", "Gradient norm"} <= set(drawn)
    assert "Token accuracy" not in drawn
    page = write(tmp_path, small, training_log=tmp_path / "none.jsonl")
    assert "training" not in [attrs.get("id") for _, attrs in page.tags]


def test_runs_that_are_not_comparable_are_refused(small: list[Run], tmp_path: Path):
    rows = [*small[1].rows[:2], small[1].rows[2] | {"references": ["Another."]}, *small[1].rows[3:]]
    with pytest.raises(InputError, match="1 dialogues or their references differ, the first on line 3"):
        write(tmp_path, [small[0], replace(small[1], rows=rows)])
    with pytest.raises(InputError, match="5 predictions, not 24"):
        write(tmp_path, [small[0], replace(small[1], rows=rows[:5])])
    assert not (tmp_path / "report.html").exists()


class Browser:
    """Headless Chromium, driven by its DevTools protocol over a pipe: no port, no package."""

    def __init__(self, folder: Path) -> None:
        assert CHROMIUM is not None
        theirs_in, self._write = os.pipe()
        self._read, theirs_out = os.pipe()

        def as_three_and_four() -> None:
            # By way of numbers that none of the four descriptors has.
            os.dup2(theirs_in, 100)
            os.dup2(theirs_out, 101)
            os.dup2(100, 3)
            os.dup2(101, 4)

        flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
        flags += " --disable-component-update --disable-sync --disable-dev-shm-usage --hide-scrollbars"
        self._process = subprocess.Popen(
            [CHROMIUM, *flags.split(), f"--user-data-dir={folder}", "--remote-debugging-pipe"],
            preexec_fn=as_three_and_four,
            close_fds=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={name: value for name, value in os.environ.items() if name != "DISPLAY"},
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._buffer = b""
        self._number = 0
        self._session: str | None = None
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call("Emulation.setFocusEmulationEnabled", enabled=True)

    def close(self) -> None:
        self._session = None
        self.call("Browser.close")
        self._process.wait(30)
        os.close(self._read)
        os.close(self._write)

    def _message(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            assert select.select([self._read], [], [], 60)[0], "Chromium has not answered for a minute"
            self._buffer += (read := os.read(self._read, 1 << 20))
            assert read, "Chromium has ended"
        message, self._buffer = self._buffer.split(b"\0", 1)
        return json.loads(message)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        command = {"id": self._number, "method": method, "params": params}
        if self._session is not None:
            command["sessionId"] = self._session
        os.write(self._write, json.dumps(command).encode() + b"\0")
        while (message := self._message()).get("id") != self._number:
            self.events.append(message)
        assert "error" not in message, message
        return message["result"]

    def open(self, path: Path, fragment: str = "") -> None:
        # By way of a blank page, because another fragment of the same file would not load it again.
        for url in ("about:blank", path.as_uri() + fragment):
            self.events.clear()
            self.call("Page.navigate", url=url)
            while not any(event["method"] == "Page.loadEventFired" for event in self.events):
                self.events.append(self._message())

    def run(self, script: str) -> Any:
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def press(self, *keys: str) -> None:
        for key in keys:
            text = {"text": key} if len(key) == 1 else {"text": "\r"} if key == "Enter" else {}
            self.call("Input.dispatchKeyEvent", type="keyDown", key=key, **text)
            self.call("Input.dispatchKeyEvent", type="keyUp", key=key)

    def look(self, width: int, height: int, scheme: str = "light") -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500
        )
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def complaints(self) -> list[Any]:
        """Messages, errors and refused requests on the console."""
        bad = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
        return [event for event in self.events if event["method"] in bad]

    def requests(self) -> list[str]:
        sent = [e["params"]["request"]["url"] for e in self.events if e["method"] == "Network.requestWillBeSent"]
        return [url for url in sent if not url.startswith("data:")]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no chromium is installed")
    one = Browser(tmp_path_factory.mktemp("profile"))
    yield one
    one.close()


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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_list_grows_while_it_is_stepped_through(page: Browser):
    page.press(*["j"] * 70)
    assert page.run(SHOWN) == "test_70"
    box = "document.querySelector('{}').getBoundingClientRect()"
    outer, inner = box.format("#list"), box.format("[aria-current]")
    assert page.run(f"{outer}.top <= {inner}.top && {inner}.bottom <= {outer}.bottom + 1")


@pytest.mark.slow
def test_fragment_of_the_address_opens_its_dialogue(page: Browser, large: Path):
    page.open(large, "#id=test_321")
    assert page.run(SHOWN) == "test_321"


@pytest.mark.slow
def test_marks_name_the_fault(page: Browser):
    marks = page.run("[...document.querySelectorAll('.s1 .prediction mark')].map(n => [n.className, n.textContent])")
    assert marks == [["tag", "#Person9#"], ["number", "4711"], ["name", "Zanzibar"]]


@pytest.mark.slow
def test_switch_between_light_and_dark(page: Browser):
    color = "getComputedStyle(document.body).backgroundColor"
    light = page.run(color)
    page.run("document.getElementById('theme').click()")
    assert page.run(color) != light
    page.run("document.getElementById('theme').click()")
    assert page.run(color) == light
    page.run("localStorage.clear()")


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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
