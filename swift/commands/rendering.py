"""Flags -> the Renderer: the one place where a command decides how a model is spoken to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from swift.commands.groups import TemplateFlags

if TYPE_CHECKING:
    from swift.model.specs import ModelSpec
    from swift.template import Renderer


def make_renderer(tokenizer: Any, flags: TemplateFlags, spec: ModelSpec | None) -> Renderer:
    """The renderer of a model. `--template_type AUTO` takes the model's registered template, else the tokenizer's own.

    Raises ValueError with the nearest right name for an unknown template, form or scale.
    """
    from swift.template import Renderer, template

    named = flags.template_type if flags.template_type != "AUTO" else spec.template if spec else None
    return Renderer(tokenizer, template(named) if named else None, flags.agent_template, flags.scale, flags.system)
