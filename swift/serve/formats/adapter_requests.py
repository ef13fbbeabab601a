"""The bodies of the routes that load and unload LoRA adapters (vLLM's). Knows no engine."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from swift.serve.formats.request_fields import Name, RequestObject


class LoadRequest(RequestObject):
    """The body of POST /v1/load_lora_adapter (vLLM's)."""

    lora_name: Name
    lora_path: Annotated[str, Field(min_length=1, max_length=4096)]


class UnloadRequest(RequestObject):
    """The body of POST /v1/unload_lora_adapter."""

    lora_name: str
