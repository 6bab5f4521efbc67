"""Programs that the tests run in processes of their own, under other settings.

Usage: python -m simulator.tests.programs NAME... prints {name: what it found} as JSON.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from typing import Any

Result = dict[str, Any]


def identity() -> Result:
    """What the process sees of chip, CANN and devices."""
    import torch
    import torch_npu
    from torch_npu.npu import utils

    torch.npu.set_device(0)
    torch.npu.synchronize()
    torch.ones(1, device="npu")
    library = ctypes.CDLL("libopapi.so")

    def has(function: str) -> bool:
        # dlsym itself: ctypes crashes where it answers null without an error, as for these.
        find = ctypes.CDLL(None).dlsym
        find.restype = ctypes.c_void_p
        return find(ctypes.c_void_p(library._handle), function.encode()) is not None

    return {
        "devices": torch.npu.device_count(),
        "name": torch.npu.get_device_name(0),
        "cann": utils.get_cann_version(),
        "version": torch_npu.__version__,
        "functions": [
            version
            for version in ("V2", "V3", "V4", "V5")
            if has(f"aclnnFusedInferAttentionScore{version}")
        ],
        "plan": has("aclnnFusedInferAttentionScoreV5GetWorkspaceSize"),
    }


def memory() -> Result:
    """Fills a small device, is refused, and goes on."""
    import torch
    import torch_npu  # noqa: F401

    torch.npu.set_device(0)
    mib = 1 << 20
    free, total = torch.npu.mem_get_info()
    kept = [torch.empty(64 * mib, dtype=torch.uint8, device="npu") for _ in range(3)]
    try:
        torch.empty(128 * mib, dtype=torch.uint8, device="npu")
        refused, message = "", ""
    except torch.OutOfMemoryError as error:
        refused, message = type(error).__name__, str(error)
    full = torch.npu.mem_get_info()[0]
    kept.clear()
    again = torch.ones(128 * mib, dtype=torch.uint8, device="npu")
    found = int(again[-1].item())
    del again
    torch.npu.empty_cache()
    return {
        "total": total,
        "refused": refused,
        "message": message,
        "full": full,
        "found": found,
        "given_back": torch.npu.mem_get_info()[0] == free,
    }


def work() -> Result:
    """Some of everything that is counted."""
    import torch
    import torch_npu  # noqa: F401

    torch.npu.manual_seed(3)
    x = torch.randn(32, 16, device="npu")
    stream = torch.npu.Stream()
    stream.wait_stream(torch.npu.current_stream())  # which makes x
    with torch.npu.stream(stream):
        y = torch.softmax(x @ x.t(), -1)
        event = torch.npu.Event()
        event.record()
    event.synchronize()
    torch.npu.synchronize()
    return {"sum": y.sum().item(), "first": y[0].cpu().tolist()}


def failure() -> Result:
    """An index out of range: found when the operator runs, told when the host waits for it."""
    import torch
    import torch_npu  # noqa: F401

    x = torch.zeros(4, 2, device="npu")
    index = torch.tensor([0, 9], device="npu")
    torch.npu.synchronize()
    try:
        x.index_select(0, index)
        told = "at the wait"
        torch.npu.synchronize()
        return {"told": "never"}
    except RuntimeError as error:
        return {"told": told, "message": str(error)}


def fork() -> Result:
    """A parent that has imported torch_npu, and no more, forks children that use the device."""
    import torch
    import torch_npu  # noqa: F401

    results = []
    for number in (1, 2):
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            torch.npu.set_device(number - 1)
            x = torch.full((4,), float(number), device="npu") * 10
            os.write(writer, json.dumps([x.sum().item(), x.device.index]).encode())
            os._exit(0)
        os.close(writer)
        results.append(json.loads(os.read(reader, 1000) or b"null"))
        os.close(reader)
        results.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    return {"children": results}


def attention() -> Result:
    """float32 attention, which only an extension takes."""
    import torch

    from simulator.tests.test_attention import MIXES, Batch, causal_mask

    batch = Batch(MIXES["mixed"], 4, 2, torch.float32)
    got, _ = batch.run_paged(causal_mask())
    return {"error": (got.cpu() - batch.expected()[0]).abs().max().item(), "dtype": str(got.dtype)}


PROGRAMS = {f.__name__: f for f in (identity, memory, work, failure, fork, attention)}

if __name__ == "__main__":
    print("RESULT " + json.dumps({name: PROGRAMS[name]() for name in sys.argv[1:]}))
