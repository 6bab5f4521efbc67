"""The errors of the reports: one class per cause, each with its exit code."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar


class ReportsError(Exception):
    """Something about records or what is made of them is wrong.

    The message has three parts: what happened, why that usually is, and what to do.
    """

    exit_code: ClassVar[int] = 2

    def __init__(self, what: str, why: str = "", fix: str = "") -> None:
        self.what, self.why, self.fix = what, why, fix
        super().__init__("\n".join(part for part in (what, why, fix) if part))


class RecordError(ReportsError):
    """A document is not a record of this version of the schema."""


class StoreError(ReportsError):
    """The store could not be read or written; `spooled` is where the record was kept instead."""

    exit_code: ClassVar[int] = 3

    def __init__(
        self, what: str, why: str = "", fix: str = "", spooled: Path | None = None
    ) -> None:
        self.spooled = spooled
        super().__init__(what, why, fix)


class SiteError(ReportsError):
    """The site could not be built."""
