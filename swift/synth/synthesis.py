"""Makes conversations by a mixture: which functions, how many, which kinds of rounds, in which form. Writes no file."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from swift.chat import Conversation
from swift.synth import conversations, verify
from swift.synth.catalogue import Chain, Domain, Function
from swift.synth.offers import Masking, Offer, Offers
from swift.synth.rounds import KINDS, Stage, Turn

SHARES: Mapping[str, float] = {
    "one": 0.27,
    "parallel_same": 0.13,
    "parallel_several": 0.13,
    "sequential": 0.05,
    "missing": 0.05,
    "no_tool": 0.22,
    "plain": 0.07,
    "talk": 0.02,
    "error": 0.03,
    "follow_up": 0.05,
}
"""Kind of round -> its share."""

ATTEMPTS = 12
"""Attempts at a round before a conversation has one round fewer."""
OFFERED = ((1, 0.28), (2, 0.2), (4, 0.32), (8, 0.15), (16, 0.05))
"""Most functions in a conversation -> weight. The number is drawn from those above the entry before."""


@dataclass(frozen=True)
class Mixture:
    """What conversations are made of. Shares are from 0 to 1.

    `rounds`: weights of 1, 2, ... rounds. `offered`: (most functions, weight) pairs; the number is drawn from 1 to the
    most, but above that of the pair before. `own`: conversations with the user's functions, the rest is the
    catalogue's. `text`: conversations in ReAct text under a system prompt. `thoughts`: structured ones with thoughts.
    """

    shares: Mapping[str, float] = field(default_factory=lambda: SHARES)
    rounds: tuple[float, ...] = (0.3, 0.2, 0.2, 0.15, 0.15)
    offered: tuple[tuple[int, float], ...] = OFFERED
    chinese: float = 0.12
    text: float = 0.1
    thoughts: float = 0.0
    own: float = 0.6
    masking: Masking = Masking()


@dataclass
class Report:
    """What was made: kinds of rounds, forms, and why conversations were dropped."""

    kinds: Counter[str] = field(default_factory=Counter)
    forms: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    functions: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)


TRIES = 3000
"""Conversations in a row that fail, after which there are no further ones."""
MOST_OWN = 16
"""Most functions of the user in a conversation: as many as `swift infer` offers."""


class Synthesis:
    """A stream of conversations. `own`: the user's functions; `near`: requests that are close to them and that none of
    them does. `plain`: rows of general knowledge. `overlaps` names the benchmark that has a conversation's text or
    functions, or is empty. `leads`: the domains that conversations are about; the others lend functions beside theirs.
    Empty: all.
    """

    def __init__(
        self,
        domains: Sequence[Domain],
        plain: Sequence[Mapping[str, str]],
        mixture: Mixture,
        seed: int,
        own: Sequence[Function] = (),
        near: Sequence[Function] = (),
        overlaps: Callable[[Conversation], str] = lambda conversation: "",
        leads: Sequence[Domain] = (),
    ) -> None:
        self._mixture, self._plain, self._own, self._near, self._overlaps = mixture, plain, own, near, overlaps
        self._rng = random.Random(seed)
        self._everything = [function for domain in domains for function in domain.functions.values()]
        self._home = {id(function): domain for domain in domains for function in domain.functions.values()}
        # a function of the catalogue that is about the same things might be what a tool of the user does
        nouns = {noun for function in own for noun in _nouns(function)}
        self._far = [function for function in self._everything if not nouns & _nouns(function)] if own else []
        leading = [function for domain in leads or domains for function in domain.functions.values()]
        self._leads = self._endless(leading)
        self._seen: set[int] = set()
        self.report = Report()

    def make(self, count: int) -> Iterator[Conversation]:
        """`count` conversations that passed their checks; what did not is counted in the report. Fewer if no further
        ones are found: few functions allow few conversations."""
        made = failed = 0
        while made < count and failed < TRIES:
            conversation = self._conversation()
            failed += 1
            if conversation is not None:
                made, failed = made + 1, 0
                yield conversation

    def _conversation(self) -> Conversation | None:
        rng, mixture = self._rng, self._mixture
        language = "zh" if rng.random() < mixture.chinese else "en"
        wanted = rng.choices(range(1, len(mixture.rounds) + 1), mixture.rounds)[0]
        offered, outside, chain = self._functions()
        language = _possible(language, offered)
        offers = self._offers(offered)
        turns, kinds = self._turns(wanted, language, offered, outside, chain)
        if not turns:
            return None
        text = rng.random() < mixture.text
        thoughts = rng.random() < mixture.thoughts
        conversation = (
            conversations.as_text(turns, offers, rng)
            if text
            else conversations.structured(turns, offers, rng, thoughts)
        )
        report = self.report
        for problem in verify.problems(conversation, turns, offers):
            report.dropped["failed its check"] += 1
            if len(report.examples) < 20:
                report.examples.append(problem)
            return None
        key = hash(tuple(re.sub(r"\d+", "0", turn.question) for turn in turns if turn.steps) or turns[0].question)
        if key in self._seen:
            report.dropped["near-duplicate"] += 1
            return None
        self._seen.add(key)
        if benchmark := self._overlaps(conversation):
            report.dropped[f"overlaps with {benchmark}"] += 1
            return None
        report.kinds.update(kinds)
        report.forms["ReAct text" if text else "structured"] += 1
        report.functions.update(call.function.name for turn in turns for step in turn.steps for call in step)
        return conversation

    def _endless(self, functions: Sequence[Function]) -> Iterator[Function]:
        while True:
            yield from self._rng.sample(functions, len(functions))

    def _functions(self) -> tuple[list[Function], list[Function], Chain | None]:
        """(offered, not offered, chain): one function leads, its chain and its neighbours are preferred."""
        rng, mixture = self._rng, self._mixture
        tops, weights = zip(*mixture.offered, strict=True)
        at = rng.choices(range(len(tops)), weights)[0]
        size = rng.randint(tops[at - 1] + 1 if at else 1, tops[at])
        if self._own and rng.random() < mixture.own:
            size = MOST_OWN if rng.random() < 0.6 else size
            offered = rng.sample(self._own, min(size, len(self._own)))
            others = [each for each in self._own if each not in offered]
            pools = ((others, 4), (self._near, 8), (self._far, 8))
            outside = [each for pool, most in pools for each in rng.sample(pool, min(most, len(pool)))]
            return offered, outside, None
        lead = next(self._leads)
        domain = self._home[id(lead)]
        chain = next((each for each in domain.chains if each.first == lead.name), None)
        chosen = {lead.name: lead}
        if chain and size > 1 and rng.random() < 0.7:
            chosen[chain.then] = domain.functions[chain.then]
        siblings = [each for each in domain.functions.values() if each.name not in chosen]
        near = rng.random() < 0.65
        more = siblings if near else self._everything
        rest = rng.sample(more, min(size, len(more)))
        for each in rest[: size - len(chosen)]:
            chosen.setdefault(each.name, each)
        offered = list(chosen.values())
        rng.shuffle(offered)
        # A neighbour asks for something close that no offered function does; another domain for something far.
        outside = [each for each in siblings if each.name not in chosen] if near and len(offered) > 1 else []
        others = rng.sample(self._everything, min(12, len(self._everything)))
        far = [each for each in others if each.domain != domain.name and each.name not in chosen]
        return offered, [*rng.sample(outside, min(4, len(outside))), *far[: 4 if outside else 8]], chain

    def _offers(self, functions: Sequence[Function]) -> dict[str, Offer]:
        made = Offers(self._mixture.masking, self._rng)
        return {each.name: made.offer(each) for each in functions}

    def _turns(
        self, wanted: int, language: str, offered: list[Function], outside: list[Function], chain: Chain | None
    ) -> tuple[list[Turn], list[str]]:
        rng, shares = self._rng, self._mixture.shares
        turns: list[Turn] = []
        kinds: list[str] = []
        for _ in range(ATTEMPTS * wanted):  # these functions may have no round of a kind
            if len(kinds) == wanted:
                break
            kind = rng.choices(list(shares), list(shares.values()))[0]
            stage = Stage(
                rng, language, rng.choice(offered), offered, outside, chain, self._plain, turns[-1] if turns else None
            )
            if kind == "one" and chain and rng.random() < 0.3:
                kind = "sequential"
            made = list(KINDS[kind](stage))
            if kind == "talk" and not turns and wanted == 1:
                continue
            if made:
                turns += made
                kinds.append(kind)
        return turns, kinds


def _possible(language: str, functions: Sequence[Function]) -> str:
    """The language, or the only one in which all functions have questions."""
    if language == "zh" and not all(function.zh for function in functions) and all(each.given for each in functions):
        language = "en"
    if language == "en" and not any(function.ask for function in functions):
        language = "zh"
    return language


def _nouns(function: Function) -> set[str]:
    """What a function is about: the words of its name but the first, in the singular; a lone word is all there is."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|_", " ", function.name).lower().split()
    return {word.removesuffix("s") for word in words[1:] or words if len(word) > 2}
