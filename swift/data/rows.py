"""Rows of every known shape -> conversations. Knows no file, no tokenizer and no template; opens no image.

A row's shape is found by its own keys, so one file may mix shapes. Two steps: `read` makes sure that the row *is* a
dialogue (keys, types, order of turns), `examine` that the dialogue makes sense (calls, results, replies).
"""

from __future__ import annotations

import ast
import difflib
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, NoReturn

from swift.chat import PLACE, Conversation, Image, Message, Tool, ToolCall
from swift.images import looks_like_one

Row = dict[str, Any]
Shape = Callable[[Row], Conversation]

# "call" is a turn of its own in some formats; it becomes a tool call of the assistant.
ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "bot": "assistant",
    "function_call": "call",
    "tool_call": "call",
    "tool": "tool",
    "tool_response": "tool",
    "function": "tool",
    "function_response": "tool",
    "observation": "tool",
    "observations": "tool",
}
DIALOGUE_KEYS = ("messages", "conversations", "conversation")
QUERY_KEYS = ("query", "prompt", "input", "instruction", "question", "problem")
RESPONSE_KEYS = (
    *("response", "answer", "output", "targets", "target", "answer_key"),
    *("answers", "solution", "text", "completion", "content"),
)
SYSTEM_KEYS = ("system", "system_prompt")
TOOLS_KEYS = ("tools", "functions")
IMAGE_KEYS = ("images", "image")
MEDIA_KEYS = ("videos", "audios", "video", "audio")


class BadRow(ValueError):
    """A row that cannot be trained on: `rule` is a short stable name, the message says what is wrong."""

    def __init__(self, rule: str, message: str, excerpt: str = "") -> None:
        super().__init__(message)
        self.rule = rule
        self.message = message
        self.excerpt = excerpt  # only where there is no row to take one from


def conversation(row: Row, columns: Mapping[str, str] | None = None) -> Conversation:
    """A row of any known shape -> a conversation that makes sense. `columns` renames keys, {theirs: ours}."""
    found = read(row, columns)
    examine(found)
    return found


def read(row: Row, columns: Mapping[str, str] | None = None) -> Conversation:
    """A row of any known shape -> a conversation: the right types in the right order, but not yet examined."""
    if not isinstance(row, dict):
        raise BadRow("not-an-object", f"a row must be a JSON object, this is {_kind(row)}")
    if columns:
        kept = {key: value for key, value in row.items() if key not in columns}
        row = kept | {columns[key]: value for key, value in row.items() if key in columns}
    for key in MEDIA_KEYS:
        if row.get(key):
            raise BadRow("not-text", f"the row has {key!r}; only text and images can be trained on")
    return shape_of(row)(row)


def shape_of(row: Row) -> Shape:
    """The function that reads this row, chosen by the row's own keys."""
    key = _first(row, DIALOGUE_KEYS)
    if key is not None:
        return pairs if _looks_like_pairs(row[key]) else messages
    query, reply = _first(row, QUERY_KEYS), _first(row, RESPONSE_KEYS)
    if row.get("instruction") is not None and reply is not None:
        return alpaca
    if reply is not None:
        return query_response if query is not None or _first(row, ("history", *SYSTEM_KEYS)) else text
    if query is not None or any(name in row for name in (*RESPONSE_KEYS, *DIALOGUE_KEYS)):
        raise BadRow("no-reply", "the row has no response")
    keys = ", ".join(map(repr, list(row)[:8])) or "none"
    raise BadRow(
        "unknown-shape", f"no messages, conversations, query/response, instruction/output or text; keys: {keys}"
    )


# The shapes -----------------------------------------------------------------------------------------------------------


def messages(row: Row) -> Conversation:
    """`messages` or `conversations`: a list of {role, content} or {from, value}, or that list as text."""
    turns: list[Message] = []
    for number, item in enumerate(_dialogue(row), 1):
        if not isinstance(item, dict):
            raise BadRow("wrong-type", f"message {number} must be an object, this is {_kind(item)}")
        _append(turns, _message(item, number), number)
    return _whole(row, turns)


def pairs(row: Row) -> Conversation:
    """`conversation`: a list of {human, assistant} pairs."""
    turns: list[Message] = []
    for number, item in enumerate(_dialogue(row), 1):
        if not isinstance(item, dict) or "human" not in item or "assistant" not in item:
            raise BadRow("wrong-type", f"pair {number} must be an object with 'human' and 'assistant'")
        turns.append(Message("user", _text(item["human"], f"'human' of pair {number}")))
        turns.append(Message("assistant", _text(item["assistant"], f"'assistant' of pair {number}")))
    return _whole(row, turns)


