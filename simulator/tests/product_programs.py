"""What the ranks of the tests of products fused with a collective do (ranks.py starts them).

Every rank knows what all ranks put in, and computes what must come out from all of it, without any
collective.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch_npu

from simulator.tests.collective_programs import Checks
from simulator.tests.distributed_programs import start
from simulator.tests.expert_programs import close, group_of

K, N = 256, 48


def numbers(rank: int, *sizes: int, dtype: torch.dtype, salt: int = 0) -> torch.Tensor:
    """Small, so that a sum of 256 products stays where float16 is exact enough."""
    generator = torch.Generator().manual_seed(1000 * salt + rank)
    return (torch.randn(*sizes, generator=generator) / 8).to(dtype)


def codes(rank: int, *sizes: int, salt: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1000 * salt + rank)
    return torch.randint(-20, 21, sizes, generator=generator).to(torch.int8)


def summed(parts: list[torch.Tensor]) -> torch.Tensor:
    """In the order of the ranks, rounded at each step."""
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def floats(rank: int, count: int, argument: Any) -> Any:
    """Reduce-scatter, all-gather and all-reduce in ``argument``'s type."""
    start(rank, count)
    checks, group, dtype = Checks(), group_of(rank), getattr(torch, argument)
    everyone, m = range(count), 2 * count
    x = [numbers(r, m, K, dtype=dtype) for r in everyone]
    w = [numbers(r, K, N, dtype=dtype, salt=1) for r in everyone]
    parts = [(x[r].float() @ w[r].float()).to(dtype) for r in everyone]
    tolerance = 2e-3 if dtype == torch.float16 else 2e-2

    found = torch_npu.npu_mm_reduce_scatter_base(x[rank].npu(), w[rank].npu(), group, count)
    expected = summed(parts)[rank * 2 : rank * 2 + 2]
    checks.that("reduce_scatter", close(found, expected, tolerance))
    transposed = w[rank].t().contiguous().npu().t()
    found = torch_npu.npu_mm_reduce_scatter_base(x[rank].npu(), transposed, group, count)
    checks.that("reduce_scatter, x2 transposed", close(found, expected, tolerance))

    found, gathered = torch_npu.npu_all_gather_base_mm(x[rank].npu(), w[rank].npu(), group, count)
    checks.same("what is gathered", gathered, torch.cat(x))
    whole = (torch.cat(x).float() @ w[rank].float()).to(dtype)
    checks.that("all_gather", close(found, whole, tolerance))
    found, none = torch_npu.npu_all_gather_base_mm(
        x[rank].npu(), w[rank].npu(), group, count, gather_output=False
    )
    checks.that("without what is gathered", none.numel() == 0 and close(found, whole, tolerance))

    bias = [numbers(r, N, dtype=dtype, salt=2) for r in everyone]
    addend = [numbers(r, 2, count, N, dtype=dtype, salt=3) for r in everyone]
    thick = [one.view(2, count, K) for one in x]
    wide = [
        (thick[r].float() @ w[r].float() + bias[r].float() + addend[r].float()).to(dtype)
        for r in everyone
    ]
    found = torch_npu.npu_mm_all_reduce_base(
        thick[rank].npu(), w[rank].npu(), group, bias=bias[rank].npu(), x3=addend[rank].npu()
    )
    checks.that("all_reduce", close(found, summed(wide), tolerance))
    first = found.clone()
    dist.broadcast(first, 0)
    checks.same("the same bits on every rank", found, first.cpu())
    found = torch_npu.npu_mm_all_reduce_base(x[rank].npu(), w[rank].npu(), group)
    checks.that("all_reduce alone", close(found, summed(parts), tolerance))
    dist.barrier()
    return checks.report()


