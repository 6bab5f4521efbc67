"""Sends requests to GitHub's REST API: pages, limits, repetitions, downloads, and errors."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import requests

from ci.errors import UsageError
from ci.github import retries
from ci.github.errors import (
    RateLimitedError,
    RefusedError,
    UncertainError,
    UnreachableError,
    UntrustedError,
)
from ci.github.token import Token

API = "https://api.github.com"
VERSION = "2022-11-28"
"""The version of the REST API that is asked for."""

TIMEOUT_S = (10.0, 60.0)
"""Seconds to connect, and between two parts of an answer."""

PATIENCE_S = 600.0
"""Seconds that one command waits for GitHub in all."""

PER_PAGE = 100
"""Entries on a page; the most that GitHub gives."""

LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


class _Authorization(requests.auth.AuthBase):
    """Sets the header; given explicitly, so that no ~/.netrc replaces it."""

    def __init__(self, token: Token | None) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._token is not None:
            request.headers["Authorization"] = self._token.header()
        return request


class GitHub:
    """One repository behind GitHub's REST API.

    Reads and deletions are repeated after faults; what creates something is repeated only after
    an answer that says it was not carried out, and is `UncertainError` otherwise.

    Args:
        repository: ``owner/name``.
        token: Goes to the API's own address only.
        api: The API's address.
        sleep: Waits for seconds.
        note: Hears of each wait.

    Raises:
        UsageError: The repository or the address cannot be one.
    """

    def __init__(
        self,
        repository: str,
        token: Token,
        api: str = API,
        sleep: Callable[[float], None] = time.sleep,
        note: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.repository = _checked_repository(repository)
        self.api = _checked_api(api)
        self._token = token
        self._sleep = sleep
        self._note = note
        self._patience = PATIENCE_S
        self._session = requests.Session()
        self._session.headers["X-GitHub-Api-Version"] = VERSION
        self._session.headers["User-Agent"] = "ascend-matrix"

    # ------------------------------------------------------------------------------- what is asked

    def get(self, path: str, **parameters: str | int) -> Any:
        """The JSON document at a path below the repository."""
        return _json(self._send("GET", self._url(path), parameters))

    def pages(self, path: str, key: str | None = None, **parameters: str | int) -> Iterator[Any]:
        """Every entry of a list that comes in pages.

        Args:
            path: The path below the repository.
            key: Where the entries are, when a page is an object.
            parameters: The query of the first page.
        """
        url: str | None = self._url(path)
        query: Mapping[str, str | int] = {"per_page": PER_PAGE, **parameters}
        seen = set[str]()
        while url is not None:
            answer = self._send("GET", url, query)
            page = _json(answer)
            entries = page.get(key) if key is not None and isinstance(page, dict) else page
            if not isinstance(entries, list):
                raise _not_the_api(url, "a page holds no list")
            yield from entries
            seen.add(url)
            url, query = self._next(answer, seen), {}

    def post(self, path: str, document: Mapping[str, Any]) -> Any:
        """Creates something.

        Raises:
            UncertainError: No clear answer came; look whether it exists before trying again.
        """
        return _json(self._send("POST", self._url(path), document=document))

    def patch(self, path: str, document: Mapping[str, Any]) -> Any:
        """Changes something to a state that does not depend on its former one."""
        return _json(self._send("PATCH", self._url(path), document=document))

    def delete(self, path: str) -> None:
        """Removes something; that it is gone already is no error."""
        try:
            self._send("DELETE", self._url(path))
        except RefusedError as error:
            if error.status != 404:
                raise

    def download(self, path: str, limit: int) -> bytes:
        """The file that a path leads to, from wherever GitHub keeps it.

        Args:
            path: The path below the repository.
            limit: The most bytes that are read.

        Raises:
            UntrustedError: The file is larger, or lies at an address that is not encrypted.
        """
        url = self._url(path)
        answer = self._send("GET", url)
        target = answer.headers.get("Location", "")
        if answer.status_code not in (301, 302, 307, 308) or not target:
            raise _not_the_api(url, "it leads to no file")
        if not _encrypted(target):
            raise UntrustedError(
                f"{path} leads to an address without encryption",
                "something between here and GitHub answers in its place",
                "check GITHUB_API_URL and the proxy",
            )
        # The address carries its own right to be read, so it gets no token and is never shown.
        return self._read(target, path, limit)

    # --------------------------------------------------------------------------------- how it goes

    def _url(self, path: str) -> str:
        return f"{self.api}/repos/{self.repository}/{path}"

    def _next(self, answer: requests.Response, seen: set[str]) -> str | None:
        url = answer.links.get("next", {}).get("url")
        if url is None:
            return None
        if not url.startswith(f"{self.api}/") or url in seen:
            raise _not_the_api(answer.url, "its next page is elsewhere, or was there before")
        return str(url)

    def _send(
        self,
        method: str,
        url: str,
        query: Mapping[str, str | int] | None = None,
        document: Mapping[str, Any] | None = None,
    ) -> requests.Response:
        for attempt in range(1, retries.MAX_ATTEMPTS + 1):
            answer, fault = self._once(method, url, query, document)
            status = None if answer is None else answer.status_code
            headers = {} if answer is None else answer.headers
            said = fault if answer is None else self._token.hide(_message(answer))
            wait = retries.decide(status, headers, said, attempt, time.time())
            if wait is None:
                assert answer is not None
                return self._accepted(method, url, answer, said)
            if wait.reason == "fault" and method == "POST":
                raise _uncertain(method, url, status, said)
            if attempt == retries.MAX_ATTEMPTS or wait.seconds > self._patience:
                raise _gave_up(method, url, status, said, wait, attempt)
            self._pause(wait, said if status is None else f"GitHub answered {status}")
        raise AssertionError("the loop returns or raises")

    def _pause(self, wait: retries.Wait, why: str) -> None:
        self._note(f"{why}; trying again in {wait.seconds:.0f} s")
        self._patience -= wait.seconds
        self._sleep(wait.seconds)

    def _once(
        self,
        method: str,
        url: str,
        query: Mapping[str, str | int] | None,
        document: Mapping[str, Any] | None,
    ) -> tuple[requests.Response | None, str]:
        try:
            answer = self._session.request(
                method,
                url,
                params=query,
                json=document,
                headers={"Accept": "application/vnd.github+json"},
                auth=_Authorization(self._token),
                timeout=TIMEOUT_S,
                allow_redirects=False,
            )
        except requests.RequestException as error:
            return None, self._token.hide(_fault(error))
        return answer, ""

    def _accepted(
        self, method: str, url: str, answer: requests.Response, said: str
    ) -> requests.Response:
        status = answer.status_code
        if status < 400:
            return answer
        what = f"{method} {urlsplit(url).path}: GitHub answered {status}: {said}"
        if status == 401:
            raise RefusedError(
                what,
                "the token is wrong, has expired or was revoked",
                "set GH_TOKEN to a valid token",
                status,
            )
        if status in (403, 404):
            raise RefusedError(
                what,
                "the token lacks a permission for this (runners need `administration: write`, "
                "comments `pull-requests: write`, artifacts `actions: read`), or it does not exist",
                f"check the token's permissions, and that {self.repository} is the repository",
                status,
            )
        raise RefusedError(
            what,
            "GitHub found the request invalid, or in conflict with what exists",
            "see GitHub's words above; a name may be taken already",
            status,
        )

    def _read(self, url: str, path: str, limit: int) -> bytes:
        for attempt in range(1, retries.MAX_ATTEMPTS + 1):
            try:
                with requests.get(
                    url, stream=True, timeout=TIMEOUT_S, auth=_Authorization(None)
                ) as answer:
                    if answer.status_code == 200:
                        return _limited(answer, path, limit)
                    status, said = answer.status_code, "the file's address gave no file"
            except requests.RequestException as error:
                status, said = 0, _fault(error)
            wait = retries.Wait(retries.FIRST_WAIT_S * 2 ** (attempt - 1), "fault")
            permanent = 400 <= status < 500 and status != 429
            if permanent or attempt == retries.MAX_ATTEMPTS or wait.seconds > self._patience:
                raise _gave_up("GET", path, status or None, said, wait, attempt) from None
            self._pause(wait, said)
        raise AssertionError("the loop returns or raises")


def api_address() -> str:
    """The API's address: ``GITHUB_API_URL``, which GitHub sets in its jobs, or the public one."""
    return os.environ.get("GITHUB_API_URL") or API


