"""Installed packages against those that this program requires, alone and with its extras. Imports none of them."""

from __future__ import annotations

import re
from importlib import metadata
from typing import NamedTuple

PROGRAM = "swift-agents"
DEVELOPMENT = ("llm", "dev", "test-clients")
"""Extras that change nothing a user can do."""


class Missing(NamedTuple):
    """`name`: the package. `found`: its version, which is not the right one; empty if it is not installed."""

    name: str
    found: str
    wanted: str

    def __str__(self) -> str:
        return f"{self.name} {self.found} (must be {self.wanted})" if self.found else self.name


def installed(package: str) -> str:
    """The version of a package; empty if it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def extras() -> dict[str, list[Missing]]:
    """What each extra lacks; empty where this program runs without being installed."""
    try:
        names = metadata.metadata(PROGRAM).get_all("Provides-Extra") or []
    except metadata.PackageNotFoundError:
        return {}
    return {name: missing(name) for name in names if name not in DEVELOPMENT}


def missing(extra: str = "") -> list[Missing]:
    """The required packages that are not installed, or in a wrong version; `extra`: those of the extra alone."""
    try:
        lines = metadata.requires(PROGRAM) or []
    except metadata.PackageNotFoundError:
        return []
    try:
        from packaging.requirements import Requirement
    except ImportError:  # it comes with the required packages; without it only names are compared
        names = [re.match(r"[\w.-]+", line) for line in lines if ";" not in line and not extra]
        return [Missing(name[0], "", "") for name in names if name and not installed(name[0])]
    lacking = []
    for wanted in map(Requirement, lines):
        base = wanted.marker is None or wanted.marker.evaluate({"extra": ""})
        if not (wanted.marker and wanted.marker.evaluate({"extra": extra}) and not base if extra else base):
            continue
        found = installed(wanted.name)
        if not found or not wanted.specifier.contains(found, prereleases=True):
            lacking.append(Missing(wanted.name, found, str(wanted.specifier)))
    return lacking
