"""Chat with a model in the terminal, or generate replies to the rows of a data set."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, TypedDict

from swift import flags
from swift.assembly.endpoint import EndpointFlags
from swift.flag_groups import BackendFlags, GenerationFlags, ModelFlags, TemplateFlags, ToolFlags, check_engine
from swift.flags import flag
from swift.system.progress import tracked
from swift.system.urls import without_secrets

if TYPE_CHECKING:
    from swift.agent import ToolFormat
    from swift.chat import Conversation, Message, Tool
    from swift.engine.sampling import SamplingParams
    from swift.guided.guide import Guide
    from swift.infer.chat import Deltas, Reply
    from swift.infer.local_chat import LocalChat
    from swift.tools.toolbox import Toolbox

    Ask = Callable[[Sequence[Message], Sequence[Tool], SamplingParams], Deltas]


class Record(TypedDict, total=False):
    """A row and its reply as saved; `error`: why there is no reply, `ckpt_dir`: the checkpoint that generated it."""

    system: str | None
    query: str
    response: str | None
    label: str | None
    history: list[list[str]]
    source: str
    error: str
    images: list[str]
    ckpt_dir: str


SHOWN_FORMAT = "hermes"
"""The tool-call format in which calls of a server's model are shown: how the model writes them is not known."""
AT_ONCE = 16
"""Rows to process concurrently."""


@dataclass(frozen=True)
class RowFlags:
    """Data set"""

    dataset: tuple[str, ...] = flag((), commas=True)
    """Data sets: files, registered names or hub ids; uses the rows that training holds out"""
    val_dataset: tuple[str, ...] = flag((), alias=("custom_val_dataset_path",), commas=True)
    """Data sets of which all rows are used"""
    dataset_test_ratio: float = flag(0.01, alias=("split_dataset_ratio",))
    """Held-out share of the rows of --dataset; 0 uses all rows"""
    show_dataset_sample: int = flag(10, alias=("val_dataset_sample",))
    """Number of rows to process, sampled evenly; -1 processes all"""
    check_dataset_strategy: Literal["none", "discard", "error", "warning"] = "warning"
    """What to do with a bad row: keep it, drop it, stop, or name it and drop it"""
    columns: dict[str, str] = flag({})
    """Renamed columns, as JSON: {"question": "query"}"""
    dataset_seed: int = flag(42, alias=("data_seed",))
    """Seed of splitting and sampling"""

    def __post_init__(self) -> None:
        if self.show_dataset_sample < -1 or self.show_dataset_sample == 0:
            raise ValueError(f"--show_dataset_sample {self.show_dataset_sample}: must be 1 or more, or -1 for all")


@dataclass(frozen=True)
class Config:
    example: ClassVar[str] = "swift infer --model smollm2-135m-agent --tools examples/agent/house_tools.py"
    most_used: ClassVar[tuple[str, ...]] = (
        "model_id_or_path",
        "ckpt_dir",
        "tools",
        "mcp",
        "system",
        "val_dataset",
        "max_new_tokens",
        "temperature",
        "infer_backend",
        "endpoint",
    )

    model: ModelFlags = ModelFlags()
    backend: BackendFlags = BackendFlags()
    template: TemplateFlags = TemplateFlags()
    generation: GenerationFlags = GenerationFlags()
    rows: RowFlags = RowFlags()
    server: EndpointFlags = EndpointFlags()
    tools: ToolFlags = ToolFlags()
    max_turns: int = 8
    """Maximum replies to one message while tools run"""
    guided_tools: bool = False
    """Constrain tool calls to the offered tools and their schemas (guided decoding)"""
    eval_human: bool | None = None
    """Chat (true) or process a data set (false); none chats unless a data set is given"""
    save_result: bool = True
    """Save the dialogue or the replies as JSON lines"""
    result_dir: str | None = None
    """Folder for saved results; none means output/infer_result"""
    verbose: bool | None = None
    """Print each row with its reply; none prints fewer than 100 rows"""

    def __post_init__(self) -> None:
        if self.eval_human is False and not self.has_rows:
            raise ValueError("--eval_human false needs rows to answer: give --val_dataset or --dataset")
        if self.tools.given and not self.talks:
            flag = "--tools" if self.tools.tools else "--mcp"
            raise ValueError(f"{flag} is for a dialogue: leave it out, or add --eval_human true")
        if self.guided_tools and not self.tools.given:
            raise ValueError("--guided_tools true does nothing without --tools")
        check_engine(self.guided_tools, self.generation, self.backend)
        if self.max_turns < 1:
            raise ValueError(f"--max_turns {self.max_turns}: must be 1 or more")
        if self.server.endpoint and not self.talks:
            raise ValueError("--endpoint is for a dialogue: the rows of a data set are answered by a local model")

    @property
    def has_rows(self) -> bool:
        return bool(self.rows.dataset or self.rows.val_dataset)

    @property
    def vllm_log(self) -> Path:
        """A log file for this process."""
        from swift.assembly.backends import log_file

        return log_file()

    @property
    def talks(self) -> bool:
        return not self.has_rows if self.eval_human is None else self.eval_human


