"""Where a data file is chosen: those in the folders of the studio, or a dropped one. Reads none."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path

from nicegui import events, ui

from swift.data.readers import READERS
from swift.data.repository_layout import PACKED, suffix
from swift.studio import layout
from swift.studio.folders import Folders
from swift.studio.settings import Studio

MAX_UPLOAD = 200 * 2**20
MOST, DEEPEST = 200, 3


def choice(studio: Studio, uploads: Path, visit: Callable[[str], None]) -> None:
    """`uploads`: the folder of dropped files. `visit` is called with the file that is chosen."""
    say = studio.say

    async def uploaded(event: events.UploadEventArguments) -> None:
        with layout.told():
            target = add_upload(uploads, event.file.name)
            await event.file.save(target)
            visit(studio.folders.short(target))

    upload = ui.upload(
        label=say("Or drop a file here (at most {size} MB)", size=MAX_UPLOAD >> 20),
        max_file_size=MAX_UPLOAD,
        auto_upload=True,
        on_upload=uploaded,
        on_rejected=lambda: ui.notify(say("The file is too large, or of another type"), type="negative"),
    )
    upload.classes("full-width").props(f'accept="{",".join((*READERS, *PACKED))}"')
    found = data_files(studio.folders)
    if not found:
        layout.empty(say("There is no data file in the folders of the studio"))
        return
    ui.label(say("Data files in the folders of the studio")).classes("text-subtitle1")
    with ui.list().props("dense bordered").classes("full-width"):
        for path in found:
            short = studio.folders.short(path)
            with ui.item(on_click=partial(visit, short)):
                ui.item_section(short)


def data_files(folders: Folders, deepest: int = DEEPEST) -> list[Path]:
    """The first data files by name, hidden folders left out."""
    found = (folder / name for folder, names in folders.below(deepest) for name in names if is_data(name))
    return list(islice(found, MOST))


def is_data(name: str) -> bool:
    return suffix(name) in READERS and not name.startswith(".")


def add_upload(folder: Path, name: str) -> Path:
    """A free path for an uploaded file. Raises ValueError if its type is not that of a data file."""
    name = Path(name.replace("\\", "/")).name
    if not is_data(name):
        raise ValueError(f"{name}: unknown file type; supported: {', '.join(READERS)}")
    folder.mkdir(parents=True, exist_ok=True)
    stem, end = name.split(".", 1)
    numbered = (folder / (f"{stem}.{end}" if number == 1 else f"{stem}-{number}.{end}") for number in range(1, 10_000))
    return next(path for path in numbered if not path.exists())
