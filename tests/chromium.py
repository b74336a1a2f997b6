"""Headless Chromium for the tests of the page."""

import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


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
        flags += " --incognito"  # localStorage in memory: on a busy disk, what a page wrote was missing after a reload
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
        self.tab: str | None = None
        self.events: list[dict[str, Any]] = []
        self.tab = self.new_tab()

    def new_tab(self) -> str:
        """Open a tab and go to it; set `tab` to what this returns to come back."""
        self.tab = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.tab = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call("Emulation.setFocusEmulationEnabled", enabled=True)
        return self.tab

    def close(self) -> None:
        self.tab = None
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
        if self.tab is not None:
            command["sessionId"] = self.tab
        os.write(self._write, json.dumps(command).encode() + b"\0")
        while (message := self._message()).get("id") != self._number:
            self.events.append(message)
        assert "error" not in message, message
        return message["result"]

    def open(self, page: Path | str, fragment: str = "") -> None:
        # By way of a blank page, because another fragment of the same file would not load it again.
        for url in ("about:blank", (page.as_uri() if isinstance(page, Path) else page) + fragment):
            self.events.clear()
            self.call("Page.navigate", url=url)
            while not any(event["method"] == "Page.loadEventFired" for event in self.events):
                self.events.append(self._message())

    def run(self, script: str) -> Any:
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait_for(self, script: str, seconds: float = 20.0) -> None:
        """Wait until a script is true."""
        end = time.monotonic() + seconds
        while self.run(f"!!({script})") is not True:
            assert time.monotonic() < end, f"not true within {seconds:g} s: {script}"
            time.sleep(0.03)

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
