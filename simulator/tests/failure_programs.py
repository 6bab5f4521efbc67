"""What the ranks of the tests of failing collectives do (ranks.py starts them)."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from simulator.tests import hccl
from simulator.tests.collective_programs import Checks, on_device, start
from simulator.tests.hccl import Communicator, Narrow

QUICK = 3.0
"""Seconds within which a peer's end must be told on a busy machine; timeouts are far longer."""

SUM = Narrow(hccl.SUM)


def vector(rank: int) -> torch.Tensor:
    return on_device(torch.full((1000,), float(rank)))


def end_now() -> None:
    """As kill -9 does: no destructor runs."""
    os.kill(os.getpid(), signal.SIGKILL)


def a_peer_dies(rank: int, count: int, argument: Any) -> Any:
    """The last rank is killed while the others wait for it; ``argument``: what each waits in.

    Before it dies it leaves a child that lives on, with copies of all its descriptors.
    """
    start(rank)
    c = Communicator.join("dies", rank, count)
    x, y = vector(rank), vector(rank)
    c.run("HcclAllReduce", x, y, 1000, torch.float32, SUM)
    torch.npu.synchronize()
    last = count - 1
    if rank == last:
        if os.fork() == 0:
            time.sleep(2 * QUICK)
            os._exit(0)
        time.sleep(0.3)
        Path(f"{os.environ['STORE']}.ended").write_text(str(time.monotonic()))
        end_now()
    waits: dict[str, Callable[[], None]] = {
        "reduce": lambda: c.run("HcclAllReduce", x, y, 1000, torch.float32, SUM),
        "receive": lambda: c.run("HcclRecv", x, 1000, torch.float32, Narrow(last)),
        "send": lambda: c.run("HcclSend", x, 1000, torch.float32, Narrow(last)),
        "barrier": lambda: c.run("HcclBarrier"),
    }
    checks = Checks()
    reason = "heartbeat lost" if rank == 0 else "rank"  # or another rank's word that it has failed
    checks.told("the end of a peer", hccl.STREAM_TIMED_OUT, reason, waits[argument])
    taken = time.monotonic() - float(Path(f"{os.environ['STORE']}.ended").read_text())
    checks.that(f"told after {taken:.1f} s", taken < QUICK)
    checks.that("HCCL's asynchronous error", c.error() == hccl.REMOTE)
    again = lambda: c.run("HcclBarrier")  # noqa: E731
    checks.refused("a call after the failure", hccl.REMOTE, "has failed before", again)
    c.destroy()
    return checks.report()


def a_peer_does_not_come(rank: int, count: int, argument: Any) -> Any:
    """Rank 1 calls nothing (HCCL_EXEC_TIMEOUT=1), and lives."""
    start(rank)
    c = Communicator.join("absent", rank, count)
    checks = Checks()
    if rank == 1:
        time.sleep(2.5)
    else:
        x = vector(rank)
        begin = time.monotonic()
        checks.told(
            "the timeout",
            hccl.STREAM_TIMED_OUT,
            "nothing arrived within 1 s (HCCL_EXEC_TIMEOUT)",
            lambda: c.run("HcclBroadcast", x, 1000, torch.float32, Narrow(1)),
        )
        checks.that("not before its time", time.monotonic() - begin >= 1)
        checks.that("HCCL's asynchronous error", c.error() == hccl.TIMEOUT)
    c.destroy()
    return checks.report()


def a_fault_is_asked_for(rank: int, count: int, argument: Any) -> Any:
    """The second HcclAllReduce of rank 1 fails, or hangs; the others are told."""
    how = "fails" if argument == "fail" else "hangs"
    os.environ["CANNSIM_COLLECTIVE_FAULT"] = f"{argument}:HcclAllReduce:2:1"
    os.environ["HCCL_EXEC_TIMEOUT"] = "600" if argument == "fail" else "1"
    start(rank)
    c = Communicator.join("fault", rank, count)
    checks = Checks()
    x = vector(rank)
    reduce = lambda: c.run("HcclAllReduce", x, x, 1000, torch.float32, SUM)  # noqa: E731
    c.run("HcclBarrier")
    reduce()
    torch.npu.synchronize()
    checks.same("before", x, torch.full((1000,), float(sum(range(count)))))
    code = 507057 if argument == "fail" and rank == 1 else hccl.STREAM_TIMED_OUT
    words = f"{how}, as asked for" if argument == "fail" or rank == 1 else "EI0002"
    begin = time.monotonic()
    checks.told("the fault", code, words, reduce)
    checks.that("in time", time.monotonic() - begin < 1 + QUICK)
    c.destroy()
    return checks.report()


