"""The built-in chat templates of templates.toml. Knows no tokenizer."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import tomli

from swift.system.nearest import closest

Element = str | tuple[str | int, ...]
"""Text with placeholders, or tokens: ids, or names of tokenizer attributes such as `eos_token_id`."""


@dataclass(frozen=True, slots=True)
class Template:
    """One table of templates.toml, which documents the fields. `chat_sep` None: a single round."""

    name: str
    prompt: tuple[Element, ...]
    suffix: tuple[Element, ...]
    prefix: tuple[Element, ...] = ()
    system_prefix: tuple[Element, ...] | None = None
    tool_prompt: tuple[Element, ...] | None = None
    chat_sep: tuple[Element, ...] | None = None
    default_system: str = ""
    auto_add_bos: bool = False
    image: str = ""


@cache
def _tables() -> dict[str, dict[str, Any]]:
    tables: dict[str, dict[str, Any]] = tomli.loads(
        Path(__file__).with_name("templates.toml").read_text(encoding="utf-8")
    )
    return tables


def names() -> tuple[str, ...]:
    return tuple(_tables())


def template(name: str) -> Template:
    """The template called `name`. Raises ValueError with the most similar name."""
    tables = _tables()
    if name not in tables:
        near = closest(name, tables, n=1, cutoff=0.0)[0]
        raise ValueError(f"unknown template {name!r}: did you mean {near!r}? (AUTO uses the model's own)")
    return Template(name=name, **{key: _value(value) for key, value in tables[name].items()})


def _value(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(tuple(each) if isinstance(each, list) else each for each in value)
    return value


def jinja(of: Template, image: str = "") -> str:
    """The template as a Jinja chat template, for other programs that load a model folder.

    It renders system, user and assistant turns, but no tools: they are part of the system prompt. With `image`, the
    text of an image, contents may also be lists of parts, as processors pass them.
    """
    if image:
        plain = (
            jinja(of)
            .replace("message['content']", "said(message)")
            .replace("messages[0]['content']", "said(messages[0])")
        )
        return _SAID.replace("IMAGE", _quoted(of.image or image)) + plain

    def write(elements: tuple[Element, ...]) -> str:
        return "".join(_jinja_element(each) for each in elements)

    opening = write(of.prefix)
    with_system = write(of.system_prefix) if of.system_prefix is not None else opening
    default = f"'{_quoted(of.default_system)}'" if of.system_prefix is not None else "''"
    return (
        "{%- if messages and messages[0]['role'] == 'system' -%}{%- set system = messages[0]['content'] -%}"
        "{%- set turns = messages[1:] -%}{%- else -%}"
        f"{{%- set system = {default} -%}}{{%- set turns = messages -%}}{{%- endif -%}}"
        f"{{%- if system -%}}{with_system}{{%- else -%}}{opening}{{%- endif -%}}"
        "{%- set ns = namespace(round=0) -%}"
        "{%- for message in turns -%}{%- if message['role'] == 'assistant' -%}{{- message['content'] -}}"
        f"{{%- if loop.last -%}}{write(of.suffix)}{{%- else -%}}{write(of.chat_sep or of.suffix)}{{%- endif -%}}"
        f"{{%- else -%}}{write(of.prompt)}{{%- set ns.round = ns.round + 1 -%}}{{%- endif -%}}{{%- endfor -%}}"
    )


_SAID = (
    "{%- macro said(message) -%}{%- if message['content'] is string -%}{{- message['content'] -}}{%- else -%}"
    "{%- for part in message['content'] -%}{%- if part['type'] == 'text' -%}{{- part['text'] -}}"
    "{%- else -%}{{- 'IMAGE' -}}{%- endif -%}{%- endfor -%}{%- endif -%}{%- endmacro -%}"
)

_PLACEHOLDERS = {
    "{{SYSTEM}}": "{{- system -}}",
    "{{QUERY}}": "{{- message['content'] -}}",
    "{{ROUND0}}": "{{- ns.round -}}",
    "{{ROUND1}}": "{{- ns.round + 1 -}}",
}


def _jinja_element(element: Element) -> str:
    if isinstance(element, tuple):
        return "".join(
            f"{{{{- {str(token).removesuffix('_id')} -}}}}" if isinstance(token, str) else "" for token in element
        )
    parts: list[str] = []
    rest = element
    while rest:
        at, mark = min(((rest.find(each), each) for each in _PLACEHOLDERS if each in rest), default=(len(rest), ""))
        if at:
            parts.append(f"{{{{- '{_quoted(rest[:at])}' -}}}}")
        if mark:
            parts.append(_PLACEHOLDERS[mark])
        rest = rest[at + len(mark) :]
    return "".join(parts)


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