def run(argv: Sequence[str]) -> None:
    parsed = flags.parse(Config, argv, prog="swift infer")
    main(parsed.config, parsed.given)


def main(cfg: Config, given: Collection[str] = ()) -> Path | None:
    """Chats or processes rows. Returns the file of results, or None if there are none."""
    from swift.agent import tool_format
    from swift.assembly import endpoint
    from swift.assembly.checkpoints import checkpoint
    from swift.assembly.loading import load_chat, sampling
    from swift.assembly.preflight import writable
    from swift.assembly.tool_sources import open_tools

    if cfg.server.endpoint:
        endpoint.check(given)
    params = sampling(cfg.generation)
    with open_tools(cfg.tools) as toolbox:
        if cfg.backend.ckpt_dir:
            checkpoint(cfg.backend.ckpt_dir)
        if cfg.save_result and cfg.result_dir:
            writable(cfg.result_dir, "--result_dir")
        rows = [] if cfg.talks else load_rows(cfg.rows, cfg.model.registry)
        results = Results(cfg)
        if cfg.server.endpoint:
            remote = endpoint.connect(cfg.server, cfg.model, cfg.template, given)
            params = replace(params, confidence=cfg.tools.ask_below is not None)  # other servers may refuse the field
            print(f"model: {remote.model} at {without_secrets(cfg.server.endpoint)}", file=sys.stderr)
            talk(remote, params, cfg, results, toolbox, tool_format(SHOWN_FORMAT), sees=True)
            return results.written
        chat = load_chat(cfg, given)
        try:
            if cfg.talks:
                ask = _guided(chat, cfg.tools, toolbox) if cfg.guided_tools else chat
                sees = chat.renderer.image_processor is not None
                params = replace(params, confidence=any(not bound.described for bound in toolbox.tools))
                talk(ask, params, cfg, results, toolbox, chat.renderer.tool_format, sees)
            else:
                answer_rows(chat, rows, params, len(rows) < 100 if cfg.verbose is None else cfg.verbose, results)
        finally:
            chat.engine.close()
    return results.written


class Results:
    """The JSONL file of a run, created at the first record; without --save_result nothing is written.

    It is not inside a checkpoint, which may be copied, pushed or deleted; each record names its checkpoint.
    """

    def __init__(self, cfg: Config) -> None:
        self._folder = Path(cfg.result_dir or "output/infer_result").expanduser() if cfg.save_result else None
        checkpoint = cfg.backend.ckpt_dir
        self._named = {"ckpt_dir": str(Path(checkpoint).expanduser().resolve())} if checkpoint else {}
        self.written: Path | None = None

    def add(self, record: Mapping[str, object]) -> None:
        if self._folder is None:
            return
        if self.written is None:
            self.written = _new_file(self._folder)
        with self.written.open("a", encoding="utf-8") as file:
            file.write(json.dumps({**record, **self._named}, ensure_ascii=False) + "\n")


