"""The terminal dialogue: lines in, a Chat's replies out. Knows no model, no flag and no file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TextIO, TypedDict

from swift.agent import Form
from swift.chat import FinishReason, Message
from swift.infer.chat import Chat
from swift.infer.sample import SamplingParams

RULE = "-" * 50
LEAVE = ("exit", "quit")
NOTES: dict[FinishReason, str] = {
    "cancelled": "[stopped]",
    "length": "[the reply reached its greatest length]",
}


class Record(TypedDict):
    """A finished exchange, as it is saved. `history` holds the exchanges before it."""

    system: str | None
    query: str
    response: str
    history: list[list[str]]


class Repl:
    """A dialogue fed line by line; what it says goes to `out`.

    Commands: reset-system, multi-line, single-line, clear, exit, quit. In multi-line mode an entry ends with a line
    that ends in `#`. `inline` is the text form whose results go on inside a reply: when a reply ends with one of its
    stop marks, the next entry is what the environment answers, and the same reply goes on. `save` gets each exchange
    when its reply is complete.
    """

    def __init__(
        self,
        chat: Chat,
        params: SamplingParams,
        inline: Form,
        out: TextIO,
        system: str | None = None,
        stream: bool = True,
        save: Callable[[Record], object] = lambda record: None,
    ) -> None:
        self._chat = chat
        self._params = params
        self._inline = inline
        self._out = out
        self._first_system = self._system = system
        self._stream = stream
        self._save = save
        self._dialogue: list[Message] = []  # user and assistant in turn, the system text apart
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
            texts = [message.content for message in self._dialogue]
            pairs = [list(pair) for pair in zip(texts[::2], texts[1::2], strict=True)]
            query, response = pairs.pop()
            self._save(Record(system=self._system, query=query, response=response, history=pairs))
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
        asked = [*self._dialogue, Message("user", entry)]
        if self._awaits_observation:
            said = self._dialogue[-1].content + self._inline.result((entry,))
            asked = [*self._dialogue[:-1], Message("assistant", said)]
        try:
            reply, finish = self._reply(asked)
        except (ValueError, OSError) as error:
            self._print(f"error: {error}\n")
            return
        if reply or finish != "cancelled":
            self._dialogue = [*(asked[:-1] if said else asked), Message("assistant", said + reply)]
            self._unsaved = True
        note = NOTES.get(finish)
        self._print(("" if reply.endswith("\n") else "\n") + (f"{note}\n" if note else "") + f"{RULE}\n")
        if not self._awaits_observation:
            self.close()

    def _reply(self, asked: Sequence[Message]) -> tuple[str, FinishReason]:
        system = [] if self._system is None else [Message("system", self._system)]
        deltas = self._chat([*system, *asked], (), self._params)
        text: list[str] = []
        finish: FinishReason = "cancelled"
        try:
            for delta in deltas:
                text.append(delta.text)
                finish = delta.finish or finish
                if self._stream:
                    self._print(delta.text)
        except KeyboardInterrupt:
            finish = "cancelled"
        except (ValueError, OSError):
            self._print("\n" if self._stream and text else "")
            raise
        finally:
            deltas.close()
        if not self._stream:
            self._print("".join(text))
        return "".join(text), finish

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
