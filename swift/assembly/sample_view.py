"""Shows samples: coloured or annotated text with loss weights, compared with the chat template's output."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.text import Text

from swift.system import terminal

if TYPE_CHECKING:
    from swift.chat import Conversation, Sample
    from swift.template import Rendered
    from swift.template.template_diff import Comparison, Difference

LEGEND = (
    (0.0, "grey x0, not trained"),
    (0.5, "yellow less than x1"),
    (1.0, "green x1"),
    (2.0, "red more than x1, such as x2"),
)
SEVERAL = "several samples: the chat template rewrites earlier rounds once a later one follows"
LONG = 12
"""Number of lines from which a beginning shared with the previous sample is abbreviated."""
Decode = Callable[[Sequence[int]], str]


class Shown(NamedTuple):
    """One of a row's samples. `number` counts them from 1 to `of`; `cut`: its oldest rounds were removed.

    `conversation`: the row; of a sample that was cut, what is left of it.
    `compared`: comparisons of its prompts with the chat template's; None if not requested.
    """

    source: str
    line: int
    number: int
    of: int
    cut: bool
    rendered: Rendered
    conversation: Conversation
    compared: Sequence[Comparison] | None = None


SUMMARY = "{total} tokens, {trained} trained ({share}): {weights}"


def summary(sample: Sample, say: Callable[..., str] = str.format) -> str:
    """How many tokens a sample has, and with which loss weights. `say`: (SUMMARY, values) -> the text."""
    total = len(sample.tokens)
    weights = ", ".join(f"{number} x{weight:g}" for weight, number in sorted(Counter(sample.weights).items()))
    share = f"{sample.trained / max(total, 1):.0%}"
    return say(SUMMARY, total=total, trained=sample.trained, share=share, weights=weights)


class Lines:
    """Prints a JSON object per sample."""

    def __init__(self, decode: Decode) -> None:
        self._decode = decode

    def show(self, shown: Shown) -> None:
        sample = shown.rendered.sample
        value: dict[str, Any] = {"source": shown.source, "line": shown.line, "sample": shown.number, "of": shown.of}
        value |= {"tokens": sample.tokens, "weights": sample.weights}
        value |= {"text": shown.rendered.text, "pieces": shown.rendered.pieces}
        if shown.compared is not None:
            value["against_template"] = [self._compared(each) for each in shown.compared]
        print(json.dumps(value, ensure_ascii=False))

    def _compared(self, compared: Comparison) -> dict[str, Any]:
        value = {"message": compared.message, "round": compared.round, "same": compared.is_same}
        if compared.refusal:
            return {**value, "refusal": compared.refusal}
        if not (difference := compared.difference):
            return value
        value["leaves_prompt"] = compared.leaves_prompt
        ours, template = ({"text": self._decode(ids), "tokens": ids} for ids in (difference.ours, difference.template))
        return {**value, "at": difference.at, "before": difference.before, "ours": ours, "template": template}


class Page:
    """Prints text: coloured in a terminal, with weights as numbers in a pipe."""

    def __init__(self, decode: Decode) -> None:
        self._decode = decode
        self._console = terminal.console(highlight=False, soft_wrap=True)
        self._colours = self._console.color_system is not None  # none in a pipe, with NO_COLOR, or without any
        self._before: Shown | None = None
        self._explained = False
        self._legend()

    def show(self, shown: Shown) -> None:
        # not rich's rule, which would cut a long path
        which = f", sample {shown.number} of {shown.of}" if shown.of > 1 else ""
        cut = ", its oldest part cut off" if shown.cut else ""
        self._say(f"─── {shown.source}:{shown.line}{which}{cut}", "green")
        if shown.of > 1 and not self._explained:
            self._say(SEVERAL, "dim")
            self._explained = True
        self._text(shown)
        self._before = shown
        self._say(summary(shown.rendered.sample), "dim")
        if shown.compared is not None:
            self._compare(shown.compared)

    def _say(self, text: str, style: str = "") -> None:
        self._console.print(text, style=style, markup=False)

    def _legend(self) -> None:
        """Explains the notation of loss weights."""
        if not self._colours:
            self._say(
                "loss weight of each piece: [0] x0, not trained; [1] x1, trained; [2] x2, counts twice in the loss"
            )
            return
        legend = Text("loss weight of each token: ")
        for weight, meaning in LEGEND:
            legend.append(meaning, _style(weight)).append("  ")
        self._console.print(legend)

    def _text(self, shown: Shown) -> None:
        known = self._known(shown)
        if known and self._before:
            self._say(f"... begins with the same {len(known)} lines as sample {self._before.number} ...", "dim")
        left_out = sum(map(len, known))
        coloured = Text()
        for piece, weight in shown.rendered.pieces:
            text = piece[left_out:]
            left_out = max(left_out - len(piece), 0)
            coloured.append(text, _style(weight))
            if not self._colours and text:
                mark = f"[{weight:g}] "
                self._say(mark + f"\n{' ' * len(mark)}".join(map(repr, _lines(text))))
        if self._colours:
            self._console.print(coloured)

    def _known(self, shown: Shown) -> list[str]:
        """The untrained lines at the start that the previous sample of the row also starts with, if there are many."""
        before = self._before
        if shown.number == 1 or before is None or (before.source, before.line) != (shown.source, shown.line):
            return []
        first, weight = shown.rendered.pieces[0]
        pairs = zip(_lines(before.rendered.text), _lines(first if weight == 0 else ""), strict=False)
        known = [line for line, other in takewhile(lambda pair: pair[0] == pair[1], pairs)]
        return known if len(known) >= LONG else []

    # Comparison with the chat template -------------------------------------------------------------------------------

    def _compare(self, compared: Sequence[Comparison]) -> None:
        others = [each for each in compared if not each.is_same]
        if not others:
            what = "; ".join(map(_named, compared)) or "plain text has none"
            self._say(f"chat template: the same ({what})" if compared else f"chat template: {what}", "dim")
            return
        self._say(f"chat template: not the same in {len(others)} of {len(compared)}", "yellow")
        shown: set[Difference] = set()
        for each in compared:
            if not (found := each.difference):
                self._say(f"  {_named(each)}: {each.refusal or 'the same'}")
            elif found in shown:
                self._say(f"  {_named(each)}: the same difference, at token {found.at + 1}")
            else:
                why = ", where the template leaves its own prompt for the last reply" if each.leaves_prompt else ""
                self._say(f"  {_named(each)}: the first difference is token {found.at + 1}{why}")
                self._differ(found)
                shown.add(found)

    def _differ(self, found: Difference) -> None:
        self._say(f"    both      {found.before!r}")
        ours, template = self._decode(found.ours), self._decode(found.template)
        in_other_tokens = ours.startswith(template) or template.startswith(ours)
        for name, text, ids in (("ours", ours, found.ours), ("template", template, found.template)):
            tokens = f", in tokens {list(ids)}" if in_other_tokens and found.ours and found.template else ""
            self._say(f"    {name:9} {text!r}{tokens}" if ids else f"    {name:9} ends here")


def _named(compared: Comparison) -> str:
    if compared.message is None:
        return "the whole dialogue"
    return f"round {compared.round}, prompt of message {compared.message}"


def _lines(text: str) -> list[str]:
    """The lines of a text, empty ones with the line before them."""
    return re.findall(r"[^\n]*\n+|[^\n]+", text)


def _style(weight: float) -> str:
    return "bright_black" if weight == 0 else "green" if weight == 1 else "yellow" if weight < 1 else "bold red"
