"""The whole of what matrix/*.yaml claims, as one object."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from matrix.schema import (
    AccuracySuite,
    Benchmark,
    Branch,
    CannVersion,
    Combinations,
    ExpectedFailure,
    Family,
    Feature,
    Hardware,
    Model,
    Release,
    Rule,
    Selection,
    Serving,
    TorchNpuPair,
    Upstream,
    VersionPolicy,
)


@dataclass(frozen=True)
class Matrix:
    """Everything that is claimed, by name and in the order of the files.

    Attributes:
        hardware: ranges that have runs of their own, one for each chip.
        sharing: ranges of the same chip as one of `hardware`, whose runs speak for them.
    """

    root: Path
    models: dict[str, Model]
    families: dict[str, Family]
    features: dict[str, Feature]
    serving: dict[str, Serving]
    cann: dict[str, CannVersion]
    hardware: dict[str, Hardware]
    sharing: dict[str, Hardware]
    releases: dict[str, Release]
    torch_npu: dict[str, TorchNpuPair]
    branches: dict[str, Branch]
    policy: VersionPolicy
    rules: tuple[Rule, ...]
    expected: dict[str, ExpectedFailure]
    selections: dict[str, Selection]
    accuracy: dict[str, AccuracySuite]
    combinations: Combinations
    benchmarks: dict[str, Benchmark]
    upstream: Upstream

    @property
    def release(self) -> Release:
        """The current set of versions."""
        return next(r for r in self.releases.values() if r.status == "current")