def query_response(row: Row) -> Conversation:
    """`query` and `response` under any of their names, with `history` as [question, answer] pairs."""
    key = _first(row, QUERY_KEYS)
    return _rounds(row, "" if key is None else _text(row[key], repr(key)))


def alpaca(row: Row) -> Conversation:
    """`instruction`, `input` and `output`; the question is the instruction and, on the next line, the input."""
    parts = [_text(row[key], repr(key)) for key in ("instruction", "input") if row.get(key) is not None]
    return _rounds(row, "\n".join(part for part in parts if part))


def text(row: Row) -> Conversation:
    """A response alone (or `text`): plain text to pre-train on."""
    if key := _first(row, IMAGE_KEYS):
        raise BadRow("no-query", f"the row has {key!r}, but no question that they belong to")
    return Conversation((Message("assistant", _response(row)),))


# What is wrong with a dialogue ----------------------------------------------------------------------------------------


def examine(found: Conversation) -> None:
    """Raises BadRow when calls, results or replies of a well-formed conversation do not make sense."""
    offered = {tool.name for tool in found.tools}
    calls: tuple[ToolCall, ...] = ()
    waiting: list[str] = []  # ids of the calls that still have no result
    results, allowed = 0, 0
    for number, message in enumerate(found.messages, 1):
        if message.weight and message.role != "assistant":
            raise BadRow("weight-on-prompt", f"message {number} is the {message.role}'s and is never trained")
        if message.role == "tool":
            results += 1
            call_id = message.tool_call_id or next(iter(waiting), "")
            if results > allowed or (waiting and call_id not in waiting):
                raise BadRow("result-without-call", f"message {number} is a tool result that no call asked for")
            if waiting:
                waiting.remove(call_id)
            continue
        if calls and (not results or waiting):
            raise BadRow("call-without-result", f"the dialogue goes on at message {number}, but a call has no result")
        calls = message.tool_calls
        results, allowed = 0, len(calls)
        # Without ids results are matched by order, and one message may bring the results of all calls.
        waiting = [call.id for call in calls if call.id]
        if message.role == "assistant":
            _examine_reply(message, offered, number)
            if message.content.rstrip().endswith("Observation:"):
                allowed = max(allowed, 1)  # ReAct text: the call is in the words, its result a message of its own


def _examine_reply(message: Message, offered: set[str], number: int) -> None:
    if not message.tool_calls and not message.content.strip():
        raise BadRow("empty-reply", f"message {number} is an empty reply")
    for call in message.tool_calls:
        _examine_call(call, offered, number)


def _examine_call(call: ToolCall, offered: set[str], number: int) -> None:
    if offered and call.name not in offered:
        raise BadRow("unknown-tool", f"message {number} calls {call.name!r}, offered: {', '.join(sorted(offered))}")
    try:
        arguments = json.loads(call.arguments)
    except ValueError as error:
        raise BadRow("bad-arguments", f"message {number}, {call.name}: arguments are no JSON: {error}") from None
    if not isinstance(arguments, dict):
        raise BadRow("bad-arguments", f"message {number}, {call.name}: arguments must be an object")


# Parts of rows --------------------------------------------------------------------------------------------------------


def parsed(value: str) -> Any:
    """JSON text, or else a Python literal, as a value; ValueError when it is neither."""
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        try:
            return ast.literal_eval(value.strip())
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            raise ValueError(f"neither JSON nor a Python literal: {error}") from None


def _dialogue(row: Row) -> list[Any]:
    key = _first(row, DIALOGUE_KEYS)
    assert key is not None, row
    items = row[key]
    if isinstance(items, str):
        items = _parsed_field(items, key)
    if not isinstance(items, list):
        raise BadRow("wrong-type", f"{key!r} must be a list, this is {_kind(items)}")
    if not items:
        raise BadRow("no-reply", f"{key!r} is empty")
    return items


def _parsed_field(value: str, key: str, rule: str = "wrong-type") -> Any:
    try:
        return parsed(value)
    except ValueError as error:
        raise BadRow(rule, f"{key!r} is {error}") from None


def _looks_like_pairs(items: Any) -> bool:
    if isinstance(items, str):
        return "human" in items and "assistant" in items and _looks_like_pairs(_parsed_field(items, "conversation"))
    first = items[0] if isinstance(items, list) and items else None
    return isinstance(first, dict) and "human" in first and "role" not in first and "from" not in first


