"""Quantisation and quantised products of torch-npu against plain formulas on the CPU."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

import pytest
import torch
import torch_npu
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F  # noqa: N812

from simulator.tests.tensors import TOLERANCES, fill

HALVES = (torch.float16, torch.bfloat16)


def near(got: torch.Tensor, expected: torch.Tensor) -> None:
    rtol, atol = TOLERANCES[got.dtype]
    torch.testing.assert_close(got.cpu(), expected.to(got.dtype), rtol=rtol, atol=atol)


def near_codes(got: torch.Tensor, expected: torch.Tensor, exact: float = 0.97) -> None:
    """Codes may differ by one where a number lies at the middle of two: float32's last bit."""
    apart = (got.cpu().int() - expected.int()).abs()
    assert apart.max().item() <= 1
    assert (apart == 0).float().mean().item() >= exact


def by_rows(x: torch.Tensor, greatest: int = 127) -> tuple[torch.Tensor, torch.Tensor]:
    scale = x.abs().amax(-1) / greatest
    codes = (x / scale.unsqueeze(-1)).round().clamp(-greatest - 1, greatest)
    return codes, scale


def unpack(words: torch.Tensor) -> torch.Tensor:
    """Eight int4 of each int32, the first in the lowest bits."""
    parts = [(words.cpu().long() >> (4 * i)) & 15 for i in range(8)]
    codes = torch.stack(parts, -1).flatten(-2)
    return torch.where(codes >= 8, codes - 16, codes)


def pack(codes: torch.Tensor) -> torch.Tensor:
    """Numbers in [-8, 7] to words of eight, along the last dimension."""
    nibbles = (codes.long() & 15).unflatten(-1, (-1, 8))
    word = sum(nibbles[..., i] << (4 * i) for i in range(8))
    return torch.where(word >= 1 << 31, word - (1 << 32), word).int()


def fixed_point(scale: torch.Tensor) -> torch.Tensor:
    """float32 with the mantissa's last 13 bits dropped, as TransQuantParam keeps it."""
    return (scale.float().contiguous().view(torch.int32) & ~0x1FFF).view(torch.float32)


