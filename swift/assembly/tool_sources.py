"""Flags -> the tools that a model may call, with what runs them. Knows no model and calls nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swift.flag_groups.tools import ToolFlags
from swift.infer.confirmation import shown_source
from swift.system.urls import without_secrets
from swift.tools.described import SUFFIXES, DescriptionFile
from swift.tools.toolbox import Toolbox

if TYPE_CHECKING:
    from swift.tools.bound_tool import BoundTool
    from swift.tools.call import Limits
    from swift.tools.loop import Offer
    from swift.tools.toolbox import Source

KINDS = "tools are a .py file, an OpenAPI document (.json, .yaml or a URL), or a .json or .jsonl file of descriptions"


def open_tools(flags: ToolFlags, more: Sequence[Source] = ()) -> Toolbox:
    """The tools of all sources, filtered, described ones among them, after those of `more`. Closing the toolbox ends
    processes and servers.

    Raises ValueError or OSError, after closing what is open, for a source that cannot be used, a filter that matches
    nothing, and a flag that has no effect on these sources.
    """
    documents = [word for word in flags.tools if is_openapi(word)]
    _check_effects(flags, documents)
    with ExitStack() as opened:
        sources: list[Source] = []
        for open_one in _openers(flags, documents):
            source = open_one()
            opened.callback(source.close)
            sources.append(source)
        _check_variables(dict(zip(flags.tools, sources, strict=False)), documents)
        toolbox = Toolbox([*more, *sources], () if _filters_itself(flags) else flags.tool_filter)
        if reason := toolbox.unmatched():
            raise ValueError(f"--tool_filter {reason}")
        _check_runs(flags, toolbox.tools)
        opened.pop_all()
        return toolbox


def limits(flags: ToolFlags) -> Limits:
    """The limits of a call."""
    from swift.tools.call import Limits

    return Limits(flags.tool_timeout, flags.max_result_chars)


def offer(flags: ToolFlags, toolbox: Toolbox) -> Offer:
    """The dialogue so far -> the tools to offer, at most --max_tools."""
    from swift.tools.retrieval import Retriever

    return Retriever(lambda: toolbox.tools, flags.max_tools).offer


def overview(
    flags: ToolFlags, tools: Sequence[BoundTool], most: int = 12, confirms: str = "asks before each such call"
) -> list[str]:
    """Lines that list the tools by source, at most `most` names a source, and say which may write.

    `confirms`: what --confirm writes does.
    """
    by_source: dict[str, list[BoundTool]] = {}
    for bound in tools:
        by_source.setdefault(bound.source, []).append(bound)
    lines = []
    for source, own in by_source.items():
        names = [f"{bound.name}{'' if bound.read_only or bound.described else '*'}" for bound in own]
        more = f" and {len(names) - most} more" if len(names) > most else ""
        typed = " (what they give is typed in)" if own[0].described else ""
        lines.append(f"tools of {shown_source(source)}: {', '.join(names[:most])}{more}{typed}")
    if any(not (bound.read_only or bound.described) for bound in tools):
        asks = "" if flags.confirm != "none" else f"; --confirm writes {confirms}"
        lines.append(f"* may write{asks}")
    if len(tools) > flags.max_tools:
        lines.append(f"of {len(tools)} tools, the {flags.max_tools} that fit best are offered for each message")
    return lines


def is_openapi(word: str) -> bool:
    """Whether a value of --tools is an OpenAPI document, by its content for JSON."""
    if _is_url(word):
        return True
    file = Path(word).expanduser()
    suffix = file.suffix.lower()
    if suffix in (".yaml", ".yml"):
        return True
    if suffix != ".json" or not file.is_file():
        return False
    try:
        content = json.loads(file.read_bytes())
    except (ValueError, RecursionError):
        return False  # what is wrong is reported where the file is read
    return isinstance(content, dict) and ("openapi" in content or "swagger" in content)


def _is_url(word: str) -> bool:
    return word.lower().startswith(("http://", "https://"))


def _check_effects(flags: ToolFlags, documents: Sequence[str]) -> None:
    """Raises ValueError for flags that none of the sources reads, and for headers that would go to several servers."""
    servers = [*documents, *(target for target in flags.mcp if _is_url(target))]
    if flags.tool_header and not servers:
        raise ValueError("--tool_header has no effect without an OpenAPI document or the URL of an MCP server")
    if flags.tool_header and len(servers) > 1:
        named = " and to ".join(map(without_secrets, servers))
        raise ValueError(f"--tool_header would send the headers to {named}: use one of them")
    if flags.tool_base_url and not documents:
        raise ValueError("--tool_base_url has no effect without an OpenAPI document")
    if flags.tool_base_url and len(documents) > 1:
        named = " and ".join(map(without_secrets, documents))
        raise ValueError(f"--tool_base_url is for one OpenAPI document, not for {named}")


def _check_variables(sources: Mapping[str, Source], documents: Sequence[str]) -> None:
    """Raises ValueError for an environment variable whose value would go to the services of two documents."""
    if len(documents) < 2:
        return
    from swift.tools.openapi import OpenApi

    users: dict[str, str] = {}
    for word, source in sources.items():
        for variable in sorted(source.variables) if isinstance(source, OpenApi) else ():
            if variable in users:
                raise ValueError(f"{variable} would be sent to {users[variable]} and to {word}: use one of them")
            users[variable] = word


def _openers(flags: ToolFlags, documents: Sequence[str]) -> list[Callable[[], Source]]:
    words = [partial(_openapi, word, flags) if word in documents else partial(_file, word) for word in flags.tools]
    return [*words, *(partial(_mcp, target, flags) for target in flags.mcp)]


def _file(word: str) -> Source:
    file = Path(word).expanduser()
    if file.suffix.lower() in SUFFIXES:
        return DescriptionFile(file)
    if file.suffix.lower() != ".py" and file.exists():
        raise ValueError(f"{word}: {KINDS}")
    return _python(file)


def _python(file: Path) -> Source:
    from swift.tools.python.source import PythonFile

    return PythonFile(file)


def _openapi(word: str, flags: ToolFlags) -> Source:
    from swift.tools.openapi import OpenApi

    keep = flags.tool_filter if _filters_itself(flags) else ()
    document = word if _is_url(word) else str(Path(word).expanduser())
    return OpenApi(document, headers=flags.headers, base_url=flags.tool_base_url, keep=keep)


def _mcp(target: str, flags: ToolFlags) -> Source:
    from swift.tools.mcp.source import McpServer

    return McpServer(target, headers=flags.headers if _is_url(target) else {})


def _filters_itself(flags: ToolFlags) -> bool:
    """Whether the only source is an OpenAPI document, which then reads no other operations than those to keep."""
    return not flags.mcp and len(flags.tools) == 1 and is_openapi(flags.tools[0])


def _check_runs(flags: ToolFlags, tools: Sequence[BoundTool]) -> None:
    """Raises ValueError for flags about running where every tool is only described."""
    if any(not bound.described for bound in tools):
        return
    settings: dict[str, tuple[Any, Any]] = {
        "tool_timeout": (flags.tool_timeout, ToolFlags.tool_timeout),
        "max_result_chars": (flags.max_result_chars, ToolFlags.max_result_chars),
        "confirm": (flags.confirm, ToolFlags.confirm),
        "ask_below": (flags.ask_below, ToolFlags.ask_below),
    }
    for name, (value, default) in settings.items():
        if value != default and not flags.mcp:  # a server may offer tools later
            raise ValueError(f"--{name} has no effect: nothing runs the tools of {' and '.join(flags.tools)}")
