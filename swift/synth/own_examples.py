"""The user's own questions for tools: from docstrings of a Python file, or a file of JSON lines. Imports no user code.

A docstring has them in a section `Examples:`, a line each, alone or with the arguments:

    Examples:
        It's dark in the kitchen -> {"room": "kitchen", "on": true}
        Switch {room} on -> {"on": true}
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from num2words import num2words

from swift.synth.catalogue import SLOT, Function, slots
from swift.synth.names import CHINESE
from swift.synth.values import in_words
from swift.system import utf8
from swift.system.nearest import nearest_path

_SECTION = re.compile(r"^\s*(?:Examples?|Questions|示例|例子)\s*[::]\s*$", re.IGNORECASE)
_HEADING = re.compile(
    r"^\s*(?:Args|Arguments|Parameters|Returns?|Raises|Yields|Notes?|参数|返回)\s*[::]\s*$", re.IGNORECASE
)


class Example(NamedTuple):
    """A question for a tool, and the arguments of its call if they are given. `place`: where it stands."""

    question: str
    arguments: Mapping[str, Any] | None = None
    place: str = ""


class Unusable(NamedTuple):
    """Why an example is no template."""

    reason: str


def of_python_file(file: Path) -> dict[str, list[Example]]:
    """The examples in the docstrings of a file's functions, by function. The file is parsed, never imported."""
    try:
        tree = ast.parse(utf8.read(file))
    except SyntaxError as error:
        raise ValueError(f"{file}: line {error.lineno}: {error.msg}") from None
    found = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = list(_lines(ast.get_docstring(node) or ""))
            if lines:
                found[node.name] = [_example(line, f"{file}: {node.name}") for line in lines]
    return found


def of_json_lines(file: Path) -> dict[str, list[Example]]:
    """The examples of a file of `{"tool", "question", "arguments"}` lines, by tool. ValueError names the line."""
    if not file.is_file():
        raise ValueError(f"--examples {file}: no such file{nearest_path(file)}")
    found: dict[str, list[Example]] = {}
    for number, line in enumerate(utf8.read(file).splitlines(), 1):
        if not line.strip():
            continue
        place = f"{file}:{number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{place}: not JSON: {error.msg}") from None
        if not isinstance(row, dict) or not all(isinstance(row.get(key), str) for key in ("tool", "question")):
            raise ValueError(f'{place}: an example is {{"tool": "...", "question": "...", "arguments": {{...}}}}')
        if unknown := sorted(set(row) - {"tool", "question", "arguments"}):
            raise ValueError(f"{place}: unknown key '{unknown[0]}': an example has tool, question and arguments")
        if not isinstance(row.get("arguments", {}), dict):
            raise ValueError(f"{place}: arguments must be an object")
        found.setdefault(row["tool"], []).append(Example(row["question"], row.get("arguments"), place))
    return found


def _lines(docstring: str) -> list[str]:
    lines, inside = [], False
    for line in docstring.splitlines():
        if _SECTION.match(line):
            inside = True
        elif _HEADING.match(line):
            inside = False
        elif inside and line.strip() and not line.strip().startswith((">>>", "...")):
            lines.append(re.sub(r"^[-*]\s+", "", line.strip()))
    return lines


def _example(line: str, place: str) -> Example:
    question, arrow, given = line.rpartition("->")
    if not arrow:
        return Example(line, None, place)
    try:
        arguments = json.loads(given)
    except json.JSONDecodeError as error:
        raise ValueError(f"{place}: example {line!r}: after -> must be JSON: {error.msg}") from None
    if not isinstance(arguments, dict):
        raise ValueError(f"{place}: example {line!r}: after -> must be an object of arguments")
    return Example(question.strip().strip("\"'"), arguments, place)


