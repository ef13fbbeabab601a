"""Tool calls of a reply as APIs have them: with an id, and with JSON arguments. Knows no JSON shape."""

from __future__ import annotations

import uuid
from dataclasses import replace

from swift.agent.arguments import json_arguments
from swift.chat import Delta


def with_json_call(delta: Delta, prefix: str) -> Delta:
    """The delta's call with an id that begins with `prefix`, and JSON arguments. Arguments that cannot be read stay as
    the model wrote them."""
    call = delta.tool_call
    if call is None or not call.name:
        return delta
    arguments = (json_arguments(call.arguments).text or call.arguments) if call.arguments else ""
    call = replace(call, arguments=arguments, id=call.id or f"{prefix}{uuid.uuid4().hex[:24]}")
    return replace(delta, tool_call=call)
