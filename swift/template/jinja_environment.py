"""Compiles chat templates in transformers' Jinja sandbox, with limits on products and fast paths. Knows no message."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from types import BuiltinMethodType
from typing import Any

from jinja2 import Environment, Template, nodes
from jinja2.runtime import Context, LoopContext, Macro
from jinja2.utils import Namespace
from transformers.utils.chat_template_utils import _compile_jinja_template

MAX_CHARACTERS = 1 << 26
"""Limit of the characters that a template writes."""
MAX_POWER_BITS = 1 << 16
"""Limit of the bits of a power that it computes."""


class RenderError(ValueError):
    """A chat template rejects a dialogue, or exceeds a limit."""


class Constant(dict[str, Any]):
    """An immutable object whose JSON is cached, such as a tool, which all prompts of a dialogue contain."""

    __slots__ = ("_texts",)

    def __init__(self, members: Mapping[str, Any]) -> None:
        super().__init__(members)
        self._texts: dict[str, str] = {}


def constant(tool: Mapping[str, Any]) -> Constant:
    """A tool as a Constant; templates render it with or without the OpenAI wrapper."""
    function = tool.get("function")
    return Constant({**tool, "function": Constant(function)} if isinstance(function, dict) else tool)


def compiled(source: str) -> Template:
    """The template as `apply_chat_template` compiles it. Raises jinja2.TemplateError for invalid Jinja.

    Jinja folds products of constants while it compiles, so templates are searched for products first.
    """
    shared: Environment = _compile_jinja_template("").environment
    environment: Any = shared.overlay()
    if any(shared.parse(source).find_all((nodes.Mul, nodes.Pow))):
        environment.intercepted_binops = frozenset({"*", "**"})
        environment.call_binop = _product
    environment.getattr = partial(_attribute, environment.getattr, environment.undefined)
    environment.call = partial(_call, environment.call, environment.undefined)
    environment.filters = {**environment.filters, "tojson": partial(_tojson, environment.filters["tojson"])}
    template: Template = environment.from_string(source)
    template.globals = dict(template.globals)  # a ChainMap, which each rendering copies, is slower
    return template


# Fast paths -----------------------------------------------------------------------------------------------------------
# The sandbox's checks take most of the rendering time, mostly for fields of dicts and methods of strings, which are
# known to be safe. Everything else goes through the sandbox.

_OF_DICT = frozenset(dir(dict))
_READS_DICT = frozenset({"get", "items", "keys", "values"})
_OF_STR = frozenset(name for name in dir(str) if not name.startswith("_")) - {"format", "format_map"}
_PLAIN = frozenset({dict, list, str, int, float, bool, type(None)})


def _attribute(sandboxed: Any, undefined: Any, thing: Any, name: str) -> Any:
    """`thing.name` of a template: equals ImmutableSandboxedEnvironment.getattr."""
    kind = type(thing)
    if kind is dict or kind is Constant:
        if name not in _OF_DICT:
            return thing[name] if name in thing else undefined(obj=thing, name=name)
        if name in _READS_DICT:
            return getattr(thing, name)
    elif kind is str:
        if name in _OF_STR:
            return getattr(thing, name)
    elif (kind is LoopContext or kind is Namespace) and not name.startswith("_"):
        value = getattr(thing, name, undefined)
        if type(value) in _PLAIN:
            return value
    return sandboxed(thing, name)


def _call(
    sandboxed: Any,
    undefined: Any,
    context: Context,
    function: Any,
    /,
    *args: Any,
    _loop_vars: object = None,
    _block_vars: object = None,
    **kwargs: Any,
) -> Any:
    """A call of a template: equals SandboxedEnvironment.call."""
    kind = type(function)
    if function is Namespace or (kind is BuiltinMethodType and type(function.__self__) in (str, dict)):
        return function(*args, **kwargs)
    if kind is Macro:
        try:
            return function(context.eval_ctx, *args, **kwargs)
        except StopIteration:
            return undefined("a macro raised StopIteration")
    return sandboxed(context, function, *args, _loop_vars=_loop_vars, _block_vars=_block_vars, **kwargs)


def _tojson(sandboxed: Any, value: Any, *args: Any, **kwargs: Any) -> str:
    """`value | tojson` of a template: equals transformers' filter."""
    if type(value) is not Constant:
        return str(sandboxed(value, *args, **kwargs))
    how = repr((args, kwargs))
    if how not in value._texts:
        value._texts[how] = str(sandboxed(value, *args, **kwargs))
    return value._texts[how]


# Limits of products ---------------------------------------------------------------------------------------------------


def _product(context: object, operator: str, left: Any, right: Any) -> Any:
    """`left * right` or `left ** right`: `'x' * 10 ** 10` would exhaust memory before anything is written."""
    if operator == "**":
        if isinstance(left, int) and isinstance(right, int) and left.bit_length() * right > MAX_POWER_BITS:
            raise RenderError(f"the tokenizer's chat template computes a power of more than {MAX_POWER_BITS} bits")
        return left**right
    for text, times in ((left, right), (right, left)):
        if isinstance(text, str | list | tuple) and isinstance(times, int) and len(text) * times > MAX_CHARACTERS:
            raise RenderError(f"the tokenizer's chat template writes more than {MAX_CHARACTERS} characters")
    return left * right
