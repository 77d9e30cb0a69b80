"""A server in a thread that speaks what `huggingface_hub` asks of the hub: repositories, commits, LFS, files."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

TOKEN = "hf_" + "w" * 34
"""What may write, and see what is private."""
LFS = (".safetensors", ".pt", ".png", ".onnx")
"""Suffixes of what the hub keeps outside of git."""


@dataclass
class Repository:
    """A repository: its files by commit, the last one main, and other names of commits."""

    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)

    def commit(self, files: dict[str, bytes], message: str = "") -> str:
        self.messages.append(message)
        digest = repr((sorted(files.items()), len(self.commits)))
        name = hashlib.sha1(digest.encode()).hexdigest()
        self.commits[name] = files
        return name

    @property
    def main(self) -> str:
        return next(reversed(self.commits))

    def find(self, revision: str) -> str | None:
        commit = self.main if revision == "main" else self.tags.get(revision, revision)
        return commit if commit in self.commits else None


@dataclass
class Hub:
    """The state of the server.

    Attributes:
        repositories: by `owner/name`.
        stored: LFS objects by SHA-256.
        requests: what was asked: method, path, token.
        lies: paths of files, and what is sent instead of their listed bytes.
        change: what becomes of a listing before it is sent.
    """

    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    stored: dict[str, bytes] = field(default_factory=dict)
    requests: list[tuple[str, str, str]] = field(default_factory=list)
    lies: dict[str, bytes] = field(default_factory=dict)
    etag: str | None = None
    change: Callable[[dict[str, Any]], Any] = lambda listing: listing

    def hold(self, name: str, files: dict[str, bytes], *, private: bool = False) -> str:
        """Make a commit, and the repository where there is none; return the commit."""
        return self.repositories.setdefault(name, Repository(private)).commit(files)


@contextmanager
def serving() -> Iterator[Hub]:
    """Serve an empty hub on a free port while the block runs."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Refused(Exception):
    def __init__(self, status: int, code: str = "", message: str = "") -> None:
        self.status, self.headers = status, {"X-Error-Code": code, "X-Error-Message": message}


