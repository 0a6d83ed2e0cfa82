"""A hub for one test run: `python hub_server.py PORT`.

It offers what huggingface_hub needs to publish a model and to fetch it: repositories, branches, commits that pin every file, and
Git LFS uploads. All is kept in memory. Only TOKEN may write.

What the client reads of an answer is as the Hugging Face Hub gives it: the headers X-Repo-Commit, ETag, X-Linked-Etag and
X-Error-Code, and 401 instead of 404 for a client without access to a private repository.
"""

import base64
import hashlib
import json
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_" + "t" * 34
LFS = ("*.safetensors",)


@dataclass
class Repository:
    """A repository. `commits`: the files of each commit, path to content. `branches`: the newest commit of each branch."""

    private: bool
    commits: dict[str, dict[str, bytes]] = field(default_factory=lambda: {"0" * 40: {}})
    branches: dict[str, str] = field(default_factory=lambda: {"main": "0" * 40})

    def find(self, revision: str) -> str | None:
        return self.branches.get(revision, revision if revision in self.commits else None)

    def commit(self, branch: str, files: dict[str, bytes]) -> str:
        content = json.dumps([self.branches[branch], *sorted((path, sha1(data)) for path, data in files.items())])
        identity = hashlib.sha1(content.encode()).hexdigest()
        self.commits[identity] = files
        self.branches[branch] = identity
        return identity


class HubError(Exception):
    """An answer of an error: its status, and the word that the client reads in X-Error-Code."""

    def __init__(self, status: int, code: str) -> None:
        super().__init__(code)
        self.status, self.code = status, code


