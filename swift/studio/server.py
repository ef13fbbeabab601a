"""Builds and runs the pages' server: NiceGUI on FastAPI behind `access.Guard`. Knows no page's content."""

from __future__ import annotations

import importlib
import logging
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from swift.studio.folders import Folders
from swift.studio.jobs import Jobs
from swift.studio.language import NAMES, Code, Language, preferred
from swift.studio.settings import TITLES, Studio

if TYPE_CHECKING:
    from starlette.responses import Response
    from starlette.types import ASGIApp

LANGUAGE, DARK = "swift_language", "swift_dark"
"""Cookies of a browser's choices."""
SLOWEST = 60
"""Seconds after which NiceGUI gives a page up: the page of runs waits for its first search of the folders."""


@dataclass(frozen=True)
class Settings:
    """`state`: the folder for what the pages make. `start`: the query of the first page's address."""

    host: str
    port: int
    folders: tuple[Path, ...]
    state: Path
    token_file: Path
    language: Code | None = None
    password_file: str | None = None
    names: tuple[str, ...] = ()
    pages: tuple[str, ...] = tuple(TITLES)
    start: tuple[tuple[str, str], ...] = ()


def run(settings: Settings, config: Callable[[str], type[Any]], tell: Callable[[str], None] = print) -> None:
    """Serves the pages until Ctrl-C or SIGTERM.

    Raises ModuleNotFoundError without NiceGUI, ValueError for wrong settings, OSError for a port in use.
    """
    from swift.studio import access

    password = access.password(settings.host, settings.password_file)
    folders = Folders.of(*settings.folders)
    listener = _listen(settings.host, settings.port)
    port = listener.getsockname()[1]
    secret = access.token(settings.token_file)
    app = create(settings, folders, config)
    names = (*settings.names, socket.gethostname(), settings.host)
    guard = access.Guard(app, secret, password, names, settings.host in access.LOOPBACK, port)
    tell(f"SWIFT studio: {_address(settings, port, secret)}")
    tell("Ctrl-C ends the pages; trainings and other jobs go on")
    _serve(guard, listener)


def create(settings: Settings, folders: Folders, config: Callable[[str], type[Any]]) -> ASGIApp:
    """The app with its pages, without the guard."""
    # before NiceGUI is imported, which reads it then
    os.environ.setdefault("NICEGUI_STORAGE_PATH", str(settings.state / "nicegui"))
    from fastapi import FastAPI
    from nicegui import ui

    studio = Studio(folders, Jobs(settings.state / "jobs", folders.first), config, settings.pages)
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    for name in settings.pages:
        _add(name, studio, settings.language)
    _add(settings.pages[0], studio, settings.language, "/")
    if "runs" in settings.pages:
        app.add_route("/report", lambda request: _report(folders, request.query_params.get("run", "")))
    ui.run_with(
        app,
        title="SWIFT studio",
        tailwind=False,
        reconnect_timeout=60,  # seconds in which a page that stalled or lost its network keeps what was typed
        show_welcome_message=False,
        gzip_middleware_factory=None,  # the guard reads pages
    )
    return app


def _add(name: str, studio: Studio, language: Code | None, path: str = "") -> None:
    from nicegui import ui

    from swift.studio import layout

    module = importlib.import_module(f"swift.studio.pages.{name}")

    @ui.page(path or f"/{name}", response_timeout=SLOWEST)
    async def page() -> None:
        request = ui.context.client.request
        code, accepted = request.cookies.get(LANGUAGE), request.headers.get("accept-language", "")
        chosen: Code = next((each for each in NAMES if each == code), language or preferred(accepted))
        dark = {"true": True, "false": False}.get(request.cookies.get(DARK, ""))
        mine = replace(studio, language=Language(chosen), dark=dark, query=dict(request.query_params))
        with layout.frame(mine, name):
            drawn = module.content(mine)
            if drawn is not None:
                await drawn


def _report(folders: Folders, run: str) -> Response:
    """The report of a run, as its files are now, confined more than a page: it has texts of a training's data."""
    from starlette.responses import HTMLResponse, PlainTextResponse

    from swift.assembly import run_page
    from swift.runs import contents, record
    from swift.studio.access import REPORT_POLICY

    try:
        text = run_page.page(contents.read(record.read(folders.inside(run))))
    except (ValueError, OSError) as error:
        return PlainTextResponse(str(error), 404)
    return HTMLResponse(text, headers={"content-security-policy": REPORT_POLICY, "cache-control": "no-store"})


def _listen(host: str, port: int) -> socket.socket:
    if not 0 <= port <= 65535:
        raise ValueError(f"--port: {port} is not a port (0 to 65535)")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise OSError(f"{host}:{port} cannot be used ({error.strerror}): --port 0 selects a free one") from None
    listener.listen(128)  # a browser may come before the server
    return listener


def _address(settings: Settings, port: int, secret: str) -> str:
    host = socket.gethostname() if settings.host in ("0.0.0.0", "::") else settings.host
    host = f"[{host}]" if ":" in host else host
    return f"http://{host}:{port}/?{urlencode([*settings.start, ('token', secret)])}"


def _serve(app: ASGIApp, listener: socket.socket) -> None:
    import uvicorn

    logging.getLogger("nicegui").setLevel(logging.ERROR)
    config = uvicorn.Config(app, log_level="error", access_log=False, server_header=False, timeout_graceful_shutdown=2)
    uvicorn.Server(config).run(sockets=[listener])
