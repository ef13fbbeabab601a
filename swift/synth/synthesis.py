"""Makes conversations by a mixture: which functions, how many, which kinds of rounds, in which form. Writes no file."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

from swift.chat import Conversation
from swift.synth import beyond, conversations, verify
from swift.synth.catalogue import Chain, Domain, Function
from swift.synth.direct import Direct
from swift.synth.offers import Masking, Offer, Offers
from swift.synth.rounds import KINDS, Stage, Turn

SHARES: Mapping[str, float] = {
    "one": 0.24,
    "parallel_same": 0.14,
    "parallel_several": 0.15,
    "sequential": 0.045,
    "missing": 0.06,
    "no_tool": 0.19,
    "plain": 0.075,
    "talk": 0.02,
    "error": 0.04,
    "follow_up": 0.065,
}
"""Kind of round -> its share."""

OF_SEVERAL = frozenset(("parallel_several", "sequential"))
"""Kinds of rounds that need more than one function."""

DIRECT = frozenset(("one", "parallel_same", "parallel_several", "missing", "no_tool", "error"))
"""Kinds of rounds that may have direct questions; others go on from what was said or have questions of their own."""
ATTEMPTS = 12
"""Attempts at a round before another kind takes its place, and at that."""
OFFERED = ((1, 0.4), (2, 0.16), (4, 0.24), (8, 0.13), (16, 0.07))
"""Most functions in a conversation -> weight. The number is drawn from those above the entry before."""
ONE_ROUND, MOST_ROUNDS = 0.5, 5
"""Share of conversations with one round, and the most rounds of the others."""


def rounds(one_round: float = ONE_ROUND, most: int = MOST_ROUNDS) -> tuple[float, ...]:
    """Weights of 1, 2, ... rounds: a share of conversations with one round, and as many with each further number."""
    return (one_round, *[(1 - one_round) / (most - 1)] * (most - 1)) if most > 1 else (1.0,)


@dataclass(frozen=True)
class Mixture:
    """What conversations are made of. Shares are from 0 to 1.

    `rounds`: weights of 1, 2, ... rounds. `offered`: (most functions, weight) pairs; the number is drawn from 1 to the
    most, but above that of the pair before. `own`: conversations with the user's functions, the rest is the
    catalogue's. `direct`: rounds of the catalogue's functions, of the kinds that have such, whose questions say every
    value in full (`swift.synth.direct`). `same_tools`: conversations in a row with the same offers. `text`: those in
    ReAct text under a system prompt. `thoughts`: structured ones with thoughts.
    """

    shares: Mapping[str, float] = field(default_factory=lambda: SHARES)
    rounds: tuple[float, ...] = rounds()
    offered: tuple[tuple[int, float], ...] = OFFERED
    chinese: float = 0.12
    text: float = 0.1
    thoughts: float = 0.0
    own: float = 0.6
    direct: float = 0.35
    same_tools: int = 1
    masking: Masking = Masking()


@dataclass
class Report:
    """What was made: kinds of rounds, forms, rounds with direct questions by their style, and why conversations were
    dropped."""

    kinds: Counter[str] = field(default_factory=Counter)
    forms: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    functions: Counter[str] = field(default_factory=Counter)
    direct: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)


class Draft(NamedTuple):
    """A conversation and what it was made of. `offers`: by the names of the catalogue."""

    conversation: Conversation
    turns: Sequence[Turn]
    offers: Mapping[str, Offer]


class _Scene(NamedTuple):
    """What conversations with the same tools have in common. `outside`: functions that are not offered."""

    language: str
    offered: Sequence[Function]
    outside: Sequence[Function]
    chain: Chain | None
    offers: Mapping[str, Offer]


TRIES = 3000
"""Conversations in a row that fail, after which there are no further ones."""
ALL_OWN = 0.92
"""Share of conversations about the user's functions that offer them all, as they will be offered. Training computes
such a prompt once for all rows of a step."""
OWN_ORDER = 0.75
"""Share of the others that offer some of them in their own order."""
MOST_OWN = 16
"""Most functions of the user in a conversation: as many as `swift infer` offers."""


class Synthesis:
    """A stream of conversations. `own`: the user's functions, in the order in which they will be offered; those without
    questions are offered only. `near`: requests that are close to them and that none of them does. `plain`: rows of
    general knowledge. `overlaps` names the benchmark that has a conversation's text or functions, or is empty. `leads`:
    the domains that conversations are about; the others lend functions beside theirs. Empty: all.
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
        self._mixture, self._plain, self._near, self.overlaps = mixture, plain, near, overlaps
        self._all_own = own
        self._own = [function for function in own if function.ask or function.zh]
        self._rng = random.Random(seed)
        self._everything = [function for domain in domains for function in domain.functions.values()]
        self._home = {id(function): domain for domain in domains for function in domain.functions.values()}
        # a function of the catalogue that is about the same things might be what a tool of the user does
        nouns = {noun for function in own for noun in _nouns(function)}
        self._far = [function for function in self._everything if not nouns & _nouns(function)] if own else []
        leading = [function for domain in leads or domains for function in domain.functions.values()]
        firsts = {
            id(self._home[id(each)].functions[chain.first]) for each in leading for chain in self._home[id(each)].chains
        }
        self._leads = self._endless(leading)
        self._first_of_chain = self._endless([each for each in leading if id(each) in firsts] or leading)
        self._direct = Direct(seed)
        self._seen: set[int] = set()
        self.report = Report()

    def make(self, count: int) -> Iterator[Conversation]:
        """`count` conversations that passed their checks; what did not is counted in the report. Fewer if no further
        ones are found: few functions allow few conversations."""
        return (draft.conversation for draft in self.drafts(count))

    def drafts(self, count: int) -> Iterator[Draft]:
        """The conversations of `make`, with what they are made of."""
        made = failed = 0
        while made < count and failed < TRIES:
            failed += 1
            for draft in islice(self._with_same_tools(), count - made):
                made, failed = made + 1, 0
                yield draft

    def _with_same_tools(self) -> Iterator[Draft]:
        """The next conversations, which offer the same functions in the same way; those that fail are left out."""
        rng, mixture = self._rng, self._mixture
        language = "zh" if rng.random() < mixture.chinese else "en"
        is_own = bool(self._own) and rng.random() < mixture.own
        size = self._size(is_own)
        plan = self._plan(size, is_own)
        if "sequential" in plan and mixture.chinese < 1:
            language = "en"
        offered, outside, chain = self._functions(size, plan, is_own)
        shown = self._beside(offered) if is_own else offered
        scene = _Scene(_possible(language, offered), offered, outside, chain, self._offers(shown))
        for number in range(mixture.same_tools):
            draft = self._draft(scene, self._plan(size, is_own) if number else plan)
            if draft is not None:
                yield draft

    def _draft(self, scene: _Scene, plan: Sequence[str]) -> Draft | None:
        rng, mixture, offers = self._rng, self._mixture, scene.offers
        turns, kinds, styles = self._turns(scene, plan)
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
        if benchmark := self.overlaps(conversation):
            report.dropped[f"overlaps with {benchmark}"] += 1
            return None
        report.kinds.update(kinds)
        report.direct.update(styles)
        report.forms["ReAct text" if text else "structured"] += 1
        report.functions.update(call.function.name for turn in turns for step in turn.steps for call in step)
        return Draft(conversation, turns, offers)

    def _endless(self, functions: Sequence[Function]) -> Iterator[Function]:
        while True:
            yield from self._rng.sample(functions, len(functions))

    def _size(self, is_own: bool) -> int:
        """How many functions are offered."""
        rng, offered = self._rng, self._mixture.offered
        at = rng.choices(range(len(offered)), [weight for _, weight in offered])[0]
        size = rng.randint(offered[at - 1][0] + 1 if at else 1, offered[at][0])
        if is_own:
            size = min(MOST_OWN if rng.random() < ALL_OWN else size, len(self._own))
        elif size == 1 and not _only_alone(self._mixture.shares):
            size = min(2, offered[-1][0])
        return size

    def _plan(self, size: int, is_own: bool) -> list[str]:
        """The kinds of a conversation's rounds. Kinds of several functions are as much more frequent where several are
        offered as they lack where one is. A follow-up comes after a round with one call."""
        rng, mixture = self._rng, self._mixture
        shares = mixture.shares
        alone = _only_alone(shares)
        if size == 1 and alone:
            shares = alone
        elif not is_own and size > 1:
            shares = _beside(shares, sum(weight for most, weight in mixture.offered if most == 1))
        wanted = rng.choices(range(1, len(mixture.rounds) + 1), mixture.rounds)[0]
        plan: list[str] = []
        for _ in range(ATTEMPTS * wanted):
            if len(plan) == wanted:
                break
            kind = rng.choices(list(shares), list(shares.values()))[0]
            if kind == "talk" and wanted == 1:
                continue
            if kind == "follow_up" and plan[-1:] != ["one"]:
                if len(plan) + 2 > wanted or not shares.get("one"):
                    continue
                plan.append("one")
            plan.append(kind)
        return plan

    def _functions(
        self, size: int, plan: Sequence[str], is_own: bool
    ) -> tuple[list[Function], list[Function], Chain | None]:
        """(offered, not offered, chain): one function leads, its chain and its neighbours are preferred."""
        rng = self._rng
        if is_own:
            offered = rng.sample(self._own, size)
            if size == len(self._own) or rng.random() < OWN_ORDER:
                offered.sort(key=self._own.index)
            others = [each for each in self._own if each not in offered]
            pools = ((others, 4), (self._near, 8), (self._far, 8))
            outside = [each for pool, most in pools for each in rng.sample(pool, min(most, len(pool)))]
            return offered, outside, None
        lead = next(self._first_of_chain if "sequential" in plan else self._leads)
        domain = self._home[id(lead)]
        chain = next((each for each in domain.chains if each.first == lead.name), None)
        chosen = {lead.name: lead}
        if chain and size > 1 and ("sequential" in plan or rng.random() < 0.5):
            chosen[chain.then] = domain.functions[chain.then]
        siblings = [each for each in domain.functions.values() if each.name not in chosen]
        rng.shuffle(siblings)
        near = rng.random() < 0.75
        if near and rng.random() < 0.5:  # the functions that are easiest to mistake for the one that is meant
            siblings.sort(key=lambda each: -beyond.in_common(lead, each))
        rest = siblings if near else rng.sample(self._everything, min(size, len(self._everything)))
        for each in rest[: size - len(chosen)]:
            chosen.setdefault(each.name, each)
        offered = list(chosen.values())
        rng.shuffle(offered)
        # A neighbour asks for something close that no offered function does; another domain for something far.
        close = [each for each in siblings if each.name not in chosen]
        rng.shuffle(close)
        far = [
            each for each in rng.sample(self._everything, min(8, len(self._everything))) if each.domain != domain.name
        ]
        return offered, [*_unlike(close, offered, 3), *_unlike(far, offered, 3)], chain

    def _beside(self, offered: Sequence[Function]) -> Sequence[Function]:
        """The user's functions that a conversation offers: all of them, if it asks for any that can be asked for."""
        if len(offered) < len(self._own) or len(self._all_own) > MOST_OWN:
            return offered
        return self._all_own

    def _offers(self, functions: Sequence[Function]) -> dict[str, Offer]:
        made = Offers(self._mixture.masking, self._rng)
        return {each.name: made.offer(each) for each in functions}

    def _turns(self, scene: _Scene, plan: Sequence[str]) -> tuple[list[Turn], list[str], list[str]]:
        """The rounds of a plan, their kinds, and the styles of direct questions. Where these functions have no round of
        a kind, another kind takes its place."""
        rng, shares = self._rng, self._mixture.shares
        turns: list[Turn] = []
        kinds: list[str] = []
        styles: list[str] = []
        for planned in plan:
            for attempt in range(2 * ATTEMPTS):
                kind = planned if attempt < ATTEMPTS else rng.choices(list(shares), list(shares.values()))[0]
                before = turns[-1] if turns else None
                lead = rng.choice(scene.offered)
                stage = Stage(rng, scene.language, lead, scene.offered, scene.outside, scene.chain, self._plain, before)
                if kind == "talk" and len(plan) == 1:
                    continue
                style = ""
                if kind in DIRECT and scene.language == "en" and rng.random() < self._mixture.direct:
                    stage, style = self._direct.stage(stage, kind)
                if made := list(KINDS[kind](stage)):
                    turns += made
                    kinds.append(kind)
                    styles += [style] if style else []
                    break
        return turns, kinds, styles


