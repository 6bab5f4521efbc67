"""Makes a record of a result: adds the versions of everything that took part."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from functools import lru_cache
from pathlib import Path

from ci.environment import ROOT
from ci.runners import Result, Runner
from reports.record import Chip, Failure, Kind, Metric, Record, Versions

DISTRIBUTIONS = {
    "plugin": "vllm-ascend",
    "vllm": "vllm",
    "torch": "torch",
    "torch_npu": "torch-npu",
    "transformers": "transformers",
    "cannsim": "cannsim",
}
"""The record's name for a component, and the distribution that tells its version."""


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
        artifacts=() if result.log is None else (str(result.log),),
    )


def failure(kind: str, message: str, log_tail: str) -> Failure:
    """The part of a record that says why a run did not pass."""
    return Failure.model_validate({"class": kind, "message": message, "log_tail": log_tail})


def versions(cann: str, *, simulated: bool) -> Versions:
    """The versions of everything, read from what is installed and from git.

    Args:
        cann: The CANN version that the cell ran on.
        simulated: Whether the simulator stood for CANN and the driver.
    """
    found = {part: installed(name) for part, name in DISTRIBUTIONS.items()}
    if not simulated:
        found["cannsim"] = None
    commit, dirty = checkout(ROOT)
    return Versions(
        cann=cann, commit=commit, dirty=dirty, python=platform.python_version(), **found
    )


@lru_cache
def installed(distribution: str) -> str | None:
    """The version of an installed distribution, without importing it; None when there is none."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


@lru_cache
def checkout(root: Path) -> tuple[str | None, bool | None]:
    """The commit that is checked out, and whether tracked files differ from it.

    Both are None where git does not answer, as in an unpacked archive.
    """
    try:
        commit = _git(root, "rev-parse", "HEAD").strip()
        return commit, bool(_git(root, "status", "--porcelain", "--untracked-files=no").strip())
    except (OSError, subprocess.CalledProcessError):
        return None, None


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def run_url() -> str | None:
    """The address of the CI run that this process belongs to, where it belongs to one."""
    names = ("GITHUB_SERVER_URL", "GITHUB_REPOSITORY", "GITHUB_RUN_ID")
    server, repository, run = (os.environ.get(name) for name in names)
    return f"{server}/{repository}/actions/runs/{run}" if server and repository and run else None
