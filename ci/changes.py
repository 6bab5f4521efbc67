"""What a change since a revision can affect; for now all or nothing, never too little."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path

from ci.errors import NothingSelectedError, UsageError

HARMLESS = ("docs/*", "*.md", "LICENSE", ".gitignore", ".github/ISSUE_TEMPLATE/*")
"""Paths that no cell reads, as fnmatch patterns (in which ``*`` also matches slashes)."""


class HarmlessError(NothingSelectedError):
    """A change can affect no cell."""


def changed(root: Path, revision: str) -> list[str]:
    """Paths that differ between a revision and the working tree, new files included.

    Raises:
        UsageError: git knows no such revision, or this is no git checkout.
    """
    try:
        tracked = _git(root, "diff", "--name-only", revision, "--")
        new = _git(root, "ls-files", "--others", "--exclude-standard")
    except (OSError, subprocess.CalledProcessError) as error:
        detail = (getattr(error, "stderr", None) or str(error)).strip().splitlines()[0]
        raise UsageError(
            f"--changed-from {revision}: {detail}",
            "the revision is misspelt, or was not fetched into this clone",
            "name a commit, tag or branch that `git rev-parse` knows, such as origin/main",
        ) from error
    return sorted({*tracked.splitlines(), *new.splitlines()})


def can_affect(paths: Iterable[str]) -> list[str]:
    """The paths among those given that can change what a cell does."""
    return [p for p in paths if not any(fnmatchcase(p, pattern) for pattern in HARMLESS)]


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
