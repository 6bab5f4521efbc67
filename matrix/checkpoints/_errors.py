"""The errors of building a checkpoint: what is wrong with its source, and what with its storage."""

from __future__ import annotations

from typing import ClassVar

from matrix.errors import MatrixError


class CheckpointError(MatrixError):
    """The source of a checkpoint is missing, damaged or not convertible."""


class CheckpointStorageError(CheckpointError):
    """The cache cannot be written: disk full, no permission, or a lock that is never released."""

    exit_code: ClassVar[int] = 3
