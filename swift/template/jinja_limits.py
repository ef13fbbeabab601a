"""Limits on the values that a chat template makes: every string, container and number stays small. Knows no template.

A time limit ends a loop, but not one call into C that copies gigabytes. So each operation that can make a value much
larger than its operands is computed in advance, and every container is weighed when it is made: its weight counts a
shared member as often as it occurs, because comparing, hashing and printing visit it that often.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial, wraps
from types import BuiltinMethodType, MethodType
from typing import Any

from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.filters import make_attrgetter
from jinja2.sandbox import SandboxedEscapeFormatter, SandboxedFormatter
from markupsafe import Markup

CHARACTERS = 1 << 20
"""Largest string, and largest weight of a container, that a template may make of a small dialogue."""
CHARACTERS_PER_INPUT = 8
"""How much larger they may be for each character of the dialogue, its tools and the template's variables."""
COPIES = 32
"""All strings and containers of one rendering together may have this many times that size."""
BITS = 1 << 16
"""Largest integer."""
DEPTH = 200
"""Deepest nesting of containers."""
PADDING = 1000
"""Largest width of a format, largest indentation and rounding."""
SHORT = 1 << 16
"""Longest input of filters whose regular expressions may take quadratic time."""
_SMALL = 1 << 10  # smaller strings are not counted: the time limit bounds how many there are
_FEW = 8  # texts that are joined before their sum is checked
_CONTAINERS = (list, tuple, dict, set, frozenset)


class TemplateLimitError(ValueError):
    """A chat template does what no chat template needs: it exceeds a limit, or reaches for what the sandbox hides."""


class Budget:
    """What one rendering has made so far, and may make. `given`: the variables of the template."""

    def __init__(self, given: Mapping[str, Any] | None = None) -> None:
        self._given = given
        self._weights: dict[int, tuple[int, Any]] = {}  # with the values, so that their ids stay theirs
        self._made = 0
        self.largest = CHARACTERS

    def take(self, size: int) -> None:
        """Counts a value of `size` characters. Raises TemplateLimitError if it, or the sum, is too large."""
        self._made += size
        if size > self.largest or self._made > COPIES * self.largest:
            self._extend()
            if size > self.largest or self._made > COPIES * self.largest:
                raise TemplateLimitError(f"makes texts or lists of more than {self.largest} characters")

    def write(self, size: int) -> None:
        """Checks the number of characters written so far."""
        if size > self.largest:
            self._extend()
            if size > self.largest:
                raise TemplateLimitError(f"writes more than {self.largest} characters")

    def _extend(self) -> None:
        """Adds the allowance for the given variables, which most renderings never need."""
        if self._given is not None:
            given, self._given = self._given, None
            self.largest += CHARACTERS_PER_INPUT * sum(map(self.weight, given.values()))

    def bounded(self, value: Any) -> Any:
        """The value. Raises TemplateLimitError for a container that is too heavy."""
        if isinstance(value, _CONTAINERS):
            self.take(self.weight(value))
        return value

    def weight(self, value: Any, depth: int = 0) -> int:
        """About the characters of the value's text."""
        if isinstance(value, (str, bytes)):
            return len(value)
        if not isinstance(value, _CONTAINERS):
            return 8
        if id(value) in self._weights:
            return self._weights[id(value)][0]
        if depth > DEPTH:
            raise TemplateLimitError(f"nests values more than {DEPTH} levels deep")
        members: Iterable[Any] = [*value.keys(), *value.values()] if isinstance(value, dict) else value
        total = 2 + sum(self.weight(member, depth + 1) + 2 for member in members)
        self._weights[id(value)] = min(total, 1 << 60), value  # the sandbox keeps templates from changing it
        return total


_current = threading.local()


@contextmanager
def budget(given: Mapping[str, Any] | None = None) -> Iterator[Budget]:
    """The budget of all templates that this thread compiles or renders within the block."""
    _current.budget = made = Budget(given)
    try:
        yield made
    finally:
        _current.budget = None


def _budget() -> Budget:
    found: Budget | None = getattr(_current, "budget", None)  # a thread has none before its first rendering
    return found or Budget()


