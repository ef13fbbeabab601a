"""Serving and exporting: `swift deploy` and `swift export` as jobs, and what connects clients to a server."""

from __future__ import annotations

from nicegui import run, ui

from swift.studio import job_view, layout, servers
from swift.studio.job_view import JobList
from swift.studio.jobs import Job
from swift.studio.settings import Studio

EXPORTS = {
    "Merge the adapter into the model": ("--merge_lora", "true"),
    "GGUF, 16 bits (F16)": ("--to_gguf", "F16"),
    "GGUF, 8 bits (Q8_0)": ("--to_gguf", "Q8_0"),
    "GGUF, 4 bits (Q4_K_M)": ("--to_gguf", "Q4_K_M"),
    "Ollama: GGUF and Modelfile": ("--to_ollama", "true"),
    "Pack the adapter alone": ("--pack_adapter", "true"),
}
EXPORTING = ("export", "merge-lora")


def content(studio: Studio) -> None:
    say = studio.say
    given = studio.query.get("ckpt_dir", servers.BUNDLED[0])
    ui.label(say("Serve a model")).classes("text-h6").props("role=heading aria-level=2")
    with ui.row().classes("full-width items-end"):
        model = ui.input(say("Model or checkpoint"), value=given).props("outlined dense")
        port = ui.number(say("Port (0: any)"), value=0, min=0, max=65535, format="%d").props("outlined dense")
        more = ui.input(say("Other flags of swift deploy"), placeholder="--guided_tools true").props("outlined dense")
        served = ui.button(say("Serve"), icon="play_arrow").props("no-caps")
        for each in (model, more):
            each.classes("col").style("min-width: 14rem")
    fault = layout.error("")
    serving = JobList(
        studio,
        lambda job: job.verb == "deploy",
        say("No server has been started here"),
        lambda job: _server(studio, job),
        lambda job: servers.of(job).url,
    )

    def serve() -> None:
        try:
            words = [
                "deploy",
                *servers.model_words(model.value or "", studio.folders),
                "--port",
                f"{port.value or 0:g}",
            ]
            job_view.start(studio, words, more.value or "")
            fault.set_text("")
        except (ValueError, OSError) as error:
            fault.set_text(str(error))
        serving.look()

    served.on_click(serve)
    ui.separator().classes("q-my-md")
    _exports(studio, given, model)


def _server(studio: Studio, job: Job) -> None:
    """The address of a server, and what its clients need."""
    say, server = studio.say, servers.of(job)
    if not server.url:
        if job.is_active:
            ui.label(say("the model is loaded")).classes("studio-muted")
        return
    with ui.row().classes("items-center"):
        ui.label(server.url).classes("studio-mono text-bold")
        if "chat" in studio.pages:
            ui.link(say("Chat with it"), f"/chat?server={job.name}")

    async def clients(box: ui.expansion) -> None:
        if box.value and not box.default_slot.children:
            model = await run.io_bound(servers.first_model, server.url) or server.label
            with box:
                for name, text in servers.snippets(server.url, model).items():
                    ui.label(say(name)).classes("text-bold q-mt-sm")
                    layout.command(studio, text)
                if {"--api_key", "--api_key_file"} & set(job.words):
                    ui.label(say("This server wants its API key in the place of EMPTY."))

    box = ui.expansion(say("Connect a client"), icon="cable").classes("full-width")
    box.on_value_change(lambda: clients(box))


def _exports(studio: Studio, given: str, other: ui.input) -> None:
    say = studio.say
    ui.label(say("Export")).classes("text-h6").props("role=heading aria-level=2")
    with ui.row().classes("full-width items-end"):
        model = ui.input(say("Model or checkpoint to export"), value=given)
        kind = ui.select({name: say(name) for name in EXPORTS}, value=next(iter(EXPORTS)), label=say("Kind"))
        folder = ui.input(say("Folder to write (optional)"))
        started = ui.button(say("Export"), icon="save_alt").props("no-caps")
        job_view.offer_models(studio, model, other)
        for each in (model, kind, folder):
            each.props("outlined dense").classes("col").style("min-width: 14rem")
    fault = layout.error("")
    exporting = JobList(studio, lambda job: job.verb in EXPORTING, say("Nothing has been exported here"))

    def export() -> None:
        try:
            words = ["export", *servers.model_words(model.value or "", studio.folders), *EXPORTS[str(kind.value)]]
            if folder.value:
                words += ["--output_dir", str(studio.folders.inside(folder.value))]
            job_view.start(studio, words)
            fault.set_text("")
        except (ValueError, OSError) as error:
            fault.set_text(str(error))
        exporting.look()

    started.on_click(export)
