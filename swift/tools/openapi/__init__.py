"""The operations of an HTTP service as tools, from its OpenAPI document. Knows no model and no dialogue."""

from swift.tools.openapi.source import OpenApi

__all__ = ["OpenApi"]