def _only_alone(shares: Mapping[str, float]) -> Mapping[str, float]:
    """The shares of the kinds of rounds that one function is enough for. Empty if they are all 0."""
    found = {kind: share for kind, share in shares.items() if kind not in OF_SEVERAL}
    return found if any(found.values()) else {}


def _beside(shares: Mapping[str, float], one: float) -> Mapping[str, float]:
    """Shares where several functions are offered, so that all are as wanted if a share `one` has one function only."""
    total, alone = sum(shares.values()), sum(_only_alone(shares).values())
    if not alone:
        return shares
    # alone / total of all rounds need no second function, and `one` of all are made where there is none
    left = max(0.05, 1 - one * total / alone)
    return {kind: share * (1 if kind in OF_SEVERAL else left) for kind, share in shares.items()}


def _unlike(functions: Sequence[Function], offered: Sequence[Function], most: int) -> list[Function]:
    """Up to `most` of the functions, which none of the offered ones could stand for."""
    found = (each for each in functions if not any(beyond.alike(each, other) for other in offered))
    return list(islice(found, most))


def _possible(language: str, functions: Sequence[Function]) -> str:
    """The language, or the only one in which all functions have questions."""
    has_zh = [bool(function.zh) for function in functions]
    if language == "zh" and not all(has_zh) and (not any(has_zh) or all(each.given for each in functions)):
        language = "en"
    if language == "en" and not any(function.ask for function in functions):
        language = "zh"
    return language


def _nouns(function: Function) -> set[str]:
    """What a function is about: the words of its name but the first, in the singular; a lone word is all there is."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|_", " ", function.name).lower().split()
    return {word.removesuffix("s") for word in words[1:] or words if len(word) > 2}
