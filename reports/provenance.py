"""Where a result comes from: the versions of everything that took part, and the commit."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from functools import lru_cache
from pathlib import Path
from typing import Any

from reports.places import ROOT, without
from reports.record import Failure, Versions

DISTRIBUTIONS = {
    "plugin": "vllm-ascend",
    "vllm": "vllm",
    "torch": "torch",
    "torch_npu": "torch-npu",
    "transformers": "transformers",
    "cannsim": "cannsim",
}
"""The record's name for a component, and the distribution that tells its version."""


def versions(cann: str, *, simulated: bool, root: Path = ROOT) -> Versions:
    """Return the versions of everything, read from what is installed and from git.

    Args:
        cann: the CANN version that the cell ran on.
        simulated: whether the simulator stood for CANN and the driver.
        root: the checkout that was judged.
    """
    return installed(cann, *checkout(root), simulated=simulated)


def installed(cann: str, commit: str | None, dirty: bool | None, *, simulated: bool) -> Versions:
    """Return the versions of what is installed, of a commit that the caller knows."""
    found: dict[str, Any] = {part: distribution(name) for part, name in DISTRIBUTIONS.items()}
    if not simulated:
        found["cannsim"] = None
    python = platform.python_version()
    return Versions(cann=cann, commit=commit, dirty=dirty, python=python, **found)


@lru_cache
def distribution(name: str) -> str | None:
    """Return the version of an installed distribution, without importing it; None without one."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


@lru_cache
def checkout(root: Path) -> tuple[str | None, bool | None]:
    """Return the commit that is checked out, and whether tracked files differ from it.

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


def failure(kind: str, message: str, log_tail: str = "") -> Failure:
    """Return the part of a record that says why a run did not pass."""
    told = {"class": kind, "message": without(message), "log_tail": without(log_tail)}
    return Failure.model_validate(told)
