"""The named folders that the pages may read and write. Every path of a user goes through `inside`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from swift.system.nearest import nearest_path

LEFT_OUT = (".", "node_modules", "checkpoint-")


@dataclass(frozen=True)
class Folders:
    """`named`: name -> absolute folder with links resolved. The first one is where relative paths begin."""

    named: Mapping[str, Path]

    @staticmethod
    def of(*folders: Path) -> Folders:
        """Folders under their own names; two of one name get their whole paths. Raises ValueError for a missing one."""
        whole = [folder.expanduser().resolve() for folder in folders]
        if missing := next((folder for folder in whole if not folder.is_dir()), None):
            raise ValueError(f"there is no folder {missing}{nearest_path(missing)}")
        names = [folder.name or str(folder) for folder in whole]
        unique = [str(folder) if names.count(name) > 1 else name for folder, name in zip(whole, names, strict=True)]
        return Folders(dict(zip(unique, whole, strict=True)))

    @property
    def first(self) -> Path:
        return next(iter(self.named.values()))

    def inside(self, path: str | Path) -> Path:
        """The file or folder that a user's path means, which need not exist. Links are followed before the check.

        Raises ValueError, a line, for a path that leads out of all folders.
        """
        text = str(path)
        if not text or "\0" in text:
            raise ValueError(f"{text!r} is not a path")
        given = Path(text)
        try:
            resolved = (given if given.is_absolute() else self.first / given).resolve()
        except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle, before Python 3.13
            raise ValueError(f"{text}: {error}") from None
        if not any(resolved.is_relative_to(folder) for folder in self.named.values()):
            known = ", ".join(map(str, self.named.values()))
            raise ValueError(f"{text} is outside the folders of the studio ({known}); --folders names others")
        return resolved

    def contains(self, path: Path) -> bool:
        """Whether a path, with links followed, is inside."""
        try:
            self.inside(path)
        except ValueError:
            return False
        return True

    def below(self, deepest: int) -> Iterator[tuple[Path, list[str]]]:
        """Each folder down to a depth with the names of its files, in order.

        Links are not followed; hidden folders, packages and checkpoints are left out.
        """
        for top in self.named.values():
            for path, below, names in os.walk(top):
                folder = Path(path)
                deep = len(folder.relative_to(top).parts) >= deepest
                below[:] = [] if deep else sorted(name for name in below if not name.startswith(LEFT_OUT))
                yield folder, sorted(names)

    def short(self, path: str | Path) -> str:
        """A path as it is shown: relative to the first folder where it is inside, else absolute."""
        given = Path(path)
        return str(given.relative_to(self.first)) if given.is_relative_to(self.first) else str(given)
