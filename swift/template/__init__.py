"""Messages <-> tokens and weights. Needs a tokenizer, no model, no torch."""

from swift.template.loss_scale import loss_scale
from swift.template.render import Rendered, Renderer, Stop
from swift.template.template import Template, jinja, names, template
from swift.template.template_writer import Span

__all__ = ["Rendered", "Renderer", "Span", "Stop", "Template", "jinja", "loss_scale", "names", "template"]
