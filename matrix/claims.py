"""The whole of what matrix/*.yaml claims, as one object."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from matrix.schema import (
    AccuracySuite,
    CannVersion,
    Combinations,
    Feature,
    Hardware,
    Model,
    Release,
    Rule,
    Selection,
)


@dataclass(frozen=True)
class Matrix:
    """Everything that is claimed, by name and in the order of the files."""

    root: Path
    models: dict[str, Model]
    features: dict[str, Feature]
    cann: dict[str, CannVersion]
    hardware: dict[str, Hardware]
    releases: dict[str, Release]
    rules: tuple[Rule, ...]
    selections: dict[str, Selection]
    accuracy: dict[str, AccuracySuite]
    combinations: Combinations

    @property
    def release(self) -> Release:
        """The current set of versions."""
        return next(r for r in self.releases.values() if r.status == "current")
