"""Makes a record of a result: adds the versions of everything that took part."""

from __future__ import annotations

import os

from ci.runners import Result, Runner
from reports import places
from reports.provenance import failure, versions
from reports.record import Chip, Kind, Metric, Record


def make(result: Result, runner: Runner, kind: Kind = "e2e") -> Record:
    """The record of a result.

    Args:
        result: How a run of a cell ended.
        runner: What ran it, which decides what the result is evidence of.
        kind: What sort of run it was.

    Raises:
        pydantic.ValidationError: The body returned what JSON or the schema cannot hold.
    """
    error = result.error
    return Record(
        cell=result.job.cell.id,
        kind=kind,
        verdict=result.verdict,
        evidence=runner.evidence,
        versions=versions(result.group.cann, simulated=runner.evidence == "simulated"),
        hardware=Chip(chip=result.group.chip, cards=result.job.cell.feature.cards),
        runner=runner.name,
        started=result.started,
        seconds=result.seconds,
        timings=dict(result.timings),
        metrics={
            name: Metric(value=value, unit=unit) for name, (value, unit) in result.metrics.items()
        },
        proof=dict(result.proof),
        samples=tuple(result.samples),
        error=None if error is None else failure(error.kind, error.message, error.log_tail),
        run_url=run_url(),
        artifacts=() if result.log is None else (places.relative(result.log),),
    )


def run_url() -> str | None:
    """The address of the CI run that this process belongs to, where it belongs to one."""
    names = ("GITHUB_SERVER_URL", "GITHUB_REPOSITORY", "GITHUB_RUN_ID")
    server, repository, run = (os.environ.get(name) for name in names)
    return f"{server}/{repository}/actions/runs/{run}" if server and repository and run else None
