"""Run an agent unattended: it works through tasks with tools and writes traces, which are rows to train on."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from importlib.metadata import version
from itertools import count, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from swift import flags
from swift.assembly.endpoint import EndpointFlags
from swift.flag_groups import BackendFlags, GenerationFlags, ModelFlags, TemplateFlags, ToolFlags, check_guide

if TYPE_CHECKING:
    from rich.console import Console

    from swift.engine.sampling import SamplingParams
    from swift.infer.remote_chat import RemoteChat
    from swift.tools.toolbox import Toolbox
    from swift.traces.file import TraceFile
    from swift.traces.runs import Ask
    from swift.traces.tasks import Task

UNANSWERED = 1
"""Exit code: a run ended with an error, or the run of --task without an answer."""


@dataclass(frozen=True)
class Run:
    """Let a model work through tasks with tools, and write a trace of each run. Nobody is asked anything."""

    model: ModelFlags = ModelFlags()
    backend: BackendFlags = BackendFlags()
    template: TemplateFlags = TemplateFlags()
    generation: GenerationFlags = GenerationFlags()
    server: EndpointFlags = EndpointFlags()
    tools: ToolFlags = ToolFlags()
    task: str | None = None
    """The task; the calls and results are shown, and the answer is printed on standard output"""
    tasks: str | None = None
    """JSON lines with tasks: a text, {"task": ..., "id", "system", "expected"} or {"messages": [...], "tools"}"""
    max_turns: int = 8
    """Maximum replies of a run"""
    max_seconds: float | None = None
    """Maximum seconds of a run; none means no limit"""
    parallel: int = 4
    """Runs at a time"""
    guided_tools: bool = False
    """Constrain tool calls to the offered tools and their schemas (guided decoding)"""
    output: str | None = None
    """File for the traces; tasks whose traces are there are skipped. None means output/agent/TIME.jsonl"""

    def __post_init__(self) -> None:
        if (self.task is None) == (self.tasks is None):
            raise ValueError("swift agent run needs --task or --tasks" + (", not both" if self.task else ""))
        if self.task is not None and not self.task.strip():
            raise ValueError("--task is empty")
        if not self.tools.given:
            raise ValueError("swift agent run needs --tools or --mcp; without tools, use swift infer")
        check_guide(self.guided_tools, self.backend)
        for name, number in (("max_turns", self.max_turns), ("parallel", self.parallel)):
            if number < 1:
                raise ValueError(f"--{name} {number}: must be 1 or more")
        if self.max_seconds is not None and not self.max_seconds > 0:
            raise ValueError(f"--max_seconds {self.max_seconds:g}: must be more than 0")

    @property
    def vllm_log(self) -> Path:
        """A log file for this process."""
        from swift.system.cache import cache_root

        return cache_root() / "logs" / f"vllm-{datetime.now():%Y%m%d-%H%M%S}-{os.getpid()}.log"


VERBS = {"run": Run}
REMOTE = ("task", "tasks", "max_seconds", "parallel", "output")
"""Flags that apply to a model behind a server, besides those of `swift infer`."""


def run(argv: Sequence[str]) -> int:
    """`argv` is the verb and its flags. Returns the exit status."""
    verb, rest = (argv[0], argv[1:]) if argv else ("--help", ())
    if verb in ("--help", "-h"):
        print("usage: swift agent run --task TEXT | --tasks FILE --tools ... [flags]\n")
        for name, config in VERBS.items():
            print(f"  {name}  {config.__doc__}")
        return 0
    if verb not in VERBS:
        raise ValueError(f"unknown verb 'swift agent {verb}'{flags.nearest(verb, VERBS)}")
    parsed = flags.parse(Run, rest, prog="swift agent run")
    return main(parsed.config, parsed.given)


def main(cfg: Run, given: Collection[str] = ()) -> int:
    """Runs the tasks. Returns the exit status."""
    from rich.console import Console

    from swift.assembly import endpoint
    from swift.assembly.checkpoints import checkpoint
    from swift.assembly.loading import sampling
    from swift.assembly.preflight import writable
    from swift.assembly.tool_sources import open_tools, overview
    from swift.traces.file import TraceFile
    from swift.traces.tasks import check_tools, read_tasks, task

    _refuse_unused(cfg, given)
    if cfg.server.endpoint:
        endpoint.check(given, REMOTE)
    elif cfg.backend.ckpt_dir:
        checkpoint(cfg.backend.ckpt_dir)
    params = replace(sampling(cfg.generation), confidence=True)
    tasks = [task(cfg.task)] if cfg.task is not None else read_tasks(Path(cfg.tasks or "").expanduser())
    console = Console(stderr=True, highlight=False)
    with open_tools(cfg.tools) as toolbox:
        _refuse_described(toolbox)
        check_tools(tasks, [bound.name for bound in toolbox.tools])
        output = Path(cfg.output).expanduser() if cfg.output else _new_output()
        writable(str(output.parent), "--output")
        remote = endpoint.connect(cfg.server, cfg.model, cfg.template, given) if cfg.server.endpoint else None
        file = TraceFile(output, _settings(cfg, given, params, remote))
        for note in file.notes:
            console.print(note, soft_wrap=True, markup=False)
        left = [each for each in tasks if each.key not in file.done]
        if len(left) < len(tasks):
            console.print(f"{output}: {len(tasks) - len(left)} of {len(tasks)} tasks are done", soft_wrap=True)
        if not left:
            return 0
        for line in [*overview(cfg.tools, toolbox.tools, confirms="declines such calls"), *_declined(cfg.tools)]:
            console.print(line, soft_wrap=True, markup=False)
        with _chat(cfg, given, toolbox, remote, console) as ask:
            return _work(cfg, ask, toolbox, params, left, file, console)


def _refuse_described(toolbox: Toolbox) -> None:
    for bound in toolbox.tools:
        if bound.described:
            raise ValueError(f"tool '{bound.name}' of {bound.source} is only described, and nobody types its results")


def _declined(tools: ToolFlags) -> Iterator[str]:
    """What is declined, since nobody is there to confirm it."""
    kinds = {"none": "", "writes": "calls that may write", "all": "all calls"}
    if what := kinds[tools.confirm]:
        yield f"--confirm {tools.confirm}: nobody is there to confirm, so {what} are declined"
    if tools.ask_below is not None:
        yield f"--ask_below {tools.ask_below:g}: calls whose confidence is known and below are declined"


def _nobody(prompt: str) -> str:
    raise EOFError


def _refuse_unused(cfg: Run, given: Collection[str]) -> None:
    if "stream" in given:
        raise ValueError("--stream has no effect on swift agent run: replies are shown when they are complete")
    if "parallel" in given and cfg.task is not None:
        raise ValueError("--parallel has no effect on the single run of --task")


def _new_output() -> Path:
    folder, began = Path("output/agent"), f"{datetime.now():%Y%m%d-%H%M%S}"
    return next(
        file
        for number in range(1000)
        if not (file := folder / f"{began}{f'-{number}' if number else ''}.jsonl").exists()
    )


@contextmanager
def _chat(
    cfg: Run, given: Collection[str], toolbox: Toolbox, remote: RemoteChat | None, console: Console
) -> Iterator[Ask]:
    """The chat that all runs share."""
    from swift.assembly.loading import load_chat
    from swift.guided.grammar import Rules
    from swift.infer.guided_tools import guided

    if remote:
        console.print(f"model: {remote.model} at {_without_secrets(cfg.server.endpoint or '')}", markup=False)
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


def _work(
    cfg: Run,
    ask: Ask,
    toolbox: Toolbox,
    params: SamplingParams,
    tasks: Sequence[Task],
    file: TraceFile,
    console: Console,
) -> int:
    from swift.assembly.tool_sources import limits
    from swift.infer.confirmation import Confirmation
    from swift.tools.retrieval import Retriever
    from swift.traces.rows import row
    from swift.traces.runs import Loop, SideBySide, observed, results_at_end, stoppable
    from swift.traces.view import show

    stopped = threading.Event()
    ask = stoppable(ask, stopped)
    if cfg.task is not None:
        ask = observed(ask, lambda message: show(console, message))
    loop = Loop(
        ask,
        lambda: toolbox.tools,
        params,
        cfg.max_turns,
        cfg.max_seconds,
        limits(cfg.tools),
        lambda tools: Retriever(tools, cfg.tools.max_tools).offer,
        Confirmation(_nobody, cfg.tools.confirm, cfg.tools.ask_below),
        cfg.template.system,
    )
    runs = SideBySide(loop.run, tasks, cfg.parallel, stopped)
    total = Summary(len(tasks))
    try:
        with _progress(console, len(tasks), cfg.task is None) as step:
            for finished in runs:
                made = row(
                    finished.trace,
                    len(loop.messages(finished.task)),
                    finished.offered,
                    _about(finished.task, file.settings),
                )
                if "error" in made["trace"] and cfg.server.endpoint:  # it names the server
                    public = _without_secrets(cfg.server.endpoint)
                    made["trace"]["error"] = made["trace"]["error"].replace(cfg.server.endpoint, public)
                file.add(made)
                total.add(made["trace"])
                step(made["trace"])
    finally:
        runs.stop()
        for line in total.lines():
            console.print(line, markup=False, soft_wrap=True)
        if total.outcomes:
            console.print(f"traces: {file.path}", markup=False, soft_wrap=True)
    if cfg.task is None:
        return UNANSWERED if total.outcomes["error"] else 0
    if made["trace"]["outcome"] == "answer":
        print(finished.trace.answer)
        return 0
    if finished.trace.end != "error":
        for message in results_at_end(finished.trace.messages) or finished.trace.messages[-1:]:
            show(console, message)
    console.print(_line(made["trace"]), markup=False, soft_wrap=True)
    return UNANSWERED


def _settings(cfg: Run, given: Collection[str], params: SamplingParams, remote: RemoteChat | None) -> dict[str, Any]:
    """What decides a run besides its task, for the record. No key and no header is among it."""
    from swift.assembly import endpoint

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
        "backend": _without_secrets(cfg.server.endpoint) if cfg.server.endpoint else cfg.backend.infer_backend,
        "sampling": sampling,
        "system": cfg.template.system,
        "guided_tools": cfg.guided_tools,
        "max_turns": cfg.max_turns,
        "max_seconds": cfg.max_seconds,
        "tools": {
            "tools": [_without_secrets(word) for word in cfg.tools.tools],
            "mcp": [_command(word) for word in cfg.tools.mcp],
            "tool_filter": list(cfg.tools.tool_filter),
            "tool_base_url": cfg.tools.tool_base_url and _without_secrets(cfg.tools.tool_base_url),
            "tool_timeout": cfg.tools.tool_timeout,
            "max_result_chars": cfg.tools.max_result_chars,
            "confirm": cfg.tools.confirm,
            "ask_below": cfg.tools.ask_below,
            "max_tools": cfg.tools.max_tools,
        },
        "version": version("swift-agents"),
    }


def _without_secrets(url: str) -> str:
    """A URL without user, password and query."""
    parts = urlsplit(url)
    if not parts.scheme or not parts.hostname:
        return url
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def _command(target: str) -> str:
    """A URL without secrets, or a command up to its first flag or variable: what follows may be a key."""
    if "://" in target:
        return _without_secrets(target)
    return " ".join(takewhile(lambda word: not word.startswith("-") and "=" not in word, target.split()))


def _about(task: Task, settings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "id": task.id,
        "task": task.digest,
        **({} if task.expected is None else {"expected": task.expected}),
        **({"repeat": task.repeat} if task.repeat else {}),
        "date": f"{datetime.now().astimezone():%Y-%m-%dT%H:%M:%S%z}",
        "settings": settings,
    }


# What is said


class Summary:
    """Counts of the finished runs."""

    def __init__(self, tasks: int) -> None:
        self._tasks, self._began = tasks, time.monotonic()
        self.outcomes: Counter[str] = Counter()
        self._failures: Counter[str] = Counter()
        self._calls = self._tokens = self._prompt_tokens = 0

    def add(self, trace: Mapping[str, Any]) -> None:
        self.outcomes[trace["outcome"]] += 1
        self._calls += len(trace["calls"])
        self._failures.update(call["failure"] for call in trace["calls"] if call["failure"])
        self._tokens += trace["usage"]["completion_tokens"]
        self._prompt_tokens += trace["usage"]["prompt_tokens"]

    def lines(self) -> list[str]:
        seconds = time.monotonic() - self._began
        done = self.outcomes.total()
        failed = f", {self._failures.total()} failed ({_counted(self._failures)})" if self._failures else ""
        return [
            f"{done} of {self._tasks} tasks: {_counted(self.outcomes) or 'none finished'}",
            f"{self._calls} call{'s' * (self._calls != 1)}{failed}",
            f"{self._tokens} tokens in {seconds:.1f} s ({self._tokens / max(seconds, 1e-9):.1f} tokens/s), "
            f"{self._prompt_tokens} of prompts",
        ]


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{number} {name}" for name, number in counts.most_common())


@contextmanager
def _progress(console: Console, tasks: int, shown: bool) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """A function to call with each finished trace: a bar on a terminal, a line a run elsewhere."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    if not shown or not console.is_terminal:
        counted = count(1)

        def line(trace: Mapping[str, Any]) -> None:
            if shown:
                console.print(f"{next(counted)}/{tasks} {_line(trace)}", markup=False, soft_wrap=True)

        yield line
        return
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    outcomes: Counter[str] = Counter()
    with Progress(*columns, console=console, transient=True) as bar:
        running = bar.add_task("", total=tasks)

        def step(trace: Mapping[str, Any]) -> None:
            outcomes[trace["outcome"]] += 1
            if trace["outcome"] != "answer":
                bar.console.print(_line(trace), markup=False, soft_wrap=True)
            bar.update(running, advance=1, description=_counted(outcomes))

        yield step


def _line(trace: Mapping[str, Any]) -> str:
    why = f" ({trace['error']})" if "error" in trace else ""
    calls = len(trace["calls"])
    return f"{trace['id']}: {trace['outcome']}{why}, {calls} call{'s' * (calls != 1)}, {trace['seconds']:.1f} s"
