"""Flags -> the Renderer, for all commands."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from swift.flag_groups import ModelFlags, TemplateFlags
from swift.system.nearest import closest

if TYPE_CHECKING:
    from swift.model.catalog import ModelSpec
    from swift.template import Renderer

SWITCHES = ("enable_thinking", "thinking", "reasoning_effort", "reasoning_strength")
"""Variables of chat templates that control reasoning."""
DATES = {"strftime_now", "date_string"}
"""Names by which chat templates read the date."""


def make_renderer(
    path: Path, flags: TemplateFlags, spec: ModelSpec | None, trust: bool = False, trained: bool = True
) -> Renderer:
    """The renderer of a model's folder. `--template_type AUTO` takes the model's registered template, else its own.

    `trained`: the renderer is for training, or for a model that training made. Raises ValueError with the nearest right
    name for an unknown template, form or scale.
    """
    from swift.model import load
    from swift.model.config_files import end_tokens
    from swift.template import Renderer, template
    from swift.template.image_processor import ImageProcessor

    named = flags.template_type if flags.template_type != "AUTO" else spec.template if spec else None
    tokenizer = load.load_tokenizer(path, trust, spec)
    processor = load.load_processor(path, tokenizer)
    image_processor = ImageProcessor(processor, load.image_token_kinds(path), flags.max_pixels) if processor else None
    if flags.max_pixels is not None and image_processor is None:
        raise ValueError("--max_pixels is for models that see images, which this one does not: leave it out")
    chosen = template(named) if named else None
    if chosen:
        flags.check_table(chosen.name)
    renderer = Renderer(
        tokenizer,
        chosen,
        flags.agent_template,
        flags.scale,
        flags.system,
        image_processor,
        eos=() if chosen else end_tokens(path),
        reasoning_weight=flags.reasoning_weight,
        history_reasoning=flags.history_reasoning,
        template_kwargs=flags.kwargs,
        today=flags.date(trained),
    )
    if not chosen:
        _check_read(flags, renderer.variables)
    return renderer


def named_renderer(model: ModelFlags, template: TemplateFlags) -> Renderer:
    """The renderer of the model that the flags name, as for training. Loads no weights. Raises ValueError."""
    from swift.assembly import checkpoints
    from swift.model.catalog import choose
    from swift.model.location import locate

    name = model.model_id_or_path or model.model_type
    assert name, model
    path = locate(name, model.model_revision, model.use_hf, model.registry)
    spec = choose(model.model_type, name, str(path), registry=model.registry)
    return make_renderer(path, checkpoints.named_template(model, template), spec, model.trust_remote_code)


def _check_read(flags: TemplateFlags, read: Collection[str]) -> None:
    """ValueError for variables, and a date, that the model's own chat template does not read."""
    for name in flags.kwargs:
        if name not in read:
            given = name in flags.chat_template_kwargs
            flag = f"--chat_template_kwargs: {name!r}" if given else f"--{name}"
            near = closest(name, read, n=1) or [each for each in SWITCHES if each in read]
            other = f": it reads {near[0]}" if near else ": leave it out"
            raise ValueError(f"{flag} is not read by this model's chat template{other}")
    if flags.template_date != "AUTO" and not DATES & set(read):
        raise ValueError(
            f"--template_date {flags.template_date}: this model's chat template names no date: leave it out"
        )