def quantised(rank: int, count: int, argument: Any) -> Any:
    """int8 operands with their scales, int8 on the way, and weights of int8."""
    start(rank, count)
    checks, group, everyone, m = Checks(), group_of(rank), range(count), 2 * count
    x = [codes(r, m, K) for r in everyone]
    w = [codes(r, K, N, salt=1) for r in everyone]
    exact = [(x[r].double() @ w[r].double()).float() for r in everyone]
    generator = torch.Generator().manual_seed(11)
    channel = (torch.rand(N, generator=generator) / 512).float()
    token = [torch.rand(m, generator=torch.Generator().manual_seed(r)) for r in everyone]
    parts = [(exact[r] * channel * token[r].unsqueeze(1)).half() for r in everyone]

    found = torch_npu.npu_mm_all_reduce_base(
        x[rank].npu(),
        w[rank].npu(),
        group,
        dequant_scale=channel.npu(),
        pertoken_scale=token[rank].npu(),
    )
    checks.that("all_reduce by token", close(found, summed(parts), 5e-3))
    bias = codes(rank, N, salt=2).int()
    rounded = channel.bfloat16().float()
    biased = [((exact[r] + codes(r, N, salt=2)) * rounded).bfloat16() for r in everyone]
    found = torch_npu.npu_mm_all_reduce_base(
        x[rank].npu(), w[rank].npu(), group, bias=bias.npu(), dequant_scale=channel.bfloat16().npu()
    )
    checks.that("all_reduce by channel", close(found, summed(biased), 4e-2))

    scale1, scale2 = torch.full((N,), 0.05).half(), torch.full((N,), 0.05 * count).half()
    ways = [(parts[r].float() / scale1.float()).round().clamp(-128, 127) for r in everyone]
    second = (torch.stack(ways).sum(0) * (scale1.float() / scale2.float())).round()
    found = torch_npu.npu_mm_all_reduce_base(
        x[rank].npu(),
        w[rank].npu(),
        group,
        dequant_scale=channel.npu(),
        pertoken_scale=token[rank].npu(),
        comm_quant_scale_1=scale1.npu(),
        comm_quant_scale_2=scale2.npu(),
    )
    expected = second.clamp(-128, 127) * scale2.float()
    step = float(scale2[0]) * 1.01  # a product may round to the next code
    checks.that("int8 on the way", bool(((found.cpu().float() - expected).abs() <= step).all()))
    near = (found.cpu().float() - expected).abs() < step / 4
    checks.that("most of it exactly", near.float().mean() > 0.95)

    full = [numbers(r, m, K, dtype=torch.float16, salt=4) for r in everyone]
    offset = torch.full((N,), 2.0).half()
    weight = [(w[r].float() + 2) * channel.half().float() for r in everyone]
    products = [(full[r].float() @ weight[r]).half() for r in everyone]
    found = torch_npu.npu_mm_all_reduce_base(
        full[rank].npu(),
        w[rank].npu(),
        group,
        antiquant_scale=channel.half().npu(),
        antiquant_offset=offset.npu(),
    )
    checks.that("weights of int8", close(found, summed(products), 5e-3))
    dist.barrier()
    return checks.report()


def quantised_parts(rank: int, count: int, argument: Any) -> Any:
    """int8 with reduce-scatter and all-gather: scales of rows and columns."""
    start(rank, count)
    checks, group, everyone, m = Checks(), group_of(rank), range(count), 2 * count
    x = [codes(r, m, K) for r in everyone]
    w = [codes(r, K, N, salt=1) for r in everyone]
    token = [torch.rand(m, 1, generator=torch.Generator().manual_seed(r)) for r in everyone]
    channel = torch.rand(1, N, generator=torch.Generator().manual_seed(9)) / 512
    exact = [(x[r].double() @ w[r].double()).float() for r in everyone]
    parts = [(exact[r] * channel * token[r]).half() for r in everyone]
    found = torch_npu.npu_mm_reduce_scatter_base(
        x[rank].npu(),
        w[rank].npu(),
        group,
        count,
        x1_scale=token[rank].npu(),
        x2_scale=channel.npu(),
        output_dtype=torch.float16,
        comm_mode="aiv",
    )
    checks.that("reduce_scatter", close(found, summed(parts)[2 * rank : 2 * rank + 2], 5e-3))
    found, gathered = torch_npu.npu_all_gather_base_mm(
        x[rank].npu(),
        w[rank].npu(),
        group,
        count,
        x1_scale=token[rank].npu(),
        x2_scale=channel.npu(),
        output_dtype=torch.float16,
        comm_mode="aiv",
    )
    whole = (torch.cat(x).double() @ w[rank].double()).float() * channel * torch.cat(token)
    checks.same("what is gathered", gathered, torch.cat(x))
    checks.that("all_gather", close(found, whole.half(), 5e-3))
    dist.barrier()
    return checks.report()


