"""What happened: records, their store, the statuses derived from them, tables and the site."""

from reports.errors import (
    ConflictError,
    RecordError,
    ReportsError,
    SchemaError,
    SiteError,
    StoreError,
)
from reports.record import Chip, Failure, Metric, Record, Versions, parse
from reports.statuses import Policy, Status, status, statuses
from reports.store import Store, default_url
from reports.support import Support, derive

__all__ = [
    "Chip",
    "ConflictError",
    "Failure",
    "Metric",
    "Policy",
    "Record",
    "RecordError",
    "ReportsError",
    "SchemaError",
    "SiteError",
    "Status",
    "Store",
    "StoreError",
    "Support",
    "Versions",
    "default_url",
    "derive",
    "parse",
    "status",
    "statuses",
]
