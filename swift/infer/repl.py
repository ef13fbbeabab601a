"""The terminal dialogue: lines in, a Chat's replies out. Knows no model, no flag and no file."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import replace
from itertools import takewhile
from typing import Literal, TextIO, TypedDict

from swift.agent import ToolFormat, tool_format
from swift.agent.reply import write_reply
from swift.chat import Delta, Draft, FinishReason, Message, Tool, ToolCall
from swift.engine.sampling_params import SamplingParams
from swift.infer import dialogue_commands as commands
from swift.infer.chat import Deltas
from swift.infer.confirmation import Confirmation
from swift.infer.history import rounds
from swift.infer.reply_view import ReplyView
from swift.infer.terminal_input import LineCleared
from swift.infer.terminal_output import TerminalOutput
from swift.system import utf8
from swift.tools.bound_tool import BoundTool
from swift.tools.call import DEFAULT_LIMITS, Limits, Result, call_all
from swift.tools.loop import Offer, Tools, run

RULE = "-" * 50
EXIT_HINT = "[press Ctrl-C again, or type exit, to leave]"
INVALID_UTF8 = "[invalid UTF-8: U+FFFD replaces each byte that could not be decoded]"
REACT = tool_format("react_en")
End = Literal[
    "stop", "tool_calls", "answer", "length", "cancelled", "max_turns", "max_seconds", "requires_action", "error"
]
NOTES: dict[End, str] = {
    "cancelled": "[stopped]",
    "length": "[the reply reached its maximum length]",
    "max_turns": "[no answer within the maximum number of turns]",
}


class Exchange(TypedDict):
    system: str | None
    query: str
    response: str
    history: list[list[str]]


class Record(Exchange, total=False):
    """A finished exchange, as it is saved. `history`: the exchanges before it; `images`: the whole dialogue's."""

    images: list[str]


def user_message(entry: str) -> Message:
    return Message("user", entry)


