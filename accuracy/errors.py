"""The errors of the accuracy runs: one class per cause, each with its exit code."""

from __future__ import annotations

from typing import ClassVar

from matrix.errors import INFRASTRUCTURE, HarnessError


class AccuracyError(HarnessError):
    """Something about an accuracy run or its data is wrong."""


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
