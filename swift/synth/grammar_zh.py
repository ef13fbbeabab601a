"""Chinese questions for a function that only its Chinese description explains. Knows no values.

idioms_zh.toml has the words, the frames of a description's own verb, and sentences that ask in other words.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from swift.synth import pairs
from swift.synth.catalogue import SLOT
from swift.synth.grammar import MOST
from swift.synth.kinds import label_zh
from swift.synth.properties import Property
from swift.synth.slots import Slot
from swift.system import toml_file

RENAMED = 0.25
"""Share of the questions in other words that have another noun for the object."""
_TO_ASCII = str.maketrans("\uff0c\uff1b\uff1a\uff08\uff09\uff1f\uff01", ",;:()?!")
_TO_WIDE = str.maketrans(",;:?!", "\uff0c\uff1b\uff1a\uff1f\uff01")
_CLASS = re.compile(r"<(\w+)>")
_ROLES = frozenset(("from", "to", "min", "max", "start", "end"))
_LAST = r"状态|进度|进展|情况|详细信息|信息|详情|轨迹|位置|动态|列表|记录|明细|余额|数据"
_SOME_DAY = re.compile("某一?[天日]")
_NUMBER = re.compile(r"(?:编号|号码|号|名称|名|代码|ID|id)$")
_ATTRIBUTE = re.compile(
    rf"(?:的|最新|当前|实时|详细|相关)*(?:物流|配送|处理|办理|审批|维修|运行|开关)?(?:{_LAST})(?:和.*)?$"
)


@cache
def _table() -> Mapping[str, Any]:
    """idioms_zh.toml."""
    return toml_file.read(Path(__file__).with_name("idioms_zh.toml"))


@cache
def known() -> tuple[str, ...]:
    """Verbs that a description may begin with, the longest first."""
    grouped = [verb for group in _table()["group"] for verb in group.get("verbs", ()) if len(verb) > 1]
    return tuple(sorted(dict.fromkeys((*_table()["queries"], *_table()["said"], *grouped)), key=len, reverse=True))


class Grammar:
    """The questions of one function. `others`: the descriptions of the other tools of the set."""

    def __init__(
        self,
        name: str,
        description: str,
        properties: Sequence[Property],
        rng: random.Random,
        others: Sequence[str] = (),
    ) -> None:
        self._rng = rng
        self._others = others
        self._taken = " ".join(others)
        self._verb, self._object = verb_and_object(description, name)
        self.is_query = self._verb in _table()["queries"]
        slots = _labelled([slot for each in properties for slot in _slots(each)])
        self.required = [each for each in slots if each.required]
        self.optional = [each for each in slots if not each.required]
        self._two = pairs.pair(slots)
        self._choices = frozenset(_choices(properties))
        self._deed, self._thing = (self._verb, self._object) if self._verb else _moved(self._object)
        self._idioms = self._sentences()

    def questions(self, count: int = MOST) -> list[str]:
        """Different questions that say every required slot, and some optional ones in brackets: half of them in other
        words, where there are such sentences."""
        made: dict[str, None] = {}
        for _ in range(4 * count if self._idioms else 0):
            made.setdefault(self._idiom())
            if len(made) == count // 2:
                break
        return [*made, *(each for each in self._distinct(count, self.required, True) if each not in made)][:count]

    def without(self, slot: Slot, count: int = 6) -> list[str]:
        """Questions that leave a required slot out."""
        return self._distinct(count, [each for each in self.required if each is not slot], False)

    def _distinct(self, count: int, required: Sequence[Slot], more: bool) -> list[str]:
        made: dict[str, None] = {}
        for _ in range(8 * count):
            made.setdefault(self._question(required, more))
            if len(made) == count:
                break
        return list(made)

    def _question(self, required: Sequence[Slot], more: bool) -> str:
        rng = self._rng
        text, left = self._merged(self._object, required)
        verb = rng.choice(_table()["said"].get(self._verb, (self._verb,)))
        frames: Mapping[str, list[str]] = _table()["frames"]
        is_amount = text.endswith(tuple(_table()["amounts"]))
        asks = frames["amount"] + frames["query"][:4] if is_amount else frames["query"]
        frame = rng.choice(asks if self.is_query and text and rng.random() < 0.4 else frames["order"])
        listed, extra = self._said(left, more)
        parts = {
            "{D}": f"{verb}{text}",
            "{N}": text,
            "{S}": (f",{listed}" if listed else "") + extra,
            "{T}": f"{listed}{extra}。" if listed else extra.replace("[,", "[") + ("。" if extra else ""),
            "{F}": f"{listed}{extra}," if listed else "",
        }
        made = re.sub(r"\{[DNSTF]\}", lambda found: parts[found[0]], frame)
        if "{F}" in frame and not listed:
            made += extra
        if rng.random() < 0.1:
            made = rng.choice(_table()["before"]) + made
        return re.sub(r",,|,。", lambda found: found[0][-1], made)

    def _said(
        self, left: Sequence[Slot], more: bool, phrases_of: Callable[[Slot], Sequence[str]] = lambda each: each.phrases
    ) -> tuple[str, str]:
        """The phrases of required slots, and those of some optional ones in brackets."""
        rng = self._rng
        order = rng.sample(left, len(left)) if rng.random() < 0.4 else list(left)
        phrases = [rng.choice(phrases_of(each)) for each in order if each.phrases]
        shown = rng.sample(self.optional, min(len(self.optional), rng.choice((0, 1, 2)))) if more else []
        return ",".join(phrases), "".join(f"[,{rng.choice(phrases_of(each))}]" for each in shown if each.phrases)

    def _sentences(self) -> list[str]:
        """Sentences of the groups that the verb and the description are of; those of a subject count three times."""
        whole = f"{self._verb}{self._object}"
        has_reason = any(
            each.kind == "reason" or re.search("原因|理由|备注|说明", each.label) for each in self._slots()
        )
        by_subject: list[str] = []
        by_verb: list[str] = []
        alone: list[str] = []
        for group in _table()["group"]:
            is_about = any(each in whole for each in group.get("about", ()))
            if self._deed not in group.get("verbs", (self._deed,)) or ("about" in group and not is_about):
                continue
            is_unclear = any(each in self._taken for each in group.get("unless", ()))
            if is_unclear or (group.get("vague") and self._is_shared()):
                continue
            said = [*group["say"], *(() if has_reason else group.get("because", ()))]
            found = by_subject if is_about else alone if group.get("alone") else by_verb
            found += [each for each in said if self._filled(each)]
        return [*(3 * by_subject or alone), *by_verb]

    def _is_shared(self) -> bool:
        """Whether another tool is asked about the same thing: the state of an order, and its details."""
        base = _base(self._thing)
        asked = [each for each in self._others if verb_and_object(each, "")[0] in _table()["queries"]]
        return any(base in each for each in asked)

    def _slots(self) -> list[Slot]:
        return [*self.required, *self.optional]

    def _filled(self, sentence: str) -> tuple[str, list[Slot]] | None:
        """The sentence with slots for its classes, and the required slots that are left; None if one does not fit."""
        left = list(self.required)
        for name in _CLASS.findall(sentence):
            fitting = [each for each in left if self._fits(each, name)]
            if len(fitting) != 1:
                return None
            left.remove(fitting[0])
            sentence = sentence.replace(f"<{name}>", f"{{{fitting[0].paths[0]}}}")
        named = re.search(r"\{[OB]\}", sentence) is not None
        return None if named and not (self._thing and len(self._thing) <= 14) else (sentence, left)

    def _fits(self, slot: Slot, name: str) -> bool:
        is_choice = slot.paths[0] in self._choices
        if len(slot.paths) != 1 or slot.kind in ("bool", "objects"):
            return False
        if name in _ROLES:
            return slot.role == name
        if name == "choice":
            return is_choice
        if name == "level":
            return not slot.role and (is_choice or slot.kind in ("number", "quantity", "price", "duration", "rating"))
        if name not in _table()["classes"]:
            return name in slot.label
        if is_choice and name in ("text", "words", "task", "query", "count", "people"):
            return False
        return slot.kind in _table()["classes"][name] and (not slot.role or self._is_only(slot))

    def _is_only(self, slot: Slot) -> bool:
        """Whether no other parameter is of its kind."""
        return sum(each.kind == slot.kind for each in self._slots()) == 1

    def _short(self, slot: Slot) -> Sequence[str]:
        """The phrases of a slot in a sentence of few words."""
        table = _table()["phrases"]
        is_move = slot.role in table and slot.kind in ("city", "country", "address", "date", "time", "datetime")
        if slot.kind in ("bool", "object", "objects") or not (is_move or self._is_only(slot)):
            return slot.phrases
        value = f"{{{slot.paths[0]}}}"
        if value in slot.phrases and slot.kind not in table and not is_move:
            return (value, value, *slot.phrases)
        if slot.paths[0] in self._choices:
            return (value, value, f"{slot.label}{value}")
        if slot.kind == "price" and value in slot.phrases:
            return (value,)
        words = {"{p}": value, "{label}": slot.label}
        said = table.get(slot.role if is_move else slot.kind, ())
        return [re.sub(r"\{\w+\}", lambda found: words[found[0]], each) for each in said] or slot.phrases

    def _idiom(self) -> str:
        """A question in words that the description need not have."""
        rng = self._rng
        filled = self._filled(rng.choice(self._idioms))
        assert filled, self._idioms
        sentence, left = filled
        if re.search(r"\{[OB]\}", sentence):
            thing = self._thing
            for each in (each for each in self.required if each not in left):
                thing = re.sub(f"^{_NUMBER.sub('', each.label) or each.label}的", "", thing)
            thing, left = self._merged(thing, left, 0.15)
            base = _base(thing)
            thing, base = self._renamed(thing), self._renamed(base)
            tail = "" if self._verb else self._object.partition(self._deed)[2]
            sentence = sentence.replace("{O}", thing).replace("{B}", base).replace("{V}", f"{self._deed}{tail}")
        listed, extra = self._said(left, True, self._short)
        if listed and rng.random() < 0.4:
            sentence, listed = f"{listed},{sentence}", ""
        if rng.random() < 0.1:
            sentence = rng.choice(_table()["openings"]) + sentence
        after = (f",{listed}" if listed else "") + extra
        if after and sentence.endswith("?"):
            sentence += after.lstrip(",") if listed else after.replace("[,", "[")
        else:
            sentence += after
        if rng.random() < 0.1:
            ending = rng.choice(_table()["endings"])
            sentence += ending.lstrip(",") if sentence.endswith("?") else ending
        return self._typed(sentence)

    def _typed(self, text: str) -> str:
        """The text with the marks that people type: full-width, a stop at its end, spaces, or none."""
        way = self._rng.random()
        if way < 0.15:
            text = re.sub(r"[,。]", " ", text).rstrip("?。 ")
        elif way < 0.45 and text[-1] not in "?。]":
            text += "。"
        return text if self._rng.random() < 0.25 else _outside_slots(text)

    def _renamed(self, text: str) -> str:
        """The object with another noun, in a quarter of the cases: none that another tool has in its description."""
        if self._rng.random() >= RENAMED:
            return text
        for noun, others in sorted(_table()["nouns"].items(), key=lambda each: -len(each[0])):
            allowed = [each for each in others if each not in self._taken and each not in text]
            found = re.search(rf"(?:^|(?<=的|\}})){noun}(?=$|\{{|的|(?:{_LAST})$)", text)
            if found and allowed:
                rest = text[found.end() :]
                word = self._rng.choice(allowed) + ("的" if re.match(_LAST, rest) else "")
                return f"{text[: found.start()]}{word}{rest}"
        return text

    def _merged(self, text: str, required: Sequence[Slot], apart: float = 0.35) -> tuple[str, list[Slot]]:
        """The object with the slots that it names: 订单状态 and 订单号 -> 订单{order_id}的状态. `apart`: share of the
        slots that are said elsewhere."""
        text, required = pairs.said_zh(text, self._two, required, self._rng)
        left: list[Slot] = []
        for each in required:
            if each.kind == "date" and not each.role and _SOME_DAY.search(text):
                text = _SOME_DAY.sub(f"{{{each.paths[0]}}}", text, count=1)
                continue
            noun = _NUMBER.sub("", each.label)
            at = text.find(noun) if len(noun) >= 2 and len(each.paths) == 1 else -1
            is_kept = each.merge not in ("proper", "room") and self._rng.random() < apart
            if at < 0 or "{" in text or is_kept or each.kind == "bool":
                left.append(each)
                continue
            rest = text[at + len(noun) :].removeprefix("的")
            value = f"{{{each.paths[0]}}}"
            said = value if each.merge in ("proper", "room") else f"{noun}{value}"
            text = text[:at] + said + (f"的{rest}" if rest else "")
        return text, left


def _outside_slots(text: str) -> str:
    """The text with full-width marks, but in its slots."""
    parts = re.split(r"(\{[^{}]*\})", text)
    return "".join(part if part.startswith("{") else part.translate(_TO_WIDE) for part in parts)


def verb_and_object(description: str, name: str) -> tuple[str, str]:
    """The verb and the object of a Chinese description: "根据订单号查询订单状态" -> 查询, 订单状态."""
    first = re.split(r"[。;,.\n(]", description.strip().translate(_TO_ASCII))[0].strip()
    first = re.sub(r"^(?:用于|用来|可以|该函数|此工具|这个工具)", "", first)
    first = re.sub(r"并(?:返回|生成|获取|显示|给出|且|支持|可).*$", "", first)
    any_verb = "|".join(known())
    first = re.sub(rf"^(?:根据|按照|通过|使用|按|为|给|向|帮|帮助)[^,]{{1,12}}?(?={any_verb})", "", first)
    verb = next((each for each in known() if first.startswith(each)), "")
    if first.startswith(("把", "将", "从", "在")):
        return "", first
    if not verb:
        return first[:2] if len(first) > 2 else first, first[2:]
    return verb, re.sub("^(?:用户的|指定的|指定|一个|一条|一份|某一?(?:类别|[个类种条])的?)+", "", first[len(verb) :])


def _base(thing: str) -> str:
    """An object without its last attribute: "订单{order_id}的状态" -> "订单{order_id}"."""
    return _ATTRIBUTE.sub("", thing) or re.sub(f"(?:{_LAST})$", "", thing) or thing


def _labelled(slots: Sequence[Slot]) -> list[Slot]:
    """The slots with phrases that have their label, where two are of a kind: two cities, two dates."""
    made = []
    for slot in slots:
        alike = [each for each in slots if each is not slot and each.kind == slot.kind]
        kept = tuple(each for each in slot.phrases if slot.label in SLOT.sub("", each))
        made.append(slot._replace(phrases=kept) if alike and kept and slot.kind != "bool" else slot)
    return made


def _moved(text: str) -> tuple[str, str]:
    """The verb and the object of "将商品加入购物车": 加入, 商品; no object where a verb is not known."""
    found = re.match(rf"[把将](?:指定的?|用户的)?(.{{1,10}}?)({'|'.join(known())})", text)
    return (found[2], found[1]) if found else ("", "")


def _choices(properties: Sequence[Property], before: str = "") -> Iterator[str]:
    """The paths of parameters that are enums."""
    for each in properties:
        if each.parameter.enum:
            yield f"{before}{each.name}"
        yield from _choices(each.inner, f"{before}{each.name}.")


def _slots(each: Property, before: str = "", required: bool = True) -> list[Slot]:
    path = f"{before}{each.name}"
    needed = required and not each.parameter.optional
    if each.inner:
        inner = [slot for part in each.inner for slot in _slots(part, f"{path}.", True)]
        if needed:
            return inner
        must = [slot for slot in inner if slot.required]
        if not must:
            return [slot._replace(required=False) for slot in inner]
        joined = ",".join(slot.phrases[0] for slot in must)
        return [
            Slot(tuple(p for slot in must for p in slot.paths), False, each.label, (joined,), (), (), "", "", "object")
        ]
    return [_slot(each, path, needed)]


def _slot(each: Property, path: str, needed: bool) -> Slot:
    label = label_zh(each.about.translate(_TO_ASCII)) or each.label
    slot = f"{{{path}}}"
    if each.parameter.type == "boolean":
        plain = re.sub(r"^(?:是否|要不要|需不需要)(?:需要|要)?", "", label)
        said: tuple[str, ...] = (
            f"要{plain}{{{path}=true}}",
            f"不要{plain}{{{path}=false}}",
            f"需要{plain}{{{path}=true}}",
        )
        return Slot((path,), needed, plain, said, (), (), "", "", "bool")
    generic: tuple[Any, ...] = ("{label}{p}", "{label}是{p}", "{label}:{p}", "{label}为{p}")
    kinds = () if each.parameter.enum or each.kind.unit else each.kind.phrases_zh
    number = each.parameter.type in ("integer", "number") and not each.kind.unit
    phrases = [*(("{label}{p}", "{label}是{p}") if number and each.kind.name != "quantity" else kinds), *generic]
    if each.kind.unit or each.parameter.enum:
        phrases.append("{p}")
    made = tuple(dict.fromkeys(text.replace("{label}", label).replace("{p}", slot) for text in phrases))
    of = each.parameter.of
    has_objects = isinstance(of, list) and bool(of) and isinstance(of[0], list) and isinstance(of[0][1], dict)
    kind = "objects" if has_objects else each.kind.name
    return Slot((path,), needed, label, made, (), (label,), each.kind.merge, each.kind.role, kind)
