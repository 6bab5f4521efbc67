"""Details apart from records, times as times, and the same protection in both databases."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_BATCH = 1000

_SUPERSEDED = """
EXISTS (SELECT 1 FROM pruned WHERE pruned.record = OLD.record) AND EXISTS (
  SELECT 1 FROM records AS old_one WHERE old_one.id = OLD.record AND (old_one.ahead OR EXISTS (
    SELECT 1 FROM records AS newer
    WHERE newer.cell = old_one.cell AND newer.kind = old_one.kind
    AND newer.evidence = old_one.evidence AND NOT newer.ahead
    AND (newer.started > old_one.started
      OR (newer.started = old_one.started AND newer.number > old_one.number))
    AND (newer.verdict = 'passed' OR old_one.verdict <> 'passed'))))
"""
"""When details may go: they were archived, and a newer record speaks for the cell.

The newest record that passed keeps them also where a later one failed: it can be a baseline.
"""

_MESSAGES = {
    "records": "records are append-only",
    "details": "details are moved away by a pruning alone, and never those of the newest record",
    "prunings": "prunings are append-only",
    "pruned": "prunings are append-only",
}
_KEYS = {
    "records": "id = NEW.id OR number = NEW.number",
    "details": "record = NEW.record",
    "prunings": "number = NEW.number",
    "pruned": "record = NEW.record AND pruning = NEW.pruning",
}
_ALLOWED = {("details", "DELETE"): _SUPERSEDED}


def upgrade() -> None:
    """Split every record in two; nothing is dropped before as many arrived as there were."""
    connection = op.get_bind()
    sqlite = connection.dialect.name == "sqlite"
    for event in ("update", "delete") if sqlite else ():
        op.execute(f"DROP TRIGGER IF EXISTS records_no_{event}")
    op.drop_index("ix_records_cell", "records")
    op.rename_table("records", "records_0001")
    if not sqlite:  # names of constraints and sequences are the schema's, not the table's
        op.execute("ALTER TABLE records_0001 RENAME CONSTRAINT records_pkey TO records_0001_pkey")
        op.execute(
            "ALTER TABLE records_0001 RENAME CONSTRAINT records_id_key TO records_0001_id_key"
        )
        op.execute("ALTER SEQUENCE records_number_seq RENAME TO records_0001_number_seq")
    _create()
    before, after = _copy(connection)
    if before != after:
        raise RuntimeError(f"{before} records were there, and {after} arrived")
    op.drop_table("records_0001")
    (_protect_sqlite if sqlite else _protect_postgresql)()


def _create() -> None:
    time = sa.DateTime(timezone=True)
    op.create_table(
        "records",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("id", sa.String(64), nullable=False, unique=True),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("cell", sa.String(255), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("verdict", sa.String(16), nullable=False),
        sa.Column("evidence", sa.String(16), nullable=False),
        sa.Column("started", time, nullable=False),
        sa.Column("received", time),
        sa.Column("ahead", sa.Boolean, nullable=False),
        sa.Column("document", sa.Text, nullable=False),
    )
    op.create_index("ix_records_newest", "records", ["cell", "kind", "evidence", "started"])
    op.create_index("ix_records_started", "records", ["started"])
    record = sa.ForeignKey("records.id")
    op.create_table(
        "details",
        sa.Column("record", sa.String(64), record, primary_key=True),
        sa.Column("document", sa.Text, nullable=False),
    )
    op.create_table(
        "prunings",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("at", time, nullable=False),
        sa.Column("before", time, nullable=False),
        sa.Column("archive", sa.Text, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
    )
    op.create_table(
        "pruned",
        sa.Column("record", sa.String(64), sa.ForeignKey("records.id"), primary_key=True),
        sa.Column("pruning", sa.Integer, sa.ForeignKey("prunings.number"), primary_key=True),
    )


# --------------------------------------------------------------------------------------- the copy


def _copy(connection: sa.Connection) -> tuple[int, int]:
    """Copy every row; return how many there were, and how many there are."""
    time = sa.DateTime(timezone=True)
    names = ("number", "id", "digest", "cell", "kind", "verdict", "evidence", "document")
    columns: list[sa.ColumnClause[Any]] = [sa.column(name) for name in names]
    columns += [sa.column("started", time), sa.column("ahead", sa.Boolean)]
    records = sa.table("records", *columns)
    details = sa.table("details", sa.column("record"), sa.column("document"))
    for rows in _batches(connection):
        split = [_split(row) for row in rows]
        connection.execute(records.insert(), [row for row, _ in split])
        connection.execute(details.insert(), [row for _, row in split])
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(
            "SELECT setval(pg_get_serial_sequence('records', 'number'), max(number))"
            " FROM records HAVING count(*) > 0"
        )
    return _count(connection, "records_0001"), _count(connection, "records")


def _count(connection: sa.Connection, table: str) -> int:
    return int(
        connection.execute(sa.select(sa.func.count()).select_from(sa.table(table))).scalar_one()
    )


def _batches(connection: sa.Connection) -> Iterator[list[Any]]:
    names = ("number", "id", "cell", "kind", "verdict", "evidence", "started", "document")
    old = sa.table("records_0001", *(sa.column(name) for name in names))
    last = -1
    while True:
        query = sa.select(old).where(old.c.number > last).order_by(old.c.number).limit(_BATCH)
        rows = list(connection.execute(query).mappings())
        if not rows:
            return
        yield rows
        last = rows[-1]["number"]


def _split(row: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the row of the record and that of its details."""
    document, details = _parts(row["document"])
    started = _time(row["started"])
    new = {
        **{name: row[name] for name in ("number", "id", "cell", "kind", "verdict", "evidence")},
        "digest": hashlib.sha256(f"{document}\n{details}".encode()).hexdigest(),
        "started": started,
        # What lay in the future is of a clock that was ahead.
        "ahead": started > datetime.now(UTC) + timedelta(minutes=5),
        "document": document,
    }
    return new, {"record": row["id"], "document": details}


