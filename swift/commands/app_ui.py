"""The chat page alone, with a checkpoint, a model or a server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from swift.assembly.checkpoints import checkpoint
from swift.assembly.endpoint import check_url
from swift.commands import studio
from swift.flags import flag
from swift.studio.jobs import LOG, Job, Jobs


@dataclass(frozen=True)
class Config:
    example: ClassVar[str] = "swift app-ui --ckpt_dir output/my_run/checkpoint-100"

    ckpt_dir: str | None = None
    """Checkpoint of a training"""
    model: str | None = flag(None, alias=("model_id_or_path", "model_type"))
    """Folder, hub id or registered name of a model"""
    endpoint: str | None = None
    """URL of an OpenAI-compatible server"""
    pages: studio.PageFlags = studio.PageFlags()


def main(cfg: Config) -> None:
    given = {"ckpt_dir": cfg.ckpt_dir, "model": cfg.model, "endpoint": cfg.endpoint}
    named = [name for name, value in given.items() if value is not None]
    if len(named) > 1:
        raise ValueError(f"--{named[0]} and --{named[1]} name two models: give one of them")
    if cfg.endpoint is not None:
        check_url(cfg.endpoint)
        studio.serve(cfg.pages, ("chat",), (("endpoint", cfg.endpoint),))
    elif named:
        with _served(cfg) as job:
            studio.serve(cfg.pages, ("chat",), (("server", job.name),))
    else:
        studio.serve(cfg.pages, ("chat",))


@contextmanager
def _served(cfg: Config) -> Iterator[Job]:
    """A server of the model, which ends with the pages, unless one is there already."""
    if cfg.ckpt_dir is not None:
        words = ["--ckpt_dir", str(checkpoint(cfg.ckpt_dir))]
    else:
        model = Path(cfg.model or "").expanduser()
        words = ["--model", str(model.resolve()) if model.is_dir() else str(cfg.model)]
    words = ["deploy", *words, "--port", "0"]
    jobs = Jobs(studio.state(cfg.pages) / "jobs", studio.folders(cfg.pages)[0].resolve())
    running = next((job for job in jobs.all() if job.is_active and list(job.words) == words), None)
    if running is not None:
        print(f"the model is served already and goes on after these pages; its output: {running.folder / LOG}")
        yield running
        return
    job = jobs.start(words)
    print(f"the model is served by a process of its own, which ends with Ctrl-C; its output: {job.folder / LOG}")
    try:
        yield job
    finally:
        with suppress(ValueError):  # it has ended by itself
            jobs.stop(job.name)
