"""A hub of our own: the few routes of the Hugging Face hub's API that a download takes, over real HTTP."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit


@dataclass
class Hub:
    """Repositories, and what was asked of them.

    Attributes:
        commits: the folder of every commit of every repository, by ORG/NAME and then by commit.
        main: the commit of every repository's main branch.
        fetched: how often a file went out whole, by its name.
        flipped, cut: names of files that go out with a wrong byte, or without their last one.
    """

    address: str = ""
    commits: dict[str, dict[str, Path]] = field(default_factory=dict)
    main: dict[str, str] = field(default_factory=dict)
    fetched: Counter[str] = field(default_factory=Counter)
    flipped: set[str] = field(default_factory=set)
    cut: set[str] = field(default_factory=set)

    def push(self, hub: str, folder: Path) -> str:
        """Make `folder` the main branch of a repository; its commit."""
        commit = hashlib.sha1(f"{hub} {folder}".encode()).hexdigest()
        self.commits.setdefault(hub, {})[commit] = folder
        self.main[hub] = commit
        return commit

    def environment(self, home: Path) -> dict[str, str]:
        """Of a process on a node whose caches lie below `home`."""
        return {
            "HF_ENDPOINT": self.address,
            "HF_HOME": str(home / "huggingface"),
            "HF_HUB_CACHE": str(home / "huggingface" / "hub"),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1",
            "RAYPIPE_CACHE": str(home / "raypipe"),
        }


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub that listens on this machine until the block ends."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            words = unquote(urlsplit(self.path).path).strip("/").split("/")
            if words[:2] == ["api", "models"]:
                words = words[2:]
            name, route, file = "/".join(words[:2]), words[2:4], "/".join(words[4:])
            commits = hub.commits.get(name)
            # The client asks for more than files, and does without.
            if commits is None or len(route) < 2:
                return self._say(404, b"", {"X-Error-Code": "RepoNotFound"})
            what, revision = route
            commit = hub.main[name] if revision == "main" else revision
            if commit not in commits:
                return self._say(404, b"", {"X-Error-Code": "RevisionNotFound"})
            folder = commits[commit]
            files = sorted(path for path in folder.rglob("*") if path.is_file())
            if what == "revision":
                siblings = [{"rfilename": str(path.relative_to(folder))} for path in files]
                return self._json({"id": name, "sha": commit, "siblings": siblings})
            if what == "tree":
                return self._json([_described(path, folder) for path in files])
            if not (folder / file).is_file():
                return self._say(404, b"", {"X-Error-Code": "EntryNotFound"})
            self._file(folder / file, file, commit)

        def _file(self, path: Path, name: str, commit: str) -> None:
            content = path.read_bytes()
            tag = _lfs(path, content) or _git(content)
            about = {"X-Repo-Commit": commit, "ETag": f'"{tag}"', "X-Linked-Size": str(len(content))}
            if name in hub.flipped:
                content = content[:-1] + bytes([content[-1] ^ 1])
            if name in hub.cut and self.command == "GET":
                content = content[:-1]
            if self.command == "GET":
                hub.fetched[name] += 1
            self._say(200, content, about)

        def _json(self, value: object) -> None:
            self._say(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

        def _say(self, status: int, content: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for header, value in headers.items():
                self.send_header(header, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _described(path: Path, folder: Path) -> dict[str, object]:
    content = path.read_bytes()
    entry = {"type": "file", "path": str(path.relative_to(folder)), "size": len(content), "oid": _git(content)}
    if digest := _lfs(path, content):
        entry["lfs"] = {"oid": digest, "size": len(content), "pointerSize": 134}
    return entry


def _git(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _lfs(path: Path, content: bytes) -> str | None:
    """The SHA-256 of what the hub keeps apart from git."""
    return hashlib.sha256(content).hexdigest() if path.suffix in (".safetensors", ".bin") else None
