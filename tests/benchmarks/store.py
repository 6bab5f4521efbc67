"""How fast SQLite and PostgreSQL take many records and tell the status of each cell.

    python -m tests.benchmarks.store --records 100000 --writers 2

The records are made up: a few for each cell of 100 models, 40 features and 6 CANN versions, as 20
runners would leave them in files. They go through the command line, import of Python and all.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import matrix
from matrix import Cell
from reports import Policy, Store, statuses
from tests import postgresql

ROOT = Path(__file__).parents[2]
RUNNERS = 20
T = TypeVar("T")


def cells(models: int = 100, features: int = 40, versions: int = 6) -> list[Cell]:
    """Return made-up cells, each a copy of one that exists under other names."""
    loaded = matrix.load()
    model = next(iter(loaded.models.values()))
    feature = next(iter(loaded.features.values()))
    cann = next(iter(loaded.cann.values()))
    hardware = next(iter(loaded.hardware.values()))
    all_models = [model.model_copy(update={"name": f"model-{n}"}) for n in range(models)]
    all_features = [feature.model_copy(update={"name": f"feature-{n}"}) for n in range(features)]
    all_versions = [cann.model_copy(update={"version": f"9.{n}.0"}) for n in range(versions)]
    return [Cell(m, f, c, hardware) for m in all_models for f in all_features for c in all_versions]


def documents(made: list[Cell], count: int) -> Iterator[dict[str, Any]]:
    """Yield records as their runners write them, the cells in turn; one in ten failed."""
    chance = random.Random(0)
    start = datetime.now(UTC) - timedelta(days=30)
    log = "INFO 11-21 12:00:00 [core.py:71] Initializing a V1 LLM engine\n" * 30
    for number in range(count):
        cell = made[number % len(made)]
        passed = chance.random() < 0.9
        yield {
            "schema": 1,
            "id": f"{chance.getrandbits(128):032x}",
            "cell": cell.id,
            "kind": "e2e",
            "verdict": "passed" if passed else "failed",
            "evidence": "simulated",
            "versions": {"cann": cell.cann.version, "vllm": "0.32.0", "torch": "2.13.0+cpu"},
            "hardware": {"chip": "Ascend910B1", "cards": 1},
            "runner": f"runner-{number % RUNNERS}",
            "started": (start + timedelta(seconds=25 * number)).isoformat(),
            "seconds": chance.uniform(5, 60),
            "timings": {"import": 0.1, "engine_start": 3.0, "generation": 2.0},
            "metrics": {
                name: {"value": chance.random(), "unit": "tokens/s"} for name in ("a", "b", "c")
            },
            "proof": {"attention_launches": 480, "operators": {f"aclnn{n}": n for n in range(40)}},
            "samples": [{"prompt": f"{n:016x}", "equal": True} for n in range(4)],
            "error": None if passed else {"class": "E", "message": "m", "log_tail": log},
        }


def write(folder: Path, made: list[Cell], count: int) -> list[Path]:
    """Write the records into one file for each runner."""
    paths = [folder / f"runner-{number}.jsonl" for number in range(RUNNERS)]
    files = [path.open("w") for path in paths]
    for number, document in enumerate(documents(made, count)):
        files[number % RUNNERS].write(json.dumps(document) + "\n")
    for file in files:
        file.close()
    return paths


def timed(what: Callable[[], T]) -> tuple[float, T]:
    """Return how long a call takes, and what it returns."""
    start = time.perf_counter()
    result = what()
    return time.perf_counter() - start, result


def ingest(url: str, paths: list[Path], writers: int) -> tuple[int, int]:
    """Ingest files by several processes together; return how many records were new and old."""
    command = [sys.executable, "-m", "reports", "ingest", "--store", url]
    processes = [
        subprocess.Popen(
            [*command, *map(str, paths[n::writers])], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        for n in range(writers)
    ]
    told = [process.communicate()[0].split() for process in processes]
    if any(process.returncode for process in processes):
        raise SystemExit("ingest failed")
    return sum(int(words[0]) for words in told), sum(int(words[3]) for words in told)


def measure(name: str, url: str, paths: list[Path], made: list[Cell], options: Any) -> None:
    """Print one line of the table."""
    store = Store(url)
    store.upgrade()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    first, new = timed(lambda: ingest(url, paths, options.writers))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    work = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    again, old = timed(lambda: ingest(url, paths, options.writers))
    reading, newest = timed(store.newest)
    now, policy = datetime.now(UTC), Policy(timedelta(days=14))
    deriving, found = timed(lambda: statuses(made, newest, now, policy))
    known = sum(status.state != "never-run" for status in found.values())
    if (new, old) != ((options.records, 0), (0, options.records)):
        raise SystemExit(f"{name}: new and old were {new} at first, then {old}")
    if known != min(len(made), options.records):
        raise SystemExit(f"{name}: {known} statuses; some are missing")
    print(
        f"{name:<12}{first:>10.1f}{options.records / first:>11,.0f}{work:>10.1f}{again:>10.1f}"
        f"{reading:>10.2f}{deriving:>12.2f}",
        flush=True,
    )


@contextmanager
def _server(wanted: bool) -> Iterator[str | None]:
    if not wanted:
        yield None
        return
    with postgresql.server(durable=True) as server:
        yield server.create()


def main() -> None:
    """Measure both databases and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m tests.benchmarks.store")
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--writers", type=int, default=2, help="processes that ingest together")
    parser.add_argument("--only", choices=("sqlite", "postgresql"))
    options = parser.parse_args()
    made = cells()
    with (
        tempfile.TemporaryDirectory() as folder,
        _server(options.only != "sqlite") as server,
    ):
        paths = write(Path(folder), made, options.records)
        size = sum(path.stat().st_size for path in paths) / 2**20
        print(
            f"{options.records:,} records of {len(made):,} cells, {size:,.0f} MiB in {RUNNERS} "
            f"files, {options.writers} writers, {os.cpu_count()} processors, "
            f"load {os.getloadavg()[0]:.1f}"
        )
        print(
            f"{'':<12}{'ingest s':>10}{'records/s':>11}{'of CPU s':>10}{'again s':>10}"
            f"{'newest s':>10}{'statuses s':>12}",
            flush=True,
        )
        if options.only != "postgresql":
            measure("SQLite", f"sqlite:///{folder}/records.sqlite", paths, made, options)
        if server is not None:
            measure("PostgreSQL", server, paths, made, options)


if __name__ == "__main__":
    main()
