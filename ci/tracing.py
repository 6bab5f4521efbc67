"""Learns what a cell runs: which lines of the plugin and of the bodies, and which operators.

coverage traces this process and every one that the cell starts. Nothing here is imported unless a
run is to learn, and what coverage does not trace costs it one look at the file's name.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

RAN = "ran.json"
"""Written into the cell's folder: ``lines`` by path below the root, and ``operators``."""


@contextlib.contextmanager
def traced(root: Path, folders: list[str], workdir: Path) -> Iterator[None]:
    """Traces what runs inside, and leaves `RAN` in the folder.

    Args:
        root: the checkout.
        folders: what is traced, relative to it.
        workdir: the cell's folder; data of every process goes into ``coverage`` in it.
    """
    import coverage

    data = workdir / "coverage"
    data.mkdir(parents=True, exist_ok=True)
    settings = workdir / "coverage.cfg"
    settings.write_text(_settings(root, folders, data))
    os.environ["COVERAGE_PROCESS_START"] = str(settings)  # what the cell starts traces itself
    os.environ.setdefault("CANNSIM_COUNTERS", str(workdir / "counters"))
    tracer = coverage.Coverage(config_file=str(settings))
    tracer.start()
    try:
        yield
    finally:
        tracer.stop()
        tracer.save()
        ran = {"lines": _lines(data, root), "operators": _operators(workdir / "counters")}
        (workdir / RAN).write_text(json.dumps(ran))


def _settings(root: Path, folders: list[str], data: Path) -> str:
    sources = "".join(f"\n    {root / folder}" for folder in folders)
    return (
        f"[run]\nsource = {sources}\ndata_file = {data / 'data'}\nparallel = true\n"
        # Processes of the engine are forked, end by os._exit or are ended by a signal.
        "concurrency = thread,multiprocessing\nsigterm = true\npatch = _exit\n"
        "disable_warnings = no-data-collected,module-not-imported,module-not-measured,"
        "couldnt-parse,already-imported\n"
    )


def _lines(folder: Path, root: Path) -> dict[str, list[int]]:
    """The lines that ran in any process, by path below the root."""
    import coverage

    lines: dict[str, set[int]] = {}
    for path in sorted(folder.iterdir()):
        data = coverage.CoverageData(basename=str(path))
        with contextlib.suppress(coverage.CoverageException):  # of a process that was killed
            data.read()
            for file in data.measured_files():
                if Path(file).is_relative_to(root):
                    name = Path(file).relative_to(root).as_posix()
                    lines.setdefault(name, set()).update(data.lines(file) or ())
    return {name: sorted(ran) for name, ran in sorted(lines.items())}


def _operators(folder: Path) -> list[str]:
    """The operators that any process launched, as far as somebody counts them."""
    try:
        from cannsim import counters
    except ImportError:
        return []
    counted: list[dict[str, Any]] = []
    with contextlib.suppress(counters.NotSimulated):
        counted.append(counters.snapshot())
    with contextlib.suppress(FileNotFoundError):
        counted.append(counters.load(folder))
    return sorted({name for one in counted for name in (*one["launches"], *one["collectives"])})
