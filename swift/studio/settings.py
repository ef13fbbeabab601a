"""What a page is given. Does nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from swift.studio.folders import Folders
from swift.studio.jobs import Jobs
from swift.studio.language import Language

TITLES = {"train": "Train", "runs": "Runs", "data": "Data", "chat": "Chat", "evaluate": "Evaluate", "serve": "Serve"}
"""Page -> the text of its tab, in the order of the tabs."""


@dataclass(frozen=True)
class Studio:
    """`config`: a verb, such as sft -> the dataclass of its flags, whose module may take a second to import.

    `pages`: those that the server has, in the order of the tabs. `query`: the query of the page's address.
    """

    folders: Folders
    jobs: Jobs
    config: Callable[[str], type[Any]]
    pages: tuple[str, ...]
    language: Language = Language()
    dark: bool | None = None
    query: dict[str, str] = field(default_factory=dict)

    def say(self, text: str, **values: object) -> str:
        """A text of the page in its language; see `Language.say`."""
        return self.language.say(text, **values)
