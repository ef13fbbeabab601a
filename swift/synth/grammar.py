"""English questions for a function: sentences of its verb, its object and the slots of its parameters. Knows no values.

Slots stand in the object where it names them, and in phrases with prepositions elsewhere. The frames of sentences are
in verbs.toml.
"""

from __future__ import annotations

import random
import re
from collections.abc import Collection, Sequence
from typing import Any

from swift.synth import idioms, objects, pairs, verbs, wording
from swift.synth.catalogue import SLOT
from swift.synth.slots import Slot
from swift.synth.verbs import ARTICLE, CREATES, PREPOSITIONS, SETS, Head, heads, is_plural, lower_first, participle

MOST = 120
"""Questions of a function."""
IDIOMS = 0.5
"""Share of the questions that do not use the words of the description, where there are sentences for its verb."""
REWORDED = 0.25
"""Share of the questions in which a noun of the description is said in another word."""
_OTHER = "|".join(
    sorted({*PREPOSITIONS, "against", "about", "within", "between", "involving", "and", "that", "an?", "the"})
)
_BEFORE = rf"(?:(?!(?:{_OTHER})\b)[A-Za-z]+ ){{0,4}}?"
"""Words between an article and its noun: "a lost or stolen bank card"."""
_NEXT = "|".join(sorted(PREPOSITIONS)) + "|and|or|that|as|is|by"
_AFTER_IDS = frozenset(
    ("status", "state", "details", "history", "report", "summary", "and", "or", "that", "as", "is", "was")
)
"""Words before which an id may stand: "order 12 status"."""
_NEW = re.compile(
    r"(?:an?|the) (?:[a-z]+ )?(?:alarm|timer|reminder|alert|goal|target|deadline|appointment|meeting|event)\b(?! of)"
)
"""Objects that are not there before they are set."""
_VALUES = frozenset(("number", "share", "price", "rating", "duration", "colour"))