def _take(size: int) -> None:
    if size > _SMALL:
        _budget().take(size)


def bounded(value: Any) -> Any:
    """A value that a template has made. Raises TemplateLimitError if it is too large."""
    kind = type(value)
    if kind is str:
        if len(value) > _SMALL:
            _budget().take(len(value))
    elif kind is list or kind is tuple:
        size = 0
        for member in value:
            if type(member) is not str:
                return _budget().bounded(value)
            size += len(member) + 2
        _take(size)
    elif isinstance(value, _CONTAINERS):
        _budget().bounded(value)
    elif isinstance(value, str):
        _take(len(value))
    return value


# Code of templates ---------------------------------------------------------------------------------------------------


class LimitedCode(CodeGenerator):
    """Python code of a template that checks the containers and sums it makes."""

    def visit_Add(self, node: nodes.BinExpr, frame: Frame) -> None:
        """A sum with a constant grows by no more than the source is long: it stays Python's own."""
        if isinstance(node.left, nodes.Const) or isinstance(node.right, nodes.Const):
            self.write("(")
            self.visit(node.left, frame)
            self.write(" + ")
            self.visit(node.right, frame)
            self.write(")")
        else:
            super().visit_Add(node, frame)

    def visit_List(self, node: nodes.List, frame: Frame) -> None:
        self._checked(partial(super().visit_List, node, frame))

    def visit_Dict(self, node: nodes.Dict, frame: Frame) -> None:
        self._checked(partial(super().visit_Dict, node, frame))

    def visit_Tuple(self, node: nodes.Tuple, frame: Frame) -> None:
        if node.ctx == "load":
            self._checked(partial(super().visit_Tuple, node, frame))
        else:
            super().visit_Tuple(node, frame)

    def _checked(self, write: Any) -> None:
        self.write("environment.bounded(")
        write()
        self.write(")")


def concat(parts: Iterable[str]) -> str:
    """The text of a block that a template captures."""
    parts = list(parts)
    size = sum(map(len, parts))
    if size > _SMALL:
        _budget().take(size)
    return "".join(parts)


def str_join(values: Sequence[Any]) -> str:
    """`a ~ b` of a template."""
    if len(values) > _FEW:
        return concat(map(str, values))
    joined = "".join(map(str, values))
    if len(joined) > _SMALL:
        _budget().take(len(joined))
    return joined


def text(value: Any) -> str:
    """`{{ value }}` of a template."""
    if type(value) is str:
        return value
    shown = str(value)
    if len(shown) > _SMALL:
        _budget().take(len(shown))
    return shown


# Operators -----------------------------------------------------------------------------------------------------------


def binary_operation(operate: Mapping[str, Any], context: object, operator: str, left: Any, right: Any) -> Any:
    """`left + right`, `left * right`, `left ** right` or `left % right` of a template."""
    if operator == "+":
        return _sum(left, right)
    if operator == "*":
        _check_product(left, right)
    elif operator == "**":
        if isinstance(left, int) and isinstance(right, int) and left.bit_length() * right > BITS:
            raise TemplateLimitError(f"computes a power of more than {BITS} bits")
    elif isinstance(left, (str, bytes)):
        _check_percent_format(left, right)
    return operate[operator](left, right)


def _sum(left: Any, right: Any) -> Any:
    if isinstance(left, (str, bytes, list, tuple)) and isinstance(right, (str, bytes, list, tuple)):
        _take(len(left) + len(right))
    return bounded(left + right)


def _check_product(left: Any, right: Any) -> None:
    if isinstance(left, int) and isinstance(right, int):
        if left.bit_length() + right.bit_length() > BITS:
            raise TemplateLimitError(f"computes a number of more than {BITS} bits")
        return
    for value, times in ((left, right), (right, left)):
        if isinstance(times, int) and isinstance(value, (str, bytes, list, tuple)):
            _take((_budget().weight(value) + 2) * max(times, 0))


def _check_percent_format(form: str | bytes, values: Any) -> None:
    text = form if isinstance(form, str) else form.decode("latin-1")
    for field in re.findall(r"%[^a-zA-Z%]*", text):
        if "*" in field:
            raise TemplateLimitError("formats with a width of '*'")
        _check_width(field)
    _take(len(text) + _budget().weight(values) * max(1, text.count("%(")))


