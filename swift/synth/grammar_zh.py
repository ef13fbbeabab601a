"""Chinese questions for a function that only its Chinese description explains. Knows no values."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import Any

from swift.synth.grammar import MOST
from swift.synth.kinds import label_zh
from swift.synth.properties import Property
from swift.synth.slots import Slot

QUERIES = ("查询", "查看", "查找", "搜索", "获取", "列出", "检索", "计算", "显示", "读取", "检查", "统计", "浏览")
SAID: dict[str, tuple[str, ...]] = {
    "查询": ("查询", "查一下", "查查", "看一下"),
    "查看": ("查看", "看看", "看一下", "查一下"),
    "查找": ("查找", "找一下", "找找"),
    "搜索": ("搜索", "搜一下", "找一下", "搜搜"),
    "获取": ("获取", "查一下", "看一下"),
    "列出": ("列出", "看看", "给我看"),
    "计算": ("计算", "算一下", "算算"),
    "创建": ("创建", "新建", "建一个"),
    "新建": ("新建", "创建"),
    "添加": ("添加", "加上", "加一下"),
    "删除": ("删除", "删掉"),
    "取消": ("取消", "取消一下"),
    "修改": ("修改", "改一下", "更改"),
    "更新": ("更新", "改一下"),
    "设置": ("设置", "设一下"),
    "预订": ("预订", "订一下"),
    "预约": ("预约", "约一下"),
    "发送": ("发送", "发一下"),
    "提交": ("提交", "提交一下"),
    "申请": ("申请", "申请一下"),
    "打开": ("打开", "开一下"),
    "关闭": ("关闭", "关掉"),
    "退款": ("退款",),
    "加入": ("加入", "放进"),
}
FRAMES = (
    "帮我{D}{S}。", "请{D}{S}。", "麻烦{D}{S}。", "我想{D}{S}。", "{D}{S}", "能帮我{D}吗?{T}", "可以{D}吗?{T}",
    "我要{D}{S}。",
    "我需要{D}{S},谢谢。", "{F}帮我{D}。", "{F}请{D}。", "你好,{D}{S}。", "现在就{D}{S}。", "{D}{S},麻烦了",
    "请问能{D}吗?{T}", "有空的话{D}{S}。", "老板让我{D}{S}。", "{F}我想{D}。", "{F}{D}",
)  # fmt: skip
QUERY_FRAMES = ("{N}{S}?", "我想知道{N}{S}。", "告诉我{N}{S}。", "{F}{N}?", "帮忙看下{N}{S}", "有{N}吗?{T}")
AMOUNT_FRAMES = ("{N}是多少?{T}", "{F}{N}是多少?", "{N}多少?{T}")
AMOUNTS = ("价格", "余额", "数量", "费用", "金额", "温度", "时间", "汇率", "库存", "总和", "距离")
BEFORE = ("刚下班,", "有点急,", "孩子睡了,", "我在地铁上,", "刚想起来,", "")


class Grammar:
    """The questions of one function."""

    def __init__(self, name: str, description: str, properties: Sequence[Property], rng: random.Random) -> None:
        self._rng = rng
        self._verb, self._object = verb_and_object(description, name)
        self.is_query = self._verb in QUERIES
        slots = [slot for each in properties for slot in _slots(each)]
        self.required = [each for each in slots if each.required]
        self.optional = [each for each in slots if not each.required]

    def questions(self, count: int = MOST) -> list[str]:
        """Different questions that say every required slot, and some optional ones in brackets."""
        return self._distinct(count, self.required, True)

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
        verb = rng.choice(SAID.get(self._verb, (self._verb,)))
        asks = AMOUNT_FRAMES + QUERY_FRAMES[:4] if text.endswith(AMOUNTS) else QUERY_FRAMES
        frame = rng.choice(asks if self.is_query and text and rng.random() < 0.4 else FRAMES)
        order = rng.sample(left, len(left)) if rng.random() < 0.4 else list(left)
        phrases = [rng.choice(each.phrases) for each in order if each.phrases]
        shown = rng.sample(self.optional, min(len(self.optional), rng.choice((0, 1, 2)))) if more else []
        extra = "".join(f"[,{rng.choice(each.phrases)}]" for each in shown if each.phrases)
        listed = ",".join(phrases)
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
            made = rng.choice(BEFORE) + made
        return re.sub(r",,|,。", lambda found: found[0][-1], made)

    def _merged(self, text: str, required: Sequence[Slot]) -> tuple[str, list[Slot]]:
        """The object with the slots that it names: 订单状态 and 订单号 -> 订单{order_id}的状态."""
        left: list[Slot] = []
        for each in required:
            noun = re.sub(r"(?:编号|号码|号|名称|名|代码|ID|id)$", "", each.label)
            at = text.find(noun) if len(noun) >= 2 and len(each.paths) == 1 else -1
            if at < 0 or "{" in text or self._rng.random() < 0.35 or each.kind == "bool":
                left.append(each)
                continue
            rest = text[at + len(noun) :].removeprefix("的")
            value = f"{{{each.paths[0]}}}"
            said = value if each.merge == "proper" else f"{noun}{value}"
            text = text[:at] + said + (f"的{rest}" if rest else "")
        return text, left


def verb_and_object(description: str, name: str) -> tuple[str, str]:
    """The verb and the object of a Chinese description: "根据订单号查询订单状态" -> 查询, 订单状态."""
    first = re.split(r"[。;;,,.\n(]", description.strip())[0].strip()
    first = re.sub(r"^(?:用于|用来|可以|该函数|此工具|这个工具)", "", first)
    first = re.sub(
        r"^(?:根据|按照|通过|使用|按)[^,,]{1,12}?(?=查询|查看|查找|搜索|获取|列出|计算|取消|修改)", "", first
    )
    verb = next((each for each in (*QUERIES, *SAID) if first.startswith(each)), "")
    if first.startswith(("把", "将")):
        return "", first
    if not verb:
        return first[:2] if len(first) > 2 else first, first[2:]
    return verb, first[len(verb) :].removeprefix("用户的").removeprefix("指定的").removeprefix("指定").removeprefix(
        "一个"
    )


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
    label = label_zh(each.about) or each.label
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
    made = tuple(dict.fromkeys(text.replace("{p}", slot).replace("{label}", label) for text in phrases))
    return Slot((path,), needed, label, made, (), (label,), each.kind.merge, each.kind.role, each.kind.name)
