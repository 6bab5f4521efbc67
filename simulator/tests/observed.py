"""Programs that the tests of profiles, timelines and pacing run in processes of their own.

Usage: python -m simulator.tests.observed NAME [ARGUMENT] prints what it found as JSON.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

Result = dict[str, Any]


def identity(_: str) -> Result:
    """What torch-npu sees of chip and version, and what it computes there."""
    import torch
    import torch_npu
    from torch_npu.npu import utils
    from torch_npu.utils.collect_env import get_cann_version

    x = torch.arange(6.0, device="npu").view(2, 3)
    product = (x.half() @ x.half().t()).float().cpu().tolist()
    found: Result = {
        "name": torch.npu.get_device_name(),
        "cann": utils.get_cann_version(),
        "file": get_cann_version(),
        "at_least": [v for v in ("8.3.RC1", "8.5.0", "9.0.0") if utils._is_gte_cann_version(v)],
        "memory": torch.npu.get_device_properties(0).total_memory,
        "product": product,
        "version": torch_npu.__version__,
    }
    try:
        y = torch.ones(4, dtype=torch.bfloat16, device="npu")
        found["bfloat16"] = (y + y).float().cpu().tolist()
    except RuntimeError as error:
        found["bfloat16"] = str(error)
    return found


def attention(_: str) -> Result:
    """Fused attention, which not every chip has."""
    import torch
    import torch_npu

    q = torch.ones(1, 2, 16, 64, dtype=torch.float16, device="npu")
    try:
        torch_npu.npu_fused_infer_attention_score(q, q, q, num_heads=2, input_layout="BNSD")
        torch.npu.synchronize()
        return {"message": ""}
    except RuntimeError as error:
        return {"message": str(error)}


def work(_: str) -> Result:
    """A few operators on two streams and copies, for timelines and counters."""
    import torch
    import torch_npu  # noqa: F401

    x = torch.ones(32, 16, device="npu")
    stream = torch.npu.Stream()
    stream.wait_stream(torch.npu.current_stream())  # which makes x
    with torch.npu.stream(stream):
        y = x @ x.t()
    stream.synchronize()
    return {"sum": (y + 1).sum().item()}


def overlap(_: str) -> Result:
    """Paced: the host goes on while the device takes its modelled time."""
    import cannsim
    import torch
    import torch_npu  # noqa: F401

    x = torch.ones(16, device="npu")
    torch.npu.synchronize()
    with cannsim.counters() as c:
        begin = time.perf_counter()
        for _i in range(50):
            x.add_(1)
        launched = time.perf_counter() - begin
        torch.npu.synchronize()
        done = time.perf_counter() - begin
    return {"launched": launched, "done": done, "modelled": c.modelled_seconds}


def race(waits: str) -> Result:
    """Paced: a stream reads what another one writes, with or without waiting for it."""
    import torch
    import torch_npu  # noqa: F401

    first, second = torch.npu.Stream(), torch.npu.Stream()
    big = torch.zeros(64, device="npu")
    result = torch.zeros(16, device="npu")
    seen = torch.zeros(16, device="npu")
    torch.npu.synchronize()
    with torch.npu.stream(first):
        for _i in range(100):
            big.add_(1)
        result.copy_(big[:16])
    if waits == "wait":
        second.wait_stream(first)
    with torch.npu.stream(second):
        seen.copy_(result)
    torch.npu.synchronize()
    return {"seen": seen.cpu().tolist(), "result": result.cpu().tolist()}


def profile(folder: str) -> Result:
    """A run under torch-npu's own profiler."""
    import torch
    from torch_npu import profiler

    x = torch.ones(16, 16, device="npu")
    activities = [profiler.ProfilerActivity.CPU, profiler.ProfilerActivity.NPU]
    with profiler.profile(
        activities=activities, on_trace_ready=profiler.tensorboard_trace_handler(folder)
    ) as running:
        torch.softmax(x @ x, -1).sum().item()
        running.step()
    return {}


def export(path: str) -> Result:
    """A run under torch-npu's profiler that is exported as one trace."""
    import torch
    from torch_npu import profiler

    x = torch.ones(16, 16, device="npu")
    os.chdir(Path(path).parent)
    activities = [profiler.ProfilerActivity.CPU, profiler.ProfilerActivity.NPU]
    with profiler.profile(activities=activities) as running:
        (x @ x).cpu()
    running.export_chrome_trace(path)
    return {}


def hold(_: str) -> Result:
    """Holds 64 MiB until its input ends."""
    import torch
    import torch_npu  # noqa: F401

    torch.npu.set_device(1)
    kept = torch.ones(64 << 20, dtype=torch.uint8, device="npu:1")
    torch.npu.synchronize()
    print("HOLDS", flush=True)
    sys.stdin.read()
    return {"kept": kept.numel()}


PROGRAMS = {
    f.__name__: f for f in (identity, attention, work, overlap, race, profile, export, hold)
}

if __name__ == "__main__":
    print("RESULT " + json.dumps(PROGRAMS[sys.argv[1]](" ".join(sys.argv[2:]))))