def _check_width(form: str) -> None:
    if any(len(digits) > 9 or int(digits) > PADDING for digits in re.findall(r"[0-9]+", form)):
        raise TemplateLimitError(f"pads a value to more than {PADDING} characters")


# Formats -------------------------------------------------------------------------------------------------------------


class _Formatter(SandboxedFormatter):
    def format_field(self, value: Any, format_spec: str) -> Any:
        _check_width(format_spec)
        text = super().format_field(value, format_spec)
        _take(len(text))
        return text


class _EscapeFormatter(_Formatter, SandboxedEscapeFormatter): ...


def format_method(environment: Any, method: Any) -> Any:
    """`text.format` or `text.format_map` of a template, or None for another method: equals the sandbox's, with limits
    on widths."""
    if not isinstance(method, (MethodType, BuiltinMethodType)) or method.__name__ not in ("format", "format_map"):
        return None
    form, maps = method.__self__, method.__name__ == "format_map"
    if not isinstance(form, str):
        return None
    if isinstance(form, Markup):
        formatter: _Formatter = _EscapeFormatter(environment, escape=form.escape)
    else:
        formatter = _Formatter(environment)

    @wraps(method)
    def formatted(*args: Any, **kwargs: Any) -> str:
        if not maps:
            return type(form)(formatter.vformat(form, args, kwargs))
        if kwargs:
            raise TypeError("format_map() takes no keyword arguments")
        if len(args) != 1:
            raise TypeError(f"format_map() takes exactly one argument ({len(args)} given)")
        return type(form)(formatter.vformat(form, (), args[0]))

    return formatted


# Methods -------------------------------------------------------------------------------------------------------------

GROWING = frozenset({"center", "ljust", "rjust", "zfill", "expandtabs", "join", "replace", "translate", "to_bytes"})
"""Methods whose result can be much longer than their arguments."""


