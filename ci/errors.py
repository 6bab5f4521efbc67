"""The ways in which preparing or running cells fails, each with its exit code."""

from __future__ import annotations

PASSED = 0
"""Everything that ran passed."""

GATE_FAILED = 1
"""At least one gate failed."""

BAD_USAGE = 2
"""The command line or the data is wrong; nothing ran."""

INFRASTRUCTURE = 3
"""Something around the cells broke: a runner died, timed out or could not start."""

INCONCLUSIVE = 4
"""No gate failed, but at least one could not decide."""

NOTHING_SELECTED = 5
"""The selection is valid and empty."""


class CiError(Exception):
    """A problem told in three parts: what happened, the likely cause, what to do.

    Args:
        happened: What was observed, with the file, key or command in question.
        cause: Why that usually is.
        remedy: What the reader can do about it.
    """

    exit_code: int = INFRASTRUCTURE

    def __init__(self, happened: str, cause: str, remedy: str) -> None:
        super().__init__(happened)
        self.happened = happened
        self.cause = cause
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.happened}\n  likely cause: {self.cause}\n  what to do: {self.remedy}"


class UsageError(CiError):
    """The command line asks for something that does not exist."""

    exit_code = BAD_USAGE


class NothingSelectedError(CiError):
    """The selection is valid, and there is nothing in it to run."""

    exit_code = NOTHING_SELECTED


class WrongPythonError(CiError):
    """No usable Python of the version that the stack needs was found."""


class MissingCompilerError(CiError):
    """No C++ compiler was found."""


class DiskSpaceError(CiError):
    """The disk has too little room for the environment."""


class InstallError(CiError):
    """A step of the installation failed."""


class LockedError(CiError):
    """Another process has been building the environment for too long."""


class SimulatorError(CiError):
    """The simulated environment could not be described or started."""


class WorkerError(CiError):
    """The process that imports the stack and forks the cells died or never started."""
