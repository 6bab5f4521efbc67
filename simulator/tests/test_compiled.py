"""The older interface: operators by their type's name, as torch-npu sends them to be compiled."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch_npu
from cannsim import counters
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F  # noqa: N812

from simulator.tests.tensors import assert_same, fill

Tensor = torch.Tensor


@pytest.fixture(autouse=True)
def compiled(first_device: None) -> Iterator[None]:
    """The mode in which torch-npu calls no aclnn function."""
    torch.npu.set_compile_mode(jit_compile=True)
    yield
    torch.npu.set_compile_mode(jit_compile=False)


CASES: dict[str, Callable[[Tensor], Any]] = {
    "Add": lambda x: x + x,
    "AxpyV2": lambda x: torch.add(x, x, alpha=2.5),
    "Sub": lambda x: x - 2 * x,
    "Mul": lambda x: x * x,
    "Exp": torch.exp,
    "Sqrt": lambda x: x.abs().sqrt(),
    "Sigmoid": torch.sigmoid,
    "Tanh": torch.tanh,
    "Relu": torch.relu,
    "SoftmaxV2": lambda x: x.softmax(-1),
    "LogSoftmaxV2": lambda x: x.log_softmax(0),
    "ReduceSum": lambda x: x.sum(-1),
    "ReduceMax": lambda x: x.amax(-1),
    "Greater": lambda x: x > 0,
    "Cast": lambda x: x.to(torch.float16),
    "BatchMatMul": lambda x: torch.bmm(x[None], x.t()[None]),
    "MatMul": lambda x: x @ x.t(),
    "Transpose": lambda x: x.t().contiguous(),
    "ConcatD": lambda x: torch.cat([x, x], 0),
    "TopKV2": lambda x: x.topk(1).values,
    "Sort": lambda x: x.sort(dim=-1, stable=True),
    "NonZero": lambda x: (x > 0).nonzero(),
    "MaskedSelect": lambda x: x.masked_select(x > 0),
    "UniqueWithCountsAndSorting": lambda x: x.round().unique(
        return_inverse=True, return_counts=True
    ),
    "LpNormReduceV2": lambda x: x.norm(),
    "LpNormReduceV2 of 1": lambda x: x.norm(p=1, dim=-1),
    "LpNormReduceV2 of infinity": lambda x: x.norm(p=float("inf"), dim=-1),
    "GatherV2": lambda x: x.index_select(0, torch.tensor([0, 0], device=x.device)),
    "GatherElements": lambda x: x.gather(-1, torch.zeros_like(x, dtype=torch.int64)),
    "LayerNorm": lambda x: F.layer_norm(x, x.shape[-1:]),
    "Gelu": lambda x: F.gelu(x, approximate="tanh"),
    "Conv2D": lambda x: F.conv2d(
        x[None, None], x[:2, None, :2, None], x[:2, 0], stride=(2, 1), padding=(1, 0)
    ),
    "Conv2D of groups": lambda x: F.conv2d(
        x[None, :2, :, None], x[:2, None, :2, None], dilation=(1, 2), groups=2
    ),
    "Conv2D of one dimension": lambda x: F.conv1d(
        x[:, None], x[:2, None, :2], x[:2, 0], stride=2, padding=1
    ),
    "Conv2DTranspose": lambda x: F.conv_transpose2d(
        x[None, :2, :, None], x[:2, :2, None, None], stride=2, output_padding=1, padding=0
    ),
}


@pytest.mark.parametrize("name", CASES)
@given(rows=st.integers(2, 5), columns=st.integers(2, 5), seed=st.integers(0, 999))
def test_agrees_with_aten(name: str, rows: int, columns: int, seed: int) -> None:
    x = fill((rows, columns), torch.float32, "any", seed)
    assert_same(CASES[name](x.npu()), CASES[name](x))


@pytest.mark.parametrize("name", [n for n in CASES if " " not in n and n != "Sort"])
def test_goes_by_its_type(name: str) -> None:
    """No aclnn function computes it, and an operator of (about) that name does."""
    x = fill((3, 4), torch.float32, "any", 1).npu()
    torch.npu.synchronize()
    counters.reset()
    CASES[name](x)
    torch.npu.synchronize()
    launched = counters.snapshot()["launches"]
    assert any(each.startswith(name) for each in launched), sorted(launched)


@pytest.mark.parametrize("width", [64, 128])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_rotation_by_halves(width: int, dtype: torch.dtype) -> None:
    """As the 310P has it, in the widths of heads that torch-npu sends there as one operator."""
    x, angle = fill((1, 3, 2, width), dtype, "any", 1), fill((1, 3, 1, width), dtype, "unit", 2)
    cos, sin = angle.float().cos().to(dtype), angle.float().sin().to(dtype)
    first, second = x.float().chunk(2, -1)
    expected = x.float() * cos.float() + torch.cat([-second, first], -1) * sin.float()
    counters.reset()
    got = torch_npu.npu_rotary_mul(x.npu(), cos.npu(), sin.npu(), "half")
    assert_same(got, expected.to(dtype))
    assert any(each.startswith("RotaryMul") for each in counters.snapshot()["launches"])


def test_outputs_of_unknown_length_may_be_empty() -> None:
    x = torch.zeros(3, 4, device="npu")
    assert x.nonzero().shape == (0, 2)
    assert x.masked_select(x > 1).shape == (0,)


def test_an_operator_that_is_not_simulated_is_named() -> None:
    x = torch.ones(2, 3, 4, 4, device="npu")
    with pytest.raises(RuntimeError, match=r"operator \w+ is not simulated .* LEGACY\(\w+\)"):
        torch.linalg.svd(x)