class Grammar:
    """The questions of one function. `taken`: verbs that other functions with the same object begin with. `full`:
    questions may say up to five optional slots, and the object stays behind its verb. `words`: what other functions are
    about."""

    def __init__(
        self,
        name: str,
        description: str,
        slots: Sequence[Slot],
        rng: random.Random,
        taken: Collection[str] = (),
        full: bool = False,
        words: Collection[str] = (),
    ) -> None:
        self._full, self._words = full, words
        self._heads, self._rng, self._taken = heads(name, description), rng, taken
        spoken = pairs.without(self.head.object, pairs.pair(slots, self.head.object))
        slots = [_as_in_object(each, spoken) for each in slots]
        self._slots, self._two = slots, pairs.pair(slots, self.head.object)
        self.required = [each for each in slots if each.required]
        self.optional = [each for each in slots if not each.required]

    @property
    def head(self) -> Head:
        return self._heads[0]

    def questions(self, count: int = MOST) -> list[str]:
        """Different questions that say every required slot, and some optional ones in brackets."""
        return self._distinct(count, lambda: self._question(self.required))

    def without(self, slot: Slot, count: int = 6) -> list[str]:
        """Questions that leave a required slot out."""
        return self._distinct(
            count, lambda: self._question([each for each in self.required if each is not slot], few=True)
        )

    def pairs(self, count: int = 8) -> list[str]:
        """Requests for two calls: `{1.city}` and `{2.city}`."""
        return self._distinct(count, self._pair) if self.required else []

    def _distinct(self, count: int, make: Any) -> list[str]:
        made: dict[str, None] = {}
        for _ in range(8 * count):
            text = _tidy(make())
            if text and _balanced(text):
                made.setdefault(text)
            if len(made) == count:
                break
        return list(made)

    def _question(self, required: Sequence[Slot], few: bool = False) -> str:
        rng = self._rng
        head = self._head()
        verb = self._verb(head)
        is_clause = re.match(r"(?:whether|if|how|what|which|who|when|where)\b", head.object)
        is_reworded = not few and not self._full and not is_clause and rng.random() < IDIOMS
        idiom = self._idiom(head, required) if is_reworded else None
        if idiom is None:
            spoken, left = self._object(head, required)
            frame = ""
        else:
            frame = idiom.frame
            says_object = re.search(r"\{[ON]\}", frame)
            spoken, left = self._object(head, idiom.left) if says_object else (head.object, list(idiom.left))
            spoken = idiom.without_said(spoken)
        inline, front, trail = self._placed(left, verb if idiom is None else "do")
        if not self._full and rng.random() < REWORDED:
            spoken = wording.reworded(spoken, self._words, rng)
        if idiom is not None and (inline or front) and "{S}" not in frame:
            return ""
        ends = self._optional(head, inline, few)
        # what begins with a comma would otherwise seem to own the next phrase
        inline.sort(key=lambda text: (self._is_open(text), _is_text(text), text.lstrip("[").startswith((",", " ("))))
        frame = frame or self._frame(head, verb, spoken)
        if any(map(self._is_open, inline)) and not re.search(r"\{S\}[.]?$", frame):
            if idiom is not None:
                return ""
            frame = rng.choice(("{V} {O}{S}", "Please {v} {O}{S}", "Can you {v} {O}{S}", "I want to {v} {O}{S}"))
        text = _filled(frame, verb, spoken, "".join(inline))
        if front:
            text = f"{front}, {lower_first(text)}"
        tail = "".join([*trail, *ends])
        if tail and text[-1:] not in ".?!":
            text += "."
        if rng.random() < 0.1:
            text = f"{rng.choice(verbs.table()['frames']['context'])} {text}"
        return text + tail

    def _idiom(self, head: Head, required: Sequence[Slot]) -> idioms.Idiom | None:
        """A sentence in other words than those of the description, if there is one for these parameters."""
        known = idioms.sentences(head, self._taken)
        for sentence in self._rng.sample(known, min(len(known), 8)):
            if (idiom := idioms.filled(sentence, required, self._rng)) is not None:
                return idiom
        return None

    def _optional(self, head: Head, inline: list[str], few: bool) -> list[str]:
        """Adds phrases of optional slots to those in the sentence, and returns the sentences after it."""
        rng = self._rng
        counts: tuple[int, ...] = (0, 1, 1, 2, 2, 3) if self.required else (0, 1, 1, 1, 2, 2, 3)
        counts = (5,) if self._full else counts
        shown = [] if few else rng.sample(self.optional, min(len(self.optional), rng.choice(counts)))
        ends: list[str] = []
        for each in _compatible(shown):
            options = [*each.phrases] or [""]
            if head.verb in ("move", "reschedule", "postpone", "shift", "delay") and each.kind in (
                "date",
                "time",
                "datetime",
            ):
                options += [f" to {{{each.paths[0]}}}"] * 3
            text = rng.choice(options)
            if each.trailers and rng.random() < 0.12:
                ends.append(f"[{rng.choice(each.trailers)}]")
            elif text:
                inline.append(f"[{text}]")
        return ends

    def _is_open(self, text: str) -> bool:
        """Whether a phrase ends with a sentence that nothing closes: whatever follows would belong to it."""
        found = re.search(r"\{([\w.]+)\}\]?$", text)
        path = found[1] if found else ""
        return any(path in each.paths and each.kind in ("message", "code", "sql", "task") for each in self._slots)

    def _pair(self) -> str:
        rng = self._rng
        head = self._head()
        spoken, left = self._object(head, self.required)
        verb = self._verb(head)
        phrases = [
            rng.choice([text for text in each.phrases if not self._is_open(text)] or each.phrases)
            for each in left
            if each.phrases
        ]
        clause = spoken + "".join(sorted(phrases, key=lambda text: text.startswith(",")))
        varying = [each for each in self.required if each.kind != "bool"]
        if not varying:
            return ""
        start = rng.choice(("{v} ", "please {v} ", "Can you {v} ", "I need to {v} ")).format(v=verb)
        mark = "?" if start.startswith("Can") else rng.choice((".", ""))
        many = any(each.is_array for each in self.required)
        if len(varying) == 1 and len(varying[0].paths) == 1 and not many and rng.random() < 0.7:
            path = varying[0].paths[0]
            both = rng.choice((f"{{1.{path}}} and {{2.{path}}}", f"{{1.{path}}} and also {{2.{path}}}"))
            text = start + clause.replace(f"{{{path}}}", both) + mark
        else:
            one, two = _numbered(clause, "1"), _numbered(clause, "2")
            between = rng.choice(
                (f", then {verb} ", f". Also {verb} ")
                if many
                else (" and ", ", and ", f", then {verb} ", f". Also {verb} ")
            )
            text = start + one + between + two + mark
        return text[:1].upper() + text[1:] if rng.random() < 0.7 else text

    def _head(self) -> Head:
        if len(self._heads) == 1 or self._rng.random() < 0.6:
            return self._heads[0]
        return self._rng.choice(self._heads[1:])

    def _verb(self, head: Head) -> str:
        is_new = head.verb == "set" and _NEW.match(head.object)
        said = ("set up", "create", "add") if is_new else verbs.said_for(head.verb)
        allowed = [verb for verb in said if verb not in self._taken]
        return self._rng.choice([head.verb, *allowed]) if allowed else head.verb

    def _object(self, head: Head, required: Sequence[Slot]) -> tuple[str, list[Slot]]:
        """The object with the slots that it names, and the slots that are left."""
        if (converted := self._converted(required, head)) and self._rng.random() < 0.8:
            return converted
        said = objects.plain(head.object, self._slots, required)
        text, required = pairs.said(said, self._two, required, self._rng)
        left = []
        for each in required:
            merged = self._merged(text, each, head) or self._directed(text, each)
            if merged is None:
                left.append(each)
            else:
                text = merged
        if converted := self._converted(left, head):
            return converted
        for each in left:
            if each.kind == "room" and len(each.paths) == 1:  # "the brightness of a lamp", and the room where it is
                value = f"{{{each.paths[0]}}}"
                said = self._rng.choice(
                    (rf"\1the {value} \2", rf"\1the \2 in the {value}", rf"\1the \2 in the {value}")
                )
                replaced = re.sub(
                    rf"(^|\bof |\bfor ){ARTICLE}([a-z]+)\b(?= (?:{_NEXT})\b|$)(?! of)", said, text, count=1
                )
                if replaced != text and "{" not in text:
                    text, left = replaced, [other for other in left if other is not each]
                    break
        if len(left) == 1 and left[0].merge in ("proper", "room", "id") and left[0].kind != "bool":
            # "the time of a place": the only other noun is the only slot that is left
            loose = rf"\b(of|for|in|at) {ARTICLE}[a-z]+\b(?=$| (?:of|for|in|at|on|to|from|with|by)\b)"
            replaced = re.sub(loose, lambda found: f"{found[1]} {{{left[0].paths[0]}}}", text, count=1)
            if replaced != text:
                text, left = replaced, []
        if len(left) == 1 and left[0].merge == "id" and head.verb not in CREATES and "{" not in text:
            after = "|".join(sorted(PREPOSITIONS | _AFTER_IDS))
            noun = rf"^(?:an?|one|the) ([a-z]+)(?= (?:{after})\b|$)(?! of)"
            text, count = re.subn(noun, rf"\1 {{{left[0].paths[0]}}}", text, count=1)
            left = left if not count else []
        if len(left) > 1:
            text = re.sub(r" (?:from|between) (?:one|two) \w+(?: (?:to|and) (?:another|other))?$", "", text)
        text, left = objects.with_several(text, left)
        for each in left:
            if each.kind == "date" and not each.role:  # "the events of a day"
                said = self._rng.choice(("on", "of", "on", "for"))
                replaced = re.sub(
                    r" (?:of|on|for) (?:a|one|the) (?:day|date)\b", f" {said} {{{each.paths[0]}}}", text, count=1
                )
                if replaced != text:
                    text, left = replaced, [other for other in left if other is not each]
                    break
        if any(each.kind in ("date", "time", "datetime") for each in self._slots):
            text = re.sub(r" to (?:another|a new|a different) \w+(?: or \w+)?$", "", text)
        if found := re.match(r"(?:the )?(.+) of (\{[\w.]+\})$", text):
            people = [f"{{{each.paths[0]}}}" for each in self._slots if each.kind == "person"]
            if found[2] in people and "{" not in found[1] and self._rng.random() < 0.4:
                text = f"{found[2]}'s {found[1]}"
        if any(each.kind == "bool" for each in required):
            text = re.sub(r" on or off\b| on and off\b", "", text)
        return text, left

    def _converted(self, left: Sequence[Slot], head: Head) -> tuple[str, list[Slot]] | None:
        """The object of a conversion: "convert 20 EUR to USD"."""
        amount = next((each for each in left if each.kind in ("price", "number", "quantity")), None)
        units = {each.role: each for each in left if each.kind in ("currency", "unit") and len(each.paths) == 1}
        if head.verb not in ("convert", "change", "exchange") or amount is None or not {"from", "to"} <= units.keys():
            return None
        value, source, target = (f"{{{each.paths[0]}}}" for each in (amount, units["from"], units["to"]))
        rest = [each for each in left if each not in (amount, *units.values())]
        if self._rng.random() < 0.15:
            return f"{value} from {source} to {target}", rest
        return f"{value} {source} {self._rng.choice(('to', 'into', 'to', 'in'))} {target}", rest

    def _merged(self, text: str, slot: Slot, head: Head) -> str | None:
        if not slot.merge or not slot.nouns or len(slot.paths) != 1:
            return None
        is_set = re.search(rf"\b(?:{'|'.join(map(re.escape, slot.nouns))})(?: of\b|$)", text)
        if slot.merge == "enum" and head.verb in SETS and ("{" in text or is_set):
            return None  # "the status of task 7" is set to a value, it is not the open task 7
        value, rng = f"{{{slot.paths[0]}}}", self._rng
        masked = re.sub(r"\{[^}]*\}", lambda found: "\0" * len(found[0]), text)
        # "set the mode of a room" gives the mode a value, and "list the mode of" names none
        loose = slot.kind == "person" or (slot.merge == "enum" and head.verb not in SETS)
        stop = r"\0" if loose else r"of|\0"
        for noun in slot.nouns:
            phrase = re.search(
                rf"(?:\b{ARTICLE})?(?:\b[A-Za-z]+ )??\b({re.escape(noun)})s?\b(?! (?:{stop})|['’])", masked
            )
            if not phrase or "\0" in phrase[0] or re.search(r"['’]s? ?$", masked[: phrase.start()]):
                continue
            with_article = re.search(rf"\b{ARTICLE}({_BEFORE}{re.escape(noun)})s?\b(?! (?:{stop})|['’])", masked)
            found = with_article or re.search(rf"\b({re.escape(noun)})s?\b(?! (?:{stop}))", masked)
            if not found:
                continue
            then = re.match(r" ([a-z]+)", masked[found.end() :])
            is_part = then is not None and then[1] not in PREPOSITIONS | _AFTER_IDS
            if slot.merge == "id" and is_part:
                continue  # "an API key" and the id of an API
            if slot.merge == "proper" and then and is_part and not then[1].endswith("s"):
                continue  # "the food diary" and a food, but "whether a nurse works"
            plain = found[1]
            creates = head.verb in CREATES and found.start() == 0
            if slot.merge == "list":
                word = found[0].split()[-1]
                said = rng.choice((value, f"{word} {value}", f"the {word} {value}"))
            elif slot.merge == "proper":
                said = rng.choice((value, value, value, f"the {plain} {value}"))
            elif slot.merge == "id":
                said = rng.choice(
                    (f"{plain} {value}", f"the {plain} {value}", f"{plain} number {value}", value, f"{plain} {value}")
                )
            elif slot.merge == "room":
                said = rng.choice((f"the {value}", f"the {value}", value))
            elif slot.merge == "enum":
                said = rng.choice((f"the {value}", f"the {value} {plain}", f"{value}", f"the {value}"))
            elif creates:
                said = rng.choice(
                    (
                        f"a {plain} called {value}",
                        f'a {plain} "{value}"',
                        f"the {plain} {value}",
                        f"a {plain} named {value}",
                    )
                )
            else:
                said = rng.choice(
                    (f"the {plain} {value}", f'the {plain} "{value}"', f"{value}", f"the {plain} called {value}")
                )
            # of alternatives, "a fine or a ticket", the one that has a value is meant
            before = re.sub(r"(?:\b(?:an?|the)\s+)?\w+ or $", "", text[: found.start()])
            after = re.sub(r"^ or (?:(?:an?|the)\s+)?\w+", "", text[found.end() :])
            return before + said + after
        return None

    def _directed(self, text: str, slot: Slot) -> str | None:
        """The object with a value that has a direction: "the way to a place" and the place."""
        if len(slot.paths) != 1 or slot.kind == "bool" or slot.is_array:
            return None
        word = {"from": "from", "to": "to|into|onto"}.get(slot.role, "" if slot.role else "to|at|into")
        for noun in slot.nouns if word else ():
            replaced = re.sub(
                rf"\b({word}) {ARTICLE}(?:[a-z]+ )?{re.escape(noun)}\b(?! of| (?!(?:{_NEXT})\b)[a-z])",
                rf"\1 {{{slot.paths[0]}}}",
                text,
                count=1,
            )
            if replaced != text:
                return replaced
        return None

    def _placed(self, left: Sequence[Slot], verb: str) -> tuple[list[str], str, list[str]]:
        """(phrases in the sentence, a phrase in front of it, sentences after it) for required slots."""
        rng = self._rng
        order = list(left)
        goes = any(each.role == "to" for each in self.required)
        settable = (
            []
            if goes
            else [each for each in order if each.kind in _VALUES or (each.merge == "enum" and each.kind != "room")]
        )
        texts = [each for each in order if each.kind in ("message", "code", "sql")]
        order = [each for each in order if each not in texts]
        if rng.random() < 0.35:
            rng.shuffle(order)
        inline, front, trail = [], "", []
        for each in [*order, *texts]:
            options = list(each.phrases)
            if verb.split()[0] in SETS and settable and each is settable[-1] and not each.role and len(each.paths) == 1:
                options = [f" to {{{each.paths[0]}}}"] * 4 + options[:1]
            text = rng.choice(options) if options else ""
            starts = re.match(r" (in|for|on|at|from|by)\b", text)
            if not front and starts and each.kind != "bool" and rng.random() < 0.1:
                front = text.strip()[:1].upper() + text.strip()[1:]
            elif each.trailers and len(order) > 1 and rng.random() < 0.07:
                trail.append(rng.choice(each.trailers))
            else:
                inline.append(text)
        return inline, front, trail

    def _frame(self, head: Head, verb: str, spoken: str) -> str:
        rng, frames = self._rng, verbs.table()["frames"]
        if head.kind != "act" and re.match(r"(?:whether|if|how|what|which|who|when|where)\b", spoken):
            return str(rng.choice(frames["whether"]))
        if head.kind == "ask" and spoken.startswith("{") and spoken.endswith("}") and rng.random() < 0.5:
            return str(
                rng.choice(
                    (
                        "Show me {O}{S}.",
                        "Look up {O}{S}, please.",
                        "{O}{S}?",
                        "What about {O}{S}?",
                        "I need to see {O}{S}.",
                    )
                )
            )
        if head.kind == "ask" and spoken and not spoken.startswith("{") and rng.random() < 0.65:
            return str(rng.choice(frames["ask"]))
        if head.kind == "find" and spoken and rng.random() < 0.4:
            return str(
                rng.choice(
                    [
                        "I'm looking for {O}{S}.",
                        "Where can I find {O}{S}?",
                        "Are there any {N}{S}?" if is_plural(spoken) else "{V} {O}{S}.",
                        "looking for {O}{S}",
                        "{O}{S}?",
                        "I need {O}{S}.",
                        "Help me find {O}{S}.",
                    ]
                )
            )
        if (
            head.kind == "act"
            and spoken
            and " " not in head.verb
            and head.verb == verb
            and _is_plain(spoken)
            and not self._full
            and rng.random() < 0.3
        ):
            return str(rng.choice(frames["want"]))
        if spoken and not (self._full and head.kind == "act") and rng.random() < 0.06:
            return (
                str(rng.choice(frames["bare"]))
                if head.kind != "act" or not _is_plain(spoken)
                else "{O}{S}: {v} {t}, please"
            )
        return str(rng.choice(frames["act"]))


