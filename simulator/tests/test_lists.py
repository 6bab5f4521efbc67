"""Operators over lists of tensors, as optimizers use them, on `npu` against `cpu`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from simulator.tests.tensors import FLOATS, assert_same, fill, shapes

Lists = list[torch.Tensor]

NAMES = """abs acos asin atan cos cosh erf erfc exp expm1 log log10 log1p log2 neg reciprocal
sigmoid sign sin sinh sqrt tan tanh ceil floor round trunc frac"""
UNARY = tuple(NAMES.split())
BINARY = ("add", "sub", "mul", "div", "maximum", "minimum", "pow")

CALLS: dict[str, Callable[[Lists, Lists, Lists], Any]] = {
    **{name: lambda x, y, z, name=name: getattr(torch, f"_foreach_{name}")(x) for name in UNARY},
    **{
        f"{name}_list": lambda x, y, z, name=name: getattr(torch, f"_foreach_{name}")(x, y)
        for name in BINARY
    },
    **{
        f"{name}_scalar": lambda x, y, z, name=name: getattr(torch, f"_foreach_{name}")(x, 2.0)
        for name in BINARY
    },
    **{
        f"{name}_scalars": lambda x, y, z, name=name: getattr(torch, f"_foreach_{name}")(
            x, [1.0 + i for i in range(len(x))]
        )
        for name in BINARY
    },
    "add_alpha": lambda x, y, z: torch._foreach_add(x, y, alpha=0.5),
    "sub_alpha": lambda x, y, z: torch._foreach_sub(x, y, alpha=0.5),
    "addcmul": lambda x, y, z: torch._foreach_addcmul(x, y, z, value=0.5),
    "addcdiv": lambda x, y, z: torch._foreach_addcdiv(x, y, z, value=0.5),
    "addcmul_scalars": lambda x, y, z: torch._foreach_addcmul(x, y, z, [0.5] * len(x)),
    "addcdiv_scalars": lambda x, y, z: torch._foreach_addcdiv(x, y, z, [0.5] * len(x)),
    "lerp_scalar": lambda x, y, z: torch._foreach_lerp(x, y, 0.25),
    "lerp_list": torch._foreach_lerp,
    "pow_of_scalar": lambda x, y, z: torch._foreach_pow(2.0, x),
    "norm": lambda x, y, z: torch._foreach_norm(x),
    "norm_1": lambda x, y, z: torch._foreach_norm(x, 1),
    "copy_": lambda x, y, z: torch._foreach_copy_(x, y),
    "zero_": lambda x, y, z: torch._foreach_zero_(x),
    "add_": lambda x, y, z: torch._foreach_add_(x, y),
}


@pytest.mark.parametrize("name", CALLS)
@given(data=st.data())
def test_agrees_with_aten(name: str, data: st.DataObject) -> None:
    made = data.draw(st.lists(shapes(least=1, most=3, empty=False), min_size=1, max_size=4))
    dtype = data.draw(st.sampled_from(FLOATS))
    domain = "unit" if name in ("acos", "asin") else "positive"
    seed = data.draw(st.integers(0, 999))

    def lists(device: str) -> list[Lists]:
        return [
            [
                fill(shape, dtype, domain, seed + i + 7 * k).to(device)
                for i, shape in enumerate(made)
            ]
            for k in range(3)
        ]

    here, there = lists("cpu"), lists("npu")
    expected, got = CALLS[name](*here), CALLS[name](*there)
    if name.endswith("_"):
        expected, got = here[0], there[0]
    assert_same(tuple(got), tuple(expected))


def test_more_tensors_than_one_launch_takes() -> None:
    x = [torch.full((2,), float(i)) for i in range(70)]
    got = torch._foreach_add([each.npu() for each in x], 1.0)
    assert [each[0].item() for each in got] == [i + 1.0 for i in range(70)]


@pytest.mark.parametrize("bad", [None, float("inf"), float("nan")])
def test_gradients_are_unscaled_and_checked(bad: float | None) -> None:
    gradients = [torch.tensor([2.0, 4.0]).npu(), torch.tensor([8.0]).npu()]
    if bad is not None:
        gradients[1][0] = bad
    found = torch.zeros(1, device="npu")
    torch._amp_foreach_non_finite_check_and_unscale_(
        gradients, found, torch.tensor([0.5], device="npu")
    )
    assert gradients[0].tolist() == [1.0, 2.0]
    assert found.item() == (bad is not None)


@pytest.mark.parametrize("optimizer", ["SGD", "Adam", "AdamW", "RMSprop", "Adagrad"])
def test_optimizers_step_alike(optimizer: str) -> None:
    """Three steps of torch's optimizer, which works on lists where the device has them."""

    def train(device: str) -> list[torch.Tensor]:
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.SiLU(), torch.nn.Linear(8, 2))
        model.to(device)
        made = getattr(torch.optim, optimizer)(model.parameters(), lr=0.05)
        x = fill((5, 4), torch.float32, "any", 1).to(device)
        for _ in range(3):
            made.zero_grad()
            model(x).square().mean().backward()
            made.step()
        return [parameter.detach().cpu() for parameter in model.parameters()]

    for got, expected in zip(train("npu"), train("cpu"), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
