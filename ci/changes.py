"""What a change since a revision can affect: never too little, and for each cell why."""

from __future__ import annotations

import io
import re
import subprocess
import tarfile
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path

import matrix
from ci import functions
from ci.errors import NothingSelectedError, UsageError
from ci.functions import REST
from ci.learned import Learned, Unit
from matrix import Cell, MatrixError

HARMLESS = ("docs/*", "*.md", "LICENSE", ".gitignore", ".github/ISSUE_TEMPLATE/*")
"""Paths that no cell reads, as fnmatch patterns (in which ``*`` also matches slashes)."""

AREAS: Mapping[str, tuple[str, ...]] = {
    "functions": ("plugin/vllm_ascend/*.py", "tests/e2e/*.py"),
    "definitions": ("matrix/*.yaml",),
    "operators": ("simulator/src/operators/*.cpp",),
    "around": (
        *("reports/*", "accuracy/*", "perf/*", "matrix/schemas/*", ".github/*", "ci/github/*"),
        *("tests/unit/*", "tests/integration/*", "tests/benchmarks/*", "simulator/tests/*"),
    ),
}
"""What a change of a path means, by the first pattern that matches; of any other path: everything.

- functions: cells that were seen to run the changed functions;
- definitions: cells of which the data now say something else;
- operators: cells that were seen to launch an operator of the file;
- around: nothing in a cell's run, of which a small selection makes sure.
"""


class HarmlessError(NothingSelectedError):
    """A change can affect no cell."""


@dataclass(frozen=True)
class Change:
    """A file that differs.

    Attributes:
        path: below the root.
        before: what it said at the revision; None where it was not there, or is no text.
        after: what it says now; None where it is gone, or is no text.
    """

    path: str
    before: str | None
    after: str | None


@dataclass
class Effects:
    """What changes mean, each with the reason.

    Attributes:
        whole: reasons to run the whole set.
        units: changed functions that some cell is known to run.
        operators: file to the operators that it has.
        cells: ids of cells whose definition changed.
        around: reasons to run a small selection.
    """

    whole: list[str] = field(default_factory=list)
    units: list[Unit] = field(default_factory=list)
    operators: dict[str, frozenset[str]] = field(default_factory=dict)
    cells: dict[str, str] = field(default_factory=dict)
    around: list[str] = field(default_factory=list)


