"""A GitHub with state on the loopback interface, held to GitHub's own OpenAPI description.

What is asked of it and what it answers are both checked; what does not fit is kept in
``violations``. Faults are queued and come before or after the work is done. Files of artifacts lie
on a second server, as GitHub's do.
"""

from __future__ import annotations

import json
import re
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from openapi_core import OpenAPI
from openapi_core.exceptions import OpenAPIError
from openapi_core.testing import MockRequest, MockResponse

DESCRIPTION = Path(__file__).parent / "data" / "github-openapi.json"

TOKEN = "ghs_" + "s3cret0fTheTests" * 2

LOGIN = "github-actions[bot]"


@cache
def description() -> dict[str, Any]:
    """The excerpt of GitHub's OpenAPI description."""
    loaded: dict[str, Any] = json.loads(DESCRIPTION.read_text())
    return loaded


@cache
def checker() -> OpenAPI:
    """Checks requests and answers against the description."""
    return OpenAPI.from_dict(description())


def example(component: str, /, **values: Any) -> dict[str, Any]:
    """A document of a component of the description: what it requires, and the values given."""
    made = _example({"$ref": f"#/components/schemas/{component}"})
    assert isinstance(made, dict)
    return {**made, **values}


def _example(schema: dict[str, Any]) -> Any:
    if "$ref" in schema:
        return _example(description()["components"]["schemas"][schema["$ref"].split("/")[-1]])
    if schema.get("nullable"):
        return None
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return _example(schema[key][0])
    if "allOf" in schema:
        parts = [_example(part) for part in schema["allOf"]]
        return {k: v for part in parts for k, v in part.items()}
    if "enum" in schema:
        return schema["enum"][0]
    kind = schema.get("type", "object")
    if kind == "object":
        required = schema.get("required", ())
        return {key: _example(schema.get("properties", {}).get(key, {})) for key in required}
    formats = {"uri": "https://example.com/", "date-time": "2026-01-01T00:00:00Z"}
    simple = {"integer": 1, "number": 1, "boolean": False, "array": []}
    return simple.get(kind, formats.get(schema.get("format", ""), "text"))


@dataclass
class Fault:
    """An answer that comes instead of the right one.

    Args:
        status: The HTTP status; 0 cuts the connection.
        headers: Further headers.
        body: What is sent, as JSON unless it is text.
        method: Only requests of this method.
        done: Whether the work is done all the same, and only its answer lost.
    """

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Any = field(default_factory=lambda: {"message": "a fault"})
    method: str = ""
    done: bool = False


@dataclass
class Seen:
    """A request that came in."""

    method: str
    path: str
    headers: dict[str, str]


Answer = tuple[int, Any, dict[str, str]]


