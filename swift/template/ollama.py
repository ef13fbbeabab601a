"""A built-in chat template -> Ollama's Modelfile. Reads no weights and does not run Ollama."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from swift.agent import ToolFormat
from swift.template import ollama_tools
from swift.template.ollama_tools import Tools
from swift.template.template import Element, Template

_SYSTEM, _QUERY = "\ue000", "\ue001"  # placeholders for texts


def modelfile(
    weights: str,
    template: Template,
    tool_format: ToolFormat,
    tokenizer: Any,
    stops: Sequence[int],
    parameters: Mapping[str, float],
) -> tuple[str, str]:
    """(the Modelfile of the GGUF file `weights` in the same folder, why it does not support tools ("" if it does)).

    Raises ValueError for a template that Ollama's template language cannot express.
    """
    tools, missing = None, ""
    try:
        if template.system_prefix is None:
            raise ValueError(f"template {template.name!r} does not support a system prompt")
        tools = ollama_tools.tools(tool_format)
    except ValueError as reason:
        missing = str(reason)
    words = dict.fromkeys(
        [*(tokenizer.decode([token]) for token in stops), *(tool_format.syntax.stop if tools else ())]
    )
    lines = [f"FROM ./{weights}", f'TEMPLATE """{_template(template, tools, tokenizer)}"""']
    if template.default_system:
        lines.append(f'SYSTEM """{template.default_system}"""')
    lines += [f"PARAMETER stop {_quoted(word)}" for word in words]
    lines += [f"PARAMETER {name} {value:g}" for name, value in parameters.items()]
    return "\n".join(lines) + "\n", missing


_SAID, _BEFORE = "{{ $said := false }}", '{{ $before := "" }}'
_FOLLOWED = (
    "{{ $after := slice $.Messages $i }}{{ $next := false }}"
    '{{ if gt (len $after) 1 }}{{ $next = eq (index $after 1).Role "tool" }}{{ end }}'
)
"""Sets `$next`: another result follows."""


def _template(of: Template, tools: Tools | None, tokenizer: Any) -> str:
    """Ollama's template. Ollama passes all messages; `.System` is the system prompt, which is also one of them."""
    if of.chat_sep is None:
        raise ValueError(f"template {of.name!r} supports a single round; Ollama needs dialogues")

    def write(elements: Sequence[Element], system: str = "{{ .System }}", query: str = "{{ .Content }}") -> str:
        filled = "".join(_element(of, each, tokenizer) for each in elements)
        return filled.replace(_SYSTEM, system).replace(_QUERY, query)

    opening = write(of.prefix)
    if of.system_prefix is not None:
        text, any_text = "{{ .System }}", ".System"
        if tools:
            text, any_text = f"{{{{ if .Tools }}}}{tools.system}{{{{ else }}}}{text}{{{{ end }}}}", "or .System .Tools"
        opening = f"{{{{ if {any_text} }}}}{write(of.system_prefix, text)}{{{{ else }}}}{opening}{{{{ end }}}}"
    between = f"{{{{ if $said }}}}{write(of.chat_sep)}{{{{ end }}}}"
    calls, result = "", ""
    if tools:
        said = f"{{{{ $calls := .ToolCalls }}}}{{{{ if and $calls .Content }}}}{tools.said}{{{{ end }}}}"
        # Ollama uses the text after the first `if .ToolCalls` as the prefix of calls
        calls = f"{said}{{{{ if .ToolCalls }}}}{tools.calls}{{{{ end }}}}"
        result = f'{{{{ else if eq .Role "tool" }}}}{_results(of, tools, between, write)}'
    return (
        f"{opening}{_SAID}{_BEFORE}{{{{ range $i, $_ := .Messages }}}}"
        f'{{{{ if eq .Role "assistant" }}}}{{{{ .Content }}}}'
        f"{calls}{{{{ $said = true }}}}"
        f'{result}{{{{ else if ne .Role "system" }}}}{between}{write(of.prompt)}{{{{ end }}}}'
        "{{ $before = .Role }}{{ end }}"
    )


def _results(of: Template, tools: Tools, between: str, write: Callable[..., str]) -> str:
    """Tool results: within the assistant's turn, as a turn of the chat template, or as a raw turn of the format."""
    first, last = "", ""
    if tools.results != "inline":
        first = between
    if tools.results == "turn":
        before, after = write(of.tool_prompt or of.prompt, query=_QUERY).split(_QUERY)
        first, last = first + before, after
    opening = f'{{{{ if ne $before "tool" }}}}{first}{tools.opening}{{{{ end }}}}'
    return (
        f"{_FOLLOWED}{opening}{{{{ .Content }}}}"
        f"{{{{ if $next }}}}{tools.between}{{{{ else }}}}{tools.closing}{last}{{{{ end }}}}"
    )


def _element(of: Template, element: Element, tokenizer: Any) -> str:
    if isinstance(element, tuple):
        ids = [each if isinstance(each, int) else getattr(tokenizer, each) for each in element]
        return "".join(ollama_tools.literal(tokenizer.decode([each])) for each in ids if each is not None)
    if "{{ROUND" in element:
        raise ValueError(f"template {of.name!r} numbers rounds, which Ollama's template language cannot")
    parts = re.split(f"({_SYSTEM}|{_QUERY})", element.replace("{{SYSTEM}}", _SYSTEM).replace("{{QUERY}}", _QUERY))
    return "".join(part if index % 2 else ollama_tools.literal(part) for index, part in enumerate(parts))


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '\\"') + '"'
