"""The dialogue of `swift data review`: shows rows one after another, and writes what is decided at once.

Knows no flag. What a correction does to a row is `swift.traces.decisions`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.markup import escape

from swift.data.row_messages import read_message
from swift.data.row_values import Row
from swift.data.trace_rows import TRACE
from swift.infer.terminal_input import LineCleared
from swift.traces import decisions
from swift.traces.decisions import Decision
from swift.traces.file import append, read_jsonl
from swift.traces.view import show

Ask = Callable[[str, str], str]
"""(prompt, default) -> a line. Raises EOFError at the end of the input, KeyboardInterrupt for Ctrl-C."""
HELP = """\
k     keep the row, and go on
d     drop the row: it goes to the file of dropped rows
c N   correct call N: its name, its arguments, and its result with the right answer, or the row ends with the call
a     replace the final answer by the right one (\\n is a line break)
w N   mark step N as wrong: its reply stays and is not trained; once more takes the mark back
f     show the row with its whole texts
s     skip the row for now: it comes again next time
u     undo the last change of this row, or go back to the row before
q     quit"""
PROMPT = "k d c a w f s u q ? > "


class Written(NamedTuple):
    """A decision in a file. `start`: the file's size before it."""

    file: Path
    start: int
    decision: Decision


class Files:
    """Where rows go: `output` those to train on, `dropped` the others. Each decision is written at once."""

    def __init__(self, output: Path) -> None:
        self.output = output
        self.dropped = output.with_name(f"{output.stem}.dropped{output.suffix}")
        self.notes: list[str] = []
        self.done: Counter[str] = Counter()
        for file in (self.output, self.dropped):
            found, note = read_jsonl(file)
            self.notes += [note] * bool(note)
            for number, row in enumerate(found, 1):
                made = row.get(TRACE)
                decided = made.get("review") if isinstance(made, dict) else None
                if not isinstance(decided, dict) or "of" not in decided:
                    raise ValueError(f"{file}: row {number} is not a reviewed row: choose another --output")
                self.done[decided["of"]] += 1

    def write(self, row: Row, decision: Decision, of: str) -> Written:
        file = self.dropped if decision == "dropped" else self.output
        file.parent.mkdir(parents=True, exist_ok=True)
        start = file.stat().st_size if file.exists() else 0
        date = f"{datetime.now().astimezone():%Y-%m-%dT%H:%M:%S%z}"
        append(file, decisions.reviewed(row, decision, of, date))
        return Written(file, start, decision)

    def take_back(self, written: Written) -> None:
        with written.file.open("r+b") as file:
            file.truncate(written.start)


class Draft:
    """A row under review: its states, oldest first, and what of it is in a file."""

    def __init__(self, number: int, row: Row) -> None:
        self.number, self.of = number, decisions.digest(row)
        self.states: list[tuple[Row, Decision]] = [(row, "kept")]
        self.written: Written | None = None

    @property
    def row(self) -> Row:
        return self.states[-1][0]


