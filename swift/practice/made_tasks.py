"""Tasks from the catalogue of invented functions: each reply of a made conversation, with its right calls."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice

from swift.chat import Conversation
from swift.practice.tasks import NEXT_CALL, NO_CALL, ONE_CALL, SAME, SEVERAL, Check, Cluster, Task
from swift.synth.catalogue import Domain
from swift.synth.synthesis import SHARES, Mixture, Synthesis

ROUNDS: Mapping[str, tuple[str, ...]] = {
    ONE_CALL: ("one", "follow_up", "missing"),
    SAME: ("parallel_same",),
    SEVERAL: ("parallel_several",),
    NEXT_CALL: ("sequential",),
    NO_CALL: ("no_tool", "missing", "plain", "talk"),
}
"""Kind of task -> the kinds of rounds that have such replies."""
OFTEN = 8
"""How much more often a wanted kind of round is made."""
TRIES = 12
"""Conversations that are made for a task of a wanted kind, before any other kind is taken."""


class MadeTasks:
    """An endless supply of tasks about `leads`; the other `domains` lend functions. `seen`: contents that are not made
    again. Ids begin with `prefix`. `overlaps`: as in Synthesis."""

    def __init__(
        self,
        domains: Sequence[Domain],
        plain: Sequence[Mapping[str, str]],
        seed: int,
        prefix: str = "",
        seen: Collection[str] = (),
        leads: Sequence[Domain] = (),
        overlaps: Callable[[Conversation], str] = lambda conversation: "",
    ) -> None:
        self._domains = {domain.name: domain for domain in leads or domains}
        self._all, self._plain, self._prefix, self._overlaps = domains, plain, prefix, overlaps
        self._rng = random.Random(seed)
        self._seen = set(seen)
        self._streams: dict[Cluster, Iterator[Conversation]] = {}
        self._number = 0

    def draw(self, wanted: Sequence[Cluster | None]) -> list[Task]:
        """A task for each cluster; None: of any."""
        return [self._task(cluster) for cluster in wanted]

    def _task(self, cluster: Cluster | None) -> Task:
        kind, domain = cluster or Cluster("", self._rng.choice(sorted(self._domains)))
        if domain not in self._domains:
            domain = self._rng.choice(sorted(self._domains))
        stream = self._stream(Cluster(kind, domain))
        for tried, conversation in enumerate(islice(stream, 10 * TRIES)):
            found = [replace(task, domain=domain) for task in tasks_of(conversation)]
            fitting = [task for task in found if not kind or task.cluster.kind == kind]
            choice = fitting or (found if tried >= TRIES else [])
            new = [task for task in choice if task.content not in self._seen]
            if new:
                task = self._rng.choice(new)
                self._seen.add(task.content)
                self._number += 1
                return replace(task, id=f"{self._prefix}{domain}-{self._number}")
        raise ValueError(f"the catalogue's domain {domain} has no further tasks")

    def _stream(self, cluster: Cluster) -> Iterator[Conversation]:
        if cluster not in self._streams:
            often = ROUNDS.get(cluster.kind, ())
            shares = {name: share * (OFTEN if name in often else 1) for name, share in SHARES.items()}
            mixture = Mixture(shares, text=0.0)
            leads = (self._domains[cluster.domain],)
            made = Synthesis(
                self._all, self._plain, mixture, self._rng.getrandbits(32), overlaps=self._overlaps, leads=leads
            )
            self._streams[cluster] = made.make(1 << 62)
        return self._streams[cluster]


def tasks_of(conversation: Conversation) -> Iterator[Task]:
    """A task for each reply whose calls are known to be right or wrong: replies to the user, and calls after results.

    An answer after a result is none, since nothing checks its text; nor is a call that is tried again after an error.
    """
    calls: Sequence[object] = ()
    for number, message in enumerate(conversation.messages):
        if message.role != "assistant":
            continue
        before = conversation.messages[:number]
        answers = before[-1].role == "tool" and not message.tool_calls
        repeats = before[-1].role == "tool" and message.tool_calls == calls
        calls = message.tool_calls
        if not answers and not repeats:
            history = tuple(replace(each, weight=0.0) if each.role == "assistant" else each for each in before)
            reply = "" if message.tool_calls else message.content
            yield Task("", history, Check(message.tool_calls), conversation.tools, reply=reply)