def grouped(rank: int, count: int, argument: Any) -> Any:
    """Tokens to their experts' products, and products back to where the tokens came from."""
    start(rank, count)
    checks, group, experts = Checks(), group_of(rank), 3
    every = count * experts

    def sent(r: int) -> list[int]:
        generator = torch.Generator().manual_seed(50 + r)
        return torch.randint(0, 4, (every,), generator=generator).tolist()

    def tokens(r: int) -> torch.Tensor:
        return numbers(r, sum(sent(r)), 32, dtype=torch.bfloat16)

    def weight(r: int) -> torch.Tensor:
        return numbers(r, experts, 32, 24, dtype=torch.bfloat16, salt=1)

    received = [sent(r)[rank * experts + e] for r in range(count) for e in range(experts)]
    starts = [[sum(sent(r)[:i]) for i in range(every + 1)] for r in range(count)]
    rows, products = [], []
    for e in range(experts):
        for r in range(count):
            first, end = starts[r][rank * experts + e], starts[r][rank * experts + e + 1]
            rows.append(tokens(r)[first:end])
            products.append(rows[-1].float() @ weight(rank)[e].float())
    alone, own = numbers(rank, 4, 16, dtype=torch.bfloat16), torch.eye(16).bfloat16()
    y, mm_y, permuted = torch_npu.npu_alltoallv_gmm(
        tokens(rank).npu(),
        weight(rank).transpose(1, 2).contiguous().npu(),
        group,
        count,
        sent(rank),
        received,
        mm_x=alone.npu(),
        mm_weight=own.npu(),
        trans_gmm_weight=True,
        permute_out_flag=True,
    )
    checks.same("tokens by expert", permuted, torch.cat(rows))
    checks.that("products", close(y, torch.cat(products), 2e-2))
    checks.same("the product beside", mm_y, alone)

    back_weight = [numbers(r, experts, 32, 40, dtype=torch.bfloat16, salt=2) for r in range(count)]
    back, _ = torch_npu.npu_gmm_alltoallv(
        permuted, back_weight[rank].npu(), group, count, received, sent(rank)
    )
    expected = [
        tokens(rank)[starts[rank][i] : starts[rank][i + 1]].float()
        @ back_weight[i // experts][i % experts].float()
        for i in range(every)
    ]
    checks.that("and back", close(back, torch.cat(expected), 2e-2))
    dist.barrier()
    return checks.report()


def refusals(rank: int, count: int, argument: Any) -> Any:
    """What the documents rule out: ACL's code and why, at the call."""
    start(rank, count)
    checks, group = Checks(), group_of(rank)
    x, w = torch.zeros(4, K).half().npu(), torch.zeros(K, N).half().npu()

    def refused(what: str, code: int, words: str, call: Callable[[], object]) -> None:
        try:
            call()
            checks.that(f"{what} is refused", False)
        except RuntimeError as error:
            checks.that(f"{what}: {error}", str(code) in str(error) and words in str(error))

    scatter, reduce = torch_npu.npu_mm_reduce_scatter_base, torch_npu.npu_mm_all_reduce_base
    short, other = x[:, :128].contiguous(), w[:128].contiguous()
    refused("a short k", 161002, "from 256", lambda: scatter(short, other, group, count))
    refused("other types", 161002, "differ", lambda: reduce(x, w.bfloat16(), group))
    refused("float32", 161002, "are taken", lambda: reduce(x.float(), w.float(), group))
    refused("no such group", 561002, "no communicator", lambda: reduce(x, w, "nowhere"))
    checks.that("afterwards", float(reduce(x + 1, w + 1, group)[0, 0]) == K * count)
    return checks.report()


PROGRAMS: dict[str, Callable[[int, int, Any], Any]] = {
    f.__name__: f for f in (floats, quantised, quantised_parts, grouped, refusals)
}
