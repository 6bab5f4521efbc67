"""One table of records, as stores had it before they said of which revision they are."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision: str | None = None

_TRIGGER = (
    "CREATE TRIGGER IF NOT EXISTS records_no_{0} BEFORE {0} ON records "
    "BEGIN SELECT RAISE(ABORT, 'records are append-only'); END"
)


def upgrade() -> None:
    """Create the table; a store of that time has it already, and then nothing happens."""
    connection = op.get_bind()
    if sa.inspect(connection).has_table("records"):
        return
    op.create_table(
        "records",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("id", sa.String(64), nullable=False, unique=True),
        sa.Column("cell", sa.String(255), nullable=False, index=True),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("verdict", sa.String(16), nullable=False),
        sa.Column("evidence", sa.String(16), nullable=False),
        sa.Column("started", sa.String(40), nullable=False),
        sa.Column("document", sa.Text, nullable=False),
    )
    if connection.dialect.name == "sqlite":
        for event in ("update", "delete"):
            op.execute(_TRIGGER.format(event))
