"""The other forms of fused attention against a plain formula: parts of heads with rotary positions,
sinks, shifts, quantised and NZ caches, prefixes, output layouts, and the older and training forms.
"""

from __future__ import annotations

import pytest
import torch
import torch_npu

from simulator.tests.tensors import TOLERANCES, fill

HALVES = (torch.float16, torch.bfloat16)
BLOCK = 16


def near(got: torch.Tensor, expected: torch.Tensor, loose: float = 1.0) -> None:
    rtol, atol = TOLERANCES[got.dtype]
    torch.testing.assert_close(
        got.cpu(), expected.to(got.dtype), rtol=rtol * loose, atol=atol * loose
    )


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scale: float,
    hidden: torch.Tensor | None = None,
    shift: torch.Tensor | None = None,
    sink: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """query [rows, heads, D], key and value [length, key heads, D]; hidden [rows, length], shift
    [heads, rows, length], sink [heads]. Returns [rows, heads, Dv] and the scores [heads, rows,
    length].
    """
    groups = query.size(1) // key.size(1)
    keys, values = (x.float().repeat_interleave(groups, 1) for x in (key, value))
    scores = torch.einsum("rhd,lhd->hrl", query.float(), keys) * scale
    if shift is not None:
        scores = scores + shift.float()
    if hidden is not None:
        scores = scores.masked_fill(hidden, -torch.inf)
    whole = scores
    if sink is not None:
        column = sink.float().view(-1, 1, 1).expand(-1, scores.size(1), 1)
        whole = torch.cat([scores, column], -1)
    weights = whole.softmax(-1)[..., : key.size(0)]
    return torch.einsum("hrl,lhd->rhd", weights, values), scores


def causal(rows: int, length: int) -> torch.Tensor:
    return torch.ones(rows, length, dtype=torch.bool).triu(length - rows + 1)


@pytest.fixture(scope="module")
def compressed() -> torch.Tensor:
    return torch.triu(torch.ones(2048, 2048, dtype=torch.bool), 1).npu()


class Paged:
    """Two sequences of one row each over a cache of shuffled blocks: latent attention's decode."""

    heads, width, turned = 4, 64, 32
    lengths = (20, 33)
    table = torch.tensor([[4, 1, 0], [2, 5, 3]], dtype=torch.int32)

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.query = fill((2, self.heads, self.width), dtype, "unit", 1)
        self.query_rope = fill((2, self.heads, self.turned), dtype, "unit", 2)
        self.cache = fill((6, BLOCK, self.width), dtype, "unit", 3)
        self.rope_cache = fill((6, BLOCK, self.turned), dtype, "unit", 4)

    def tokens(self, cache: torch.Tensor, i: int) -> torch.Tensor:
        return cache[self.table[i].long()].flatten(0, 1)[: self.lengths[i]].unsqueeze(1)

    def expected(self, scale: float, sink: torch.Tensor | None = None) -> torch.Tensor:
        rows = []
        for i in range(2):
            key, turned = self.tokens(self.cache, i), self.tokens(self.rope_cache, i)
            query = torch.cat([self.query[i], self.query_rope[i]], -1)
            out, _ = attend(query[None], torch.cat([key, turned], -1), key, scale, sink=sink)
            rows.append(out[0])
        return torch.stack(rows)

    def numbers(self) -> dict[str, object]:
        return {
            "block_table": self.table.npu(),
            "block_size": BLOCK,
            "num_heads": self.heads,
            "num_key_value_heads": 1,
            "scale": 0.2,
            "actual_seq_lengths_kv": list(self.lengths),
        }


def fractals(cache: torch.Tensor) -> torch.Tensor:
    """[blocks, block, width] as [blocks, 1, width / 16, block, 16]."""
    return cache.unflatten(-1, (-1, 16)).permute(0, 2, 1, 3).unsqueeze(1).contiguous()