def check_method(function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
    """The arguments of a method in GROWING. Raises TemplateLimitError for a result that is too long."""
    name, text = function.__name__, function.__self__
    first = args[0] if args else next(iter(kwargs.values()), None)
    if name == "join" and first is not None:
        args = (list(first), *args[1:])
        _take(sum(map(len, filter(_has_length, args[0]))) + len(text) * len(args[0]))
    elif name == "replace" and len(args) > 1:
        _check_replace(text, args[0], args[1])
    elif name == "translate" and isinstance(first, dict):
        _take(len(text) * max((len(each) for each in first.values() if isinstance(each, str)), default=1))
    elif name == "expandtabs" and isinstance(first, int):
        _take(len(text) + text.count("\t" if isinstance(text, str) else b"\t") * max(first, 0))
    elif isinstance(first, int):
        _take(first)
    return args


def _has_length(value: Any) -> bool:
    return isinstance(value, (str, bytes))


def _check_replace(text: Any, old: Any, new: Any) -> None:
    if type(text) is type(old) and _has_length(text) and _has_length(new):
        _take(len(text) + text.count(old) * len(new))


# Filters -------------------------------------------------------------------------------------------------------------

SAFE = frozenset({"abs", "attr", "count", "d", "default", "first", "float", "int", "last", "length", "lower", "map"})
SAFE |= {"random", "reject", "rejectattr", "safe", "select", "selectattr", "trim", "truncate", "upper"}
"""Filters whose result is no larger than their input."""


def limited(filters: Mapping[str, Any]) -> dict[str, Any]:
    """The filters of an environment, with limits."""
    return {name: each if name in SAFE else _limited(name, each) for name, each in filters.items()}


def _limited(name: str, apply: Any) -> Any:
    check = _CHECKS.get(name)
    skip = 1 if getattr(apply, "jinja_pass_arg", None) else 0  # Jinja passes such a filter its context first

    @wraps(apply)
    def limited_filter(*args: Any, **kwargs: Any) -> Any:
        passed, args = args[:skip], args[skip:]
        if check and args:
            args, kwargs = check(passed[0] if passed else None, *args, **kwargs)
        return bounded(apply(*passed, *args, **kwargs))

    return limited_filter


Arguments = tuple[tuple[Any, ...], dict[str, Any]]


def _center(context: Any, value: Any, *args: Any, **kwargs: Any) -> Arguments:
    _take(_number(args[0] if args else kwargs.get("width", 80)))
    return (value, *args), kwargs


def _indent(context: Any, value: Any, *args: Any, **kwargs: Any) -> Arguments:
    width = args[0] if args else kwargs.get("width", 4)
    length = len(width) if isinstance(width, str) else _number(width)
    if isinstance(value, str):
        _take(len(value) + (value.count("\n") + 1) * length)
    return (value, *args), kwargs


def _join(context: Any, value: Any, d: Any = "", attribute: Any = None) -> Arguments:
    members = list(map(make_attrgetter(context.environment, attribute), value)) if attribute else list(value)
    texts = [text(each) for each in members]
    _take(sum(map(len, texts)) + len(str(d)) * len(texts))
    return (members, d), {}


def _replace(context: Any, value: Any, *args: Any, **kwargs: Any) -> Arguments:
    if len(args) > 1:
        _check_replace(str(value), str(args[0]), str(args[1]))
    elif kwargs:
        old, new = args[0] if args else kwargs.get("old"), kwargs.get("new")
        _check_replace(str(value), str(old), str(new))
    return (value, *args), kwargs


def _format(context: Any, value: Any, *args: Any, **kwargs: Any) -> Arguments:
    _check_percent_format(str(value), kwargs or args)
    return (value, *args), kwargs


def _fill(context: Any, value: Any, *args: Any, **kwargs: Any) -> Arguments:
    """Of `batch` and `slice`, which fill a list up to its length."""
    length = args[0] if args else kwargs.get("linecount", kwargs.get("slices", 0))
    filler = args[1] if len(args) > 1 else kwargs.get("fill_with")
    _take(_number(length) * (_budget().weight(filler) if filler is not None else 1))
    return (value, *args), kwargs


def _round(context: Any, value: Any, *args: Any, **kwargs: Any) -> Arguments:
    precision = args[0] if args else kwargs.get("precision", 0)
    if abs(_number(precision)) > PADDING:
        raise TemplateLimitError(f"rounds to more than {PADDING} digits")
    return (value, *args), kwargs


def _tojson(context: Any, value: Any, *args: Any, **kwargs: Any) -> Arguments:
    indent = args[1] if len(args) > 1 else kwargs.get("indent")
    if (len(indent) if isinstance(indent, str) else _number(indent)) > PADDING:
        raise TemplateLimitError(f"indents JSON by more than {PADDING} characters")
    return (value, *args), kwargs


def _total(context: Any, value: Any, attribute: Any = None, start: Any = 0) -> Arguments:
    """Numbers only are added up in C: a sum of lists takes quadratic time."""
    members = list(map(make_attrgetter(context, attribute), value)) if attribute is not None else list(value)
    if isinstance(start, (str, bytes)) or all(isinstance(each, (int, float)) for each in (start, *members)):
        return (members, None, start), {}  # for a string, Python's sum raises TypeError
    total = start
    for each in members:
        total = _sum(total, each)
    return ((), None, total), {}


def _short(context: Any, value: Any, *args: Any, **kwargs: Any) -> Arguments:
    given = [value, *args, *kwargs.values()]
    if sum(len(each) for each in given if isinstance(each, str)) > SHORT:
        raise TemplateLimitError(f"wraps or searches a text of more than {SHORT} characters")
    return (value, *args), kwargs


def _number(value: Any) -> int:
    return int(value) if isinstance(value, (int, float)) else 0


_CHECKS: Mapping[str, Any] = {
    "center": _center,
    "indent": _indent,
    "join": _join,
    "replace": _replace,
    "format": _format,
    "batch": _fill,
    "slice": _fill,
    "round": _round,
    "tojson": _tojson,
    "sum": _total,
    "wordwrap": _short,
    "urlize": _short,
    "striptags": _short,
    "title": _short,
    "wordcount": _short,
    "pprint": _short,
    "filesizeformat": _short,
}
