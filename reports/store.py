"""The store: records, appended and never changed, in SQLite or PostgreSQL behind one interface."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import SQLAlchemyError

from reports import documents, migrate, schema, spool
from reports.errors import ConflictError, SchemaError, StoreError
from reports.record import Kind, Record, Verdict, parse

DEFAULT_URL = "sqlite:///results/records.sqlite"
ENVIRONMENT = "ASCEND_MATRIX_STORE"
"""Environment variable with the store's URL."""

TOLERANCE = timedelta(minutes=5)
"""How far a runner's clock may be ahead of the store's before its record is marked."""

BATCH = 1000
"""Records in one transaction: others wait for milliseconds, and a disk is asked a hundred times."""

_BUSY_SECONDS = 30  # how long a writer waits for another; a write takes milliseconds
_WRITES = {"writes": True}

_CAUSES = (
    ("full", "The disk is full.", "Free some space"),
    ("no space", "The disk is full.", "Free some space"),
    ("locked", "Another process is writing, or died while it wrote.", "Wait or end that process"),
    ("readonly", "The file or its folder may not be written.", "Change its permissions"),
    ("unable to open", "The folder may not be written.", "Choose another store with --store"),
    ("disk i/o", "The disk refused to write; often a quota or a limit.", "Check the disk"),
    ("malformed", "The file is damaged.", "Move it away and restore a copy"),
    ("not a database", "Another program's file has that name.", "Move it away"),
    ("connection refused", "No server listens there.", "Start PostgreSQL, or correct the URL"),
    ("connection failed", "The server does not take that user.", "Correct the URL"),
    ("permission denied", "The user may not do that.", "Grant it SELECT and INSERT"),
)


def default_url() -> str:
    """Return the URL that the environment names, or the file results/records.sqlite."""
    return os.environ.get(ENVIRONMENT) or DEFAULT_URL


@dataclass(frozen=True)
class Added:
    """What became of records that were added together.

    Attributes:
        new: how many are stored now and were not before.
        old: how many were there already.
        ahead: ids of new ones whose clock was ahead of the store's.
        conflicts: one error for each whose id another record has; it is not stored.
    """

    new: int = 0
    old: int = 0
    ahead: tuple[str, ...] = ()
    conflicts: tuple[ConflictError, ...] = ()

    def __add__(self, other: Added) -> Added:
        return Added(
            self.new + other.new,
            self.old + other.old,
            self.ahead + other.ahead,
            self.conflicts + other.conflicts,
        )


@dataclass(frozen=True)
class Stored:
    """A record with what the store knows of it.

    Attributes:
        record: the record; where its details were moved away, a note says where to.
        received: when the store got it; None for what an older version stored.
        ahead: whether it claims to have started after that; it speaks for no cell then.
        whole: whether its details are still there.
    """

    record: Record
    received: datetime | None
    ahead: bool
    whole: bool


@dataclass(frozen=True)
class Run:
    """What planning asks of a record; thousands are read at once.

    Attributes:
        cell: the cell's id.
        verdict: how it ended.
        started: when, in UTC.
        seconds: how long it took.
        commit: of the checkout that ran, where it is known.
    """

    cell: str
    verdict: Verdict
    started: datetime
    seconds: float
    commit: str | None = None