def _checked_repository(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9-]+/(?!\.{1,2}$)[A-Za-z0-9._-]+", name):
        raise UsageError(
            f"{name!r} is no repository on GitHub",
            "it is not of the form owner/name",
            "give --repo owner/name, or set GITHUB_REPOSITORY",
        )
    return name


def _checked_api(address: str) -> str:
    parts = urlsplit(address)
    if parts.username or parts.password or not parts.hostname or not _encrypted(address):
        shown = f"{parts.scheme}://{parts.hostname or ''}"
        raise UsageError(
            f"GITHUB_API_URL: {shown} is no address that a token may be sent to",
            "it is not https, or holds a name and password",
            f"leave GITHUB_API_URL out for {API}",
        )
    return address.rstrip("/")


def _encrypted(address: str) -> bool:
    parts = urlsplit(address)
    return parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK)


def _json(answer: requests.Response) -> Any:
    try:
        return answer.json()
    except requests.JSONDecodeError:
        raise _not_the_api(answer.url, "the answer is not JSON") from None


def _message(answer: requests.Response) -> str:
    """GitHub's own words in an answer that is an error, in one line."""
    if answer.status_code < 400:
        return ""
    try:
        said = answer.json()
        text = str(said["message"])
        details = said.get("errors") or []
        more = [str(d.get("message") or d) if isinstance(d, dict) else str(d) for d in details]
    except (ValueError, KeyError, TypeError, AttributeError):
        return answer.reason or "(no message)"
    return "; ".join([text, *more]).replace("\n", " ")[:500]


