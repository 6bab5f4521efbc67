"""What the device says about the work it did: launches per operator, copies, synchronisations.

Over the simulator the numbers come from its counters. A runner on hardware has no such counters
yet, so that every function here may answer None; bodies then prove themselves by vLLM's own state.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ATTENTION = "aclnnFusedInferAttentionScore"
"""Beginning of the names of the paged attention operators; a version number follows."""

SEPARATE_ATTENTION = ("aclnnIncreFlashAttention", "aclnnPromptFlashAttention")
"""The same where a chip has no fused one: decode for all requests at once, prompts one by one."""

CAPPED_ATTENTION = ("aclnnSoftmax",)
"""The same where scores are capped before the softmax, which no operator does: its parts."""

SPARSE_ATTENTION = ("aclnnSparseFlashAttention",)
"""The same over the tokens that an indexer chose."""


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
    def separate_attention(self) -> int:
        """Launches of attention in another form than the fused one."""
        others = (*SEPARATE_ATTENTION, *CAPPED_ATTENTION, *SPARSE_ATTENTION)
        return sum(self.matching(name) for name in others)

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


def work() -> Work | None:
    """Return the work that the device has done for this process, or None where nobody counts."""
    counters = _counters()
    if counters is None:
        return None
    try:
        return _work(counters.snapshot())
    except counters.NotSimulated:
        return None


def work_of_others(folder: Path) -> Work | None:
    """Return the work of all processes that wrote their counters into `folder` when they ended.

    Such processes were started with `CANNSIM_COUNTERS=folder`.
    """
    counters = _counters()
    if counters is None:
        return None
    try:
        return _work(counters.load(folder))
    except FileNotFoundError:
        return None


def _counters() -> Any:
    """The simulator's counters module, or None where the simulator is not installed."""
    try:
        from cannsim import counters
    except ImportError:
        return None
    return counters


def _work(counted: Mapping[str, Any]) -> Work:
    launches = {name: int(entry["count"]) for name, entry in counted["launches"].items()}
    return Work(launches, sum(counted["synchronizations"].values()))