class TestDynamic:
    @given(
        shape=st.sampled_from([(3, 16), (2, 5, 8), (1, 1, 40), (7, 64)]),
        dtype=st.sampled_from(HALVES),
        seed=st.integers(0, 99),
    )
    def test_by_rows(self, shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> None:
        x = fill(shape, dtype, "any", seed)
        got, scale = torch_npu.npu_dynamic_quant(x.npu())
        codes, expected = by_rows(x.float())
        near(scale, expected)
        near_codes(got, codes)

    @pytest.mark.parametrize("dtype", HALVES, ids=str)
    def test_smoothing(self, dtype: torch.dtype) -> None:
        x, smooth = fill((6, 32), dtype, "any", 1), fill((32,), dtype, "positive", 2)
        got, scale = torch_npu.npu_dynamic_quant(x.npu(), smooth_scales=smooth.npu())
        codes, expected = by_rows(x.float() * smooth.float())
        near(scale, expected)
        near_codes(got, codes)

    def test_smoothing_by_groups_of_rows(self) -> None:
        x, smooth = fill((6, 32), torch.float16, "any", 1), fill((3, 32), torch.float16, "open", 2)
        ends = torch.tensor([2, 2, 6], dtype=torch.int32)
        got, _ = torch_npu.npu_dynamic_quant(
            x.npu(), smooth_scales=smooth.npu(), group_index=ends.npu()
        )
        rows = smooth[[0, 0, 2, 2, 2, 2]].float()
        near_codes(got, by_rows(x.float() * rows)[0])

    def test_int4_lies_eight_to_a_word(self) -> None:
        x = fill((5, 64), torch.float16, "any", 3)
        got, scale = torch_npu.npu_dynamic_quant(x.npu(), dst_type=torch.quint4x2)
        assert got.dtype == torch.int32
        codes, expected = by_rows(x.float(), 7)
        near(scale, expected)
        near_codes(unpack(got), codes)

    @pytest.mark.parametrize("mode", ["pertensor", "pertoken"])
    def test_modes(self, mode: str) -> None:
        x = fill((4, 16), torch.bfloat16, "any", 4)
        got, scale = torch_npu.npu_dynamic_quant(x.npu(), quant_mode=mode)
        each = (
            x.float().abs().amax(-1, keepdim=True) if mode == "pertoken" else x.float().abs().max()
        )
        near(scale.reshape(-1), (each / 127).reshape(-1))
        near_codes(got, (x.float() / (each / 127)).round())

    def test_asymmetric(self) -> None:
        x = fill((4, 16), torch.float16, "positive", 5)
        got, scale, offset = torch_npu.npu_dynamic_quant_asymmetric(x.npu())
        wide = x.float()
        expected = (wide.amax(-1) - wide.amin(-1)) / 255
        shift = 127 - wide.amax(-1) / expected
        near(scale, expected)
        torch.testing.assert_close(offset.cpu(), shift, rtol=1e-4, atol=1e-3)
        near_codes(got, (wide / expected[:, None] + shift[:, None]).round())

    def test_a_row_of_zeros(self) -> None:
        got, scale = torch_npu.npu_dynamic_quant(torch.zeros(2, 16, dtype=torch.float16).npu())
        assert got.count_nonzero().item() == 0
        assert scale.count_nonzero().item() == 0

    @pytest.mark.parametrize("width", [128, 300, 7])
    def test_blocks(self, width: int) -> None:
        x = fill((3, width), torch.bfloat16, "any", 6)
        got, scale = torch_npu.npu_dynamic_block_quant(x.npu())
        for first in range(0, width, 128):
            codes, expected = by_rows(x[:, first : first + 128].float())
            near(scale[:, first // 128], expected)
            near_codes(got[:, first : first + 128], codes, 0.9)

    def test_blocks_of_another_size_are_refused(self) -> None:
        with pytest.raises(
            RuntimeError, match=r"161002(.|\n)*a block of 1 x 64; this chip takes 1 x 128"
        ):
            torch_npu.npu_dynamic_block_quant(
                torch.zeros(3, 128, dtype=torch.float16).npu(), col_block_size=64
            )

    def test_float32_is_refused(self) -> None:
        with pytest.raises(RuntimeError, match=r"161002(.|\n)*float16 and bfloat16 are taken"):
            torch_npu.npu_dynamic_quant(torch.zeros(2, 16).npu())


class TestStatic:
    @pytest.mark.parametrize("dtype", [torch.float32, *HALVES], ids=str)
    @pytest.mark.parametrize("zero", [False, True])
    def test_multiplied(self, dtype: torch.dtype, zero: bool) -> None:
        x, scale = fill((3, 4, 16), dtype, "any", 1), fill((16,), dtype, "positive", 2) * 8
        offset = fill((16,), dtype, "small", 3) if zero else None
        got = torch_npu.npu_quantize(
            x.npu(), scale.npu(), None if offset is None else offset.npu(), torch.qint8, -1, False
        )
        made = x.float() * scale.float() + (0 if offset is None else offset.float())
        near_codes(got, made.round().clamp(-128, 127))

    @pytest.mark.parametrize("axis", [0, 1, 2])
    def test_divided_along_an_axis(self, axis: int) -> None:
        x = fill((3, 4, 6), torch.float32, "any", 1)
        scale, zero = (
            fill((x.size(axis),), torch.float32, "open", 2),
            torch.full((x.size(axis),), 3),
        )
        got = torch_npu.npu_quantize(
            x.npu(), scale.npu(), zero.int().npu(), torch.qint8, axis, True
        )
        shape = [1, 1, 1]
        shape[axis] = -1
        near_codes(got, ((x / scale.view(shape)).round() + 3).clamp(-128, 127))

    def test_int4(self) -> None:
        x, scale = fill((3, 32), torch.float16, "any", 1), torch.full((32,), 2.0).half()
        got = torch_npu.npu_quantize(x.npu(), scale.npu(), None, torch.quint4x2, -1, False)
        near_codes(unpack(got), (x.float() * 2).round().clamp(-8, 7))

    def test_back(self) -> None:
        codes = fill((4, 8), torch.int8, "any", 1)
        scale, offset = fill((8,), torch.float32, "open", 2), fill((8,), torch.float32, "any", 3)
        got = torch_npu.npu_anti_quant(
            codes.npu(), scale.npu(), offset=offset.npu(), dst_dtype=torch.float16
        )
        near(got, (codes.float() + offset) * scale)


def rms(x: torch.Tensor, gamma: torch.Tensor, epsilon: float = 1e-6) -> torch.Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + epsilon) * gamma.float()


class TestNormalised:
    @pytest.mark.parametrize("dtype", HALVES, ids=str)
    @pytest.mark.parametrize("divide", [True, False])
    @pytest.mark.parametrize("beta", [False, True])
    def test_add_rms_norm_quant(self, dtype: torch.dtype, divide: bool, beta: bool) -> None:
        x, y, gamma = (fill(s, dtype, "any", i) for i, s in enumerate([(5, 32), (5, 32), (32,)]))
        scale, zero = fill((32,), torch.float32, "open", 4), fill((32,), torch.int32, "small", 5)
        bias = fill((32,), dtype, "any", 6) if beta else None
        got, _, total = torch_npu.npu_add_rms_norm_quant(
            x.npu(),
            y.npu(),
            gamma.npu(),
            scale.npu(),
            zero.npu(),
            None if bias is None else bias.npu(),
            div_mode=divide,
        )
        normal = rms(x.float() + y.float(), gamma) + (0 if bias is None else bias.float())
        made = normal / scale if divide else normal * scale
        near_codes(got, (made + zero).round().clamp(-128, 127))
        near(total, x.float() + y.float())

    @pytest.mark.parametrize("dtype", HALVES, ids=str)
    def test_add_rms_norm_dynamic_quant(self, dtype: torch.dtype) -> None:
        x, y, gamma = (fill(s, dtype, "any", i) for i, s in enumerate([(5, 32), (5, 32), (32,)]))
        smooth = fill((32,), dtype, "positive", 4)
        got = torch_npu.npu_add_rms_norm_dynamic_quant(
            x.npu(), y.npu(), gamma.npu(), smooth_scale1=smooth.npu(), output_mask=[True, False]
        )
        codes, scale = by_rows(rms(x.float() + y.float(), gamma) * smooth.float())
        near_codes(got[0], codes)
        near(got[2], x.float() + y.float())
        near(got[3], scale)

    def test_add_rms_norm_dynamic_quant_twice(self) -> None:
        x, gamma = fill((3, 16), torch.float16, "any", 1), torch.ones(16, dtype=torch.float16)
        smooth = [fill((16,), torch.float16, "positive", seed) for seed in (2, 3)]
        got = torch_npu.npu_add_rms_norm_dynamic_quant(
            x.npu(),
            x.npu(),
            gamma.npu(),
            smooth_scale1=smooth[0].npu(),
            smooth_scale2=smooth[1].npu(),
        )
        for i in range(2):
            codes, scale = by_rows(rms(2 * x.float(), gamma) * smooth[i].float())
            near_codes(got[i], codes)
            near(got[3 + i], scale)

    def test_rms_norm_quant(self) -> None:
        x, gamma, beta = (
            fill(s, torch.float16, "any", i) for i, s in enumerate([(4, 32), (32,), (32,)])
        )
        got = torch_npu.npu_rms_norm_quant(
            x.npu(),
            gamma.npu(),
            beta.npu(),
            torch.tensor([0.25]).half().npu(),
            torch.tensor([2], dtype=torch.int8).npu(),
        )
        made = (rms(x.float(), gamma) + beta.float()) / 0.25 + 2
        near_codes(got, made.round().clamp(-128, 127))

    def test_add_rms_norm_cast(self) -> None:
        x, y, gamma = (
            fill(s, torch.bfloat16, "any", i) for i, s in enumerate([(4, 32), (4, 32), (32,)])
        )
        wide, half, _, total = torch_npu.npu_add_rms_norm_cast(x.npu(), y.npu(), gamma.npu())
        expected = rms(x.float() + y.float(), gamma)
        near(wide, expected)
        near(half, expected)
        near(total, x.float() + y.float())


def clipped(x: torch.Tensor, alpha: float, limit: float, bias: float) -> torch.Tensor:
    gate, linear = x[..., ::2].clamp(max=limit), x[..., 1::2].clamp(-limit, limit)
    return gate * torch.sigmoid(alpha * gate) * (linear + bias)


class TestGated:
    @pytest.mark.parametrize("dtype", [torch.float32, *HALVES], ids=str)
    def test_clipped_swiglu(self, dtype: torch.dtype) -> None:
        x = fill((6, 16), dtype, "any", 1)
        near(
            torch_npu.npu_clipped_swiglu(x.npu(), alpha=1.5, limit=2.0, bias=0.5),
            clipped(x.float(), 1.5, 2.0, 0.5),
        )

    def test_clipped_swiglu_of_halves_and_of_the_first_groups(self) -> None:
        x = fill((6, 16), torch.float32, "any", 1)
        got = torch_npu.npu_clipped_swiglu(
            x.npu(), group_index=torch.tensor([1, 3]).npu(), interleaved=False
        )
        pairs = torch.stack(x.chunk(2, -1), -1).flatten(-2)
        near(got[:4], clipped(pairs[:4], 1.702, 7.0, 1.0))

    @pytest.mark.parametrize("dtype", [torch.float32, *HALVES], ids=str)
    def test_fast_gelu(self, dtype: torch.dtype) -> None:
        x = fill((5, 7), dtype, "any", 1)
        near(torch_npu.npu_fast_gelu(x.npu()), x.float() * torch.sigmoid(1.702 * x.float()))

    @pytest.mark.parametrize("left", [True, False])
    @pytest.mark.parametrize("variant", [0, 1])
    def test_dequantised_before(self, left: bool, variant: int) -> None:
        if variant == 1 and not left:
            pytest.skip("the variant always activates the even numbers")
        x = fill((6, 64), torch.int32, "any", 1) * 10
        weight, token = (
            fill((2, 64), torch.float32, "open", 2),
            fill((6,), torch.float32, "open", 3),
        )
        smooth = fill((2, 32), torch.float32, "positive", 4)
        counts = torch.tensor([2, 3])
        got, scale = torch_npu.npu_dequant_swiglu_quant(
            x.npu(),
            weight_scale=weight.npu(),
            activation_scale=token.npu(),
            quant_scale=smooth.npu(),
            group_index=counts.npu(),
            activate_left=left,
            quant_mode=1,
            swiglu_mode=variant,
        )
        group = torch.tensor([0, 0, 1, 1, 1])
        wide = x[:5].float() * weight[group] * token[:5, None]
        if variant == 1:
            gated = clipped(wide, 1.702, 7.0, 1.0)
        else:
            halves = wide.chunk(2, -1)
            gated = F.silu(halves[0 if left else 1]) * halves[1 if left else 0]
        codes, expected = by_rows(gated * smooth[group])
        near_codes(got[:5], codes)
        near(scale[:5], expected)

    @pytest.mark.parametrize("counted", [False, True])
    def test_swiglu_quant(self, counted: bool) -> None:
        x = fill((6, 32), torch.float16, "any", 1)
        smooth = fill((2, 16), torch.float32, "positive", 2)
        index = torch.tensor([2, 4] if counted else [2, 6], dtype=torch.int32)
        got, scale = torch_npu.npu_swiglu_quant(
            x.npu(),
            smooth_scales=smooth.npu(),
            group_index=index.npu(),
            activate_left=True,
            quant_mode=1,
            group_list_type=int(counted),
        )
        left, right = x.float().chunk(2, -1)
        rows = smooth[[0, 0, 1, 1, 1, 1]]
        codes, expected = by_rows(F.silu(left) * right * rows)
        near_codes(got, codes)
        near(scale, expected)


class TestFlat:
    @pytest.mark.parametrize("dtype", HALVES, ids=str)
    def test_kronecker_quant(self, dtype: torch.dtype) -> None:
        x, left, right = (
            fill(s, dtype, "unit", i) for i, s in enumerate([(5, 4, 16), (4, 4), (16, 16)])
        )
        got, scale = torch_npu.npu_kronecker_quant(x.npu(), left.npu(), right.npu(), 0.9)
        product = left.float() @ (x.float() @ right.float())
        expected = product.abs().amax((1, 2)) * 0.9 / 7
        near(scale, expected)
        near_codes(unpack(got), (product / expected[:, None, None]).round().clamp(-8, 7))

    def test_a_clip_ratio_beyond_one_is_refused(self) -> None:
        x = torch.zeros(1, 4, 8, dtype=torch.float16).npu()
        with pytest.raises(RuntimeError, match=r"clip ratio 1.5.*\(0, 1\]"):
            torch_npu.npu_kronecker_quant(x, x[0, :, :4], torch.zeros_like(x[0]).repeat(2, 1), 1.5)


def codes(shape: Sequence[int], seed: int, most: int = 127) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-most - 1, most + 1, tuple(shape), generator=generator, dtype=torch.int8)


class TestProducts:
    @pytest.mark.parametrize("dtype", HALVES, ids=str)
    @pytest.mark.parametrize("k", [32, 2048])
    def test_per_token_and_channel(self, dtype: torch.dtype, k: int) -> None:
        """Sums of int8 products are exact, however long."""
        x, weight = codes((5, k), 1), codes((k, 24), 2)
        channel, token = fill((24,), torch.float32, "open", 3), fill((5,), torch.float32, "open", 4)
        got = torch_npu.npu_quant_matmul(
            x.npu(),
            weight.npu(),
            channel.npu(),
            pertoken_scale=token.npu() * 1e-3,
            output_dtype=dtype,
        )
        near(got, (x.double() @ weight.double()).float() * channel * (token * 1e-3)[:, None])

    @pytest.mark.parametrize("transposed", [False, True])
    def test_the_scale_of_a_plain_product_keeps_19_bits(self, transposed: bool) -> None:
        x, weight, scale = (
            codes((3, 16), 1),
            codes((16, 8), 2),
            fill((8,), torch.float32, "open", 3),
        )
        device = weight.t().contiguous().npu().t() if transposed else weight.npu()
        got = torch_npu.npu_quant_matmul(
            x.npu(), device, scale.npu() * 1e-3, output_dtype=torch.float16
        )
        near(got, (x.int() @ weight.int()).float() * fixed_point(scale * 1e-3))

    def test_to_int8_with_an_offset(self) -> None:
        x, weight, scale = codes((3, 16), 1, 7), codes((16, 8), 2, 7), torch.full((8,), 0.25)
        offset = torch.arange(8).float() - 4
        got = torch_npu.npu_quant_matmul(x.npu(), weight.npu(), scale.npu(), offset=offset.npu())
        made = (x.int() @ weight.int()).float() * 0.25 + offset
        assert torch.equal(got.cpu(), made.round().clamp(-128, 127).to(torch.int8))

    def test_the_packed_scale_of_trans_quant_param(self) -> None:
        x, weight = codes((3, 16), 1, 7), codes((16, 8), 2, 7)
        scale, offset = fill((8,), torch.float32, "open", 3), torch.arange(8).float() - 4
        packed = torch_npu.npu_trans_quant_param(scale.npu(), offset.npu())
        got = torch_npu.npu_quant_matmul(x.npu(), weight.npu(), packed)
        made = (x.int() @ weight.int()).float() * fixed_point(scale) + offset
        assert torch.equal(got.cpu(), made.round().clamp(-128, 127).to(torch.int8))

    @pytest.mark.parametrize("bias", [torch.int32, torch.float32, torch.bfloat16], ids=str)
    def test_bias_before_or_after_the_scales(self, bias: torch.dtype) -> None:
        x, weight, scale = codes((3, 16), 1, 7), codes((16, 8), 2, 7), torch.full((8,), 0.125)
        added = fill((8,), bias, "small", 3)
        got = torch_npu.npu_quant_matmul(
            x.npu(), weight.npu(), scale.npu(), bias=added.npu(), output_dtype=torch.bfloat16
        )
        product = (x.int() @ weight.int()).float()
        early = bias == torch.int32
        near(got, (product + added) * 0.125 if early else product * 0.125 + added.float())

    def test_int32(self) -> None:
        x, weight = codes((3, 16), 1), codes((16, 8), 2)
        got = torch_npu.npu_quant_matmul(
            x.npu(), weight.npu(), torch.ones(1).npu(), output_dtype=torch.int32
        )
        assert torch.equal(got.cpu(), x.int() @ weight.int())

    @pytest.mark.parametrize("transposed", [False, True])
    def test_int4_in_words(self, transposed: bool) -> None:
        x, weight, scale = codes((3, 32), 1, 7), codes((32, 16), 2, 7), torch.full((16,), 0.5)
        device = pack(weight.t()).contiguous().npu().t() if transposed else pack(weight).npu()
        got = torch_npu.npu_quant_matmul(
            pack(x).npu(), device, scale.npu(), output_dtype=torch.float16
        )
        near(got, (x.int() @ weight.int()).float() * 0.5)

    def test_batches(self) -> None:
        x, weight, scale = codes((2, 3, 16), 1, 7), codes((2, 16, 8), 2, 7), torch.full((8,), 0.25)
        got = torch_npu.npu_quant_matmul(
            x.npu(), weight.npu(), scale.npu(), output_dtype=torch.float16
        )
        near(got, torch.bmm(x.float(), weight.float()) * 0.25)

    def test_operands_that_do_not_fit_are_refused(self) -> None:
        x, weight = codes((3, 16), 1).npu(), codes((8, 16), 2).npu()
        with pytest.raises(RuntimeError, match="same k"):
            torch_npu.npu_quant_matmul(x, weight, torch.ones(16).npu(), output_dtype=torch.float16)

    def test_a_scale_of_another_length_is_refused(self) -> None:
        x, weight = codes((3, 16), 1).npu(), codes((16, 8), 2).npu()
        with pytest.raises(RuntimeError, match=r"161002(.|\n)*it must have 1 or n, 8"):
            torch_npu.npu_quant_matmul(x, weight, torch.ones(5).npu(), output_dtype=torch.bfloat16)

    def test_weights_in_nz(self) -> None:
        x, weight, scale = codes((3, 48), 1, 7), codes((48, 40), 2, 7), torch.full((40,), 0.25)
        torch.npu.config.allow_internal_format = True
        try:
            cast = torch_npu.npu_format_cast(weight.npu(), 29)
            assert torch_npu.get_npu_format(cast) == 29
            assert torch.equal(cast.cpu(), weight)
            got = torch_npu.npu_quant_matmul(x.npu(), cast, scale.npu(), output_dtype=torch.float16)
            near(got, (x.int() @ weight.int()).float() * 0.25)
            back = torch_npu.npu_format_cast(cast, 2)
            assert torch_npu.get_npu_format(back) == 2
            assert torch.equal(back.cpu(), weight)
        finally:
            torch.npu.config.allow_internal_format = False


class TestWeightsOnly:
    @pytest.mark.parametrize("dtype", HALVES, ids=str)
    @pytest.mark.parametrize("offset", [False, True])
    def test_per_channel(self, dtype: torch.dtype, offset: bool) -> None:
        x, weight = fill((3, 32), dtype, "any", 1), codes((32, 16), 2)
        scale = fill((1, 16), dtype, "open", 3) * 0.01
        added = fill((1, 16), dtype, "any", 4) if offset else None
        got = torch_npu.npu_weight_quant_batchmatmul(
            x.npu(), weight.npu(), scale.npu(), None if added is None else added.npu()
        )
        wide = (weight.float() + (0 if added is None else added.float())) * scale.float()
        near(got, x.float() @ wide)

    def test_int4_by_groups(self) -> None:
        x, weight = fill((3, 96), torch.float16, "unit", 1), codes((96, 16), 2, 7)
        scale, offset = (fill((3, 16), torch.float16, "open", seed) for seed in (3, 4))
        packed = torch_npu.npu_convert_weight_to_int4pack(weight.int().npu())
        assert torch.equal(unpack(packed), weight.long())
        got = torch_npu.npu_weight_quant_batchmatmul(
            x.npu(), packed, scale.npu(), offset.npu(), antiquant_group_size=32
        )
        rows = torch.arange(96) // 32
        expected = x.float() @ ((weight.float() + offset.float()[rows]) * scale.float()[rows])
        torch.testing.assert_close(got.cpu(), expected.half(), rtol=2e-3, atol=5e-2)

    def test_a_group_that_is_no_multiple_of_32_is_refused(self) -> None:
        x, weight = torch.zeros(3, 96, dtype=torch.float16).npu(), codes((96, 16), 2).npu()
        with pytest.raises(RuntimeError, match="multiple of 32"):
            torch_npu.npu_weight_quant_batchmatmul(
                x, weight, torch.ones(2, 16, dtype=torch.float16).npu(), antiquant_group_size=48
            )

    def test_quantised_on_the_way(self) -> None:
        """Atlas 300I's form: float16 rows are quantised here, then multiplied."""
        x, weight = fill((3, 64), torch.float16, "any", 1), codes((32, 64), 2)
        scale = fill((32,), torch.float32, "open", 3) * 0.01
        got = torch_npu.npu_quant_matmul_dequant(x.npu(), weight.npu(), scale.npu())
        rows, token = by_rows(x.float())
        torch.testing.assert_close(
            got.cpu().float(),
            rows @ weight.float().t() * scale * token[:, None],
            rtol=2e-2,
            atol=0.2,
        )

    def test_groups_quantised_on_the_way(self) -> None:
        x, weight = fill((5, 64), torch.float16, "any", 1), codes((3, 32, 64), 2)
        scale = fill((3, 32), torch.float32, "open", 3) * 0.01
        got = torch_npu.npu_quant_grouped_matmul_dequant(
            x.npu(), weight.npu(), scale.npu(), torch.tensor([2, 2, 5]).npu()
        )
        rows, token = by_rows(x.float())
        expected = torch.cat(
            [
                rows[part] @ weight[i].float().t() * scale[i] * token[part, None]
                for i, part in enumerate((slice(0, 2), slice(2, 2), slice(2, 5)))
            ]
        )
        torch.testing.assert_close(got.cpu().float(), expected, rtol=2e-2, atol=0.2)


class TestTransposed:
    @pytest.mark.parametrize("dtype", HALVES, ids=str)
    def test_batch_in_the_middle(self, dtype: torch.dtype) -> None:
        x, weight = fill((6, 3, 16), dtype, "unit", 1), fill((3, 16, 8), dtype, "unit", 2)
        got = torch_npu.npu_transpose_batchmatmul(
            x.npu(), weight.npu(), perm_x1=[1, 0, 2], perm_y=[1, 0, 2]
        )
        near(got, torch.einsum("mbk,bkn->mbn", x.float(), weight.float()))

    def test_rounded_to_int8(self) -> None:
        x, weight = (
            fill((6, 3, 16), torch.float16, "any", 1),
            fill((3, 16, 8), torch.float16, "any", 2),
        )
        scale = fill((24,), torch.float32, "open", 3)
        got = torch_npu.npu_transpose_batchmatmul(
            x.npu(),
            weight.npu(),
            scale=torch_npu.npu_trans_quant_param(scale.npu(), round_mode=1),
            perm_x1=[1, 0, 2],
            perm_y=[1, 0, 2],
        )
        made = torch.einsum("mbk,bkn->mbn", x.float(), weight.float()).reshape(6, 1, 24) * scale
        near_codes(got, made.round().clamp(-128, 127))


def chips_with_mx() -> list[str]:
    import json

    listing = subprocess.run(
        [sys.executable, "-m", "cannsim", "info", "--json"], capture_output=True, check=True
    )
    return [name for name in json.loads(listing.stdout)["chips"] if name.startswith("Ascend950")]


class TestMx:
    def test_this_chip_has_none(self) -> None:
        if torch.npu.get_device_name().startswith("Ascend950"):
            pytest.skip("this chip has it")
        with pytest.raises(RuntimeError, match=r"561003(.|\n)*no kernel for Ascend910"):
            torch_npu.npu_dynamic_mx_quant(torch.zeros(2, 64, dtype=torch.float16).npu())

    @pytest.mark.skipif(not chips_with_mx(), reason="no profile of a chip with MX types")
    def test_on_a_chip_that_has_it(self) -> None:
        command = [sys.executable, "-m", "cannsim", "run", "--chip", chips_with_mx()[0], "--"]
        tests = [sys.executable, "-m", "pytest", "-q", "simulator/tests/test_mx.py"]
        done = subprocess.run(command + tests, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout[-3000:]
        assert "passed" in done.stdout
        assert "skipped" not in done.stdout
