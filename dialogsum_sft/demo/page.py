"""The page: a Gradio application that only this machine can reach, and that loads nothing from elsewhere."""

import contextlib
import errno
import functools
import itertools
import logging
import re
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dialogsum_sft import InputError
from dialogsum_sft.demo.answers import Answer, Answers, TurnRead
from dialogsum_sft.demo.examples import Example
from dialogsum_sft.report.report import FINDINGS

import gradio as gr
import jinja2
import uvicorn
from fastapi import FastAPI
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HOST = "127.0.0.1"
# What the page itself asks for. Gradio's uploads, files, proxy, API and their documentation are closed.
_PATHS = re.compile(
    r"/|/(config|theme\.css|favicon\.ico|robots\.txt|manifest\.json)/?|/(assets|static)/.+"
    r"|/gradio_api/(queue/join|queue/data|cancel|reset|startup-events|app_id|heartbeat/\w+|run/predict)/?"
)
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; font-src 'self' data:; frame-ancestors 'none'; form-action 'none'; base-uri 'self'"
)
_FONT = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif")


def open_page(answers: Answers, examples: Sequence[Example], *, note: str) -> FastAPI:
    """The application. `note` stands under the title."""
    stops: dict[str, threading.Event] = {}  # of the requests of each open page

    def summarise(dialogue: str, references: str, request: gr.Request) -> Iterator[tuple[Any, ...]]:
        session = str(request.session_hash)
        if session in stops:
            raise gr.Error("This page is writing already: stop it first.")
        stops[session] = stopped = threading.Event()
        shown = None
        try:
            for answer in answers.stream(dialogue or "", references or "", stopped):
                read = gr.skip() if answer.turns is not None and answer.turns is shown else render_turns(answer.turns)
                shown = answer.turns
                yield render(answer), read, gr.Button(interactive=False), gr.Button(interactive=True)
            yield render(answer, ended=True), gr.skip(), gr.Button(interactive=True), gr.Button(interactive=False)
        finally:
            stops.pop(session, None)

    def stop(request: gr.Request) -> None:
        if session := stops.get(str(request.session_hash)):
            session.set()

    def choose(number: int | None) -> tuple[str, str]:
        example = examples[number] if number is not None else Example("", "")
        return example.dialogue, "\n\n".join(example.references)

    with gr.Blocks(title="Dialogue summaries", analytics_enabled=False) as page:
        gr.HTML(_render("header.html.jinja", note=note), apply_default_css=False)
        with gr.Row(equal_height=False):
            with gr.Column(scale=5, min_width=300):
                chosen = gr.Dropdown(
                    [(example.label, number) for number, example in enumerate(examples)],
                    value=None,
                    label=f"Example ({len(examples)} to choose from)",
                    visible=bool(examples),
                )
                dialogue = gr.Textbox(
                    label="Dialogue",
                    placeholder="Mila: The boat leaves at six.\nOren: Then I set the alarm for five.",
                    lines=12,
                    max_lines=20,
                    max_length=answers.max_characters,
                )
                references = gr.Textbox(
                    label="Reference summaries (optional, an empty line between two)",
                    placeholder="With a reference, ROUGE is shown.",
                    lines=2,
                    max_lines=6,
                    max_length=answers.max_characters,
                )
                with gr.Row():
                    go = gr.Button("Summarise", variant="primary", min_width=120)
                    halt = gr.Button("Stop", interactive=False, min_width=80)
            with gr.Column(scale=7, min_width=300):
                result = gr.HTML(
                    _render("empty.html.jinja", systems=answers.systems), apply_default_css=False, js_on_load=None
                )
                turns = gr.HTML("", apply_default_css=False, js_on_load=None)
        hidden: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        go.click(
            summarise,
            [dialogue, references],
            [result, turns, go, halt],
            concurrency_limit=answers.waiting.max_waiting + 2,
            **hidden,
        )
        halt.click(stop, None, None, queue=False, **hidden)
        chosen.input(choose, chosen, [dialogue, references], queue=False, **hidden)
        page.unload(stop)
    page.queue(max_size=answers.waiting.max_waiting + 2)
    application = gr.mount_gradio_app(
        FastAPI(docs_url=None, redoc_url=None, openapi_url=None),
        page,
        "/",
        server_name=HOST,
        footer_links=[],
        run_history=False,
        allowed_paths=[],
        ssr_mode=False,
        enable_monitoring=False,
        mcp_server=False,
        theme=_theme(),
        head=f"<style>{_styles()}</style>",
        app_kwargs={"docs_url": None, "redoc_url": None, "openapi_url": None},
    )
    application.add_middleware(_Closed, max_bytes=8 * answers.max_characters + 100_000)
    application.add_middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])  # other names: rebinding
    return application