class TestLatent:
    @pytest.mark.parametrize("dtype", HALVES, ids=str)
    @pytest.mark.parametrize("nz", [False, True], ids=["blocks", "fractals"])
    @pytest.mark.parametrize("layout", ["BNSD", "BSND", "TND", "TND_NTD", "BSND_NBSD", "BNSD_NBSD"])
    def test_with_rotary_parts(self, dtype: torch.dtype, nz: bool, layout: str) -> None:
        p = Paged(dtype)
        cache, rope_cache = (fractals(x) if nz else x.contiguous() for x in (p.cache, p.rope_cache))
        first = layout.split("_")[0]
        shaped = {
            "BNSD": lambda x: x.unsqueeze(2),
            "BSND": lambda x: x.unsqueeze(1),
            "TND": lambda x: x,
        }[first]
        more = {"actual_seq_lengths": [1, 2]} if first == "TND" else {}
        got, _ = torch_npu.npu_fused_infer_attention_score(
            shaped(p.query).npu(),
            cache.npu(),
            cache.npu(),
            query_rope=shaped(p.query_rope).npu(),
            key_rope=rope_cache.npu(),
            input_layout=layout,
            **p.numbers(),
            **more,
        )
        expected = p.expected(0.2)
        if layout == "TND_NTD":
            expected = expected.transpose(0, 1)
        elif layout.endswith("NBSD"):
            expected = expected.transpose(0, 1).unsqueeze(2)
        near(got.reshape(expected.shape), expected)

    def test_a_sink_in_version_two(self) -> None:
        p = Paged(torch.bfloat16)
        sink = torch.tensor([0.0, 1.0, -3.0, 5.0]).bfloat16()
        got, _ = torch_npu.npu_fused_infer_attention_score_v2(
            p.query.npu(),
            p.cache.npu(),
            p.cache.npu(),
            query_rope=p.query_rope.npu(),
            key_rope=p.rope_cache.npu(),
            learnable_sink=sink.npu(),
            input_layout="TND",
            actual_seq_qlen=[1, 2],
            actual_seq_kvlen=list(p.lengths),
            block_table=p.table.npu(),
            block_size=BLOCK,
            num_query_heads=p.heads,
            num_key_value_heads=1,
            softmax_scale=0.2,
        )
        near(got, p.expected(0.2, sink))

    def test_written_where_it_is_told_with_the_workspace_that_was_asked_for(self) -> None:
        p = Paged(torch.float16)
        arguments = {
            "query_rope": p.query_rope.npu(),
            "key_rope": p.rope_cache.npu(),
            "input_layout": "TND",
            "actual_seq_lengths": [1, 2],
            **p.numbers(),
        }
        operands = p.query.npu(), p.cache.npu(), p.cache.npu()
        workspace = torch_npu._npu_fused_infer_attention_score_get_max_workspace(
            *operands, **arguments
        )
        out, lse = torch.zeros_like(operands[0]), torch.zeros(1).npu()
        torch_npu.npu_fused_infer_attention_score.out(
            *operands, **arguments, workspace=workspace, out=[out, lse]
        )
        near(out, p.expected(0.2))