class Store:
    """Append-only records behind an SQLAlchemy URL of SQLite or PostgreSQL.

    SQLite keeps its rollback journal instead of a write-ahead log: one file can be copied at any
    time, and on a full disk the file stays as it was. A file of an older revision is upgraded when
    it is opened; a server, which others use too, only by `upgrade`.

    Args:
        url: SQLAlchemy URL; by default `default_url()`.

    Raises:
        StoreError: the URL cannot be used.
    """

    def __init__(self, url: str | None = None) -> None:
        name = url or default_url()
        try:
            self._url = sa.make_url(name)
            name = self._url.render_as_string(hide_password=True)
            self._file = _file(self._url)
            self._engine = _engine(self._url, self._file)
        except (SQLAlchemyError, ImportError) as error:
            raise StoreError(
                f"The store {name!r} cannot be used: {error}.",
                "It is no SQLAlchemy URL of SQLite or PostgreSQL, or its driver is not installed.",
                "Write for example sqlite:///results/records.sqlite or postgresql://host/records.",
            ) from None
        self._ready = False

    @property
    def name(self) -> str:
        """The URL without a password."""
        return self._url.render_as_string(hide_password=True)

    @property
    def spools(self) -> list[Path]:
        """The folders where records are kept when the store cannot take them."""
        store = str(self._file.resolve()) if self._file else self.name
        return spool.folders(store, self._file.parent if self._file else None)

    # ------------------------------------------------------------------------------------ writing

    def add(self, record: Record) -> bool:
        """Append a record in one transaction; return False if it was there already.

        Raises:
            ConflictError: the store holds another record of that id.
            StoreError: it was not stored; `spooled` names the file that holds it instead.
        """
        try:
            added = self._insert([record])
        except SchemaError as error:
            kept = spool.keep(record, self.spools)
            fix = f"{error.fix}\nThe record is kept in {kept}; ingest it then."
            raise SchemaError(error.what, error.why, fix, spooled=kept) from error
        except (SQLAlchemyError, OSError) as error:
            kept = spool.keep(record, self.spools)
            raise self._not_stored(record, error, kept) from error
        for conflict in added.conflicts:
            raise conflict
        return added.new == 1

    def add_all(self, records: Iterable[Record]) -> Iterator[Added]:
        """Append records in transactions of `BATCH`; yield what became of each of these.

        What was stored already is skipped, so that after an error all can be added again.

        Raises:
            StoreError: this transaction was undone; the earlier ones stay.
        """
        remaining = iter(records)
        while batch := list(islice(remaining, BATCH)):
            try:
                yield self._insert(batch)
            except (SQLAlchemyError, OSError) as error:
                raise self._unavailable("written", error) from error

    def _insert(self, batch: Sequence[Record]) -> Added:
        now = datetime.now(UTC)
        first: dict[str, Record] = {}
        repeated = []
        for record in batch:
            if record.id in first:
                repeated.append(record)
            else:
                first[record.id] = record
        # In the order of their ids: two processes that add the same ones never wait for each other.
        rows = [_rows(first[id_], now) for id_ in sorted(first)]
        self._prepare()
        with self._engine.execution_options(**_WRITES).begin() as connection:
            new = self._insert_rows(connection, rows)
            others = [record for record in first.values() if record.id not in new] + repeated
            conflicts = self._conflicts(connection, others)
        return Added(
            new=len(new),
            old=len(others) - len(conflicts),
            ahead=tuple(row["id"] for row, _ in rows if row["ahead"] and row["id"] in new),
            conflicts=tuple(conflicts),
        )

    def _insert_rows(
        self, connection: sa.Connection, rows: Sequence[tuple[dict[str, Any], dict[str, Any]]]
    ) -> set[str]:
        """Insert what is not there yet, with its details; return the ids of it."""
        insert = _insert_sqlite if connection.dialect.name == "sqlite" else _insert_postgresql
        new = insert(connection, schema.records, [row for row, _ in rows])
        insert(connection, schema.details, [part for _, part in rows if part["record"] in new])
        return new

    def _conflicts(
        self, connection: sa.Connection, records: Sequence[Record]
    ) -> list[ConflictError]:
        """Return an error for each record that is another one than that stored under its id."""
        table = schema.records
        ids = sorted({record.id for record in records})
        query = sa.select(table.c.id, table.c.digest).where(table.c.id.in_(ids))
        digests = {row.id: row.digest for row in connection.execute(query)} if ids else {}
        return [
            self._conflict(record)
            for record in records
            if documents.digest(*documents.split(record.document())) != digests[record.id]
            and self._stored(connection, record.id) != record
        ]

    def _stored(self, connection: sa.Connection, id_: str) -> Record:
        row = connection.execute(_query().where(schema.records.c.id == id_)).one()
        return self._read(row).record

    def _conflict(self, record: Record) -> ConflictError:
        return ConflictError(
            f"The store {self.name} holds another record with the id {record.id} "
            f"(of {record.cell}, by the runner {record.runner!r}).",
            "Records are append-only; a run that was repeated has a record of its own.",
            "Find out which runner copied or changed it; give the record a new id if it is one.",
            record,
        )

    def upgrade(self, wanted: str = schema.REVISION) -> tuple[str | None, str]:
        """Bring the tables to a revision, creating them where there are none.

        Returns:
            The revision before, None where there were no tables, and the one after.

        Raises:
            SchemaError: they are newer.
            StoreError: the database refuses.
        """
        try:
            if self._file is not None:
                self._file.parent.mkdir(parents=True, exist_ok=True)
            return migrate.upgrade(self._engine.execution_options(**_WRITES), self.name, wanted)
        except (SQLAlchemyError, OSError) as error:
            raise self._unavailable("upgraded", error) from error

    def revision(self) -> str | None:
        """Return the revision of the tables; None where there are none yet.

        Raises:
            StoreError: the store cannot be read.
        """
        if self._file is not None and not self._file.exists():
            return None  # connecting would leave an empty file behind
        try:
            with self._engine.connect() as connection:
                return migrate.revision(connection)
        except SQLAlchemyError as error:
            raise self._unavailable("read", error) from error

    def _prepare(self) -> None:
        """Make sure that the tables are of this code's revision, once."""
        if self._ready:
            return
        if self._file is not None:
            self._file.parent.mkdir(parents=True, exist_ok=True)
        with self._engine.connect() as connection:
            found = migrate.revision(connection)
        if migrate.check(found, self.name):
            if found is not None and self._file is None:
                raise self._outdated(found)
            migrate.upgrade(self._engine.execution_options(**_WRITES), self.name)
        self._ready = True

    def _outdated(self, found: str) -> SchemaError:
        return SchemaError(
            f"The store {self.name} has revision {found}; this version needs {schema.REVISION}.",
            "A server is not upgraded by the way: others may still use it with an older version.",
            f"Run `python -m reports store upgrade --store '{self.name}'` once.",
        )

    # ------------------------------------------------------------------------------------ reading

    def records(
        self, cell: str | None = None, kind: Kind | None = None, since: datetime | None = None
    ) -> list[Record]:
        """Return records, oldest first; of one cell or kind, or that started then or later.

        Raises:
            StoreError: the store cannot be read.
            RecordError: a record is of a newer schema.
        """
        return [stored.record for stored in self.stored(cell, kind, since)]

    def stored(
        self, cell: str | None = None, kind: Kind | None = None, since: datetime | None = None
    ) -> Iterator[Stored]:
        """Yield the same with what the store knows of each; as many as there are, one by one."""
        table = schema.records
        query = _query().order_by(table.c.started, table.c.number)
        if cell is not None:
            query = query.where(table.c.cell == cell)
        if kind is not None:
            query = query.where(table.c.kind == kind)
        if since is not None:
            query = query.where(table.c.started >= since)
        yield from self._all(query)

    def newest(
        self,
        kind: Kind | None = None,
        cell: str | None = None,
        verdict: Verdict | None = None,
        before: datetime | None = None,
    ) -> list[Record]:
        """Return the newest record of each cell, kind and evidence, by cell.

        One whose clock was ahead when it was stored is never among them.

        Args:
            kind: only of this kind.
            cell: only of this cell.
            verdict: the newest of those that ended so.
            before: the newest of those that started earlier.

        Raises:
            StoreError: the store cannot be read.
            RecordError: a record is of a newer schema.
        """
        table = schema.records
        place = sa.func.row_number().over(
            partition_by=(table.c.cell, table.c.kind, table.c.evidence),
            order_by=(table.c.started.desc(), table.c.number.desc()),
        )
        placed = sa.select(table.c.number, place.label("place")).where(~table.c.ahead)
        asked = {table.c.kind: kind, table.c.cell: cell, table.c.verdict: verdict}
        placed = placed.where(*(c == value for c, value in asked.items() if value is not None))
        if before is not None:
            placed = placed.where(table.c.started < before)
        first = placed.subquery()
        query = _query().join(first, first.c.number == table.c.number).where(first.c.place == 1)
        return [stored.record for stored in self._all(query.order_by(table.c.cell, table.c.number))]

    def runs(self, kind: Kind, each: int | None = None) -> list[Run]:
        """Return when and how cells ran, oldest first, without the documents' bulk.

        One whose clock was ahead when it was stored is never among them.

        Args:
            kind: of this kind.
            each: no more than so many of each cell, the newest.

        Raises:
            StoreError: the store cannot be read.
        """
        table = schema.records
        newest = (table.c.started.desc(), table.c.number.desc())
        place = sa.func.row_number().over(partition_by=table.c.cell, order_by=newest)
        placed = sa.select(table.c.number, place.label("place"))
        first = placed.where(~table.c.ahead, table.c.kind == kind).subquery()
        query = sa.select(table.c.cell, table.c.verdict, table.c.started, table.c.document)
        query = query.join(first, first.c.number == table.c.number)
        if each is not None:
            query = query.where(first.c.place <= each)
        with self._reading() as connection:
            if connection is None:
                return []
            rows = connection.execute(query.order_by(table.c.started, table.c.number))
            return [_run(row) for row in rows]

    def _all(self, query: sa.Select[Any]) -> Iterator[Stored]:
        with self._reading() as connection:
            if connection is None:
                return
            rows = connection.execution_options(yield_per=BATCH).execute(query)
            for row in rows:
                yield self._read(row)

    def _read(self, row: sa.Row[Any]) -> Stored:
        origin = f"{self.name}: record {row.id}"
        try:
            document: Any = documents.join(row.document, row.details, row.archive)
        except (ValueError, AttributeError):
            document = row.document  # parse tells what is wrong with it
        record = parse(document, origin)
        return Stored(record, row.received, row.ahead, row.details is not None)

    @contextmanager
    def _reading(self) -> Iterator[sa.Connection | None]:
        """Yield a connection, or None where nothing has been stored yet."""
        if self._file is not None and not self._file.exists():
            yield None  # connecting would leave an empty file behind
            return
        try:
            if not self._ready and self.revision() is None:
                yield None
                return
            self._prepare()
            with self._engine.connect() as connection:
                yield connection
        except SQLAlchemyError as error:
            raise self._unavailable("read", error) from error

    # ---------------------------------------------------------------------------------- retention

    @property
    def archives(self) -> Path | None:
        """The folder of archives beside an SQLite file; None for a server."""
        return self._file.parent / "archive" if self._file else None

    def superseded(self, before: datetime) -> Iterator[Record]:
        """Yield the whole records that started before then and speak for no cell any more.

        Neither the newest of a cell, kind and evidence is among them, nor the newest that passed.
        """
        table = schema.records
        query = _query().where(*_superseded(before)).order_by(table.c.started, table.c.number)
        return (stored.record for stored in self._all(query))

    def superseded_size(self, before: datetime) -> tuple[int, int]:
        """Return how many these are, and how many characters their details have."""
        length = sa.func.sum(sa.func.length(schema.details.c.document))
        query = sa.select(sa.func.count(), length).select_from(
            schema.records.join(schema.details, schema.details.c.record == schema.records.c.id)
        )
        with self._reading() as connection:
            if connection is None:
                return 0, 0
            count, characters = connection.execute(query.where(*_superseded(before))).one()
        return count, characters or 0

    def move_details(self, ids: Sequence[str], before: datetime, archive: str, digest: str) -> None:
        """Remove the details of records that are in an archive now, in one transaction.

        Raises:
            StoreError: the store refuses, as it does where one of them is the newest of its cell.
        """
        now = datetime.now(UTC)
        row = {"at": now, "before": before, "archive": archive, "digest": digest}
        pruned, details = schema.pruned, schema.details
        self._prepare()
        try:
            with self._engine.execution_options(**_WRITES).begin() as connection:
                made = schema.prunings.insert().returning(schema.prunings.c.number)
                number = connection.execute(made, row).scalar_one()
                rows = [{"record": id_, "pruning": number} for id_ in ids]
                connection.execute(pruned.insert(), rows)
                moved = sa.select(pruned.c.record).where(pruned.c.pruning == number)
                connection.execute(details.delete().where(details.c.record.in_(moved)))
        except SQLAlchemyError as error:
            raise self._unavailable("pruned", error) from error

    def restore(self, records: Sequence[Record]) -> int:
        """Put the details of records back where they are missing; return of how many.

        What is not in the store, or is another record there, is passed over.

        Raises:
            StoreError: the store cannot be written.
        """
        rows = {row["id"]: (row, part) for row, part in (_rows(r, r.started) for r in records)}
        table, details = schema.records, schema.details
        query = sa.select(table.c.id, table.c.digest).outerjoin(details)
        query = query.where(table.c.id.in_(list(rows)), details.c.record.is_(None))
        self._prepare()
        try:
            with self._engine.execution_options(**_WRITES).begin() as connection:
                missing = connection.execute(query).all()
                parts = [
                    rows[row.id][1] for row in missing if rows[row.id][0]["digest"] == row.digest
                ]
                if parts:
                    connection.execute(details.insert(), parts)
        except SQLAlchemyError as error:
            raise self._unavailable("written", error) from error
        return len(parts)

    # ------------------------------------------------------------------------------------- errors

    def _unavailable(self, what: str, error: Exception) -> StoreError:
        reason, why, fix = _cause(error)
        return StoreError(
            f"The store {self.name} cannot be {what}: {reason}.", why, f"{fix}, then try again."
        )

    def _not_stored(self, record: Record, error: Exception, kept: Path | None) -> StoreError:
        reason, why, fix = _cause(error)
        what = f"The record of {record.cell} was not stored in {self.name}: {reason}."
        if kept is not None:
            there = "" if self._url == sa.make_url(DEFAULT_URL) else f" --store '{self.name}'"
            again = f"{fix}, then run `python -m reports ingest {kept}{there}`."
            return StoreError(what, why, f"The record is kept in {kept}.\n{again}", spooled=kept)
        tried = ", ".join(str(folder) for folder in self.spools)
        lost = f"No folder could take it either ({tried}); this is the whole record:\n"
        return StoreError(what, why, f"{fix}.\n{lost}{record.to_json()}")


