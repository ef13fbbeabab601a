"""Serving and exporting: `swift deploy` and `swift export` as jobs, and what connects clients to a server."""

from __future__ import annotations

import shlex

from nicegui import ui

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


def content(studio: Studio) -> None:
    served = _serve(studio)
    ui.separator().classes("q-my-md")
    exported = _export(studio)
    job_view.offer_models(studio, served, exported)


def _serve(studio: Studio) -> ui.input:
    """Servers, and the fields that start one. Returns that of the model."""
    say = studio.say
    layout.heading(say("Serve a model"), 2)
    with ui.element("div").classes("studio-fields"):
        model = ui.input(say("Model or checkpoint"), value=studio.query.get("ckpt_dir", servers.BUNDLED[0]))
        port = ui.number(say("Port (0: any)"), value=0, min=0, max=65535, format="%d")
        more = ui.input(say("Other flags of swift deploy"), placeholder="--guided_tools true")
        button = ui.button(say("Serve"), icon="play_arrow")

    def words() -> list[str]:
        named = servers.model_words(model.value or "", studio.folders)
        return ["deploy", *named, "--port", f"{port.value or 0:g}", *shlex.split(more.value or "")]

    none = say("No server has been started here")
    JobList(studio, ("deploy",), none, button, words, lambda job: _server(studio, job), lambda job: servers.of(job).url)
    return model


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

    def clients(model: str) -> None:
        for name, text in servers.snippets(server.url, model or server.label).items():
            ui.label(say(name)).classes("text-bold q-mt-sm")
            layout.command(studio, text)
        if {"--api_key", "--api_key_file"} & set(job.words):
            ui.label(say("This server wants its API key in the place of EMPTY."))

    layout.folded(say("Connect a client"), lambda: layout.later(clients, servers.first_model, server.url), icon="cable")


def _export(studio: Studio) -> ui.input:
    """Exports, and the fields that start one. Returns that of the model."""
    say = studio.say
    layout.heading(say("Export"), 2)
    with ui.element("div").classes("studio-fields"):
        given = studio.query.get("ckpt_dir", servers.BUNDLED[0])
        model = ui.input(say("Model or checkpoint to export"), value=given)
        kind = ui.select({name: say(name) for name in EXPORTS}, value=next(iter(EXPORTS)), label=say("Kind"))
        folder = ui.input(say("Folder to write (optional)"))
        button = ui.button(say("Export"), icon="save_alt")

    def words() -> list[str]:
        named = servers.model_words(model.value or "", studio.folders)
        to = ("--output_dir", str(studio.folders.inside(folder.value))) if folder.value else ()
        return ["export", *named, *EXPORTS[str(kind.value)], *to]

    JobList(studio, ("export", "merge-lora"), say("Nothing has been exported here"), button, words)
    return model
