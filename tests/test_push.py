"""`swift export --push_to_hub`: a folder is uploaded, to a stand-in for Hugging Face on this machine."""

import base64
import hashlib
import json
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from tiny import tiny_model_folder

from swift import cli


class Hub(BaseHTTPRequestHandler):
    """The requests of an upload, as Hugging Face answers them: files are kept in `server.files`."""

    def log_message(self, *_):
        pass

    def body(self):
        if self.headers.get("Transfer-Encoding") == "chunked":
            data = b""
            while size := int(self.rfile.readline(), 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return data
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def say(self, value, status=200):
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        if self.headers.get("Authorization") != "Bearer right":
            return self.say({"error": "who are you?"}, 401)
        self.say(
            {"name": "me", "type": "user", "auth": {}} if "whoami" in self.path else {"sha": "0" * 40, "siblings": []}
        )

    def do_PUT(self):
        data = self.body()
        self.server.stored[hashlib.sha256(data).hexdigest()] = data
        self.say({})

    def do_POST(self):
        data, host = self.body(), f"http://127.0.0.1:{self.server.server_address[1]}"
        if self.headers.get("Authorization") != "Bearer right":
            return self.say({"error": "who are you?"}, 401)
        if self.path.endswith("/repos/create"):
            self.server.made.append(json.loads(data))
            return self.say({"url": f"{host}/me/mine", "id": "me/mine"})
        if "/preupload/" in self.path:
            files = json.loads(data)["files"]
            kinds = [
                {"path": each["path"], "uploadMode": "lfs" if each["size"] > 20000 else "regular"} for each in files
            ]
            return self.say({"files": [{**each, "shouldIgnore": False, "oid": None} for each in kinds]})
        if self.path.endswith("/objects/batch"):
            wanted = json.loads(data)["objects"]
            actions = [{**each, "actions": {"upload": {"href": f"{host}/store/{each['oid']}"}}} for each in wanted]
            return self.say({"transfer": "basic", "objects": actions})
        if "/commit/" in self.path:
            for line in filter(None, data.split(b"\n")):
                entry = json.loads(line)
                value = entry["value"]
                if entry["key"] == "header":
                    self.server.messages.append(value["summary"])
                elif entry["key"] == "file":
                    self.server.files[value["path"]] = base64.b64decode(value["content"])
                elif entry["key"] == "lfsFile":
                    self.server.files[value["path"]] = self.server.stored[value["oid"]]
            return self.say({"commitUrl": f"{host}/me/mine/commit/1", "commitOid": "1" * 40, "success": True})
        return self.say({}, 200 if re.search("validate-yaml|verify", self.path) else 404)


@pytest.fixture
def hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.files, server.stored, server.made, server.messages = {}, {}, [], []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


def push(hub, *argv, home):
    """In a process of its own: the client reads the hub's address when it is imported."""
    env = {
        "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_address[1]}",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HOME": str(home),
        "PYTHONPATH": ":".join(sys.path),
        "PATH": "/usr/bin:/bin",
    }
    command = [sys.executable, "-m", "swift.cli", "export", *map(str, argv), "--use_hf", "true"]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)


def test_a_folder_is_uploaded_whole_with_the_message_and_the_token(hub, tmp_path):
    folder = tiny_model_folder(tmp_path / "base")
    flags = ["--model_id_or_path", folder, "--push_to_hub", "true", "--hub_model_id", "me/mine", "--hub_token", "right"]
    done = push(hub, *flags, "--hub_private_repo", "true", "--commit_message", "first", home=tmp_path / "hf")
    assert done.returncode == 0, done.stderr
    assert "/me/mine" in done.stderr
    assert "right" not in done.stdout + done.stderr
    written = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert {name: hub.files.get(name) for name in written} == written
    assert hub.made[0].get("visibility") == "private" or hub.made[0].get("private") is True
    assert hub.messages == ["first"]


def test_a_hub_that_says_no_is_one_line(hub, tmp_path):
    folder = tiny_model_folder(tmp_path / "base")
    flags = ["--model_id_or_path", folder, "--push_to_hub", "true", "--hub_model_id", "me/mine", "--hub_token", "wrong"]
    done = push(hub, *flags, home=tmp_path / "hf")
    assert done.returncode == 2
    assert done.stderr.strip().count("\n") == 0 and "refuses me/mine" in done.stderr
    assert hub.files == {}


@pytest.mark.parametrize(
    "flags, why",
    [
        (["--push_to_hub", "true"], "needs --hub_model_id OWNER/NAME"),
        (["--push_to_hub", "true", "--hub_model_id", "mine", "--use_hf", "true"], "a hub id is OWNER/NAME"),
        (["--push_to_hub", "true", "--hub_model_id", "me/mine", "--use_hf", "true"], "uploads a folder"),
        (["--hub_token", "x"], "--hub_token does nothing without --push_to_hub true"),
    ],
)
def test_what_cannot_be_pushed_is_told_first(capsys, monkeypatch, flags, why):
    monkeypatch.delenv("SWIFT_OFFLINE", raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    assert cli.main(["export", *flags]) == 2
    assert why in capsys.readouterr().err