def _engine(url: sa.URL, file: Path | None) -> sa.Engine:
    """Return an engine; raises ArgumentError for a database that is neither of the two."""
    backend = url.get_backend_name()
    if backend not in ("sqlite", "postgresql"):
        raise sa.exc.ArgumentError(f"{backend} is not supported")
    if backend == "postgresql":
        # No connection outlives its use: a runner forks, and none may cross a fork.
        return sa.create_engine(url, poolclass=sa.NullPool)
    options: dict[str, Any] = {"poolclass": sa.NullPool} if file else {}
    engine = sa.create_engine(url, connect_args={"timeout": _BUSY_SECONDS}, **options)
    sa.event.listen(engine, "connect", _connected)
    sa.event.listen(engine, "begin", _begin)
    return engine


def _connected(connection: Any, _: object) -> None:
    connection.isolation_level = None  # Python's module would begin transactions later than asked
    connection.execute("PRAGMA foreign_keys = ON")


def _begin(connection: sa.Connection) -> None:
    """Begin; a writer takes its lock at once, since a reader that turns writer cannot wait."""
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _insert_sqlite(
    connection: sa.Connection, table: sa.Table, rows: Sequence[dict[str, Any]]
) -> set[str]:
    """Insert rows that are not there; nobody else can write before this transaction ends."""
    key = _key(table)
    query = sa.select(key).where(key.in_([row[key.name] for row in rows]))
    there = set(connection.execute(query).scalars())
    new = [row for row in rows if row[key.name] not in there]
    if new:
        connection.execute(table.insert(), new)
    return {row[key.name] for row in new}