def _message(item: Row, number: int) -> Message:
    """One {role, content} or {from, value}; a turn that is a call becomes an assistant message with tool calls."""
    name = item.get("role") if item.get("role") is not None else item.get("from")
    role = ROLES.get(name) if isinstance(name, str) else None
    content = item.get("content") if item.get("content") is not None else item.get("value")
    weight = _weight(item, number)
    if role == "system":
        return Message("system", _text(content, f"message {number}"), weight=weight)
    if role == "user":
        body, images = _illustrated(content, f"message {number}")
        return Message("user", body, weight=weight, images=images)
    if role == "call":
        return Message("assistant", "", _calls(content, number), weight)
    if role == "tool":
        if isinstance(content, dict) or (isinstance(content, list) and not _are_parts(content)):
            content = json.dumps(content, ensure_ascii=False)
        identity, tool = item.get("tool_call_id"), item.get("name")
        body = _text(content, f"message {number}")
        return Message("tool", body, (), weight, _optional(identity, "tool_call_id"), _optional(tool, "name"))
    if role == "assistant":
        if item.get("reasoning_content"):
            raise BadRow("reasoning-content", f"message {number}: write the reasoning into the content, as <think>...")
        given = item.get("tool_calls") or item.get("function_call") or ()
        calls = _calls(given, number) if given else ()
        return Message("assistant", "" if content is None else _text(content, f"message {number}"), calls, weight)
    _unknown_role(name, number)


