"""Compiles chat templates in transformers' Jinja sandbox, with limits on products and a fast path for attributes and
calls. Knows no message and no tokenizer."""

from __future__ import annotations

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
_OF_DICT = frozenset(dir(dict))
_READS_DICT = frozenset({"get", "items", "keys", "values"})
_OF_STR = frozenset(name for name in dir(str) if not name.startswith("_")) - {"format", "format_map"}
_PLAIN = frozenset({dict, list, str, int, float, bool, type(None)})


class Refused(ValueError):
    """A chat template does not render a dialogue, or not within its limits."""


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
    template: Template = environment.from_string(source)
    template.globals = dict(template.globals)  # a ChainMap, which each rendering copies, is slower
    return template


# Fast paths -----------------------------------------------------------------------------------------------------------
# Most of a rendering's time goes to the sandbox's checks, and most of these to fields of dicts and methods of strings,
# whose answer is known. Everything else is left to the sandbox.


def _attribute(sandboxed: Any, undefined: Any, thing: Any, name: str) -> Any:
    """`thing.name` of a template: what ImmutableSandboxedEnvironment.getattr gives."""
    kind = type(thing)
    if kind is dict:
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
