"""What the ranks of the collectives' tests do (ranks.py starts them).

Every rank knows what all ranks put in (``data``), and computes what must come out by a plain
formula on the CPU. A program returns its mismatches: lists that the tests want empty.
"""

from __future__ import annotations

import ctypes
import zlib
from collections.abc import Callable
from functools import reduce
from itertools import chain
from typing import Any

import torch

from simulator.tests import hccl
from simulator.tests.hccl import Communicator, HcclError, Narrow

REDUCED = (
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.float16,
    torch.float32,
    torch.bfloat16,
)
OPERATIONS: dict[str, tuple[int, Callable[..., torch.Tensor]]] = {
    "sum": (hccl.SUM, torch.add),
    "prod": (hccl.PROD, torch.mul),
    "max": (hccl.MAX, torch.maximum),
    "min": (hccl.MIN, torch.minimum),
}
SIZES = (1, 7, 1000, 40_000)
"""Elements: less than a line of memory, a part of one, within one step, and in two steps."""
MOVED_SIZES = (1, 7, 3000)
LARGE = 200_000
"""Elements of float32: more than the memory between two ranks holds at once."""


def start(rank: int) -> None:
    torch.npu.set_device(rank)
    torch.zeros(1, device="npu")


def data(rank: int, dtype: torch.dtype, count: int, salt: str = "") -> torch.Tensor:
    """What ``rank`` puts in: any bits for types that only move, modest numbers for the others."""
    seed = zlib.crc32(f"{rank} {dtype} {salt}".encode())
    if dtype in REDUCED and dtype.is_floating_point:
        return torch.sin(torch.arange(count, dtype=torch.float64) * 0.7 + seed % 1000).to(dtype) * 3
    if dtype in REDUCED:
        return ((torch.arange(count) * 37 + seed) % 199 - 99).to(dtype)
    size = torch.empty(0, dtype=dtype).element_size()
    mixed = torch.arange(count * size, dtype=torch.int32) * 2654435 + seed % 65521
    return (mixed >> 11).to(torch.uint8).view(dtype)


def combined(parts: list[torch.Tensor], formula: Callable[..., torch.Tensor]) -> torch.Tensor:
    """In the order of the ranks, rounded to the type at each step."""
    return reduce(formula, parts)


def on_device(tensor: torch.Tensor) -> torch.Tensor:
    """A copy on the device, there when this returns."""
    made = tensor.to("npu")
    torch.npu.synchronize()
    return made


def empty(count: int, dtype: torch.dtype) -> torch.Tensor:
    size = torch.empty(0, dtype=dtype).element_size()
    return on_device(torch.full((max(1, count * size),), 0x55, dtype=torch.uint8)).view(dtype)[
        :count
    ]


class Checks:
    """Collects what is not as expected."""

    def __init__(self) -> None:
        self.wrong: list[str] = []
        self.made = 0

    def same(self, what: str, found: torch.Tensor, expected: torch.Tensor) -> None:
        self.made += 1
        torch.npu.synchronize()
        found, expected = found.cpu().contiguous(), expected.contiguous()
        if not torch.equal(found.view(torch.uint8), expected.view(torch.uint8)):
            self.wrong.append(f"{what}: {found.flatten()[:8]} for {expected.flatten()[:8]}")

    def that(self, what: str, holds: bool) -> None:
        self.made += 1
        if not holds:
            self.wrong.append(what)

    def refused(self, what: str, code: int, words: str, action: Callable[[], object]) -> None:
        """``action`` raises HcclError with ``code`` and a message that has ``words``."""
        self.made += 1
        try:
            action()
        except HcclError as error:
            if error.code != code or words not in str(error):
                self.wrong.append(f"{what}: {error} for {code} with {words!r}")
            return
        self.wrong.append(f"{what} was not refused")

    def told(self, what: str, code: int, words: str, action: Callable[[], object]) -> None:
        """The stream's next wait raises torch-npu's error with ACL's ``code`` and ``words``."""
        self.made += 1
        try:
            action()
            torch.npu.synchronize()
        except RuntimeError as error:
            if f"error code is {code}" not in str(error) or words not in str(error):
                self.wrong.append(f"{what}: {error} for {code} with {words!r}")
            return
        self.wrong.append(f"{what} was not told")

    def report(self) -> dict[str, Any]:
        return {"wrong": self.wrong, "made": self.made}


# ---- numbers -------------------------------------------------------------------------------------


