"""What models and data sets both have to know of ModelScope and Hugging Face. Standard library alone until used."""

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
"""How long a hub may take to answer at all before it counts as out of reach."""


def is_set(name: str) -> bool:
    """Whether an environment variable says yes."""
    return os.environ.get(name, "").lower() in ("1", "true", "yes", "on")


def offline() -> str:
    """The variable that forbids the network; empty if none does."""
    return next(filter(is_set, ("SWIFT_OFFLINE", "HF_HUB_OFFLINE")), "")


def reach(url: str) -> None:
    """Raises OSError if nothing answers at `url` soon; the hubs' own programs can wait for minutes."""
    try:
        with contextlib.suppress(urllib.error.HTTPError):  # an answer, if not a kind one
            urllib.request.urlopen(url, timeout=SECONDS).close()
    except OSError as error:
        reason = getattr(error, "reason", None) or error  # of urllib's own wrapper
        raise OSError(f"{url} cannot be reached ({getattr(reason, 'strerror', None) or reason})") from None


def modelscope_url() -> str:
    """Where ModelScope's client goes: `$MODELSCOPE_ENDPOINT`, or `https://$MODELSCOPE_DOMAIN` as older ones say."""
    url = os.environ.get("MODELSCOPE_ENDPOINT") or os.environ.get("MODELSCOPE_DOMAIN") or "www.modelscope.cn"
    return (url if "://" in url else f"https://{url}").rstrip("/")


def modelscope_root() -> Path:
    return Path(os.environ.get("MODELSCOPE_CACHE") or "~/.cache/modelscope").expanduser()


def modelscope_snapshots(kind: Literal["models", "datasets"], name: str) -> Iterator[Path]:
    """The folders with a repository's revisions as ModelScope's client keeps them since 1.40; case may differ."""
    wanted = name.replace("/", "--").lower()
    for below in (modelscope_root() / kind, modelscope_root() / "hub" / kind):
        for folder in sorted(below.iterdir()) if below.is_dir() else ():
            if folder.name.lower() == wanted and (folder / "snapshots").is_dir():
                yield folder / "snapshots"


@contextlib.contextmanager
def modelscope_errors() -> Iterator[None]:
    """OSError where ModelScope is out of reach, and for whatever its client raises: nothing narrower holds for all its
    versions."""
    reach(modelscope_url())
    try:
        yield
    except Exception as error:  # of the client, see above
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise OSError(f"{modelscope_url()}: {lines[0] if lines else type(error).__name__}") from error


def http_error() -> Any:
    """What Hugging Face's client may raise that is no OSError."""
    return importlib.import_module("huggingface_hub.utils").httpx.HTTPError  # of whichever name it uses
