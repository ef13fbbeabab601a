"""Flags of `swift agent run` -> the chat that all runs share, and the settings that traces record."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from swift.assembly import endpoint
from swift.assembly.endpoint import EndpointFlags
from swift.assembly.loading import ChatConfig
from swift.flag_groups import ToolFlags
from swift.system.urls import without_secrets

if TYPE_CHECKING:
    from rich.console import Console

    from swift.engine.sampling import SamplingParams
    from swift.infer.remote_chat import RemoteChat
    from swift.tools.toolbox import Toolbox
    from swift.traces.runs import Ask


class AgentConfig(ChatConfig, Protocol):
    """The flags that decide runs besides their tasks."""

    @property
    def server(self) -> EndpointFlags: ...
    @property
    def tools(self) -> ToolFlags: ...
    @property
    def guided_tools(self) -> bool: ...
    @property
    def max_turns(self) -> int: ...
    @property
    def max_seconds(self) -> float | None: ...


@contextmanager
def open_chat(
    cfg: AgentConfig, given: Collection[str], toolbox: Toolbox, remote: RemoteChat | None, console: Console
) -> Iterator[Ask]:
    """The chat that all runs share: `remote`, or the model of the flags, loaded."""
    from swift.assembly.loading import load_chat
    from swift.guided.grammar import Rules
    from swift.infer.guided_tools import guided

    if remote:
        console.print(f"model: {remote.model} at {without_secrets(cfg.server.endpoint or '')}", markup=False)
        yield remote
        return
    chat = load_chat(cfg, given)
    try:
        if cfg.guided_tools:
            present = [bound.tool for bound in toolbox.tools]
            if len(present) <= cfg.tools.max_tools:
                for each in chat.guide(Rules(tuple(present))).unenforced:
                    line = (
                        f"tool '{each.tool}': the grammar does not enforce {each}; calls are validated before they run"
                    )
                    console.print(line, markup=False, soft_wrap=True)
        yield guided(chat) if cfg.guided_tools else chat
    finally:
        chat.engine.close()


def settings(
    cfg: AgentConfig, given: Collection[str], params: SamplingParams, remote: RemoteChat | None
) -> dict[str, Any]:
    """What decides a run besides its task, for the record. No key and no header is among it."""
    sampling = {
        "max_tokens": params.max_tokens,
        "temperature": params.temperature,
        "top_k": params.top_k,
        "top_p": params.top_p,
        "repetition_penalty": params.repetition_penalty,
        "seed": params.seed,
        "stop": list(params.stop),
    }
    if remote:
        left = endpoint.left_to_server(given)
        sampling = {name: value for name, value in sampling.items() if name not in left}
    return {
        "model": remote.model if remote else cfg.model.model_id_or_path or cfg.model.model_type,
        "ckpt_dir": cfg.backend.ckpt_dir and str(Path(cfg.backend.ckpt_dir).expanduser().resolve()),
        "backend": without_secrets(cfg.server.endpoint) if cfg.server.endpoint else cfg.backend.infer_backend,
        "sampling": sampling,
        "system": cfg.template.system,
        "guided_tools": cfg.guided_tools,
        "max_turns": cfg.max_turns,
        "max_seconds": cfg.max_seconds,
        "tools": {
            "tools": [without_secrets(word) for word in cfg.tools.tools],
            "mcp": [server_without_secrets(word) for word in cfg.tools.mcp],
            "tool_filter": list(cfg.tools.tool_filter),
            "tool_base_url": cfg.tools.tool_base_url and without_secrets(cfg.tools.tool_base_url),
            "tool_timeout": cfg.tools.tool_timeout,
            "max_result_chars": cfg.tools.max_result_chars,
            "confirm": cfg.tools.confirm,
            "ask_below": cfg.tools.ask_below,
            "max_tools": cfg.tools.max_tools,
        },
        "version": version("swift-agents"),
    }


def server_without_secrets(target: str) -> str:
    """A URL without secrets, or a command up to its first flag or variable: what follows may be a key."""
    if "://" in target:
        return without_secrets(target)
    return " ".join(takewhile(lambda word: not word.startswith("-") and "=" not in word, target.split()))
