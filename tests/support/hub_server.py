"""A local endpoint that speaks as much of the Hub's protocol as models and datasets need: refs, file lists, files."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs

LFS_SUFFIXES = (".safetensors", ".bin", ".parquet")
Repositories = dict[str, dict[str, Path]]  # "models/owner/name" or "datasets/owner/name" -> {revision: folder}


def commit_of(repository: str, revision: str) -> str:
    """The commit that a revision of a repository has here."""
    return hashlib.sha1(f"{repository} {revision}".encode()).hexdigest()


@contextlib.contextmanager
def hub_server(repositories: Repositories) -> Iterator[tuple[str, list[str]]]:
    """(address, log of requests) of a server of `repositories`, each revision a folder."""
    log: list[str] = []

    class Handler(_Handler):
        repos, requests_seen = repositories, log

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", log
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    repos: Repositories
    requests_seen: list[str]
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Nothing on standard error."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        """The entries of some paths, files and folders."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        path = self.path.split("?")[0]
        self.requests_seen.append(f"POST {path}")
        match = re.fullmatch(r"/api/((?:models|datasets)/[^/]+/[^/]+)/paths-info/(.+)", path)
        found = self._folder(match[1], match[2]) if match and match[1] in self.repos else None
        if found is None:
            self._missing("RepoNotFound")
            return
        is_json = "json" in (self.headers.get("Content-Type") or "")
        asked = json.loads(body).get("paths", []) if is_json else parse_qs(body).get("paths", [])
        self._json([_any_entry(found[1] / name, found[1]) for name in asked if (found[1] / name).exists()])

    def _answer(self) -> None:
        path = self.path.split("?")[0]
        self.requests_seen.append(f"{self.command} {path}")
        if match := re.fullmatch(r"/api/((?:models|datasets)/[^/]+/[^/]+)(?:/(refs|revision/.+|tree/.+))?", path):
            self._api(match[1], match[2])
        elif match := re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._file(f"{'datasets' if match[1] else 'models'}/{match[2]}", match[3], match[4])
        else:
            self._missing("RepoNotFound")

    def _api(self, repository: str, rest: str | None) -> None:
        if repository not in self.repos:
            self._missing("RepoNotFound")
        elif rest == "refs":
            refs = [
                {"name": name, "ref": f"refs/heads/{name}", "targetCommit": commit_of(repository, name)}
                for name in self.repos[repository]
            ]
            self._json({"branches": refs, "tags": [], "converts": []})
        else:
            self._listing(repository, *(rest or "revision/main").split("/", 2)[:2], rest or "")

    def _listing(self, repository: str, kind: str, revision: str, rest: str) -> None:
        found = self._folder(repository, revision)
        if found is None:
            self._missing("RevisionNotFound")
            return
        name, folder = found
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        if kind == "tree":
            below = folder.joinpath(*rest.split("/")[2:])
            is_recursive = parse_qs(self.path.partition("?")[2]).get("recursive", ["0"])[0].lower() in ("1", "true")
            within = sorted(below.rglob("*") if is_recursive else below.glob("*"))
            self._json([_any_entry(path, folder) for path in within])
            return
        self._json(
            {
                "id": repository.split("/", 1)[1],
                "sha": commit_of(repository, name),
                "siblings": [_entry(path, folder, "rfilename") for path in files],
                "tags": [],
                "private": False,
                "gated": False,
                "disabled": False,
                "downloads": 0,
                "likes": 0,
            }
        )

    def _file(self, repository: str, revision: str, name: str) -> None:
        found = self._folder(repository, revision) if repository in self.repos else None
        if found is None:
            self._missing("RepoNotFound" if repository not in self.repos else "RevisionNotFound")
            return
        path = found[1] / name
        if not path.is_file():
            self._missing("EntryNotFound", commit_of(repository, found[0]))
            return
        content = path.read_bytes()
        headers = {"X-Repo-Commit": commit_of(repository, found[0]), "ETag": f'"{_etag(path, content)}"'}
        first, last = 0, len(content) - 1
        if match := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
            first, last = int(match[1]), min(int(match[2] or last), last)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
        self._send(206 if "Content-Range" in headers else 200, content[first : last + 1], headers)

    def _folder(self, repository: str, revision: str) -> tuple[str, Path] | None:
        """(revision, folder) of a name or a commit."""
        revision = revision.replace("%2F", "/")
        for name, folder in self.repos[repository].items():
            if revision in (name, commit_of(repository, name)):
                return name, folder
        return None

    def _json(self, content: object) -> None:
        self._send(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _missing(self, code: str, commit: str = "") -> None:
        self._send(404, b"{}", {"X-Error-Code": code, **({"X-Repo-Commit": commit} if commit else {})})

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(content)), "Accept-Ranges": "bytes"}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _etag(path: Path, content: bytes) -> str:
    return hashlib.sha256(content).hexdigest() if path.suffix in LFS_SUFFIXES else hashlib.sha1(content).hexdigest()


def _any_entry(path: Path, folder: Path) -> dict[str, object]:
    """A file or folder as the listing of a tree shows it."""
    if path.is_dir():
        return {"type": "directory", "oid": "0" * 40, "size": 0, "path": path.relative_to(folder).as_posix()}
    return {"type": "file", "oid": "0" * 40, **_entry(path, folder, "path")}


def _entry(path: Path, folder: Path, key: str) -> dict[str, object]:
    content = path.read_bytes()
    entry: dict[str, object] = {key: path.relative_to(folder).as_posix(), "size": len(content), "blobId": "0" * 40}
    if path.suffix in LFS_SUFFIXES:
        sha256 = hashlib.sha256(content).hexdigest()
        entry["lfs"] = {"sha256": sha256, "oid": sha256, "size": len(content), "pointerSize": 130}
    return entry
