"""recipes/demo.py: what it refuses, where it listens, how it ends. tests/demo drives its page."""

import contextlib
import http.client
import importlib.util
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from conftest import ROOT, Recipe
from dialogsum_sft import Summarizer
from fake_endpoint import serving

import pytest

ENDPOINT = ("--engine=openai", "--base_url=http://127.0.0.1:1/v1", "--served_model_name=m")


def refused(recipe: Recipe, capsys: pytest.CaptureFixture[str], *args: Any) -> str:
    with pytest.raises(SystemExit) as end:
        recipe("demo", *args)
    assert end.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    return line


def test_without_gradio_it_says_how_to_install_it(
    recipe: Recipe, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "gradio" else find(name, *more)
    )
    line = refused(recipe, capsys, *ENDPOINT)
    assert line == "error: the page needs gradio: pip install gradio"


def test_vllm_is_refused(recipe: Recipe, capsys: pytest.CaptureFixture[str], tiny_folder: Path) -> None:
    line = refused(recipe, capsys, f"--model_name_or_path={tiny_folder}", "--engine=vllm")
    assert "start `vllm serve`, and give --engine openai" in line


@pytest.mark.slow
def test_a_port_in_use_is_one_line_before_a_model_is_loaded(
    recipe: Recipe, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("gradio", reason="gradio is not installed")
    monkeypatch.setattr(Summarizer, "__init__", lambda *_: pytest.fail("the model was opened"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = refused(recipe, capsys, *ENDPOINT, f"--port={port}")
    assert line == f"error: --port {port}: another program has it: give another, or 0 for any free one"
    assert "give another, or 0" in refused(recipe, capsys, *ENDPOINT, "--port=99999")


@pytest.mark.slow
def test_it_listens_on_this_machine_alone_until_ctrl_c(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("gradio", reason="gradio is not installed")
    with serving(monkeypatch) as server, (tmp_path / "log").open("w+") as log:
        args = ["--engine=openai", f"--base_url={server.url}", "--served_model_name=m", "--port=0"]
        command = [sys.executable, ROOT / "recipes" / "demo.py", *args]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(command, stderr=log, stdout=log, env=environment, cwd=tmp_path)
        try:
            end = time.monotonic() + 60
            while not (found := re.search(r"http://127\.0\.0\.1:(\d+) ", (tmp_path / "log").read_text())):
                assert process.poll() is None, (tmp_path / "log").read_text()
                assert time.monotonic() < end
                time.sleep(0.05)
            port = int(found[1])
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
            connection.request("GET", "/")
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 200
            assert answer.headers["Content-Security-Policy"].startswith("default-src 'self'; ")
            with contextlib.suppress(OSError), socket.create_connection((socket.gethostname(), port), 2) as other:
                assert other.getpeername()[0].startswith("127.")
            connection.request("GET", "/gradio_api/heartbeat/abc")  # of a page that is open
            assert connection.getresponse().status == 200
            start = time.monotonic()
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 0
            assert time.monotonic() - start < 10
            assert (tmp_path / "log").read_text().endswith("(Ctrl-C ends it)\n")
        finally:
            process.kill()
            process.wait()
