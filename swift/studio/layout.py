"""The frame of every page, and the components that pages share. Knows no page's subject."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from nicegui import ui

from swift.studio.language import NAMES, Code
from swift.studio.settings import TITLES, Studio

STYLE = """
:root { --studio-line: rgba(128,128,128,.28); --studio-soft: rgba(128,128,128,.10); }
body { margin: 0; font-family: system-ui, -apple-system, "Segoe UI", "Noto Sans", "Noto Sans CJK SC", "PingFang SC",
  "Microsoft YaHei", sans-serif; }
.nicegui-content { padding: 0 !important; width: 100%; }
.nicegui-layout, .q-page { min-height: 0 !important; }
.studio { width: 100%; max-width: 1440px; margin: 0 auto; padding: 14px 16px 48px; }
.studio-header { background: #12343b; color: #fff; display: flex; align-items: center; gap: 8px; padding: 0 16px;
  position: sticky; top: 0; z-index: 3000; }
.body--dark .studio-header { background: #0b2126; }
.studio-header a, .studio-header button { color: #cfe3e6; text-decoration: none; font: inherit; background: none;
  border: 0; cursor: pointer; padding: 12px 10px; white-space: nowrap; }
.studio-header a:hover, .studio-header button:hover { color: #fff; }
.studio-header nav { display: flex; flex: 1; overflow-x: auto; margin-left: 8px; }
.studio-header nav a { border-bottom: 3px solid transparent; }
.studio-header nav a[aria-current=page] { color: #fff; border-bottom-color: #ffb454; }
.studio-card { border: 1px solid var(--studio-line); border-radius: 8px; padding: 12px 14px; width: 100%; }
.studio-section { border: 1px solid var(--studio-line); border-radius: 8px; }
.studio-mono { font-family: ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; font-size: 13px; }
.studio-command { background: var(--studio-soft); border-radius: 6px; padding: 8px 10px; white-space: pre-wrap;
  overflow-wrap: anywhere; max-height: 14rem; overflow-y: auto; }
.studio-log { background: #10181a; color: #d5e4e6; border-radius: 6px; padding: 8px 10px; white-space: pre-wrap;
  overflow: auto; max-height: 24rem; overflow-wrap: anywhere; width: 100%; }
.studio-error { color: #b3261e; } .body--dark .studio-error { color: #ffb4ab; }
.studio-muted { opacity: .72; }
.studio-grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, var(--least, 260px)), 1fr));
  gap: 12px 16px; width: 100%; }
.studio-columns { display: grid; grid-template-columns: minmax(0, 1fr) minmax(300px, 400px); gap: 20px;
  margin-top: 14px; }
.studio-side { position: sticky; top: 64px; align-self: start; }
a:focus-visible, button:focus-visible, [tabindex]:focus-visible { outline: 2px solid #ffb454; outline-offset: 2px; }
.studio-skip { position: absolute; left: -999px; } .studio-skip:focus { left: 8px; top: 8px; background: #12343b; }
@media (max-width: 900px) { .studio-columns { grid-template-columns: minmax(0, 1fr); }
  .studio-side { position: static; } }
@media (max-width: 640px) { .studio { padding: 8px 8px 48px; } .studio-header { padding: 0 4px; gap: 0; } }
"""
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


@contextmanager
def frame(studio: Studio, page: str) -> Iterator[None]:
    """The page with its header; the block makes the content.

    The header is plain HTML, which a browser paints before it has loaded a script.
    """
    ui.page_title(f"{studio.say(TITLES[page])} · SWIFT studio")
    ui.add_head_html(f"<style>{STYLE}</style>")
    ui.add_body_html(_header(studio, page))
    ui.dark_mode(studio.dark)
    with ui.element("div").classes("studio").props("id=content tabindex=-1"):
        yield


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


def empty(studio: Studio, text: str, icon: str = "inbox") -> None:
    """What a page says where it has nothing to show."""
    with ui.column().classes("items-center full-width q-pa-xl studio-muted"):
        ui.icon(icon, size="48px").props("aria-hidden=true")
        ui.label(text).classes("text-subtitle1")


def error(text: str) -> ui.label:
    """A line that says what is wrong, read aloud at once."""
    return ui.label(text).classes("studio-error").props("role=alert")


def command(studio: Studio, text: str) -> Callable[[str], object]:
    """A command line that can be copied. Returns a function that replaces it."""
    with ui.row().classes("items-start full-width no-wrap"):
        shown = (
            ui.label(text).classes("studio-command studio-mono col").props("role=textbox aria-readonly=true tabindex=0")
        )
        shown.props(f'aria-label="{studio.say("Command")}"')
        button = ui.button(icon="content_copy").props(f'flat dense round aria-label="{studio.say("Copy the command")}"')
        copied = studio.say("Copied")
        # in the browser alone, where a click may write to the clipboard
        button.on("click", js_handler=f"() => navigator.clipboard.writeText(getElement({shown.id}).$el.innerText)")
        button.on_click(lambda: ui.notify(copied))
    return shown.set_text