def _new_file(folder: Path) -> Path:
    """Creates a file named by the time, distinct from those of runs started in the same second."""
    folder.mkdir(parents=True, exist_ok=True)
    began = f"{datetime.now():%Y%m%d-%H%M%S}"
    for number in count():
        file = folder / f"{began}{f'-{number}' if number else ''}.jsonl"
        with suppress(FileExistsError):
            file.open("x").close()
            return file
    raise AssertionError("count() has no end")


# In the terminal


def talk(
    chat: Ask,
    params: SamplingParams,
    cfg: Config,
    results: Results,
    toolbox: Toolbox,
    shown_format: ToolFormat,
    sees: bool,
) -> None:
    """`shown_format`: how calls are shown. `sees`: entries may name images."""
    from swift.assembly import tool_sources
    from swift.infer.confirmation import Confirmation
    from swift.infer.dialogue_commands import COMMANDS
    from swift.infer.repl import Repl, run_dialogue, user_message
    from swift.infer.terminal_input import line_reader
    from swift.infer.terminal_output import supports_colour

    print(f"A message, or one of: {', '.join(COMMANDS)}", file=sys.stderr)
    for line in tool_sources.overview(cfg.tools, toolbox.tools):
        print(line, file=sys.stderr)
    if sees:
        print("<img>path or URL</img> in a message attaches an image", file=sys.stderr)
    read = line_reader(sys.stdin, sys.stdout)
    repl = Repl(
        chat,
        params,
        shown_format,
        sys.stdout,
        cfg.template.system,
        cfg.generation.stream,
        results.add,
        lambda: toolbox.tools,
        cfg.max_turns,
        ask_with_images if sees else user_message,
        terminal=sys.stdin.isatty(),
        colours=supports_colour(sys.stdout),
        offer=tool_sources.offer(cfg.tools, toolbox),
        limits=tool_sources.limits(cfg.tools),
        confirmation=Confirmation(read, cfg.tools.confirm, cfg.tools.ask_below, partial(print, file=sys.stderr)),
    )
    run_dialogue(repl, read)
    _say_where(results)


def _guided(chat: LocalChat, flags: ToolFlags, toolbox: Toolbox) -> Ask:
    """The chat with calls constrained to the offered tools. Says once what of a schema the grammar does not enforce.

    Raises ValueError for a schema that no grammar can enforce, if all tools are offered at once.
    """
    from swift.guided.grammar import Rules
    from swift.infer.guided_tools import guided

    told: set[str] = set()

    def tell(guide: Guide) -> None:
        run = {bound.name for bound in toolbox.tools if not bound.described}
        for each in guide.unenforced:
            then = "; each call is validated before it runs" if each.tool in run else ""
            line = f"tool '{each.tool}': the grammar does not enforce {each}{then}"
            if line not in told:
                told.add(line)
                print(line, file=sys.stderr)

    present = [bound.tool for bound in toolbox.tools]
    if 0 < len(present) <= flags.max_tools:
        tell(chat.guide(Rules(tuple(present))))
    return guided(chat, tell)


def ask_with_images(entry: str) -> Message:
    """A message whose `<img>path or URL</img>` tags become images; paths are relative to the current folder."""
    from swift import images
    from swift.chat import Message

    text, shown = images.parse_tags(entry)
    [asked] = images.read_all([Message("user", text, images=shown)], images.Access(Path.cwd(), network="any"))
    return asked


def _say_where(results: Results) -> None:
    if results.written is not None:
        print(f"results: {results.written}", file=sys.stderr)


# Rows


