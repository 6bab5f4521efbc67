"""What the ranks of the tests of torch.distributed do (ranks.py starts them), over backend hccl."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from simulator.tests.collective_programs import Checks

Program = Callable[[int, int, Any], Any]


def start(rank: int, count: int, **options: Any) -> None:
    torch.npu.set_device(rank)
    store = f"file://{os.environ['STORE']}"
    dist.init_process_group("hccl", init_method=store, rank=rank, world_size=count, **options)


def values(rank: int, count: int = 6, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """What a rank puts in."""
    return (torch.arange(count) * (rank + 2) % 11 - 3).to(dtype)


def collectives(rank: int, count: int, argument: Any) -> dict[str, Any]:
    """Every collective of torch.distributed, in its forms."""
    start(rank, count)
    checks = Checks()
    for part in (_reductions, _gathers, _exchanges, _point_to_point, _objects, _groups, _coalesced):
        part(rank, count, checks)
    dist.barrier()
    dist.destroy_process_group()
    return checks.report()


def _all(count: int, length: int = 6, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.stack([values(r, length, dtype) for r in range(count)])


def _reductions(rank: int, count: int, checks: Checks) -> None:
    formulas = {
        dist.ReduceOp.SUM: lambda t: t.sum(0),
        dist.ReduceOp.PRODUCT: lambda t: t.prod(0),
        dist.ReduceOp.MAX: lambda t: t.amax(0),
        dist.ReduceOp.MIN: lambda t: t.amin(0),
    }
    for dtype in (
        torch.float32,
        torch.int32,
        torch.int64,
        torch.int8,
        torch.float16,
        torch.bfloat16,
    ):
        for op, formula in formulas.items():
            if op == dist.ReduceOp.PRODUCT and dtype in (torch.bfloat16, torch.float16, torch.int8):
                continue
            x = values(rank, 6, dtype).npu()
            dist.all_reduce(x, op)
            checks.same(f"all_reduce {dtype} {op}", x, formula(_all(count, 6, dtype)).to(dtype))
    x = values(rank).npu()
    work = dist.all_reduce(x, async_op=True)
    work.wait()
    checks.same("all_reduce later", x, _all(count).sum(0))
    x = values(rank).npu()
    dist.all_reduce(x, dist.ReduceOp.AVG)
    checks.that("all_reduce AVG", torch.allclose(x.cpu(), _all(count).mean(0)))
    flags = torch.tensor([rank == 0, rank == count - 1, False]).npu()
    dist.all_reduce(flags, dist.ReduceOp.MAX)
    checks.same("all_reduce of bool", flags, torch.tensor([True, True, False]))
    x = values(rank).npu()
    dist.reduce(x, dst=count - 1)
    expected = _all(count).sum(0) if rank == count - 1 else values(rank)
    checks.same("reduce", x, expected)

    rows = _all(count, 4 * count).sum(0).view(count, 4)
    x, y = values(rank, 4 * count).npu(), torch.zeros(4).npu()
    dist.reduce_scatter_tensor(y, x)
    checks.same("reduce_scatter_tensor", y, rows[rank])
    y.zero_()
    dist.reduce_scatter(y, list(x.chunk(count)))
    checks.same("reduce_scatter", y, rows[rank])
    lengths = [r + 1 for r in range(count)]
    x, y = values(rank, sum(lengths)).npu(), torch.zeros(lengths[rank]).npu()
    dist.reduce_scatter(y, list(x.split(lengths)))
    checks.same("reduce_scatter, uneven", y, _all(count, sum(lengths)).sum(0).split(lengths)[rank])


def _gathers(rank: int, count: int, checks: Checks) -> None:
    x = values(rank).npu()
    whole = torch.zeros(6 * count).npu()
    dist.all_gather_into_tensor(whole, x)
    checks.same("all_gather_into_tensor", whole, _all(count).flatten())
    parts = [torch.zeros(6).npu() for _ in range(count)]
    dist.all_gather(parts, x)
    checks.same("all_gather", torch.stack(parts), _all(count))
    parts = [torch.zeros(r + 1).npu() for r in range(count)]
    dist.all_gather(parts, values(rank, rank + 1).npu())
    for r in range(count):
        checks.same("all_gather, uneven", parts[r], values(r, r + 1))
    y = values(rank).npu()
    dist.broadcast(y, src=1)
    checks.same("broadcast", y, values(1))
    y = torch.zeros(6).npu()
    dist.scatter(y, [values(10 + r).npu() for r in range(count)] if rank == 0 else None, src=0)
    checks.same("scatter", y, values(10 + rank))
    parts = [torch.zeros(6).npu() for _ in range(count)] if rank == 1 else None
    dist.gather(x, parts, dst=1)
    if parts is not None:
        checks.same("gather", torch.stack(parts), _all(count))


def _exchanges(rank: int, count: int, checks: Checks) -> None:
    x, y = values(rank, 3 * count).npu(), torch.zeros(3 * count).npu()
    dist.all_to_all_single(y, x)
    rows = _all(count, 3 * count).view(count, count, 3)
    checks.same("all_to_all_single", y, rows[:, rank].flatten())
    sent = [(rank + 2 * peer) % 4 for peer in range(count)]
    received = [(peer + 2 * rank) % 4 for peer in range(count)]
    x, y = values(rank, sum(sent)).npu(), torch.zeros(sum(received)).npu()
    dist.all_to_all_single(y, x, received, sent)
    lengths = [[(r + 2 * peer) % 4 for peer in range(count)] for r in range(count)]
    expected = [values(r, sum(lengths[r])).split(lengths[r])[rank] for r in range(count)]
    checks.same("all_to_all_single, uneven", y, torch.cat(expected))
    out = [torch.zeros(2).npu() for _ in range(count)]
    dist.all_to_all(out, [values(rank * count + peer, 2).npu() for peer in range(count)])
    checks.same(
        "all_to_all",
        torch.stack(out),
        torch.stack([values(r * count + rank, 2) for r in range(count)]),
    )


def _point_to_point(rank: int, count: int, checks: Checks) -> None:
    following, preceding = (rank + 1) % count, (rank - 1) % count
    y = torch.zeros(6).npu()
    if rank % 2 == 0 and rank + 1 < count:
        dist.send(values(rank).npu(), rank + 1)
        dist.recv(y, rank + 1)
        checks.same("recv", y, values(rank + 1))
    elif rank % 2 == 1:
        dist.recv(y, rank - 1)
        dist.send(values(rank).npu(), rank - 1)
        checks.same("recv", y, values(rank - 1))
    x, y = values(rank).npu(), torch.zeros(6).npu()
    operations = [dist.P2POp(dist.isend, x, following), dist.P2POp(dist.irecv, y, preceding)]
    for work in dist.batch_isend_irecv(operations):
        work.wait()
    checks.same("batch_isend_irecv", y, values(preceding))


def _objects(rank: int, count: int, checks: Checks) -> None:
    found: list[Any] = [None] * count
    dist.all_gather_object(found, {"rank": rank, "text": "x" * rank})
    expected = [{"rank": r, "text": "x" * r} for r in range(count)]
    checks.that(f"all_gather_object: {found}", found == expected)
    shared: list[Any] = [{"from": rank}, None if rank else [1, 2]]
    dist.broadcast_object_list(shared, src=0)
    checks.that(f"broadcast_object_list: {shared}", shared == [{"from": 0}, [1, 2]])


def _groups(rank: int, count: int, checks: Checks) -> None:
    """Halves, and the even ranks in a group of their own, at work at the same time."""
    half = count // 2
    halves = [dist.new_group(list(range(half))), dist.new_group(list(range(half, count)))]
    evens = dist.new_group(list(range(0, count, 2)))
    mine = list(range(half)) if rank < half else list(range(half, count))
    x, y = values(rank).npu(), values(rank).npu()
    first = dist.all_reduce(x, group=halves[rank >= half], async_op=True)
    if rank % 2 == 0:
        dist.all_reduce(y, dist.ReduceOp.MAX, group=evens)
        checks.same("max of even ranks", y, _all(count)[::2].amax(0))
    first.wait()
    checks.same("sum of a half", x, _all(count)[mine].sum(0))
    y = values(rank).npu()
    dist.broadcast(y, src=mine[-1], group=halves[rank >= half])
    checks.same("broadcast in a half", y, values(mine[-1]))


def _coalesced(rank: int, count: int, checks: Checks) -> None:
    tensors = [values(rank, n).npu() for n in (1, 5, 70)]
    dist.all_reduce_coalesced(tensors)
    for tensor in tensors:
        checks.same("all_reduce_coalesced", tensor, _all(count, tensor.numel()).sum(0))
    tensors = [values(rank, n).npu() for n in (2, 9)]
    with dist._coalescing_manager(device=torch.device("npu", rank)) as manager:
        for tensor in tensors:
            dist.all_reduce(tensor)
    if manager.works:
        manager.wait()
    torch.npu.synchronize()
    for tensor in tensors:
        checks.same("coalescing manager", tensor, _all(count, tensor.numel()).sum(0))


def parallel_training(rank: int, count: int, argument: Any) -> dict[str, Any]:
    """DistributedDataParallel: gradients are those of the whole batch on one rank."""
    start(rank, count, timeout=timedelta(seconds=60))
    torch.manual_seed(3)
    model = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Linear(7, 2))
    whole = torch.randn(4 * count, 5)
    expected = torch.autograd.grad(model(whole).pow(2).mean(), list(model.parameters()))
    parallel = torch.nn.parallel.DistributedDataParallel(model.npu(), device_ids=[rank])
    parallel(whole[4 * rank : 4 * rank + 4].npu()).pow(2).mean().backward()
    checks = Checks()
    for (name, parameter), gradient in zip(model.named_parameters(), expected, strict=True):
        found = parameter.grad.cpu()
        checks.that(f"gradient of {name}", torch.allclose(found, gradient, atol=1e-5))
    dist.destroy_process_group()
    return checks.report()


def a_peer_dies(rank: int, count: int, argument: Any) -> str:
    """Rank 1 is killed; rank 0 waits for its process to be taken down by torch-npu's watchdog."""
    start(rank, count)
    x = values(rank).npu()
    dist.all_reduce(x)
    torch.npu.synchronize()
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    dist.all_reduce(x)
    time.sleep(20)
    return "nothing happened"


PROGRAMS: dict[str, Program] = {
    f.__name__: f for f in (collectives, parallel_training, a_peer_dies)
}
