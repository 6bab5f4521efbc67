"""Brings a store's tables to the revision of this code, in one transaction, and never back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa

from reports.errors import SchemaError
from reports.schema import REVISION, VERSION_TABLE

if TYPE_CHECKING:
    from alembic.config import Config
    from alembic.script import ScriptDirectory

FIRST = "0001"
"""The revision of a store that has records and does not say of which revision it is."""

_LOCK = 0x617363656E64  # any number that other programs are unlikely to lock


def revision(connection: sa.Connection) -> str | None:
    """Return the revision of the tables; None where there are none."""
    tables = sa.inspect(connection)
    if tables.has_table(VERSION_TABLE):
        version: sa.ColumnClause[str] = sa.column("version_num")
        query = sa.select(version).select_from(sa.table(VERSION_TABLE))
        found = connection.execute(query).scalar_one_or_none()
        if found is not None:
            return str(found)
    return FIRST if tables.has_table("records") else None


def check(found: str | None, store: str, wanted: str = REVISION) -> bool:
    """Return whether the tables of a store have to be upgraded.

    Raises:
        SchemaError: they are newer than this code knows, or than `wanted`.
    """
    if found is None or found == wanted:
        return found is None
    known = revisions()
    if found not in known:
        raise SchemaError(
            f"The store {store} has revision {found}; this version knows {', '.join(known)}.",
            "A newer version of this project upgraded it.",
            "Update this checkout; nothing was changed.",
        )
    if wanted not in known:
        raise SchemaError(
            f"There is no revision {wanted!r} of the store.",
            "It is mistyped, or of a newer version of this project.",
            f"Name one of {', '.join(known)}, or none for the newest.",
        )
    if known.index(found) > known.index(wanted):
        raise SchemaError(
            f"The store {store} has revision {found}, and {wanted} is older.",
            "Going back would lose what the older tables have no place for.",
            "Restore a copy from before the upgrade, or use the version that upgraded it.",
        )
    return True


def upgrade(engine: sa.Engine, store: str, wanted: str = REVISION) -> tuple[str | None, str]:
    """Upgrade the tables, or create them; return the revision before and after.

    Other processes wait. If a step fails, the store is as it was.

    Raises:
        SchemaError: the tables are newer than `wanted`.
        SQLAlchemyError: the database refuses.
    """
    with engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")
        before = revision(connection)
        if check(before, store, wanted):
            _run(connection, wanted)
        return before, revision(connection) or wanted


def _run(connection: sa.Connection, wanted: str) -> None:
    from alembic import command  # four tenths of a second, for which few commands have to pay

    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, wanted)


def revisions() -> Sequence[str]:
    """Return every revision that this code knows, the oldest first."""
    return [step.revision for step in reversed(list(_scripts().walk_revisions()))]


def _scripts() -> ScriptDirectory:
    from alembic.script import ScriptDirectory

    return ScriptDirectory.from_config(_config())


def _config() -> Config:
    from alembic.config import Config

    config = Config()
    folder = str(Path(__file__).parent / "migrations")
    config.set_main_option("script_location", folder.replace("%", "%%"))
    return config
