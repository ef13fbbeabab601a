"""The LoRA adapters that requests may name, added and removed while others are answered. Knows no queue."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from swift.engine.lora import Lora, read_lora
from swift.engine.prefix_cache import PrefixCache
from swift.engine.runner import Runner
from swift.system.nearest import closest


class Adapter:
    """An adapter as its sequences refer to it. `key`: its name in the runner, '' for the base model."""

    def __init__(self, key: str) -> None:
        self.key = key


BASE = Adapter("")


class Adapters:
    """Names -> adapters of a runner. A removed adapter stays in the runner until no sequence needs it.

    `find` may be called from any thread; the rest changes the runner and belongs between two steps.
    """

    def __init__(self, runner: Runner, prefixes: PrefixCache) -> None:
        self._runner, self._prefixes = runner, prefixes
        self._named: dict[str, Adapter] = {}
        self.removed: list[Adapter] = []
        self._count = 0

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._named)

    def find(self, name: str) -> Adapter:
        """The adapter of that name; '' is the base model. Raises ValueError for an unknown name."""
        if not name:
            return BASE
        if name not in self._named:
            near = closest(name, self._named, 1)
            hint = f": did you mean {near[0]}?" if near else f" ({', '.join(self._named) or 'there is none'})"
            raise ValueError(f"no adapter is named {name!r}{hint}")
        return self._named[name]

    def add(self, name: str, lora: Lora, source: str) -> None:
        """Raises ValueError, which begins with `source`, for an adapter that this model cannot serve."""
        if not name or name in self._named:
            raise ValueError(f"there is an adapter named {name!r}" if name else "an adapter needs a name")
        if reason := self._runner.why_not(lora):
            raise ValueError(f"{source}: {reason}")
        self._count += 1
        adapter = Adapter(f"{name}_{self._count}".replace(".", "_"))  # PEFT makes it a module name: no dots
        self._runner.add_lora(adapter.key, lora)
        self._named = {**self._named, name: adapter}

    def remove(self, name: str) -> None:
        """Sequences that use the adapter are computed to their end; new ones cannot name it."""
        removed = self.find(name)
        self._named = {other: adapter for other, adapter in self._named.items() if other != name}
        self.removed.append(removed)

    def unload(self, in_use: Iterable[object]) -> None:
        """Takes removed adapters that are not `in_use` out of the runner, and their blocks out of the prefix cache."""
        needed = set(in_use)
        for adapter in [each for each in self.removed if each not in needed]:
            self._runner.remove_lora(adapter.key)
            self._prefixes.clear(adapter)
            self.removed.remove(adapter)


def as_lora(source: Lora | Path | str) -> Lora:
    return source if isinstance(source, Lora) else read_lora(source)
