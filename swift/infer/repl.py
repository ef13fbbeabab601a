"""The terminal dialogue: lines in, a Chat's replies out. Knows no model, no flag and no file."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby, takewhile
from typing import Literal, TextIO, TypedDict

from swift import images
from swift.agent import ToolFormat, tool_format
from swift.agent.reply import write_reply
from swift.agent.run import run
from swift.agent.tools import BoundTool
from swift.chat import Delta, Draft, FinishReason, Message, Tool, ToolCall
from swift.engine.sampling import SamplingParams
from swift.infer import dialogue_commands as commands
from swift.infer.chat import Chat
from swift.infer.reply_view import ReplyView
from swift.infer.terminal_output import TerminalOutput
from swift.system import utf8

RULE = "-" * 50
LEAVING = "[press Ctrl-C again or type exit to leave]"
NOT_UTF8 = "[not UTF-8: U+FFFD stands for each byte that could not be read]"
REACT = tool_format("react_en")
End = Literal["stop", "tool_calls", "answer", "length", "cancelled", "max_turns"]
NOTES: dict[End, str] = {
    "cancelled": "[stopped]",
    "length": "[the reply reached its greatest length]",
    "max_turns": "[no answer within the turns allowed]",
}


class Exchange(TypedDict):
    system: str | None
    query: str
    response: str
    history: list[list[str]]


class Record(Exchange, total=False):
    """A finished exchange, as it is saved. `history` holds the exchanges before it, `images` those of all, if any."""

    images: list[str]


def user_message(entry: str) -> Message:
    return Message("user", entry)


def rounds(tool_format: ToolFormat, messages: Sequence[Message], offered: bool = False) -> list[list[str]]:
    """What the model is told and what it answers, in turn, as texts; inline results are a part of the answer.

    `offered`: thoughts and answers are written with the words that the form has for them where tools are on offer.
    Other thoughts are blocks.
    """
    found: list[list[str]] = []
    by_tool = False
    for role, group in groupby(messages, key=lambda message: message.role):
        if role == "system":
            continue
        told = role == "user" or (role == "tool" and not tool_format.syntax.inline)
        if not found or (told and found[-1][1]):
            found.append(["", ""])
        if role == "tool":
            text = tool_format.result([message.content for message in group])
        elif role == "user":
            text = "".join(images.told(message) for message in group)
        else:
            said = [replace(message, content=images.told(message)) for message in group]
            text = "".join(write_reply(tool_format, message, offered, by_tool, block=True) for message in said)
        by_tool = role == "tool"
        found[-1][not told] += text
    return found


class Repl:
    """A dialogue fed line by line; what it says goes to `out`.

    Its words are `commands.COMMANDS`; what is nearly one of them is asked about, and sent if it is typed again. In
    multi-line mode an entry ends with a line that ends in `#`. `form` is how the model writes calls. `tools` are
    offered to it and really run, for at most `max_turns` replies to an entry. `described` are offered too, and what
    their calls give is typed in, an entry a call. Without any, a reply that ends with a stop mark of ReAct waits for
    its observation: the next entry is that, and the same reply goes on. `save` gets each exchange when its reply is
    complete. `ask` makes a message of an entry: for a model that sees, with the images it names. `terminal`: somebody
    types, so the prompt says when it waits for an observation; a pipe's transcript has one prompt for all entries.
    `colours`: the parts of a reply have colours.
    """

    def __init__(
        self,
        chat: Chat,
        params: SamplingParams,
        tool_format: ToolFormat,
        out: TextIO,
        system: str | None = None,
        stream: bool = True,
        save: Callable[[Record], object] = lambda record: None,
        tools: Sequence[BoundTool] = (),
        max_turns: int = 8,
        ask: Callable[[str], Message] = user_message,
        described: Sequence[Tool] = (),
        terminal: bool = False,
        colours: bool = False,
    ) -> None:
        self._chat = chat
        self._params = params
        self._format = tool_format
        self._inline = (
            tool_format if tool_format.syntax.inline else REACT
        )  # a system text may ask for ReAct whatever the form is
        self._screen = TerminalOutput(out, colours)
        self._first_system = self._system = system
        self._stream = stream
        self._save = save
        self._tools, self._described, self._max_turns = tools, described, max_turns
        self._ask = ask
        self._terminal = terminal
        self._dialogue: list[Message] = []  # the system text apart
        self._unsaved = False
        self._multi = False
        self._reading_system = False
        self._lines: list[str] = []
        self._held = ""  # the entry that was nearly a command

    @property
    def prompt(self) -> str:
        """What to show before the next line; nothing within an entry of several lines."""
        if self._lines:
            return ""
        mode = "M" * self._multi + "S" * self._reading_system
        if not self._reading_system and (self._awaited or (self._terminal and self._awaits_observation)):
            mode += f"{' ' * bool(mode)}Observation{f' {self._awaited[0].name}' if self._awaited else ''}"
        return f"<<<[{mode}] " if mode else "<<< "

    def feed(self, line: str) -> bool:
        """Takes one line; False when the dialogue is over."""
        entry = self._entry(line)
        if entry is None:
            return True
        command = entry.strip().removesuffix("#").casefold()
        if command in commands.EXIT_WORDS:
            return False
        if command in ("multi-line", "single-line"):
            self._multi = command == "multi-line"
        elif command in ("help", "?"):
            self.note(commands.help_text())
        elif self._reading_system:
            self._take_system(entry)
        elif command == "reset-system":
            self._reading_system = True
        elif command == "clear":
            self._forget()
            self.note("[the dialogue starts afresh; the system prompt stays]")
        elif command != self._held and (
            near := commands.closest_command(command, bool(self._awaited) or self._awaits_observation)
        ):
            self._held = command
            self.note(f"[not sent: did you mean {near}? Enter {entry.strip()} once more to send it]")
            return True
        elif entry.strip():
            self._answer(entry)
        self._held = ""
        return True

    def note(self, text: str) -> None:
        """Shows a line of the program's own."""
        self._screen.show(f"{text}\n")

    def drop(self) -> bool:
        """Gives up an entry of several lines, or a new system text, that has been begun; False if there is none."""
        if not self._lines and not self._reading_system:
            return False
        self.note("[the entry is dropped]" if self._lines else "[the system prompt stays as it was]")
        self._reading_system = self._reading_system and bool(self._lines)
        self._lines = []
        return True

    def close(self) -> None:
        """Saves an exchange that still waits for its observation, and names an entry that has no end."""
        if self._lines:
            self.note("[not sent: the last entry does not end with #]")
            self._lines = []
        self._keep()

    def _keep(self) -> None:
        if self._unsaved:
            thinks = any(message.reasoning for message in self._dialogue)
            pairs = rounds(self._format, self._dialogue, thinks and self._offers)
            query, response = pairs.pop()
            record = Record(system=self._system, query=query, response=response, history=pairs)
            if shown := [image.source for message in self._dialogue for image in message.images]:
                record["images"] = shown
            self._save(record)
        self._unsaved = False

    def _entry(self, line: str) -> str | None:
        """The whole entry that `line` ends, or None while it goes on."""
        if not self._multi or (not self._lines and line.strip().casefold() in commands.EXIT_WORDS):
            return line
        self._lines.append(line)
        if not line.rstrip().endswith("#"):
            return None
        entry = "\n".join(self._lines).rstrip().removesuffix("#")
        self._lines = []
        return entry

    def _take_system(self, text: str) -> None:
        """An empty text brings back the system text that the dialogue began with."""
        if not self._multi:
            text = text.replace("\\n", "\n")  # how a text of several lines is pasted into one
        self._forget()
        self._system = text if text.strip() else self._first_system
        self._reading_system = False

    def _forget(self) -> None:
        self._keep()
        self._dialogue = []

    @property
    def _awaited(self) -> Sequence[ToolCall]:
        """The calls whose observations are typed in, and have not been yet."""
        if not self._described:
            return ()
        told = list(takewhile(lambda message: message.role == "tool", reversed(self._dialogue)))
        said = self._dialogue[-len(told) - 1 :][:1]
        return said[0].tool_calls[len(told) :] if said else ()

    @property
    def _awaits_observation(self) -> bool:
        last = self._dialogue[-1] if self._dialogue else None
        return last is not None and last.role == "assistant" and last.content.endswith(self._inline.syntax.stop)

    @property
    def _offers(self) -> bool:
        return bool(self._tools or self._described)

    def _answer(self, entry: str) -> None:
        said = ""
        system = [] if self._system is None else [Message("system", self._system)]
        try:
            if self._awaited:
                call = self._awaited[0]
                asked = [*self._dialogue, Message("tool", entry, tool_call_id=call.id, name=call.name)]
                if len(self._awaited) > 1:
                    self._dialogue = asked
                    return
            elif self._awaits_observation:
                last = self._dialogue[-1]
                said = write_reply(self._format, last, self._offers) + self._inline.result((entry,))
                asked = [*self._dialogue[:-1], Message("assistant", said, reasoning=self._apart(last))]
            else:
                asked = [*self._dialogue, self._ask(entry)]
            made, end = (self._act if self._tools else self._reply)([*system, *asked])
        except (ValueError, OSError) as error:
            self.note(f"error: {error}")
            return
        if end != "cancelled" or any(message.content or message.reasoning for message in made):
            self._dialogue = [*asked, *made] if not said else [*asked[:-1], self._continued(asked[-1], made[0])]
            self._unsaved = True
        self._ended(end)

    def _continued(self, begun: Message, more: Message) -> Message:
        """One reply, of which `begun` came before an observation and at it."""
        text = write_reply(self._format, replace(more, tool_calls=()), self._offers, after_result=True)
        reasoning = "\n".join(filter(None, (begun.reasoning, self._apart(more))))
        return Message("assistant", begun.content + text, more.tool_calls, reasoning=reasoning)

    def _apart(self, message: Message) -> str:
        """The thought of a message, where the form has no word for it that stands in its text."""
        return "" if self._offers and self._format.syntax.thought else message.reasoning

    def _ended(self, end: End) -> None:
        self._screen.fresh()
        if note := NOTES.get(end):
            self.note(note)
        self.note(RULE)
        if not (self._awaits_observation or self._awaited):
            self._keep()

    def _reply(self, asked: Sequence[Message]) -> tuple[list[Message], End]:
        draft = Draft()
        for delta in self._shown(asked, self._described, self._params):
            draft.add(delta)
        end = draft.finish or "cancelled"
        return [_without_half_calls(draft.message, end)], end

    def _act(self, asked: Sequence[Message]) -> tuple[list[Message], End]:
        """The model's replies, and between them what its calls gave, until it answers."""
        try:
            trace = run(self._shown, self._tools, asked, self._max_turns, params=self._params)
        except KeyboardInterrupt:  # while a tool was at work
            return [], "cancelled"
        if any(result.replaced for result in trace.results):
            self._screen.fresh()
            self.note("[a tool returned what is not UTF-8: U+FFFD stands for each byte that could not be read]")
        *made, last = trace.messages[len(asked) :]
        return [*made, _without_half_calls(last, trace.end)], trace.end

    def _shown(self, asked: Sequence[Message], tools: Sequence[Tool], params: SamplingParams) -> Iterator[Delta]:
        """A reply's deltas, shown as they pass by; before them, what the calls of the reply before gave."""
        results = list(takewhile(lambda message: message.role == "tool", reversed(asked)))
        if results and self._tools:  # what was typed in is on the screen
            told = self._format.result([message.content for message in reversed(results)])
            self._screen.show(told if self._format.syntax.inline else f"\n{told}\n", "observation")
        deltas = self._chat(asked, tools, params)
        written = ReplyView(self._format, self._screen, self._offers)
        finish: FinishReason | None = None
        try:
            for delta in deltas:
                written.add(delta)
                finish = delta.finish or finish
                if self._stream:
                    written.show()
                yield delta
        except KeyboardInterrupt:
            finish = "cancelled"
            yield Delta(finish=finish)
        except (ValueError, OSError):
            self._screen.fresh()
            raise
        finally:
            deltas.close()
        written.show(whole=finish not in ("cancelled", "length"))