class Repl:
    """A dialogue that reads lines and writes to `out`.

    Entries in `commands.COMMANDS` are commands; a misspelt one is sent only if it is entered twice. In multi-line mode
    an entry ends at a line that ends with `#`.

    Args:
        tool_format: how calls are shown.
        save: gets each exchange when its reply is complete.
        tools: offered to the model, all or those that `offer` selects. They run, for at most `max_turns` replies to an
            entry; for a described tool the user types in the result of each call. Without tools that run, a reply that
            ends with a stop string of ReAct waits for an observation: the next entry is it, and the same reply
            continues.
        confirmation: asks before calls run.
        to_message: turns an entry into a message, with the images that it names.
        terminal: a user types, so the prompt shows when an observation is expected; with a pipe it does not.
        colours: show the sections of a reply in colours.
    """

    def __init__(
        self,
        chat: Callable[[Sequence[Message], Sequence[Tool], SamplingParams], Deltas],
        params: SamplingParams,
        tool_format: ToolFormat,
        out: TextIO,
        system: str | None = None,
        stream: bool = True,
        save: Callable[[Record], object] = lambda record: None,
        tools: Tools = (),
        max_turns: int = 8,
        to_message: Callable[[str], Message] = user_message,
        terminal: bool = False,
        colours: bool = False,
        offer: Offer | None = None,
        limits: Limits = DEFAULT_LIMITS,
        confirmation: Confirmation | None = None,
    ) -> None:
        self._chat = chat
        self._params = params
        self._format = tool_format
        # A system prompt may ask for ReAct, whatever the model's tool-call format.
        self._inline_format = tool_format if tool_format.syntax.inline else REACT
        self._screen = TerminalOutput(out, colours)
        self._first_system = self._system = system
        self._stream = stream
        self._save = save
        self._present = tools if callable(tools) else lambda: tools
        self._offer = offer or (lambda messages: self._present())
        self._limits, self._max_turns = limits, max_turns
        self._confirmation = confirmation
        # The calls of a reply, and the results of those that have run by their place; the user types in the others.
        self._ran: tuple[Sequence[ToolCall], Mapping[int, Message]] = ((), {})
        self._to_message = to_message
        self._terminal = terminal
        self._dialogue: list[Message] = []  # without the system message
        self._unsaved = False
        self._multi_line = False
        self._reading_system = False
        self._lines: list[str] = []
        self._unsent = ""  # the last entry, if it was taken for a misspelt command

    @property
    def prompt(self) -> str:
        """The prompt for the next line; empty within an entry of several lines."""
        if self._lines:
            return ""
        mode = "M" * self._multi_line + "S" * self._reading_system
        if not self._reading_system and (self._open_calls or (self._terminal and self._expects_observation)):
            mode += f"{' ' * bool(mode)}Observation{f' {self._open_calls[0].name}' if self._open_calls else ''}"
        return f"<<<[{mode}] " if mode else "<<< "

    def feed(self, line: str) -> bool:
        """Processes one line; False at the end of the dialogue."""
        entry = self._entry(line)
        if entry is None:
            return True
        command = entry.strip().removesuffix("#").casefold()
        if command in commands.EXIT_WORDS:
            return False
        if command in ("multi-line", "single-line"):
            self._multi_line = command == "multi-line"
        elif command in ("help", "?"):
            self.note(commands.help_text())
        elif self._reading_system:
            self._take_system(entry)
        elif command == "reset-system":
            self._reading_system = True
        elif command == "clear":
            self._clear()
            self.note("[the dialogue is cleared; the system prompt stays]")
        elif command != self._unsent and (
            near := commands.closest_command(command, bool(self._open_calls) or self._expects_observation)
        ):
            self._unsent = command
            self.note(f"[not sent: did you mean {near}? Enter {entry.strip()} again to send it]")
            return True
        elif entry.strip():
            self._answer(entry)
        self._unsent = ""
        return True

    def note(self, text: str) -> None:
        """Shows a line from the program, not the model."""
        self._screen.write(f"{text}\n")

    def discard(self) -> bool:
        """Discards an unfinished entry of several lines or an unfinished system prompt; False if there is none."""
        if not self._lines and not self._reading_system:
            return False
        self.note("[the entry is discarded]" if self._lines else "[the system prompt is unchanged]")
        self._reading_system = self._reading_system and bool(self._lines)
        self._lines = []
        return True

    def close(self) -> None:
        """Saves an exchange that still waits for an observation, and reports an entry without an end."""
        if self._lines:
            self.note("[not sent: the last entry does not end with #]")
            self._lines = []
        self._save_exchange()

    def _save_exchange(self) -> None:
        if self._unsaved:
            has_reasoning = any(message.reasoning for message in self._dialogue)
            pairs = rounds(self._format, self._dialogue, has_reasoning and self._offers_tools)
            query, response = pairs.pop()
            record = Record(system=self._system, query=query, response=response, history=pairs)
            if sources := [image.source for message in self._dialogue for image in message.images]:
                record["images"] = sources
            self._save(record)
        self._unsaved = False

    def _entry(self, line: str) -> str | None:
        """The entry that `line` completes; None if the entry continues."""
        if not self._multi_line or (not self._lines and line.strip().casefold() in commands.EXIT_WORDS):
            return line
        self._lines.append(line)
        if not line.rstrip().endswith("#"):
            return None
        entry = "\n".join(self._lines).rstrip().removesuffix("#")
        self._lines = []
        return entry

    def _take_system(self, text: str) -> None:
        """Starts a new dialogue with this system prompt; an empty one restores the first."""
        if not self._multi_line:
            text = text.replace("\\n", "\n")  # line breaks in a prompt that is pasted as one line
        self._clear()
        self._system = text if text.strip() else self._first_system
        self._reading_system = False

    def _clear(self) -> None:
        self._save_exchange()
        self._dialogue = []
        if self._confirmation:
            self._confirmation.forget()

    @property
    def _open_calls(self) -> Sequence[ToolCall]:
        """The calls of the last reply from the first on whose result the user has yet to type in."""
        calls, results = _last_calls(self._dialogue)
        return calls[results:]

    def _with_results(self, messages: Sequence[Message]) -> list[Message]:
        """`messages` and, after the last reply's results in them, those that are there already, up to an open call."""
        calls, place = _last_calls(messages)
        results = self._ran[1] if calls is self._ran[0] else {}
        more = []
        while place in results:
            more.append(results[place])
            place += 1
        return [*messages, *more]

    @property
    def _expects_observation(self) -> bool:
        last = self._dialogue[-1] if self._dialogue else None
        return last is not None and last.role == "assistant" and last.content.endswith(self._inline_format.syntax.stop)

    @property
    def _offers_tools(self) -> bool:
        return bool(self._present())

    @property
    def _tools_run(self) -> bool:
        """Whether any tool is more than described."""
        return any(not bound.described for bound in self._present())

    def _answer(self, entry: str) -> None:
        continues = False
        system = [] if self._system is None else [Message("system", self._system)]
        try:
            if self._open_calls:
                call = self._open_calls[0]
                messages = self._with_results([*self._dialogue, _result(call, entry)])
                calls, results = _last_calls(messages)
                if results < len(calls):
                    self._dialogue = messages
                    return
            elif self._expects_observation:
                last = self._dialogue[-1]
                continues = True
                text = write_reply(self._format, last, self._offers_tools) + self._inline_format.result((entry,))
                messages = [*self._dialogue[:-1], Message("assistant", text, reasoning=self._separate_reasoning(last))]
            else:
                messages = [*self._dialogue, self._to_message(entry)]
            replies, end = (self._run_tools if self._tools_run else self._reply)([*system, *messages])
        except (ValueError, OSError) as error:
            self.note(f"error: {error}")
            return
        if end != "cancelled" or any(message.content or message.reasoning for message in replies):
            self._dialogue = (
                [*messages[:-1], self._joined(messages[-1], replies[0])] if continues else [*messages, *replies]
            )
            self._unsaved = True
        self._finish(end)

    def _joined(self, beginning: Message, rest: Message) -> Message:
        """One reply of two parts; `beginning` ends with an observation."""
        text = write_reply(self._format, replace(rest, tool_calls=()), self._offers_tools, after_result=True)
        reasoning = "\n".join(filter(None, (beginning.reasoning, self._separate_reasoning(rest))))
        return Message("assistant", beginning.content + text, rest.tool_calls, reasoning=reasoning)

    def _separate_reasoning(self, message: Message) -> str:
        """The reasoning of a message, unless the format writes it into the text, with a label."""
        return "" if self._offers_tools and self._format.syntax.thought else message.reasoning

    def _finish(self, end: End) -> None:
        self._screen.start_line()
        if note := NOTES.get(end):
            self.note(note)
        self.note(RULE)
        if not (self._expects_observation or self._open_calls):
            self._save_exchange()

    def _reply(self, messages: Sequence[Message]) -> tuple[list[Message], End]:
        draft = Draft()
        offered = [bound.tool for bound in self._offer(messages)]
        for delta in self._shown(messages, offered, self._params):
            draft.add(delta)
        end = draft.finish or "cancelled"
        return [_without_cut_calls(draft.message, end)], end

    def _run_tools(self, messages: Sequence[Message]) -> tuple[list[Message], End]:
        """The model's replies with the results of its calls between them, until it answers."""
        try:
            trace = run(
                self._shown,
                self._present,
                messages,
                self._max_turns,
                params=self._params,
                limits=self._limits,
                confirm=self._confirmed if self._confirmation else None,
                offer=self._offer,
            )
            made = self._run_some(trace.messages[-1]) if trace.end == "requires_action" else {}
        except KeyboardInterrupt:  # while a tool ran
            return [], "cancelled"
        if any(result.replaced for result in (*trace.results, *made.values())):
            self._screen.start_line()
            self.note("[a tool returned invalid UTF-8: U+FFFD replaces each byte that could not be decoded]")
        *earlier, last = trace.messages[len(messages) :]
        if trace.end == "requires_action":
            results = {place: _result(last.tool_calls[place], result.text) for place, result in made.items()}
            self._ran = last.tool_calls, results
            self._show_results(list(results.values()))
            return [*earlier, *self._with_results([last])], trace.end
        return [*earlier, _without_cut_calls(last, trace.end)], trace.end

    def _run_some(self, reply: Message) -> dict[int, Result]:
        """Runs the calls of a reply but those of described tools; the results by the place of the call."""
        present = self._present()
        described = {bound.name for bound in present if bound.described}
        places = [place for place, call in enumerate(reply.tool_calls) if call.name not in described]
        confirm = self._confirmed if self._confirmation else None
        results = call_all(present, [reply.tool_calls[place] for place in places], self._limits, confirm)
        return dict(zip(places, results, strict=True))

    def _confirmed(self, bound: BoundTool, call: ToolCall) -> bool:
        assert self._confirmation is not None
        if self._confirmation.asks(bound, call):
            self._screen.start_line()
        return self._confirmation(bound, call)

    def _show_results(self, results: Sequence[Message]) -> None:
        if results:
            text = self._format.result([message.content for message in results])
            if not self._format.syntax.inline:
                self._screen.start_line()
                text = f"{text}\n"
            self._screen.write(text, "observation")

    def _shown(
        self, messages: Sequence[Message], tools: Sequence[Tool], params: SamplingParams
    ) -> Generator[Delta, None, None]:
        """The deltas of a reply, shown as they pass; before them, the results of the calls of the previous reply."""
        calls, results = _last_calls(messages)
        described = {bound.name for bound in self._present() if bound.described}
        on_screen = not self._tools_run or any(call.name in described for call in calls)
        if results and not on_screen:
            self._show_results(messages[-results:])
        deltas = self._chat(messages, tools, params)
        view = ReplyView(self._format, self._screen, self._offers_tools, rated=self._tools_run)
        finish: FinishReason | None = None
        try:
            for delta in deltas:
                view.add(delta)
                finish = delta.finish or finish
                if self._stream:
                    view.show()
                yield delta
        except KeyboardInterrupt:
            finish = "cancelled"
            yield Delta(finish=finish)
        except (ValueError, OSError):
            self._screen.start_line()
            raise
        finally:
            deltas.close()
        view.show(complete=finish not in ("cancelled", "length"))


