"""The studio without a browser: access, folders, languages, jobs, and a served page over HTTP."""

from __future__ import annotations

import ast
import asyncio
import os
import re
import signal
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from studio_pages import Server, needs_pages, served, wait_for

from swift import cli
from swift.studio import access, jobs
from swift.studio import server as server_module
from swift.studio.folders import Folders
from swift.studio.jobs import Jobs
from swift.studio.language import Language, preferred, words
from swift.studio.settings import TITLES

STUDIO = Path(access.__file__).parent
SECRET = "s" * 43


# --- access -----------------------------------------------------------------------------------------------------------


async def page(scope: Any, receive: Any, send: Any) -> None:
    """An app with one page, which answers with the length of the request's body."""
    size = 0
    while True:
        message = await receive()
        size += len(message.get("body", b""))
        if message["type"] == "http.disconnect" or not message.get("more_body"):
            break
    text = f"<html><script>1</script>{size}</html>".encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/html")]})
    await send({"type": "http.response.body", "body": text[:9], "more_body": True})
    await send({"type": "http.response.body", "body": text[9:]})


def guard(password: str | None = None, local: bool = True) -> access.Guard:
    return access.Guard(page, SECRET, password, ("box",), local, 7860)


def ask(method: str, url: str, app: access.Guard, cookies: dict[str, str] | None = None, **more: Any) -> httpx.Response:
    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(app=app)  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, cookies=cookies) as client:
            return await client.request(method, url, **more)

    return asyncio.run(send())


def cookie(app: access.Guard) -> dict[str, str]:
    return {app.cookie: app.session}


def test_the_token_of_the_printed_address_becomes_a_cookie_and_leaves_the_address() -> None:
    app = guard()
    first = ask("GET", f"http://127.0.0.1:7860/runs?run=a%20b&token={SECRET}", app)
    assert (first.status_code, first.headers["location"]) == (303, "/runs?run=a+b")
    given = first.headers["set-cookie"]
    assert "HttpOnly" in given and "samesite=lax" in given.lower() and SECRET not in given
    assert ask("GET", "http://127.0.0.1:7860/runs", app, cookie(app)).status_code == 200


@pytest.mark.parametrize("query", ["", "?token=", f"?token={SECRET[:-1]}", "?token=%C3%A9"])
def test_without_the_token_nothing_is_shown(query: str) -> None:
    app = guard()
    response = ask("GET", f"http://127.0.0.1:7860/{query}", app)
    assert response.status_code == 401 and "<script" not in response.text
    assert ask("GET", "http://127.0.0.1:7860/", app, {app.cookie: "x" * 64}).status_code == 401


def test_the_redirect_of_the_token_stays_on_this_host() -> None:
    response = ask("GET", f"http://127.0.0.1:7860//evil.example/?token={SECRET}", guard())
    assert response.headers["location"] == "/evil.example/"


@pytest.mark.parametrize(
    ("host", "local", "served"),
    [
        ("127.0.0.1:7860", True, True),
        ("localhost:9", True, True),  # through a tunnel, at another port
        ("[::1]:7860", True, True),
        ("box", True, True),
        ("rebound.example", True, False),
        ("10.0.0.5", True, False),
        ("10.0.0.5:7860", False, True),
        ("rebound.example:7860", False, False),
        ("127.0.0.1.rebound.example", False, False),
        ("[", False, False),
    ],
)
def test_a_request_must_name_this_host(host: str, local: bool, served: bool) -> None:
    app = guard(local=local)
    response = ask("GET", "http://127.0.0.1:7860/", app, cookie(app), headers={"host": host})
    assert (response.status_code == 200) == served, response.status_code


def websocket(app: access.Guard, headers: dict[str, str]) -> list[dict[str, Any]]:
    """What the guard answers to a websocket; an app behind it would accept."""
    sent: list[dict[str, Any]] = []

    async def accept(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})

    async def keep(message: Any) -> None:
        sent.append(message)

    app.app = accept
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "websocket", "path": "/_nicegui_ws/socket.io", "query_string": b"", "headers": raw}
    asyncio.run(app(scope, keep, keep))  # type: ignore[arg-type]
    return sent


def test_a_websocket_needs_the_cookie_and_a_page_of_this_server() -> None:
    app = guard()
    entry = {"host": "127.0.0.1:7860", "cookie": f"{app.cookie}={app.session}"}
    ours = {**entry, "origin": "http://127.0.0.1:7860"}
    assert websocket(app, ours) == [{"type": "websocket.accept"}]
    for other in ({**entry, "origin": "http://evil.example"}, {**entry, "origin": "null"}, {**ours, "cookie": "a=b"}):
        assert websocket(app, other)[0]["type"] == "websocket.close"
    other_port = {**entry, "origin": "http://127.0.0.1:8000"}
    assert websocket(app, other_port)[0]["type"] == "websocket.close"


