"""MX and float8 forms, which Ascend950 has: against plain formulas, block by block.

On another chip the module is skipped; test_quantisation.py runs it on a chip that has them.
"""

from __future__ import annotations

import math

import pytest
import torch
import torch_npu

from simulator.tests.tensors import TOLERANCES, fill

if not torch.npu.get_device_name().startswith("Ascend950"):
    pytest.skip("the chip has no MX types", allow_module_level=True)

HALVES = (torch.float16, torch.bfloat16)
E5M2, E4M3, E2M1, E1M2 = 291, 292, 296, 297
"""torch-npu's numbers of the types (torch_npu.float8_e5m2 and so on)."""

GREATEST = {E5M2: 57344.0, E4M3: 448.0, E2M1: 6.0, E1M2: 1.75}
EXPONENT = {E5M2: 15, E4M3: 8, E2M1: 2, E1M2: 0}
FOUR_BITS = {
    E2M1: [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0],
    E1M2: [0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75],
}


def near(got: torch.Tensor, expected: torch.Tensor, loose: float = 1.0) -> None:
    rtol, atol = TOLERANCES[got.dtype]
    torch.testing.assert_close(
        got.cpu(), expected.to(got.dtype), rtol=rtol * loose, atol=atol * loose
    )


def raw(codes: torch.Tensor) -> torch.Tensor:
    return codes.cpu().contiguous().view(torch.uint8)


def decode(codes: torch.Tensor, kind: int) -> torch.Tensor:
    """What the codes stand for; float4 lie two to a byte, the first in the low half."""
    if kind in (E5M2, E4M3):
        return raw(codes).view(torch.float8_e5m2 if kind == E5M2 else torch.float8_e4m3fn).float()
    nibbles = torch.stack([raw(codes) & 15, raw(codes) >> 4], -1).flatten(-2).long()
    table = torch.tensor(FOUR_BITS[kind])
    return table[nibbles & 7] * torch.where(nibbles >= 8, -1.0, 1.0)


def nearest(value: float, kind: int) -> float:
    """The representable number nearest to ``value``; of two, the one with the even code."""
    if kind in (E5M2, E4M3):
        dtype = torch.float8_e5m2 if kind == E5M2 else torch.float8_e4m3fn
        limit = GREATEST[kind]
        return torch.tensor(max(-limit, min(limit, value))).to(dtype).float().item()
    grid = FOUR_BITS[kind]
    size = min(abs(value), grid[-1])
    order = sorted(range(8), key=lambda i: (abs(grid[i] - size), i % 2))
    return math.copysign(grid[order[0]], value)


def exponent_of(block: list[float], kind: int, algorithm: int) -> int:
    most = max(abs(v) for v in block)
    if most == 0:
        return -127
    if algorithm == 0:
        return math.floor(math.log2(most)) - EXPONENT[kind]
    scale = most / GREATEST[kind]
    return math.ceil(math.log2(scale))


def blocks_of(row: torch.Tensor) -> list[list[float]]:
    return [part.tolist() for part in row.float().split(32)]


