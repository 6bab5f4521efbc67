"""How long a big site takes to build, how big its matrix page is, and when it can be used.

    python -m tests.benchmarks.site --models 100 --features 40 --versions 6 --records 50000

Models, features, CANN versions and records are made up; hardware is the real matrix's unless
`--hardware` says how many. The prose is part of the site. Without a browser that part is left out.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import matrix
from matrix import Matrix
from reports import Store, derive, parse, site
from tests import browser
from tests.benchmarks.store import documents

LIMITS = {"build_seconds": 60, "matrix_page_bytes": 2_000_000, "interactive_ms": 1_000}
"""What a site of 100 models, 40 features and 6 CANN versions must keep to; over it is status 1."""


def made_up(models: int, features: int, versions: int, hardware: int | None) -> Matrix:
    """Return a matrix of that size in which every cell is supported, pairs left out."""
    real = matrix.load()
    model, cann = real.models["qwen3"], next(iter(real.cann.values()))
    feature = real.features["base"]

    def renamed(entry: Any, word: str, count: int) -> dict[str, Any]:
        names = [f"{word}-{n}" for n in range(count)]
        about = [{"name": name, "title": f"Some {word} {n}"} for n, name in enumerate(names)]
        return {name: entry.model_copy(update=one) for name, one in zip(names, about, strict=True)}

    all_models, all_features = (
        renamed(model, "model", models),
        renamed(feature, "feature", features),
    )
    numbers = [f"9.{n}.0" for n in range(versions)]
    all_cann = {number: cann.model_copy(update={"version": number}) for number in numbers}
    nowhere = real.combinations.model_copy(
        update={"cann": ("none",), "model": "model-0", "models": {}}
    )
    return replace(
        real,
        models=all_models,
        features=all_features,
        cann=all_cann,
        hardware=dict(itertools.islice(real.hardware.items(), hardware)),
        rules=(),
        families={},
        combinations=nowhere,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure once and print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("models", 100), ("features", 40), ("versions", 6), ("records", 50_000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--hardware", type=int)
    parser.add_argument("--keep", type=Path, metavar="DIR", help="where to leave the site")
    options = parser.parse_args(arguments)
    made = made_up(options.models, options.features, options.versions, options.hardware)
    with tempfile.TemporaryDirectory() as folder:
        out = (options.keep or Path(folder)) / "site"
        store = Store(f"sqlite:///{folder}/records.sqlite")
        cells = matrix.expand(made)
        for _ in store.add_all(parse(one) for one in documents(cells, options.records)):
            pass
        wall, processor = time.perf_counter(), time.process_time() + children()
        site.write(derive(made, store, datetime.now(UTC), max_age_days=20), out)
        found: dict[str, object] = {
            "cells": len(cells),
            "records": options.records,
            "build_seconds": round(time.perf_counter() - wall, 1),
            "build_processor_seconds": round(time.process_time() + children() - processor, 1),
            "matrix_page_bytes": (out / "matrix.html").stat().st_size,
            "site_bytes": sum(path.stat().st_size for path in out.rglob("*") if path.is_file()),
            "load_average": os.getloadavg()[0],
        }
        try:
            found["interactive_ms"] = interactive(out / "matrix.html")
        except browser.Missing as missing:
            found["interactive_ms"] = f"not measured: {missing}"
    print(json.dumps(found, indent=2))
    over = {name: most for name, most in LIMITS.items() if above(found[name], most)}
    for name, most in over.items():
        print(f"{name} is {found[name]}, which is more than {most}", file=sys.stderr)
    return 1 if over else 0


def above(measured: object, most: float) -> bool:
    """Return whether a figure that was measured is over its limit."""
    return isinstance(measured, int | float) and measured > most


def children() -> float:
    """Return the processor time of processes that ended, such as Sphinx."""
    times = os.times()
    return times.children_user + times.children_system


def interactive(page: Path, times: int = 3) -> float:
    """Return after how many milliseconds a grid can be used, the best of some fresh visits."""
    found = []
    with browser.chromium() as chromium:
        for _ in range(times):
            visit = chromium.new_page(viewport={"width": 1500, "height": 950})
            visit.goto(page.as_uri())
            visit.wait_for_function("performance.getEntriesByName('am-interactive').length")
            marks = "performance.getEntriesByName('am-interactive')[0].startTime"
            found.append(float(visit.evaluate(marks)))
            visit.close()
    return round(min(found), 1)


if __name__ == "__main__":
    raise SystemExit(main())
