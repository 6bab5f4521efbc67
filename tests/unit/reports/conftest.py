"""Records, a store in a folder of the test's own, and the command line."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from reports import Record, Store, spool
from reports.cli import main
from tests import postgresql

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
CELL = "qwen3/base/cann-9.1.0/a2"

Run = Callable[..., tuple[int, str, str]]


def document(cell: str = CELL, **changes: Any) -> dict[str, Any]:
    """Return a valid record as JSON values; it passed on the day of NOW."""
    cann = cell.split("/")[2].removeprefix("cann-")
    base: dict[str, Any] = {
        "schema": 1,
        "cell": cell,
        "kind": "e2e",
        "verdict": "passed",
        "evidence": "simulated",
        "versions": {
            "cann": cann,
            "plugin": "0.1.0",
            "commit": "0123456789abcdef",
            "dirty": False,
            "vllm": "0.32.0+empty",
            "torch": "2.13.0+cpu",
            "torch_npu": "2.13.0",
            "python": "3.11.2",
            "cannsim": "0.1.0",
        },
        "hardware": {"chip": "Ascend910B1", "cards": 1},
        "runner": "simulated",
        "started": "2026-11-21T10:00:00Z",
        "seconds": 7.5,
        "timings": {"import": 0.1, "engine_start": 3.0, "generation": 2.0},
        "metrics": {"equal_tokens": {"value": 128, "unit": "tokens"}},
        "proof": {"attention_launches": 480},
    }
    return {**base, **changes}


def record(cell: str = CELL, **changes: Any) -> Record:
    """Return a valid record; a verdict that is not passed gets a reason."""
    if changes.get("verdict") in ("failed", "error"):
        changes.setdefault("error", {"class": "GateFailed", "message": "token 7 differs"})
    return Record.model_validate(document(cell, **changes))


def versions(**changes: Any) -> Mapping[str, Any]:
    """Return the versions of a valid record with some changed."""
    return {**document()["versions"], **changes}


@pytest.fixture(autouse=True)
def _no_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep tests away from the real store and from the spools of other runs."""
    monkeypatch.setenv("ASCEND_MATRIX_STORE", f"sqlite:///{tmp_path}/default/records.sqlite")
    monkeypatch.delenv(spool.ENVIRONMENT, raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """The URL of an SQLite store of the test's own that does not exist yet."""
    return f"sqlite:///{tmp_path}/results/records.sqlite"


@pytest.fixture(scope="session")
def server() -> Iterator[postgresql.Server]:
    """One server for all tests; without one they are skipped, except where one has to be."""
    try:
        with postgresql.server() as running:
            yield running
    except postgresql.Missing as missing:
        if postgresql.required():
            pytest.fail(f"a PostgreSQL server is required: {missing}")
        pytest.skip(f"no PostgreSQL server: {missing}")


@pytest.fixture(params=["sqlite", "postgresql"])
def any_url(request: pytest.FixtureRequest) -> str:
    """The URL of an empty store of the test's own, in either database."""
    if request.param == "sqlite":
        return str(request.getfixturevalue("sqlite_url"))
    return str(request.getfixturevalue("server").create())


@pytest.fixture
def store(sqlite_url: str) -> Store:
    return Store(sqlite_url)


@pytest.fixture
def any_store(any_url: str) -> Store:
    return Store(any_url)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command line; return exit code, standard output and standard error."""

    def call(*arguments: object) -> tuple[int, str, str]:
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call
