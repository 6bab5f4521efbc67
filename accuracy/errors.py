"""The errors of the accuracy runs: one class per cause, each with its exit code."""

from __future__ import annotations

from typing import ClassVar

PASSED, GATE_FAILED, BAD_USAGE, INFRASTRUCTURE, INCONCLUSIVE = range(5)
"""Exit codes, as everywhere in this project; 5 (nothing selected) comes from the matrix."""


class AccuracyError(Exception):
    """Something about an accuracy run or its data is wrong.

    The message has three parts: what happened, why that usually is, and what to do.
    """

    exit_code: ClassVar[int] = BAD_USAGE

    def __init__(self, what: str, why: str = "", fix: str = "") -> None:
        self.what, self.why, self.fix = what, why, fix
        super().__init__("\n".join(part for part in (what, why, fix) if part))


class UnknownTask(AccuracyError):
    """No file of accuracy/tasks has that name, or no suite asks it."""


class InvalidTask(AccuracyError):
    """A task file does not say what it has to."""


class MissingData(AccuracyError):
    """The package that carries a task's items is not installed, or carries other items."""


class MissingBaseline(AccuracyError):
    """There is no such baseline, or it is not one of these cells and items."""


class EngineError(AccuracyError):
    """The process with the engine died, hung or could not start."""

    exit_code: ClassVar[int] = INFRASTRUCTURE
