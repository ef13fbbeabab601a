"""ModelScope and Hugging Face: addresses, caches, offline mode. Imports only the standard library until used."""

from __future__ import annotations

import contextlib
import importlib
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

SECONDS = 5.0
"""Timeout for the first response of a hub."""


TRUE = ("1", "true", "yes", "on")
FALSE = ("0", "false", "no", "off")
"""Values of environment variables; every other one counts as not set."""


def is_set(name: str) -> bool:
    """Whether an environment variable is set to true."""
    return os.environ.get(name, "").lower() in TRUE


def offline() -> str:
    """The name of the variable that forbids network access; empty if none does."""
    return next(filter(is_set, ("SWIFT_OFFLINE", "HF_HUB_OFFLINE")), "")


def reach(url: str) -> None:
    """Raises OSError if `url` does not respond within `SECONDS`; the hubs' own clients can wait for minutes."""
    try:
        with contextlib.suppress(urllib.error.HTTPError):  # an error response is a response
            urllib.request.urlopen(url, timeout=SECONDS).close()
    except OSError as error:
        reason = getattr(error, "reason", None) or error  # unwraps urllib's error
        raise OSError(f"{url} cannot be reached ({getattr(reason, 'strerror', None) or reason})") from None


def modelscope_url() -> str:
    """The URL of ModelScope: `$MODELSCOPE_ENDPOINT`, or `https://$MODELSCOPE_DOMAIN` of older clients."""
    url = os.environ.get("MODELSCOPE_ENDPOINT") or os.environ.get("MODELSCOPE_DOMAIN") or "www.modelscope.cn"
    return (url if "://" in url else f"https://{url}").rstrip("/")


def modelscope_root() -> Path:
    return Path(os.environ.get("MODELSCOPE_CACHE") or "~/.cache/modelscope").expanduser()


def modelscope_snapshots(kind: Literal["models", "datasets"], name: str) -> Iterator[Path]:
    """The snapshot folders of a repository in ModelScope's cache, format 1.40; ignores case."""
    wanted = name.replace("/", "--").lower()
    for below in (modelscope_root() / kind, modelscope_root() / "hub" / kind):
        for folder in sorted(below.iterdir()) if below.is_dir() else ():
            if folder.name.lower() == wanted and (folder / "snapshots").is_dir():
                yield folder / "snapshots"


@contextlib.contextmanager
def modelscope_errors() -> Iterator[None]:
    """Raises OSError if ModelScope is unreachable, and for any exception of its client, whose versions differ."""
    reach(modelscope_url())
    try:
        yield
    except Exception as error:  # the client's, see above
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise OSError(f"{modelscope_url()}: {lines[0] if lines else type(error).__name__}") from error


def http_error() -> Any:
    """The class of HTTP errors of Hugging Face's client, which are not OSErrors."""
    return importlib.import_module("huggingface_hub.utils").httpx.HTTPError  # whichever module it uses