def listen(port: int) -> socket.socket:
    """Hold a port of this machine, before a model is loaded. Raises InputError for one that is not free."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
        listener.listen()  # from now on a browser waits instead of failing
    except (OSError, OverflowError) as error:
        in_use = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
        reason = "another program has it" if in_use else str(error)
        raise InputError(f"--port {port}: {reason}: give another, or 0 for any free one") from error
    return listener


def serve(application: FastAPI, listener: socket.socket, announce: Any) -> None:
    """Serve until Ctrl-C or SIGTERM; `announce` gets the address."""
    server = uvicorn.Server(uvicorn.Config(application, log_level="warning", timeout_graceful_shutdown=1))
    # Pages that are open have requests that never end, of which uvicorn would tell with a traceback for each.
    logging.getLogger("uvicorn.error").addFilter(lambda record: not server.should_exit)
    announce(f"http://{HOST}:{listener.getsockname()[1]}")
    with listener, contextlib.suppress(KeyboardInterrupt):
        server.run(sockets=[listener])


class _Closed:
    """Refuses what the page does not ask for, large bodies, and requests of other pages.

    By its policy the browser loads nothing for the page from other hosts.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app, self.max_bytes = app, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        length = headers.get("content-length", "0")
        refusal = None
        if not _PATHS.fullmatch(scope["path"]):
            refusal = PlainTextResponse("not a part of this page", 404)
        elif headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            refusal = PlainTextResponse("asked for by another page", 403)
        elif not length.isdigit() or int(length) > self.max_bytes or "transfer-encoding" in headers:
            refusal = PlainTextResponse("too large", 413)
        if refusal is not None:
            await refusal(scope, receive, send)
            return

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = MutableHeaders(scope=message)
                own["Content-Security-Policy"] = _POLICY
                own["Referrer-Policy"], own["X-Content-Type-Options"] = "no-referrer", "nosniff"
            await send(message)

        await self.app(scope, receive, sent)


def render(answer: Answer, *, ended: bool = False) -> str:
    return _render("answer.html.jinja", answer=answer, findings=FINDINGS, ended=ended)


def render_turns(turns: Sequence[TurnRead] | None) -> str:
    if turns is None:
        return ""
    states = [turn.state for turn in turns]
    runs = [(list(run), gone) for gone, run in itertools.groupby(turns, key=lambda turn: turn.state == "dropped")]
    counts = {"number": len(turns), "dropped": states.count("dropped"), "cut": states.count("cut")}
    return _render("turns.html.jinja", runs=runs, **counts)


def _render(name: str, **values: Any) -> str:
    return _templates().get_template(name).render(values)


@functools.cache
def _templates() -> jinja2.Environment:
    loader = jinja2.PackageLoader("dialogsum_sft.demo", "")
    undefined = jinja2.StrictUndefined
    return jinja2.Environment(
        loader=loader, autoescape=True, undefined=undefined, trim_blocks=True, lstrip_blocks=True
    )


def _styles() -> str:
    """The report's styles, within the parts that are ours, and the page's own."""
    folder = Path(__file__).parent
    report = (folder.parent / "report" / "report.css").read_text(encoding="utf-8")
    colours, rest = report.split("}\n", 1)
    return f"{colours}}}\n.demo {{\n{rest}\n}}\n{(folder / 'demo.css').read_text(encoding='utf-8')}"


def _theme() -> Any:
    """Gradio's parts in the colours of the report."""
    light = {"paper": "#faf9f6", "card": "#ffffff", "ink": "#1c2024", "quiet": "#5a6068", "line": "#e2dfd8"}
    dark = {"paper": "#131619", "card": "#1a1e22", "ink": "#e7e5e0", "quiet": "#a3a9b1", "line": "#2d3339"}
    parts: Mapping[str, Sequence[str]] = {
        "paper": ("body_background_fill", "background_fill_secondary"),
        "card": ("background_fill_primary", "block_background_fill", "input_background_fill"),
        "ink": ("body_text_color", "button_primary_background_fill", "button_primary_background_fill_hover"),
        "quiet": ("body_text_color_subdued", "block_label_text_color", "block_title_text_color"),
        "line": ("border_color_primary", "block_border_color", "input_border_color"),
    }
    colours: dict[str, str] = {}
    for part, names in parts.items():
        for name in names:
            colours |= {name: light[part], f"{name}_dark": dark[part]}
    colours |= {"button_primary_text_color": light["card"], "button_primary_text_color_dark": dark["paper"]}
    colours |= {"input_border_width": "1px", "input_border_width_dark": "1px"}
    return gr.themes.Base(font=_FONT, font_mono=("ui-monospace", "monospace")).set(**colours)
