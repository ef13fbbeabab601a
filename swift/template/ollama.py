"""A chat template of the table -> Ollama's Modelfile. Knows no weights and runs no Ollama."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from swift.template.template import Element, Template


def modelfile(
    weights: str, template: Template, tokenizer: Any, stops: Sequence[int], parameters: Mapping[str, float]
) -> str:
    """The Modelfile of the GGUF file `weights` beside it. ValueError for a template that Ollama's cannot say."""
    words = dict.fromkeys(tokenizer.decode([token]) for token in stops)
    lines = [f"FROM ./{weights}", f'TEMPLATE """{_template(template, tokenizer)}"""']
    if template.default_system:
        lines.append(f'SYSTEM """{template.default_system}"""')
    lines += [f"PARAMETER stop {_quoted(word)}" for word in words]
    lines += [f"PARAMETER {name} {value:g}" for name, value in parameters.items()]
    return "\n".join(lines) + "\n"


def _template(of: Template, tokenizer: Any) -> str:
    """Ollama hands over all messages; `.System` is the system text, which is among them too."""
    if of.chat_sep is None:
        raise ValueError(f"template {of.name!r} takes a single round: Ollama's templates are for dialogues")

    def write(elements: Sequence[Element]) -> str:
        return "".join(_element(of, each, tokenizer) for each in elements)

    opening = write(of.prefix)
    if of.system_prefix is not None:
        opening = f"{{{{ if .System }}}}{write(of.system_prefix)}{{{{ else }}}}{opening}{{{{ end }}}}"
    last = "eq (len (slice $.Messages $i)) 1"
    return (
        f'{opening}{{{{ range $i, $_ := .Messages }}}}{{{{ if eq .Role "assistant" }}}}{{{{ .Content }}}}'
        f"{{{{ if not ({last}) }}}}{write(of.chat_sep)}{{{{ end }}}}"
        f'{{{{ else if ne .Role "system" }}}}{write(of.prompt)}{{{{ end }}}}{{{{ end }}}}'
    )


def _element(of: Template, element: Element, tokenizer: Any) -> str:
    if isinstance(element, tuple):
        ids = [each if isinstance(each, int) else getattr(tokenizer, each) for each in element]
        return "".join(_literal(tokenizer.decode([each])) for each in ids if each is not None)
    if "{{ROUND" in element:
        raise ValueError(f"template {of.name!r} counts rounds: Ollama's templates cannot")
    parts = element.replace("{{SYSTEM}}", "\0.System\0").replace("{{QUERY}}", "\0.Content\0").split("\0")
    return "".join(f"{{{{ {part} }}}}" if index % 2 else _literal(part) for index, part in enumerate(parts))


def _literal(text: str) -> str:
    return text.replace("{{", '{{ "{{" }}')


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '\\"') + '"'
