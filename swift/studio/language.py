"""The texts of the pages in English and Chinese. An English text is the key of its translation in words.zh.toml."""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Code = Literal["en", "zh"]
NAMES: Mapping[Code, str] = {"en": "English", "zh": "中文"}


@dataclass(frozen=True)
class Language:
    code: Code = "en"

    def say(self, text: str, **values: object) -> str:
        """`text`, translated, with `{name}`s replaced by `values`. A text without a translation stays English."""
        found = words().get(text, text) if self.code == "zh" else text
        return found.format(**values) if values else found


@functools.cache
def words() -> Mapping[str, str]:
    """English text -> Chinese text: every `words.zh*.toml` beside this file, a page may have one of its own."""
    found: dict[str, str] = {}
    for file in sorted(Path(__file__).parent.glob("**/words.zh*.toml")):
        found |= tomllib.loads(file.read_text(encoding="utf-8"))
    return found


def preferred(header: str) -> Code:
    """The language of an Accept-Language header: Chinese where it stands before English."""
    for part in header.lower().split(","):
        tag = part.strip().partition(";")[0]
        if tag.startswith("zh"):
            return "zh"
        if tag.startswith("en"):
            return "en"
    return "en"
