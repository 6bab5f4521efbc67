"""Mixture of experts on the device against plain formulas, expert by expert and token by token."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
import torch_npu
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F  # noqa: N812

from simulator.tests.tensors import TOLERANCES, fill
from simulator.tests.test_quantisation import by_rows, codes, near_codes, pack

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
HALVES = FLOATS[1:]


def near(got: torch.Tensor, expected: torch.Tensor) -> None:
    rtol, atol = TOLERANCES[got.dtype]
    torch.testing.assert_close(got.cpu(), expected.to(got.dtype), rtol=rtol, atol=atol)


def distinct(
    rows: int, experts: int, seed: int, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """Logits in which no two of a row are equal, whatever the dtype."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.stack([torch.randperm(experts, generator=generator) for _ in range(rows)])
    return ((order.float() - experts / 2) / 8).to(dtype)


def chosen(rows: int, k: int, experts: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.stack(
        [torch.randperm(experts, generator=generator)[:k] for _ in range(rows)]
    ).int()


class TestGating:
    @given(
        rows=st.integers(1, 5),
        k=st.integers(1, 6),
        dtype=st.sampled_from(FLOATS),
        seed=st.integers(0, 99),
    )
    def test_softmax(self, rows: int, k: int, dtype: torch.dtype, seed: int) -> None:
        x = distinct(rows, 16, seed, dtype)
        y, experts, numbers = torch_npu.npu_moe_gating_top_k_softmax(x.npu(), None, k)
        value, index = x.float().softmax(-1).topk(k, -1)
        near(y, value)
        assert torch.equal(experts.cpu(), index.int())
        assert torch.equal(numbers.cpu(), torch.arange(rows * k).view(k, rows).t().int())

    def test_finished_rows_go_to_no_expert(self) -> None:
        x, done = distinct(3, 8, 1), torch.tensor([False, True, False])
        _, experts, _ = torch_npu.npu_moe_gating_top_k_softmax(x.npu(), done.npu(), 2)
        assert experts[1].tolist() == [8, 8]
        assert torch.equal(experts[::2].cpu(), x[::2].topk(2, -1).indices.int())

    def test_softmax_of_the_chosen(self) -> None:
        x = distinct(3, 8, 1)
        y, experts, _ = torch_npu.npu_moe_gating_top_k_softmax_v2(x.npu(), k=3, renorm=1)
        value, index = x.topk(3, -1)
        near(y, value.softmax(-1))
        assert torch.equal(experts.cpu(), index.int())

    @pytest.mark.parametrize("dtype", FLOATS, ids=str)
    @pytest.mark.parametrize("norm", [0, 1], ids=["softmax", "sigmoid"])
    @pytest.mark.parametrize("mode", [0, 1], ids=["greatest", "two greatest"])
    @pytest.mark.parametrize("bias", [False, True])
    def test_within_groups(self, dtype: torch.dtype, norm: int, mode: int, bias: bool) -> None:
        x, added = distinct(5, 32, 3, dtype), (distinct(1, 32, 4, dtype)[0] / 7 if bias else None)
        got = torch_npu.npu_moe_gating_top_k(
            x.npu(),
            4,
            bias=None if added is None else added.npu(),
            k_group=2,
            group_count=4,
            group_select_mode=mode,
            norm_type=norm,
            routed_scaling_factor=2.5,
            out_flag=True,
        )
        for row in range(5):
            scores = x[row].float().softmax(-1) if norm == 0 else x[row].float().sigmoid()
            choice = scores + (0 if added is None else added.float())
            groups = choice.view(4, 8)
            rank = groups.amax(-1) if mode == 0 else groups.topk(2, -1).values.sum(-1)
            kept = rank.topk(2).indices
            allowed = torch.full((4, 8), -torch.inf)
            allowed[kept] = groups[kept]
            experts = allowed.flatten().topk(4).indices
            weights = scores[experts]
            if norm == 1:
                weights = weights / (weights.sum() + 1e-20)
            assert got[1][row].tolist() == experts.tolist()
            near(got[0][row], weights * 2.5)
            torch.testing.assert_close(got[2][row].cpu(), scores, rtol=1e-3, atol=1e-3)

    def test_renormalised(self) -> None:
        x = distinct(3, 16, 1)
        y, _, _ = torch_npu.npu_moe_gating_top_k(x.npu(), 3, renorm=1)
        value = x.softmax(-1).topk(3, -1).values
        near(y, value / value.sum(-1, keepdim=True))

    def test_more_than_the_groups_hold_is_refused(self) -> None:
        with pytest.raises(RuntimeError, match=r"161002(.|\n)*k of 9; from 1 to 8"):
            torch_npu.npu_moe_gating_top_k(torch.zeros(2, 32).npu(), 9, k_group=1, group_count=4)


class TestRouting:
    @pytest.mark.parametrize("dtype", FLOATS, ids=str)
    @pytest.mark.parametrize("index_type", [0, 1], ids=["gather", "scatter"])
    @pytest.mark.parametrize("count_type", [0, 1, 2], ids=["totals", "counts", "pairs"])
    def test_init_routing(self, dtype: torch.dtype, index_type: int, count_type: int) -> None:
        rows, k, experts = 6, 3, 8
        x, choice = fill((rows, 16), dtype, "any", 1), chosen(rows, k, experts, 2)
        out, index, counts, _ = torch_npu.npu_moe_init_routing_v2(
            x.npu(),
            choice.npu(),
            active_num=rows * k,
            expert_num=experts,
            expert_tokens_num_type=count_type,
            expert_tokens_num_flag=True,
            active_expert_range=[0, experts],
            row_idx_type=index_type,
        )
        order = sorted(range(rows * k), key=lambda n: (choice.flatten()[n].item(), n))
        assert torch.equal(out.cpu(), x[[n // k for n in order]])
        if index_type == 1:
            assert index.tolist() == order
        else:
            assert index.tolist() == [order.index(n) for n in range(rows * k)]
        each = [(choice == e).sum().item() for e in range(experts)]
        if count_type == 0:
            assert counts.tolist() == torch.tensor(each).cumsum(0).tolist()
        elif count_type == 1:
            assert counts.tolist() == each
        else:
            pairs = [[e, n] for e, n in enumerate(each) if n]
            assert counts.tolist() == pairs + [[0, 0]] * (experts - len(pairs))

    def test_only_the_experts_of_this_rank(self) -> None:
        x, choice = fill((5, 8), torch.float16, "any", 1), chosen(5, 2, 8, 3)
        out, index, counts, _ = torch_npu.npu_moe_init_routing_v2(
            x.npu(),
            choice.npu(),
            active_num=10,
            expert_num=8,
            expert_tokens_num_type=1,
            expert_tokens_num_flag=True,
            active_expert_range=[2, 5],
            row_idx_type=0,
        )
        flat = choice.flatten().tolist()
        order = sorted((n for n in range(10) if 2 <= flat[n] < 5), key=lambda n: (flat[n], n))
        assert torch.equal(out[: len(order)].cpu(), x[[n // 2 for n in order]])
        assert index.tolist() == [order.index(n) if n in order else -1 for n in range(10)]
        assert counts.tolist() == [flat.count(e) for e in (2, 3, 4)]

    @pytest.mark.parametrize("smooth", [False, True])
    def test_quantised_on_the_way(self, smooth: bool) -> None:
        x, choice = fill((5, 32), torch.bfloat16, "any", 1), chosen(5, 2, 4, 3)
        table = fill((4, 32), torch.float32, "positive", 4) if smooth else None
        out, index, _, scale = torch_npu.npu_moe_init_routing_v2(
            x.npu(),
            choice.npu(),
            scale=None if table is None else table.npu(),
            active_num=10,
            expert_num=4,
            expert_tokens_num_type=1,
            expert_tokens_num_flag=True,
            quant_mode=1,
            active_expert_range=[0, 4],
            row_idx_type=1,
        )
        order = index.cpu().long()
        rows = x.float()[order // 2]
        if table is not None:
            rows = rows * table[choice.flatten()[order].long()]
        expected, each = by_rows(rows)
        near_codes(out, expected)
        near(scale, each)

    def test_dropped_and_padded(self) -> None:
        x, choice = (
            fill((6, 8), torch.float32, "any", 1),
            torch.tensor([[0], [0], [0], [1], [0], [3]]),
        )
        out, index, counts, _ = torch_npu.npu_moe_init_routing_v2(
            x.npu(),
            choice.int().npu(),
            active_num=6,
            expert_capacity=2,
            expert_num=4,
            drop_pad_mode=1,
            expert_tokens_num_type=1,
            expert_tokens_num_flag=True,
            active_expert_range=[0, 4],
            row_idx_type=0,
        )
        assert out.shape == (4, 2, 8)
        assert torch.equal(out[0].cpu(), x[[0, 1]])
        assert torch.equal(out[1, 0].cpu(), x[3])
        assert torch.equal(out[3, 0].cpu(), x[5])
        assert out[2].count_nonzero().item() == 0
        assert index.tolist() == [0, 1, -1, 2, -1, 6]
        assert counts.tolist() == [4, 1, 0, 1]

    def test_the_first_form(self) -> None:
        rows, k = 4, 2
        x, choice = fill((rows, 8), torch.float16, "any", 1), chosen(rows, k, 6, 2)
        numbers = torch.arange(rows * k).view(k, rows).t().contiguous().int()
        out, index, experts = torch_npu.npu_moe_init_routing(
            x.npu(), numbers.npu(), choice.npu(), rows
        )
        assert experts.tolist() == sorted(choice.flatten().tolist())
        back = index.cpu().long().view(k, rows)
        for j in range(k):
            assert torch.equal(out.cpu()[back[j]], x)
            assert torch.equal(experts.cpu()[back[j]], choice[:, j])

    def test_expert_tokens(self) -> None:
        experts = torch.tensor([0, 0, 1, 3, 3, 3], dtype=torch.int32)
        got = torch_npu.npu_moe_compute_expert_tokens(experts.npu(), 5)
        assert got.tolist() == [2, 3, 3, 6, 6]

    def test_an_expert_range_beyond_the_experts_is_refused(self) -> None:
        with pytest.raises(RuntimeError, match="active_expert_range"):
            torch_npu.npu_moe_init_routing_v2(
                torch.zeros(2, 8).npu(),
                torch.zeros(2, 1, dtype=torch.int32).npu(),
                active_num=2,
                expert_num=4,
                active_expert_range=[0, 9],
            )


class TestBack:
    @given(
        rows=st.integers(1, 6),
        k=st.integers(1, 4),
        dtype=st.sampled_from(FLOATS),
        seed=st.integers(0, 99),
    )
    def test_permute_and_unpermute(self, rows: int, k: int, dtype: torch.dtype, seed: int) -> None:
        x, choice = fill((rows, 16), dtype, "any", seed), chosen(rows, k, 6, seed).long()
        weights = fill((rows, k), dtype, "open", seed + 1)
        permuted, index = torch_npu.npu_moe_token_permute(x.npu(), choice.npu())
        for n, place in enumerate(index.tolist()):
            assert torch.equal(permuted[place].cpu(), x[n // k])
        in_order = torch.empty(rows * k, dtype=torch.long)
        in_order[index.cpu().long()] = choice.flatten()
        assert in_order.tolist() == sorted(in_order.tolist())
        back = torch_npu.npu_moe_token_unpermute(permuted, index, weights.npu())
        near(back, x.float() * weights.float().sum(-1, keepdim=True))

    @pytest.mark.parametrize("mode", [0, 2], ids=["columns", "rows"])
    @pytest.mark.parametrize("dtype", FLOATS, ids=str)
    def test_finalize(self, mode: int, dtype: torch.dtype) -> None:
        rows, k, experts = 5, 2, 4
        expanded, choice = fill((rows * k, 16), dtype, "any", 1), chosen(rows, k, experts, 2)
        index = torch.randperm(rows * k, generator=torch.Generator().manual_seed(3)).int()
        skip, bias = fill((rows, 16), dtype, "any", 4), fill((experts, 16), dtype, "any", 5)
        scales = fill((rows, k), dtype, "open", 6)
        got = torch_npu.npu_moe_finalize_routing(
            expanded.npu(),
            skip.npu(),
            None,
            bias.npu(),
            scales.npu(),
            index.npu(),
            choice.npu(),
            mode,
        )
        expected = skip.float()
        for i in range(rows):
            for j in range(k):
                place = index[i * k + j if mode == 2 else j * rows + i].long()
                row = expanded[place].float() + bias[choice[i, j].long()].float()
                expected[i] = expected[i] + scales[i, j].float() * row
        near(got, expected)

    def test_a_negative_index_adds_nothing(self) -> None:
        rows = fill((4, 8), torch.float32, "any", 1)
        index = torch.tensor([0, -1, 3, -1], dtype=torch.int32)
        got = torch_npu.npu_moe_finalize_routing(
            rows.npu(), None, None, None, torch.ones(2, 2).npu(), index.npu(), None, 2
        )
        near(got, rows[[0, 3]])

    def test_re_routing_from_ranks_to_experts(self) -> None:
        tokens, counts = (
            fill((10, 8), torch.float16, "any", 1),
            torch.tensor([[2, 1, 3], [0, 3, 1]]),
        )
        scales = fill((10,), torch.float32, "open", 2)
        out, out_scales, index, experts = torch_npu.npu_moe_re_routing(
            tokens.npu(), counts.npu(), per_token_scales=scales.npu()
        )
        expected = [0, 1, 2, 6, 7, 8, 3, 4, 5, 9]
        assert torch.equal(out.cpu(), tokens[expected])
        assert torch.equal(out_scales.cpu(), scales[expected])
        assert index.tolist() == expected
        assert experts.tolist() == [2, 4, 4]


def group_rows(counts: list[int]) -> list[slice]:
    ends = torch.tensor(counts).cumsum(0).tolist()
    return [slice(end - count, end) for count, end in zip(counts, ends, strict=True)]


class TestGroupedProducts:
    @pytest.mark.parametrize("dtype", FLOATS, ids=str)
    @pytest.mark.parametrize("list_type", [0, 1, 2], ids=["totals", "counts", "pairs"])
    @pytest.mark.parametrize("transposed", [False, True])
    def test_plain(self, dtype: torch.dtype, list_type: int, transposed: bool) -> None:
        counts = [2, 0, 3]
        x, weight = fill((5, 16), dtype, "unit", 1), fill((3, 16, 8), dtype, "unit", 2)
        device = (
            weight.transpose(1, 2).contiguous().npu().transpose(1, 2)
            if transposed
            else weight.npu()
        )
        groups = torch.tensor([[0, 2], [2, 3], [1, 0]] if list_type == 2 else counts)
        if list_type == 0:
            groups = groups.cumsum(0)
        got = torch_npu.npu_grouped_matmul(
            [x.npu()],
            [device],
            group_list=groups.npu(),
            split_item=2,
            group_type=0,
            group_list_type=list_type,
        )[0]
        expected = torch.cat(
            [x[rows].float() @ weight[i].float() for i, rows in enumerate(group_rows(counts))]
        )
        near(got, expected)

    def test_lists(self) -> None:
        sizes = [(3, 16, 8), (2, 8, 4)]
        x = [fill((m, k), torch.float16, "unit", k) for m, k, _ in sizes]
        weight = [fill((k, n), torch.float16, "unit", n) for _, k, n in sizes]
        bias = [fill((n,), torch.float16, "any", 9) for _, _, n in sizes]
        got = torch_npu.npu_grouped_matmul(
            [t.npu() for t in x],
            [t.npu() for t in weight],
            bias=[t.npu() for t in bias],
            split_item=0,
            group_type=-1,
        )
        for i in range(2):
            near(got[i], x[i].float() @ weight[i].float() + bias[i].float())

    def test_a_list_of_numbers(self) -> None:
        x = fill((5, 16), torch.float16, "unit", 1)
        weight = [fill((16, 8), torch.float16, "unit", seed) for seed in (2, 3)]
        got = torch_npu.npu_grouped_matmul(
            [x.npu()], [t.npu() for t in weight], group_list=[2, 5], split_item=3
        )[0]
        near(got, torch.cat([x[:2].float() @ weight[0].float(), x[2:].float() @ weight[1].float()]))

    @pytest.mark.parametrize("out", HALVES, ids=str)
    @pytest.mark.parametrize("activation", [0, 1, 5], ids=["none", "relu", "silu"])
    def test_quantised(self, out: torch.dtype, activation: int) -> None:
        counts = [2, 1, 3]
        x, weight = codes((6, 32), 1), codes((3, 32, 8), 2)
        scale = fill((3, 8), torch.float32 if out == torch.float16 else torch.bfloat16, "open", 3)
        token = fill((6,), torch.float32, "open", 4) * 1e-3
        got = torch_npu.npu_grouped_matmul(
            [x.npu()],
            [weight.npu()],
            scale=[scale.npu()],
            per_token_scale=[token.npu()],
            group_list=torch.tensor(counts).cumsum(0).npu(),
            split_item=3,
            group_type=0,
            act_type=activation,
            output_dtype=out,
        )[0]
        act = {0: lambda t: t, 1: F.relu, 5: F.silu}[activation]
        for i, rows in enumerate(group_rows(counts)):
            product = (x[rows].int() @ weight[i].int()).float()
            near(got[rows], act(product * scale[i].float() * token[rows, None]))

    def test_int4_weights_of_full_activations(self) -> None:
        counts = [2, 4]
        x, weight = fill((6, 32), torch.bfloat16, "unit", 1), codes((2, 32, 16), 2, 7)
        scale, offset = (fill((2, 16), torch.bfloat16, "open", seed) for seed in (3, 4))
        got = torch_npu.npu_grouped_matmul(
            [x.npu()],
            [pack(weight).npu()],
            antiquant_scale=[scale.npu()],
            antiquant_offset=[offset.npu()],
            group_list=torch.tensor(counts).npu(),
            split_item=2,
            group_type=0,
            group_list_type=1,
        )[0]
        for i, rows in enumerate(group_rows(counts)):
            wide = (weight[i].float() + offset[i].float()) * scale[i].float()
            torch.testing.assert_close(
                got[rows].cpu().float(), x[rows].float() @ wide, rtol=2e-2, atol=0.1
            )

    @pytest.mark.parametrize("form", ["v1", "v2"])
    def test_with_swiglu_and_quantisation(self, form: str) -> None:
        counts = [2, 1, 3]
        x, weight = codes((6, 32), 1, 20), codes((3, 32, 16), 2, 20)
        scale, token = (
            fill((3, 16), torch.float32, "open", 3),
            fill((6,), torch.float32, "open", 4) * 1e-2,
        )
        totals = torch.tensor(counts).cumsum(0)
        if form == "v1":
            out, out_scale, _ = torch_npu.npu_grouped_matmul_swiglu_quant(
                x.npu(), weight.npu(), totals.npu(), scale.npu(), token.npu()
            )
        else:
            out, out_scale = torch_npu.npu_grouped_matmul_swiglu_quant_v2(
                x.npu(), [weight.npu()], [scale.npu()], token.npu(), totals.npu()
            )
        for i, rows in enumerate(group_rows(counts)):
            product = (x[rows].int() @ weight[i].int()).float() * scale[i] * token[rows, None]
            left, right = product.chunk(2, -1)
            expected, each = by_rows(F.silu(left) * right)
            near_codes(out[rows], expected)
            near(out_scale[rows], each)

    def test_with_the_weighted_sum(self) -> None:
        counts = [2, 2, 2]
        x, weight = codes((6, 32), 1, 20), codes((3, 32, 8), 2, 20)
        scale, token = (
            fill((3, 8), torch.float32, "open", 3),
            fill((6,), torch.float32, "open", 4) * 1e-2,
        )
        shared, logit = fill((1, 8), torch.bfloat16, "any", 5), fill((6,), torch.float32, "open", 6)
        rows = torch.tensor([0, 1, 2, 0, 1, 2])
        got = torch_npu.npu_grouped_matmul_finalize_routing(
            x.npu(),
            weight.npu(),
            torch.tensor(counts).npu(),
            scale=scale.npu(),
            pertoken_scale=token.npu(),
            shared_input=shared.npu(),
            logit=logit.npu(),
            row_index=rows.npu(),
            shared_input_weight=0.5,
            shared_input_offset=1,
            output_bs=3,
        )
        expected = torch.zeros(3, 8)
        expected[1] += 0.5 * shared[0].float()
        for i, part in enumerate(group_rows(counts)):
            product = (x[part].int() @ weight[i].int()).float() * scale[i] * token[part, None]
            expected.index_add_(0, rows[part], product * logit[part, None])
        near(got, expected)

    def test_a_group_list_of_another_length_is_refused(self) -> None:
        with pytest.raises(RuntimeError, match="one number for each of the 3 weights"):
            torch_npu.npu_grouped_matmul(
                [torch.zeros(4, 16, dtype=torch.float16).npu()],
                [torch.zeros(3, 16, 8, dtype=torch.float16).npu()],
                group_list=torch.tensor([2, 4]).npu(),
                split_item=2,
                group_type=0,
            )


@pytest.fixture(scope="module")
def group() -> Iterator[str]:
    """The name of a communicator of one rank."""
    store = dist.HashStore()
    dist.init_process_group("hccl", store=store, rank=0, world_size=1)
    backend = dist.group.WORLD._get_backend(torch.device("npu"))
    yield backend.get_hccl_comm_name(0)
    dist.destroy_process_group()


class TestDispatch:
    """Over one rank: to its own experts and back."""

    rows, k, experts = 5, 2, 8

    def inputs(self, dtype: torch.dtype = torch.float16) -> tuple[torch.Tensor, torch.Tensor]:
        x = fill((self.rows, 32), dtype, "any", 1)
        return x, chosen(self.rows, self.k, self.experts, 2)

    def order(self, choice: torch.Tensor) -> list[int]:
        flat = choice.flatten().tolist()
        return sorted(range(len(flat)), key=lambda n: (flat[n], n))

    @pytest.mark.parametrize("dtype", HALVES, ids=str)
    @pytest.mark.parametrize("form", ["v1", "v2"])
    def test_there_and_back(self, dtype: torch.dtype, form: str, group: str) -> None:
        x, choice = self.inputs(dtype)
        weights = fill((self.rows, self.k), torch.float32, "open", 3)
        suffix = "" if form == "v1" else "_v2"
        where = (group, 1, 0, self.experts)
        dispatch = getattr(torch_npu, f"npu_moe_distribute_dispatch{suffix}")
        combine = getattr(torch_npu, f"npu_moe_distribute_combine{suffix}")
        out, _, index, counts, received, *_ = dispatch(x.npu(), choice.npu(), *where)
        order = self.order(choice)
        assert torch.equal(out.cpu(), x[[n // self.k for n in order]])
        each = [(choice == e).sum().item() for e in range(self.experts)]
        assert counts.tolist() == each
        assert received.tolist() == torch.tensor(each).cumsum(0).tolist()
        if form == "v2":
            triples = index[: 3 * len(order)].view(-1, 3).tolist()
            assert triples == [[0, n // self.k, n % self.k] for n in order]
        back = combine(out * 2, choice.npu(), index, received, weights.npu(), *where)
        near(back, 2 * x.float() * weights.sum(-1, keepdim=True))

    def test_quantised_on_the_way(self, group: str) -> None:
        x, choice = self.inputs(torch.bfloat16)
        out, scales, *_ = torch_npu.npu_moe_distribute_dispatch_v2(
            x.npu(), choice.npu(), group, 1, 0, self.experts, quant_mode=2
        )
        expected, each = by_rows(x.float()[[n // self.k for n in self.order(choice)]])
        near_codes(out, expected)
        near(scales, each)

    def test_tokens_that_are_not_active_stay(self, group: str) -> None:
        x, choice = self.inputs()
        active = torch.tensor([True, True, True, False, False])
        out, _, _, counts, *_ = torch_npu.npu_moe_distribute_dispatch_v2(
            x.npu(), choice.npu(), group, 1, 0, self.experts, x_active_mask=active.npu()
        )
        order = self.order(choice[:3])
        assert torch.equal(out[: len(order)].cpu(), x[[n // self.k for n in order]])
        assert counts.sum().item() == len(order)

    def test_more_ranks_than_there_are_are_refused(self, group: str) -> None:
        x, choice = self.inputs()
        with pytest.raises(RuntimeError, match=r"561002(.|\n)*has 1 ranks"):
            torch_npu.npu_moe_distribute_dispatch_v2(x.npu(), choice.npu(), group, 2, 0, 8)
