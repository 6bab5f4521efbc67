"""Gradients on `npu` against autograd on `cpu`: each backward operator, over shapes and values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F  # noqa: N812

from simulator.tests.tensors import fill, indices

Tensor = torch.Tensor


@dataclass(frozen=True)
class Gradient:
    """``call(random, x, *parameters)`` is differentiated for all of its tensors.

    ``shape``: dimensions of x, of which those given as 0 are drawn; ``parameters``: shapes made
    from x's.
    """

    name: str
    call: Callable[..., Tensor]
    shape: tuple[int, ...] = (0, 0)
    parameters: Callable[[tuple[int, ...]], tuple[tuple[int, ...], ...]] = lambda _: ()
    domain: str = "any"


def _activations(names: str) -> list[Gradient]:
    return [
        Gradient(name, lambda r, x, name=name: getattr(F, name)(x), (0, 0, 0))
        for name in names.split()
    ]


def _padding(name: str, dims: int) -> Gradient:
    return Gradient(
        f"pad_{name}_{dims}d",
        lambda r, x: F.pad(x, (1, 1) * dims, mode=name),
        (0, 0, *(3,) * dims),
    )


def _resizing(mode: str, dims: int, **options: Any) -> Gradient:
    return Gradient(
        f"interpolate_{mode}_{dims}d{'_aa' * bool(options.get('antialias'))}",
        lambda r, x: F.interpolate(x, tuple(range(5, 5 + dims)), mode=mode, **options),
        (0, 0, *(3,) * dims),
    )


def _loss(name: str, domain: str = "open", **options: Any) -> list[Gradient]:
    return [
        Gradient(
            f"{name}_{reduction}",
            lambda r, x, reduction=reduction: getattr(F, name)(
                x, fill(tuple(x.shape), x.dtype, "open", 3).to(x.device), reduction=reduction
            ),
            domain=domain,
        )
        for reduction in ("none", "mean", "sum")
    ]


GRADIENTS = [
    *_activations("sigmoid tanh silu hardsigmoid hardswish mish elu hardshrink softshrink"),
    *_activations("hardtanh leaky_relu logsigmoid softplus relu"),
    Gradient("gelu", lambda r, x: F.gelu(x, approximate="tanh")),
    Gradient("glu", lambda r, x: F.glu(x, -1), (0, 4)),
    Gradient("threshold", lambda r, x: F.threshold(x, 0.5, 2.0)),
    Gradient("prelu", lambda r, x, w: F.prelu(x, w), (0, 0, 2), lambda s: ((s[1],),)),
    Gradient("prelu_one", lambda r, x, w: F.prelu(x, w), (0, 0), lambda s: ((1,),)),
    Gradient("softmax", lambda r, x: x.softmax(-1)),
    Gradient("log_softmax", lambda r, x: x.log_softmax(0)),
    Gradient("logit", lambda r, x: x.logit(1e-3), domain="open"),
    Gradient(
        "layer_norm",
        lambda r, x, w, b: F.layer_norm(x, x.shape[-1:], w, b),
        (0, 0, 4),
        lambda s: ((s[-1],), (s[-1],)),
    ),
    Gradient(
        "group_norm",
        lambda r, x, w, b: F.group_norm(x, 2, w, b),
        (0, 4, 3),
        lambda s: ((s[1],), (s[1],)),
    ),
    Gradient(
        "batch_norm",
        lambda r, x, w, b: F.batch_norm(x, None, None, w, b, training=True),
        (3, 0, 4),
        lambda s: ((s[1],), (s[1],)),
    ),
    *_loss("mse_loss"),
    *_loss("l1_loss"),
    *_loss("smooth_l1_loss"),
    *_loss("binary_cross_entropy"),
    *_loss("binary_cross_entropy_with_logits"),
    *_loss("soft_margin_loss"),
    Gradient("kl_div", lambda r, x: F.kl_div(x, x.detach().softmax(-1), reduction="sum")),
    Gradient(
        "cross_entropy", lambda r, x: F.cross_entropy(x, indices(r, x, (x.size(0),), 3)), (0, 3)
    ),
    Gradient("nll_loss_2d", lambda r, x: F.nll_loss(x, indices(r, x, (2, 3, 3), 4)), (2, 4, 3, 3)),
    Gradient(
        "conv2d",
        lambda r, x, w, b: F.conv2d(x, w, b, padding=1),
        (0, 2, 4, 4),
        lambda s: ((3, 2, 3, 3), (3,)),
    ),
    Gradient("avg_pool2d", lambda r, x: F.avg_pool2d(x, 2), (0, 0, 4, 4)),
    Gradient("avg_pool3d", lambda r, x: F.avg_pool3d(x, 2), (0, 0, 4, 4, 2)),
    Gradient("max_pool2d", lambda r, x: F.max_pool2d(x, 2), (0, 0, 4, 4)),
    Gradient("max_pool3d", lambda r, x: F.max_pool3d(x, 2), (1, 0, 4, 4, 2)),
    Gradient("adaptive_avg_pool2d", lambda r, x: F.adaptive_avg_pool2d(x, 2), (0, 0, 4, 4)),
    Gradient("adaptive_avg_pool3d", lambda r, x: F.adaptive_avg_pool3d(x, 1), (0, 0, 4, 2, 2)),
    Gradient("adaptive_max_pool2d", lambda r, x: F.adaptive_max_pool2d(x, 2), (0, 0, 4, 4)),
    *(_padding("reflect", dims) for dims in (1, 2, 3)),
    *(_padding("replicate", dims) for dims in (1, 2, 3)),
    *(_resizing("nearest", dims) for dims in (1, 2, 3)),
    *(_resizing("nearest-exact", dims) for dims in (1, 2, 3)),
    _resizing("linear", 1),
    _resizing("bilinear", 2, align_corners=True),
    _resizing("bilinear", 2, antialias=True),
    _resizing("bicubic", 2),
    _resizing("trilinear", 3),
    Gradient(
        "grid_sample",
        lambda r, x: F.grid_sample(
            x, fill((2, 3, 3, 2), x.dtype, "unit", 1).to(x.device), align_corners=False
        ),
        (2, 0, 4, 4),
    ),
    Gradient("embedding", lambda r, x: F.embedding(indices(r, x, (4,), x.size(0)), x)),
    Gradient("repeat_interleave", lambda r, x: x.repeat_interleave(2, 0)),
    Gradient("unfold", lambda r, x: x.unfold(0, 2, 1), (4, 0)),
    Gradient("fold", lambda r, x: F.fold(x, (4, 4), 2), (0, 4, 9)),
    Gradient("im2col", lambda r, x: F.unfold(x, 2), (0, 0, 4, 4)),
    Gradient("cdist", lambda r, x, y: torch.cdist(x, y, p=1), (0, 3), lambda s: ((4, 3),)),
]


def differentiate(case: Gradient, tensors: list[Tensor], seed: int) -> list[Tensor]:
    made = [tensor.requires_grad_() for tensor in tensors]
    result = case.call(Random(seed), *made)
    weights = fill(tuple(result.shape), result.dtype, "any", seed).to(result.device)
    return [result, *torch.autograd.grad((result * weights).sum(), made)]


@pytest.mark.parametrize("case", GRADIENTS, ids=lambda case: case.name)
@given(data=st.data())
def test_agrees_with_autograd(case: Gradient, data: st.DataObject) -> None:
    shape = tuple(size or data.draw(st.integers(1, 4)) for size in case.shape)
    seed = data.draw(st.integers(0, 999))
    shapes = (shape, *case.parameters(shape))
    values = [fill(each, torch.float32, case.domain, seed + i) for i, each in enumerate(shapes)]
    expected = differentiate(case, [value.clone() for value in values], seed)
    got = differentiate(case, [value.to("npu") for value in values], seed)
    for one, other in zip(got, expected, strict=True):
        assert one.device.type == "npu"
        torch.testing.assert_close(one.detach().cpu(), other.detach(), rtol=1e-4, atol=1e-5)


def test_rms_norm_gradient() -> None:
    """torch_npu's own operator against autograd of its formula."""
    import torch_npu

    x, gamma = fill((3, 5, 8), torch.float32, "any", 1), fill((8,), torch.float32, "any", 2)
    inputs = [x.clone().requires_grad_(), gamma.clone().requires_grad_()]
    plain = inputs[0] * torch.rsqrt(inputs[0].square().mean(-1, True) + 1e-6) * inputs[1]
    expected = torch.autograd.grad(plain.square().sum(), inputs)
    inputs = [x.npu().requires_grad_(), gamma.npu().requires_grad_()]
    made = torch_npu.npu_rms_norm(*inputs, 1e-6)[0]
    got = torch.autograd.grad(made.square().sum(), inputs)
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one.cpu(), other, rtol=1e-4, atol=1e-4)