def _insert_postgresql(
    connection: sa.Connection, table: sa.Table, rows: Sequence[dict[str, Any]]
) -> set[str]:
    """Insert rows that are not there, also where others insert the same at this moment."""
    if not rows:
        return set()
    names = list(rows[0])
    columns = [table.c[name] for name in names]
    # A list for each column: a thousand rows are ten parameters, which are quick to send.
    lists = [
        sa.cast([row[column.name] for row in rows], postgresql.ARRAY(column.type))
        for column in columns
    ]
    values = (
        sa.func.unnest(*lists)
        .table_valued(*(sa.column(c.name, c.type) for c in columns))
        .render_derived()
    )
    insert = postgresql.insert(table).from_select(names, sa.select(*values.c))
    done = insert.on_conflict_do_nothing().returning(_key(table))
    return set(connection.execute(done).scalars())


def _key(table: sa.Table) -> sa.Column[Any]:
    """Return the column that names the record."""
    return table.c.id if "id" in table.c else table.c.record


def _run(row: Any) -> Run:
    told = json.loads(row.document)
    commit = told["versions"].get("commit")
    return Run(row.cell, row.verdict, row.started, float(told["seconds"]), commit)


def _query() -> sa.Select[Any]:
    """Return the query of records with their details, or where these were moved to."""
    table, details = schema.records, schema.details
    archive = (
        sa.select(schema.prunings.c.archive)
        .join(schema.pruned, schema.pruned.c.pruning == schema.prunings.c.number)
        .where(schema.pruned.c.record == table.c.id)
        .order_by(schema.prunings.c.number.desc())
        .limit(1)
        .scalar_subquery()
    )
    return sa.select(
        table.c.id,
        table.c.received,
        table.c.ahead,
        table.c.document,
        details.c.document.label("details"),
        sa.case((details.c.record.is_(None), archive)).label("archive"),
    ).outerjoin(details, details.c.record == table.c.id)


