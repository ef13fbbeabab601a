"""Where a data file is chosen: those in the folders of the studio, or a dropped one. Reads none."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from nicegui import events, ui

from swift.data.readers import READERS
from swift.data.repository_layout import PACKED
from swift.studio import layout
from swift.studio.data_files import add_upload, data_files
from swift.studio.settings import Studio

MAX_UPLOAD = 200 * 2**20


def choice(studio: Studio, uploads: Path, visit: Callable[[str], None]) -> None:
    """`uploads`: the folder of dropped files. `visit` is called with the file that is chosen."""
    say = studio.say

    async def uploaded(event: events.UploadEventArguments) -> None:
        try:
            target = add_upload(uploads, event.file.name)
        except ValueError as error:
            ui.notify(str(error), type="negative")
            return
        await event.file.save(target)
        visit(studio.folders.short(target))

    upload = ui.upload(
        label=say("Or drop a file here (at most {size} MB)", size=MAX_UPLOAD >> 20),
        max_file_size=MAX_UPLOAD,
        auto_upload=True,
        on_upload=uploaded,
        on_rejected=lambda: ui.notify(say("The file is too large, or of another type"), type="negative"),
    ).classes("full-width")
    upload.props(f'accept="{",".join((*READERS, *PACKED))}"')
    found = data_files(studio.folders)
    if not found:
        layout.empty(studio, say("There is no data file in the folders of the studio"))
        return
    ui.label(say("Data files in the folders of the studio")).classes("text-subtitle1")
    with ui.list().props("dense bordered").classes("full-width"):
        for path in found:
            short = studio.folders.short(path)
            with ui.item(on_click=partial(visit, short)):
                ui.item_section(short)
