"""A stand-in for the Hugging Face hub on this machine: it keeps repositories of files and answers their API."""

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = "hf_stand_in"


class Hub:
    """Repositories by name: each a dict of path -> bytes, and the list of its commits' messages."""

    def __init__(self):
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.commits: dict[str, list[str]] = {}
        self.private: dict[str, bool] = {}
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def do_POST(self):
                hub.post(self, self.rfile.read(int(self.headers.get("Content-Length", 0))))

            def do_GET(self):
                hub.get(self)

            do_HEAD = do_GET

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def revision(self, name):
        return hashlib.sha1(f"{name} {len(self.commits[name])}".encode()).hexdigest()

    def post(self, request, body):
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return answer(request, 401, {"error": "Invalid credentials in Authorization header"})
        path = request.path.partition("?")[0].strip("/").split("/")
        if path == ["api", "repos", "create"]:
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            taken = name in self.repositories
            self.repositories.setdefault(name, {})
            self.commits.setdefault(name, [])
            self.private.setdefault(name, bool(asked.get("private") or asked.get("visibility") == "private"))
            return answer(request, 409 if taken else 200, {"url": f"{self.address}/{name}", "error": "exists"})
        if path == ["api", "validate-yaml"]:  # of a card's first lines
            return answer(request, 200, {"errors": [], "warnings": []})
        name = "/".join(path[2:4])
        if path[4] == "preupload":
            files = [{**file, "uploadMode": "regular", "shouldIgnore": False} for file in json.loads(body)["files"]]
            return answer(request, 200, {"files": files})
        if path[4] == "commit":
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "header":
                    self.commits[name].append(line["value"]["summary"])
                else:
                    assert line["key"] == "file"
                    assert line["value"]["encoding"] == "base64"
                    self.repositories[name][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            sha = self.revision(name)
            return answer(request, 200, {"commitUrl": f"{self.address}/{name}/commit/{sha}", "commitOid": sha})
        return answer(request, 404, {"error": request.path})

    def get(self, request):
        path = request.path.partition("?")[0].strip("/").split("/")
        if path[:2] == ["api", "models"] and "/".join(path[2:4]) in self.repositories:
            name = "/".join(path[2:4])
            files = self.repositories[name]
            if path[4:5] == ["tree"]:
                listed = [{"type": "file", "path": p, "size": len(x), "oid": oid(x)} for p, x in files.items()]
                return answer(request, 200, listed)
            siblings = [{"rfilename": path} for path in files]
            return answer(request, 200, {"id": name, "sha": self.revision(name), "siblings": siblings})
        name, file = "/".join(path[:2]), "/".join(path[4:])
        if path[2:3] == ["resolve"] and file in self.repositories.get(name, {}):
            return answer(request, 200, self.repositories[name][file], self.revision(name))
        code = "EntryNotFound" if name in self.repositories else "RepoNotFound"
        return answer(request, 404, {"error": "not found"}, error=code)


def oid(content):
    return hashlib.sha1(content).hexdigest()


def answer(request, status, content, commit=None, error=None):
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    request.send_response(status)
    request.send_header("Content-Length", str(len(body)))
    if commit is not None:
        request.send_header("ETag", f'"{oid(body)}"')
        request.send_header("X-Repo-Commit", commit)
    else:
        request.send_header("Content-Type", "application/json")
    if error is not None:
        request.send_header("X-Error-Code", error)
    request.end_headers()
    if request.command != "HEAD":
        request.wfile.write(body)