def a_rank_stays_away(rank: int, count: int, argument: Any) -> Any:
    """The last rank never joins (HCCL_CONNECT_TIMEOUT=1); all others are told who is missing."""
    start(rank)
    checks = Checks()
    if rank < count - 1:
        checks.refused(
            "a communicator that is not complete",
            hccl.TIMEOUT,
            f"rank {count - 1} of {count} did not join",
            lambda: Communicator.join("away", rank, count),
        )
    return checks.report()


def a_rank_dies_while_joining(rank: int, count: int, argument: Any) -> Any:
    """Rank 1 says hello and is killed; rank 2 never comes."""
    start(rank)
    checks = Checks()
    if rank == 1:
        parent = os.getpid()
        if os.fork() == 0:
            time.sleep(0.5)
            os.kill(parent, signal.SIGKILL)
            os._exit(0)
        Communicator.join("joining", rank, count)
    if rank == 0:
        begin = time.monotonic()
        checks.refused(
            "a communicator whose rank died",
            hccl.TCP_CONNECT,
            "rank 1",
            lambda: Communicator.join("joining", rank, count),
        )
        checks.that("at once", time.monotonic() - begin < 0.5 + QUICK)
    return checks.report()


def calls_differ(rank: int, count: int, argument: Any) -> Any:
    """Ranks that do not call the same: the difference is told, with HCCL's number for it."""
    start(rank)
    checks = Checks()
    x, y = vector(rank), on_device(torch.zeros(1000 * count))
    calls: dict[str, Callable[[Communicator], None]] = {
        "length": lambda c: c.run("HcclAllReduce", x, y, 1000 - rank, torch.float32, SUM),
        "type": lambda c: c.run(
            "HcclAllReduce", x, y, 100, [torch.float32, torch.int32][rank % 2], SUM
        ),
        "operation": lambda c: c.run("HcclAllReduce", x, y, 100, torch.float32, Narrow(rank % 2)),
        "collective": lambda c: (
            c.run("HcclAllReduce", x, y, 1000, torch.float32, SUM)
            if rank == 0
            else c.run("HcclAllGather", x, y, 1000, torch.float32)
        ),
        "message": lambda c: (
            c.run("HcclSend", x, 10, torch.float32, Narrow(1))
            if rank == 0
            else c.run("HcclRecv", y, 11, torch.float32, Narrow(0))
        ),
    }
    for name, action in calls.items():
        c = Communicator.join(name, rank, count)
        try:
            action(c)
            torch.npu.synchronize()
            checks.that(f"{name} was not told", False)
        except RuntimeError as error:
            checks.that(f"{name}: {error}", "EI0005" in str(error))
        c.destroy()
    return checks.report()


