"""What CANN refuses of elementwise, reducing and multiplying operators: code and text."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.nn import functional as F  # noqa: N812

Tensor = torch.Tensor

INVALID = "error code is 161002"

NO_INTEGERS: dict[str, Callable[[Tensor], Tensor]] = {
    "matmul": lambda x: x @ x,
    "mm": lambda x: torch.mm(x, x),
    "bmm": lambda x: torch.bmm(x[None], x[None]),
    "addmm": lambda x: torch.addmm(x, x, x),
    "gelu": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "mish": F.mish,
    "logit": torch.logit,
}


@pytest.mark.parametrize("name", NO_INTEGERS)
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32], ids=str)
def test_integers_are_refused(name: str, dtype: torch.dtype) -> None:
    x = torch.ones(2, 2, dtype=dtype, device="npu")
    with pytest.raises(RuntimeError, match=INVALID) as caught:
        NO_INTEGERS[name](x)
    assert str(dtype).removeprefix("torch.") in str(caught.value)
    assert "float32, float16, bfloat16" in str(caught.value)


@pytest.mark.parametrize("name", NO_INTEGERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_the_same_with_numbers_that_it_takes(name: str, dtype: torch.dtype) -> None:
    x = torch.full((2, 2), 0.5, dtype=dtype)
    expected = NO_INTEGERS[name](x)
    torch.testing.assert_close(NO_INTEGERS[name](x.npu()).cpu(), expected)


@pytest.mark.parametrize(
    "call", [torch.topk, torch.argmax, torch.kthvalue], ids=["topk", "argmax", "kthvalue"]
)
def test_bool_has_no_order(call: Callable[..., object]) -> None:
    x = torch.tensor([True, False, True], device="npu")
    with pytest.raises(RuntimeError, match=r"(?i)bool"):
        call(x, 1) if call is not torch.argmax else call(x)


def test_more_than_eight_dimensions() -> None:
    x = torch.ones((1,) * 9, device="npu")
    with pytest.raises(RuntimeError, match="9 dimensions; at most 8"):
        F.gelu(x)


TWO_DEVICES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": torch.add,
    "add_": lambda x, y: x.add_(y),
    "mul": torch.mul,
    "where": lambda x, y: torch.where(x > 0, x, y),
    "scalar tensor": lambda x, y: x * y.sum(),
}


@pytest.mark.parametrize("name", TWO_DEVICES)
def test_operands_on_two_devices(name: str) -> None:
    x, y = torch.ones(3, device="npu:0"), torch.ones(3, device="npu:1")
    with pytest.raises(
        RuntimeError,
        match=r"operands on device \d and on device \d",
    ):
        TWO_DEVICES[name](x, y)
    assert (x + y.to("npu:0")).tolist() == [2, 2, 2], "the device still works"


@pytest.mark.parametrize("source", ["dense", "transposed", "stepped"])
@pytest.mark.parametrize("target", ["dense", "transposed", "stepped"])
def test_copies_between_devices_in_any_layout(source: str, target: str) -> None:
    """torch-npu sends those that are not dense as the older interface's ViewCopy."""
    values = torch.arange(12.0).view(3, 4)

    def laid_out(how: str, device: str, fill: Tensor | None) -> tuple[Tensor, Tensor]:
        if how == "dense":
            base = torch.zeros(3, 4, device=device)
            view = base
        elif how == "transposed":
            base = torch.zeros(4, 3, device=device)
            view = base.t()
        else:
            base = torch.zeros(3, 8, device=device)
            view = base[:, ::2]
        if fill is not None:
            view.copy_(fill)
        return base, view

    _, there = laid_out(source, "npu:0", values)
    base, here = laid_out(target, "npu:1", None)
    here.copy_(there)
    torch.npu.synchronize(0)
    torch.npu.synchronize(1)
    assert torch.equal(here.cpu(), values)
    assert base.cpu().sum() == values.sum(), "what lies between is left alone"