def _without_half_calls(reply: Message, end: End) -> Message:
    """A reply that was cut may hold half a call, which nobody can answer."""
    return replace(reply, tool_calls=()) if end in ("cancelled", "length") else reply


def run_dialogue(repl: Repl, read: Callable[[str], str]) -> None:
    """Feeds `repl` until it ends, the input ends, or Ctrl-C comes twice at an empty prompt.

    `read` raises LineCleared for a Ctrl-C that took back what was typed.
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
                if not repl.drop():
                    if warned:
                        return
                    warned = True
                    repl.note(LEAVING)
                continue
            warned = False
            if not utf8.is_encodable(text):
                repl.note(NOT_UTF8)
            # A terminal may hand over several pasted lines at once.
            for line in utf8.replace_surrogates(text).split("\n"):
                if not repl.feed(line):
                    return
    except (EOFError, KeyboardInterrupt):
        return
    finally:
        repl.close()


class LineCleared(KeyboardInterrupt):
    """Ctrl-C took back a line that was not empty."""


def line_reader(lines: TextIO, out: TextIO) -> Callable[[str], str]:
    """A function (prompt) -> line. From a pipe it writes the line after the prompt, so that `out` reads as a dialogue.

    It raises EOFError where `lines` end, or where Ctrl-C comes and nobody types. A byte that is not UTF-8 is a lone
    surrogate in the line.
    """
    if isinstance(lines, io.TextIOWrapper):
        encoding = "utf-8" if lines.encoding.lower() in ("ascii", "us-ascii", "ansi_x3.4-1968") else None
        lines.reconfigure(encoding=encoding, errors="surrogateescape")
    typed = lines.isatty()
    if typed and out.isatty():
        return _terminal()

    def read(prompt: str) -> str:
        if typed:
            out.write(prompt)
            out.flush()
        try:
            line = lines.readline()
        except KeyboardInterrupt:
            if typed:
                out.write("\n")
                raise
            raise EOFError from None
        if not line:
            raise EOFError
        line = line.rstrip("\r\n")
        if not typed:
            out.write(f"{prompt}{utf8.replace_surrogates(line)}\n")
            out.flush()
        return line

    return read


def _terminal() -> Callable[[str], str]:
    """Lines that are edited as they are typed."""
    from prompt_toolkit import PromptSession  # slow to import, and of no use to a pipe
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

    keys = KeyBindings()

    @keys.add("c-c")
    @keys.add("<sigint>")
    def _(event: KeyPressEvent) -> None:
        event.app.exit(
            exception=LineCleared if event.app.current_buffer.text else KeyboardInterrupt, style="class:aborting"
        )

    return PromptSession[str](reserve_space_for_menu=0, key_bindings=keys).prompt
