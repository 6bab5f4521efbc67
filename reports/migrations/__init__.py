"""What alembic runs: one step in `versions/` for each revision of the store's tables."""