@dataclass
class State:
    """What GitHub knows of one repository."""

    repository: str = "owner/name"
    url: str = ""
    storage: str = ""
    runners: dict[int, dict[str, Any]] = field(default_factory=dict)
    comments: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    runs: dict[int, dict[str, Any]] = field(default_factory=dict)
    artifacts: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    pulls: list[dict[str, Any]] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    stored: list[Seen] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    page: int = 100
    number: int = 100

    def next(self) -> int:
        """A number that nothing has yet."""
        self.number += 1
        return self.number

    # ------------------------------------------------------------------------ what tests prepare

    def add_runner(
        self, name: str, *labels: str, status: str = "online", busy: bool = False
    ) -> dict[str, Any]:
        """A runner of the repository."""
        made = example(
            "runner",
            id=self.next(),
            name=name,
            os="linux",
            status=status,
            busy=busy,
            labels=[{"id": i, "name": label, "type": "custom"} for i, label in enumerate(labels)],
        )
        self.runners[made["id"]] = made
        return made

    def add_comment(self, issue: int, body: str, login: str = LOGIN) -> dict[str, Any]:
        """A comment of an issue or pull request."""
        user = example("simple-user", login=login)
        made = example("issue-comment", id=self.next(), body=body, user=user)
        self.comments.setdefault(issue, []).append(made)
        return made

    def add_run(self, event: str = "schedule", owner: str = "owner") -> dict[str, Any]:
        """A run of a workflow."""
        number = self.next()
        head = example(
            "minimal-repository",
            full_name=f"{owner}/name",
            owner=example("simple-user", login=owner),
        )
        made = example(
            "workflow-run",
            id=number,
            event=event,
            html_url=f"https://github.com/{self.repository}/actions/runs/{number}",
            head_sha=f"{number:040x}",
            head_branch="topic",
            head_repository=head,
            repository=head,
        )
        self.runs[number] = made
        return made

    def add_artifact(
        self, run: int, name: str, content: bytes, expired: bool = False
    ) -> dict[str, Any]:
        """A file that a run has kept."""
        made = example("artifact", id=self.next(), name=name, expired=expired)
        self.artifacts.setdefault(run, []).append(made)
        self.files[f"/files/{made['id']}"] = content
        return made

    def add_pull(self, sha: str, owner: str = "owner", state: str = "open") -> int:
        """A pull request with a newest commit, from the branch `topic` of an owner's repository."""
        made = example("pull-request-simple", number=self.next(), state=state)
        made["head"]["sha"] = sha
        made["head"]["label"] = f"{owner}:topic"
        made["head"]["repo"] = example("repository", full_name=f"{owner}/name")
        self.pulls.append(made)
        return int(made["number"])

    # ------------------------------------------------------------------------- what GitHub does

    def list_runners(self, query: dict[str, str]) -> Answer:
        found = list(self.runners.values())
        return self.paged("actions/runners", found, query, "runners")

    def register(self, document: dict[str, Any]) -> Answer:
        if any(one["name"] == document["name"] for one in self.runners.values()):
            message = "Already exists - A runner with this name already exists."
            return 409, {"message": message}, {}
        made = self.add_runner(document["name"], *document["labels"], status="offline")
        return 201, {"runner": made, "encoded_jit_config": f"jit-secret-{made['id']}"}, {}

    def runner(self, method: str, number: int) -> Answer:
        if number not in self.runners:
            return 404, {"message": "Not Found"}, {}
        if method == "GET":
            return 200, self.runners[number], {}
        if self.runners[number]["busy"]:
            # GitHub lets a busy one go as well; its job fails.
            self.runners[number]["failed"] = True
        del self.runners[number]
        return 204, None, {}

    def comment(self, issue: int, document: dict[str, Any]) -> Answer:
        return 201, self.add_comment(issue, document["body"]), {}

    def edit(self, number: int, document: dict[str, Any]) -> Answer:
        for one in (c for comments in self.comments.values() for c in comments):
            if one["id"] == number:
                one["body"] = document["body"]
                return 200, one, {}
        return 404, {"message": "Not Found"}, {}

    def paged(
        self, path: str, entries: list[Any], query: dict[str, str], key: str | None = None
    ) -> Answer:
        size = min(int(query.get("per_page", 30)), self.page)
        page = int(query.get("page", 1))
        part = entries[(page - 1) * size : page * size]
        headers = {}
        if page * size < len(entries):
            url = f"{self.url}/repos/{self.repository}/{path}?per_page={size}&page={page + 1}"
            headers["Link"] = f'<{url}>; rel="next", <{url}>; rel="last"'
        return 200, part if key is None else {"total_count": len(entries), key: part}, headers

    def answer(self, method: str, path: str, query: dict[str, str], document: Any) -> Answer:
        """Does what is asked."""
        prefix = f"/repos/{self.repository}/"
        if not path.startswith(prefix):
            return 404, {"message": "Not Found"}, {}
        rest = path.removeprefix(prefix)
        numbers = [int(n) for n in re.findall(r"\d+", rest)]
        shape = re.sub(r"\d+", "N", rest)
        routes: dict[tuple[str, str], Callable[[], Answer]] = {
            ("GET", "actions/runners"): lambda: self.list_runners(query),
            ("POST", "actions/runners/generate-jitconfig"): lambda: self.register(document),
            ("GET", "actions/runners/N"): lambda: self.runner(method, numbers[0]),
            ("DELETE", "actions/runners/N"): lambda: self.runner(method, numbers[0]),
            ("GET", "actions/runs/N"): lambda: (
                (200, self.runs[numbers[0]], {})
                if numbers[0] in self.runs
                else (404, {"message": "Not Found"}, {})
            ),
            ("GET", "actions/runs/N/artifacts"): lambda: self.paged(
                rest, self.artifacts.get(numbers[0], []), query, "artifacts"
            ),
            ("GET", "actions/artifacts/N/zip"): lambda: (
                302,
                None,
                {"Location": f"{self.storage}/files/{numbers[0]}?signature=signed-secret"},
            ),
            ("GET", "issues/N/comments"): lambda: self.paged(
                rest, self.comments.get(numbers[0], []), query
            ),
            ("POST", "issues/N/comments"): lambda: self.comment(numbers[0], document),
            ("PATCH", "issues/comments/N"): lambda: self.edit(numbers[0], document),
            ("GET", "pulls"): lambda: self.paged(
                rest,
                [
                    pull
                    for pull in self.pulls
                    if pull["state"] == query["state"] and pull["head"]["label"] == query["head"]
                ],
                query,
            ),
        }
        return routes[method, shape]()


