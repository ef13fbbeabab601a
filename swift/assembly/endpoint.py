"""--endpoint: a dialogue with a model behind an OpenAI-compatible server. Loads no model and no tokenizer."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

from swift import flags
from swift.flag_groups import GenerationFlags, ModelFlags, TemplateFlags, ToolFlags

if TYPE_CHECKING:
    from swift.infer.remote_chat import RemoteChat

KEY_VARIABLE = "SWIFT_API_KEY"


@dataclass(frozen=True)
class EndpointFlags:
    """Model behind a server"""

    endpoint: str | None = None
    """URL of an OpenAI-compatible server to talk to instead of loading a model, such as http://127.0.0.1:8000/v1;
    --model is the name of the model there, by default the first that the server lists"""
    api_key: str | None = None
    """API key for --endpoint; by default the environment's SWIFT_API_KEY"""

    def __post_init__(self) -> None:
        if self.endpoint is None:
            if self.api_key is not None:
                raise ValueError("--api_key is for --endpoint")
            return
        check_url(self.endpoint)


def check_url(url: str) -> None:
    """Raises ValueError for a value of --endpoint that is not the URL of a server."""
    parsed = urlparse(url)
    if parsed.scheme not in ("http", "https") or not parsed.hostname:
        raise ValueError(f"--endpoint {url}: must be a URL such as http://127.0.0.1:8000/v1")


ALLOWED = {
    *flags.names(EndpointFlags),
    *set(flags.names(GenerationFlags)) - {"min_confidence"},
    *flags.names(ToolFlags),
    *("model_id_or_path", "system", "enable_thinking", "chat_template_kwargs"),
    *("max_turns", "eval_human", "save_result", "result_dir"),
}
"""Flags of `swift infer` that apply to a dialogue with a server."""

_SAMPLING = {
    "max_new_tokens": ("max_tokens",),
    "temperature": ("temperature",),
    "do_sample": ("temperature",),
    "top_k": ("top_k",),
    "top_p": ("top_p",),
    "repetition_penalty": ("repetition_penalty",),
    "seed": ("seed",),
}
"""Generation flags -> the sampling parameters that they set."""


def check(given: Collection[str], also: Collection[str] = ()) -> None:
    """Raises ValueError for a flag, among those the user set, that has no effect on a server.

    `also`: flags of another command that do.
    """
    if refused := sorted(set(given) - ALLOWED - set(also)):
        raise ValueError(f"--{refused[0]} has no effect with --endpoint: the server has the model")


def connect(
    endpoint: EndpointFlags, model: ModelFlags, template: TemplateFlags, given: Collection[str] = ()
) -> RemoteChat:
    """The server's model as a Chat. Sampling parameters whose flags are not in `given` are left to the server.

    Raises OSError if the server cannot be used, ValueError for a model that it does not serve.
    """
    assert endpoint.endpoint is not None
    thinking = {} if template.enable_thinking is None else {"enable_thinking": template.enable_thinking}
    variables = {**template.chat_template_kwargs, **thinking}
    return connect_to(
        endpoint.endpoint, model.model_id_or_path or "", endpoint.api_key, left_to_server(given), variables
    )


def connect_to(
    url: str,
    model: str,
    api_key: str | None,
    server_defaults: Collection[str] = (),
    template_kwargs: Mapping[str, Any] | None = None,
) -> RemoteChat:
    """The model `model` of a server; empty: the first that it lists. No key: the environment's. Raises OSError if the
    server cannot be used, ValueError for a model that it does not serve."""
    from swift.infer.remote_chat import connect

    try:
        return connect(url, model, api_key or os.environ.get(KEY_VARIABLE, ""), template_kwargs, server_defaults)
    except PermissionError as error:
        raise OSError(f"{error}: set --api_key or {KEY_VARIABLE}") from error


def left_to_server(given: Collection[str]) -> frozenset[str]:
    """The sampling parameters that no flag of the user sets, so that they are not sent."""
    sent = {name for flag in given for name in _SAMPLING.get(flag, ())}
    return frozenset(name for names in _SAMPLING.values() for name in names) - sent
