"""Writes docs/commands/, a page for each command, from the dataclasses of its flags: python docs/command_pages.py"""

from __future__ import annotations

import ast
from pathlib import Path

from swift import cli, flags
from swift.flags import page

FOLDER = Path(__file__).parent / "commands"
NOTE = "<!-- Made by `python docs/command_pages.py` from the dataclasses of the flags. Do not edit. -->"
GUIDES = {
    "app-ui": ("studio",),
    "agent": ("agents", "tools"),
    "data": ("datasets", "synthesis", "agents"),
    "datasets": ("datasets",),
    "demo": ("training",),
    "deploy": ("serving", "backends", "clients"),
    "doctor": ("performance", "native"),
    "eval": ("evaluation",),
    "export": ("export",),
    "infer": ("dialogue", "tools", "backends"),
    "merge-lora": ("export",),
    "models": ("models",),
    "practice": ("practice",),
    "report": ("reports", "runs"),
    "rlhf": ("preferences", "training"),
    "runs": ("runs", "reports"),
    "sft": ("training", "datasets", "tuners", "scaling"),
    "studio": ("studio",),
    "teach": ("teach", "tools"),
    "tuners": ("tuners",),
    "web-ui": ("studio",),
}
"""Command -> the pages of docs/ that explain it."""


def pages() -> dict[str, str]:
    """File name -> its text."""
    return {"index.md": index(), **{f"{verb}.md": page_of(verb) for verb in cli.verbs()}}


def index() -> str:
    rows = [f"| [swift {verb}]({verb}.md) | {summary(verb)} |" for verb in cli.verbs()]
    about = "Every flag with its values and its default, as `swift COMMAND --help-all` lists them."
    table = "\n".join(["| command | |", "|---|---|", *rows])
    return "\n\n".join([NOTE, "# Commands", about, table, page.tables(flags.Common)]) + "\n"


def page_of(verb: str) -> str:
    offered = cli.configs(verb)
    parts = [NOTE, f"# swift {verb}", summary(verb)]
    if guides := GUIDES.get(verb):
        parts.append(f"Explained in: {', '.join(f'[{title(each)}](../{each}.md)' for each in guides)}.")
    for words, config in offered.items():
        is_below = words != verb
        parts += [f"## swift {words}", (config.__doc__ or "").strip()] if is_below else []
        parts.append(f"```\n{flags.example_of(config)}\n```")
        parts.append(page.tables(config, level=3 if is_below else 2))
    parts.append("Every command also takes [`--config` and `--ignore_args_error`](index.md#every-command).")
    return "\n\n".join(filter(None, parts)) + "\n"


def summary(verb: str) -> str:
    """The first paragraph of the command's module."""
    text = ast.get_docstring(ast.parse(cli.verbs()[verb].read_text(encoding="utf-8"))) or ""
    return " ".join(text.partition("\n\n")[0].split())


def title(name: str) -> str:
    """The heading of a page of docs/."""
    first = (FOLDER.parent / f"{name}.md").read_text(encoding="utf-8").partition("\n")[0]
    return first.removeprefix("# ")


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    found = pages()
    for old in FOLDER.glob("*.md"):
        if old.name not in found:
            old.unlink()
    for name, text in found.items():
        (FOLDER / name).write_text(text, encoding="utf-8")