def _unknown_role(name: Any, number: int) -> NoReturn:
    if name is None:
        raise BadRow("unknown-role", f"message {number} has no role (key 'role' or 'from')")
    near = difflib.get_close_matches(str(name).lower(), ROLES, 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise BadRow("unknown-role", f"message {number} has the role {name!r}{hint}")


def _append(turns: list[Message], message: Message, number: int) -> None:
    """Adds a turn; neighbouring assistant messages are one turn, since no template can show them as two."""
    last = turns[-1] if turns else None
    if message.role == "system" and last is not None:
        raise BadRow("late-system", f"message {number} is a system message, but only the first message can be one")
    if last is None or last.role != message.role or message.role == "tool":
        turns.append(message)
        return
    if message.role == "user":
        raise BadRow("two-users", f"message {number} is a second user message in a row")
    if last.tool_calls and message.content:
        raise BadRow("call-without-result", f"message {number} follows a call that has no result")
    if (1.0 if last.weight is None else last.weight) != (1.0 if message.weight is None else message.weight):
        raise BadRow("mixed-weights", f"message {number} continues a turn, but has another weight")
    # Joined without a separator: nothing is trained that the row does not hold.
    weight = last.weight if message.weight is None else message.weight
    turns[-1] = Message("assistant", last.content + message.content, last.tool_calls + message.tool_calls, weight)


def _rounds(row: Row, query: str) -> Conversation:
    """System, history, question and answer. A question left empty means text to pre-train on (CSV cells)."""
    turns: list[Message] = []
    history = row.get("history") or []
    if isinstance(history, str):
        history = _parsed_field(history, "history")
    if not isinstance(history, list):
        raise BadRow("wrong-type", f"'history' must be a list of pairs, this is {_kind(history)}")
    for number, pair in enumerate(history, 1):
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise BadRow("wrong-type", f"pair {number} of 'history' must be [question, answer]")
        turns.append(Message("user", _text(pair[0], f"'history' pair {number}")))
        turns.append(Message("assistant", _text(pair[1], f"'history' pair {number}")))
    if query:
        turns.append(Message("user", query))
    elif turns or any(row.get(key) for key in SYSTEM_KEYS):
        raise BadRow("no-query", "the row has a system text or a history, but no question")
    else:
        return text(row)
    turns.append(Message("assistant", _response(row)))
    return _whole(row, turns)


def _whole(row: Row, turns: list[Message]) -> Conversation:
    """Adds the row's own system text and tools, and makes sure that there is something to learn."""
    key = _first(row, SYSTEM_KEYS)
    if key is not None:
        system = _text(row[key], repr(key))
        if turns[0].role != "system":
            turns.insert(0, Message("system", system))
        elif system not in ("", turns[0].content):
            raise BadRow("two-systems", f"{key!r} and the first message are different system texts")
    if turns[-1].role != "assistant":
        raise BadRow("no-reply", f"the dialogue ends with the {turns[-1].role}, not with a reply")
    if len(turns) > 1 and not any(turn.role == "user" for turn in turns):
        raise BadRow("no-query", "the dialogue has no user message")
    return Conversation(tuple(_with_images(row, turns)), _tools(row))


# Images ---------------------------------------------------------------------------------------------------------------

_TAG = re.compile(f"<img>(.*?)</img>|(<image>)|{PLACE}")


def _with_images(row: Row, turns: list[Message]) -> list[Message]:
    """Gives each image its place: `<img>path</img>`, a part of a message, or `<image>` for those the row lists.

    Listed images without any place stand before the first user's text.
    """
    listed = _listed(row)
    if not listed and not any(turn.images or "<img>" in turn.content for turn in turns if turn.role == "user"):
        return turns
    left = iter(listed)
    shown = [_placed(turn, left) if turn.role == "user" else turn for turn in turns]
    unplaced = list(left)
    if unplaced and len(unplaced) == len(listed):
        first = next(number for number, turn in enumerate(shown) if turn.role == "user")
        asked = shown[first]
        shown[first] = replace(asked, content=PLACE * len(listed) + asked.content, images=(*listed, *asked.images))
    elif unplaced:
        raise BadRow("image-count", f"the row lists {len(listed)} images, {len(unplaced)} more than it has places for")
    return shown


def _placed(turn: Message, listed: Iterator[Image]) -> Message:
    """A turn with its tags as places; places without an image of their own take the next that the row lists."""
    parts, images, done = iter(turn.images), [], 0
    content = ""
    for match in _TAG.finditer(turn.content):
        if match[1] is not None:
            image = Image(match[1]) if looks_like_one(match[1]) else None
        elif match[2]:
            image = next(listed, None)
        else:
            image = next(parts, None)
            if image is not None and not (image.source or image.data):
                image = next(listed, None)
                if image is None:
                    raise BadRow("image-count", "an image has a place, but the row lists none for it")
        if image is None:
            continue  # the same characters, written by somebody
        content += turn.content[done : match.start()] + PLACE
        done = match.end()
        images.append(image)
    content += turn.content[done:]
    if images and content.count(PLACE) != len(images):
        raise BadRow("image-count", f"the text holds U+FFFC, which stands for an image, beside {len(images)} images")
    return replace(turn, content=content, images=tuple(images))


def _listed(row: Row) -> list[Image]:
    key = _first(row, IMAGE_KEYS)
    if key is None:
        return []
    value = row[key]
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = _parsed_field(value, key)
    return [_image(each, repr(key)) for each in (value if isinstance(value, list) else [value])]


def _image(value: Any, where: str) -> Image:
    """A path or URL, or an object that holds one (`url`, `path`, `image`) or a file's bytes."""
    if isinstance(value, dict):
        data, name = value.get("bytes"), next((value[key] for key in ("url", "path", "image") if value.get(key)), "")
        if isinstance(data, bytes) and data:
            return Image(str(name) or where, data)
        value = name
    if not isinstance(value, str) or not value:
        raise BadRow("bad-image", f"{where} must hold paths, URLs or files, this is {_kind(value)}")
    return Image(value)


def _illustrated(value: Any, where: str) -> tuple[str, tuple[Image, ...]]:
    """A text, or a list of parts as a text with places and the images for them; an empty one is in the row's list."""
    if not isinstance(value, list) or not any(isinstance(part, dict) and _shows(part) for part in value):
        return _text(value, where), ()
    content, images = "", []
    for part in value:
        if isinstance(part, dict) and _shows(part):
            given = next((part[key] for key in ("image_url", "image", "url", "path") if part.get(key)), None)
            images.append(Image("") if given is None else _image(given, f"{where}, an image"))
            content += PLACE
        else:
            content += _text([part], where)
    return content, tuple(images)


def _shows(part: Row) -> bool:
    return part.get("type") in ("image", "image_url")


def _tools(row: Row) -> tuple[Tool, ...]:
    key = _first(row, TOOLS_KEYS)
    specs = row[key] if key is not None else None
    if isinstance(specs, str) and specs.strip():
        specs = _parsed_field(specs, key or "tools", "bad-tools")
    if not specs or isinstance(specs, str):
        return ()
    if not isinstance(specs, list):
        raise BadRow("bad-tools", f"{key!r} must be a list, this is {_kind(specs)}")
    found = []
    for number, spec in enumerate(specs, 1):
        value = _parsed_field(spec, f"tool {number}", "bad-tools") if isinstance(spec, str) else spec
        if not isinstance(value, dict):
            raise BadRow("bad-tools", f"tool {number} must be an object, this is {_kind(value)}")
        tool = Tool(value)
        if not tool.name:
            raise BadRow("bad-tools", f"tool {number} has no name")
        found.append(tool)
    return tuple(found)


def _calls(value: Any, number: int) -> tuple[ToolCall, ...]:
    """One call or a list of them, as objects or as text; text keeps the arguments as they are written."""
    if isinstance(value, str):
        try:
            calls = _written_calls(value)
        except (ValueError, RecursionError) as error:
            raise BadRow("bad-call", f"message {number}: the call is {error}") from None
    else:
        calls = value if isinstance(value, list) else [value]
    if not calls:
        raise BadRow("bad-call", f"message {number} holds no call")
    return tuple(_call(call, number) for call in calls)


def _call(call: Any, number: int) -> ToolCall:
    inner = call.get("function") if isinstance(call, dict) and isinstance(call.get("function"), dict) else call
    if not isinstance(inner, dict) or not isinstance(inner.get("name"), str) or not inner["name"]:
        raise BadRow("bad-call", f"message {number}: a call must be an object with a name")
    arguments = inner.get("arguments")
    if arguments is None:
        arguments = inner.get("parameters", {})
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    return ToolCall(inner["name"], arguments if arguments.strip() else "{}", _optional(call.get("id"), "id"))


def _written_calls(text: str) -> list[Any]:
    """The calls in a text, arguments that are JSON objects replaced by their own text, byte for byte."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = parsed(text)  # a Python literal: it has no JSON text to keep
        return value if isinstance(value, list) else [value]
    calls = value if isinstance(value, list) else [value]
    at, found = 0, []
    for call in calls:
        if not isinstance(call, dict):
            raise ValueError(f"{_kind(call)}, not an object")
        spans, at = _spans(text, text.index("{", at))
        key = "parameters" if call.get("arguments") is None else "arguments"
        found.append(call | {key: text[slice(*spans[key])]} if isinstance(call.get(key), dict) else call)
    return found


_decode = json.JSONDecoder().raw_decode


def _spans(text: str, at: int) -> tuple[dict[str, tuple[int, int]], int]:
    """Where each member's value stands in the valid JSON object that opens at `at`, and where the object ends."""
    spans = {}
    at = _skip(text, at + 1)
    while text[at] != "}":
        key, at = _decode(text, at)
        start = _skip(text, at)
        _, at = _decode(text, start)
        spans[key] = (start, at)
        at = _skip(text, at)
    return spans, at + 1


def _skip(text: str, at: int) -> int:
    """Past blanks and separators between the parts of valid JSON, up to the next key or value."""
    while text[at] in " \t\r\n,:":
        at += 1
    return at


def _response(row: Row) -> str:
    key = _first(row, RESPONSE_KEYS)
    assert key is not None, row
    reply = _text(row[key], repr(key))
    if not reply.strip():
        raise BadRow("empty-reply", f"{key!r} is empty")
    return reply


def _weight(item: Row, number: int) -> float | None:
    """The weight that `loss` (a bool) and `weight` or `loss_scale` (a number) give a message."""
    weight = item.get("weight") if item.get("weight") is not None else item.get("loss_scale")
    loss = item.get("loss")
    if weight is None and loss is None:
        return None
    if loss is not None and loss not in (0, 1):
        raise BadRow("bad-weight", f"message {number}: 'loss' must be true or false, this is {loss!r}")
    if weight is None:
        return 1.0 if loss else 0.0
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < math.inf:
        raise BadRow("bad-weight", f"message {number}: the weight must be a number from 0 on, this is {weight!r}")
    return float(weight) if loss is None or loss else 0.0


def _text(value: Any, where: str) -> str:
    """A text, or a list of text parts as one text."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and _are_parts(value):
        return "".join(part if isinstance(part, str) else _part(part, where) for part in value)
    raise BadRow("wrong-type", f"{where} must be text, this is {_kind(value)}")


def _are_parts(value: list[Any]) -> bool:
    return bool(value) and all(isinstance(part, str) or (isinstance(part, dict) and "type" in part) for part in value)


def _part(part: Row, where: str) -> str:
    if part["type"] != "text" or not isinstance(part.get("text"), str):
        raise BadRow("not-text", f"{where} has a part of type {part['type']!r}; only text can stand there")
    return str(part["text"])


def _optional(value: Any, key: str) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    raise BadRow("wrong-type", f"{key!r} must be text, this is {_kind(value)}")


def _first(row: Row, keys: tuple[str, ...]) -> str | None:
    """The first of `keys` that the row has a value for."""
    for key in keys:
        if row.get(key) is not None:
            return key
    return None


def _kind(value: Any) -> str:
    """A value's type in JSON's words."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    names: dict[type, str] = {str: "text", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return names.get(type(value), type(value).__name__)
