"""Times collectives.

In the simulator's environment, with as many devices as ranks,

    python -m simulator.tests.ranks RANKS simulator.tests.collectives_benchmark times null

prints the microseconds of one call and its wait, by collective and bytes: medians of some runs.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch

from simulator.tests.hccl import SUM, Communicator, Narrow

SIZES = {4 << 10: 300, 256 << 10: 100, 64 << 20: 7}
"""Bytes, and how many calls are timed."""


def times(rank: int, count: int, argument: Any) -> dict[str, float]:
    """Median microseconds of HcclAllReduce, HcclAllGather (bytes gathered) and HcclBroadcast."""
    torch.npu.set_device(rank)
    c = Communicator.join("times", rank, count)
    found = {}
    for size, runs in SIZES.items():
        x, y = (torch.zeros(size // 4, device="npu") for _ in range(2))
        torch.npu.synchronize()
        calls = {
            "HcclAllReduce": (x, y, size // 4, torch.float32, Narrow(SUM)),
            "HcclAllGather": (x, y, size // 4 // count, torch.float32),
            "HcclBroadcast": (x, size // 4, torch.float32, Narrow(0)),
        }
        for name, arguments in calls.items():
            taken = []
            for _ in range(runs):
                c.run("HcclBarrier")
                torch.npu.synchronize()
                begin = time.perf_counter()
                c.run(name, *arguments)
                torch.npu.synchronize()
                taken.append(time.perf_counter() - begin)
            found[f"{name} {size}"] = round(statistics.median(taken) * 1e6, 1)
    c.destroy()
    return found


PROGRAMS = {"times": times}
