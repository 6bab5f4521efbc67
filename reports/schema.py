"""The store's tables, as they are after every migration."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

REVISION = "0002"
"""The revision of the tables that this code reads and writes: the newest of `migrations/`."""

VERSION_TABLE = "records_version"
"""Where the database says of which revision it is."""

metadata = sa.MetaData()


class Utc(sa.TypeDecorator[datetime]):
    """A time in UTC: with its zone in PostgreSQL, without one in SQLite, which has no zones."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, _: sa.Dialect) -> datetime | None:
        """Return what the database gets."""
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: Any, _: sa.Dialect) -> datetime | None:
        """Return what the database gave, with its zone."""
        if value is None:
            return None
        found: datetime = value if value.tzinfo else value.replace(tzinfo=UTC)
        return found.astimezone(UTC)


records = sa.Table(
    "records",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("id", sa.String(64), nullable=False, unique=True),
    # Of the whole record: tells a repetition from another record also where details are gone.
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("cell", sa.String(255), nullable=False),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("verdict", sa.String(16), nullable=False),
    sa.Column("evidence", sa.String(16), nullable=False),
    sa.Column("started", Utc, nullable=False),
    # None for what was stored before this was noted.
    sa.Column("received", Utc),
    # The clock of the runner was ahead of the store's: the record never is the newest of its cell.
    sa.Column("ahead", sa.Boolean, nullable=False),
    # The document without its details; the columns before it are there to be asked for.
    sa.Column("document", sa.Text, nullable=False),
    sa.Index("ix_records_newest", "cell", "kind", "evidence", "started"),
    sa.Index("ix_records_started", "started"),
)

details = sa.Table(
    "details",
    metadata,
    sa.Column("record", sa.ForeignKey("records.id"), primary_key=True),
    sa.Column("document", sa.Text, nullable=False),
)
"""The bulky parts of each record: proof, samples and log; only they may ever be moved away."""

prunings = sa.Table(
    "prunings",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("at", Utc, nullable=False),
    sa.Column("before", Utc, nullable=False),
    sa.Column("archive", sa.Text, nullable=False),
    sa.Column("digest", sa.String(64), nullable=False),
)
"""When details were moved away, of records that started before when, and into which file."""

pruned = sa.Table(
    "pruned",
    metadata,
    sa.Column("record", sa.ForeignKey("records.id"), primary_key=True),
    sa.Column("pruning", sa.ForeignKey("prunings.number"), primary_key=True),
)
"""Which records' details each pruning moved."""