def _entry(path: str, content: bytes) -> dict[str, Any]:
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    entry: dict[str, Any] = {"rfilename": path, "size": len(content), "blobId": blob}
    if path.endswith(LFS):
        sha256 = hashlib.sha256(content).hexdigest()
        entry["lfs"] = {"size": len(content), "sha256": sha256, "pointerSize": 134}
    return entry


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: object) -> None:
        pass

    def do_GET(self) -> None:
        self._answer("GET")

    def do_HEAD(self) -> None:
        self._answer("HEAD")

    def do_POST(self) -> None:
        self._answer("POST")

    def do_PUT(self) -> None:
        self._answer("PUT")

    def _answer(self, method: str) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((method, path, self.headers.get("Authorization", "")))
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        try:
            for pattern, methods, answer in _ROUTES:
                found = re.fullmatch(pattern, path)
                if found and method in methods:
                    self._send(*answer(self, *found.groups()))
                    return
            raise _Refused(404)
        except _Refused as refused:
            self._send(refused.status, refused.headers, b'{"error": "refused"}')

    def _send(self, status: int, headers: dict[str, str], content: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    @property
    def _writer(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _repository(self, name: str, *, write: bool = False) -> Repository:
        sent = self.headers.get("Authorization")
        if sent and not self._writer:
            raise _Refused(401, "", "Invalid credentials in Authorization header")
        found = self.hub.repositories.get(name)
        if found is None or (found.private and not self._writer):
            raise _Refused(404 if self._writer else 401, "RepoNotFound", "Repository not found")
        if write and not self._writer:
            raise _Refused(403, "", "you may not write here")
        return found

    def _create(self) -> tuple[int, dict[str, str], bytes]:
        asked = json.loads(self.body)
        name = f"{asked['organization']}/{asked['name']}"
        if not self._writer:
            raise _Refused(401, "", "Invalid credentials in Authorization header")
        if name in self.hub.repositories:
            return 409, {}, json.dumps({"url": f"{self.hub.url}/{name}"}).encode()
        private = asked.get("visibility") == "private" or asked.get("private") is True
        self.hub.repositories[name] = Repository(private)
        self.hub.repositories[name].commit({".gitattributes": b"*.safetensors filter=lfs"})
        return 200, {}, json.dumps({"url": f"{self.hub.url}/{name}"}).encode()

    def _validate(self) -> tuple[int, dict[str, str], bytes]:
        parts = json.loads(self.body)["content"].split("---\n")
        wrong = len(parts) < 3 or not isinstance(yaml.safe_load(parts[1]), dict)
        said = {"errors": [{"message": "no metadata"}] if wrong else [], "warnings": []}
        return 400 if wrong else 200, {}, json.dumps(said).encode()

    def _preupload(self, name: str, revision: str) -> tuple[int, dict[str, str], bytes]:
        self._repository(name, write=True)
        paths = [file["path"] for file in json.loads(self.body)["files"]]
        modes = [
            {"path": path, "uploadMode": "lfs" if path.endswith(LFS) else "regular", "shouldIgnore": False}
            for path in paths
        ]
        return 200, {}, json.dumps({"files": modes}).encode()

    def _batch(self, name: str) -> tuple[int, dict[str, str], bytes]:
        self._repository(name, write=True)
        objects = [
            {**asked, "actions": {"upload": {"href": f"{self.hub.url}/lfs/{asked['oid']}"}}}
            for asked in json.loads(self.body)["objects"]
        ]
        return 200, {}, json.dumps({"transfer": "basic", "objects": objects}).encode()

    def _store(self, oid: str) -> tuple[int, dict[str, str], bytes]:
        assert hashlib.sha256(self.body).hexdigest() == oid
        self.hub.stored[oid] = self.body
        return 200, {}, b""

    def _stored(self, oid: str) -> tuple[int, dict[str, str], bytes]:
        return 200, {}, self.hub.stored[oid]

    def _commit(self, name: str, revision: str) -> tuple[int, dict[str, str], bytes]:
        repository = self._repository(name, write=True)
        files, message = dict(repository.commits[repository.main]), ""
        for line in map(json.loads, self.body.splitlines()):
            value = line["value"]
            match line["key"]:
                case "header":
                    message = value["summary"]
                case "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile":
                    files[value["path"]] = self.hub.stored[value["oid"]]
                case "deletedFile":
                    del files[value["path"]]
        oid = repository.commit(files, message)
        return 200, {}, json.dumps({"commitUrl": f"{self.hub.url}/{name}/commit/{oid}", "commitOid": oid}).encode()

    def _info(self, name: str, revision: str | None) -> tuple[int, dict[str, str], bytes]:
        repository = self._repository(name)
        commit = repository.find(revision or "main")
        if commit is None:
            raise _Refused(404, "RevisionNotFound")
        siblings = [_entry(path, content) for path, content in repository.commits[commit].items()]
        listing = {"id": name, "sha": commit, "private": repository.private, "siblings": siblings}
        return 200, {}, json.dumps(self.hub.change(listing)).encode()

    def _resolve(self, name: str, revision: str, path: str) -> tuple[int, dict[str, str], bytes]:
        repository = self._repository(name)
        commit = repository.find(revision)
        if commit is None or path not in repository.commits[commit]:
            raise _Refused(404, "RevisionNotFound" if commit is None else "EntryNotFound")
        content = repository.commits[commit][path]
        entry = _entry(path, content)
        etag = self.hub.etag or entry.get("lfs", {}).get("sha256", entry["blobId"])
        headers = {"X-Repo-Commit": commit, "ETag": f'"{etag}"'}
        sent = self.hub.lies.get(path, content)
        if "lfs" not in entry:
            return 200, headers, sent
        self.hub.stored[entry["lfs"]["sha256"]] = sent
        elsewhere = self.hub.url.replace("127.0.0.1", "localhost")  # the hub too sends large files from another host
        linked = {"X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(len(content))}
        return 302, {**headers, **linked, "Location": f"{elsewhere}/lfs/{entry['lfs']['sha256']}"}, b""


_REPOSITORY = r"([\w.-]+/[\w.-]+)"
_ROUTES: tuple[tuple[str, tuple[str, ...], Callable[..., tuple[int, dict[str, str], bytes]]], ...] = (
    ("/api/repos/create", ("POST",), _Handler._create),
    ("/api/validate-yaml", ("POST",), _Handler._validate),
    (f"/api/models/{_REPOSITORY}/preupload/(.+)", ("POST",), _Handler._preupload),
    (f"/api/models/{_REPOSITORY}/commit/(.+)", ("POST",), _Handler._commit),
    (f"/api/models/{_REPOSITORY}(?:/revision/(.+))?", ("GET",), _Handler._info),
    (rf"/{_REPOSITORY}\.git/info/lfs/objects/batch", ("POST",), _Handler._batch),
    ("/lfs/([0-9a-f]{64})", ("PUT",), _Handler._store),
    ("/lfs/([0-9a-f]{64})", ("GET", "HEAD"), _Handler._stored),
    (f"/{_REPOSITORY}/resolve/([^/]+)/(.+)", ("GET", "HEAD"), _Handler._resolve),
)
