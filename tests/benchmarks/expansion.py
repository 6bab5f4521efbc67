"""How long rules, covering arrays and `python -m matrix list` take: prints figures and limits.

    python -m tests.benchmarks.expansion

Ends with status 1 if a limit is exceeded. covertable solves the same problem next to it, as a
yardstick for the number of rows.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from typing import TypeVar

import matrix
from matrix import Cell
from matrix.covering import AXES, covering, share
from tests.benchmarks.synthetic import Size, write

LARGE = Size(models=100, features=50, cann=8, hardware=5)
"""200,000 combinations."""

LISTED = Size(models=50, features=25, cann=4, hardware=2)
"""10,000 combinations, each of which is a line of the list."""

LIMITS = {"expand and cover": 10.0, "list": 1.0}
"""Seconds."""

ResultT = TypeVar("ResultT")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and judge; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--repeats", type=int, default=3, help="the best time counts")
    parser.add_argument("--covertable", action="store_true", help="let covertable solve it, too")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        took = _expansion(Path(folder) / "large", options.repeats, options.covertable)
        listed = _listing(Path(folder) / "listed", options.repeats)
    measured = {"expand and cover": took, "list": listed}
    for name, seconds in measured.items():
        print(f"{name}: {seconds:.2f} s; at most {LIMITS[name]:.0f} s are allowed")
    return int(any(seconds > LIMITS[name] for name, seconds in measured.items()))


def _expansion(root: Path, repeats: int, compare: bool) -> float:
    claims = matrix.load(write(root, LARGE))
    expanded, cells = _best(repeats, lambda: matrix.expand(claims))
    supported = [cell for cell in cells if cell.unsupported is None]
    covered, rows = _best(repeats, lambda: covering(supported))
    quarter = share(rows[: len(rows) // 4], supported)
    print(
        f"{len(cells)} combinations against {len(claims.rules)} rules in {expanded:.2f} s: "
        f"{len(supported)} are supported\n"
        f"covering array of {len(rows)} rows in {covered:.2f} s: {share(rows, supported):.1%} of "
        f"the feasible pairs, {quarter:.1%} in the first quarter"
    )
    if compare:
        seconds, others = _best(1, lambda: by_covertable(supported))
        print(f"covertable: {len(others)} rows in {seconds:.2f} s")
    return expanded + covered


def _listing(root: Path, repeats: int) -> float:
    write(root, LISTED)
    command = [sys.executable, "-m", "matrix", "--root", str(root), "list", "--all"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    took, done = _best(repeats, lambda: subprocess.run(command, capture_output=True, check=True))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    worked = (after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime) / repeats
    print(
        f"`python -m matrix list` printed {done.stdout.count(b'/cann-')} cells in {took:.2f} s, "
        f"of which a processor worked {worked:.2f} s"
    )
    return took


def _best(repeats: int, call: Callable[[], ResultT]) -> tuple[float, ResultT]:
    best = float("inf")
    for _ in range(repeats):
        started = time.perf_counter()
        result = call()
        best = min(best, time.perf_counter() - started)
    return best, result


def by_covertable(cells: Sequence[Cell]) -> list[tuple[str, ...]]:
    """Return the rows that covertable makes of the same values under the same constraints."""
    from covertable import make

    names = list(AXES)
    feasible = [tuple(of(cell)[0] for of in AXES.values()) for cell in cells]
    factors = {name: sorted({row[i] for row in feasible}) for i, name in enumerate(names)}
    constraints = [
        _among(names, axes, {tuple(row[i] for i in axes) for row in feasible})
        for axes in (*combinations(range(len(names)), 2), tuple(range(len(names))))
    ]
    return [tuple(row[n] for n in names) for row in make(factors, constraints=constraints)]


def _among(names: Sequence[str], axes: Sequence[int], allowed: set[tuple[str, ...]]) -> object:
    keys = [names[i] for i in axes]
    return {
        "operator": "fn",
        "requires": keys,
        "evaluate": lambda row: tuple(row[key] for key in keys) in allowed,
    }


if __name__ == "__main__":
    sys.exit(main())
