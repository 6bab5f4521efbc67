"""What one launch costs the host: an addition of 16 elements on the device, next to the CPU's.

    cannsim run -- python simulator/tests/overhead.py

Three ways, interleaved in one process: on the CPU, on the device one by one (eager), and on the
device as part of a captured graph. Times are of this machine; quote their ratios.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import torch
import torch_npu  # noqa: F401
from rich.console import Console
from rich.table import Table

ELEMENTS = 16
LIMITS = {"eager": 12.0, "graph replay": 3.0}
"""Microseconds a launch may take."""


def ways(launches: int) -> dict[str, Callable[[], None]]:
    """Each does ``launches`` additions and waits until they are done."""
    host = torch.ones(ELEMENTS)
    device = host.npu()
    out, device_out = torch.empty_like(host), torch.empty_like(device)
    graph = torch.npu.NPUGraph()
    with torch.npu.graph(graph):
        for _ in range(launches):
            torch.add(device, device, out=device_out)

    def cpu() -> None:
        for _ in range(launches):
            torch.add(host, host, out=out)

    def eager() -> None:
        for _ in range(launches):
            torch.add(device, device, out=device_out)
        torch.npu.synchronize()

    def replay() -> None:
        graph.replay()
        torch.npu.synchronize()

    return {"CPU": cpu, "eager": eager, "graph replay": replay}


def measure(launches: int, repeats: int) -> dict[str, float]:
    """Median microseconds a launch, by way."""
    todo = ways(launches)
    taken: dict[str, list[float]] = {name: [] for name in todo}
    for repeat in range(repeats + 1):
        for name, way in todo.items():
            started = time.perf_counter()
            way()
            if repeat:  # the first one of each is the warm-up
                taken[name].append((time.perf_counter() - started) / launches * 1e6)
    return {name: statistics.median(times) for name, times in taken.items()}


def main() -> int:
    """Prints the table; 1: slower than the limits."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--launches", type=int, default=2000, help="additions in one measurement")
    parser.add_argument("--repeats", type=int, default=31, help="measurements of each way")
    arguments = parser.parse_args()
    found = measure(arguments.launches, arguments.repeats)
    table = Table(
        title=f"torch.add of {ELEMENTS} elements, {torch.npu.get_device_name()} simulated"
    )
    for column in ("way", "µs a launch", "times the CPU's", "limit, µs"):
        table.add_column(column, justify="left" if column == "way" else "right")
    for name, microseconds in found.items():
        limit = LIMITS.get(name)
        table.add_row(
            name,
            f"{microseconds:.2f}",
            f"{microseconds / found['CPU']:.2f}",
            "" if limit is None else f"{limit:.0f}",
        )
    Console().print(table)
    return int(any(found[name] > limit for name, limit in LIMITS.items()))


if __name__ == "__main__":
    sys.exit(main())
