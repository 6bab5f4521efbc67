"""Fused operators of torch-npu against their plain formulas."""

from __future__ import annotations

import pytest
import torch
import torch_npu
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F  # noqa: N812

from simulator.tests.tensors import FLOATS, TOLERANCES, fill, shapes


def near(got: torch.Tensor, expected: torch.Tensor) -> None:
    """Compares with a reference computed in float32, rounded once to the result's dtype."""
    rtol, atol = TOLERANCES[got.dtype]
    torch.testing.assert_close(got.cpu(), expected.to(got.dtype), rtol=rtol, atol=atol)


def values(
    shape: tuple[int, ...], dtype: torch.dtype, seed: int, domain: str = "any"
) -> torch.Tensor:
    return fill(shape, dtype, domain, seed)


def rms(x: torch.Tensor, gamma: torch.Tensor, epsilon: float) -> torch.Tensor:
    wide = x.float()
    return wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + epsilon) * gamma


class TestNormalisation:
    @given(
        shape=shapes(least=1, empty=False), dtype=st.sampled_from(FLOATS), seed=st.integers(0, 99)
    )
    def test_rms_norm(self, shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> None:
        x, gamma = values(shape, dtype, seed), values(shape[-1:], dtype, seed + 1)
        got, rstd = torch_npu.npu_rms_norm(x.npu(), gamma.npu(), 1e-5)
        near(got, rms(x, gamma.float(), 1e-5))
        expected = torch.rsqrt(x.float().square().mean(-1, keepdim=True) + 1e-5)
        torch.testing.assert_close(rstd.cpu().reshape(expected.shape), expected)

    @given(
        shape=shapes(least=2, empty=False), dtype=st.sampled_from(FLOATS), seed=st.integers(0, 99)
    )
    def test_add_rms_norm(self, shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> None:
        x, y, gamma = (
            values(shape, dtype, seed),
            values(shape, dtype, seed + 1),
            values(shape[-1:], dtype, seed + 2),
        )
        got, _, total = torch_npu.npu_add_rms_norm(x.npu(), y.npu(), gamma.npu(), 1e-6)
        near(got, rms(x.float() + y.float(), gamma.float(), 1e-6))
        near(total, x.float() + y.float())

    @given(
        shape=shapes(least=1, empty=False), dtype=st.sampled_from(FLOATS), seed=st.integers(0, 99)
    )
    def test_gemma_rms_norm_scales_by_one_plus_gamma(
        self, shape: tuple[int, ...], dtype: torch.dtype, seed: int
    ) -> None:
        x, gamma = values(shape, dtype, seed), values(shape[-1:], dtype, seed + 1)
        device_gamma = gamma.npu()
        got, _ = torch_npu.npu_gemma_rms_norm(x.npu(), device_gamma, 1e-6)
        near(got, rms(x, 1 + gamma.float(), 1e-6))
        assert torch.equal(device_gamma.cpu(), gamma), "the weight itself has changed"

    def test_a_row_of_zeros_stays_zero(self) -> None:
        got, _ = torch_npu.npu_rms_norm(torch.zeros(2, 8).npu(), torch.ones(8).npu(), 1e-6)
        assert got.count_nonzero().item() == 0


class TestGates:
    @given(
        shape=shapes(least=1, empty=False), dtype=st.sampled_from(FLOATS), seed=st.integers(0, 99)
    )
    def test_swiglu(self, shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> None:
        x = values((*shape[:-1], 2 * shape[-1]), dtype, seed)
        left, right = x.float().chunk(2, -1)
        near(torch_npu.npu_swiglu(x.npu()), F.silu(left) * right)

    @pytest.mark.parametrize("dim", [0, 1, -2])
    def test_swiglu_along_another_dimension(self, dim: int) -> None:
        x = values((4, 6, 2), torch.float32, 5)
        left, right = x.chunk(2, dim)
        near(torch_npu.npu_swiglu(x.npu(), dim), F.silu(left) * right)

    @pytest.mark.parametrize("name", ["none", "tanh"])
    def test_gelu(self, name: str) -> None:
        """torch's own is the form with tanh whatever is asked for; torch-npu's has the choice."""
        x = torch.linspace(-4, 4, 65)
        exact, approximated = (F.gelu(x, approximate=form) for form in ("none", "tanh"))
        assert (exact - approximated).abs().max() > 4e-4
        near(F.gelu(x.npu(), approximate=name), approximated)
        near(torch_npu.npu_gelu(x.npu(), approximate=name), F.gelu(x, approximate=name))

    @pytest.mark.parametrize("dtype", FLOATS, ids=str)
    @pytest.mark.parametrize(("approximate", "name"), [(0, "none"), (1, "tanh")])
    @pytest.mark.parametrize("left", [False, True])
    def test_geglu(self, dtype: torch.dtype, approximate: int, name: str, left: bool) -> None:
        x = values((3, 2, 16), dtype, 7)
        halves = x.float().chunk(2, -1)
        gelu = F.gelu(halves[0 if left else 1], approximate=name)
        got, activated = torch_npu.npu_geglu(x.npu(), -1, approximate, left)
        near(got, gelu * halves[1 if left else 0])
        near(activated, gelu)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, neox: bool) -> torch.Tensor:
    """x: [tokens, heads, width]; cos, sin: [tokens, width / 2]."""
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    if neox:
        first, second = x.chunk(2, -1)
    else:
        first, second = x[..., ::2], x[..., 1::2]
    pair = first * cos - second * sin, second * cos + first * sin
    return torch.cat(pair, -1) if neox else torch.stack(pair, -1).flatten(-2)


def embed(
    x: torch.Tensor, cache: torch.Tensor, positions: torch.Tensor, head_size: int, neox: bool
) -> torch.Tensor:
    """Rotary embedding of [tokens, heads * head_size]; only the cache's width of a head turns."""
    width = cache.size(-1)
    cos, sin = cache.float()[positions].chunk(2, -1)
    heads = x.float().view(x.size(0), -1, head_size)
    turned = rotate(heads[..., :width], cos, sin, neox)
    return torch.cat([turned, heads[..., width:]], -1).flatten(1)


class TestRotary:
    @pytest.mark.parametrize("dtype", FLOATS, ids=str)
    @pytest.mark.parametrize("neox", [True, False], ids=["half", "interleave"])
    @pytest.mark.parametrize("width", [64, 32], ids=["whole", "partial"])
    def test_mrope_without_sections(self, dtype: torch.dtype, neox: bool, width: int) -> None:
        head_size = 64
        query, key = values((5, 4 * head_size), dtype, 1), values((5, 2 * head_size), dtype, 2)
        cache = values((20, width), dtype, 3, "unit")
        positions = torch.tensor([3, 0, 19, 7, 7])
        got = torch_npu.npu_mrope(
            positions.npu(),
            query.npu(),
            key.npu(),
            cache.npu(),
            head_size,
            mrope_section=[0, 0, 0],
            rotary_mode="half" if neox else "interleave",
        )
        near(got[0], embed(query, cache, positions, head_size, neox))
        near(got[1], embed(key, cache, positions, head_size, neox))

    @pytest.mark.parametrize("sections", [[16, 24, 24], [24, 20, 20], [8, 12, 12]], ids=str)
    @pytest.mark.parametrize("cache_mode", ["default", "interleave"])
    def test_mrope_with_sections_takes_each_part_at_its_own_position(
        self, sections: list[int], cache_mode: str
    ) -> None:
        head_size = 2 * sum(sections)
        query, key = values((4, 256), torch.float32, 1), values((4, 128), torch.float32, 2)
        cache = values((30, head_size), torch.float32, 3, "unit")
        positions = torch.randint(0, 30, (3, 4), generator=torch.Generator().manual_seed(1))
        got, _ = torch_npu.npu_mrope(
            positions.npu(),
            query.npu(),
            key.npu(),
            cache.npu(),
            head_size,
            mrope_section=sections,
            cache_mode=cache_mode,
        )
        if cache_mode == "default":
            rows = [row for row, count in enumerate(sections) for _ in range(count)]
        else:  # time, height, width in turn, and time alone behind the last of the others
            rows = [i % 3 if i < 3 * sections[i % 3] else 0 for i in range(sum(sections))]
        tables = cache[positions].chunk(2, -1)
        cos, sin = (
            torch.stack([table[row, :, i] for i, row in enumerate(rows)], -1) for table in tables
        )
        near(got, rotate(query.view(4, -1, head_size), cos, sin, True).flatten(1))

    def test_mrope_refuses_sections_that_it_does_not_know(self) -> None:
        x, cache = torch.zeros(2, 32, device="npu"), torch.zeros(4, 32, device="npu")
        positions = torch.zeros(3, 2, dtype=torch.int64, device="npu")
        with pytest.raises(RuntimeError, match=r"mropeSection \[4, 6, 6\]"):
            torch_npu.npu_mrope(positions, x, x, cache, 32, mrope_section=[4, 6, 6])

    @pytest.mark.parametrize(
        ("head_size", "width", "dtype"),
        [(80, 80, torch.float16), (64, 16, torch.float16), (24, 24, torch.float32)],
        ids=str,
    )
    def test_mrope_refuses_heads_that_are_not_whole_blocks(
        self, head_size: int, width: int, dtype: torch.dtype
    ) -> None:
        x = torch.zeros(2, head_size, dtype=dtype, device="npu")
        cache = torch.zeros(4, width, dtype=dtype, device="npu")
        positions = torch.zeros(2, dtype=torch.int64, device="npu")
        with pytest.raises(RuntimeError, match=f"headSize {head_size} and rotaryDim {width}"):
            torch_npu.npu_mrope(positions, x, x, cache, head_size, mrope_section=[0, 0, 0])

    @pytest.mark.parametrize("dtype", FLOATS, ids=str)
    @pytest.mark.parametrize("mode", ["half", "interleave"])
    def test_rotary_mul(self, dtype: torch.dtype, mode: str) -> None:
        x = values((2, 3, 4, 16), dtype, 1)  # [batch, rows, heads, width]
        angle = values((1, 3, 1, 8), torch.float32, 2)
        wide = (
            torch.cat([angle, angle], -1) if mode == "half" else angle.repeat_interleave(2, dim=-1)
        )
        cos, sin = wide.cos().to(dtype), wide.sin().to(dtype)
        if mode == "half":
            first, second = x.float().chunk(2, -1)
            turned = torch.cat([-second, first], -1)
        else:
            turned = torch.stack([-x.float()[..., 1::2], x.float()[..., ::2]], -1).flatten(-2)
        got = torch_npu.npu_rotary_mul(x.npu(), cos.npu(), sin.npu(), mode)
        near(got, x.float() * cos + turned * sin)


class TestCacheWrites:
    @pytest.mark.parametrize("dtype", FLOATS, ids=str)
    @pytest.mark.parametrize("index", [torch.int32, torch.int64], ids=str)
    def test_tokens_go_to_their_slots_and_nowhere_else(
        self, dtype: torch.dtype, index: torch.dtype
    ) -> None:
        key, value = values((5, 2, 8), dtype, 1), values((5, 2, 8), dtype, 2)
        caches = [values((4, 16, 2, 8), dtype, seed) for seed in (3, 4)]
        slots = torch.tensor([0, 63, 17, 5, 32])
        devices = [cache.npu() for cache in caches]
        torch_npu.npu_scatter_pa_kv_cache(
            key.npu(), value.npu(), *devices, slots.to(index).npu(), cache_mode="Norm"
        )
        for cache, rows, device in zip(caches, (key, value), devices, strict=True):
            cache.view(-1, 2, 8)[slots] = rows
            assert torch.equal(device.cpu(), cache)

    @pytest.mark.parametrize("dtype", FLOATS, ids=str)
    def test_a_cache_of_one_kind(self, dtype: torch.dtype) -> None:
        rows, cache = values((3, 1, 24), dtype, 1), values((2, 16, 1, 24), dtype, 2)
        slots, device = torch.tensor([30, 2, 16]), cache.npu()
        torch_npu.npu_scatter_pa_cache(rows.npu(), slots.npu(), key_cache=device)
        cache.view(-1, 1, 24)[slots] = rows
        assert torch.equal(device.cpu(), cache)

    def test_a_negative_slot_is_padding(self) -> None:
        key = values((3, 1, 4), torch.float16, 1)
        caches = [torch.zeros(2, 16, 1, 4, dtype=torch.float16, device="npu") for _ in range(2)]
        slots = torch.tensor([4, -1, 9], dtype=torch.int32)
        torch_npu.npu_scatter_pa_kv_cache(
            key.npu(), key.npu(), *caches, slots.npu(), cache_mode="Norm"
        )
        for cache in caches:
            flat = cache.cpu().view(-1, 4)
            assert torch.equal(flat[[4, 9]], key[[0, 2], 0])
            assert flat.count_nonzero().item() == key[[0, 2]].count_nonzero().item()

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int8], ids=str)
    def test_the_layout_of_fractals(self, dtype: torch.dtype) -> None:
        """PA_NZ: [blocks, heads * width / c0, block, c0], c0 numbers to 32 bytes."""
        c0 = 16 if dtype != torch.int8 else 32
        key, value = values((5, 2, 64), dtype, 1), values((5, 2, 32), dtype, 2)
        slots = torch.tensor([0, 63, 17, -1, 32])
        caches = [
            torch.zeros(4, 2 * rows.size(2) // c0, 16, c0, dtype=dtype, device="npu")
            for rows in (key, value)
        ]
        torch_npu.npu_scatter_pa_kv_cache(key.npu(), value.npu(), *caches, slots.npu())
        for cache, rows in zip(caches, (key, value), strict=True):
            expected = torch.zeros(cache.shape, dtype=dtype)
            for token, slot in enumerate(slots.tolist()):
                if slot >= 0:
                    expected[slot // 16, :, slot % 16] = rows[token].reshape(-1, c0)
            assert torch.equal(cache.cpu(), expected)

    def test_another_cache_layout_is_refused_at_the_call(self) -> None:
        key, cache = torch.zeros(1, 1, 16), torch.zeros(2, 16, 1, 16, device="npu")
        slots = torch.zeros(1, dtype=torch.int32, device="npu")
        with pytest.raises(RuntimeError, match="cache mode PA_XY; Norm and PA_NZ exist"):
            torch_npu.npu_scatter_pa_kv_cache(
                key.npu(), key.npu(), cache, cache.clone(), slots, cache_mode="PA_XY"
            )
        with pytest.raises(RuntimeError, match="cache mode PA_NZ needs a cache of"):
            torch_npu.npu_scatter_pa_kv_cache(key.npu(), key.npu(), cache, cache.clone(), slots)

    @pytest.mark.parametrize("offset", [False, True])
    def test_gathered_again(self, offset: bool) -> None:
        caches = [values((6, 16, 2, 8), torch.float16, seed) for seed in (1, 2)]
        table = torch.tensor([[5, 1, 0], [3, 4, 2]], dtype=torch.int32)
        lengths, starts = [20, 5], [16, 0] if offset else [0, 0]
        out = [torch.zeros(25, 2, 8, dtype=torch.float16, device="npu") for _ in range(2)]
        torch_npu.npu_gather_pa_kv_cache(
            *(cache.npu() for cache in caches),
            table.npu(),
            torch.tensor(lengths, dtype=torch.int32).npu(),
            *out,
            seq_offset=torch.tensor(starts, dtype=torch.int32).npu() if offset else None,
        )
        for cache, got in zip(caches, out, strict=True):
            rows = [
                cache[table[i, token // 16].item(), token % 16]
                for i, length in enumerate(lengths)
                for token in range(starts[i], starts[i] + length)
            ]
            assert torch.equal(got.cpu(), torch.stack(rows))

    def test_scatter_nd_update(self) -> None:
        x = torch.zeros(4, 3, 2)
        indices = torch.tensor([[0, 1], [3, 2]])
        updates = values((2, 2), torch.float32, 1)
        got = x.npu()
        torch_npu.npu_scatter_nd_update_(got, indices.npu(), updates.npu())
        x[[0, 3], [1, 2]] = updates
        assert torch.equal(got.cpu(), x)


def restricted(logits: torch.Tensor, k: list[int] | None, p: list[float] | None) -> torch.Tensor:
    """Row by row: keeps the k largest, then the fewest of these whose probability reaches p."""
    made = logits.clone()
    for row in range(logits.size(0)):
        order = made[row].argsort(descending=True)
        if k is not None:
            made[row, order[k[row] :]] = -torch.inf
        if p is not None:
            before = made[row].softmax(-1)[order].cumsum(-1).roll(1)
            before[0] = 0
            made[row, order[before >= p[row]]] = -torch.inf
    return made


class TestSampling:
    @pytest.mark.parametrize("k", [None, [3, 1, 40, 64]])
    @pytest.mark.parametrize("p", [None, [0.9, 0.5, 0.05, 1.0]])
    def test_top_k_top_p(self, k: list[int] | None, p: list[float] | None) -> None:
        logits = torch.randn(4, 64, generator=torch.Generator().manual_seed(5))
        got = torch_npu.npu_top_k_top_p(
            logits.npu(),
            None if p is None else torch.tensor(p).npu(),
            None if k is None else torch.tensor(k, dtype=torch.int32).npu(),
        )
        torch.testing.assert_close(got.cpu(), restricted(logits, k, p))
