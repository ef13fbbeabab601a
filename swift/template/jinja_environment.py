"""Compiles chat templates in transformers' Jinja sandbox, with limits and fast paths. Knows no message."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from types import BuiltinMethodType, MethodType
from typing import Any

from jinja2 import Environment, Template, nodes
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context, LoopContext, Macro
from jinja2.sandbox import is_internal_attribute
from jinja2.utils import Namespace
from transformers.utils.chat_template_utils import _compile_jinja_template

from swift.template.jinja_limits import (
    GROWING,
    LimitedCode,
    TemplateLimitError,
    binary_operation,
    bounded,
    budget,
    check_method,
    concat,
    format_method,
    limited,
    str_join,
    text,
)

MAX_SOURCE = 1 << 17
"""Longest chat template, in characters: compiling a longer one takes too long. The longest in TRL has 19,574."""


class RenderError(ValueError):
    """A chat template rejects a dialogue."""


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
    """The template as `apply_chat_template` compiles it, with limits on what it makes.

    Raises jinja2.TemplateError for invalid Jinja, TemplateLimitError for a template that needs other files.
    """
    if len(source) > MAX_SOURCE:
        raise TemplateLimitError(f"is longer than {MAX_SOURCE} characters")
    shared: Environment = _compile_jinja_template("").environment
    environment: Any = shared.overlay()
    environment.code_generator_class = LimitedCode
    environment.intercepted_binops = frozenset({"+", "*", "**", "%"})
    environment.call_binop = partial(binary_operation, environment.binop_table)
    environment.bounded = bounded
    environment.concat = concat
    environment.unsafe_undefined = partial(_unsafe, environment.unsafe_undefined)
    environment.wrap_str_format = partial(format_method, environment)
    environment.getattr = partial(_attribute, environment.getattr, environment.undefined)
    environment.call = partial(_call, environment.call, environment.undefined)
    environment.filters = limited({**environment.filters, "tojson": partial(_tojson, environment.filters["tojson"])})
    tree = environment.parse(source)
    for node in tree.find_all((nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)):
        what = type(node).__name__.removeprefix("From").lower()
        raise TemplateLimitError(f"needs another template, and has none ('{what}', line {node.lineno})")
    with budget():
        template: Template = environment.from_string(tree)
    template.globals = dict(template.globals)  # a ChainMap, which each rendering copies, is slower
    names = template.root_render_func.__globals__  # where the template's code finds these functions
    names.update({"str": text, "str_join": str_join})
    return template


# Fast paths -----------------------------------------------------------------------------------------------------------
# The sandbox's checks take most of the rendering time, mostly for fields of dicts and methods of strings, which are
# known to be safe. Everything else goes through the sandbox.

_OF_DICT = frozenset(dir(dict))
_READS_DICT = frozenset({"get", "items", "keys", "values"})
_OF_STR = frozenset(name for name in dir(str) if not name.startswith("_")) - {"format", "format_map"}
_PLAIN = frozenset({dict, list, str, int, float, bool, type(None)})
_METHODS = frozenset({BuiltinMethodType, MethodType})


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


def _unsafe(undefined: Any, thing: Any, name: str) -> Any:
    """`thing.name` that the sandbox hides: Jinja's undefined value, but an error for Python's internals."""
    if name.startswith("__") or is_internal_attribute(thing, name):
        raise SecurityError(f"reads '{name[:80]}' of a {type(thing).__name__}, which the sandbox hides")
    return undefined(thing, name)


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
    if kind in _METHODS and function.__name__ in GROWING and not isinstance(function.__self__, type):
        args = check_method(function, args, kwargs)
    if function is Namespace or (kind is BuiltinMethodType and type(function.__self__) in (str, dict)):
        return function(*args, **kwargs)
    if kind is Macro:
        if function.catch_varargs or function.catch_kwargs:  # it makes a list of its further arguments
            bounded([*args, *kwargs.values()])
        try:
            return function(context.eval_ctx, *args, **kwargs)
        except StopIteration:
            return undefined("a macro raised StopIteration")
    if kind is type:  # cycler(...) keeps its arguments
        bounded([*args, *kwargs.values()])
    return bounded(sandboxed(context, function, *args, _loop_vars=_loop_vars, _block_vars=_block_vars, **kwargs))


def _tojson(sandboxed: Any, value: Any, *args: Any, **kwargs: Any) -> str:
    """`value | tojson` of a template: equals transformers' filter."""
    if type(value) is not Constant:
        return str(sandboxed(value, *args, **kwargs))
    how = repr((args, kwargs))
    if how not in value._texts:
        value._texts[how] = str(sandboxed(value, *args, **kwargs))
    return value._texts[how]
