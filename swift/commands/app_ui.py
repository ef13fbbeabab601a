"""The chat page alone, with a checkpoint, a model or a server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from swift.commands import studio
from swift.flags import flag


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
    start = tuple((name, value) for name, value in given.items() if value is not None)
    if len(start) > 1:
        raise ValueError(f"--{start[0][0]} and --{start[1][0]} name two models: give one of them")
    studio.serve(cfg.pages, ("chat",), start)
