"""Web pages to train, watch runs, edit data, chat, evaluate and serve."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from swift.studio import server
from swift.studio.settings import TITLES
from swift.system.cache import cache_root


@dataclass(frozen=True)
class PageFlags:
    """Pages"""

    host: str = "127.0.0.1"
    """Address to listen on; another than this machine's own needs a password"""
    port: int = 7860
    """Port to listen on; 0 selects a free one"""
    lang: Literal["AUTO", "en", "zh"] = "AUTO"
    """Language; AUTO asks the browser"""
    folders: tuple[str, ...] = (".",)
    """Folders that the pages may read and write; relative paths begin in the first"""
    state_dir: str = "output/studio"
    """Folder for jobs and what else the pages make, within the first of --folders"""
    password_file: str | None = None
    """File with a password for the pages; the environment variable SWIFT_STUDIO_PASSWORD is the other way"""
    server_names: tuple[str, ...] = ()
    """Further names by which browsers know this machine"""


@dataclass(frozen=True)
class Config:
    example: ClassVar[str] = "swift studio --port 0 --folders . ~/models"

    pages: PageFlags = PageFlags()


def main(cfg: Config) -> None:
    serve(cfg.pages)


def serve(cfg: PageFlags, pages: tuple[str, ...] = tuple(TITLES), start: tuple[tuple[str, str], ...] = ()) -> None:
    """Serves `pages` until Ctrl-C. Raises ValueError for wrong flags, and where the extra `studio` is not installed."""
    settings = server.Settings(
        host=cfg.host,
        port=cfg.port,
        folders=folders(cfg),
        state=state(cfg),
        token_file=cache_root() / "studio" / "token",
        language=None if cfg.lang == "AUTO" else cfg.lang,
        password_file=cfg.password_file,
        names=cfg.server_names,
        pages=pages,
        start=start,
    )
    try:
        importlib.import_module("nicegui")
    except ModuleNotFoundError as error:
        raise ValueError(f"the pages need {error.name}: pip install 'swift-agents[studio]'") from None
    server.run(settings, config)


def folders(cfg: PageFlags) -> tuple[Path, ...]:
    """Raises ValueError if there are none."""
    if not cfg.folders:
        raise ValueError("--folders: name at least one")
    return tuple(Path(folder).expanduser() for folder in cfg.folders)


def state(cfg: PageFlags) -> Path:
    """The folder for what the pages make."""
    return (folders(cfg)[0] / cfg.state_dir).resolve()


def config(verb: str) -> type[Any]:
    """The flags of a command. Raises ModuleNotFoundError for an unknown one."""
    found: type[Any] = importlib.import_module(f"swift.commands.{verb.replace('-', '_')}").Config
    return found