def _api(state: State) -> type[BaseHTTPRequestHandler]:
    class Api(_Quiet):
        def handle_one(self, method: str, path: str, query: dict[str, str], body: bytes) -> None:
            state.seen.append(Seen(method, self.path, dict(self.headers)))
            fault = next((f for f in state.faults if f.method in ("", method)), None)
            if fault is not None:
                state.faults.remove(fault)
                if fault.done:
                    state.answer(method, path, query, json.loads(body) if body else None)
                self.reply(fault.status, fault.body, fault.headers)
                return
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                # Worse than GitHub: it sends the secret back.
                said = f"Bad credentials: {self.headers.get('Authorization')}"
                self.reply(401, {"message": said}, {})
                return
            asked = MockRequest(
                state.url, method.lower(), path, args=query, data=body or None, headers={}
            )
            try:
                checker().validate_request(asked)
            except OpenAPIError as error:
                state.violations.append(f"{method} {self.path}: {error}: {error.__cause__}")
                self.reply(422, {"message": "Validation Failed"}, {})
                return
            status, document, headers = state.answer(
                method, path, query, json.loads(body) if body else None
            )
            # A status without a described body (204, 302, and 409, which GitHub leaves out).
            if document is not None and status < 300:
                answered = MockResponse(json.dumps(document).encode(), status)
                try:
                    checker().validate_response(asked, answered)
                except OpenAPIError as error:
                    state.violations.append(f"answer to {method} {path}: {error.__cause__}")
            self.reply(status, document, headers)

    return Api


def _storage(state: State) -> type[BaseHTTPRequestHandler]:
    class Storage(_Quiet):
        def handle_one(self, method: str, path: str, query: dict[str, str], body: bytes) -> None:
            state.stored.append(Seen(method, self.path, dict(self.headers)))
            if path not in state.files or query != {"signature": "signed-secret"}:
                self.reply(403, "refused", {})
                return
            self.reply(200, state.files[path], {})

    return Storage


class _Quiet(BaseHTTPRequestHandler):
    """Reads a request whole, and says nothing on standard error."""

    protocol_version = "HTTP/1.1"

    def handle_one(self, method: str, path: str, query: dict[str, str], body: bytes) -> None:
        raise NotImplementedError

    def _any(self) -> None:
        parts = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.handle_one(self.command, parts.path, dict(parse_qsl(parts.query)), body)

    do_GET = do_POST = do_PATCH = do_DELETE = _any  # noqa: N815

    def reply(self, status: int, body: Any, headers: Mapping[str, str]) -> None:
        if status == 0:
            self.close_connection = True
            return
        content = body if isinstance(body, bytes) else b""
        if isinstance(body, str):
            content = body.encode()
        elif body is not None and not isinstance(body, bytes):
            content = json.dumps(body).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Nothing."""


class _Server(ThreadingHTTPServer):
    """Keeps what goes wrong in it as a violation; a client may hang up, which is no fault."""

    state: State

    def handle_error(self, *_: object) -> None:
        error = sys.exception()
        if not isinstance(error, ConnectionError):
            self.state.violations.append(f"the server itself failed: {error!r}")


@contextmanager
def serve() -> Iterator[State]:
    """A GitHub that lives as long as the block."""
    state = State()
    servers = [_Server(("127.0.0.1", 0), make(state)) for make in (_api, _storage)]
    for server in servers:
        server.state = state
    state.url, state.storage = (f"http://127.0.0.1:{s.server_address[1]}" for s in servers)
    threads = [threading.Thread(target=s.serve_forever, args=(0.02,)) for s in servers]
    for thread in threads:
        thread.start()
    try:
        yield state
    finally:
        for server, thread in zip(servers, threads, strict=True):
            server.shutdown()
            thread.join()
            server.server_close()