def test_a_form_of_another_site_is_refused() -> None:
    app = guard()
    forged = ask("POST", "http://127.0.0.1:7860/upload", app, cookie(app), headers={"origin": "http://evil.example"})
    assert forged.status_code == 403


def test_a_page_may_run_the_scripts_of_its_template_alone() -> None:
    app = guard()
    response = ask("GET", "http://127.0.0.1:7860/", app, cookie(app))
    policy = response.headers["content-security-policy"]
    (nonce,) = re.findall(r"'nonce-([^']+)'", policy)
    assert f'<script nonce="{nonce}">1</script>' in response.text
    scripts = next(part for part in policy.split("; ") if part.startswith("script-src"))
    assert "unsafe-inline" not in scripts and "http" not in policy
    assert ask("GET", "http://127.0.0.1:7860/", app, cookie(app)).headers["content-security-policy"] != policy


def test_an_upload_that_is_too_large_is_refused_also_without_a_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "MAX_UPLOAD", 1000)
    app = guard()

    async def chunks() -> Any:
        for _ in range(30):
            yield b"x" * 100

    def read(body: Any) -> httpx.Response:
        return ask("POST", "http://127.0.0.1:7860/upload", app, cookie(app), content=body)

    assert read(b"x" * 1001).status_code == 413
    assert read(b"x" * 900).text.endswith("900</html>")
    assert read(chunks()).text.endswith("1000</html>")  # what follows never reaches the app


def test_the_password_opens_and_a_guess_a_second_is_all() -> None:
    app = guard("correct horse", local=False)
    assert "password" in ask("GET", "http://10.0.0.5/", app).text
    assert ask("POST", "http://10.0.0.5/login", app, data={"password": "wrong"}).status_code == 401
    for _ in range(3):  # attempts that come too early do not put off the next one
        assert ask("POST", "http://10.0.0.5/login", app, data={"password": "correct horse"}).status_code == 429
    app._next_attempt -= access.LOGIN_PAUSE
    opened = ask("POST", "http://10.0.0.5/login", app, data={"password": "correct horse"})
    assert opened.status_code == 303 and opened.headers["set-cookie"].startswith(app.cookie)


def test_another_password_ends_old_cookies() -> None:
    assert guard("correct horse").session != guard("battery staple").session


def test_another_host_needs_a_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(access.PASSWORD, raising=False)
    assert cli.main(["studio", "--host", "0.0.0.0"]) == 2
    assert "needs a password: --password_file or SWIFT_STUDIO_PASSWORD" in capsys.readouterr().err
    monkeypatch.setenv(access.PASSWORD, "short")
    assert cli.main(["studio"]) == 2
    assert "fewer than 8 characters" in capsys.readouterr().err


def test_the_token_is_kept_and_readable_to_its_owner_alone(tmp_path: Path) -> None:
    file = tmp_path / "studio" / "token"
    first = access.token(file)
    assert len(first) >= 43 and access.token(file) == first
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    file.write_text("short")
    assert access.token(file) not in ("short", first)


# --- folders ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    for name in ("work", "models", "secret"):
        (tmp_path / name).mkdir()
    (tmp_path / "secret/key").write_text("x")
    return Folders.of(tmp_path / "work", tmp_path / "models")


def test_paths_within_the_folders_are_found(folders: Folders) -> None:
    assert folders.inside("rows.jsonl") == folders.first / "rows.jsonl"
    assert folders.inside("a/../b") == folders.first / "b"
    assert folders.inside(folders.named["models"] / "m") == folders.named["models"] / "m"
    assert folders.short(folders.first / "a/b") == "a/b"


@pytest.mark.parametrize("path", ["../secret/key", "/etc/passwd", "a/../../secret", "~/x/../../../etc", "", "a\0b"])
def test_a_path_that_leads_out_is_refused(folders: Folders, path: str) -> None:
    if path.startswith("~"):
        assert folders.inside(path.split("/..")[0]).is_relative_to(folders.first)  # ~ is a name like any other
        return
    with pytest.raises(ValueError, match=r"outside the folders|is not a path"):
        folders.inside(path)


