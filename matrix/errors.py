"""Exit codes, and the errors of the matrix: one class per cause, each with its code."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar

PASSED, GATE_FAILED, BAD_USAGE, INFRASTRUCTURE, INCONCLUSIVE, NOTHING_SELECTED = range(6)
"""Exit codes of every command of the harness."""

NOT_SUPPORTED, NO_RELEASE, DOES_NOT_FIT, EXPIRED = range(6, 10)
"""Exit codes of `python -m matrix`: why nothing can be installed, and a failure that was forgiven
for too long.
"""

CONFLICT = 10
"""Exit code where two records that differ have one id."""


class HarnessError(Exception):
    """A problem told in three parts: what happened, why that usually is, and what to do."""

    exit_code: ClassVar[int] = BAD_USAGE

    def __init__(self, what: str, why: str = "", fix: str = "") -> None:
        self.what, self.why, self.fix = what, why, fix
        super().__init__("\n".join(part for part in (what, why, fix) if part))


class MatrixError(HarnessError):
    """Something about the matrix or about what was asked of it is wrong."""


class InvalidData(MatrixError):
    """A YAML file does not say what the schema allows."""


class DuplicateName(InvalidData):
    """Two entries of one sort have the same name."""


class UnknownReference(InvalidData):
    """A rule or selection names something that does not exist."""


class Expired(InvalidData):
    """An expected failure is past its day."""

    exit_code: ClassVar[int] = EXPIRED


class UnknownName(MatrixError):
    """A model, feature, hardware or CANN version that was asked for does not exist."""


class NotSupported(MatrixError):
    """A rule says that what was asked for is not supported."""

    exit_code: ClassVar[int] = NOT_SUPPORTED


class NoRelease(MatrixError):
    """No release was made for the CANN version that was asked for."""

    exit_code: ClassVar[int] = NO_RELEASE


class DoesNotFit(MatrixError):
    """The weights need more devices than can be used."""

    exit_code: ClassVar[int] = DOES_NOT_FIT


class UnknownSelection(MatrixError):
    """The named selection does not exist."""


class UnknownPattern(MatrixError):
    """A pattern matches no cell at all, so it is probably mistyped."""


class DeviceError(MatrixError):
    """No simulated device could be had."""

    exit_code: ClassVar[int] = INFRASTRUCTURE


class EmptySelection(MatrixError):
    """What was asked for exists, and nothing of it can be run."""

    exit_code: ClassVar[int] = NOTHING_SELECTED


def nearest(name: str, valid: Iterable[str]) -> str | None:
    """Return the entry of `valid` that looks most like `name`, or None when none looks like it."""
    found = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.5)
    return found[0] if found else None


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    """Return a sentence that names the nearest valid name, or lists the valid ones."""
    names = sorted(set(valid))
    close = nearest(name, names)
    if close is not None:
        return f"Did you mean {close!r}?"
    shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
    return f"Valid names: {shown or '(none)'}."