class TestQuantised:
    """Integers in the cache, restored by scales that lie as the mode says."""

    heads, key_heads, width, length = 4, 2, 16, 24

    def setup_method(self) -> None:
        generator = torch.Generator().manual_seed(1)
        self.codes = [
            torch.randint(-100, 101, (2, self.length, 2, self.width), generator=generator).to(
                torch.int8
            )
            for _ in range(2)
        ]
        self.query = fill((2, 1, self.heads, self.width), torch.float16, "unit", 2)

    def run(
        self,
        scales: list[torch.Tensor],
        mode: int,
        offset: torch.Tensor | None = None,
        **more: object,
    ) -> torch.Tensor:
        keys, values = (
            (x.transpose(1, 2).contiguous() if more.get("block_table") is None else x)
            for x in self.codes
        )
        arguments = {
            "key_antiquant_scale": scales[0].npu(),
            "value_antiquant_scale": scales[1].npu(),
            "key_antiquant_mode": mode,
            "value_antiquant_mode": mode,
            **more,
        }
        if offset is not None:
            arguments |= {
                "key_antiquant_offset": offset.npu(),
                "value_antiquant_offset": offset.npu(),
            }
        keys, values = more.pop("caches", (keys, values))  # type: ignore[misc]
        arguments.pop("caches", None)
        got, _ = torch_npu.npu_fused_infer_attention_score(
            self.query.transpose(1, 2).contiguous().npu(),
            keys.npu(),
            values.npu(),
            input_layout="BNSD",
            num_heads=self.heads,
            num_key_value_heads=self.key_heads,
            scale=0.2,
            **arguments,
        )
        return got

    def check(
        self, got: torch.Tensor, factors: list[torch.Tensor], offset: torch.Tensor | float = 0.0
    ) -> None:
        for i in range(2):
            key, value = (
                (x[i].float() + offset) * f.float().expand(2, self.length, 2, self.width)[i]
                for x, f in zip(self.codes, factors, strict=True)
            )
            near(got[i].transpose(0, 1), attend(self.query[i], key, value, 0.2)[0])

    @pytest.mark.parametrize("offset", [False, True])
    def test_by_channel(self, offset: bool) -> None:
        scales = [fill((2, self.width), torch.float16, "open", seed) * 0.05 for seed in (3, 4)]
        shift = fill((2, self.width), torch.float16, "any", 5) if offset else None
        got = self.run(
            [s.unsqueeze(1) for s in scales], 0, None if shift is None else shift.unsqueeze(1)
        )
        self.check(got, scales, 0.0 if shift is None else shift.float())

    def test_by_tensor_of_a_head(self) -> None:
        scales = [fill((2,), torch.float16, "open", seed) * 0.05 for seed in (3, 4)]
        self.check(self.run(scales, 2), [s.view(2, 1) for s in scales])

    def test_by_token(self) -> None:
        scales = [fill((2, self.length), torch.float32, "open", seed) * 0.05 for seed in (3, 4)]
        self.check(self.run(scales, 1), [s.view(2, -1, 1, 1) for s in scales])

    def test_by_token_and_head(self) -> None:
        scales = [fill((2, 2, self.length), torch.float32, "open", seed) * 0.05 for seed in (3, 4)]
        self.check(self.run(scales, 3), [s.transpose(1, 2).unsqueeze(-1) for s in scales])

    @pytest.mark.parametrize("mode", [4, 5])
    def test_paged_with_the_scales_in_pages(self, mode: int) -> None:
        table = torch.tensor([[3, 0], [1, 2]], dtype=torch.int32)
        shape = (4, BLOCK) if mode == 4 else (4, 2, BLOCK)
        pages = [torch.zeros(4, 2, BLOCK, self.width, dtype=torch.int8) for _ in range(2)]
        scale_pages = [fill(shape, torch.float32, "open", seed) * 0.05 for seed in (3, 4)]
        factors = []
        for cache, scales, codes in zip(pages, scale_pages, self.codes, strict=True):
            factor = torch.empty(2, self.length, 2, 1)
            for i in range(2):
                for token in range(self.length):
                    block, slot = table[i, token // BLOCK].item(), token % BLOCK
                    cache[block, :, slot] = codes[i, token]
                    factor[i, token, :, 0] = scales[block, ..., slot]
            factors.append(factor)
        got = self.run(
            scale_pages,
            mode,
            caches=pages,
            block_table=table.npu(),
            block_size=BLOCK,
            actual_seq_lengths_kv=[self.length] * 2,
        )
        self.check(got, factors)

    def test_whole_numbers_without_scales_are_refused(self) -> None:
        keys, values = (x.transpose(1, 2).contiguous().npu() for x in self.codes)
        with pytest.raises(RuntimeError, match="key_antiquant_scale"):
            torch_npu.npu_fused_infer_attention_score(
                self.query.transpose(1, 2).contiguous().npu(),
                keys,
                values,
                input_layout="BNSD",
                num_heads=self.heads,
                num_key_value_heads=self.key_heads,
            )

    @pytest.mark.parametrize("layout", ["TND", "BSH"])
    def test_several_rows_over_pages_of_whole_numbers_are_refused(self, layout: str) -> None:
        pages = torch.zeros(2, BLOCK, 64, dtype=torch.int8, device="npu")
        query = torch.zeros((4, 4, 32) if layout == "TND" else (2, 2, 128), device="npu")
        scale = torch.ones(1, 64, dtype=torch.float16, device="npu")
        with pytest.raises(RuntimeError, match=r"layout TND|one row to a query"):
            torch_npu.npu_fused_infer_attention_score(
                query.half(),
                pages,
                pages,
                key_antiquant_scale=scale,
                value_antiquant_scale=scale,
                block_table=torch.zeros(2, 1, dtype=torch.int32, device="npu"),
                block_size=BLOCK,
                actual_seq_lengths=[2, 4] if layout == "TND" else None,
                actual_seq_lengths_kv=[8, 8],
                input_layout=layout,
                num_heads=4,
                num_key_value_heads=2,
            )

    def test_the_older_scales_of_both(self) -> None:
        both = fill((2, 2, 1, self.width), torch.float16, "open", 3) * 0.05
        keys, values = (x.transpose(1, 2).contiguous().npu() for x in self.codes)
        got, _ = torch_npu.npu_fused_infer_attention_score(
            self.query.transpose(1, 2).contiguous().npu(),
            keys,
            values,
            antiquant_scale=both.npu(),
            input_layout="BNSD",
            num_heads=self.heads,
            num_key_value_heads=self.key_heads,
            scale=0.2,
        )
        self.check(got, [both[0, :, 0], both[1, :, 0]])

    def test_to_int8(self) -> None:
        query, key, value = (fill((1, 6, 4, 16), torch.float16, "unit", s) for s in (1, 2, 3))
        got, _ = torch_npu.npu_fused_infer_attention_score(
            *(x.npu() for x in (query, key, value)),
            quant_scale2=torch.tensor([100.0]).npu(),
            quant_offset2=torch.tensor([3.0]).npu(),
            input_layout="BSND",
            num_heads=4,
            scale=0.2,
        )
        assert got.dtype == torch.int8
        expected = (attend(query[0], key[0], value[0], 0.2)[0] * 100 + 3).round().clamp(-128, 127)
        assert (got[0].cpu().int() - expected.int()).abs().max().item() <= 1


class TestShapes:
    def operands(
        self, dtype: torch.dtype = torch.float16, key_heads: int = 2
    ) -> tuple[torch.Tensor, ...]:
        return (
            fill((2, 5, 4, 16), dtype, "unit", 1),
            fill((2, 9, key_heads, 16), dtype, "unit", 2),
            fill((2, 9, key_heads, 16), dtype, "unit", 3),
        )

    @pytest.mark.parametrize("dtype", HALVES, ids=str)
    def test_a_position_shift(self, dtype: torch.dtype) -> None:
        q, k, v = self.operands(dtype)
        shift = fill((1, 4, 5, 9), dtype, "any", 4)
        got, _ = torch_npu.npu_fused_infer_attention_score(
            *(x.transpose(1, 2).contiguous().npu() for x in (q, k, v)),
            pse_shift=shift.npu(),
            input_layout="BNSD",
            num_heads=4,
            num_key_value_heads=2,
            scale=0.2,
        )
        for i in range(2):
            near(got[i].transpose(0, 1), attend(q[i], k[i], v[i], 0.2, shift=shift[0])[0])

    def test_a_shared_prefix(self) -> None:
        q, k, v = self.operands()
        prefix = [fill((1, 2, 6, 16), torch.float16, "unit", seed) for seed in (4, 5)]
        got, _ = torch_npu.npu_fused_infer_attention_score(
            *(x.transpose(1, 2).contiguous().npu() for x in (q, k, v)),
            key_shared_prefix=prefix[0].npu(),
            value_shared_prefix=prefix[1].npu(),
            actual_shared_prefix_len=[4],
            input_layout="BNSD",
            num_heads=4,
            num_key_value_heads=2,
            scale=0.2,
        )
        before = [x[0, :, :4].transpose(0, 1) for x in prefix]
        for i in range(2):
            key, value = torch.cat([before[0], k[i]]), torch.cat([before[1], v[i]])
            near(got[i].transpose(0, 1), attend(q[i], key, value, 0.2)[0])

    @pytest.mark.parametrize(
        ("layout", "back"),
        [
            ("BNSD_BSND", lambda x: x),
            ("BSND_BNSD", lambda x: x.transpose(1, 2)),
            ("BSH_BNSD", lambda x: x.transpose(1, 2)),
        ],
    )
    def test_another_layout_of_the_output(self, layout: str, back: object) -> None:
        q, k, v = self.operands()
        laid = {
            "BNSD": lambda x: x.transpose(1, 2).contiguous(),
            "BSND": lambda x: x,
            "BSH": lambda x: x.flatten(2),
        }[layout.split("_")[0]]
        got, _ = torch_npu.npu_fused_infer_attention_score(
            *(laid(x).npu() for x in (q, k, v)),
            input_layout=layout,
            num_heads=4,
            num_key_value_heads=2,
            scale=0.2,
        )
        expected = torch.stack([attend(q[i], k[i], v[i], 0.2)[0] for i in range(2)])
        near(got, back(expected))  # type: ignore[operator]

    def test_a_row_that_sees_nothing_is_zero_and_its_lse_infinite(self) -> None:
        q, k, v = self.operands()
        hidden = torch.zeros(5, 9, dtype=torch.bool)
        hidden[2] = True
        got, lse = torch_npu.npu_fused_infer_attention_score(
            *(x.npu() for x in (q, k, v)),
            atten_mask=hidden.npu(),
            input_layout="BSND",
            num_heads=4,
            num_key_value_heads=2,
            scale=0.2,
            softmax_lse_flag=True,
        )
        assert got[:, 2].count_nonzero().item() == 0
        assert torch.isinf(lse[:, :, 2]).all()
        out, scores = attend(q[0], k[0], v[0], 0.2)
        near(got[0, :2], out[:2])
        near(lse[0, :, :2].squeeze(-1), scores.logsumexp(-1)[:, :2], 100)

    def test_a_mask_for_each_sequence(self) -> None:
        q, k, v = self.operands()
        hidden = torch.rand(2, 5, 9, generator=torch.Generator().manual_seed(1)) < 0.4
        hidden[..., 0] = False
        got, _ = torch_npu.npu_fused_infer_attention_score(
            *(x.npu() for x in (q, k, v)),
            atten_mask=hidden.npu(),
            input_layout="BSND",
            num_heads=4,
            num_key_value_heads=2,
            scale=0.2,
        )
        for i in range(2):
            near(got[i], attend(q[i], k[i], v[i], 0.2, hidden[i])[0])


class TestOlderForms:
    @pytest.mark.parametrize("dtype", HALVES, ids=str)
    @pytest.mark.parametrize("layout", ["BSH", "BNSD", "BSND"])
    def test_prompt(self, dtype: torch.dtype, layout: str, compressed: torch.Tensor) -> None:
        q, k, v = (fill((2, 5, 4, 16), dtype, "unit", seed) for seed in (1, 2, 3))
        laid = {
            "BNSD": lambda x: x.transpose(1, 2).contiguous(),
            "BSND": lambda x: x,
            "BSH": lambda x: x.flatten(2),
        }[layout]
        got = torch_npu.npu_prompt_flash_attention(
            *(laid(x).npu() for x in (q, k, v)),
            atten_mask=compressed,
            num_heads=4,
            scale_value=0.2,
            input_layout=layout,
            sparse_mode=2,
        )
        near(
            got,
            laid(torch.stack([attend(q[i], k[i], v[i], 0.2, causal(5, 5))[0] for i in range(2)])),
        )

    @pytest.mark.parametrize("masked", [False, True])
    def test_incremental(self, masked: bool) -> None:
        q, k, v = (
            fill((2, 1, 64), torch.float16, "unit", 1),
            *(fill((2, 7, 32), torch.float16, "unit", s) for s in (2, 3)),
        )
        hidden = torch.zeros(2, 7, dtype=torch.bool)
        hidden[0, 2:4] = masked
        got = torch_npu.npu_incre_flash_attention(
            q.npu(),
            k.npu(),
            v.npu(),
            atten_mask=hidden.npu() if masked else None,
            actual_seq_lengths=[7, 5],
            num_heads=4,
            num_key_value_heads=2,
            scale_value=0.2,
        )
        for i, length in enumerate((7, 5)):
            split = [x[i].view(x.size(1), -1, 16) for x in (q, k, v)]
            out, _ = attend(
                split[0], split[1][:length], split[2][:length], 0.2, hidden[i : i + 1, :length]
            )
            near(got[i], out.flatten(1))


class TestTraining:
    @pytest.mark.parametrize("dtype", [torch.float32, *HALVES], ids=str)
    @pytest.mark.parametrize("layout", ["BSH", "SBH", "BSND", "BNSD"])
    def test_layouts(self, dtype: torch.dtype, layout: str) -> None:
        q, k, v = (
            fill((2, 5, 4, 16), dtype, "unit", 1),
            *(fill((2, 9, 2, 16), dtype, "unit", s) for s in (2, 3)),
        )
        laid = {
            "BNSD": lambda x: x.transpose(1, 2).contiguous(),
            "BSND": lambda x: x,
            "BSH": lambda x: x.flatten(2),
            "SBH": lambda x: x.flatten(2).transpose(0, 1).contiguous(),
        }[layout]
        hidden = causal(5, 9)
        got, greatest, total, *_ = torch_npu.npu_fusion_attention(
            *(laid(x).npu() for x in (q, k, v)),
            4,
            layout,
            scale=0.2,
            atten_mask=hidden.npu(),
            sparse_mode=1,
        )
        each = [attend(q[i], k[i], v[i], 0.2, hidden) for i in range(2)]
        near(got, laid(torch.stack([out for out, _ in each])))
        for i, (_, scores) in enumerate(each):
            most = scores.amax(-1, keepdim=True)
            near(greatest[i], most.expand(-1, -1, 8), 100)
            near(total[i], torch.exp(scores - most).sum(-1, keepdim=True).expand(-1, -1, 8), 100)

    @pytest.mark.parametrize("mode", [2, 3])
    def test_packed(self, mode: int, compressed: torch.Tensor) -> None:
        q, k, v = (
            fill((6, 4, 16), torch.float16, "unit", 1),
            *(fill((9, 2, 16), torch.float16, "unit", s) for s in (2, 3)),
        )
        got, *_ = torch_npu.npu_fusion_attention(
            *(x.npu() for x in (q, k, v)),
            4,
            "TND",
            scale=0.2,
            atten_mask=compressed,
            sparse_mode=mode,
            actual_seq_qlen=[2, 6],
            actual_seq_kvlen=[5, 9],
        )
        for rows, keys in ((slice(0, 2), slice(0, 5)), (slice(2, 6), slice(5, 9))):
            count, length = rows.stop - rows.start, keys.stop - keys.start
            hidden = (
                causal(count, length)
                if mode == 3
                else torch.ones(count, length, dtype=torch.bool).triu(1)
            )
            near(got[rows], attend(q[rows], k[keys], v[keys], 0.2, hidden)[0])

    def test_a_sink(self) -> None:
        q, k, v = (fill((1, 5, 4, 16), torch.bfloat16, "unit", seed) for seed in (1, 2, 3))
        sink = torch.tensor([0.0, 1.0, -2.0, 4.0])
        got, *_ = torch_npu.npu_fusion_attention(
            *(x.transpose(1, 2).contiguous().npu() for x in (q, k, v)),
            4,
            "BNSD",
            scale=0.2,
            sink=sink.npu(),
        )
        near(got[0].transpose(0, 1), attend(q[0], k[0], v[0], 0.2, sink=sink)[0])

    def test_dropout_is_refused(self) -> None:
        x = torch.zeros(1, 4, 16, 16, dtype=torch.float16).npu()
        with pytest.raises(RuntimeError, match=r"dropout \(keep_prob 0.5"):
            torch_npu.npu_fusion_attention(x, x, x, 4, "BNSD", keep_prob=0.5)
