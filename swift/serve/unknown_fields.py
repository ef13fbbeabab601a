"""Fields of requests that nobody knows: they are ignored, and told once each. Knows no request's meaning."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterable, Iterator
from difflib import get_close_matches

from pydantic import BaseModel

log = logging.getLogger("swift.serve")

NO_MATTER = {
    "metadata",
    "name",
    "prompt_cache_key",
    "prompt_cache_retention",
    "safety_identifier",
    "service_tier",
    "store",
    "user",
    "annotations",
    "audio",
    "function_call",
    "reasoning_details",
    "include_obfuscation",
}
"""Fields of OpenAI's, and of others' messages that clients send back, that change no reply."""
ALSO = {
    "max_new_tokens": "max_tokens",
    "max_length": "max_tokens",
    "max_output_tokens": "max_completion_tokens",
    "stop_words": "stop",
    "stop_sequences": "stop",
    "random_seed": "seed",
    "guided_json": "response_format",
    "guided_grammar": "response_format",
    "json_schema": "response_format",
    "structured_outputs": "response_format",
    "input_schema": "parameters",
    "thinking": "enable_thinking",
    "reasoning": "reasoning_effort",
    "template_kwargs": "chat_template_kwargs",
}
"""What other servers call a field that there is."""
MOST = 1000
"""Names that are kept: whoever makes up more tells nobody anything."""


class UnknownFields:
    """Tells each unknown field, and each variable that no chat template reads, once."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    def look_at_variables(self, given: Iterable[str], read: Collection[str]) -> None:
        """`read`: the variables that the model's chat template reads."""
        for name in given:
            variable = json.dumps(name[:80])[1:-1]
            field = f"chat_template_kwargs.{variable}"
            if name not in read and field not in self._told and len(self._told) < MOST:
                self._told.add(field)
                log.warning("a request sets %s, which the model's chat template does not read", variable)

    def look(self, body: BaseModel) -> None:
        """Tells unknown fields with the known ones that they are like."""
        for place, name, known in _found(body):
            field = f"{place}{json.dumps(name[:80])[1:-1]}"
            if field in self._told or len(self._told) >= MOST:
                continue
            self._told.add(field)
            near = [ALSO[name]] if ALSO.get(name) in known else get_close_matches(name, known, 1, 0.7)
            hint = f"; did you mean {near[0]}?" if near else ""
            log.warning("a request holds the unknown field %s, which is ignored%s", field, hint)


def _found(body: BaseModel, place: str = "") -> Iterator[tuple[str, str, list[str]]]:
    """Where unknown fields are, their names, and those that are known there."""
    if extra := body.model_extra:
        known = [field.alias or name for name, field in type(body).model_fields.items()]
        yield from ((place, name, known) for name in extra if name not in NO_MATTER)
    for name, value in body.__dict__.items():
        if isinstance(value, BaseModel):
            yield from _found(value, f"{place}{name}.")
        elif isinstance(value, list):
            for each in value:
                if isinstance(each, BaseModel):
                    yield from _found(each, f"{place}{name}[].")
