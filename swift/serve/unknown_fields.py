"""Logs fields of requests that the server does not know, once each; they are ignored. Knows no field's meaning."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterable, Iterator

from pydantic import BaseModel

from swift.system.nearest import closest

log = logging.getLogger("swift.serve")

IGNORED = {
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
    "cache_control",
    "caller",
    "citations",
    "inference_geo",
    "toolset_name",
    "max_tool_calls",
    "parsed",
    "parsed_arguments",
    "phase",
}
"""Fields of OpenAI's and Anthropic's APIs, and of messages that clients send back, that change no reply: they are not
logged."""
SYNONYMS = {
    "max_new_tokens": "max_tokens",
    "max_length": "max_tokens",
    "max_output_tokens": "max_completion_tokens",
    "max_tokens": "max_output_tokens",
    "max_completion_tokens": "max_output_tokens",
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
    "reasoning_effort": "reasoning",
    "response_format": "text",
    "messages": "input",
    "template_kwargs": "chat_template_kwargs",
}
"""Names in other servers' APIs -> the field of this one."""
MAX_LOGGED = 1000
"""Names after which nothing more is logged: a client that makes up names cannot fill the log."""


class UnknownFields:
    """Logs each unknown field, and each variable that the chat template does not read, once."""

    def __init__(self) -> None:
        self._logged: set[str] = set()

    def warn_of_variables(self, given: Iterable[str], read: Collection[str]) -> None:
        """`read`: the variables that the model's chat template reads."""
        for name in given:
            variable = json.dumps(name[:80])[1:-1]
            if name not in read and self._is_new(f"chat_template_kwargs.{variable}"):
                log.warning("a request sets %s, which the model's chat template does not read", variable)

    def warn(self, body: BaseModel) -> None:
        """Logs the unknown fields of a body, each with the most similar known field."""
        for place, name, known in _unknown(body):
            field = f"{place}{json.dumps(name[:80])[1:-1]}"
            if not self._is_new(field):
                continue
            near = [SYNONYMS[name]] if SYNONYMS.get(name) in known else closest(name, known, 1, 0.7)
            hint = f"; did you mean {near[0]}?" if near else ""
            log.warning("a request holds the unknown field %s, which is ignored%s", field, hint)

    def _is_new(self, field: str) -> bool:
        if field in self._logged or len(self._logged) >= MAX_LOGGED:
            return False
        self._logged.add(field)
        return True


def _unknown(body: BaseModel, place: str = "") -> Iterator[tuple[str, str, list[str]]]:
    """(path of the object, unknown field, the object's known fields), at every depth."""
    if extra := body.model_extra:
        known = [field.alias or name for name, field in type(body).model_fields.items()]
        yield from ((place, name, known) for name in extra if name not in IGNORED)
    for name, value in body.__dict__.items():
        if isinstance(value, BaseModel):
            yield from _unknown(value, f"{place}{name}.")
        elif isinstance(value, list):
            for each in value:
                if isinstance(each, BaseModel):
                    yield from _unknown(each, f"{place}{name}[].")
