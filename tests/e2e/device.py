"""What the device says about the work it did: launches per operator, copies, synchronisations.

Over the simulator the numbers come from its counters. A runner on hardware has no such counters
yet, so that every function here may answer None; bodies then prove themselves by vLLM's own state.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ATTENTION = "aclnnFusedInferAttentionScore"
"""Beginning of the names of the paged attention operators; a version number follows."""


@dataclass(frozen=True)
class Work:
    """The work of one or several processes on their devices.

    Attributes:
        launches: operator to number of launches.
        synchronizations: how often the host waited for a stream or device.
    """

    launches: dict[str, int]
    synchronizations: int

    def matching(self, prefix: str) -> int:
        """Return the launches of all operators whose names begin with `prefix`."""
        return sum(count for name, count in self.launches.items() if name.startswith(prefix))

    @property
    def attention(self) -> int:
        """Launches of paged attention."""
        return self.matching(ATTENTION)

    @property
    def total(self) -> int:
        """Launches of any operator."""
        return sum(self.launches.values())

    def since(self, earlier: Work) -> Work:
        """Return the work done after `earlier` was read."""
        names = {n: c - earlier.launches.get(n, 0) for n, c in self.launches.items()}
        return Work(
            {name: count for name, count in names.items() if count},
            self.synchronizations - earlier.synchronizations,
        )


def simulated() -> bool:
    """Whether this process runs over the simulator."""
    return any(name.startswith("CANNSIM_") for name in os.environ)


def work() -> Work | None:
    """Return the work that the device has done for this process, or None where nobody counts."""
    if not simulated():
        return None
    from cannsim import counters

    return _work(counters.snapshot())


def work_of_others(folder: Path) -> Work | None:
    """Return the work of all processes that wrote their counters into `folder` when they ended.

    Such processes were started with `CANNSIM_COUNTERS=folder`.
    """
    if not simulated() or not folder.is_dir() or not any(folder.iterdir()):
        return None
    from cannsim import counters

    return _work(counters.load(folder))


def _work(counted: Mapping[str, Any]) -> Work:
    launches = {str(name): int(count) for name, count in counted.get("launches", {}).items()}
    return Work(launches, int(counted.get("synchronizations", 0)))
