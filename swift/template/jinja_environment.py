"""Compiles chat templates in transformers' Jinja sandbox, with limits on products and a fast path for attributes and
calls. Knows no message and no tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from types import BuiltinMethodType
from typing import Any

from jinja2 import Environment, Template, nodes
from jinja2.runtime import Context, LoopContext, Macro
from jinja2.utils import Namespace
from transformers.utils.chat_template_utils import _compile_jinja_template

MOST = 1 << 26
"""Most characters that a template may write."""
POWER = 1 << 16
"""Most bits of a power that it may compute."""


class Refused(ValueError):
    """A chat template does not render a dialogue, or not within its limits."""


class Constant(dict[str, Any]):
    """An object that nobody changes, such as a tool, which all prompts of a dialogue show: its JSON is made once."""

    __slots__ = ("_texts",)

    def __init__(self, members: Mapping[str, Any]) -> None:
        super().__init__(members)
        self._texts: dict[str, str] = {}


def constant(tool: Mapping[str, Any]) -> Constant:
    """A tool as nobody changes it; templates show it with or without what is around its function."""
    function = tool.get("function")
    return Constant({**tool, "function": Constant(function)} if isinstance(function, dict) else tool)


def compiled(source: str) -> Template:
    """The template as `apply_chat_template` compiles it. Raises jinja2.TemplateError for what is no Jinja.

    Jinja computes products of constants while it compiles, so templates are searched for products before.
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
# Most of a rendering's time goes to the sandbox's checks, and most of these to fields of dicts and methods of strings,
# whose answer is known. Everything else is left to the sandbox.

_OF_DICT = frozenset(dir(dict))
_READS_DICT = frozenset({"get", "items", "keys", "values"})
_OF_STR = frozenset(name for name in dir(str) if not name.startswith("_")) - {"format", "format_map"}
_PLAIN = frozenset({dict, list, str, int, float, bool, type(None)})


def _attribute(sandboxed: Any, undefined: Any, thing: Any, name: str) -> Any:
    """`thing.name` of a template: what ImmutableSandboxedEnvironment.getattr gives."""
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
    """A call of a template: what SandboxedEnvironment.call gives."""
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
    """`value | tojson` of a template: what transformers' filter gives."""
    if type(value) is not Constant:
        return str(sandboxed(value, *args, **kwargs))
    how = repr((args, kwargs))
    if how not in value._texts:
        value._texts[how] = str(sandboxed(value, *args, **kwargs))
    return value._texts[how]


# Limits of products ---------------------------------------------------------------------------------------------------


def _product(context: object, operator: str, left: Any, right: Any) -> Any:
    """`left * right` or `left ** right`: `'x' * 10 ** 10` would fill the memory before anything is written."""
    if operator == "**":
        if isinstance(left, int) and isinstance(right, int) and left.bit_length() * right > POWER:
            raise Refused(f"the tokenizer's chat template computes a power of more than {POWER} bits")
        return left**right
    for text, times in ((left, right), (right, left)):
        if isinstance(text, str | list | tuple) and isinstance(times, int) and len(text) * times > MOST:
            raise Refused(f"the tokenizer's chat template writes more than {MOST} characters")
    return left * right
