"""A studio's server as a process, and a browser that opens it. Knows no page."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
missing = [name for name in ("nicegui", "playwright") if find_spec(name) is None]
needs_pages = pytest.mark.skipif("nicegui" in missing, reason="needs the extra `studio`")
needs_browser = pytest.mark.skipif(
    CHROMIUM is None or bool(missing),
    reason="no Chromium (tests/install_chromium.sh installs it), or no playwright and nicegui (the extra `dev`)",
)
ARGUMENTS = (
    "--no-sandbox",  # of root, in containers
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
PATIENCE = 250.0


class Server:
    """`swift studio` in a folder, started on a free port, and on the same one again after `kill`."""

    def __init__(self, folder: Path, *words: str, verb: str = "studio") -> None:
        self.folder, self.words, self.verb, self.port = folder, words, verb, 0
        self.start()

    def start(self) -> None:
        self.log = self.folder / "studio.log"
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        command = [sys.executable, "-m", "swift.cli", self.verb, "--port", str(self.port), *self.words]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, cwd=self.folder, env=environment, stdout=log, stderr=log)
        found = wait_for(lambda: re.search(r"http://[^:]+:(\d+)/\S*", self.log.read_text()) or self._ended(), "address")
        self.address, self.port = found[0], int(found[1])
        self.root = f"http://127.0.0.1:{self.port}"

    def kill(self, number: int = signal.SIGKILL) -> None:
        self.process.send_signal(number)
        self.process.wait(PATIENCE)

    def _ended(self) -> None:
        assert self.process.poll() is None, self.log.read_text()


def address_of(page: Any) -> str:
    """The page's address, asked for: Playwright's `page.url` is what the last call has heard of."""
    found: str = page.evaluate("location.href")
    return found


def wait_for(look: Callable[[], Any], what: str, patience: float = PATIENCE) -> Any:
    end = time.monotonic() + patience
    while time.monotonic() < end:
        if found := look():
            return found
        time.sleep(0.1)
    raise AssertionError(f"not within {patience:g} s: {what}")


@contextmanager
def served(folder: Path, *words: str, verb: str = "studio") -> Iterator[Server]:
    server = Server(folder, *words, verb=verb)
    try:
        yield server
    finally:
        server.kill()


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser of playwright's."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened(browser: Any, address: str, **context: Any) -> Iterator[Any]:
    """A page of a new profile, which must load nothing from elsewhere and report no error in its console."""
    outside: list[str] = []
    errors: list[str] = []
    console: list[str] = []
    profile = browser.new_context(**{"locale": "en-US", **context})
    profile.set_default_timeout(PATIENCE * 1000)
    page = profile.new_page()
    page.on("request", lambda request: outside.append(request.url) if is_outside(request.url) else None)
    page.on("console", lambda message: console.append(f"{time.monotonic():.1f} {message.type}: {message.text}"))
    page.on("load", lambda _: console.append(f"{time.monotonic():.1f} loaded {page.url}"))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    visit(page, address)
    try:
        yield page
    except BaseException:
        print(*console, page.locator("body").inner_text(timeout=5000), sep="\n")  # for the report of the failure
        raise
    finally:
        profile.close()
    assert not outside
    # a server that is gone is reported as a failed connection
    assert not [error for error in errors if "ERR_CONNECTION" not in error and "WebSocket" not in error]


def visit(page: Any, address: str | None = None) -> None:
    """Loads an address, or the page again, and waits for its connection, without which it may load itself again."""
    if address is None:
        page.reload()
    else:
        page.goto(address)
    page.wait_for_function("window.did_handshake")


def is_outside(url: str) -> bool:
    return not re.match(r"(https?|wss?)://127\.0\.0\.1[:/]|data:|blob:", url)