def reductions(rank: int, count: int, argument: Any) -> dict[str, Any]:
    """All reductions in the types of ``argument``, with all operations, in place and not."""
    start(rank)
    c = Communicator.join("reductions", rank, count)
    checks = Checks()
    for dtype in (getattr(torch, name) for name in argument):
        for name, (op, formula) in OPERATIONS.items():
            if name == "prod" and dtype in (torch.int16, torch.bfloat16):
                continue
            for size in SIZES:
                _reduce_one(c, checks, rank, count, dtype, Narrow(op), size, formula)
    c.destroy()
    return checks.report()


def _reduce_one(
    c: Communicator,
    checks: Checks,
    rank: int,
    count: int,
    dtype: torch.dtype,
    op: Narrow,
    size: int,
    formula: Callable[..., torch.Tensor],
) -> None:
    what = f"{dtype} operation {int(op)} of {size}"
    parts = [data(r, dtype, size) for r in range(count)]
    total = combined(parts, formula)
    x, y = on_device(parts[rank]), empty(size, dtype)
    c.run("HcclAllReduce", x, y, size, dtype, op)
    checks.same(f"HcclAllReduce {what}", y, total)
    checks.same(f"HcclAllReduce {what} left its input", x, parts[rank])
    c.run("HcclAllReduce", x, x, size, dtype, op)
    checks.same(f"HcclAllReduce {what} in place", x, total)

    root = size % count
    x, y = on_device(parts[rank]), empty(size, dtype)
    before = y.cpu()
    c.run("HcclReduce", x, y, size, dtype, op, Narrow(root))
    checks.same(f"HcclReduce {what}", y, total if rank == root else before)

    each = max(1, size // count)
    parts = [data(r, dtype, each * count, "scatter") for r in range(count)]
    total = combined(parts, formula)
    mine = slice(rank * each, (rank + 1) * each)
    x, y = on_device(parts[rank]), empty(each, dtype)
    c.run("HcclReduceScatter", x, y, each, dtype, op)
    checks.same(f"HcclReduceScatter {what}", y, total[mine])
    for target in (x[mine], x[:each]):
        x.copy_(parts[rank])
        torch.npu.synchronize()
        c.run("HcclReduceScatter", x, target, each, dtype, op)
        checks.same(f"HcclReduceScatter {what} over its input", target, total[mine])

    counts = [each + r for r in range(count)]
    places = [sum(counts[:r]) + 3 * r for r in range(count)]
    length = places[-1] + counts[-1]
    parts = [data(r, dtype, length, "uneven") for r in range(count)]
    mine = slice(places[rank], places[rank] + counts[rank])
    x, y = on_device(parts[rank]), empty(counts[rank], dtype)
    c.run("HcclReduceScatterV", x, counts, places, y, counts[rank], dtype, op)
    checks.same(f"HcclReduceScatterV {what}", y, combined(parts, formula)[mine])


def moves(rank: int, count: int, argument: Any) -> dict[str, Any]:
    """All that only moves data, in the types of ``argument``."""
    start(rank)
    c = Communicator.join("moves", rank, count)
    checks = Checks()
    for dtype in (getattr(torch, name) for name in argument):
        for size in (*MOVED_SIZES, *((LARGE,) if dtype == torch.float32 else ())):
            _gather_one(c, checks, rank, count, dtype, size)
            _exchange_one(c, checks, rank, count, dtype, size)
            _point_to_point_one(c, checks, rank, count, dtype, size)
    c.run("HcclBarrier")
    c.destroy()
    return checks.report()


def _gather_one(
    c: Communicator, checks: Checks, rank: int, count: int, dtype: torch.dtype, size: int
) -> None:
    what = f"{dtype} of {size}"
    parts = [data(r, dtype, size) for r in range(count)]
    y = empty(size * count, dtype)
    c.run("HcclAllGather", on_device(parts[rank]), y, size, dtype)
    checks.same(f"HcclAllGather {what}", y, _joined(parts))
    y = empty(size * count, dtype)
    mine = y[rank * size : (rank + 1) * size]
    _fill(mine, parts[rank])
    c.run("HcclAllGather", mine, y, size, dtype)
    checks.same(f"HcclAllGather {what} in place", y, _joined(parts))

    root = size % count
    x = on_device(parts[rank])
    c.run("HcclBroadcast", x, size, dtype, Narrow(root))
    checks.same(f"HcclBroadcast {what}", x, parts[root])

    whole, y = on_device(_joined(parts)), empty(size, dtype)
    c.run("HcclScatter", whole if rank == root else None, y, size, dtype, Narrow(root))
    checks.same(f"HcclScatter {what}", y, parts[rank])

    counts = [size + 2 * r for r in range(count)]
    places = [sum(counts[:r]) + r for r in range(count)]
    parts = [data(r, dtype, counts[r], "uneven") for r in range(count)]
    y = empty(places[-1] + counts[-1], dtype)
    expected = y.cpu().clone()
    for r in range(count):
        _fill(expected[places[r] : places[r] + counts[r]], parts[r])
    c.run("HcclAllGatherV", on_device(parts[rank]), counts[rank], y, counts, places, dtype)
    checks.same(f"HcclAllGatherV {what}", y, expected)


def _exchange_one(
    c: Communicator, checks: Checks, rank: int, count: int, dtype: torch.dtype, size: int
) -> None:
    what = f"{dtype} of {size}"
    parts = [data(r, dtype, size * count, "all to all") for r in range(count)]
    expected = _joined([parts[r][rank * size : (rank + 1) * size] for r in range(count)])
    x, y = on_device(parts[rank]), empty(size * count, dtype)
    c.run("HcclAlltoAll", x, size, dtype, y, size, dtype)
    checks.same(f"HcclAlltoAll {what}", y, expected)
    c.run("HcclAlltoAll", x, size, dtype, x, size, dtype)
    checks.same(f"HcclAlltoAll {what} in place", x, expected)

    # Rank i sends rank j (i + 2 j) % 5 times `size` elements: none at times.
    matrix = [[(i + 2 * j) % 5 * size for j in range(count)] for i in range(count)]
    parts = [data(r, dtype, sum(matrix[r]) or 1, "uneven") for r in range(count)]
    places = [[sum(row[:j]) for j in range(count)] for row in matrix]
    sent, received = matrix[rank], [matrix[r][rank] for r in range(count)]
    received_places = [sum(received[:r]) for r in range(count)]
    expected = _joined(
        [parts[r][places[r][rank] : places[r][rank] + received[r]] for r in range(count)]
    )
    y = empty(sum(received), dtype)
    x = on_device(parts[rank])
    c.run("HcclAlltoAllV", x, sent, places[rank], dtype, y, received, received_places, dtype)
    checks.same(f"HcclAlltoAllV {what}", y, expected)
    y = empty(sum(received), dtype)
    c.run("HcclAlltoAllVC", x, list(chain.from_iterable(matrix)), dtype, y, dtype)
    checks.same(f"HcclAlltoAllVC {what}", y, expected)


def _point_to_point_one(
    c: Communicator, checks: Checks, rank: int, count: int, dtype: torch.dtype, size: int
) -> None:
    what = f"{dtype} of {size}"
    mine, following, preceding = data(rank, dtype, size), (rank + 1) % count, (rank - 1) % count
    x, y = on_device(mine), empty(size, dtype)
    # Even ranks send first; a ring in which all did would wait for ever.
    if rank % 2 == 0 and rank + 1 < count:
        c.run("HcclSend", x, size, dtype, Narrow(rank + 1))
    elif rank % 2 == 1:
        c.run("HcclRecv", y, size, dtype, Narrow(rank - 1))
        checks.same(f"HcclRecv {what}", y, data(rank - 1, dtype, size))
    y = empty(size, dtype)
    rows = hccl.items(("send", x, following), ("receive", y, preceding))
    c.run("HcclBatchSendRecv", rows, ctypes.c_uint32(2))
    checks.same(f"HcclBatchSendRecv {what}", y, data(preceding, dtype, size))
    y = empty(size, dtype)
    hccl.call("HcclGroupStart")
    c.run("HcclSend", x, size, dtype, Narrow(following))
    c.run("HcclRecv", y, size, dtype, Narrow(preceding))
    hccl.call("HcclGroupEnd")
    checks.same(f"a group of HcclSend and HcclRecv {what}", y, data(preceding, dtype, size))


def _joined(parts: list[torch.Tensor]) -> torch.Tensor:
    """Concatenation for the types that ATen does not concatenate, too."""
    return torch.cat([part.view(torch.uint8) for part in parts]).view(parts[0].dtype)


def _fill(target: torch.Tensor, source: torch.Tensor) -> None:
    target.view(torch.uint8).copy_(source.view(torch.uint8))
    torch.npu.synchronize()


PROGRAMS: dict[str, Callable[[int, int, Any], Any]] = {f.__name__: f for f in (reductions, moves)}
