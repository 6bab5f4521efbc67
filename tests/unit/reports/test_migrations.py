"""Stores of older revisions are upgraded without losing a record; newer ones are left alone."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from reports import Record, SchemaError, Store, migrate, schema
from tests import postgresql
from tests.unit.reports.conftest import CELL, Run, document, record

ROOT = Path(__file__).parents[3]

_FIELD = """
CREATE TABLE records (
    number INTEGER NOT NULL,
    id VARCHAR(64) NOT NULL,
    cell VARCHAR(255) NOT NULL,
    kind VARCHAR(16) NOT NULL,
    verdict VARCHAR(16) NOT NULL,
    evidence VARCHAR(16) NOT NULL,
    started VARCHAR(40) NOT NULL,
    document TEXT NOT NULL,
    PRIMARY KEY (number),
    UNIQUE (id)
);
CREATE INDEX ix_records_cell ON records (cell);
CREATE TRIGGER records_no_update BEFORE UPDATE ON records
BEGIN SELECT RAISE(ABORT, 'records are append-only'); END;
CREATE TRIGGER records_no_delete BEFORE DELETE ON records
BEGIN SELECT RAISE(ABORT, 'records are append-only'); END;
"""
"""The tables of a store that was written before stores had revisions."""


def _row(one: Record) -> tuple[str, ...]:
    started = one.started.isoformat()
    return one.id, one.cell, one.kind, one.verdict, one.evidence, started, one.to_json()


def _in_the_field(path: Path, records: list[Record]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with sqlite3.connect(path) as connection:
        connection.executescript(_FIELD)
        connection.executemany(
            "INSERT INTO records (id, cell, kind, verdict, evidence, started, document)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            [_row(one) for one in records],
        )
    connection.close()


@pytest.fixture
def some() -> list[Record]:
    """Records of every sort, oldest first."""
    samples = [{"id": n, "text": "\x1b[31m", "hash": "ab" * 16} for n in range(3)]
    failed = {"class": "GateFailed", "message": "m", "log_tail": "a\nb\n"}
    return [
        record(started="2026-11-01T00:00:00Z", samples=samples, run_url="https://example.org/1"),
        record(started="2026-11-01T00:00:00.5Z", verdict="failed", error=failed),
        record(started="2026-11-02T00:00:00Z", kind="perf", verdict="inconclusive", proof={}),
    ]


@pytest.fixture
def in_the_field(sqlite_url: str, tmp_path: Path, some: list[Record]) -> Path:
    path = tmp_path / "results" / "records.sqlite"
    _in_the_field(path, some)
    return path


def test_file_of_the_field_is_upgraded_when_it_is_read(
    in_the_field: Path, store: Store, some: list[Record]
) -> None:
    assert store.revision() == "0001"
    assert store.records() == some
    assert store.revision() == schema.REVISION
    assert [stored.received for stored in store.stored()] == [None] * 3
    assert not any(store.add(one) for one in some), "each is known by its digest"
    assert store.add(record()) is True


def test_many_batches_keep_their_order(sqlite_url: str, tmp_path: Path) -> None:
    many = [record() for _ in range(2500)]
    _in_the_field(tmp_path / "results" / "records.sqlite", many)
    assert [one.id for one in Store(sqlite_url).records()] == [one.id for one in many]


def test_document_that_nobody_understands_survives(
    in_the_field: Path, store: Store, some: list[Record]
) -> None:
    newer = json.dumps({**document(), "schema": 9, "id": "e" * 32, "proof": {"a": 1}})
    with sqlite3.connect(in_the_field) as connection:
        connection.executemany(
            "INSERT INTO records (id, cell, kind, verdict, evidence, started, document)"
            " VALUES (?, ?, 'e2e', 'passed', 'simulated', ?, ?)",
            [("e" * 32, CELL, "2026", newer), ("f" * 32, CELL, "no time", "no JSON")],
        )
    connection.close()
    store.upgrade()
    with store._engine.connect() as connection:
        rows = dict(
            connection.execute(
                sa.text(
                    "SELECT id, records.document || coalesce(details.document, '') FROM records"
                    " LEFT JOIN details ON record = id WHERE id IN (:a, :b)"
                ),
                {"a": "e" * 32, "b": "f" * 32},
            ).all()
        )
    assert '"schema":9' in rows["e" * 32]
    assert '"a":1' in rows["e" * 32]
    assert rows["f" * 32] == "no JSON{}"


def _at(url: str, revision: str) -> Store:
    store = Store(url)
    store.upgrade(revision)
    return store


def test_every_step_is_taken_in_both_databases(any_url: str, some: list[Record]) -> None:
    store = _at(any_url, "0001")
    with store._engine.begin() as connection:
        for one in some:
            names = ("id", "cell", "kind", "verdict", "evidence", "started", "document")
            connection.execute(
                sa.table("records", *map(sa.column, names)).insert(),
                dict(zip(names, _row(one), strict=True)),
            )
    assert store.upgrade() == ("0001", schema.REVISION)
    assert store.records() == some
    assert store.add(record()) is True, "numbers go on where they were"


def test_server_is_upgraded_on_request_alone(server: postgresql.Server, some: list[Record]) -> None:
    url = server.create()
    store = _at(url, "0001")
    with pytest.raises(SchemaError, match=f"needs {schema.REVISION}") as caught:
        store.records()
    assert f"python -m reports store upgrade --store '{store.name}'" in str(caught.value)
    with pytest.raises(SchemaError) as caught:
        store.add(some[0])
    assert caught.value.spooled is not None
    assert json.loads(caught.value.spooled.read_text()) == some[0].document()
    store.upgrade()
    assert store.add(some[0]) is True


def _of_the_future(store: Store) -> None:
    store.add(record())
    with store._engine.begin() as connection:
        table = sa.table(schema.VERSION_TABLE, sa.column("version_num"))
        connection.execute(table.update().values(version_num="9999"))


def test_newer_store_is_left_alone(any_url: str) -> None:
    _of_the_future(Store(any_url))
    for act in (Store(any_url).records, Store(any_url).newest, Store(any_url).upgrade):
        with pytest.raises(SchemaError, match=r"revision 9999.*\n.*newer version") as caught:
            act()
        assert "Update this checkout" in str(caught.value)
    with pytest.raises(SchemaError) as caught:
        Store(any_url).add(record())
    assert caught.value.spooled is not None
    assert caught.value.spooled.exists()
    assert f"kept in {caught.value.spooled}" in str(caught.value)


def test_going_back_is_refused(any_store: Store) -> None:
    any_store.add(record())
    with pytest.raises(SchemaError, match="0001 is older"):
        any_store.upgrade("0001")
    with pytest.raises(SchemaError, match="no revision '1000'"):
        any_store.upgrade("1000")
    assert len(any_store.records()) == 1


def test_tables_are_what_the_code_says(any_store: Store) -> None:
    any_store.upgrade()
    with any_store._engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"version_table": schema.VERSION_TABLE, "compare_type": True}
        )
        assert compare_metadata(context, schema.metadata) == []


def test_code_is_of_the_newest_revision() -> None:
    known = migrate.revisions()
    assert known[0] == migrate.FIRST
    assert known[-1] == schema.REVISION


_KILLED = """
import os, signal, sys
import sqlalchemy
from reports import Store
store = Store(sys.argv[1])
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
sqlalchemy.event.listen(store._engine, "commit", die)
store.upgrade()
"""


def test_upgrade_that_is_killed_leaves_the_store_as_it_was(
    in_the_field: Path, store: Store, sqlite_url: str, some: list[Record]
) -> None:
    ran = subprocess.run([sys.executable, "-c", _KILLED, sqlite_url], cwd=ROOT)
    assert ran.returncode == -signal.SIGKILL
    assert store.revision() == "0001"
    assert store.records() == some


def test_file_that_may_not_be_written_is_not_upgraded(in_the_field: Path, sqlite_url: str) -> None:
    if os.getuid() == 0:
        url = f"{sqlite_url.replace('sqlite:///', 'sqlite:///file:')}?mode=ro&uri=true"
    else:
        in_the_field.chmod(0o400)
        url = sqlite_url
    with pytest.raises(Exception, match="readonly"):
        Store(url).upgrade()


def test_processes_that_upgrade_together(
    in_the_field: Path, store: Store, sqlite_url: str, some: list[Record]
) -> None:
    code = "import sys; from reports import Store; print(len(Store(sys.argv[1]).records()))"
    command = [sys.executable, "-c", code, sqlite_url]
    readers = [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    assert [reader.communicate()[0] for reader in readers] == ["3\n"] * 2
    assert store.records() == some


def test_commands(run: Run, in_the_field: Path, sqlite_url: str) -> None:
    assert run("store", "current", "--store", sqlite_url) == (
        0,
        f"{sqlite_url}: revision 0001; this version needs {schema.REVISION}\n",
        "",
    )
    code, out, _ = run("store", "upgrade", "--store", sqlite_url)
    assert (code, out) == (0, f"{sqlite_url}: revision 0001 → {schema.REVISION}\n")
    assert run("store", "upgrade", "--store", sqlite_url)[1].endswith("is current\n")
    code, _, err = run("store", "upgrade", "0001", "--store", sqlite_url)
    assert code == 2
    assert "0001 is older" in err
