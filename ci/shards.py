"""Cuts a plan into GitHub's jobs: one a cell, longest first, bundled where too many. Pure."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ci.catalogue import Runner
from ci.errors import CiError, NothingSelectedError, UsageError
from ci.plan import Job, Plan

MAX_JOBS = 256
"""The most jobs that one matrix may have in a run of a workflow (GitHub's documented limit)."""


@dataclass(frozen=True)
class Shard:
    """One job of a workflow: cells of one environment on one sort of runner.

    Args:
        runner: Where it runs.
        chip: The chip's name as torch_npu reports it.
        cann: The CANN version.
        jobs: The cells with their estimates in seconds, longest first.
    """

    runner: Runner
    chip: str
    cann: str
    jobs: tuple[Job, ...]

    @property
    def estimate(self) -> float:
        """Seconds for all cells, one after the other, without the set-up."""
        return sum(job.estimate for job in self.jobs)

    @property
    def timeout(self) -> int:
        """Minutes after which GitHub shall end the job: the set-up, and every cell's own limit."""
        limits = sum(job.cell.feature.time_limit for job in self.jobs)
        return min(self.runner.max_minutes, self.runner.setup_minutes + math.ceil(limits / 60))


Pool = tuple[Runner, str, str, tuple[Job, ...]]
"""Cells that may share a job: runner, chip, CANN version, cells."""


def cut(plan: Plan, runners: Sequence[Runner], limit: int = MAX_JOBS) -> list[Shard]:
    """The jobs of a plan, the longest first.

    With at most ``limit`` cells each has a job of its own. Above that, cells of one environment
    share jobs: jobs are given to the environments so that the longest job gets as short as it can,
    and within one the next longest cell goes to the job with the least work.

    Args:
        plan: What is to run.
        runners: Where, in order of preference.
        limit: The most jobs.

    Raises:
        NothingSelectedError: The plan is empty.
        UsageError: No runner takes a cell, or there are more environments than jobs.
        CiError: A job would take longer than its runner allows.
    """
    if not plan.jobs:
        raise NothingSelectedError(
            "the plan has no cell",
            "the selection is empty; GitHub would run no job and call that a success",
            "choose another selection or pattern; `nox -s e2e -- --list` shows the cells",
        )
    pools = _pools(plan, runners)
    if len(pools) > limit:
        raise UsageError(
            f"{len(pools)} environments do not fit into {limit} jobs",
            "cells of different chips, CANN versions or runners cannot share a job",
            "allow more jobs, or select fewer environments",
        )
    shards = [
        Shard(runner, chip, cann, bundle)
        for (runner, chip, cann, jobs), count in zip(pools, _apportion(pools, limit), strict=True)
        for bundle in _bundle(jobs, count)
    ]
    for shard in shards:
        _check_time(shard)
    return sorted(shards, key=lambda shard: (-shard.estimate, shard.jobs[0].cell.id))


def _pools(plan: Plan, runners: Sequence[Runner]) -> list[Pool]:
    found: dict[tuple[str, str, str], list[Job]] = {}
    by_name = {runner.name: runner for runner in runners}
    for group in plan.groups:
        for job in group.jobs:
            runner = next((r for r in runners if r.takes(job.cell)), None)
            if runner is None:
                raise UsageError(
                    f"no runner takes {job.cell.id}",
                    f"it needs {job.cell.feature.cards} cards of {group.chip} and CANN "
                    f"{group.cann}; asked were: {', '.join(by_name) or 'none'}",
                    "add a runner to ci/runners.yaml, or leave the cell out",
                )
            found.setdefault((runner.name, group.chip, group.cann), []).append(job)
    return [(by_name[name], chip, cann, tuple(j)) for (name, chip, cann), j in found.items()]


def _apportion(pools: Sequence[Pool], limit: int) -> list[int]:
    """How many jobs each pool gets: the next one always to the pool with the longest jobs."""
    counts = [1] * len(pools)
    seconds = [sum(job.estimate for job in pool[3]) for pool in pools]
    waiting = [(-seconds[i], i) for i, pool in enumerate(pools) if len(pool[3]) > 1]
    heapq.heapify(waiting)
    for _ in range(limit - len(pools)):
        if not waiting:
            break
        _, i = heapq.heappop(waiting)
        counts[i] += 1
        if counts[i] < len(pools[i][3]):
            heapq.heappush(waiting, (-seconds[i] / counts[i], i))
    return counts


def _bundle(jobs: Sequence[Job], count: int) -> list[tuple[Job, ...]]:
    """Spreads cells over so many jobs, the longest first and always to the one with least work."""
    bundles: list[list[Job]] = [[] for _ in range(count)]
    # The number of cells breaks ties, so that cells without an estimate are spread as well.
    slots = [(0.0, 0, i) for i in range(count)]
    for job in sorted(jobs, key=lambda job: (-job.estimate, job.cell.id)):
        work, cells, i = heapq.heappop(slots)
        bundles[i].append(job)
        heapq.heappush(slots, (work + job.estimate, cells + 1, i))
    return [tuple(bundle) for bundle in bundles]


def _check_time(shard: Shard) -> None:
    needed = shard.runner.setup_minutes + shard.estimate / 60
    if needed > shard.runner.max_minutes:
        raise CiError(
            f"a job with {len(shard.jobs)} cells would take about {needed:.0f} minutes on "
            f"{shard.runner.name}, which ends jobs after {shard.runner.max_minutes}",
            f"too many cells for the number of jobs; the longest is {shard.jobs[0].cell.id}",
            "select fewer cells, or allow more jobs",
        )


def matrix(shards: Sequence[Shard]) -> dict[str, list[dict[str, Any]]]:
    """The value of ``strategy.matrix``: one entry a job, in the order of the shards.

    ``cells`` are ids with spaces between them, ``estimate`` is in seconds and ``timeout`` in
    minutes; ``key`` is a name that fits into the name of an artifact.
    """
    return {
        "include": [
            {
                "key": f"{number:03}",
                "name": _name(shard),
                "cells": " ".join(job.cell.id for job in shard.jobs),
                "runner": shard.runner.name,
                "labels": list(shard.runner.labels),
                "image": shard.runner.image,
                "chip": shard.chip,
                "cann": shard.cann,
                "estimate": round(shard.estimate),
                "timeout": shard.timeout,
            }
            for number, shard in enumerate(shards, start=1)
        ]
    }


def _name(shard: Shard) -> str:
    first = shard.jobs[0].cell.id
    more = len(shard.jobs) - 1
    return first if not more else f"{first} and {more} more"
