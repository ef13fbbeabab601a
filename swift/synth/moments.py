"""Dates and times of day: what users say, and the value in the format that a schema or a description states."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from swift.synth import values
from swift.synth.kinds import STAMP, Kind
from swift.synth.values import COUNT


def moments(schema: Mapping[str, Any], about: str, kind: Kind, rng: random.Random, zh: bool) -> Any:
    """Dates and times: what is said, and the value in the format that the schema or the description states."""
    stated = {"date": "YYYY-MM-DD", "time": "HH:MM", "date-time": "YYYY-MM-DDTHH:MM:SS"}.get(schema.get("format", ""))
    found = STAMP.search(about)
    text = found[0].strip() if found else stated
    is_moment = kind.name in ("date", "time", "datetime") and re.search(r"\bISO\b", about)
    if not text and (is_moment or re.search(r"\bISO[- ]?8601\b", about)):
        is_day = kind.name == "date" and not re.search(r"\btime", about, re.IGNORECASE)
        text = "YYYY-MM-DD" if is_day else "YYYY-MM-DDTHH:MM:SS"
    if not text:
        if kind.name in ("date", "datetime", "time"):
            return _loose_moments(kind.name, rng, zh)
        return None
    if text == "YYYY-MM-DD" and not zh:
        return "date"
    if text == "HH:MM" and not zh:
        return "time"
    form = re.sub("YYYY", "%Y", text.upper())
    form = re.sub("(HH[:.]?)MM", r"\1%M", form)
    form = form.replace("MM", "%m", 1) if "%M" in form or "HH" not in form else form
    form = form.replace("DD", "%d").replace("HH", "%H").replace("SS", "%S")
    pairs = []
    for _ in range(COUNT):
        moment = datetime(2025, 1, 1) + timedelta(days=rng.randrange(1000), minutes=15 * rng.randrange(96))
        pairs.append([_said_moment(moment, form, rng, zh), moment.strftime(form)])
    return pairs


def _said_moment(moment: datetime, form: str, rng: random.Random, zh: bool) -> str:
    has_day, has_time = "%d" in form, "%H" in form
    if zh:
        day = f"{moment.year}年{moment.month}月{moment.day}日"
        return (day if has_day else "") + (f"{moment:%H:%M}" if has_time else "")
    day = rng.choice(
        (f"{moment:%B} {moment.day}, {moment.year}", f"{moment.day} {moment:%B} {moment.year}", f"{moment:%Y-%m-%d}")
    )
    clock = rng.choice(
        (f"{moment:%H:%M}", f"{moment.hour % 12 or 12}:{moment:%M} {'am' if moment.hour < 12 else 'pm'}")
    )
    return f"{day} at {clock}" if has_day and has_time else day if has_day else clock


def _loose_moments(name: str, rng: random.Random, zh: bool) -> list[str]:
    """Dates and times that are copied as they are said: no format is stated."""
    days = ["tomorrow", "today", "next Friday", "Monday", "the 5th of May", "Tuesday morning", "this weekend", "June 3"]
    clocks = ["noon", "8 pm", "7:30", "half past nine", "18:45", "6 am", "10:15", "midnight"]
    if zh:
        days, clocks = (
            ["明天", "后天", "下周一", "周五", "5月3日", "今天"],
            ["下午3点", "晚上8点", "早上7点半", "18:30", "中午"],
        )
    of = "date" if name != "time" else "time"
    if name == "datetime":
        return [f"{rng.choice(days)}{'' if zh else ' at '}{rng.choice(clocks)}" for _ in range(COUNT)]
    drawn = [] if zh else [values.draw(of, rng).words for _ in range(COUNT // 2)]
    return [*(days if of == "date" else clocks), *drawn]
