"""The report as a file, and as headless Chromium shows it."""

import json
import os
import re
import select
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from dialogsum_sft import InputError, checkpoints, report, scoring

import pytest

SAMPLE = Path(report.__file__).parent / "sample" / "test.jsonl"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
EVIL = "<script>window.hacked = true</script></script><img src=x onerror='window.hacked = true'>\"'&amp;"


def sample_rows(count: int) -> list[dict[str, Any]]:
    """The bundled test dialogues over and over, of different lengths, with three references each."""
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


def tuned(row: dict[str, Any], number: int) -> str:
    words = row["references"][number % 3].split()
    rest = row["dialogue"].split()[number % 17 : number % 17 + 9]
    planted = ["#Person9#", "paid", "4711", "euros", "to", "Zanzibar."] if number % 20 == 0 else []
    return " ".join([*words[: len(words) // 3], *rest[: number % 10], *planted])


def write_run(
    folder: Path,
    rows: list[dict[str, Any]],
    summarise: Callable[[dict[str, Any], int], str],
    scored: int | None = None,
) -> Path:
    """A folder as eval.py leaves it; metrics.json is of the first `scored` rows, as scoring takes seconds of hundreds."""
    predictions = [
        row | {"prediction": summarise(row, i), "finish_reason": "stop" if i % 19 else "length"}
        for i, row in enumerate(rows)
    ]
    record = {
        "format": 1,
        **scoring.score(predictions[:scored]),
        "model": {"base": "SmolLM2-135M-Instruct", "adapter": None},
        "data": {"dataset_name": "sample", "split": "test"},
        "seconds": 12.3,
    }
    checkpoints.write_jsonl(folder / "predictions.jsonl", predictions)
    checkpoints.write_json(folder / "metrics.json", record)
    return folder


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


class Browser:
    """Headless Chromium by its DevTools protocol over a pipe: no port, no package, and every event is seen."""

    def __init__(self, folder: Path) -> None:
        assert CHROMIUM is not None
        theirs_in, self._write = os.pipe()
        self._read, theirs_out = os.pipe()

        def as_three_and_four() -> None:
            # By way of numbers that none of the four has.
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
            self._buffer += os.read(self._read, 1 << 20)
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
        for url in ("about:blank", path.as_uri() + fragment):  # else another fragment of the same file is no new page
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
        """What the console got: messages, errors, refused requests."""
        bad = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
        return [event for event in self.events if event["method"] in bad]

    def requests(self) -> list[str]:
        sent = [e["params"]["request"]["url"] for e in self.events if e["method"] == "Network.requestWillBeSent"]
        return [url for url in sent if not url.startswith("data:")]
