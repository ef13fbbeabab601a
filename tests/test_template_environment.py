"""Chat templates are compiled with fast paths of ours, and give what transformers' sandbox gives."""

import pytest
from jinja2 import TemplateError
from transformers.utils.chat_template_utils import _compile_jinja_template

from swift.template.jinja_environment import compiled, constant

MESSAGE = {"role": "user", "content": "  hi {x} ", "items": "mine", "tool_calls": [{"function": {"name": "f"}}]}
EXPRESSIONS = [
    "m.role",
    "m.content.strip()",
    "m.content.strip().startswith('hi', 0)",
    "m.nothing is defined",
    "m.nothing.more",
    "m.items is string",
    "m.get('nothing', 'else') ~ m.get('role')",
    "m.keys() | list",
    "m.update({'role': 'x'})",
    "m.pop('role')",
    "m.clear",
    "m.role._private is defined",
    "m.tool_calls.append(1)",
    "m.tool_calls[0].function.name",
    "m['content'].format(x=1)",
    "m.content.format_map({'x': m})",
    "m.content.format",
    "m.content.nothing is defined",
    "m.content.join(['a', 'b'])",
    "namespace(function=1, context=2).function",
    "namespace(role='x')._private is defined",
    "namespace(f=m.content.split).f('i')",
    "namespace([1])",
    "range(3) | list",
    "raise_exception('no')",
    "m()",
    "none.role is defined",
    "(1).real",
]
STATEMENTS = [
    "{% for x in [m, m] %}{{ loop.index0 }}{{ loop.first }}{{ loop.last }}{{ loop.previtem }}{% endfor %}",
    "{% for x in [m] %}{{ loop.nextitem is defined }}{{ loop._iterable is defined }}{{ loop.cycle('a') }}{% endfor %}",
    "{% macro say(x, y=2) %}{{ x }}{{ y }}{{ caller() if caller }}{% endmacro %}{{ say(1) }}{{ say(x=1, y=m.role) }}",
    "{% macro say(x) %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ say(1, 2, z=3) }}",
    "{% macro say(x) %}{{ x }}{% endmacro %}{{ say(1, 2) }}",
    "{% macro say(x) %}{{ x.role }}{% endmacro %}{% for x in [m] %}{{ say(x) }}{{ say.name }}{% endfor %}",
    "{% set ns = namespace(n=0) %}{% for x in [1, 2] %}{% set ns.n = ns.n + x %}{% endfor %}{{ ns.n }}",
    "{% generation %}{{ m.role }}{% endgeneration %}",
]


@pytest.mark.parametrize("source", [*(f"{{{{ {each} }}}}" for each in EXPRESSIONS), *STATEMENTS])
def test_a_template_gives_what_it_gives_in_the_sandbox_of_transformers(source: str) -> None:
    def told(template) -> str:
        try:
            return template.render(m={**MESSAGE})
        except (TemplateError, TypeError, ValueError, AttributeError) as reason:
            return f"{type(reason).__name__}: {reason}"

    ours, theirs = told(compiled(source)), told(_compile_jinja_template(source))
    assert ours.partition(" at 0x")[0] == theirs.partition(" at 0x")[0]


@pytest.mark.parametrize(
    "shown",
    [
        "tool | tojson",
        "tool.function | tojson(indent=2)",
        "tool | tojson(separators=[',', ':'])",
        "[tool, tool.function] | tojson",
        "tool.function.parameters | tojson",
        "tool.type ~ tool.function.name ~ tool.items is defined",
        "tool",
        "tool is mapping",
        "tool.update({'type': 'x'})",
        "tool._texts is defined",
    ],
)
def test_a_constant_object_looks_like_any_other(shown: str) -> None:
    tool = {"type": "function", "function": {"name": "say", "parameters": {"type": "object", "description": "ü <b>"}}}
    source = f"{{{{ {shown} }}}}"
    try:
        wanted = _compile_jinja_template(source).render(tool=tool)
    except TemplateError as reason:
        with pytest.raises(type(reason)):
            compiled(source).render(tool=constant(tool))
        return
    kept, template = constant(tool), compiled(source)
    assert [template.render(tool=kept), template.render(tool=kept)] == [wanted] * 2
