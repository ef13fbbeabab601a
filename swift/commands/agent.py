"""Run an agent unattended: it works through tasks with tools and writes traces, which are rows to train on."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from swift import flags
from swift.assembly.endpoint import EndpointFlags
from swift.flag_groups import BackendFlags, GenerationFlags, ModelFlags, TemplateFlags, ToolFlags, check_engine
from swift.system import terminal

if TYPE_CHECKING:
    from rich.console import Console

    from swift.engine.sampling import SamplingParams
    from swift.tools.toolbox import Toolbox
    from swift.traces.file import TraceFile
    from swift.traces.runs import Ask, Finished
    from swift.traces.tasks import Task

UNANSWERED = 1
"""Exit code: a run ended with an error, or the run of --task without an answer."""


@dataclass(frozen=True)
class Run:
    """Let a model work through tasks with tools, without user input, and write a trace of each run."""

    example: ClassVar[str] = (
        "swift agent run --model smollm2-135m-agent --tools examples/agent/house_tools.py --task 'Add 19, 23 and 4.'"
    )
    most_used: ClassVar[tuple[str, ...]] = (
        "task",
        "tasks",
        "tools",
        "mcp",
        "model_id_or_path",
        "ckpt_dir",
        "max_turns",
        "output",
        "confirm",
        "endpoint",
    )

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
        check_engine(self.guided_tools, self.generation, self.backend)
        for name, number in (("max_turns", self.max_turns), ("parallel", self.parallel)):
            if number < 1:
                raise ValueError(f"--{name} {number}: must be 1 or more")
        if self.max_seconds is not None and not self.max_seconds > 0:
            raise ValueError(f"--max_seconds {self.max_seconds:g}: must be more than 0")

    @property
    def vllm_log(self) -> Path:
        """A log file for this process."""
        from swift.assembly.backends import log_file

        return log_file()


VERBS = {"run": Run}
REMOTE = ("task", "tasks", "max_seconds", "parallel", "output")
"""Flags that apply to a model behind a server, besides those of `swift infer`."""


def run(argv: Sequence[str]) -> int:
    """`argv` is the verb and its flags. Returns the exit status."""
    verb, rest = (argv[0], argv[1:]) if argv else ("--help", ())
    if verb in ("--help", "-h", "--help-all", "help"):
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

    from swift.assembly import agent_setup, endpoint
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
    console = terminal.console(stderr=True, highlight=False)
    with open_tools(cfg.tools) as toolbox:
        _refuse_described(toolbox)
        check_tools(tasks, [bound.name for bound in toolbox.tools])
        output = Path(cfg.output).expanduser() if cfg.output else _new_output()
        writable(str(output.parent), "--output")
        remote = endpoint.connect(cfg.server, cfg.model, cfg.template, given) if cfg.server.endpoint else None
        file = TraceFile(output, agent_setup.settings(cfg, given, params, remote))
        for note in file.notes:
            console.print(note, soft_wrap=True, markup=False)
        left = [each for each in tasks if each.key not in file.done]
        if len(left) < len(tasks):
            console.print(f"{output}: {len(tasks) - len(left)} of {len(tasks)} tasks are done", soft_wrap=True)
        if not left:
            return 0
        for line in [*overview(cfg.tools, toolbox.tools, confirms="declines such calls"), *_declined(cfg.tools)]:
            console.print(line, soft_wrap=True, markup=False)
        with agent_setup.open_chat(cfg, given, toolbox, remote, console) as ask:
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
    from swift.traces.progress import Summary, one_line, progress
    from swift.traces.rows import row
    from swift.traces.runs import Loop, SideBySide, observed, results_at_end, stoppable
    from swift.traces.tasks import about
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

    written: set[tuple[str, str]] = set()

    def keep(finished: Finished) -> dict[str, Any]:
        asked, said = len(loop.messages(finished.task)), about(finished.task, file.settings)
        made = row(finished.trace, asked, finished.offered, said)
        file.add(made)
        written.add(finished.task.key)
        total.add(made["trace"])
        return made

    try:
        with progress(console, len(tasks), cfg.task is None) as step:
            for finished in runs:
                made = keep(finished)
                step(made["trace"])
    finally:
        try:
            runs.stop()
        finally:  # a second Ctrl-C ends the wait alone
            for late in runs.ended():  # before Ctrl-C
                if late.task.key not in written:
                    keep(late)
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
    console.print(one_line(made["trace"]), markup=False, soft_wrap=True)
    return UNANSWERED