class TestQuantisation:
    @pytest.mark.parametrize("dtype", [torch.float32, *HALVES], ids=str)
    @pytest.mark.parametrize(  # a scale rounded up is float8's alone
        ("kind", "algorithm"), [(E5M2, 0), (E4M3, 0), (E2M1, 0), (E1M2, 0), (E5M2, 1), (E4M3, 1)]
    )
    def test_blocks_of_the_last_dimension(
        self, dtype: torch.dtype, kind: int, algorithm: int
    ) -> None:
        x = fill((3, 80), dtype, "any", 1)
        x[1, :32] = 0
        y, scale = torch_npu.npu_dynamic_mx_quant(x.npu(), dst_type=kind, scale_alg=algorithm)
        values, exponents = decode(y, kind), raw(scale).long() - 127
        assert exponents.shape == (3, 2, 2)
        for row in range(3):
            for i, block in enumerate(blocks_of(x[row])):
                exponent = exponent_of(block, kind, algorithm)
                assert exponents[row].flatten()[i].item() == exponent
                expected = [nearest(v / 2.0**exponent, kind) if any(block) else 0.0 for v in block]
                assert values[row, 32 * i : 32 * i + len(block)].tolist() == expected
        assert raw(scale)[:, 1, 1].tolist() == [0, 0, 0], "what fills up the last pair is zero"

    def test_another_axis_interleaves_pairs_of_rows(self) -> None:
        x = fill((96, 4), torch.bfloat16, "any", 1)
        y, scale = torch_npu.npu_dynamic_mx_quant(x.npu(), axis=0, dst_type=E4M3)
        assert scale.shape == (2, 4, 2)
        turned, other = torch_npu.npu_dynamic_mx_quant(x.t().contiguous().npu(), dst_type=E4M3)
        assert torch.equal(raw(y).view(96, 4), raw(turned).view(4, 96).t())
        assert torch.equal(raw(scale).view(2, 4, 2), raw(other).view(4, 2, 2).transpose(0, 1))

    @pytest.mark.parametrize("added", [False, True])
    def test_after_a_normalisation(self, added: bool) -> None:
        x, gamma = fill((4, 64), torch.bfloat16, "any", 1), fill((64,), torch.bfloat16, "any", 2)
        if added:
            y, total, scale, _ = torch_npu.npu_add_rms_norm_dynamic_mx_quant(
                x.npu(), x.npu(), gamma.npu(), dst_type=E4M3
            )
            near(total, 2 * x.float())
        else:
            y, scale, _ = torch_npu.npu_rms_norm_dynamic_mx_quant(
                x.npu(), gamma.npu(), dst_type=E4M3
            )
        wide = x.float() * (2 if added else 1)
        normal = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-6) * gamma.float()
        scales = torch.exp2(raw(scale).view(4, 2).float() - 127).repeat_interleave(32, -1)
        # float8 has three bits after the point: a sixteenth of the number, at most.
        torch.testing.assert_close(decode(y, E4M3) * scales, normal, rtol=1 / 14, atol=2e-2)

    @pytest.mark.parametrize(
        ("more", "message"),
        [
            ({"block_size": 48}, "must be divisible by 32"),
            ({"dst_type": E1M2, "scale_alg": 1}, "scale algorithm 1 does not fit"),
            ({"dst_type": E4M3, "round_mode": "floor"}, "round mode floor; rint alone"),
        ],
    )
    def test_refusals(self, more: dict[str, object], message: str) -> None:
        with pytest.raises(RuntimeError, match=message):
            torch_npu.npu_dynamic_mx_quant(torch.zeros(2, 64, dtype=torch.float16).npu(), **more)


class TestProducts:
    def operands(self, kind: int) -> tuple[torch.Tensor, ...]:
        x, weight = (fill((m, 128), torch.bfloat16, "unit", m) for m in (5, 8))
        return *torch_npu.npu_dynamic_mx_quant(
            x.npu(), dst_type=kind
        ), *torch_npu.npu_dynamic_mx_quant(weight.npu(), dst_type=kind)

    def wide(self, codes: torch.Tensor, scale: torch.Tensor, kind: int) -> torch.Tensor:
        values = decode(codes, kind)
        factors = torch.exp2(raw(scale).view(values.size(0), -1).float() - 127)
        return values * factors.repeat_interleave(32, -1)

    @pytest.mark.parametrize("out", HALVES, ids=str)
    def test_float8_with_shared_exponents(self, out: torch.dtype) -> None:
        x, x_scale, weight, weight_scale = self.operands(E4M3)
        got = torch_npu.npu_quant_matmul(
            x,
            weight.t(),
            weight_scale.transpose(0, 1),
            pertoken_scale=x_scale,
            output_dtype=out,
            scale_dtype=torch_npu.float8_e8m0fnu,
            pertoken_scale_dtype=torch_npu.float8_e8m0fnu,
            group_sizes=[1, 1, 32],
        )
        expected = self.wide(x, x_scale, E4M3) @ self.wide(weight, weight_scale, E4M3).t()
        near(got, expected, 2)

    def test_batch_in_the_middle(self) -> None:
        """float8 with a factor for each row and each column."""
        x = fill((6, 3, 32), torch.float32, "unit", 1).to(torch.float8_e4m3fn)
        weight = fill((3, 32, 16), torch.float32, "unit", 2).to(torch.float8_e4m3fn)
        rows, columns = (fill((n,), torch.float32, "open", n) for n in (6, 16))
        got = torch_npu.npu_transpose_quant_batchmatmul(
            x.npu(),
            weight.npu(),
            torch.bfloat16,
            x1_scale=rows.npu(),
            x2_scale=columns.npu(),
            perm_x1=[1, 0, 2],
            perm_x2=[0, 1, 2],
            perm_y=[1, 0, 2],
        )
        product = torch.einsum("mbk,bkn->mbn", x.float(), weight.float())
        near(got, product * rows[:, None, None] * columns, 2)
