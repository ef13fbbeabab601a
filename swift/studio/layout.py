"""The frame of every page, and the components that pages share. Knows no page's subject."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlencode

from nicegui import run, ui

from swift.studio.language import NAMES, Code
from swift.studio.settings import TITLES, Studio

T = TypeVar("T")
SCRIPT = """
function studioChoose(name, value) {
  document.cookie = `${name}=${value}; path=/; max-age=31536000; samesite=lax`;
  location.reload();
}
document.documentElement.lang = "LANGUAGE";
document.getElementById("studio-language").onclick = e => studioChoose("swift_language", e.currentTarget.lang);
document.getElementById("studio-dark").onclick = () =>
  studioChoose("swift_dark", !document.body.classList.contains("body--dark"));
"""
ui.button.default_props("no-caps dense padding='xs md'")
for _field in (ui.input, ui.textarea, ui.number, ui.select):
    _field.default_props("outlined dense")


@contextmanager
def frame(studio: Studio, page: str) -> Iterator[None]:
    """The page with its header; the block makes the content.

    The header is plain HTML, which a browser paints before it has loaded a script.
    """
    ui.page_title(f"{studio.say(TITLES[page])} · SWIFT studio")
    ui.add_head_html(f"<style>{_style()}</style>")
    ui.add_body_html(_header(studio, page))
    ui.dark_mode(studio.dark)
    with ui.element("div").classes("studio").props("id=content tabindex=-1"):
        yield


@cache
def _style() -> str:
    return Path(__file__).with_name("style.css").read_text(encoding="utf-8")


def _header(studio: Studio, page: str) -> str:
    say = studio.say
    current = {page: ' aria-current="page"'}
    tabs = "".join(f'<a href="/{name}"{current.get(name, "")}>{say(TITLES[name])}</a>' for name in studio.pages)
    other: Code = "zh" if studio.language.code == "en" else "en"
    contrast = say("Dark or light")
    return f"""<header class="studio-header"><a class="studio-skip" href="#content">{say("Skip to the content")}</a>
<b>SWIFT</b><nav aria-label="{say("Pages")}">{tabs}</nav>
<button id="studio-language" lang="{other}">{NAMES[other]}</button>
<button id="studio-dark" title="{contrast}" aria-label="{contrast}">&#9680;</button></header>
<script>{SCRIPT.replace("LANGUAGE", studio.language.code)}</script>"""


def address(path: str, query: Mapping[str, object]) -> str:
    """An address with those values of `query` that are not empty."""
    return f"{path}?{urlencode({name: value for name, value in query.items() if value not in (None, '')})}"


def heading(text: str, level: int = 1) -> ui.label:
    return ui.label(text).classes("text-h5" if level == 1 else "text-h6").props(f"role=heading aria-level={level}")


def empty(text: str, icon: str = "inbox") -> None:
    """What a page says where it has nothing to show."""
    with ui.column().classes("items-center full-width q-pa-xl studio-muted"):
        ui.icon(icon, size="48px").props("aria-hidden=true")
        ui.label(text).classes("text-subtitle1")


def error(text: str = "") -> ui.label:
    """A line that says what is wrong, read aloud at once."""
    return ui.label(text).classes("studio-error").props("role=alert")


def notice_of_error(text: str) -> None:
    """A notice of what is wrong; a call without text shows nothing."""
    if text:
        ui.notify(text, type="negative", timeout=0, close_button=True)


@contextmanager
def told(tell: Callable[[str], object] = notice_of_error) -> Iterator[None]:
    """Tells what the block raises as ValueError or OSError, or "" where all went well."""
    try:
        yield
    except (ValueError, OSError) as wrong:
        tell(str(wrong))
    else:
        tell("")


def command(studio: Studio, text: str) -> Callable[[str], object]:
    """A command line that can be copied. Returns a function that replaces it."""
    with ui.row().classes("items-start full-width no-wrap"):
        shown = ui.label(text).classes("studio-command studio-mono col")
        shown.props(f'role=textbox aria-readonly=true tabindex=0 aria-label="{studio.say("Command")}"')
        button = ui.button(icon="content_copy").props(
            f'flat round padding=xs aria-label="{studio.say("Copy the command")}"'
        )
        copied = studio.say("Copied")
        # in the browser alone, where a click may write to the clipboard
        button.on("click", js_handler=f"() => navigator.clipboard.writeText(getElement({shown.id}).$el.innerText)")
        button.on_click(lambda: ui.notify(copied))
    return shown.set_text


def folded(title: str, draw: Callable[[], Any], **more: Any) -> ui.expansion:
    """A part of a page whose content is drawn when it is opened first."""
    box = ui.expansion(title, **more).classes("full-width")

    def opened() -> Any:
        if box.value and not box.default_slot.children:
            with box:
                return draw()
        return None

    box.on_value_change(opened)
    return box


def later(draw: Callable[[T], Any], work: Callable[..., T], *values: Any) -> None:
    """Draws the result of a function that takes long, or the line that it raises, in the place of a spinner."""
    box = ui.element("div").classes("full-width")

    async def fetch() -> None:
        wrong, found = "", None
        try:
            found = await run.io_bound(work, *values)
        except (ValueError, OSError) as raised:
            wrong = str(raised)
        if box.is_deleted or (found is None and not wrong):
            return
        box.clear()
        with box:
            if found is None:
                error(wrong)
            else:
                draw(found)

    with box:
        ui.spinner()
    ui.timer(0, fetch, once=True)


class Part:
    """A part of a page that is drawn anew when what it shows has changed."""

    def __init__(self, box: ui.element) -> None:
        self.box = box
        self._shown: object = self

    def show(self, value: object, draw: Callable[[], object]) -> None:
        """`value`: whatever decides what `draw` draws."""
        if value != self._shown:
            self._shown = value
            self.box.clear()
            with self.box:
                draw()