class ReviewDialogue:
    """Walks through rows. `full`: show whole texts."""

    def __init__(self, rows: Sequence[Row], files: Files, ask: Ask, console: Console, full: bool = False) -> None:
        self._files, self._ask, self._console, self._full = files, ask, console, full
        done = Counter(files.done)
        self._drafts: list[Draft] = []
        for number, row in enumerate(rows, 1):
            draft = Draft(number, row)
            if done[draft.of]:
                done[draft.of] -= 1
            else:
                self._drafts.append(draft)
        self._rows = len(rows)
        self._at = 0

    def run(self) -> None:
        """Until the rows or the input end, or the user quits."""
        if done := self._rows - len(self._drafts):
            self._say(f"{done} of {self._rows} rows are reviewed")
        shown: Draft | None = None
        while self._at < len(self._drafts):
            draft = self._drafts[self._at]
            if draft is not shown:
                self._show(draft)
                shown = draft
            try:
                line = self._ask(PROMPT, "")
            except LineCleared:
                continue
            except (EOFError, KeyboardInterrupt):
                break
            word, _, rest = line.strip().partition(" ")
            if word.lower() in ("q", "quit", "exit"):
                break
            try:
                if self._do(draft, word.lower(), rest.strip()):
                    shown = None
            except ValueError as error:
                self._say(f"not done: {error}")
            except (EOFError, KeyboardInterrupt):  # within an edit
                self._say("not done: the row is as it was")
        for line in self._summary():
            self._say(line)

    def _do(self, draft: Draft, word: str, rest: str) -> bool:
        """Does a command. True if the row that is to be shown has changed."""
        match word:
            case "k" | "keep":
                if not draft.written:
                    self._write(draft, decisions.kept(draft.row), "kept")
                self._at += 1
            case "d" | "drop":
                self._write(draft, draft.row, "dropped")
                self._at += 1
            case "s" | "skip":
                self._forget(draft)
                self._at += 1
            case "u" | "undo":
                return self._undo(draft)
            case "c" | "correct":
                self._change(draft, self._corrected(draft.row, rest), "corrected")
            case "a" | "answer":
                answer = self._text("answer: ", _answer(draft.row))
                self._change(draft, decisions.with_answer(draft.row, answer), "answered")
            case "w" | "wrong":
                for number in rest.replace(",", " ").split() or [""]:
                    marked = decisions.with_mark(draft.row, _number(number, "step", "w") - 1)
                    self._change(draft, marked, "corrected")
            case "f" | "full":
                self._show(draft, full=True)
                return False
            case "?" | "h" | "help" | "":
                self._say(HELP)
                return False
            case _:
                raise ValueError(f"there is no command '{word}': ? lists them")
        return True

    def _corrected(self, row: Row, rest: str) -> Row:
        places = decisions.calls(row)
        if not places:
            raise ValueError("the row has no call")
        number = _number(rest, "call", "c") if rest or len(places) > 1 else 1
        if not 1 <= number <= len(places):
            raise ValueError(f"there is no call {number}: the row has {len(places)}")
        place = places[number - 1]
        name, arguments = decisions.call_at(row, place)
        name = self._ask("name: ", name)
        arguments = self._ask("arguments: ", arguments)
        decisions.with_call(row, place, name, arguments)  # what is wrong with them is said before more is asked
        result = self._ask("result (empty: the row ends with this call): ", "")
        answer = self._text("answer: ", "") if result.strip() else ""
        return decisions.with_call(row, place, name, arguments, result, answer)

    def _text(self, prompt: str, default: str) -> str:
        """A text of several lines, written with \\n."""
        return self._ask(prompt, default.replace("\n", "\\n")).replace("\\n", "\n")

    def _change(self, draft: Draft, row: Row, decision: Decision) -> None:
        draft.states.append((row, decision))
        self._write_if_trainable(draft)

    def _write_if_trainable(self, draft: Draft) -> None:
        row, decision = draft.states[-1]
        try:
            self._write(draft, decisions.kept(row), decision)
        except ValueError as error:
            self._forget(draft)
            self._say(f"not written yet: {error}")

    def _undo(self, draft: Draft) -> bool:
        if len(draft.states) > 1:
            draft.states.pop()
            self._forget(draft)
            if len(draft.states) > 1:
                self._write_if_trainable(draft)
        elif self._at:
            self._forget(draft)
            self._at -= 1
            before = self._drafts[self._at]
            if before.written and (before.written.decision == "dropped" or len(before.states) == 1):
                self._forget(before)
        else:
            raise ValueError("there is nothing to undo")
        return True

    def _write(self, draft: Draft, row: Row, decision: Decision) -> None:
        self._forget(draft)
        draft.written = self._files.write(row, decision, draft.of)

    def _forget(self, draft: Draft) -> None:
        """Takes back what is written of a row: it is always the last of its file."""
        if draft.written:
            self._files.take_back(draft.written)
            draft.written = None

    def _show(self, draft: Draft, full: bool = False) -> None:
        row, trace = draft.row, draft.row.get(TRACE)
        self._console.print()
        self._console.rule(escape(_title(draft, self._rows)), align="left")
        notes = _notes(trace if isinstance(trace, dict) else {}, len(decisions.calls(draft.states[0][0])))
        given = 0
        for number, raw in enumerate(row["messages"], 1):
            message = read_message(raw, number)
            numbered = range(given, given + len(message.tool_calls))
            said = [f"(call {index + 1}{notes[index] if index < len(notes) else ''})" for index in numbered]
            given += len(message.tool_calls)
            mark = " x" if message.weight == 0 else "  "
            show(self._console, message, f"{number:>3}{mark} ", self._full or full, said)

    def _summary(self) -> list[str]:
        decided = Counter(draft.written.decision for draft in self._drafts if draft.written)
        left = len(self._drafts) - decided.total()
        counts = ", ".join(f"{number} {name}" for name, number in decided.most_common()) or "nothing decided"
        lines = [f"{counts}; left: {left}" if left else counts]
        if decided.total() - decided["dropped"]:
            lines.append(f"rows to train on: {self._files.output}")
        if decided["dropped"]:
            lines.append(f"dropped rows: {self._files.dropped}")
        return lines

    def _say(self, text: str) -> None:
        self._console.print(text, markup=False, soft_wrap=True, highlight=False)


def _title(draft: Draft, rows: int) -> str:
    trace = draft.row.get(TRACE)
    known = trace if isinstance(trace, dict) else {}
    parts = [f"{draft.number}/{rows}"]
    if "id" in known:
        parts.append(str(known["id"]))
    if "outcome" in known:
        parts.append(str(known["outcome"]) + (f" ({known['error']})" if known.get("error") else ""))
    if "expected" in known:
        parts.append(f"expected: {known['expected']}")
    if draft.written:
        parts.append(f"written as {draft.written.decision}: k goes on")
    return "  ".join(parts)


def _notes(trace: dict[str, Any], calls: int) -> list[str]:
    """For each call of the row as it was, its failure and confidence."""
    made = [call for call in trace.get("calls", ()) if isinstance(call, dict) and call.get("name")]
    if len(made) != calls:  # calls of the task's own messages come before
        return []
    notes = []
    for call in made:
        confidence = f", {call['confidence']:.0%} sure" if isinstance(call.get("confidence"), float) else ""
        failure = f", {call['failure']}" if call.get("failure") else ""
        notes.append(f"{confidence}{failure}")
    return notes


def _answer(row: Row) -> str:
    last = read_message(row["messages"][-1], 1)
    return last.content if last.role == "assistant" and not last.tool_calls else ""


def _number(text: str, what: str, command: str) -> int:
    if not text.isdecimal():
        raise ValueError(f"which {what}? Write {command} and its number")
    return int(text)
