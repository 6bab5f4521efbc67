"""A night on one machine: runs every kind, then stores, tables and the site; no kind stops another.

Each part is a command of its own in a process of its own, as a person would call it, so that one
that crashes costs nothing but itself.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import IO, Any

import matrix
from ci import environment, errors
from ci.errors import CiError, UsageError
from matrix.errors import CONFLICT, EXPIRED
from reports.errors import StoreError
from reports.statuses import KINDS
from reports.store import Run, Store

WORST_FIRST = (
    errors.GATE_FAILED,
    errors.INFRASTRUCTURE,
    CONFLICT,
    EXPIRED,
    errors.BAD_USAGE,
    errors.NOTHING_SELECTED,
    errors.INCONCLUSIVE,
    errors.PASSED,
)
"""Exit codes in the order in which they count; a code that is none of them is infrastructure's."""

INTERRUPTED = 130
"""What a shell answers for a command that Ctrl-C ended."""


@dataclass(frozen=True)
class Part:
    """One command of the night.

    Attributes:
        name: a kind of runs, or what is made of records.
        command: program and arguments.
        outcome: the file that a run writes for machines; None where the part runs no cells.
    """

    name: str
    command: tuple[str, ...]
    outcome: Path | None = None


@dataclass
class Ended:
    """How a part went.

    Attributes:
        cells: what its outcome says of each cell; None where it left none that can be read.
    """

    part: Part
    exit_code: int
    seconds: float
    cells: list[dict[str, Any]] | None = field(default=None)

    def as_json(self) -> dict[str, Any]:
        """Return this as JSON values; what runs cells counts them."""
        told: dict[str, Any] = {
            "command": list(self.part.command),
            "exit_code": self.exit_code,
            "seconds": round(self.seconds, 1),
        }
        if self.part.outcome is None:
            return told
        verdicts = (
            None
            if self.cells is None
            else Counter(str(c.get("conclusion", c["verdict"])) for c in self.cells)
        )
        return {
            **told,
            "cells": None if self.cells is None else len(self.cells),
            "verdicts": verdicts,
        }


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command to the command line of ci."""
    text = "run every kind, then tables and the site, on this machine"
    add = commands.add_parser("nightly", help=text, description=text).add_argument
    add("--select", default="nightly", metavar="NAME", help="a selection; nightly by default")
    add("--kinds", type=_kinds, default=tuple(KINDS), metavar="KIND,...", help="all by default")
    add("--budget", metavar="MINUTES", help="for the cells that run end to end")
    add("--jobs", metavar="N", help="cells at a time, end to end")
    add("--base", metavar="REV", help="what performance is compared with; by default the last")
    add("--allow-dirty", action="store_true", help="judge the performance of uncommitted changes")
    add("--store", metavar="URL", help="where records are; results/records.sqlite by default")
    add("--site", type=Path, default=Path("build/site"), metavar="DIR", help="where the site goes")
    add("--json", type=Path, metavar="FILE", help="write the summary for machines")


def _kinds(text: str) -> tuple[str, ...]:
    chosen = tuple(dict.fromkeys(text.split(",")))
    for kind in chosen:
        if kind not in KINDS:
            raise argparse.ArgumentTypeError(f"{kind!r} is no kind; there are {', '.join(KINDS)}")
    return chosen


def nightly(options: argparse.Namespace) -> int:
    """Plans the night, runs it and sums it up; returns the worst exit code of its parts."""
    started = datetime.now(UTC)
    try:
        store = Store(options.store)
        stored = {kind: store.runs(kind) for kind in ("accuracy", "perf")}
    except StoreError as error:
        raise UsageError(f"--store {options.store}: {error.what}", error.why, error.fix) from error
    folder = environment.ROOT / "build" / "nightly" / f"{started:%Y%m%dT%H%M%SZ}-{os.getpid()}"
    parts = plan(options, stored, folder)
    folder.mkdir(parents=True)
    return run(parts, folder, options.json, started, store)


# ---------------------------------------------------------------------------------------- planning


def plan(
    options: argparse.Namespace, stored: Mapping[str, Sequence[Run]], folder: Path
) -> list[Part]:
    """The parts of the night in their order.

    Args:
        options: The command line.
        stored: Runs of accuracy and of perf, oldest first.
        folder: Where the night's files go.

    Raises:
        MatrixError: the selection is unknown, or empty; or a failure is no longer to be expected.
        UsageError: no commit is there to compare performance with.
    """
    claims = matrix.load(today=datetime.now(UTC).date())
    cells = [c.id for c in matrix.select(claims, matrix.expand(claims), (), options.select)]
    shared = ("--store", options.store) if options.store else ()
    flags: dict[str, tuple[str, ...]] = {
        "e2e": ("ci", "e2e", "--select", options.select, *_given(options, "budget", "jobs")),
        "accuracy": ("accuracy", "run", "--select", options.select),
        "perf": ("perf", "compare"),
    }
    flags["e2e"] += ("--learn",)
    if "accuracy" in options.kinds and comparable(claims, cells, stored["accuracy"]):
        flags["accuracy"] += ("--baseline", "latest")
    if "perf" in options.kinds:
        dirty = ("--allow-dirty",) if options.allow_dirty else ()
        flags["perf"] += ("--base", options.base or last_commit(stored["perf"]), *dirty)
    parts = [
        _part(
            kind,
            *flags[kind],
            *shared,
            "--json",
            str(folder / f"{kind}.json"),
            outcome=folder / f"{kind}.json",
        )
        for kind in options.kinds
    ]
    parts.append(_part("ingest", "reports", "ingest", *shared))
    parts += [_part(f"table-{kind}", "reports", "table", "--kind", kind, *shared) for kind in KINDS]
    comment = ("--run", str(folder / "records.json"), "--out", str(folder / "comment.md"))
    parts.append(_part("comment", "reports", "comment", *comment, *shared))
    parts.append(_part("site", "reports", "site", "--out", str(options.site), *shared))
    return parts


def _part(name: str, *arguments: str, outcome: Path | None = None) -> Part:
    return Part(name, (sys.executable, "-m", *arguments), outcome)


def _given(options: argparse.Namespace, *names: str) -> tuple[str, ...]:
    values = vars(options)
    return tuple(x for name in names if values[name] for x in (f"--{name}", str(values[name])))


def comparable(claims: matrix.Matrix, cells: Sequence[str], stored: Sequence[Run]) -> bool:
    """Whether every selected cell that answers tasks has a run that passed, to be compared with."""
    asked = {
        cell
        for suite in claims.accuracy.values()
        for cell in cells
        if suite.tasks and any(fnmatchcase(cell, pattern) for pattern in suite.cells)
    }
    passed = {run.cell for run in stored if run.verdict == "passed"}
    return bool(asked) and asked <= passed


def last_commit(stored: Sequence[Run]) -> str:
    """The commit whose performance was judged last, or the one before the current.

    Raises:
        UsageError: there is neither.
    """
    head = _commit("HEAD")
    for run in reversed(stored):
        if run.commit and run.commit != head and _commit(run.commit):
            return run.commit
    before = _commit("HEAD~1")
    if before is None:
        raise UsageError(
            "there is no commit to compare performance with",
            "performance was never judged, and this commit has none before it",
            "give --base REV, or leave performance out with --kinds e2e,accuracy",
        )
    return before


def _commit(revision: str) -> str | None:
    command = ["git", "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}"]
    found = subprocess.run(
        command, cwd=environment.ROOT, capture_output=True, text=True, check=False
    )
    return found.stdout.strip() or None


# ----------------------------------------------------------------------------------------- running


def run(
    parts: Sequence[Part],
    folder: Path,
    file: Path | None,
    started: datetime,
    store: Store,
    say: Callable[[str], None] | None = None,
) -> int:
    """Runs the parts one after the other, whatever becomes of each; returns the worst exit code."""
    say = say or _say
    before = time.monotonic()
    done: list[Ended] = []
    for part in parts:
        say(f"\n=== {part.name}: {' '.join(part.command[1:])}")
        if part.name == "comment":
            _collect(done, folder / "records.json")
        done.append(execute(part, folder))
        if done[-1].exit_code == INTERRUPTED:
            break
    code = worst(ended.exit_code for ended in done)
    document = {
        "schema": 1,
        "started": started.isoformat(),
        "seconds": round(time.monotonic() - before, 1),
        "store": store.name,
        "records": sum(len(ended.cells or ()) for ended in done),
        "parts": {ended.part.name: ended.as_json() for ended in done},
        "exit_code": code,
    }
    _write(folder / "summary.json", document)
    if file is not None:
        _write(file, document)
    say(told(done, code, folder, time.monotonic() - before))
    return code


def _say(text: str) -> None:
    """Prints at once, since the parts print to the same place."""
    print(text, flush=True)


def execute(part: Part, folder: Path) -> Ended:
    """Runs one part; what it prints goes to the terminal, or to a file if it makes tables."""
    before = time.monotonic()
    try:
        if part.name.startswith("table-"):
            with (folder / f"{part.name}.md").open("w", encoding="utf-8") as stream:
                code = _wait(part, stream)
        else:
            code = _wait(part, None)
    except OSError as error:
        print(f"error: {part.name} could not start: {error}", file=sys.stderr)
        code = errors.INFRASTRUCTURE
    return Ended(part, code, time.monotonic() - before, _cells(part.outcome))


def _wait(part: Part, stream: IO[str] | None) -> int:
    """Starts a part and returns its exit code; a request to end is passed on and waited for."""
    with subprocess.Popen(part.command, cwd=environment.ROOT, stdout=stream) as process:
        asked: list[int] = []

        def end(number: int, _: object) -> None:
            asked.append(number)
            if number == signal.SIGTERM:  # a terminal sends Ctrl-C to the part as well
                process.terminate()

        handlers = {n: signal.signal(n, end) for n in (signal.SIGINT, signal.SIGTERM)}
        try:
            code = process.wait()
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
    if asked:
        return INTERRUPTED
    # A command that a signal ended gets the status that a shell would give it.
    return code if code >= 0 else 128 - code


def _cells(outcome: Path | None) -> list[dict[str, Any]] | None:
    """The cells of an outcome that have a verdict; None where it cannot be read."""
    try:
        cells = json.loads(outcome.read_text(encoding="utf-8"))["cells"] if outcome else None
        return None if cells is None else [cell for cell in cells if cell["verdict"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def worst(codes: Iterable[int]) -> int:
    """The exit code that counts most; an interrupt before all others."""
    found = set(codes)
    if INTERRUPTED in found:
        return INTERRUPTED
    if found - set(WORST_FIRST):
        found.add(errors.INFRASTRUCTURE)
    return next(code for code in WORST_FIRST if code in found or code == errors.PASSED)


def _collect(done: Sequence[Ended], file: Path) -> None:
    """Writes the cells of all kinds into one file, of which the comment is made."""
    _write(file, {"cells": [cell for ended in done for cell in ended.cells or ()]})


def told(done: Sequence[Ended], code: int, folder: Path, seconds: float) -> str:
    """The night in a few lines."""
    lines = [""]
    for ended in done:
        verdicts = ended.as_json().get("verdicts")
        counts = ", ".join(f"{n} {verdict}" for verdict, n in (verdicts or {}).items())
        if ended.part.outcome is not None and not counts:
            counts = "no cell ended"
        took = environment.duration(ended.seconds)
        lines.append(f"{ended.part.name:15} exit code {ended.exit_code}  {took:>8}  {counts}")
    return "\n".join(
        [*lines, f"exit code {code} after {environment.duration(seconds)}; all of it in {folder}"]
    )


def _write(file: Path, document: Mapping[str, Any]) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise CiError(
            f"{file}: {error.strerror or error}",
            "the folder may not be written, or the disk is full",
            "name a file elsewhere; the records are in the store",
        ) from error