def _fault(error: requests.RequestException) -> str:
    """What kept an answer from coming, without the address, which may hold a secret."""
    if isinstance(error, requests.Timeout):
        return "no answer in time"
    if isinstance(error, requests.exceptions.SSLError):
        return "the encrypted connection failed"
    if isinstance(error, requests.exceptions.ProxyError):
        return "the proxy refused the connection"
    if isinstance(error, requests.ConnectionError):
        return "no connection, or it was cut"
    return type(error).__name__


def _limited(answer: requests.Response, path: str, limit: int) -> bytes:
    content = bytearray()
    for part in answer.iter_content(1 << 16):
        content += part
        if len(content) > limit:
            raise UntrustedError(
                f"{path} has more than {limit} bytes",
                "it holds something else than records, or a job has kept too many logs",
                "look at the artifact by hand, and give --max-bytes if it is in order",
            )
    return bytes(content)


def _not_the_api(url: str, why: str) -> UnreachableError:
    return UnreachableError(
        f"{urlsplit(url).scheme}://{urlsplit(url).netloc} does not answer as GitHub's API: {why}",
        "GITHUB_API_URL is another server, or a proxy answers in GitHub's place",
        f"check GITHUB_API_URL; the public address is {API}",
    )


def _uncertain(method: str, url: str, status: int | None, said: str) -> UncertainError:
    return UncertainError(
        f"{method} {urlsplit(url).path}: {said if status is None else f'GitHub answered {status}'}",
        "GitHub or the network failed in the middle of a request that creates something",
        "see on GitHub whether it exists, then run the command again",
    )


def _gave_up(
    method: str, url: str, status: int | None, said: str, wait: retries.Wait, attempts: int
) -> UnreachableError | RateLimitedError:
    parts = urlsplit(url)
    where = f"{method} {parts.scheme}://{parts.netloc}{parts.path}" if parts.netloc else parts.path
    tried = f"after {attempts} {'attempt' if attempts == 1 else 'attempts'}"
    if wait.reason == "limit":
        return RateLimitedError(
            f"{where}: GitHub's rate limit {tried}: {said}; it asks to wait {wait.seconds:.0f} s",
            "this token has been used for too many requests lately",
            f"run the command again in {wait.seconds / 60:.0f} minutes",
        )
    return UnreachableError(
        f"{where}: {said if status is None else f'{status}: {said}'} {tried}",
        "there is no network, a proxy is in the way, or GitHub has a fault",
        "check the network and GITHUB_API_URL, see githubstatus.com, then try again",
    )
