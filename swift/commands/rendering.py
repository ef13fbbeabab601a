"""Flags -> the Renderer: the one place where a command decides how a model is spoken to."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from swift.commands.groups import TemplateFlags

if TYPE_CHECKING:
    from swift.model.specs import ModelSpec
    from swift.template import Renderer


def make_renderer(
    path: Path, flags: TemplateFlags, spec: ModelSpec | None, trust: bool = False, trained: bool = True
) -> Renderer:
    """The renderer of a model's folder. `--template_type AUTO` takes the model's registered template, else its own.

    `trained`: the renderer is for training, or for a model that training made. Raises ValueError with the nearest right
    name for an unknown template, form or scale.
    """
    from swift.model import load
    from swift.model.files import end_tokens
    from swift.template import Renderer, template
    from swift.template.sight import Sight

    named = flags.template_type if flags.template_type != "AUTO" else spec.template if spec else None
    tokenizer = load.load_tokenizer(path, trust, spec)
    processor = load.load_processor(path, tokenizer)
    sight = Sight(processor, load.image_token_kinds(path), flags.max_pixels) if processor else None
    if flags.max_pixels is not None and sight is None:
        raise ValueError("--max_pixels is for models that see images, which this one does not: leave it out")
    chosen = template(named) if named else None
    return Renderer(
        tokenizer,
        chosen,
        flags.agent_template,
        flags.scale,
        flags.system,
        sight,
        eos=() if chosen else end_tokens(path),
        reasoning_weight=flags.reasoning_weight,
        history_reasoning=flags.history_reasoning,
        template_kwargs=flags.kwargs,
        today=flags.date(trained),
    )
