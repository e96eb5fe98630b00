"""The Hub's own client, of whichever version is installed, against a server of this process.

tests/test_pretrained.py replaces the client; here it runs, so that a version that has changed its
functions is found. `.ci/hub` runs this beside each major version. Needs huggingface_hub.
"""

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from test_pretrained import REPOSITORY, fields_of

pytestmark = pytest.mark.slow
COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_of_nobody"


class Server(ThreadingHTTPServer):
    """As much of the Hub as one repository of small files needs."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, dict[str, bytes]] = {}  # repository -> name -> content
        self.asked: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self._path()
        if found := re.fullmatch(r"/(\w+/\w+)/resolve/\w+/([\w.]+)", path):
            content = self.server.files.get(found[1], {}).get(found[2])
            missing = "EntryNotFound" if found[1] in self.server.files else "RepoNotFound"
            return self._send(content, "text/plain", missing)
        if found := re.fullmatch(r"/api/models/(\w+/\w+)(?:/(revision|tree)/\w+)?", path):
            return self._describe(found[1], found[2])
        if path == "/api/whoami-v2":
            return self._answer({"name": "ann", "type": "user", "orgs": []})
        self._send(None, "text/plain", "RepoNotFound")

    def do_POST(self) -> None:
        path, text = self._path(), self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._send(None, "text/plain", "RepoNotFound", status=401)
        if path == "/api/repos/create":
            name = f"ann/{json.loads(text)['name']}"
            self.server.files.setdefault(name, {})
            return self._answer({"url": f"{self.server.address}/{name}", "name": name, "id": name})
        if found := re.fullmatch(r"/api/models/(\w+/\w+)/(preupload|commit)/main", path):
            return self._upload(found[1], found[2], text)
        self._answer({"errors": [], "warnings": []})  # validate-yaml: of a card

    def _upload(self, name: str, what: str, text: bytes) -> None:
        if what == "preupload":
            files = [
                {"path": each["path"], "uploadMode": "regular", "shouldIgnore": False}
                for each in json.loads(text)["files"]
            ]
            return self._answer({"files": files})
        for line in map(json.loads, text.splitlines()):
            if line["key"] == "file":
                value = line["value"]
                self.server.files[name][value["path"]] = base64.b64decode(value["content"])
        url = f"{self.server.address}/{name}/commit/{COMMIT}"
        self._answer({"success": True, "commitOid": COMMIT, "commitUrl": url, "pullRequestUrl": ""})

    def _describe(self, name: str, what: str | None) -> None:
        files = self.server.files.get(name)
        if files is None:
            return self._send(None, "text/plain", "RepoNotFound")
        if what == "tree":
            sizes = [(path, len(content)) for path, content in files.items()]
            tree = [{"type": "file", "path": p, "size": n, "oid": COMMIT} for p, n in sizes]
            return self._answer(tree)
        siblings = [{"rfilename": path} for path in files]
        self._answer({"id": name, "modelId": name, "sha": COMMIT, "siblings": siblings})

    def _path(self) -> str:
        path = self.path.partition("?")[0]
        self.server.asked.append(f"{self.command} {path}")
        return path

    def _answer(self, value: Any) -> None:
        self._send(json.dumps(value).encode(), "application/json")

    def _send(self, content: bytes | None, kind: str, missing: str = "", status: int = 404) -> None:
        """A content, or that it is missing, with the code by which the client knows how."""
        self.send_response(200 if content is not None else status)
        if content is None:
            self.send_header("X-Error-Code", missing)
        body = content or b""
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha1(body).hexdigest()}"')
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def run(program: str, folder: Path, address: str, token: str = TOKEN) -> str:
    """What the program prints, in a process whose Hub is at the address."""
    settings = {"HF_ENDPOINT": address, "HF_HOME": str(folder / "home"), "HF_TOKEN": token}
    path = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        env={**os.environ, **settings, "PYTHONPATH": path, "HF_HUB_DISABLE_TELEMETRY": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


PUSH = """
import wavenet
model = wavenet.WaveNet(cycles=1, layers_per_cycle=2, labels={"digit": ["0", "1"]})
print(model.push_to_hub("voice", license="mit"))
model.save_pretrained("here")
"""
PULL = """
import torch, wavenet
one, other = (wavenet.WaveNet.from_pretrained(name) for name in ("ann/voice", "here"))
assert one.config == other.config
theirs = other.state_dict()
assert all(torch.equal(value, theirs[name]) for name, value in one.state_dict().items())
print("the same")
"""
FAIL = """
import wavenet
try:
    wavenet.WaveNet.from_pretrained("ann/nothing")
except FileNotFoundError as error:
    print(error)
"""


def test_a_model_goes_to_the_hub_and_comes_back(server: Server, tmp_path: Path) -> None:
    assert run(PUSH, tmp_path, server.address) == f"{server.address}/ann/voice\n"
    files = server.files["ann/voice"]
    assert sorted(files) == ["README.md", "config.json", "model.safetensors"]
    fields = fields_of(files["README.md"].decode())
    assert fields["library_name"] == "wavenet-torch" and fields["license"] == "mit"
    assert run(PULL, tmp_path, server.address) == "the same\n"
    files["README.md"] = b"mine"
    run(PUSH, tmp_path, server.address)
    assert files["README.md"] == b"mine", "a card that is there stays"


def test_what_is_not_there_is_one_error_with_its_reason(server: Server, tmp_path: Path) -> None:
    told = run(FAIL, tmp_path, server.address)
    assert re.match(r"ann/nothing is not a folder here, .*\(RepositoryNotFoundError: .*fsdd", told)
    assert any("ann/nothing" in asked for asked in server.asked)
    nobody = "http://127.0.0.1:9"  # the port of no server
    told = run(FAIL, tmp_path, nobody)
    assert re.match(r"ann/nothing is not a folder here, .*\(\w+: .*fsdd", told), told


def test_a_push_without_a_login_raises_the_clients_error(server: Server, tmp_path: Path) -> None:
    program = f"try:\n    exec({PUSH!r})\nexcept Exception as error:\n    print(type(error))\n"
    assert "Error" in run(program, tmp_path, server.address, token="hf_wrong")
    assert server.files == {}
