"""The Python API: fine-tune, load a chat, generate a reply, open tools, run an agent, score tool calls.

Keyword arguments are the flags of the commands, with the same names, aliases and defaults; `swift sft --help` and
`swift infer --help` list them. Importing this module does not import torch.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from swift import flags
from swift.chat import Message, Tool
from swift.flag_groups import BackendFlags, GenerationFlags, ModelFlags, TemplateFlags, ToolFlags

if TYPE_CHECKING:
    from swift.commands.sft import Config as SftConfig
    from swift.infer.chat import Chat
    from swift.infer.local_chat import LocalChat
    from swift.tools.bound_tool import BoundTool
    from swift.tools.call import Confirm
    from swift.tools.loop import Trace
    from swift.tools.toolbox import Toolbox

Flags = TypeVar("Flags", bound=Any)


@dataclass(frozen=True)
class ChatConfig:
    """What `load_chat` loads: a model, a checkpoint or both, and the engine that runs it."""

    model: ModelFlags = ModelFlags()
    backend: BackendFlags = BackendFlags()
    template: TemplateFlags = TemplateFlags()

    @property
    def vllm_log(self) -> None:
        """vLLM writes to standard output and error."""


class ToolCallScores(NamedTuple):
    """Shares of `cases`, 0 to 1. A right tool needs a valid format, right arguments need a right tool."""

    cases: int
    format_valid: float
    tool_correct: float
    arguments_correct: float


def fine_tune(config: SftConfig | None = None, **changes: Any) -> dict[str, Any]:
    """Trains a model as `swift sft` does: `fine_tune(model="smollm2-135m-instruct", dataset=["rows.jsonl"])`.

    `changes` are flags of `swift sft`, on top of `config`. Returns what a run reports: `output_dir`,
    `best_model_checkpoint` and `last_model_checkpoint` (folders, or None), `best_metric` (held-out loss in nats per
    weighted token), `global_step`, `train_time` (seconds), `tokens_per_second`, `memory_gib` (peak), `log_history`.
    Raises ValueError or OSError for wrong flags, files or rows, in one line.
    """
    from swift.commands import sft

    return sft.main(_changed(sft.Config() if config is None else config, changes, "fine_tune"))


def load_chat(
    checkpoint: str | os.PathLike[str] | None = None, config: ChatConfig | None = None, **changes: Any
) -> LocalChat:
    """Loads a checkpoint, or with `model=...` a base model, behind a renderer and an engine.

    `changes` are the flags of `swift infer` for the model, the backend and the chat template. What training recorded
    beside the checkpoint holds where neither `config` nor `changes` say otherwise. Calling the chat with messages
    yields `Delta`s; `generate` collects them. `chat.engine.close()` frees the engine. Raises ValueError or OSError
    for what cannot be loaded.
    """
    from swift.assembly import loading

    if checkpoint is not None:
        changes = {"ckpt_dir": checkpoint, **changes}
    made = _changed(ChatConfig() if config is None else config, changes, "load_chat")
    return loading.load_chat(made, given=_names(changes), keep=True)


def generate(
    chat: Chat,
    messages: str | Sequence[Message],
    tools: Sequence[Callable[..., object] | BoundTool | Tool] = (),
    **changes: Any,
) -> Message:
    """One reply to a text or to a dialogue. Its `tool_calls` are parsed and not run.

    `changes` are the generation flags of `swift infer`: `max_new_tokens`, `temperature`, `seed` and so on. Raises
    ValueError for wrong flags and for a dialogue that the model cannot take.
    """
    from swift.infer.chat import collect

    offered = [each if isinstance(each, Tool) else _bound(each).tool for each in tools]
    return collect(chat(_dialogue(messages), offered, _sampling(changes, "generate"))).message


def open_tools(**changes: Any) -> Toolbox:
    """The tools of files and servers, by the flags of `swift infer`: `open_tools(tools=["house.py"], mcp=["npx ..."])`.

    `changes`: `tools`, `mcp`, `tool_filter`, `tool_header`, `tool_base_url`. Close the toolbox, or use it in a `with`
    statement: that ends processes and connections. Raises ValueError or OSError for sources that cannot be used.
    """
    from swift.assembly import tool_sources

    named = ("tools", "mcp", "tool_filter", "tool_header", "tool_base_url")
    if other := next((name for name in changes if name in flags.names(ToolFlags) and name not in named), None):
        raise ValueError(f"open_tools: {other} is a matter of run_agent")
    return tool_sources.open_tools(_changed(ToolFlags(), changes, "open_tools"))


def run_agent(
    chat: Chat,
    messages: str | Sequence[Message],
    tools: Toolbox | Sequence[Callable[..., object] | BoundTool | str | os.PathLike[str]],
    *,
    max_turns: int = 8,
    timeout: float = 30.0,
    max_result_chars: int = 20_000,
    max_tools: int = 16,
    max_seconds: float | None = None,
    confirm: Confirm | None = None,
    guided_tools: bool = False,
    **changes: Any,
) -> Trace:
    """Lets the model call `tools` until it answers.

    `tools`: Python functions with type hints and docstrings, and values of `--tools` (Python files, OpenAPI documents,
    files of descriptions), or a toolbox of `open_tools`. Of more than `max_tools`, those are offered that fit the
    dialogue best. At most `max_turns` replies and, if given, about `max_seconds`; a call may take `timeout` seconds and
    return `max_result_chars` characters. `confirm(tool, call) -> bool` is called before each call. `guided_tools`
    constrains calls to the tools' JSON schemas; it needs a chat of `load_chat`. `changes` are generation flags.

    Returns a `Trace`: all messages, the result of each call, and why the run ended; `Trace.answer` is the final text. A
    failing tool is a result that the model reads, not an exception. Raises ValueError for wrong flags, for files that
    hold no tools, and for two functions of one name.
    """
    from swift.infer.guided_tools import guided
    from swift.infer.local_chat import LocalChat
    from swift.tools import loop
    from swift.tools.call import Limits
    from swift.tools.retrieval import Retriever
    from swift.tools.toolbox import Toolbox

    if guided_tools and not isinstance(chat, LocalChat):
        raise ValueError("run_agent: guided_tools needs a chat of load_chat")
    params = _sampling(changes, "run_agent")
    with nullcontext(tools) if isinstance(tools, Toolbox) else _toolbox(tools) as toolbox:
        return loop.run(
            guided(chat) if guided_tools and isinstance(chat, LocalChat) else chat,
            lambda: toolbox.tools,
            _dialogue(messages),
            max_turns,
            params=params,
            limits=Limits(timeout, max_result_chars),
            max_seconds=max_seconds,
            confirm=confirm,
            offer=Retriever(lambda: toolbox.tools, max_tools).offer,
        )


def evaluate(
    chat: Chat, dataset: str | os.PathLike[str] | Sequence[str], *, max_new_tokens: int = 256
) -> ToolCallScores:
    """Scores tool calls against held-out rows: files, registered names or hub ids, in any row shape of training.

    Every assistant message of the rows with exactly one tool call is a case. The model reads the dialogue up to it
    and replies greedily with at most `max_new_tokens` tokens. Returns the number of cases and the shares, 0 to 1,
    with a valid format, the right tool, and the right arguments (equal as JSON). Raises ValueError for bad rows, and
    where no row holds such a message.
    """
    from swift.data.linting import Report, checked
    from swift.data.sources import resolve
    from swift.eval.tool_calls import cases_of, judge_all, scores

    named = [dataset] if isinstance(dataset, (str, os.PathLike)) else dataset
    rows = [row for name in named for row in checked(resolve(os.fspath(name)), "error", Report(), print)]
    cases = [case for row in rows for case in cases_of(row)]
    if not cases:
        raise ValueError(f"evaluate: {', '.join(map(str, named))}: no row has an assistant message with one tool call")
    return ToolCallScores(len(cases), *scores(judge_all(chat, cases, max_tokens=max_new_tokens)))


def _changed(config: Flags, changes: dict[str, Any], where: str) -> Flags:
    """`config` with flags changed by name or alias. ValueError for unknown names, with the nearest one."""
    return flags.update(config, {name: _plain(value) for name, value in changes.items()}, where)


def _names(changes: dict[str, Any]) -> frozenset[str]:
    """The fields of ChatConfig that `changes` sets, by name or alias."""
    return frozenset(item.name for item in flags.walk(ChatConfig) if changes.keys() & {item.name, *item.spec.alias})


def _plain(value: object) -> object:
    """Paths as text, also in lists: what files of flags hold."""
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _sampling(changes: dict[str, Any], where: str) -> Any:
    from swift.assembly.loading import sampling

    return replace(sampling(_changed(GenerationFlags(), changes, where)), confidence=True)


def _dialogue(messages: str | Sequence[Message]) -> Sequence[Message]:
    return (Message("user", messages),) if isinstance(messages, str) else messages


def _bound(tool: Callable[..., object] | BoundTool) -> BoundTool:
    from swift.tools.bound_tool import BoundTool, from_function

    return tool if isinstance(tool, BoundTool) else from_function(tool)


def _toolbox(tools: Sequence[Callable[..., object] | BoundTool | str | os.PathLike[str]]) -> Toolbox:
    """Functions, and values of --tools."""
    from swift.assembly import tool_sources
    from swift.tools.toolbox import Listed

    if isinstance(tools, (str, os.PathLike)):
        tools = [tools]
    files = [os.fspath(each) for each in tools if isinstance(each, (str, os.PathLike))]
    bound = [_bound(each) for each in tools if not isinstance(each, (str, os.PathLike))]
    names = [each.name for each in bound]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"two tools have the name '{twice}'")
    return tool_sources.open_tools(ToolFlags(tools=tuple(files)), [Listed("functions", bound)] if bound else [])