def test_links_are_followed_before_they_are_judged(folders: Folders, tmp_path: Path) -> None:
    (folders.first / "out").symlink_to(tmp_path / "secret")
    (folders.first / "over").symlink_to(folders.named["models"])
    (folders.first / "circle").symlink_to(folders.first / "circle")
    with pytest.raises(ValueError, match="outside the folders"):
        folders.inside("out/key")
    assert folders.inside("over/m") == folders.named["models"] / "m"
    try:
        assert folders.inside("circle").is_relative_to(folders.first)
    except ValueError as error:
        assert "circle" in str(error)


def test_a_folder_whose_name_begins_alike_is_another(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work2").mkdir()
    with pytest.raises(ValueError, match="outside"):
        Folders.of(tmp_path / "work").inside(tmp_path / "work2/x")


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"there is no folder {tmp_path}/nowhere"):
        Folders.of(tmp_path / "nowhere")
    (tmp_path / "models").mkdir()
    with pytest.raises(ValueError, match=f"no folder {tmp_path}/model: did you mean {tmp_path}/models?"):
        Folders.of(tmp_path / "model")


# --- languages --------------------------------------------------------------------------------------------------------


def said() -> set[str]:
    """The constant texts that the pages say."""
    found = set()
    for file in STUDIO.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name == "say" and isinstance(node.args[0], ast.Constant):
                found.add(node.args[0].value)
    return found


def test_every_text_of_the_pages_has_a_chinese_one() -> None:
    assert len(said()) > 5
    assert not (said() | set(TITLES.values())) - words().keys()


def test_a_translation_keeps_the_values_of_its_text() -> None:
    for english, chinese in words().items():
        assert set(re.findall(r"\{(\w+)", english)) == set(re.findall(r"\{(\w+)", chinese)), english


def test_a_text_without_a_translation_stays_english() -> None:
    assert Language("zh").say("no such text {n}", n=3) == "no such text 3"
    assert Language("zh").say("Runs") == "运行" and Language("en").say("Runs") == "Runs"


@pytest.mark.parametrize(
    ("header", "code"), [("zh-CN,zh;q=0.9,en;q=0.8", "zh"), ("de,en;q=0.5,zh;q=0.3", "en"), ("", "en"), ("zh-TW", "zh")]
)
def test_the_browser_chooses_the_language(header: str, code: str) -> None:
    assert preferred(header) == code


# --- jobs -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Jobs]:
    found = Jobs(tmp_path / "jobs", tmp_path)
    yield found
    for job in found.all():
        if job.is_active:
            found.stop(job.name, now=True)


def ended(desk: Jobs, name: str) -> jobs.Job:
    wait_for(lambda: not desk.named(name).is_active, "the job's end")
    return desk.named(name)


def test_a_job_is_a_command_with_a_folder_and_an_end(desk: Jobs) -> None:
    job = desk.start(["--version"])
    done = ended(desk, job.name)
    assert (done.state, done.code, done.words) == ("finished", 0, ("--version",))
    assert "Python" in done.log() and done.ended is not None and done.ended >= done.started
    assert [each.name for each in desk.all()] == [job.name]


def test_a_failed_job_says_its_error(desk: Jobs) -> None:
    done = ended(desk, desk.start(["sft", "--modle", "x"]).name)
    assert (done.state, done.code) == ("failed", 2)
    assert done.reason.startswith("unknown flag --modle: did you mean --model")


def test_words_reach_the_command_as_they_are_and_no_shell_reads_them(desk: Jobs, tmp_path: Path) -> None:
    done = ended(desk, desk.start(["; touch hacked; $(touch hacked)"]).name)
    assert "; touch hacked; $(touch hacked)" in done.reason and not (tmp_path / "hacked").exists()


