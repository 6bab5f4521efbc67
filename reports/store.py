"""The store: an append-only table of records in SQLite or any database that SQLAlchemy reaches."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.schema import CreateIndex, CreateTable

from reports import spool
from reports.errors import StoreError
from reports.record import Kind, Record, parse

DEFAULT_URL = "sqlite:///results/records.sqlite"
ENVIRONMENT = "ASCEND_MATRIX_STORE"
"""Environment variable with the store's URL."""

_BUSY_SECONDS = 30  # how long a writer waits for another; a write takes milliseconds

_metadata = sa.MetaData()
_records = sa.Table(
    "records",
    _metadata,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("id", sa.String(64), nullable=False, unique=True),
    sa.Column("cell", sa.String(255), nullable=False, index=True),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("verdict", sa.String(16), nullable=False),
    sa.Column("evidence", sa.String(16), nullable=False),
    sa.Column("started", sa.String(40), nullable=False),
    # The document is the truth; the columns before it are there to be asked for.
    sa.Column("document", sa.Text, nullable=False),
)

_TRIGGERS = tuple(
    f"CREATE TRIGGER IF NOT EXISTS records_no_{event.lower()} BEFORE {event} ON records "
    "BEGIN SELECT RAISE(ABORT, 'records are append-only'); END"
    for event in ("UPDATE", "DELETE")
)
"""What keeps other programs from changing what is stored, where the database is SQLite."""

_CAUSES = (
    ("full", "The disk is full.", "Free some space"),
    ("locked", "Another process is writing, or died while it wrote.", "Wait or end that process"),
    ("readonly", "The file or its folder may not be written.", "Change its permissions"),
    ("unable to open", "The folder may not be written.", "Choose another store with --store"),
    ("disk i/o", "The disk refused to write; often a quota or a limit.", "Check the disk"),
    ("malformed", "The file is damaged.", "Move it away and restore a copy"),
    ("not a database", "Another program's file has that name.", "Move it away"),
)


def default_url() -> str:
    """Return the URL that the environment names, or the file results/records.sqlite."""
    return os.environ.get(ENVIRONMENT) or DEFAULT_URL


class Store:
    """Append-only records behind an SQLAlchemy URL.

    SQLite keeps its rollback journal instead of a write-ahead log: records come seconds apart,
    one file can be copied at any time, and on a full disk the file stays as it was.

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
            # No connection outlives its use: a runner forks, and SQLite must not cross a fork.
            options = {"connect_args": {"timeout": _BUSY_SECONDS}, "poolclass": sa.NullPool}
            self._engine = sa.create_engine(self._url, **(options if self._file else {}))
        except (SQLAlchemyError, ImportError) as error:
            raise StoreError(
                f"The store {name!r} cannot be used: {error}.",
                "It is no SQLAlchemy URL, or the database's driver is not installed.",
                "Write for example sqlite:///results/records.sqlite.",
            ) from None
        self._created = False

    @property
    def name(self) -> str:
        """The URL without a password."""
        return self._url.render_as_string(hide_password=True)

    @property
    def spools(self) -> list[Path]:
        """The folders where records are kept when the store cannot take them."""
        store = str(self._file.resolve()) if self._file else self.name
        return spool.folders(store, self._file.parent if self._file else None)

    def add(self, record: Record) -> bool:
        """Append a record in one transaction; return False if it was there already.

        Raises:
            StoreError: it was not stored; `spooled` names the file that holds it instead.
        """
        try:
            return self._insert(record)
        except (SQLAlchemyError, OSError) as error:
            kept = spool.keep(record, self.spools)
            raise self._not_stored(record, error, kept) from error

    def _insert(self, record: Record) -> bool:
        row = {
            "id": record.id,
            "cell": record.cell,
            "kind": record.kind,
            "verdict": record.verdict,
            "evidence": record.evidence,
            "started": record.started.isoformat(),
            "document": record.to_json(),
        }
        self._create()
        try:
            with self._engine.begin() as connection:
                connection.execute(_records.insert(), row)
        except IntegrityError:
            return self._already(record)
        return True

    def _already(self, record: Record) -> bool:
        with self._engine.connect() as connection:
            query = sa.select(_records.c.document).where(_records.c.id == record.id)
            stored = connection.execute(query).scalar_one_or_none()
        if stored is None:  # the constraint that failed was another one
            raise sa.exc.DatabaseError(f"the record {record.id} was refused", None, Exception())
        if parse(stored) != record:
            raise StoreError(
                f"The store {self.name} holds another record with the id {record.id}.",
                "Records are append-only; a run that was repeated has a record of its own.",
                "Give the record a new id.",
            )
        return False

    def _create(self) -> None:
        if self._created:
            return
        if self._file is not None:
            self._file.parent.mkdir(parents=True, exist_ok=True)
        # Several processes may come first at the same time, so each step bears being repeated.
        with self._engine.begin() as connection:
            connection.execute(CreateTable(_records, if_not_exists=True))
            for index in _records.indexes:
                connection.execute(CreateIndex(index, if_not_exists=True))
            for trigger in _TRIGGERS if self._engine.dialect.name == "sqlite" else ():
                connection.exec_driver_sql(trigger)
        self._created = True

    def records(self, cell: str | None = None, kind: Kind | None = None) -> list[Record]:
        """Return records, oldest first; of one cell or kind where given.

        Raises:
            StoreError: the store cannot be read.
            RecordError: a record is of a newer schema.
        """
        query = sa.select(_records.c.id, _records.c.document)
        if cell is not None:
            query = query.where(_records.c.cell == cell)
        if kind is not None:
            query = query.where(_records.c.kind == kind)
        query = query.order_by(_records.c.started, _records.c.number)
        with self._reading() as connection:
            rows = connection.execute(query).all() if connection is not None else []
        return [parse(row.document, origin=f"{self.name}: record {row.id}") for row in rows]

    def latest(self, kind: Kind = "e2e") -> dict[str, Record]:
        """Return cell id to the newest record of that kind."""
        return {record.cell: record for record in self.records(kind=kind)}

    @contextmanager
    def _reading(self) -> Iterator[sa.Connection | None]:
        """Yield a connection, or None where nothing has been stored yet."""
        if self._file is not None and not self._file.exists():
            yield None  # connecting would leave an empty file behind
            return
        try:
            with self._engine.connect() as connection:
                yield connection if sa.inspect(connection).has_table("records") else None
        except SQLAlchemyError as error:
            reason, why, fix = _cause(error)
            raise StoreError(
                f"The store {self.name} cannot be read: {reason}.", why, f"{fix}, then try again."
            ) from error

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


def _file(url: sa.URL) -> Path | None:
    """Return the file of an SQLite store; None for one in memory and for a server."""
    if url.get_backend_name() != "sqlite" or url.database in (None, "", ":memory:"):
        return None
    return Path(str(url.database))


def _cause(error: Exception) -> tuple[str, str, str]:
    """Return what the database said, why that usually is, and what to do."""
    reason = str(getattr(error, "orig", None) or getattr(error, "strerror", None) or error)
    for word, why, fix in _CAUSES:
        if word in reason.lower() or (word == "full" and "no space" in reason.lower()):
            return reason, why, fix
    return reason, "", "Check that the store can be reached and written"
