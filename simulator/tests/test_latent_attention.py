"""Latent attention (MLA) on the device: its caches, its prologue, sparse attention and the gated
delta rule, against plain formulas.
"""

from __future__ import annotations

import pytest
import torch
import torch_npu

from simulator.tests.tensors import TOLERANCES, fill
from simulator.tests.test_quantisation import near_codes

HALVES = (torch.float16, torch.bfloat16)


def near(got: torch.Tensor, expected: torch.Tensor, loose: float = 1.0) -> None:
    rtol, atol = TOLERANCES[got.dtype]
    torch.testing.assert_close(
        got.cpu(), expected.to(got.dtype), rtol=rtol * loose, atol=atol * loose
    )


def rms(x: torch.Tensor, gamma: torch.Tensor, epsilon: float = 1e-5) -> torch.Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + epsilon) * gamma.float()


def rope(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Neighbours are a pair; the result has the first of all pairs, then the second."""
    even, odd = x[..., ::2], x[..., 1::2]
    half = x.size(-1) // 2
    return torch.cat(
        [
            even * cos[..., :half].float() - odd * sin[..., :half].float(),
            odd * cos[..., half:].float() + even * sin[..., half:].float(),
        ],
        -1,
    )


class TestRotary:
    @pytest.mark.parametrize("dtype", HALVES, ids=str)
    @pytest.mark.parametrize("shared", [False, True])
    def test_interleave_rope(self, dtype: torch.dtype, shared: bool) -> None:
        x = fill((2, 3, 4, 64), dtype, "any", 1)
        cos, sin = (fill((2, 1, 1 if shared else 4, 64), dtype, "unit", seed) for seed in (2, 3))
        got = torch_npu.npu_interleave_rope(x.npu(), cos.npu(), sin.npu())
        near(got, rope(x.float(), cos, sin))

    @pytest.mark.parametrize("dtype", [torch.float32, *HALVES], ids=str)
    @pytest.mark.parametrize("width", [64, 128])
    def test_apply_rotary_in_place(self, dtype: torch.dtype, width: int) -> None:
        query, key = (fill((2, 3, heads, width), dtype, "any", heads) for heads in (4, 2))
        cos, sin = (fill((2, 3, 1, width), dtype, "unit", seed) for seed in (5, 6))
        devices = query.npu(), key.npu()
        torch_npu.npu_apply_rotary_pos_emb(*devices, cos.npu(), sin.npu())
        for x, got in zip((query, key), devices, strict=True):
            left, right = x.float().chunk(2, -1)
            near(got, x.float() * cos.float() + torch.cat([-right, left], -1) * sin.float())

    def test_a_head_of_another_width_is_refused(self) -> None:
        x = torch.zeros(1, 2, 1, 32, dtype=torch.float16).npu()
        with pytest.raises(
            RuntimeError, match=r"161002(.|\n)*a head of 32 numbers; this chip takes 64 and 128"
        ):
            torch_npu.npu_apply_rotary_pos_emb(x, x.clone(), x.clone(), x.clone())


class TestCache:
    def inputs(self, dtype: torch.dtype) -> list[torch.Tensor]:
        kv, gamma = fill((3, 1, 2, 96), dtype, "any", 1), fill((64,), dtype, "positive", 2)
        return [kv, gamma, *(fill((3, 1, 2, 32), dtype, "unit", seed) for seed in (3, 4))]

    @pytest.mark.parametrize("dtype", HALVES, ids=str)
    @pytest.mark.parametrize("mode", ["Norm", "PA_BNSD", "PA_NZ", "PA_BLK_BNSD"])
    def test_normalised_rotated_and_written(self, dtype: torch.dtype, mode: str) -> None:
        kv, gamma, cos, sin = self.inputs(dtype)
        latent = rms(kv[..., :64].float(), gamma).squeeze(1)  # [3, 2, 64]
        turned = rope(kv[..., 64:].float(), cos, sin).squeeze(1)
        shape = (3, 1, 8) if mode == "Norm" else (4, 16, 1)
        caches = [torch.zeros(*shape, width, dtype=dtype, device="npu") for width in (32, 64)]
        slots = {
            "Norm": torch.tensor([[0, 7], [3, -1], [5, 5]]),
            "PA_BLK_BNSD": torch.tensor([0, 32, 48]),
        }.get(mode, torch.tensor([0, 63, 17, -1, 32, 5]))
        got = torch_npu.npu_kv_rmsnorm_rope_cache(
            kv.npu(),
            gamma.npu(),
            cos.npu(),
            sin.npu(),
            slots.npu(),
            *caches,
            epsilon=1e-5,
            cache_mode=mode,
            is_output_kv=True,
        )
        near(got[2].squeeze(1), turned)
        near(got[3].squeeze(1), latent)
        for cache, rows in zip(got[:2], (turned, latent), strict=True):
            expected = torch.zeros(cache.shape, dtype=torch.float32)
            for i in range(3):
                for j in range(2):
                    if mode == "Norm":
                        if slots[i, j] >= 0:
                            expected[i, 0, slots[i, j]] = rows[i, j]
                        continue
                    slot = (slots[i] + j if mode == "PA_BLK_BNSD" else slots[2 * i + j]).item()
                    if slot < 0:
                        continue
                    if mode == "PA_NZ":
                        fractals = expected[slot // 16].view(-1, 16, 16)
                        fractals[:, slot % 16] = rows[i, j].view(-1, 16)
                    else:
                        expected[slot // 16, slot % 16, 0] = rows[i, j]
            near(cache, expected)

    def test_quantised(self) -> None:
        kv, gamma, cos, sin = self.inputs(torch.bfloat16)
        rope_cache = torch.zeros(4, 32, 1, 32, dtype=torch.bfloat16).npu()
        latent_cache = torch.zeros(4, 32, 1, 64, dtype=torch.int8).npu()
        scale = torch.full((64,), 20.0)
        torch_npu.npu_kv_rmsnorm_rope_cache(
            kv.npu(),
            gamma.npu(),
            cos.npu(),
            sin.npu(),
            torch.arange(6).npu(),
            rope_cache,
            latent_cache,
            c_kv_scale=scale.npu(),
            cache_mode="PA_BNSD",
        )
        latent = rms(kv[..., :64].float(), gamma).view(6, 64)
        near_codes(latent_cache.view(-1, 64)[:6], (latent * 20).round().clamp(-128, 127))

    def test_widths_that_do_not_add_up_are_refused(self) -> None:
        kv, gamma, cos, sin = self.inputs(torch.float16)
        caches = [torch.zeros(4, 16, 1, width, dtype=torch.float16).npu() for width in (32, 48)]
        with pytest.raises(RuntimeError, match=r"161002(.|\n)*must add to kv's, 96"):
            torch_npu.npu_kv_rmsnorm_rope_cache(
                kv.npu(),
                gamma[:48].npu(),
                cos.npu(),
                sin.npu(),
                torch.arange(6).npu(),
                *caches,
                cache_mode="PA",
            )


class Prologue:
    """Weights of a small latent attention, and its plain prologue."""

    tokens, hidden, query_rank, heads, width, rope, latent = 5, 128, 64, 2, 32, 16, 64

    def __init__(self) -> None:
        def weight(*shape: int) -> torch.Tensor:
            seeds.append(len(seeds))
            return fill(shape, torch.bfloat16, "unit", len(seeds)) * 0.2

        seeds: list[int] = []
        self.x = weight(self.tokens, self.hidden) * 5
        self.down_query = weight(self.hidden, self.query_rank)
        self.up_query = weight(self.query_rank, self.heads * (self.width + self.rope))
        self.up_key = weight(self.heads, self.width, self.latent)
        self.down_key = weight(self.hidden, self.latent + self.rope)
        self.query_gamma = weight(self.query_rank) + 1
        self.key_gamma = weight(self.latent) + 1
        self.sin, self.cos = (weight(self.tokens, self.rope) * 5 for _ in range(2))

    def arguments(self) -> list[torch.Tensor]:
        return [
            t.npu()
            for t in (
                self.x,
                self.down_query,
                self.up_query,
                self.up_key,
                self.down_key,
                self.query_gamma,
                self.key_gamma,
                self.sin,
                self.cos,
            )
        ]

    def expected(self) -> tuple[torch.Tensor, ...]:
        """query, its rope part, latent rows, their rope part, and the compressed query."""
        x = self.x.float()
        compressed = rms(x @ self.down_query.float(), self.query_gamma)
        heads = (compressed @ self.up_query.float()).view(self.tokens, self.heads, -1)
        query = torch.einsum("thd,hdc->thc", heads[..., : self.width], self.up_key.float())
        turned = rope(heads[..., self.width :], self.cos[:, None], self.sin[:, None])
        key = x @ self.down_key.float()
        latent = rms(key[:, : self.latent], self.key_gamma)
        return query, turned, latent, rope(key[:, self.latent :], self.cos, self.sin), compressed

    def caches(self) -> list[torch.Tensor]:
        return [
            torch.zeros(3, 16, 1, width, dtype=torch.bfloat16, device="npu")
            for width in (self.latent, self.rope)
        ]


class TestPrologue:
    slots = torch.tensor([0, 33, 7, 47, 16])

    @pytest.mark.parametrize("form", ["v2", "v3"])
    def test_against_its_parts(self, form: str) -> None:
        p = Prologue()
        query, turned, latent, key_rope, compressed = p.expected()
        caches = p.caches()
        if form == "v2":
            got = torch_npu.npu_mla_prolog_v2(
                *p.arguments(), cache_index=self.slots.npu(), kv_cache=caches[0], kr_cache=caches[1]
            )
        else:
            got = torch_npu.npu_mla_prolog_v3(
                *p.arguments(), *caches, cache_index=self.slots.npu(), query_norm_flag=True
            )
            near(got[3], compressed, 2)
        near(got[0], query, 2)
        near(got[1], turned, 2)
        near(caches[0].view(-1, p.latent)[self.slots.npu()], latent, 2)
        near(caches[1].view(-1, p.rope)[self.slots.npu()], key_rope, 2)

    def test_the_factors_of_v3(self) -> None:
        p = Prologue()
        query, _, latent, _, _ = p.expected()
        caches = p.caches()
        got = torch_npu.npu_mla_prolog_v3(
            *p.arguments(), *caches, cache_index=self.slots.npu(), qc_qr_scale=2.0, kc_scale=0.5
        )
        near(got[0], query * 2, 2)
        near(caches[0].view(-1, p.latent)[self.slots.npu()], latent * 0.5, 2)


def index_scores(q: torch.Tensor, k: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """q [heads, D], k [length, D], w [heads]: the sum over heads of w * relu(q . k)."""
    return (torch.relu(q.float() @ k.float().t()) * w.float()[:, None]).sum(0)


class TestIndexer:
    @pytest.mark.parametrize("dtype", HALVES, ids=str)
    @pytest.mark.parametrize("mode", [0, 3])
    def test_batches(self, dtype: torch.dtype, mode: int) -> None:
        q, k = fill((2, 3, 4, 32), dtype, "unit", 1), fill((2, 20, 1, 32), dtype, "unit", 2)
        w = fill((2, 3, 4), dtype, "open", 3)
        got, value = torch_npu.npu_lightning_indexer(
            q.npu(), k.npu(), w.npu(), sparse_count=8, sparse_mode=mode, return_value=True
        )
        for b in range(2):
            for row in range(3):
                seen = 20 if mode == 0 else 20 - 3 + row + 1
                scores = index_scores(q[b, row], k[b, :seen, 0], w[b, row])
                near(value[b, row, 0], scores.topk(8).values)
                near(scores[got[b, row, 0].cpu().long()].to(dtype), scores.topk(8).values)

    def test_packed_and_paged(self) -> None:
        q, k = (
            fill((4, 2, 16), torch.float16, "unit", 1),
            fill((6, 16, 1, 16), torch.float16, "unit", 2),
        )
        w, table = fill((4, 2), torch.float16, "open", 3), torch.tensor([[5, 1], [0, 3]])
        got, _ = torch_npu.npu_lightning_indexer(
            q.npu(),
            k.npu(),
            w.npu(),
            actual_seq_lengths_query=torch.tensor([1, 4], dtype=torch.int32).npu(),
            actual_seq_lengths_key=torch.tensor([2, 30], dtype=torch.int32).npu(),
            block_table=table.int().npu(),
            layout_query="TND",
            layout_key="PA_BSND",
            sparse_count=4,
        )
        assert sorted(got[0, 0, :2].tolist()) == [0, 1]
        assert got[0, 0, 2:].tolist() == [-1, -1], "a row that sees fewer keys ends with -1"
        keys = k[table[1]].flatten(0, 1)[:30, 0]
        for row in range(3):
            scores = index_scores(q[1 + row], keys[: 28 + row], w[1 + row])
            near(scores[got[1 + row, 0].cpu().long()].half(), scores.topk(4).values)

    def test_quantised(self) -> None:
        q, k = (
            fill(s, torch.int8, "any", i) for i, s in enumerate([(1, 2, 4, 32), (1, 20, 1, 32)])
        )
        w, q_scale = (fill((1, 2, 4), torch.float16, "open", seed) for seed in (3, 4))
        k_scale = fill((1, 20, 1), torch.float16, "open", 5)
        got = torch_npu.npu_quant_lightning_indexer(
            q.npu(),
            k.npu(),
            w.npu(),
            q_scale.npu(),
            k_scale.npu(),
            0,
            0,
            sparse_count=5,
            sparse_mode=0,
        )
        for row in range(2):
            scores = index_scores(
                q[0, row].float() * q_scale[0, row, :, None].float(),
                k[0, :, 0].float() * k_scale[0].float(),
                w[0, row],
            )
            near(scores[got[0, row, 0].cpu().long()], scores.topk(5).values)

    def test_a_layout_that_does_not_exist_is_refused(self) -> None:
        q, k = (
            torch.zeros(1, 2, 2, 16, dtype=torch.float16).npu(),
            torch.zeros(1, 4, 1, 16).half().npu(),
        )
        with pytest.raises(RuntimeError, match=r"layout"):
            torch_npu.npu_lightning_indexer(
                q, k, q[..., 0].contiguous(), layout_query="BNSD", layout_key="BNSD"
            )


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> torch.Tensor:
    """q [heads, D], k [keys, D], v [keys, Dv]."""
    return (q.float() @ k.float().t() * scale).softmax(-1) @ v.float()


class TestSparse:
    def lists(self, rows: int, length: int, count: int) -> torch.Tensor:
        """For each row some of the keys that it sees, ended by -1."""
        table = torch.full((rows, count), -1, dtype=torch.int32)
        for row in range(rows):
            generator = torch.Generator().manual_seed(row)
            seen = torch.randperm(length - rows + row + 1, generator=generator)[: count - row]
            table[row, : seen.numel()] = seen.int()
        return table

    @pytest.mark.parametrize("dtype", HALVES, ids=str)
    def test_rows_see_their_keys_only(self, dtype: torch.dtype) -> None:
        q, k = fill((2, 3, 4, 32), dtype, "unit", 1), fill((2, 20, 1, 32), dtype, "unit", 2)
        q_rope, k_rope = (
            fill((2, 3, 4, 16), dtype, "unit", 3),
            fill((2, 20, 1, 16), dtype, "unit", 4),
        )
        table = self.lists(3, 20, 8)
        got, greatest, total = torch_npu.npu_sparse_flash_attention(
            q.npu(),
            k.npu(),
            k.npu(),
            table.expand(2, 3, 8).unsqueeze(2).contiguous().npu(),
            0.3,
            query_rope=q_rope.npu(),
            key_rope=k_rope.npu(),
            attention_mode=2,
            return_softmax_lse=True,
        )
        for b in range(2):
            for row in range(3):
                keys = table[row][table[row] >= 0].long()
                whole_q = torch.cat([q[b, row], q_rope[b, row]], -1)
                whole_k = torch.cat([k[b, keys, 0], k_rope[b, keys, 0]], -1)
                near(got[b, row], attend(whole_q, whole_k, k[b, keys, 0], 0.3))
                scores = whole_q.float() @ whole_k.float().t() * 0.3
                near(greatest[b, 0, row], scores.amax(-1), 100)
                near(
                    total[b, 0, row], torch.exp(scores - scores.amax(-1, keepdim=True)).sum(-1), 100
                )

    def test_packed_and_paged(self) -> None:
        dtype = torch.bfloat16
        q, pages = fill((3, 4, 32), dtype, "unit", 1), fill((5, 16, 1, 32), dtype, "unit", 2)
        table = torch.tensor([[4, 0], [2, 1]])
        lists = torch.tensor([[3, 0, -1], [17, 2, 5], [1, 18, -1]], dtype=torch.int32)
        got, _, _ = torch_npu.npu_sparse_flash_attention(
            q.npu(),
            pages.npu(),
            pages.npu(),
            lists.unsqueeze(1).npu(),
            0.3,
            block_table=table.int().npu(),
            actual_seq_lengths_query=torch.tensor([1, 3], dtype=torch.int32).npu(),
            actual_seq_lengths_kv=torch.tensor([10, 20], dtype=torch.int32).npu(),
            layout_query="TND",
            layout_kv="PA_BSND",
        )
        for row, sequence in enumerate([0, 1, 1]):
            keys = pages[table[sequence]].flatten(0, 1)[lists[row][lists[row] >= 0].long(), 0]
            near(got[row], attend(q[row], keys, keys, 0.3))

    def test_quantised_by_tiles(self) -> None:
        width, turned, length = 256, 64, 20
        latent, key_rope = codes_and_rope(length, width, turned)
        scales = fill((length, width // 128), torch.float32, "open", 5) * 0.02
        row_bytes = torch.cat(
            [latent, key_rope.contiguous().view(torch.int8), scales.contiguous().view(torch.int8)],
            -1,
        )
        pages = torch.zeros(2, 16, 1, row_bytes.size(1), dtype=torch.int8)
        pages.view(32, -1)[:length] = row_bytes
        q = fill((1, 2, 4, width + turned), torch.bfloat16, "unit", 6)
        lists = self.lists(2, length, 6)
        got = torch_npu.npu_kv_quant_sparse_flash_attention(
            q.npu(),
            pages.npu(),
            pages.npu(),
            lists.view(1, 2, 1, 6).npu(),
            0.1,
            2,
            2,
            block_table=torch.tensor([[0, 1]], dtype=torch.int32).npu(),
            actual_seq_lengths_kv=torch.tensor([length], dtype=torch.int32).npu(),
            layout_kv="PA_BSND",
            attention_mode=2,
            quant_scale_repo_mode=1,
            tile_size=128,
            rope_head_dim=turned,
        )
        wide = latent.float() * scales.repeat_interleave(128, -1)
        for row in range(2):
            keys = lists[row][lists[row] >= 0].long()
            whole = torch.cat([wide[keys], key_rope[keys].float()], -1)
            near(got[0, row], attend(q[0, row], whole, wide[keys], 0.1))


def codes_and_rope(length: int, width: int, turned: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    latent = torch.randint(-127, 128, (length, width), generator=generator, dtype=torch.int8)
    return latent, fill((length, turned), torch.bfloat16, "unit", 2)


class TestMerging:
    @pytest.mark.parametrize("dtype", [torch.float32, *HALVES], ids=str)
    @pytest.mark.parametrize("with_lse", [0, 1])
    def test_parts_of_the_keys(self, dtype: torch.dtype, with_lse: int) -> None:
        scores, values = torch.randn(6, 30), torch.randn(30, 32)
        parts = [slice(0, 10), slice(10, 13), slice(13, 30)]
        lse = [scores[:, part].logsumexp(-1) for part in parts]
        outs = [(scores[:, part].softmax(-1) @ values[part]).to(dtype) for part in parts]
        got, total = torch_npu.npu_attention_update(
            [t.npu() for t in lse], [t.npu() for t in outs], with_lse
        )
        near(got, scores.softmax(-1) @ values, 2)
        if with_lse:
            near(total, scores.logsumexp(-1), 10)

    def test_ring(self) -> None:
        length, batch, heads, width = 4, 2, 2, 16
        scores, values = torch.randn(batch, heads, length, 20), torch.randn(batch, heads, 20, width)

        def part(of: slice) -> list[torch.Tensor]:
            own = scores[..., of]
            most = own.amax(-1, keepdim=True)
            total = torch.exp(own - most).sum(-1, keepdim=True)
            out = (own.softmax(-1) @ values[..., of, :]).permute(2, 0, 1, 3).flatten(2)
            return [
                out.npu(),
                most.expand(-1, -1, -1, 8).contiguous().npu(),
                total.expand(-1, -1, -1, 8).contiguous().npu(),
            ]

        got = torch_npu.npu_ring_attention_update(*part(slice(0, 7)), *part(slice(7, 20)))
        whole = part(slice(0, 20))
        for one, expected in zip(got, whole, strict=True):
            torch.testing.assert_close(one.cpu(), expected.cpu(), rtol=1e-4, atol=1e-4)


def delta_rule(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    beta: torch.Tensor,
    g: torch.Tensor,
    state: torch.Tensor,
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """One sequence, head by head. q, k [tokens, key heads, Dk], v [tokens, heads, Dv], state
    [heads, Dv, Dk]. Returns the outputs and the state after each token.
    """
    heads, groups = v.size(1), v.size(1) // k.size(1)
    out, states, state = torch.empty(v.shape), [], state.float().clone()
    for t in range(q.size(0)):
        for h in range(heads):
            key, query = k[t, h // groups].float(), q[t, h // groups].float()
            decayed = state[h] * g[t, h].exp()
            change = beta[t, h].float() * (v[t, h].float() - decayed @ key)
            state[h] = decayed + torch.outer(change, key)
            out[t, h] = state[h] @ query
        states.append(state.clone())
    return out, states


class TestDeltaRule:
    lengths = (3, 4)

    def inputs(self) -> tuple[torch.Tensor, ...]:
        tokens, dtype = sum(self.lengths), torch.bfloat16
        q, k = (
            torch.nn.functional.normalize(fill((tokens, 2, 32), dtype, "any", s), dim=-1)
            for s in (1, 2)
        )
        v, beta = fill((tokens, 4, 16), dtype, "unit", 3), fill((tokens, 4), dtype, "open", 4)
        return q, k, v, beta, -fill((tokens, 4), torch.float32, "open", 5)

    def test_by_chunks(self) -> None:
        q, k, v, beta, g = self.inputs()
        initial = fill((2, 4, 16, 32), torch.bfloat16, "unit", 6)
        got, final = torch_npu.npu_chunk_gated_delta_rule(
            q.npu(),
            k.npu(),
            v.npu(),
            beta=beta.npu(),
            initial_state=initial.npu(),
            actual_seq_lengths=torch.tensor(self.lengths, dtype=torch.int32).npu(),
            scale=0.25,
            g=g.npu(),
        )
        for i, rows in enumerate((slice(0, 3), slice(3, 7))):
            out, states = delta_rule(
                q[rows].float() * 0.25, k[rows], v[rows], beta[rows], g[rows], initial[i]
            )
            near(got[rows], out)
            near(final[i], states[-1])

    def test_recurrent_with_speculation(self) -> None:
        q, k, v, beta, g = self.inputs()
        states = fill((9, 4, 16, 32), torch.bfloat16, "unit", 6)
        places, accepted = torch.tensor([8, 0, 2, 1, 3, 5, 7]), torch.tensor([2, 1])
        device = states.npu()
        got = torch_npu.npu_recurrent_gated_delta_rule(
            q.npu(),
            k.npu(),
            v.npu(),
            device,
            beta=beta.npu(),
            scale=0.25,
            actual_seq_lengths=torch.tensor(self.lengths, dtype=torch.int32).npu(),
            ssm_state_indices=places.int().npu(),
            num_accepted_tokens=accepted.int().npu(),
            g=g.npu(),
        )
        for i, rows in enumerate((slice(0, 3), slice(3, 7))):
            start = states[places[rows][accepted[i] - 1]]
            out, each = delta_rule(
                q[rows].float() * 0.25, k[rows], v[rows], beta[rows], g[rows], start
            )
            near(got[rows], out)
            for state, place in zip(each, places[rows], strict=True):
                near(device[place], state)
        near(device[4], states[4])