def test_a_job_goes_on_without_its_starter_and_can_be_stopped_by_another(
    desk: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_of(tmp_path)
    job = desk.start(["runs", "log", "slow", "--follow"])  # until the run ends, which this process plays
    other = Jobs(desk.folder, tmp_path)
    wait_for(lambda: other.named(job.name).state == "running", "the start")
    other.stop(job.name)
    done = ended(other, job.name)
    assert (done.state, done.reason) == ("stopped", "by the studio")
    with pytest.raises(ValueError, match="is not running: stopped"):
        other.stop(job.name)


def test_a_job_that_is_killed_says_so(desk: Jobs, tmp_path: Path) -> None:
    run_of(tmp_path)
    job = desk.start(["runs", "log", "slow", "--follow"])
    running = wait_for(lambda: desk.named(job.name).process, "the start")
    os.kill(running.pid, signal.SIGKILL)
    done = ended(desk, job.name)
    assert done.state == "killed" and done.reason.startswith("by SIGKILL")


@pytest.mark.parametrize("name", ["nothing", "../jobs", "/etc", ""])
def test_an_unknown_job_is_an_error(desk: Jobs, name: str) -> None:
    with pytest.raises(ValueError, match="there is no job"):
        desk.named(name)


def run_of(folder: Path) -> None:
    """A run named `slow` of this process."""
    import time

    from swift.runs import processes, record

    made = record.Record(
        verb="sft", model="m", tuner="lora", command=["sft"], training=["sft"], python=sys.executable,
        working_folder=str(folder), environment={}, process=processes.of(os.getpid()), state="running",
        started=time.time(), heartbeat=time.time(),
    )  # fmt: skip
    (folder / "output/slow").mkdir(parents=True)
    record.write(folder / "output/slow", made)
    (folder / "output/slow/train.log").write_text("begun\n")


# --- the served pages -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    pytest.importorskip("nicegui")
    with served(tmp_path_factory.mktemp("studio")) as found:
        yield found


@pytest.mark.parametrize("name", ["", "train", "runs", "data", "chat", "evaluate", "serve"])
def test_every_page_is_served_to_whoever_has_the_token(server: Server, name: str) -> None:
    with httpx.Client(follow_redirects=True) as client:
        assert client.get(f"{server.root}/{name}").status_code == 401
        assert client.get(server.address).status_code == 200
        response = client.get(f"{server.root}/{name}", headers={"accept-language": "zh-CN"})
        assert response.status_code == 200 and "运行" in response.text
        assert "nonce" in response.headers["content-security-policy"]
        assert not re.findall(r'(?:src|href)="(?:https?:)?//', response.text)


def test_the_report_of_a_run_is_a_page_that_runs_nothing_and_other_folders_have_none(server: Server) -> None:
    run_of(server.folder)
    with httpx.Client(follow_redirects=True) as client:
        client.get(server.address)
        report = client.get(f"{server.root}/report?run=output/slow")
        assert report.status_code == 200 and "<h1>m, lora</h1>" in report.text
        policy = report.headers["content-security-policy"]
        assert policy.startswith("sandbox; default-src 'none'") and "script" not in policy
        for folder, complaint in (("/etc", "outside the folders"), ("output", "run.json"), ("", "is not a path")):
            refused = client.get(f"{server.root}/report", params={"run": folder})
            assert refused.status_code == 404 and complaint in refused.text


@needs_pages
def test_app_ui_serves_the_chat_alone(tmp_path: Path) -> None:
    with served(tmp_path, "--endpoint", "http://a/v1", verb="app-ui") as server, httpx.Client() as client:
        first = client.get(server.address)
        assert first.headers["location"] == "/?endpoint=http%3A%2F%2Fa%2Fv1"
        assert client.get(f"{server.root}/chat").status_code == 200
        assert client.get(f"{server.root}/train").status_code == 404


def test_app_ui_serves_a_checkpoint_while_its_pages_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = tmp_path / "checkpoint-3"
    checkpoint.mkdir()
    (checkpoint / "adapter_config.json").write_text("{}")
    seen: list[Any] = []

    def start(self: Jobs, words: list[str]) -> jobs.Job:
        seen.append(words)
        return jobs.Job("name", tmp_path, tuple(words), "starting", "", 0.0)

    monkeypatch.setattr(Jobs, "start", start)
    monkeypatch.setattr(Jobs, "stop", lambda self, name: seen.append(("stop", name)))
    monkeypatch.setattr(server_module, "run", lambda settings, config: seen.append(settings.start))
    assert cli.main(["app-ui", "--ckpt_dir", str(checkpoint), "--folders", str(tmp_path)]) == 0
    words = ["deploy", "--ckpt_dir", str(checkpoint), "--port", "0"]
    assert seen == [words, (("server", "name"),), ("stop", "name")]


def test_without_nicegui_a_line_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "nicegui", None)
    assert cli.main(["studio"]) == 2
    assert "pip install 'swift-agents[studio]'" in capsys.readouterr().err


def test_a_number_that_is_no_port_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["studio", "--port", "99999"]) == 2
    assert capsys.readouterr().err == "swift: error: --port: 99999 is not a port (0 to 65535)\n"


def test_a_port_in_use_is_a_line(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["studio", "--port", str(server.port)]) == 2
    assert f"127.0.0.1:{server.port} cannot be used" in capsys.readouterr().err
