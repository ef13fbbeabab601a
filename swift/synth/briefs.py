"""What a language model is told, so that it writes a question or a thought for drawn calls. Asks no model."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence

from swift.chat import Message
from swift.synth.catalogue import Function
from swift.synth.rounds import Call
from swift.synth.values import Said, in_words
from swift.synth.written import Wanted

STYLES = (
    "one polite sentence",
    "short and to the point",
    "a question",
    "a request that begins with the reason for it",
    "typed in a hurry on a phone, in lower case",
    "a friendly message of two sentences",
    "an instruction, without please",
    "as somebody says it aloud to a voice assistant",
    "only the key words, like a search",
    "a colleague's message in a chat",
    "somebody who is a little annoyed",
    "somebody who explains the situation first",
)
"""How a message is written. One is drawn for each, so that a model's own habits show less."""
QUESTION_RULES = """You write what people type to an assistant that can call functions. You get the calls that the \
message has to lead to, and write that one message.
- Say every value exactly as it is quoted, and no other name, number, date or option.
- Say it as a person does: name neither functions nor parameters, and write no JSON.
- Several calls are asked for in one message, in the order given.
- Write the message alone: no quotes around it, no introduction, no answer."""
THOUGHT_RULES = """You write what an assistant thinks before it calls functions: one sentence of at most 30 words, on \
one line, that says what the user wants and therefore what has to be done next.
- Use no name, number or date that the user has not said.
- Write the sentence alone: no quotes, no label, no call, no result."""


def question(asked: Wanted, rng: random.Random) -> tuple[Message, ...]:
    """The request for the message that is wanted. `rng` draws its style."""
    lines = []
    if asked.before:
        lines += ["The conversation so far:", f"User: {asked.before[0]}", f"Assistant: {asked.before[1]}", ""]
        lines += ["Write the user's next message. What was said before is not said again. It leads to:"]
    for number, (call, needed) in enumerate(zip(asked.calls, asked.needed, strict=True), 1):
        lines += _call(call, needed, f"Call {number}" if len(asked.calls) > 1 else "The call")
    if asked.lacking:
        left = ", ".join(_called(asked.calls[0].function, path) for path in asked.lacking)
        lines.append(f"The user forgets to say: {left}. Do not say it, and do not say that it is missing.")
    if not all(_tells(call.function) for call in asked.calls):
        lines.append(f"The user wants the same as with this message, in other words: {asked.template}")
    lines.append(f"Language: {'Chinese' if asked.is_chinese else 'English'}. Style: {rng.choice(STYLES)}.")
    return Message("system", QUESTION_RULES), Message("user", "\n".join(lines))


def again(messages: Sequence[Message], reply: str, reason: str) -> tuple[Message, ...]:
    """The second request, after a reply that was not right."""
    return (*messages, Message("assistant", reply), Message("user", f"This is not right: {reason}. Write it again."))


def thought(said: str, step: Sequence[Call]) -> tuple[Message, ...]:
    """The request for a thought. `said`: the user's message."""
    lines = [f"User: {said}", "The assistant will now do this:"]
    for call in step:
        lines += _call(call, call.said, "Call")
    return Message("system", THOUGHT_RULES), Message("user", "\n".join(lines))


def _call(call: Call, needed: Collection[str], title: str) -> list[str]:
    if not call.function.name:
        return ["No call: the assistant has no function for what the user wants."]
    lines = [f"{title}: {call.function.name}: {call.function.description}"]
    for path, said in call.said.items():
        if path in call.passed:
            lines.append(f"- {_called(call.function, path)}: comes from the result of the call before; it is not said")
        elif path in needed:
            lines.append(f"- {_called(call.function, path)}: {_value(said)}")
    return lines


def _value(said: Said) -> str:
    if said.words:
        return f'"{said.words}"'
    if isinstance(said.value, bool):
        return "yes, say so in words" if said.value else "no, say so in words"
    return f"{in_words(said.value)}, say so in words"


def _called(function: Function, path: str) -> str:
    what = function.parameter(path).what.split("\n")[0]
    return f"{path} ({what})" if what else path


def _tells(function: Function) -> bool:
    """Whether the description of a function is enough to ask for it."""
    return len(function.description.split()) > 2