def _superseded(before: datetime) -> tuple[sa.ColumnElement[bool], ...]:
    """Return what holds for records whose details may be moved; the store itself sees to it too."""
    table, newer = schema.records, schema.records.alias("newer")
    later = sa.or_(
        newer.c.started > table.c.started,
        sa.and_(newer.c.started == table.c.started, newer.c.number > table.c.number),
    )
    same = (newer.c[name] == table.c[name] for name in ("cell", "kind", "evidence"))
    as_good = sa.or_(newer.c.verdict == "passed", table.c.verdict != "passed")
    exists = sa.exists().where(*same, ~newer.c.ahead, later, as_good)
    date = sa.case((table.c.ahead, table.c.received), else_=table.c.started)
    there = schema.details.c.record.is_not(None)
    return date < before, sa.or_(table.c.ahead, exists), there


def _rows(record: Record, now: datetime) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the row of a record that arrives now, and that of its details."""
    slim, details = documents.split(record.document())
    row = {
        "id": record.id,
        "digest": documents.digest(slim, details),
        "cell": record.cell,
        "kind": record.kind,
        "verdict": record.verdict,
        "evidence": record.evidence,
        "started": record.started,
        "received": now,
        "ahead": record.started > now + TOLERANCE,
        "document": slim,
    }
    return row, {"record": record.id, "document": details}


def _file(url: sa.URL) -> Path | None:
    """Return the file of an SQLite store; None for one in memory and for a server."""
    if url.get_backend_name() != "sqlite" or url.database in (None, "", ":memory:"):
        return None
    return Path(str(url.database))


def _cause(error: Exception) -> tuple[str, str, str]:
    """Return what the database said, why that usually is, and what to do."""
    reason = str(getattr(error, "orig", None) or getattr(error, "strerror", None) or error)
    for word, why, fix in _CAUSES:
        if word in reason.lower():
            return reason, why, fix
    return reason, "", "Check that the store can be reached and written"
