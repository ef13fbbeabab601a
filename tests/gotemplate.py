"""The part of Go's text/template that our templates for Ollama use, with Ollama's `json`."""

import json
import re

_ACTION = re.compile(r"\{\{ (.*?) \}\}", re.DOTALL)
_TOKEN = re.compile(r'\s*("(?:[^"\\]|\\.)*"|\$?\.?[\w.]*\w|\$|\.|\(|\))')


def render(template, **values):
    """The text of `template` for Ollama's values: System, Messages, Tools as dicts with Go's names."""
    nodes, rest = _parse(_pieces(template))
    assert not rest, rest
    out = []
    _run(nodes, values, dict_of({"$": values}), out)
    return "".join(out)


def _pieces(template):
    at = 0
    for found in _ACTION.finditer(template):
        assert "{{" not in template[at : found.start()], template[at : found.start()]
        yield "text", template[at : found.start()]
        yield "action", found[1]
        at = found.end()
    assert "{{" not in template[at:]
    yield "text", template[at:]


def _parse(pieces):
    """(nodes, what ended them)."""
    pieces = iter(pieces)
    nodes = []
    for kind, text in pieces:
        if kind == "text":
            nodes.append(("text", text))
        elif text == "end" or text == "else" or text.startswith("else "):
            return nodes, text
        elif text.startswith(("if ", "range ")):
            word, rest = text.split(" ", 1)
            body, ended = _parse(pieces)
            other = []
            if ended == "else":
                other, ended = _parse(pieces)
            elif ended.startswith("else if "):
                inner, _ = _parse(_chain([("action", ended.removeprefix("else "))], pieces))
                other, ended = inner, "end"
            assert ended == "end", ended
            nodes.append((word, rest, body, other))
        else:
            nodes.append(("do", text))
    return nodes, ""


def _chain(first, rest):
    """An `else if` is an `if` of its own within the `else`, closed by the same `end`."""
    yield from first
    depth = 1
    for kind, text in rest:
        yield kind, text
        if kind == "action":
            depth += text.startswith(("if ", "range ")) - (text == "end")
            if not depth:
                return


def _run(nodes, dot, names, out):
    for kind, *rest in nodes:
        if kind == "text":
            out.append(rest[0])
        elif kind == "do":
            _do(rest[0], dot, names, out)
        elif kind == "if":
            _run(rest[1] if _value(rest[0], dot, names) else rest[2], dot, dict_of(names), out)
        else:
            loop = re.fullmatch(r"(\$\w+), (\$\w+) := (.*)", rest[0])
            for index, item in enumerate(_value(loop[3], dot, names) or []):
                inner = dict_of(names)
                inner.declare(loop[1], index)
                inner.declare(loop[2], item)
                _run(rest[1], item, inner, out)


class dict_of:
    """Names within a block: those declared here end with it, those of outside can be assigned."""

    def __init__(self, outer):
        self.outer, self.own = outer, {}

    def __getitem__(self, name):
        return self.own[name] if name in self.own else self.outer[name]

    def declare(self, name, value):
        self.own[name] = value

    def assign(self, name, value):
        if name in self.own:
            self.own[name] = value
        else:
            self.outer.assign(name, value)


def _do(text, dot, names, out):
    if found := re.fullmatch(r"(\$\w+) (:?=) (.*)", text, re.DOTALL):
        value = _value(found[3], dot, names)
        (names.declare if found[2] == ":=" else names.assign)(found[1], value)
    else:
        value = _value(text, dot, names)
        assert isinstance(value, str), (text, value)
        out.append(value)


def _value(text, dot, names):
    tokens = _TOKEN.findall(text)
    assert "".join(tokens) == re.sub(r'\s+(?=(?:[^"]*"[^"]*")*[^"]*$)', "", text), text
    value, rest = _call(tokens, dot, names)
    assert not rest, (text, rest)
    return value


def _call(tokens, dot, names):
    arguments = []
    while tokens and tokens[0] != ")":
        value, tokens = _operand(tokens, dot, names)
        arguments.append(value)
    first, *others = arguments
    return (first(*others) if callable(first) else first), tokens


def _operand(tokens, dot, names):
    token, *rest = tokens
    if token == "(":
        value, rest = _call(rest, dot, names)
        assert rest[0] == ")"
        rest = rest[1:]
        if rest and rest[0].startswith(".") and len(rest[0]) > 1:
            return _field(value, rest[0]), rest[1:]
        return value, rest
    if token.startswith('"'):
        return json.loads(token), rest
    if token.startswith("$"):
        name, _, path = token.partition(".")
        return _field(names[name], "." + path if path else ""), rest
    if token.startswith("."):
        return _field(dot, token), rest
    return (int(token) if token.isdigit() else {"true": True, "false": False}.get(token, _FUNCTIONS.get(token))), rest


def _field(value, path):
    for name in path.split(".")[1:]:
        value = value.get(name, "") if name else value
    return value


def to_json(value):
    """As Go writes it: no spaces, keys of Ollama's types in their order, <, > and & escaped."""
    text = json.dumps(_lower(value), ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _lower(value):
    """Ollama's own fields have small letters in JSON; what the user named is left."""
    if isinstance(value, dict) and "Function" in value:
        return {"type": value["Type"], "function": _lower(value["Function"])}
    if isinstance(value, dict) and "Description" in value:
        return {"name": value["Name"], "description": value["Description"], "parameters": value["Parameters"]}
    return value


def _and(*values):
    return next((value for value in values if not value), values[-1])


def _or(*values):
    return next((value for value in values if value), values[-1])


_FUNCTIONS = {
    "and": _and,
    "or": _or,
    "not": lambda value: not value,
    "eq": lambda one, other: one == other,
    "ne": lambda one, other: one != other,
    "gt": lambda one, other: one > other,
    "len": len,
    "slice": lambda values, start: values[start:],
    "index": lambda values, at: values[at],
    "json": to_json,
}
