"""The errors of the benchmarks: one class per cause, each with its exit code."""

from __future__ import annotations

from typing import ClassVar

from matrix.errors import INFRASTRUCTURE, HarnessError


class PerfError(HarnessError):
    """Something about a comparison or what was asked of it is wrong."""


class TreeError(PerfError):
    """What should be compared does not exist, or is not what its name says."""


class EngineError(PerfError):
    """A process with an engine died, hung, could not start or runs other code than it should."""

    exit_code: ClassVar[int] = INFRASTRUCTURE


class BuildError(PerfError):
    """A tree's simulator could not be built."""

    exit_code: ClassVar[int] = INFRASTRUCTURE
