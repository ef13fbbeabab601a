"""Rows as a model's training sees them, as HTML. Knows no page; loads tokenizers, not weights."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from swift import images
from swift.assembly import sample_html
from swift.assembly.chat_view import plain_turns, turns
from swift.assembly.sample_view import SEVERAL, summary
from swift.chat import Conversation
from swift.data import rows
from swift.data.data_file import DataFile
from swift.data.row_values import BadRow, Row
from swift.studio.folders import Folders
from swift.studio.language import Language

if TYPE_CHECKING:
    from swift.template import Renderer

MOST = 2000
"""Rows whose tokens are counted."""


class Rendering(NamedTuple):
    """The flags of a training that decide what of a row is trained; no model: rows are shown as they are."""

    model: str = ""
    agent_template: str = "AUTO"
    loss_scale: str = "AUTO"


@lru_cache(maxsize=4)
def renderer(rendering: Rendering) -> Renderer:
    """Raises ValueError."""
    from swift.assembly.rendering import named_renderer
    from swift.flag_groups import ModelFlags, TemplateFlags

    template = TemplateFlags(agent_template=rendering.agent_template, loss_scale=rendering.loss_scale, max_length=-1)
    return named_renderer(ModelFlags(model_id_or_path=rendering.model), template)


def allowed(rendering: Rendering, folders: Folders) -> Rendering:
    """The rendering, if its paths are in the folders of the studio. Raises ValueError."""
    for value in (rendering.model, rendering.loss_scale):
        if value.startswith(("/", "~", ".")) or Path(value).is_absolute():
            folders.inside(value)
    at = folders.first / rendering.model
    return rendering._replace(model=str(folders.inside(at))) if rendering.model and at.exists() else rendering


def chats(row: Row, rendering: Rendering, folder: Path, language: Language) -> str:
    """A row as chats: one a sample, or as it is without a model. `folder`: of its images. Raises ValueError."""
    say = language.say
    conversation = _read(row, folder)
    if not rendering.model:
        return sample_html.chat(plain_turns(conversation), say)
    samples = renderer(rendering).show_samples(conversation)
    shown = sample_html.legend(say)
    if len(samples) > 1:
        shown += f"<p>{say(SEVERAL)}</p>"
    for rendered in samples:
        shown += f"<p>{summary(rendered.sample, say)}</p>"
        shown += sample_html.chat(turns(conversation, rendered), say)
    return shown


def _read(row: Row, folder: Path) -> Conversation:
    try:
        found = rows.read(row)
    except BadRow as bad:
        raise ValueError(f"{bad.rule}: {bad.message}") from None
    if not found.images:
        return found
    return found.with_messages(tuple(images.read_all(found.messages, images.Access(folder, within=True))))


def lengths(data: DataFile, rendering: Rendering) -> list[int]:
    """The tokens of each sample of the first rows that can be rendered. Raises ValueError for an unknown model."""
    found: list[int] = []
    reading = renderer(rendering)
    for at in range(min(len(data), MOST)):
        row = data.row(at)
        if isinstance(row, BadRow):
            continue
        try:
            found += [len(sample.tokens) for sample in reading.samples(_read(row, data.path.parent))]
        except ValueError:  # lint names the row
            continue
    return found
