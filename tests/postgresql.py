"""A PostgreSQL server of the tests' own, in a temporary folder and on a socket in there."""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa

REQUIRED = "ASCEND_MATRIX_POSTGRESQL"
"""Environment variable: `required` makes a missing server an error, as `CI` does."""

BINARIES = Path("/usr/lib/postgresql")
"""Where Debian's packages put the programs, one folder for each version."""

_USERS = ("postgres", "nobody")  # who runs the server where the tests are run by root
_QUICK = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")


class Missing(Exception):
    """There is no server here."""


def required() -> bool:
    """Return whether tests must not be skipped for want of a server."""
    return os.environ.get(REQUIRED) == "required" or bool(os.environ.get("CI"))


def binaries() -> Path:
    """Return the folder of initdb and pg_ctl, of the newest version that is installed.

    Raises:
        Missing: there is none.
    """
    versions = sorted(BINARIES.glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    found = versions[-1] if versions else shutil.which("initdb")
    if found is None:
        raise Missing(
            f"no initdb in {BINARIES}/*/bin or on the path; `apt-get install postgresql` brings it"
        )
    return Path(found).parent


class Server:
    """A running server."""

    def __init__(self, folder: Path, user: str) -> None:
        self.folder, self.user = folder, user
        self._numbers = itertools.count()

    def create(self) -> str:
        """Return the URL of an empty database: a schema of its own, which is quicker to have."""
        name = f"records{next(self._numbers)}"
        url = f"postgresql+psycopg://{self.user}@/postgres?host={self.folder}"
        with sa.create_engine(url, poolclass=sa.NullPool).begin() as connection:
            connection.exec_driver_sql(f"CREATE SCHEMA {name}")
        return f"{url}&options=-csearch_path%3D{name}"


@contextmanager
def server(*, durable: bool = False) -> Iterator[Server]:
    """Run a server, stop it and remove its data.

    Args:
        durable: write to the disk as a real one does; tests need no such care.

    Raises:
        Missing: it is not installed, or root has no user to run it as.
    """
    programs, user = binaries(), _user()
    # Not in a folder of pytest's, which only root may enter; and a socket's path must be short.
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
    try:
        if user is not None:
            shutil.chown(folder, user)
        settings = " ".join(f"-c {setting}" for setting in (() if durable else _QUICK))
        data = str(folder / "data")
        name = user or pwd.getpwuid(os.getuid()).pw_name
        init = ["initdb", "--pgdata", data, "--username", name, "--auth", "trust", "--no-sync"]
        _call(programs, user, [*init, "--encoding", "UTF8", "--locale", "C.UTF-8"])
        control = ["pg_ctl", "--pgdata", data, "--wait", "--silent"]
        options = f"-k {folder} -c listen_addresses='' {settings}"
        log = str(folder / "log")
        _call(programs, user, [*control, "--log", log, "--options", options, "start"])
        try:
            yield Server(folder, name)
        finally:
            _call(programs, user, [*control, "--mode", "immediate", "stop"])
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _user() -> str | None:
    """Return whom the server runs as; None for whoever runs the tests. It refuses to be root."""
    if os.getuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    for name in _USERS:
        if name in known:
            return name
    raise Missing(f"root may not run it, and there is none of the users {', '.join(_USERS)}")


def _call(programs: Path, user: str | None, command: list[str]) -> None:
    ran = subprocess.run(
        [str(programs / command[0]), *command[1:]],
        user=user,
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    if ran.returncode:
        raise RuntimeError(f"{command[0]} ended with {ran.returncode}: {ran.stderr}")
