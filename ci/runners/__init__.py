"""Runners: what carries out a plan, on which machines; and what they say while they do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Protocol

from ci.checkpoints import Checkpoints
from ci.plan import Group, Job, Plan

Verdict = Literal["passed", "failed", "error", "inconclusive"]


@dataclass(frozen=True)
class CellError:
    """Why a cell did not pass.

    Args:
        kind: The exception's class, or the runner's word for it: TimeLimit, Crash, WorkerDied, ...
        message: What happened.
        log_tail: The end of the cell's log.
    """

    kind: str
    message: str
    log_tail: str = ""


@dataclass(frozen=True)
class Result:
    """How one run of one cell ended.

    Args:
        job: The cell and its estimate.
        group: The environment that it ran in.
        verdict: passed, failed (a gate), error (anything else) or inconclusive.
        started: When, in UTC.
        seconds: From the request to the end of the last process of the cell.
        error: Why it did not pass; None when it did.
        metrics: Name to value and unit.
        proof: What showed that the feature was on.
        samples: Hashes and outcomes, where there are samples.
        timings: Seconds of import, engine_start and generation, as far as the body told.
        log: Everything that the cell's processes printed.
        ran: What `ci.tracing` noted, where the run was to learn.
    """

    job: Job
    group: Group
    verdict: Verdict
    started: datetime
    seconds: float
    error: CellError | None = None
    metrics: Mapping[str, tuple[float, str]] = field(default_factory=dict)
    proof: Mapping[str, Any] = field(default_factory=dict)
    samples: list[dict[str, Any]] = field(default_factory=list)
    timings: Mapping[str, float] = field(default_factory=dict)
    log: Path | None = None
    ran: Mapping[str, Any] | None = None


class Listener(Protocol):
    """Hears what a runner does, while it does it."""

    def note(self, text: str) -> None:
        """Something about the run as a whole."""

    def started(self, job: Job) -> None:
        """A cell has started."""

    def finished(self, result: Result) -> None:
        """A cell has ended; called once for every cell of the plan."""


class Runner(Protocol):
    """Carries out a plan."""

    @property
    def name(self) -> str:
        """The runner's name, as ``--runner`` takes it."""

    @property
    def evidence(self) -> Literal["hardware", "simulated"]:
        """What its results are evidence of."""

    def run(self, plan: Plan, checkpoints: Checkpoints, listener: Listener) -> None:
        """Runs every cell of the plan, and tells the listener of each.

        Raises:
            KeyboardInterrupt: The run was interrupted; no process of it is left.
        """