def load_rows(wanted: RowFlags, registry: Sequence[str] = ()) -> Sequence[Conversation]:
    """The rows to process: those of --val_dataset, or those that training with --dataset holds out."""
    from random import Random

    from swift.data.mix import DataPlan, load_datasets, sample

    train, held_out, _ = load_datasets(
        DataPlan(
            dataset=() if wanted.val_dataset else wanted.dataset,
            val_dataset=wanted.val_dataset,
            dataset_test_ratio=wanted.dataset_test_ratio,
            check_dataset_strategy=wanted.check_dataset_strategy,
            columns=wanted.columns,
            dataset_seed=wanted.dataset_seed,
            registry=tuple(registry),
        )
    )
    rows = held_out or train
    count = wanted.show_dataset_sample
    return rows if count == -1 or count >= len(rows) else sample(rows, count, Random(wanted.dataset_seed))


def answer_rows(
    chat: LocalChat, rows: Sequence[Conversation], params: SamplingParams, verbose: bool, results: Results
) -> None:
    """Generates a reply to the last turn of each row, and records it with the row's own reply."""
    from swift.agent.reply import write_reply

    tool_format, began = chat.renderer.tool_format, time.monotonic()
    equal = cut = failed = tokens = 0
    replies = _replies(chat, rows, params)
    for row, reply in zip(rows, replies if verbose else tracked(replies, "replies", len(rows)), strict=True):
        record = describe(tool_format, row)
        if isinstance(reply, str):
            failed += 1
            record["response"], record["error"] = None, reply
        else:
            written = partial(
                write_reply, tool_format, offered=bool(row.tools), after_result=_asked(row)[-1].role == "tool"
            )
            record["response"] = f"{record['response']}{written(reply.message, block=True)}"
            expected = written(row.messages[-1]) if record["label"] is not None else ""
            equal += written(reply.message).strip() == expected.strip()
            cut += reply.finish == "length"
            tokens += reply.usage.completion_tokens
        results.add(record)
        if verbose:
            _show(record)
    seconds = time.monotonic() - began
    print(
        f"{len(rows)} rows: {equal} replies equal the reference, {cut} cut at their maximum length, "
        f"{failed} rows could not be answered; {tokens} tokens in {seconds:.1f} s ({tokens / seconds:.1f} tokens/s)"
    )
    _say_where(results)


def _replies(chat: LocalChat, rows: Sequence[Conversation], params: SamplingParams) -> Iterator[Reply | str]:
    from swift.infer.chat import collect

    def reply(row: Conversation) -> Reply | str:
        try:
            return collect(chat(_asked(row), row.tools, params, row.template_kwargs))
        except ValueError as error:  # an error of this row, not of the run
            return str(error)

    pool = ThreadPoolExecutor(AT_ONCE)
    try:
        yield from pool.map(reply, rows)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _asked(row: Conversation) -> Sequence[Message]:
    return row.messages[:-1] if row.messages[-1].role == "assistant" else row.messages


def describe(tool_format: ToolFormat, row: Conversation) -> Record:
    """A row as saved. Earlier messages of the last turn become the beginning of the response."""
    from swift.agent.reply import write_reply
    from swift.infer.history import rounds

    asked, offered = _asked(row), bool(row.tools)
    history = rounds(tool_format, asked, offered)
    query, begun = history.pop() if history else ["", ""]
    last = row.messages[-1]
    after_result = bool(asked) and asked[-1].role == "tool"
    label = write_reply(tool_format, last, offered, after_result, block=True) if last.role == "assistant" else None
    record: Record = {
        "system": row.messages[0].content if row.messages[0].role == "system" else None,
        "query": query,
        "response": begun,
        "label": None if label is None else begun + label,
        "history": history,
        "source": f"{row.source}:{row.line}",
    }
    return {**record, "images": [image.source for image in row.images]} if row.images else record


def _show(record: Mapping[str, object]) -> None:
    for name, value in record.items():
        if name in ("query", "response", "label", "error") and value is not None:
            print(f"[{name.upper()}] {value}")
    print("-" * 50)
