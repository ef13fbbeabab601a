"""URLs in messages and records."""

from __future__ import annotations

from urllib.parse import urlsplit, urlunsplit


def without_secrets(text: str) -> str:
    """A URL without user, password, query and fragment, which may be secrets. Any other text as it is."""
    parts = urlsplit(text)
    if not parts.scheme or not parts.netloc:
        return text
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
