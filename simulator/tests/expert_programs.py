"""What the ranks of the tests of distributed experts do (ranks.py starts them).

Every rank knows what all ranks put in (``tokens``, ``choices``), and computes what must come out
row by row, in plain Python. Expert ``e``'s work is to multiply by ``factor(e)``, so that combine's
result says which expert a token has seen.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch_npu

from simulator.tests import hccl
from simulator.tests.collective_programs import Checks
from simulator.tests.distributed_programs import start

WIDTH, TOKENS = 64, 5


@dataclass(frozen=True)
class Case:
    """What a test asks for; ``None``: the operator's default."""

    world: int
    form: str = "_v2"
    dtype: torch.dtype = torch.float16
    experts: int = 8
    k: int = 3
    shared: int = 0
    shared_ranks: int = 0
    quant: int = 0
    smooth: bool = False
    count_type: int = 1
    mask: str = ""
    comm_quant: int = 0
    ragged: bool = False

    def rows(self, rank: int) -> int:
        return TOKENS - rank % 2 * 2 if self.ragged else TOKENS

    @property
    def local(self) -> int:
        return self.experts // (self.world - self.shared_ranks)

    def tokens(self, rank: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(rank)
        return torch.randn(self.rows(rank), WIDTH, generator=generator).to(self.dtype)

    def choices(self, rank: int) -> torch.Tensor:
        """The first rank's tokens all go to the same experts, so that some ranks get none of it."""
        generator = torch.Generator().manual_seed(100 + rank)
        if rank == 0:
            return torch.arange(self.k).expand(self.rows(0), self.k).int().contiguous()
        rows = range(self.rows(rank))
        shuffled = [torch.randperm(self.experts, generator=generator)[: self.k] for _ in rows]
        return torch.stack(shuffled).int()

    def weights(self, rank: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(200 + rank)
        return torch.rand(self.rows(rank), self.k, generator=generator)

    def active(self, rank: int) -> torch.Tensor:
        """Of each choice."""
        made = torch.ones(self.rows(rank), self.k, dtype=torch.bool)
        if self.mask == "tokens":
            made[self.rows(rank) - 1 - rank % 2 :] = False
        if self.mask == "choices":
            made[::2, 1] = False
            made[1] = False
        return made

    def scales(self) -> torch.Tensor | None:
        if not self.smooth:
            return None
        rows = self.experts + (self.shared if self.shared_ranks else 0)
        return torch.rand(rows, WIDTH, generator=torch.Generator().manual_seed(7)) + 0.5

    def shared_rows(self, rank: int, source: int) -> list[int]:
        """Tokens of ``source`` that a rank with a shared expert gets."""
        copies = self.shared_ranks // self.shared
        active = self.active(source).any(1)
        goes = rank % copies == source % copies
        return [t for t in range(self.rows(source)) if goes and active[t]]

    def arriving(self, rank: int) -> list[tuple[int, int, int, int]]:
        """(expert of all, source, token, choice) of each row of a rank's output, in its order."""
        sources = range(self.world)
        if rank < self.shared_ranks:
            number = rank // (self.shared_ranks // self.shared)
            rows = [(s, t) for s in sources for t in self.shared_rows(rank, s)]
            return [(number, s, t, self.k + number) for s, t in rows]
        first = (rank - self.shared_ranks) * self.local
        before = self.shared if self.shared_ranks else 0
        made = []
        for expert in range(first, first + self.local):
            for source in sources:
                choice, active = self.choices(source), self.active(source)
                made += [
                    (before + expert, source, t, j)
                    for t in range(self.rows(source))
                    for j in range(self.k)
                    if choice[t, j] == expert and active[t, j]
                ]
        return made

    def where(self, rank: int, group: str) -> tuple[str, int, int, int]:
        return group, self.world, rank, self.experts

    def options(self) -> dict[str, int]:
        made = {"shared_expert_rank_num": self.shared_ranks}
        if self.shared_ranks:
            made["shared_expert_num"] = self.shared
        if self.ragged:
            made["global_bs"] = TOKENS * self.world
        return made

    def mask_of(self, rank: int) -> torch.Tensor | None:
        if not self.mask:
            return None
        active = self.active(rank)
        return (active if self.mask == "choices" else active[:, 0].contiguous()).npu()


def factor(expert: int) -> float:
    return 0.5 + expert / 8


def case_of(count: int, argument: dict[str, Any]) -> Case:
    named = dict(argument)
    named["dtype"] = getattr(torch, named.get("dtype", "float16"))
    return Case(count, **named)


def group_of(rank: int) -> str:
    return dist.group.WORLD._get_backend(torch.device("npu")).get_hccl_comm_name(rank)


def close(found: torch.Tensor, expected: torch.Tensor, tolerance: float) -> bool:
    return torch.allclose(found.cpu().float(), expected.float(), rtol=tolerance, atol=tolerance)


def _dispatch(case: Case, rank: int, group: str) -> Any:
    operator = getattr(torch_npu, f"npu_moe_distribute_dispatch{case.form}")
    mask = {"x_active_mask": case.mask_of(rank)} if case.mask else {}
    scales = case.scales()
    return operator(
        case.tokens(rank).npu(),
        case.choices(rank).npu(),
        *case.where(rank, group),
        scales=None if scales is None else scales.npu(),
        quant_mode=case.quant,
        expert_token_nums_type=case.count_type,
        **mask,
        **case.options(),
    )


def _check_dispatch(case: Case, rank: int, found: Any, checks: Checks) -> torch.Tensor:
    """Compares dispatch's outputs; returns the rows as numbers."""
    out, scales, index, counts, received, *_ = found
    rows = case.arriving(rank)
    expected = torch.stack([case.tokens(s)[t] for _, s, t, _ in rows]) if rows else out[:0].cpu()
    got = out[: len(rows)].cpu()
    if case.quant:
        smooth = case.scales()
        wide = expected.float()
        if smooth is not None:
            wide = wide * smooth[[e for e, *_ in rows]]
        each = wide.abs().amax(-1) / 127
        checks.that("the type of codes", got.dtype == torch.int8)
        checks.that("scales", close(scales[: len(rows)], each, 1e-6))
        codes = (wide / each.unsqueeze(-1)).round()
        checks.that("codes", bool(((got.float() - codes).abs() <= 1).all()))
        got = (got.float() * scales[: len(rows)].cpu().unsqueeze(-1)).to(case.dtype)
    else:
        checks.same("rows", got, expected)
    local = 1 if rank < case.shared_ranks else case.local
    experts = sorted({e for e, *_ in case.arriving(rank)})
    base = (
        rank // (case.shared_ranks // case.shared)
        if rank < case.shared_ranks
        else (rank - case.shared_ranks) * case.local + (case.shared if case.shared_ranks else 0)
    )
    per = [sum(e == base + i for e, *_ in rows) for i in range(local)]
    checks.that(f"experts {experts}", all(base <= e < base + local for e in experts))
    wanted = torch.tensor(per).cumsum(0).tolist() if case.count_type == 0 else per
    checks.that(f"counts {counts.tolist()} for {wanted}", counts.tolist() == wanted)
    each_source = [
        sum(e == base + i and s == source for e, s, *_ in rows)
        for i in range(local)
        for source in range(case.world)
    ]
    totals = torch.tensor(each_source).cumsum(0).tolist()
    checks.that("totals by rank", received[: len(totals)].tolist() == totals)
    if case.form == "_v2":
        triples = index[: 3 * len(rows)].view(-1, 3).tolist()
        checks.that("triples", triples == [[s, t, j] for _, s, t, j in rows])
    return got


def _expected(case: Case, rank: int) -> torch.Tensor:
    x, choice, weight = case.tokens(rank).float(), case.choices(rank), case.weights(rank)
    active = case.active(rank)
    shared = case.shared if case.shared_ranks else 0
    out = torch.zeros_like(x)
    for t in range(case.rows(rank)):
        for j in range(case.k):
            if active[t, j]:
                out[t] += weight[t, j] * factor(shared + int(choice[t, j])) * x[t]
        if active[t].any():
            for number in range(shared):
                out[t] += factor(number) * x[t]
    return out


def there_and_back(rank: int, count: int, argument: Any) -> Any:
    """Dispatch, every expert's work, combine."""
    start(rank, count)
    case, checks, group = case_of(count, argument), Checks(), group_of(rank)
    for turn in range(2):  # the second time over the same communicator
        found = _dispatch(case, rank, group)
        got = _check_dispatch(case, rank, found, checks)
        worked = torch.zeros(found[0].size(0), WIDTH, dtype=case.dtype)
        for row, (expert, *_) in enumerate(case.arriving(rank)):
            smooth = case.scales()
            value = got[row].float() if smooth is None else got[row].float() / smooth[expert]
            worked[row] = (value * factor(expert)).to(case.dtype)
        combine = getattr(torch_npu, f"npu_moe_distribute_combine{case.form}")
        mask = {"x_active_mask": case.mask_of(rank)} if case.mask else {}
        back = combine(
            worked.npu(),
            case.choices(rank).npu(),
            found[2],
            found[4],
            case.weights(rank).npu(),
            *case.where(rank, group),
            comm_quant_mode=case.comm_quant,
            **mask,
            **case.options(),
        )
        exact = case.quant == 0 and case.comm_quant == 0
        tolerance = 1e-2 if case.dtype == torch.float16 else 4e-2
        checks.that(
            f"combined, turn {turn}",
            close(back, _expected(case, rank), tolerance if exact else 3 * tolerance),
        )
    dist.barrier()
    dist.destroy_process_group()
    return checks.report()


def special_experts(rank: int, count: int, argument: Any) -> Any:
    """Tokens that choose an expert of zero, of themselves, or a constant one; the shared part."""
    start(rank, count)
    case, checks, group = Case(count, k=4), Checks(), group_of(rank)
    x, weights = case.tokens(rank), case.weights(rank)
    experts = case.experts
    choice = torch.tensor([[rank, experts, experts + 1, experts + 3]] * TOKENS, dtype=torch.int32)
    alpha1, alpha2 = torch.tensor([[0.5, 0.25], [2.0, 1.0]]).half()
    vector = torch.randn(2, WIDTH, generator=torch.Generator().manual_seed(5)).half()
    shared = torch.randn(TOKENS, WIDTH, generator=torch.Generator().manual_seed(rank + 9)).half()
    kinds = {"zero_expert_num": 1, "copy_expert_num": 1, "const_expert_num": 2}
    where = case.where(rank, group)
    out, _, index, counts, received, *_ = torch_npu.npu_moe_distribute_dispatch_v2(
        x.npu(), choice.npu(), *where, **kinds
    )
    here = sum(source // case.local == rank for source in range(count))
    checks.that(f"only chosen experts: {counts.tolist()}", int(counts.sum()) == TOKENS * here)
    back = torch_npu.npu_moe_distribute_combine_v2(
        out,
        choice.npu(),
        index,
        received,
        weights.npu(),
        *where,
        shared_expert_x=shared.npu(),
        ori_x=x.npu(),
        const_expert_alpha_1=alpha1.npu(),
        const_expert_alpha_2=alpha2.npu(),
        const_expert_v=vector.npu(),
        **kinds,
    )
    wide, w = x.float(), weights
    constant = alpha1[1].float() * wide + alpha2[1].float() * vector[1].float()
    expected = w[:, :1] * wide + w[:, 2:3] * wide + w[:, 3:4] * constant + shared.float()
    checks.that("sum", close(back, expected, 1e-2))
    dist.barrier()
    return checks.report()


def normalised(rank: int, count: int, argument: Any) -> Any:
    """Combine with the residual and RMSNorm."""
    start(rank, count)
    case, checks, group = Case(count, dtype=torch.bfloat16), Checks(), group_of(rank)
    found = _dispatch(case, rank, group)
    generator = torch.Generator().manual_seed(rank)
    residual = torch.randn(TOKENS, 1, WIDTH, generator=generator).bfloat16()
    gamma = torch.rand(WIDTH, generator=generator).bfloat16()
    y, rstd, x = torch_npu.npu_moe_distribute_combine_add_rms_norm(
        found[0],
        case.choices(rank).npu(),
        found[2],
        found[4],
        case.weights(rank).npu(),
        residual.npu(),
        gamma.npu(),
        *case.where(rank, group),
    )
    routed = case.tokens(rank).float() * case.weights(rank).sum(-1, keepdim=True)
    added = routed.view(TOKENS, 1, WIDTH) + residual.float()
    inverse = torch.rsqrt(added.square().mean(-1, keepdim=True) + 1e-6)
    checks.that("x", close(x, added, 4e-2))
    checks.that("rstd", close(rstd, inverse, 1e-3))
    checks.that("y", close(y, added * inverse * gamma.float(), 4e-2))
    dist.barrier()
    return checks.report()


def in_its_turn(rank: int, count: int, argument: Any) -> Any:
    """Dispatch is work on its stream: between other work, after an event, and in a graph."""
    start(rank, count)
    case, checks, group = Case(count), Checks(), group_of(rank)
    x, choice = torch.zeros(TOKENS, WIDTH).half().npu(), case.choices(rank).npu()
    side = torch.npu.Stream()
    where = case.where(rank, group)
    torch.npu.synchronize()
    if rank == 0:
        time.sleep(0.3)  # its peers wait on their streams, not at the call
    begin = time.monotonic()
    x.copy_(case.tokens(rank))
    side.wait_stream(torch.npu.current_stream())
    with torch.npu.stream(side):
        out, *_ = torch_npu.npu_moe_distribute_dispatch_v2(x, choice, *where)
        doubled = out * 2
    called = time.monotonic() - begin
    checks.that(f"the call returns at once: {called:.3f} s", rank == 0 or called < 0.25)
    torch.npu.current_stream().wait_stream(side)
    rows = case.arriving(rank)
    expected = torch.stack([case.tokens(s)[t] for _, s, t, _ in rows]) if rows else out[:0].cpu()
    checks.same("after its inputs, before what follows", doubled[: len(rows)], 2 * expected)
    dist.all_reduce(x)  # a collective of torch.distributed over the same communicator
    checks.same("beside collectives", x, sum(case.tokens(r) for r in range(count)))

    graph = torch.npu.NPUGraph()
    with torch.npu.graph(graph):
        captured, *_ = torch_npu.npu_moe_distribute_dispatch_v2(x, choice, *where)
    for turn in (1, 2):
        x.copy_(case.tokens(rank) * turn)
        graph.replay()
        checks.same(f"replay {turn}", captured[: len(rows)], turn * expected)
    dist.barrier()
    return checks.report()


def a_peer_dies(rank: int, count: int, argument: Any) -> Any:
    """The last rank is killed while the others wait for its tokens."""
    os.environ["TORCH_HCCL_ENABLE_MONITORING"] = "0"
    start(rank, count)
    case, checks, group = Case(count), Checks(), group_of(rank)
    _dispatch(case, rank, group)
    torch.npu.synchronize()
    if rank == count - 1:
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGKILL)
    begin = time.monotonic()
    reason = "heartbeat lost" if rank == 0 else "rank"
    dispatch = lambda: _dispatch(case, rank, group)  # noqa: E731
    checks.told("the end of a peer", hccl.STREAM_TIMED_OUT, reason, dispatch)
    checks.that("at once", time.monotonic() - begin < 10)
    return checks.report()


def calls_differ(rank: int, count: int, argument: Any) -> Any:
    """Rank 1 says that there are more experts, or calls another operator."""
    start(rank, count)
    checks, group = Checks(), group_of(rank)
    case = Case(count, experts=8 if rank == 0 or argument == "operator" else 16)
    if argument == "operator" and rank == 1:
        x = torch.ones(8, WIDTH, dtype=torch.float16).npu()
        differ: Callable[[], object] = lambda: torch_npu.npu_mm_all_reduce_base(x, x.t(), group)  # noqa: E731
    else:
        differ = lambda: _dispatch(case, rank, group)  # noqa: E731
    try:
        differ()
        torch.npu.synchronize()
        checks.that("nothing was told", False)
    except RuntimeError as error:
        checks.that(f"EI0005 in: {error}", "EI0005" in str(error) or "failed" in str(error))
    return checks.report()


def a_fault(rank: int, count: int, argument: Any) -> Any:
    """The second dispatch of rank 1 fails, as CANNSIM_COLLECTIVE_FAULT asks for."""
    start(rank, count)
    case, checks, group = Case(count), Checks(), group_of(rank)
    _dispatch(case, rank, group)
    torch.npu.synchronize()
    again = lambda: _dispatch(case, rank, group)  # noqa: E731
    if rank == 1:
        checks.told("the fault", 507057, "EI0013", again)
    else:
        checks.told("the other rank's word", hccl.STREAM_TIMED_OUT, "rank 1", again)
    return checks.report()


def refusals(rank: int, count: int, argument: Any) -> Any:
    """What the documents rule out: ACL's code and why, at the call; nothing is sent."""
    start(rank, count)
    checks, group = Checks(), group_of(rank)
    x, choice = torch.zeros(4, WIDTH).half().npu(), torch.zeros(4, 2, dtype=torch.int32).npu()
    wide = torch.zeros(4, 8192).half().npu()

    def refused(what: str, words: str, *where: Any, x: torch.Tensor = x, **more: Any) -> None:
        where = where or (group, count, rank, 8)
        try:
            torch_npu.npu_moe_distribute_dispatch_v2(x, choice, *where, **more)
            checks.that(f"{what} is refused", False)
        except RuntimeError as error:
            checks.that(f"{what}: {error}", "561002" in str(error) and words in str(error))

    refused("another size", f"has {count} ranks", group, 2 * count, rank, 16)
    refused("another rank", f"this is rank {rank}", group, count, 1 - rank, 8)
    refused("a group that is not", "no communicator 'nowhere'", "nowhere", count, rank, 8)
    refused("a remainder of experts", "no multiple of the ranks", group, count, rank, 7)
    refused("too many experts", "are taken", group, count, rank, 2048)
    refused("a scale without quantisation", "quant_mode is 0", scales=torch.ones(8, WIDTH).npu())
    mask = torch.ones(3, dtype=torch.bool).npu()
    refused("a mask of another length", "x_active_mask", x_active_mask=mask)
    if argument == "A2":
        refused("a shared rank on A2", "Atlas A2 takes 0", shared_expert_rank_num=1)
        refused("a long row on A2", "multiples of 32 up to 7168", x=wide)
    else:
        refused("a small buffer", "HCCL_BUFFSIZE", x=wide)
    first = [8 * count, 0, 0, 0] if rank == 0 else [0] * 4
    counts = torch_npu.npu_moe_distribute_dispatch_v2(x, choice, group, count, rank, 8)[3]
    checks.same("afterwards", counts, torch.tensor(first))
    return checks.report()


PROGRAMS: dict[str, Callable[[int, int, Any], Any]] = {
    f.__name__: f
    for f in (
        there_and_back,
        special_experts,
        normalised,
        in_its_turn,
        a_peer_dies,
        calls_differ,
        a_fault,
        refusals,
    )
}