def _as_in_object(slot: Slot, spoken: str) -> Slot:
    """A slot that is also said as the description says it: " with {doctor}" for "a visit with a doctor"."""
    for noun in slot.nouns if len(slot.paths) == 1 and slot.merge != "enum" else ():
        if found := re.search(rf" (to|for|with|from|at|in) {ARTICLE}(?:[a-z]+ )?{re.escape(noun)}\b(?! of)", spoken):
            if slot.role in ("from", "to") and found[1] != slot.role:
                continue
            return slot._replace(phrases=(*slot.phrases, *[f" {found[1]} {{{slot.paths[0]}}}"] * 3))
    return slot


def _is_plain(spoken: str) -> bool:
    """Whether an object is short enough to stand before its verb."""
    if spoken.split()[:1] and spoken.split()[0] in PREPOSITIONS:
        return False
    return not re.search(r"\b(?:back|into|onto|to|for|from|whether|if|how|what|which|when|out|and measure)\b", spoken)


def _is_text(text: str) -> bool:
    return bool(re.match(r"\[?(?:[:;]| saying| with the \w+ \"|, \w+ ['\"])", text))


def _filled(frame: str, verb: str, spoken: str, phrases: str) -> str:
    plural = is_plural(spoken)
    w, i = ("what", "are" if plural else "is")
    parts = {
        "{V}": verb[:1].upper() + verb[1:], "{v}": verb, "{O}": spoken, "{S}": phrases, "{d}": participle(verb),
        "{W}": f"What {i}", "{w}": w, "{i}": i, "{t}": "them" if plural else "it",
        "{N}": re.sub(rf"^{ARTICLE}", "", spoken),
        "{h}": "have" if plural else "has",
        "{B}": re.split(r" (?:of|for|with|to|in|at|on|from|by)\b", spoken)[0],
    }  # fmt: skip
    text = re.sub(r"\{(?:[VvOSdWwihNtB])\}", lambda found: parts[found[0]], frame)
    text = re.sub(r"\b(is|are) (any)\b", r"\1 there \2", text)
    return text


