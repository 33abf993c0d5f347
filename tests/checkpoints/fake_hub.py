"""A Hub on this machine, as far as uploading and loading a model need one.

It answers what huggingface_hub asks: who a token is, repositories, how a file is to be uploaded, Git LFS' batches and
uploads, commits (ndjson), lists of files and the files. What arrives is kept, and refused where the Hub would refuse
it: an object whose hash is not its name, a commit of an object that never arrived.
"""

import base64
import hashlib
import json
import re
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

WRITER, READER = "hf_writer", "hf_reader"
LARGE = (".safetensors", ".png")


class FakeHub:
    """`repos[name]` holds the files of each repository, `private` the names of those that are."""

    def __init__(self):
        self.repos: dict[str, dict[str, bytes]] = {}
        self.commits: list[str] = []
        self.private: set[str] = set()
        self.objects: dict[str, bytes] = {}
        self.lose_uploads = False  # hang up in the middle of a large file
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def answer(self, status: int, body=None, **headers):
        data = body if isinstance(body, bytes) else json.dumps({} if body is None else body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def read(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def handle_request(self):
        path = urlsplit(self.path).path
        for method, pattern, name in ROUTES:
            found = re.fullmatch(pattern, path)
            if found and self.command in method:
                return getattr(self, name)(*found.groups())
        self.read()
        return self.answer(404, {"error": f"Not found: {path}"})

    do_GET = do_HEAD = do_POST = do_PUT = handle_request

    def may_write(self) -> bool:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token == WRITER:
            return True
        self.answer(403 if token == READER else 401, {"error": "not you"})
        return False

    def whoami(self):
        self.answer(200, {"name": "me", "auth": {"type": "access_token"}})

    def create(self):
        asked = json.loads(self.read())
        if not self.may_write():
            return
        name = f"{asked.get('organization') or 'me'}/{asked['name']}"
        if name in self.hub.repos:
            return self.answer(409, {"error": "exists", "url": f"{self.hub.url}/{name}"})
        self.hub.repos[name] = {".gitattributes": b"*.safetensors filter=lfs\n"}
        if asked.get("visibility") == "private" or asked.get("private"):
            self.hub.private.add(name)
        self.answer(200, {"url": f"{self.hub.url}/{name}"})

    def validate_yaml(self):
        self.read()
        self.answer(200, {"errors": [], "warnings": []})

    def preupload(self, repo):
        files = json.loads(self.read())["files"]
        modes = [
            {"path": f["path"], "uploadMode": "lfs" if f["path"].endswith(LARGE) else "regular", "shouldIgnore": False}
            for f in files
        ]
        if self.may_write():
            self.answer(200, {"files": modes})

    def batch(self, repo):
        objects = json.loads(self.read())["objects"]
        for each in objects:
            if each["oid"] not in self.hub.objects:
                each["actions"] = {"upload": {"href": f"{self.hub.url}/objects/{each['oid']}"}}
        if self.may_write():
            self.answer(200, {"transfer": "basic", "objects": objects})

    def put_object(self, oid):
        if self.hub.lose_uploads:
            self.rfile.read(10)
            self.close_connection = True
            return self.connection.shutdown(socket.SHUT_RDWR)
        data = self.read()
        if hashlib.sha256(data).hexdigest() != oid:
            return self.answer(400, {"error": "wrong hash"})
        self.hub.objects[oid] = data
        return self.answer(200)

    def commit(self, repo):
        lines = [json.loads(line) for line in self.read().splitlines()]
        if not self.may_write():
            return
        files = dict(self.hub.repos[repo])
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                if value["oid"] not in self.hub.objects:
                    return self.answer(400, {"error": f"{value['path']} never arrived"})
                files[value["path"]] = self.hub.objects[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        self.hub.repos[repo] = files
        self.hub.commits.append(repo)
        oid = f"{len(self.hub.commits):040x}"
        self.answer(200, {"commitUrl": f"{self.hub.url}/{repo}/commit/{oid}", "commitOid": oid})

    def sha(self) -> str:
        return f"{len(self.hub.commits):040x}"

    def info(self, repo):
        if repo not in self.hub.repos:
            return self.answer(404, {"error": "no"}, X_Error_Code="RepoNotFound")
        siblings = [{"rfilename": name} for name in self.hub.repos[repo]]
        return self.answer(
            200, {"id": repo, "private": repo in self.hub.private, "sha": self.sha(), "siblings": siblings, "tags": []}
        )

    def tree(self, repo, folder=None):
        if repo not in self.hub.repos:
            return self.answer(404, {"error": "no"}, X_Error_Code="RepoNotFound")
        if folder or parse_qs(urlsplit(self.path).query).get("cursor"):
            return self.answer(404, {"error": "no"}, X_Error_Code="EntryNotFound")
        files = self.hub.repos[repo].items()
        rows = [{"type": "file", "path": n, "size": len(d), "oid": hashlib.sha1(d).hexdigest()} for n, d in files]
        return self.answer(200, rows)

    def resolve(self, repo, name):
        files = self.hub.repos.get(repo)
        if files is None:
            return self.answer(404, {"error": "no"}, X_Error_Code="RepoNotFound")
        if name not in files:
            return self.answer(404, {"error": "no"}, X_Error_Code="EntryNotFound", X_Repo_Commit=self.sha())
        etag = f'"{hashlib.sha256(files[name]).hexdigest()}"'
        return self.answer(200, files[name], ETag=etag, X_Repo_Commit=self.sha())


REPO = r"([\w.-]+/[\w.-]+)"
ROUTES = [
    ({"GET"}, "/api/whoami-v2", "whoami"),
    ({"POST"}, "/api/repos/create", "create"),
    ({"POST"}, "/api/validate-yaml", "validate_yaml"),
    ({"POST"}, f"/api/models/{REPO}/preupload/main", "preupload"),
    ({"POST"}, f"/{REPO}\\.git/info/lfs/objects/batch", "batch"),
    ({"PUT"}, r"/objects/(\w+)", "put_object"),
    ({"POST"}, f"/api/models/{REPO}/commit/main", "commit"),
    ({"GET"}, f"/api/models/{REPO}(?:/revision/[^/]+)?", "info"),
    ({"GET"}, f"/api/models/{REPO}/tree/[^/]+(?:/(.+))?", "tree"),
    ({"GET", "HEAD"}, f"/{REPO}/resolve/[^/]+/(.+)", "resolve"),
]