class Hub(BaseHTTPRequestHandler):
    """Answers one request. `routes` are tried in order: method, pattern of the path, handler of the pattern's groups."""

    protocol_version = "HTTP/1.1"
    repositories: dict[str, Repository] = {}
    objects: dict[str, bytes] = {}

    def handle_one(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(urlsplit(self.path).path)
        method = "GET" if self.command == "HEAD" else self.command
        try:
            for allowed, pattern, handler in ROUTES:
                match = re.fullmatch(pattern, path) if allowed == method else None
                if match:
                    handler(self, **match.groupdict())
                    return
            raise HubError(404, "RouteNotFound")
        except HubError as error:
            self.answer({"error": error.code}, status=error.status, headers={"X-Error-Code": error.code})

    do_GET = do_HEAD = do_POST = do_PUT = handle_one

    def answer(self, content: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        print(format % args, flush=True)

    def known(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def check_writer(self) -> None:
        if not self.known():
            raise HubError(401, "Unauthorized")

    def url(self) -> str:
        return f"http://{self.headers['Host']}"

    def repository(self, repo: str) -> Repository:
        found = self.repositories.get(repo)
        if found is None or (found.private and not self.known()):
            raise HubError(404 if self.known() else 401, "RepoNotFound")
        return found

    def files(self, repo: str, revision: str) -> tuple[str, dict[str, bytes]]:
        """The commit that a revision names, and its files."""
        repository = self.repository(repo)
        commit = repository.find(revision)
        if commit is None:
            raise HubError(404, "RevisionNotFound")
        return commit, repository.commits[commit]

    # -- what publishing asks -----------------------------------------------------------------------------------------------

    def validate_card(self) -> None:
        content = json.loads(self.body)["content"]
        if not content.startswith("---\n"):
            self.answer({"errors": [], "warnings": [{"message": "empty or missing yaml metadata in repo card"}]})
            return
        self.answer({"errors": [], "warnings": []})

    def create(self) -> None:
        self.check_writer()
        asked = json.loads(self.body)
        repo = f"{asked['organization']}/{asked['name']}"
        existed = repo in self.repositories
        if not existed:
            self.repositories[repo] = Repository(private=asked.get("visibility") == "private" or bool(asked.get("private")))
        self.answer({"url": f"{self.url()}/{repo}", "name": repo}, status=409 if existed else 200)

    def create_branch(self, repo: str, branch: str) -> None:
        self.check_writer()
        repository = self.repository(repo)
        existed = branch in repository.branches
        repository.branches.setdefault(branch, repository.branches["main"])
        self.answer({}, status=409 if existed else 200)

    def preupload(self, repo: str, revision: str) -> None:
        self.check_writer()
        self.files(repo, revision)
        self.answer({"files": [upload_mode(file["path"]) for file in json.loads(self.body)["files"]]})

    def lfs_batch(self, repo: str) -> None:
        self.check_writer()
        self.repository(repo)
        objects = [
            {**wanted, "actions": {"upload": {"href": f"{self.url()}/objects/{wanted['oid']}"}}}
            for wanted in json.loads(self.body)["objects"]
        ]
        self.answer({"transfer": "basic", "objects": objects})

    def put_object(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise HubError(400, "HashMismatch")
        self.objects[oid] = self.body
        self.answer({})

    def commit(self, repo: str, revision: str) -> None:
        self.check_writer()
        files = dict(self.files(repo, revision)[1])
        for line in self.body.splitlines():
            operation = json.loads(line)
            self.apply(operation["key"], operation["value"], files)
        identity = self.repository(repo).commit(revision, files)
        self.answer({"commitUrl": f"{self.url()}/{repo}/commit/{identity}", "commitOid": identity})

    def apply(self, key: str, value: dict[str, Any], files: dict[str, bytes]) -> None:
        if key == "file":
            files[value["path"]] = base64.b64decode(value["content"])
        elif key == "lfsFile":
            if value["oid"] not in self.objects:
                raise HubError(400, "LfsObjectMissing")
            files[value["path"]] = self.objects[value["oid"]]
        elif key == "deletedFile":
            del files[value["path"]]

    # -- what fetching asks -------------------------------------------------------------------------------------------------

    def info(self, repo: str, revision: str | None = None) -> None:
        commit, files = self.files(repo, revision or "main")
        siblings = [{"rfilename": path} for path in files]
        self.answer({"id": repo, "sha": commit, "private": self.repository(repo).private, "siblings": siblings, "tags": []})

    def tree(self, repo: str, revision: str, folder: str | None = None) -> None:
        _, files = self.files(repo, revision)
        inside = {path: data for path, data in files.items() if folder is None or path.startswith(folder + "/")}
        if folder is not None and not inside:
            raise HubError(404, "EntryNotFound")
        self.answer([entry(path, data) for path, data in inside.items()])

    def resolve(self, repo: str, revision: str, path: str) -> None:
        commit, files = self.files(repo, revision)
        if path not in files:
            self.answer({}, status=404, headers={"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
            return
        data = files[path]
        headers = {"X-Repo-Commit": commit, "ETag": f'"{sha1(data)}"'}
        if is_lfs(path):
            headers |= {"X-Linked-Etag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Linked-Size": str(len(data))}
        self.answer(data, headers=headers)


def sha1(data: bytes) -> str:
    """Git's hash of a file."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def is_lfs(path: str) -> bool:
    return any(fnmatch(path, pattern) for pattern in LFS)


def upload_mode(path: str) -> dict[str, Any]:
    return {"path": path, "uploadMode": "lfs" if is_lfs(path) else "regular", "shouldIgnore": False, "oid": None}


def entry(path: str, data: bytes) -> dict[str, Any]:
    lfs = {"lfs": {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}} if is_lfs(path) else {}
    return {"type": "file", "path": path, "size": len(data), "oid": sha1(data), **lfs}


def routes() -> Iterator[tuple[str, str, Callable[..., None]]]:
    repo, revision = r"(?P<repo>[^/]+/[^/]+)", r"(?P<revision>[^/]+)"
    yield "POST", "/api/validate-yaml", Hub.validate_card
    yield "POST", "/api/repos/create", Hub.create
    yield "POST", f"/api/models/{repo}/branch/(?P<branch>.+)", Hub.create_branch
    yield "POST", f"/api/models/{repo}/preupload/{revision}", Hub.preupload
    yield "POST", rf"/{repo}\.git/info/lfs/objects/batch", Hub.lfs_batch
    yield "PUT", "/objects/(?P<oid>[0-9a-f]{64})", Hub.put_object
    yield "POST", f"/api/models/{repo}/commit/{revision}", Hub.commit
    yield "GET", f"/api/models/{repo}", Hub.info
    yield "GET", f"/api/models/{repo}/revision/{revision}", Hub.info
    yield "GET", f"/api/models/{repo}/tree/{revision}(?:/(?P<folder>.+))?", Hub.tree
    yield "GET", f"/{repo}/resolve/{revision}/(?P<path>.+)", Hub.resolve


ROUTES = tuple(routes())

if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Hub).serve_forever()
