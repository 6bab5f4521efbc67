"""Paths of a machine as records and pages tell them: from the repository on, never from its root.

A record goes to other machines and its page to everybody; where a checkout lies is nobody's
business there, and of no use.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from reports.record import Record

ROOT = Path(__file__).resolve().parent.parent
"""The repository that this code belongs to."""

RUNS = "/build/"
"""What follows the repository in the path of every log that a run leaves."""


def relative(path: Path | str, root: Path = ROOT) -> str:
    """Return where a file of a run is: from the repository on, or its folder and name."""
    found = Path(path)
    if not found.is_absolute():
        return str(found)
    for base in (root, root.resolve()):
        if found.is_relative_to(base):
            return str(found.relative_to(base))
    return _from_build(str(found))


def without(text: str, root: Path = ROOT) -> str:
    """Return a text of this machine, such as a log, without the folders that are its own.

    The repository's are left out, the environment's is called .venv, and the user's ~.
    """
    text = _cut(text, [str(root), str(root.resolve())])
    for folder, name in ((sys.prefix, ".venv"), (str(Path.home()), "~")):
        text = text.replace(f"{folder}/", f"{name}/") if len(folder) > 1 else text
    return text


def published(record: Record) -> Record:
    """Return a record of any machine as pages and exports show it.

    Records are made without such paths. Those of earlier versions have them, and in the place of
    their logs that of the repository, which is then left out of their texts.
    """
    if not any(path.startswith("/") for path in record.artifacts):
        return record
    roots = [path.rpartition(RUNS)[0] for path in record.artifacts if RUNS in path]
    error = record.error
    if error is not None:
        cut = {"message": _cut(error.message, roots), "log_tail": _cut(error.log_tail, roots)}
        error = error.model_copy(update=cut)
    artifacts = tuple(_from_build(path) for path in record.artifacts)
    return record.model_copy(update={"artifacts": artifacts, "error": error})


def _from_build(path: str) -> str:
    if not path.startswith("/"):
        return path
    _, build, rest = path.rpartition(RUNS)
    return build.lstrip("/") + rest if build else "/".join(Path(path).parts[-2:]).lstrip("/")


def _cut(text: str, roots: Iterable[str]) -> str:
    for root in sorted({root for root in roots if len(root) > 1}, key=len, reverse=True):
        text = text.replace(f"{root}/", "")
    return text
