"""The terminal dialogue: lines in, a Chat's replies out. Knows no model, no flag and no file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby, takewhile
from typing import Literal, TextIO, TypedDict

from swift import images
from swift.agent import Form, form
from swift.agent.run import run
from swift.agent.tools import BoundTool
from swift.chat import Delta, Draft, Message, Tool
from swift.infer.chat import Chat
from swift.infer.sample import SamplingParams

RULE = "-" * 50
LEAVE = ("exit", "quit")
REACT = form("react_en")
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


def as_asked(entry: str) -> Message:
    return Message("user", entry)


def rounds(form: Form, messages: Sequence[Message]) -> list[list[str]]:
    """What the model is told and what it answers, in turn, as texts; inline results are a part of the answer."""
    found: list[list[str]] = []
    for role, group in groupby(messages, key=lambda message: message.role):
        if role == "system":
            continue
        told = role == "user" or (role == "tool" and not form.marks.inline)
        if not found or (told and found[-1][1]):
            found.append(["", ""])
        if role == "tool":
            text = form.result([message.content for message in group])
        else:
            text = "".join(form.call(images.told(message), message.tool_calls) for message in group)
        found[-1][not told] += text
    return found


class Repl:
    """A dialogue fed line by line; what it says goes to `out`.

    Commands: reset-system, multi-line, single-line, clear, exit, quit. In multi-line mode an entry ends with a line
    that ends in `#`. `form` is how the model writes calls. `tools` are offered to it and really run, for at most
    `max_turns` replies to an entry; without any, a reply that ends with a stop mark of ReAct waits for its
    observation: the next entry is that, and the same reply goes on. `save` gets each exchange when its reply is
    complete. `ask` makes a message of an entry: for a model that sees, with the images it names.
    """

    def __init__(
        self,
        chat: Chat,
        params: SamplingParams,
        form: Form,
        out: TextIO,
        system: str | None = None,
        stream: bool = True,
        save: Callable[[Record], object] = lambda record: None,
        tools: Sequence[BoundTool] = (),
        max_turns: int = 8,
        ask: Callable[[str], Message] = as_asked,
    ) -> None:
        self._chat = chat
        self._params = params
        self._form = form
        self._inline = form if form.marks.inline else REACT  # a system text may ask for ReAct whatever the form is
        self._out = out
        self._first_system = self._system = system
        self._stream = stream
        self._save = save
        self._tools, self._max_turns = tools, max_turns
        self._ask = ask
        self._dialogue: list[Message] = []  # the system text apart
        self._unsaved = False
        self._multi = False
        self._reading_system = False
        self._lines: list[str] = []

    @property
    def prompt(self) -> str:
        """What to show before the next line; nothing within an entry of several lines."""
        if self._lines:
            return ""
        mode = "M" * self._multi + "S" * self._reading_system
        return f"<<<[{mode}] " if mode else "<<< "

    def feed(self, line: str) -> bool:
        """Takes one line; False when the dialogue is over."""
        entry = self._entry(line)
        if entry is None:
            return True
        command = entry.strip().removesuffix("#").casefold()
        if command in LEAVE:
            return False
        if command in ("multi-line", "single-line"):
            self._multi = command == "multi-line"
        elif self._reading_system:
            self._take_system(entry)
        elif command == "reset-system":
            self._reading_system = True
        elif command == "clear":
            self._forget()
            self._print("[the dialogue starts afresh]\n")
        elif entry.strip():
            self._answer(entry)
        return True

    def close(self) -> None:
        """Saves an exchange that still waits for its observation."""
        if self._unsaved:
            pairs = rounds(self._form, self._dialogue)
            query, response = pairs.pop()
            record = Record(system=self._system, query=query, response=response, history=pairs)
            if shown := [image.source for message in self._dialogue for image in message.images]:
                record["images"] = shown
            self._save(record)
        self._unsaved = False

    def _entry(self, line: str) -> str | None:
        """The whole entry that `line` ends, or None while it goes on."""
        if not self._multi or (not self._lines and line.strip().casefold() in LEAVE):
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
        self.close()
        self._dialogue = []

    @property
    def _awaits_observation(self) -> bool:
        return bool(self._dialogue) and self._dialogue[-1].content.endswith(self._inline.marks.stop)

    def _answer(self, entry: str) -> None:
        said = ""
        system = [] if self._system is None else [Message("system", self._system)]
        try:
            if self._awaits_observation:
                said = self._dialogue[-1].content + self._inline.result((entry,))
                asked = [*self._dialogue[:-1], Message("assistant", said)]
            else:
                asked = [*self._dialogue, self._ask(entry)]
            made, end = (self._act if self._tools else self._reply)([*system, *asked])
        except (ValueError, OSError) as error:
            self._print(f"error: {error}\n")
            return
        if end != "cancelled" or any(message.content for message in made):
            self._dialogue = (
                [*asked, *made] if not said else [*asked[:-1], Message("assistant", said + made[0].content)]
            )
            self._unsaved = True
        note = NOTES.get(end)
        whole = bool(made) and made[-1].content.endswith("\n")
        self._print(("" if whole else "\n") + (f"{note}\n" if note else "") + f"{RULE}\n")
        if not self._awaits_observation:
            self.close()

    def _reply(self, asked: Sequence[Message]) -> tuple[list[Message], End]:
        text: list[str] = []
        end: End = "cancelled"
        for delta in self._shown(asked, (), self._params):
            text.append(delta.text)
            end = delta.finish or end
        return [Message("assistant", "".join(text))], end

    def _act(self, asked: Sequence[Message]) -> tuple[list[Message], End]:
        """The model's replies, and between them what its calls gave, until it answers."""
        try:
            trace = run(self._shown, self._tools, asked, self._max_turns, params=self._params)
        except KeyboardInterrupt:  # while a tool was at work
            return [], "cancelled"
        return list(trace.messages[len(asked) :]), trace.end

    def _shown(self, asked: Sequence[Message], tools: Sequence[Tool], params: SamplingParams) -> Iterator[Delta]:
        """A reply's deltas, shown as they pass by; before them, what the calls of the reply before gave."""
        results = list(takewhile(lambda message: message.role == "tool", reversed(asked)))
        if results:
            told = self._form.result([message.content for message in reversed(results)])
            self._print(told if self._form.marks.inline else f"\n{told}\n")
        deltas = self._chat(asked, tools, params)
        draft = Draft()
        try:
            for delta in deltas:
                draft.add(delta)
                self._print(delta.text if self._stream else "")
                yield delta
        except KeyboardInterrupt:
            yield Delta(finish="cancelled")
        except (ValueError, OSError):
            self._print("\n" if self._stream and draft.message.content else "")
            raise
        finally:
            deltas.close()
        said = draft.message
        self._print(self._form.call(said.content, said.tool_calls)[len(said.content) if self._stream else 0 :])

    def _print(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()


def converse(repl: Repl, read: Callable[[str], str]) -> None:
    """Feeds `repl` until it ends, the input ends, or Ctrl-C comes at the prompt."""
    try:
        while True:
            # A terminal may hand over several pasted lines at once.
            for line in read(repl.prompt).split("\n"):
                if not repl.feed(line):
                    return
    except (EOFError, KeyboardInterrupt):
        return
    finally:
        repl.close()


def reader(lines: TextIO, out: TextIO) -> Callable[[str], str]:
    """A function (prompt) -> line. From a pipe it writes the line after the prompt, so that `out` reads as a dialogue.

    It raises EOFError where `lines` end.
    """
    if lines.isatty() and out.isatty():
        from prompt_toolkit import PromptSession  # slow to import, and of no use to a pipe

        return PromptSession[str](reserve_space_for_menu=0).prompt

    def read(prompt: str) -> str:
        if lines.isatty():
            out.write(prompt)
            out.flush()
        line = lines.readline()
        if not line:
            raise EOFError
        line = line.rstrip("\r\n")
        if not lines.isatty():
            out.write(f"{prompt}{line}\n")
            out.flush()
        return line

    return read
