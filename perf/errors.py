"""The errors of the benchmarks: one class per cause, each with its exit code."""

from __future__ import annotations

from typing import ClassVar

PASSED, GATE_FAILED, BAD_USAGE, INFRASTRUCTURE, INCONCLUSIVE = range(5)
"""Exit codes, as everywhere in this project; 5 (nothing selected) comes from the matrix."""


class PerfError(Exception):
    """Something about a comparison or what was asked of it is wrong.

    The message has three parts: what happened, why that usually is, and what to do.
    """

    exit_code: ClassVar[int] = BAD_USAGE

    def __init__(self, what: str, why: str = "", fix: str = "") -> None:
        self.what, self.why, self.fix = what, why, fix
        super().__init__("\n".join(part for part in (what, why, fix) if part))


class TreeError(PerfError):
    """What should be compared does not exist, or is not what its name says."""


class EngineError(PerfError):
    """A process with an engine died, hung, could not start or runs other code than it should."""

    exit_code: ClassVar[int] = INFRASTRUCTURE


class BuildError(PerfError):
    """A tree's simulator could not be built."""

    exit_code: ClassVar[int] = INFRASTRUCTURE
