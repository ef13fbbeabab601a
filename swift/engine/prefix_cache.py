"""Keys and values of earlier prompts and replies, reused by sequences that begin alike. Knows no model."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence

from swift.engine.runner import KVBlock

BLOCK_SIZE = 32
"""Positions of one block: the unit that is stored, matched and evicted."""

Tokens = tuple[int, ...]


class _Node:
    """A block of the tree. Its keys and values depend on the tokens of all its ancestors."""

    def __init__(self, parent: _Node | None, tokens: Tokens, block: KVBlock) -> None:
        self.parent, self.tokens, self.block = parent, tokens, block
        self.children: dict[Tokens, _Node] = {}
        self.bytes = sum(tensor.nbytes for tensor in block.tensors)


class PrefixCache:
    """A tree of blocks of up to `limit` bytes in total; the least recently used blocks are evicted first.

    `root`: what computes the tokens. The base model and every adapter have a tree of their own.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._roots: dict[object, _Node] = {}
        self._recent: OrderedDict[_Node, None] = OrderedDict()  # least recent first; a node comes after its children
        self.bytes = 0

    def match(self, root: object, tokens: Sequence[int]) -> list[KVBlock]:
        """The longest stored prefix of `tokens`, as blocks."""
        found = list(self._walk(root, tokens))
        self._touch(found)
        return [node.block for node in found]

    def insert(self, root: object, tokens: Sequence[int], read: Callable[[int, int], KVBlock]) -> None:
        """Stores the full blocks of `tokens`. `read(start, end)` copies those that are not stored yet."""
        found = list(self._walk(root, tokens))
        node = found[-1] if found else self._roots.setdefault(root, _Node(None, (), KVBlock(0, [])))
        for start in range(len(found) * BLOCK_SIZE, len(tokens) - BLOCK_SIZE + 1, BLOCK_SIZE):
            child = _Node(node, tuple(tokens[start : start + BLOCK_SIZE]), read(start, start + BLOCK_SIZE))
            if self.bytes + child.bytes > self._limit:
                self._touch(found)
                self._evict(child.bytes, spare=set(found))
                if self.bytes + child.bytes > self._limit:
                    return
            node.children[child.tokens] = child
            self._recent[child] = None
            self.bytes += child.bytes
            found.append(child)
            node = child
        self._touch(found)

    def clear(self, root: object) -> None:
        """Drops the whole tree of `root`."""
        if top := self._roots.pop(root, None):
            gone = [top]
            for node in gone:
                gone += node.children.values()
            for node in gone[1:]:
                del self._recent[node]
                self.bytes -= node.bytes

    def _walk(self, root: object, tokens: Sequence[int]) -> Iterator[_Node]:
        node = self._roots.get(root)
        for start in range(0, len(tokens) - BLOCK_SIZE + 1, BLOCK_SIZE):
            node = node and node.children.get(tuple(tokens[start : start + BLOCK_SIZE]))
            if node is None:
                return
            yield node

    def _touch(self, nodes: Sequence[_Node]) -> None:
        for node in reversed(nodes):  # parents become more recent than their children, so leaves are evicted first
            self._recent.move_to_end(node)

    def _evict(self, needed: int, spare: set[_Node]) -> None:
        """Evicts until `needed` bytes are free, sparing some nodes."""
        for node in list(self._recent):
            if self.bytes + needed <= self._limit:
                return
            if node not in spare:
                assert node.parent is not None and not node.children, "children are evicted first"
                del node.parent.children[node.tokens], self._recent[node]
                self.bytes -= node.bytes
