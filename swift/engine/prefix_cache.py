"""Keys and values of prompts and replies seen before, so that what repeats is not computed again. Knows no model."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence

from swift.engine.runner import Kept

BLOCK = 32
"""Positions that are kept, found and dropped together."""

Tokens = tuple[int, ...]


class _Block:
    """The block of `tokens` behind `before`: what it holds depends on every token up to there."""

    def __init__(self, before: _Block | None, tokens: Tokens, kept: Kept) -> None:
        self.before, self.tokens, self.kept = before, tokens, kept
        self.after: dict[Tokens, _Block] = {}
        self.bytes = sum(tensor.nbytes for tensor in kept.tensors)


class Prefixes:
    """A tree of blocks, up to `limit` bytes: what was not used for longest goes first.

    Each model that tokens can be run through, the base one and every adapter, has a `root` of its own.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._roots: dict[object, _Block] = {}
        self._recent: OrderedDict[_Block, None] = OrderedDict()  # a block always stands behind those that follow it
        self.bytes = 0

    def find(self, root: object, tokens: Sequence[int]) -> list[Kept]:
        """The blocks that `tokens` begin with."""
        found = list(self._walk(root, tokens))
        self._touch(found)
        return [block.kept for block in found]

    def keep(self, root: object, tokens: Sequence[int], read: Callable[[int, int], Kept]) -> None:
        """Takes in the whole blocks of `tokens`. `read(start, end)` copies those that are not there yet."""
        found = list(self._walk(root, tokens))
        block = found[-1] if found else self._roots.setdefault(root, _Block(None, (), Kept(0, [])))
        for start in range(len(found) * BLOCK, len(tokens) - BLOCK + 1, BLOCK):
            following = _Block(block, tuple(tokens[start : start + BLOCK]), read(start, start + BLOCK))
            if self.bytes + following.bytes > self._limit:
                self._touch(found)
                self._drop(following.bytes, spare=set(found))
                if self.bytes + following.bytes > self._limit:
                    return
            block.after[following.tokens] = following
            self._recent[following] = None
            self.bytes += following.bytes
            found.append(following)
            block = following
        self._touch(found)

    def forget(self, root: object) -> None:
        """Drops all that a root has, when its model is gone."""
        if top := self._roots.pop(root, None):
            gone = [top]
            for block in gone:
                gone += block.after.values()
            for block in gone[1:]:
                del self._recent[block]
                self.bytes -= block.bytes

    def _walk(self, root: object, tokens: Sequence[int]) -> Iterator[_Block]:
        block = self._roots.get(root)
        for start in range(0, len(tokens) - BLOCK + 1, BLOCK):
            block = block and block.after.get(tuple(tokens[start : start + BLOCK]))
            if block is None:
                return
            yield block

    def _touch(self, blocks: Sequence[_Block]) -> None:
        for block in reversed(blocks):  # the first last: nothing is dropped before what follows it
            self._recent.move_to_end(block)

    def _drop(self, room: int, spare: set[_Block]) -> None:
        for block in list(self._recent):
            if self.bytes + room <= self._limit:
                return
            if block not in spare:
                assert block.before is not None and not block.after, "what follows is dropped first"
                del block.before.after[block.tokens], self._recent[block]
                self.bytes -= block.bytes