def _last_calls(messages: Sequence[Message]) -> tuple[Sequence[ToolCall], int]:
    """The calls of the last reply, if nothing but their results follows it, and the number of these results."""
    results = len(list(takewhile(lambda message: message.role == "tool", reversed(messages))))
    reply = messages[-results - 1 :][:1]
    return (reply[0].tool_calls if reply else ()), results


def _result(call: ToolCall, text: str) -> Message:
    return Message("tool", text, tool_call_id=call.id, name=call.name)


def _without_cut_calls(reply: Message, end: End) -> Message:
    """A truncated reply may end with an incomplete call, which can have no result."""
    return replace(reply, tool_calls=()) if end in ("cancelled", "length") else reply


def run_dialogue(repl: Repl, read: Callable[[str], str]) -> None:
    """Feeds `repl` with lines until the dialogue or the input ends, or Ctrl-C comes twice at an empty prompt.

    `read`: see `line_reader`; it raises LineCleared for a Ctrl-C that cleared the line.
    """
    warned = False
    try:
        while True:
            try:
                text = read(repl.prompt)
            except LineCleared:
                warned = False
                continue
            except KeyboardInterrupt:
                if not repl.discard():
                    if warned:
                        return
                    warned = True
                    repl.note(EXIT_HINT)
                continue
            warned = False
            if not utf8.is_encodable(text):
                repl.note(INVALID_UTF8)
            # A terminal may return several pasted lines at once.
            for line in utf8.replace_surrogates(text).split("\n"):
                if not repl.feed(line):
                    return
    except (EOFError, KeyboardInterrupt):
        return
    finally:
        repl.close()