def refusals(rank: int, count: int, argument: Any) -> Any:
    """What HCCL refuses at the call; the communicator lives on."""
    start(rank)
    c = Communicator.join("refusals", rank, count)
    checks = Checks()
    x, y = vector(rank), vector(rank)
    other = Narrow(1 - rank)

    def no(code: int, words: str, name: str, *arguments: object) -> None:
        checks.refused(f"{name}{arguments[1:]}", code, words, lambda: c.run(name, *arguments))

    prod = Narrow(hccl.PROD)
    for dtype in (torch.int16, torch.bfloat16):
        text = "does not take the operation prod"
        no(hccl.NOT_SUPPORT, text, "HcclAllReduce", x, y, 9, dtype, prod)
    for dtype in (torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.float64):
        text = "does not reduce"
        no(hccl.NOT_SUPPORT, text, "HcclAllReduce", x, y, 9, dtype, SUM)
        no(hccl.NOT_SUPPORT, text, "HcclReduce", x, y, 9, dtype, SUM, Narrow(0))
        no(hccl.NOT_SUPPORT, text, "HcclReduceScatter", x, y, 9, dtype, SUM)
    no(hccl.PARA, "not one of HcclReduceOp", "HcclAllReduce", x, y, 9, torch.float32, Narrow(7))
    int128, unknown, float8 = (ctypes.c_int(number) for number in (12, 99, 15))
    no(hccl.NOT_SUPPORT, "does not take int128", "HcclAllGather", x, y, 9, int128)
    no(hccl.NOT_SUPPORT, "does not take float8_e4m3", "HcclAllGather", x, y, 9, float8)
    no(hccl.PARA, "not one of HcclDataType", "HcclAllGather", x, y, 9, unknown)
    no(hccl.PTR, "recvBuf is null", "HcclAllReduce", x, None, 9, torch.float32, SUM)
    no(hccl.PTR, "sendBuf is null", "HcclAllGather", None, y, 9, torch.float32)
    no(hccl.PARA, "root 2 does not exist", "HcclBroadcast", x, 9, torch.float32, Narrow(2))
    no(hccl.PARA, "rank 5 does not exist", "HcclSend", x, 9, torch.float32, Narrow(5))
    no(hccl.PARA, "would send to itself", "HcclSend", x, 9, torch.float32, Narrow(rank))
    no(
        hccl.PARA,
        "not the same number of bytes",
        "HcclAlltoAll",
        x,
        2,
        torch.float32,
        y,
        3,
        torch.float32,
    )
    no(hccl.PARA, "recvCounts says", "HcclAllGatherV", x, 1, y, [2, 2], [0, 2], torch.float32)
    for handle, code in ((None, hccl.PTR), (0xBAD, hccl.PARA)):
        run = Communicator(ctypes.c_void_p(handle)).run
        checks.refused("a wrong handle", code, "communicator", lambda run=run: run("HcclBarrier"))
    with torch.npu.device(1 - rank):
        no(hccl.PARA, "the stream is on device", "HcclBarrier")
    checks.refused(
        "an end without a start", hccl.PARA, "HcclGroupStart", lambda: hccl.call("HcclGroupEnd")
    )

    # A count of nothing is no call; and after all this the communicator works.
    c.run("HcclAllReduce", None, None, 0, torch.float32, SUM)
    c.run("HcclSend", x, 9, torch.float32, other) if rank == 0 else c.run(
        "HcclRecv", x, 9, torch.float32, other
    )
    c.run("HcclAllReduce", x, y, 1000, torch.float32, SUM)
    torch.npu.synchronize()
    c.destroy()
    checks.refused(
        "a destroyed communicator", hccl.PARA, "was destroyed", lambda: c.run("HcclBarrier")
    )
    return checks.report()


def joining_is_checked(rank: int, count: int, argument: Any) -> Any:
    """Devices, numbers of ranks and settings that cannot be."""
    start(0 if argument == "device" else rank)
    checks = Checks()
    join = Communicator.join
    if argument == "device":
        words = "are both on device 0"
        checks.refused("one device twice", hccl.PARA, words, lambda: join("d", rank, count))
    elif argument == "number":
        words = "joined with"
        checks.refused("numbers differ", hccl.PARA, words, lambda: join("n", rank, count + rank))
    elif argument == "twice":
        words = "two processes joined as rank 0"
        info = hccl.share("t", rank, hccl.root_info() if rank == 0 else None)
        checks.refused("a rank twice", hccl.PARA, words, lambda: Communicator.init(info, 0, count))
    else:
        words = "HCCL_BUFFSIZE=none is not a whole number"
        checks.refused("a setting", hccl.PARA, words, lambda: join("s", rank, count))
    return checks.report()


PROGRAMS: dict[str, Callable[[int, int, Any], Any]] = {
    f.__name__: f
    for f in (
        a_peer_dies,
        a_peer_does_not_come,
        a_fault_is_asked_for,
        a_rank_stays_away,
        a_rank_dies_while_joining,
        calls_differ,
        refusals,
        joining_is_checked,
    )
}
