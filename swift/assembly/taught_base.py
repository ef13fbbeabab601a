"""The model that `swift teach` starts from: how commands name it, and its tool-call format. Loads no weights."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from swift.assembly import checkpoints
from swift.assembly.rendering import make_renderer
from swift.flag_groups import ModelFlags, TemplateFlags
from swift.model import catalog
from swift.model.location import locate
from swift.template import Renderer

AGENT, BARE = "smollm2-135m-agent", "smollm2-135m-instruct"
FORMAT = "hermes"
"""The tool-call format of a model that has none: structured calls, which are short."""


class Base(NamedTuple):
    """`trained`, `asked`: the words that name the model for `swift sft` and for commands that ask it. `source`: what
    its weights are read from, `folder`: the folder of the model, or of the adapter on it. `knows_tools`: whether it has
    a format of its own, so that training goes on from it."""

    name: str
    trained: tuple[str, ...]
    asked: tuple[str, ...]
    source: str
    folder: Path
    renderer: Renderer
    knows_tools: bool


def base(name: str, template_type: str, agent_template: str) -> Base:
    """The model of --base: a registered name, a hub id, a model folder or an adapter's checkpoint.

    AUTO is the agent model that is part of SWIFT, or the bare model where that is missing. Raises ValueError for a
    model that is not there.
    """
    if name == "AUTO":
        name = AGENT if _is_there(AGENT) else BARE
    folder = Path(name).expanduser()
    if folder.is_dir() and checkpoints.is_adapter(folder):
        return _of_adapter(folder, template_type, agent_template)
    path = locate(name)
    spec = catalog.choose(None, name, str(path))
    own = checkpoints.named_template(ModelFlags(model_id_or_path=name), TemplateFlags())
    record = checkpoints.recorded(path) if folder.is_dir() else {}
    recorded = own.agent_template if own.agent_template != "AUTO" else str(record.get("agent_template", "AUTO"))
    chosen = template_type if template_type != "AUTO" else own.template_type
    plain = make_renderer(path, TemplateFlags(template_type=chosen, agent_template=recorded), spec)
    knows_tools = recorded != "AUTO" or not plain.format_name.startswith("react")
    wanted = agent_template if agent_template != "AUTO" else recorded if knows_tools else FORMAT
    words = ("--model", name, *_flag("template_type", template_type), *_flag("agent_template", wanted))
    renderer = make_renderer(path, TemplateFlags(template_type=chosen, agent_template=wanted), spec)
    return Base(name, words, words, name, path, renderer, knows_tools)


def _of_adapter(folder: Path, template_type: str, agent_template: str) -> Base:
    record = checkpoints.recorded(folder)
    model = str(record.get("model_id_or_path") or record.get("model_type") or checkpoints.peft_base(folder))
    wanted = agent_template if agent_template != "AUTO" else str(record.get("agent_template", "AUTO"))
    chosen = template_type if template_type != "AUTO" else str(record.get("template_type", "AUTO"))
    path = locate(model)
    spec = catalog.choose(record.get("model_type"), model, str(path))
    renderer = make_renderer(path, TemplateFlags(template_type=chosen, agent_template=wanted), spec)
    words = ("--model", model, *_flag("template_type", chosen), *_flag("agent_template", wanted))
    asked = (
        "--ckpt_dir",
        str(folder),
        *_flag("template_type", template_type),
        *_flag("agent_template", agent_template),
    )
    return Base(str(folder), (*words, "--init_adapter", str(folder)), asked, model, folder, renderer, True)


def _flag(name: str, value: str) -> tuple[str, ...]:
    return () if value == "AUTO" else (f"--{name}", value)


def _is_there(name: str) -> bool:
    try:
        locate(name)
    except (ValueError, OSError):
        return False
    return True