def _compatible(shown: Sequence[Slot]) -> list[Slot]:
    """Slots of which no two say the same parameter."""
    said: set[str] = set()
    kept = []
    for each in shown:
        if not said & set(each.paths):
            kept.append(each)
            said |= set(each.paths)
    return kept


def _numbered(clause: str, number: str) -> str:
    return SLOT.sub(
        lambda found: f"{{{number}.{found[1]}}}" if found[2] is None else f"{{{number}.{found[1]}={found[2]}}}", clause
    )


def _balanced(text: str) -> bool:
    return text.count('"') % 2 == 0 and len(re.sub(r"\{[^}]*\}", "x", text)) > 1


def _tidy(text: str) -> str:
    text = re.sub(r" {2,}", " ", text)
    text = re.sub(r"\b(remind|notify|inform|warn) (of|about)\b", r"\1 me \2", text, flags=re.IGNORECASE)
    text = re.sub(r"\s+([,.?!;:])", r"\1", text)
    text = re.sub(r"\b(to|you|u|let's|and|quickly|also) (show|give) me\b", r"\1 \2", text, flags=re.IGNORECASE)
    text = re.sub(r"\b(show|give) me (.+) for me\b", r"\1 me \2", text, flags=re.IGNORECASE)
    text = re.sub(r"\b([Aa]) (?=[aeio][a-z])(?!one\b|eu)", r"\1n ", text)
    return re.sub(r"([.?!])\.", r"\1", text).strip()
