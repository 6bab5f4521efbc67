"""The errors of the reports: one class per cause, each with its exit code."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from matrix.errors import BAD_USAGE, CONFLICT, INFRASTRUCTURE, HarnessError

if TYPE_CHECKING:
    from reports.record import Record


class ReportsError(HarnessError):
    """Something about records or what is made of them is wrong."""


class RecordError(ReportsError):
    """A document is not a record of this version of the schema."""


class StoreError(ReportsError):
    """The store could not be read or written; `spooled` is where the record was kept instead."""

    exit_code: ClassVar[int] = INFRASTRUCTURE

    def __init__(
        self, what: str, why: str = "", fix: str = "", spooled: Path | None = None
    ) -> None:
        self.spooled = spooled
        super().__init__(what, why, fix)


class SchemaError(StoreError):
    """The tables of the store are of another revision than this code can use."""

    exit_code: ClassVar[int] = BAD_USAGE


class ConflictError(StoreError):
    """The store holds another record of the same id than `record`."""

    exit_code: ClassVar[int] = CONFLICT

    def __init__(self, what: str, why: str, fix: str, record: Record) -> None:
        self.record = record
        super().__init__(what, why, fix)


class SiteError(ReportsError):
    """The site could not be built."""