class Revision:
    """A commit of a checkout, against which its working tree is compared."""

    def __init__(self, root: Path, name: str) -> None:
        """Takes any name that git knows.

        Raises:
            UsageError: git knows no such revision, or this is no git checkout.
        """
        self.root, self.name = root, name
        try:
            self._git("rev-parse", "--verify", f"{name}^{{commit}}")
        except (OSError, subprocess.CalledProcessError) as error:
            detail = (getattr(error, "stderr", None) or str(error)).strip().splitlines()[0]
            raise UsageError(
                f"--base {name}: {detail}",
                "the revision is misspelt, or was not fetched into this clone",
                "name a commit, tag or branch that `git rev-parse` knows, such as origin/main",
            ) from error

    def changed(self) -> list[str]:
        """Paths that differ between the revision and the working tree, new files included."""
        tracked = self._git("diff", "--name-only", "--no-renames", self.name, "--")
        new = self._git("ls-files", "--others", "--exclude-standard")
        return sorted({*tracked.splitlines(), *new.splitlines()})

    def changes(self, paths: Iterable[str]) -> list[Change]:
        """The same with what the files said and say."""
        return [Change(path, self.source(path), self._now(path)) for path in paths]

    def source(self, path: str) -> str | None:
        """What a file said; None where it was not there, or is no text."""
        try:
            return self._git("show", f"{self.name}:{path}")
        except (subprocess.CalledProcessError, UnicodeDecodeError):
            return None

    def matrix(self) -> matrix.Matrix | None:
        """The matrix of the revision; None where today's code cannot read it."""
        command = ["git", "-C", str(self.root), "archive", self.name, "matrix"]
        packed = subprocess.run(command, capture_output=True)
        if packed.returncode:
            return None
        with tempfile.TemporaryDirectory() as folder:
            with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as archive:
                archive.extractall(folder, filter="data")
            try:
                return matrix.load(Path(folder) / "matrix")
            except MatrixError:
                return None

    @cached_property
    def commit(self) -> str:
        """The revision's commit."""
        return self._git("rev-parse", "--verify", f"{self.name}^{{commit}}").strip()

    def _now(self, path: str) -> str | None:
        try:
            return (self.root / path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            return None

    def _git(self, *arguments: str) -> str:
        command = ["git", "-C", str(self.root), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def can_affect(paths: Iterable[str]) -> list[str]:
    """The paths among those given that can change what a cell does."""
    return [p for p in paths if not _any(HARMLESS, p)]


def area(path: str) -> str:
    """What a change of a path means; ``everything`` where nothing says less."""
    for name, patterns in AREAS.items():
        if _any(patterns, path):
            return name
    return "everything"


def effects(
    changes: Sequence[Change], known: Learned, before: Sequence[Cell] | None, now: Sequence[Cell]
) -> Effects:
    """What changes mean.

    Args:
        changes: Files that can affect cells.
        known: What cells were seen to run.
        before: The cells of the revision; None where its data cannot be read.
        now: The cells of the working tree.
    """
    found = Effects()
    for change in changes:
        match area(change.path):
            case "functions":
                _functions(change, known, found)
            case "definitions":
                _definitions(change, before, now, found)
            case "operators":
                _operators(change, known, found)
            case "around":
                found.around.append(f"{change.path} changed, which no cell runs")
            case _:
                found.whole.append(f"{change.path} changed, of which any cell may depend")
    return found


def _functions(change: Change, known: Learned, found: Effects) -> None:
    path = change.path
    try:
        before = functions.hashes(change.before or "")
        now = functions.hashes(change.after or "")
    except SyntaxError as error:
        found.whole.append(f"{path} is no Python: {error}")
        return
    if change.before is None or change.after is None:
        found.whole.append(f"{path} is {'new' if change.before is None else 'gone'}")
        return
    changed = sorted(name for name, hash_ in before.items() if now.get(name) != hash_)
    new = sorted(now.keys() - before.keys())
    if REST in changed:
        found.whole.append(f"{path}: what it does when it is imported changed")
    found.whole += [f"{path}: {name} is new, so that no cell was seen to run it" for name in new]
    for name in changed:
        if name == REST:
            continue
        if known.running((path, name)):
            found.units.append((path, name))
        else:
            found.whole.append(f"{path}: {name} changed, which no cell was seen to run")
    if not changed and not new:
        found.around.append(f"{path} changed in comments or layout only")


def _operators(change: Change, known: Learned, found: Effects) -> None:
    names = frozenset(re.findall(r"\baclnn\w+", f"{change.before or ''}\n{change.after or ''}"))
    if known.launching(names):
        found.operators[change.path] = names
    else:
        found.whole.append(f"{change.path} changed, of whose operators no cell is known to run one")


def _definitions(
    change: Change, before: Sequence[Cell] | None, now: Sequence[Cell], found: Effects
) -> None:
    if before is None:
        found.whole.append(f"{change.path} changed, and the data of the revision cannot be read")
        return
    if change.path in ("matrix/releases.yaml", "matrix/accuracy.yaml"):
        found.whole.append(f"{change.path} changed, which is about every cell")
        return
    old = {cell.id: cell for cell in before}
    for cell in now:
        if cell.unsupported is None and cell.id not in found.cells:
            why = _redefined(old.get(cell.id), cell)
            if why:
                found.cells[cell.id] = f"matrix: {why}"
    if not found.cells:
        found.around.append(f"{change.path} changed, and no cell's definition did")


def _redefined(old: Cell | None, cell: Cell) -> str:
    if old is None:
        return "the cell is new"
    if old.unsupported is not None:
        return f"the rule {old.unsupported.name} no longer holds"
    parts = ("model", "feature", "cann", "hardware")
    changed = [part for part in parts if getattr(old, part) != getattr(cell, part)]
    return f"the definition of its {' and '.join(changed)} changed" if changed else ""


def _any(patterns: Iterable[str], path: str) -> bool:
    return any(fnmatchcase(path, pattern) for pattern in patterns)