def template_of(example: Example, function: Function) -> str | Unusable:
    """The question as a template: argument values that it has word for word become slots, others are set by it."""
    text = example.question
    if example.arguments is None and not slots(text):
        return _by_values(text, function)
    if SLOT.sub("", text).count("{") or SLOT.sub("", text).count("}"):
        return Unusable("it has a brace that is no slot")
    for path, value in _flat(example.arguments or {}, function):
        try:
            function.parameter(path)
        except KeyError:
            return Unusable(f"there is no parameter {path}")
        placed = _placed(text, path, value, function.parameter(path).of)
        if placed is None:
            return Unusable(f"it does not say {path}, {in_words(value)!r}")
        text = placed
    text = text.replace("[", "(").replace("]", ")")
    if lost := sorted(function.required() - set(slots(text))):
        return Unusable(f"it does not say {lost[0]}; give the arguments after ->")
    return text


def _flat(arguments: Mapping[str, Any], function: Function) -> Sequence[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name, value in arguments.items():
        parameter = function.parameters.get(name)
        if isinstance(value, dict) and parameter is not None and parameter.parameters is not None:
            found += [(f"{name}.{inner}", each) for inner, each in value.items()]
        else:
            found.append((name, value))
    return sorted(found, key=lambda each: -len(in_words(each[1])))  # the longest first: values may contain others


def _placed(text: str, path: str, value: Any, of: Any) -> str | None:
    slot = f"{{{path}}}"
    for words in (*_with_units(value, of), *ways_of_saying(value)):
        found = re.search(rf"(?<![\w{{]){re.escape(words)}(?![\w}}])", text, re.IGNORECASE) or (
            re.search(re.escape(words), text) if CHINESE.search(text) and words else None
        )
        if found and "{" not in text[max(0, found.start() - 1) : found.end()]:
            return text[: found.start()] + slot + text[found.end() :]
    if isinstance(value, list | dict):
        return None
    literal = value if isinstance(value, str) else json.dumps(value)
    return None if "{" in str(literal) or "}" in str(literal) else f"{text}{{{path}={literal}}}"


def _with_units(value: Any, of: Any) -> list[str]:
    """A number with its unit, as the parameter's other values are said: "5 weeks", "five weeks"."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not isinstance(of, list):
        return []
    pairs = [each for each in of if isinstance(each, list) and str(each[1]) in str(each[0])]
    forms = {str(said).replace(str(number), "#", 1) for said, number in pairs}
    numbers = [in_words(value), *([num2words(value)] if isinstance(value, int) else [])]
    return [form.replace("#", number) for form in sorted(forms, key=len, reverse=True) for number in numbers]


def ways_of_saying(value: Any) -> list[str]:
    """Texts that say a value word for word: a number with commas or in words, a list with "and"; none for a boolean."""
    if isinstance(value, bool) or value == "":
        return []
    if isinstance(value, list):
        words = [in_words(each) for each in value]
        joined = [
            " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words),
            ", ".join(words),
            "、".join(words),
        ]
        return [each for each in joined if each]
    text = in_words(value)
    said = [text, text.replace("_", " ")]
    if isinstance(value, float) and value == int(value):
        said.append(str(int(value)))
    if isinstance(value, int):
        said += [num2words(value), f"{value:,}"]
    return said


def _by_values(text: str, function: Function) -> str | Unusable:
    """A question without arguments: enum values, quoted texts and a single number tell them."""
    for path in sorted(function.required()):
        parameter = function.parameter(path)
        found = None
        if parameter.enum:
            words = sorted((in_words(each) for each in parameter.enum), key=len, reverse=True)
            found = next(
                (hit for each in words if (hit := re.search(rf"\b{re.escape(each)}\b", text, re.IGNORECASE))), None
            )
        elif parameter.type in ("integer", "number"):
            hits = list(re.finditer(r"(?<![\w{.])\d+(?:\.\d+)?(?![\w}])", text))
            found = hits[0] if len(hits) == 1 else None
        else:
            hits = list(re.finditer(r"(?<=\")[^\"{}]+(?=\")", text))
            found = hits[0] if len(hits) == 1 else None
        if not found:
            return Unusable(f'it does not say {path} in a way that can be found: add -> {{"{path}": ...}}')
        text = text[: found.start()] + f"{{{path}}}" + text[found.end() :]
    return text.replace("[", "(").replace("]", ")")