def _parts(text: str) -> tuple[str, str]:
    """Return a document without its details, and these; what cannot be read stays as it is."""
    try:
        slim = _filled(json.loads(text))
        names = ("proof", "samples")
        details: dict[str, Any] = {name: slim.pop(name) for name in names if name in slim}
        if "versions" in slim:
            slim["versions"] = _filled(slim["versions"])
        if "error" in slim:
            details["log_tail"] = slim["error"].pop("log_tail", "")
    except (ValueError, AttributeError):
        return text, "{}"
    return _json(slim), _json(details)


def _filled(part: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in part.items() if value not in (None, "", [], {})}


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _time(text: str) -> datetime:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return datetime(1970, 1, 1, tzinfo=UTC)
    return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)


# --------------------------------------------------------------------------------- the protection


def _protect_sqlite() -> None:
    for table, message in _MESSAGES.items():
        for event in ("UPDATE", "DELETE"):
            allowed = _ALLOWED.get((table, event))
            when = f"WHEN NOT ({allowed})" if allowed else ""
            op.execute(
                f"CREATE TRIGGER {table}_no_{event.lower()} BEFORE {event} ON {table} {when} "
                f"BEGIN SELECT RAISE(ABORT, '{message}'); END"
            )
        # INSERT OR REPLACE deletes without asking the trigger above.
        op.execute(
            f"CREATE TRIGGER {table}_no_replace BEFORE INSERT ON {table} WHEN EXISTS "
            f"(SELECT 1 FROM {table} WHERE {_KEYS[table]}) BEGIN SELECT RAISE(IGNORE); END"
        )


def _protect_postgresql() -> None:
    for table, message in _MESSAGES.items():
        allowed = _ALLOWED.get((table, "DELETE"), "FALSE")
        op.execute(
            f"CREATE FUNCTION {table}_protect() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN\n"
            f"IF TG_OP = 'DELETE' THEN IF {allowed} THEN RETURN OLD; END IF; END IF;\n"
            f"RAISE EXCEPTION '{message}' USING ERRCODE = 'integrity_constraint_violation';\n"
            "END $$"
        )
        for event, each in (("UPDATE OR DELETE", "ROW"), ("TRUNCATE", "STATEMENT")):
            op.execute(
                f"CREATE TRIGGER {table}_no_{event.split()[0].lower()} BEFORE {event} ON {table} "
                f"FOR EACH {each} EXECUTE FUNCTION {table}_protect()"
            )
