"""The table of ordinary operators that are compared with ATen on the CPU, as data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

import torch
from torch.nn import functional as F  # noqa: N812

from simulator.tests.tensors import (
    ALL,
    FLOATS,
    INTEGERS,
    NUMBERS,
    axes,
    axis,
    fill,
    indices,
    like,
    mask,
)

Tensor = torch.Tensor


@dataclass(frozen=True)
class Case:
    """``call(random, *tensors)`` is compared between devices; ``random`` has the same state on
    both. The tensors broadcast against each other, from ``domain`` (see tensors.fill).
    """

    name: str
    call: Callable[..., Any]
    dtypes: tuple[torch.dtype, ...] = FLOATS
    operands: int = 1
    domain: str = "any"
    least_dims: int = 0
    most_dims: int = 4
    empty: bool = True


def _unary(names: str, domain: str = "any", dtypes: tuple[torch.dtype, ...] = FLOATS) -> list[Case]:
    return [
        Case(name, lambda r, x, name=name: getattr(torch, name)(x), dtypes, domain=domain)
        for name in names.split()
    ]


def _inplace(names: str, domain: str = "any") -> list[Case]:
    return [
        Case(name, lambda r, x, name=name: getattr(x.clone(), name)(), domain=domain)
        for name in names.split()
    ]


def _binary(names: str, dtypes: tuple[torch.dtype, ...], domain: str = "any") -> list[Case]:
    return [
        Case(name, lambda r, x, y, name=name: getattr(torch, name)(x, y), dtypes, 2, domain)
        for name in names.split()
    ]


def _scalar(names: str, dtypes: tuple[torch.dtype, ...], values: tuple[float, ...]) -> list[Case]:
    return [
        Case(
            f"{name}_scalar",
            lambda r, x, name=name: getattr(torch, name)(x, r.choice(values)),
            dtypes,
        )
        for name in names.split()
    ]


def _activation(names: str) -> list[Case]:
    return [Case(name, lambda r, x, name=name: getattr(F, name)(x)) for name in names.split()]


ELEMENTWISE = [
    *_unary("abs neg sign square", dtypes=NUMBERS),
    *_unary("ceil floor round trunc frac sin cos tan sinh cosh tanh atan asinh exp exp2 expm1"),
    *_unary("sigmoid erf erfc isnan isinf isfinite signbit nan_to_num sinc"),
    *_unary("log log2 log10 log1p sqrt rsqrt reciprocal acosh", "positive"),
    *_unary("acos asin atanh erfinv", "unit"),
    *_unary("logit", "open"),
    *_unary("bitwise_not", dtypes=(*INTEGERS, torch.bool)),
    *_unary("logical_not", dtypes=ALL),
    *_inplace("abs_ neg_ ceil_ exp_ sigmoid_ tanh_ relu_ zero_ square_ sin_"),
    *_inplace("sqrt_ rsqrt_ log_ reciprocal_", "positive"),
    *_binary("add sub mul maximum minimum", NUMBERS),
    *_binary("true_divide", NUMBERS, "positive"),
    *_binary("floor_divide remainder fmod", NUMBERS, "positive"),
    *_binary("pow xlogy", FLOATS, "positive"),
    *_binary("atan2 logaddexp", FLOATS),
    *_binary("eq ne lt le gt ge logical_and logical_or logical_xor", ALL),
    *_binary("bitwise_and bitwise_or bitwise_xor", (*INTEGERS, torch.bool)),
    *_binary("bitwise_left_shift bitwise_right_shift", INTEGERS, "positive"),
    *_binary("isclose", FLOATS),
    *_scalar("add sub mul eq ne lt le gt ge", NUMBERS, (-3, 2, 5)),
    *_scalar("add sub mul true_divide eq lt", FLOATS, (-2.5, 0.5, 3.0)),
    *_scalar("floor_divide remainder fmod", NUMBERS, (2, 3)),
    *_scalar("pow", FLOATS, (2, 3)),
    *_scalar("bitwise_and bitwise_or bitwise_xor", INTEGERS, (1, 6)),
    Case("pow_of_scalar", lambda r, x: 2.0**x),
    Case("rsub", lambda r, x: 3 - x, NUMBERS),
    Case("add_alpha", lambda r, x, y: torch.add(x, y, alpha=2), NUMBERS, 2),
    Case("sub_alpha", lambda r, x, y: torch.sub(x, y, alpha=2), NUMBERS, 2),
    Case("add_", lambda r, x: x.clone().add_(like(r, x)), NUMBERS),
    Case("mul_", lambda r, x: x.clone().mul_(like(r, x)), NUMBERS),
    Case(
        "div_trunc", lambda r, x, y: torch.div(x, y, rounding_mode="trunc"), NUMBERS, 2, "positive"
    ),
    Case(
        "div_floor", lambda r, x, y: torch.div(x, y, rounding_mode="floor"), NUMBERS, 2, "positive"
    ),
    Case("div_scalar_trunc", lambda r, x: torch.div(x, 3, rounding_mode="trunc"), NUMBERS),
    Case("addcmul", lambda r, x, y, z: torch.addcmul(x, y, z, value=0.5), FLOATS, 3),
    Case("addcdiv", lambda r, x, y, z: torch.addcdiv(x, y, z, value=0.5), FLOATS, 3, "positive"),
    Case("lerp", lambda r, x, y: torch.lerp(x, y, 0.25), FLOATS, 2),
    Case("lerp_tensor", lambda r, x, y, z: torch.lerp(x, y, z), FLOATS, 3, "open"),
    Case("clamp", lambda r, x: torch.clamp(x, -1, 2), NUMBERS),
    Case("clamp_min", lambda r, x: x.clamp(min=1), NUMBERS),
    Case("clamp_max_", lambda r, x: x.clone().clamp_(max=1), NUMBERS),
    Case("clamp_tensor", lambda r, x: x.clamp(like(r, x), like(r, x)), FLOATS),
    Case("where", lambda r, x, y: torch.where(x > y, x, y), NUMBERS, 2),
    Case("where_scalar", lambda r, x: torch.where(x > 0, x, 0), NUMBERS),
    Case("equal", lambda r, x: (torch.equal(x, x.clone()), torch.equal(x, like(r, x)))),
    Case("isin", lambda r, x: torch.isin(x, indices(r, x, (4,), 6)), INTEGERS),
    Case("round_decimals", lambda r, x: torch.round(x, decimals=2), (torch.float32,)),
]

ACTIVATIONS = [
    *_activation("relu silu softplus leaky_relu elu celu hardtanh relu6 selu mish hardswish"),
    *_activation("hardsigmoid logsigmoid softsign tanhshrink softshrink hardshrink"),
    # torch-npu passes on no approximation: but on the 950 it is the form with tanh, see test_fused.
    Case("gelu", lambda r, x: F.gelu(x, approximate="tanh")),
    Case("threshold", lambda r, x: F.threshold(x, 0.5, -1.0)),
    Case("glu", lambda r, x: F.glu(torch.cat([x, x], 0), 0), least_dims=1),
    Case("prelu", lambda r, x: F.prelu(x, torch.tensor([0.25], dtype=x.dtype, device=x.device))),
    Case("softmax", lambda r, x: torch.softmax(x, axis(r, x))),
    Case("softmax_widened", lambda r, x: torch.softmax(x, axis(r, x), dtype=torch.float32)),
    Case("log_softmax", lambda r, x: torch.log_softmax(x, axis(r, x))),
    Case("log_softmax_widened", lambda r, x: x.log_softmax(axis(r, x), dtype=torch.float32)),
]


def _dense(x: Tensor) -> Tensor:
    """Dense on the CPU, where ATen's selection reads past an expanded dimension."""
    return x if x.is_npu else x.contiguous()


REDUCTIONS = [
    Case("sum", lambda r, x: x.sum(), ALL),
    Case("sum_dims", lambda r, x: x.sum(axes(r, x), keepdim=r.random() < 0.5), ALL),
    Case("sum_dtype", lambda r, x: x.sum(dtype=torch.float32), NUMBERS),
    Case("mean", lambda r, x: x.mean(), FLOATS, empty=False),
    Case("mean_dims", lambda r, x: x.mean(axes(r, x), keepdim=True), FLOATS, empty=False),
    Case("prod", lambda r, x: x.prod(), (*INTEGERS, torch.float32), domain="unit"),
    Case("prod_dim", lambda r, x: x.prod(axis(r, x)), (torch.float32,), domain="unit"),
    Case("amax", lambda r, x: x.amax(axes(r, x)), NUMBERS, empty=False),
    Case("amin", lambda r, x: x.amin(axes(r, x), keepdim=True), NUMBERS, empty=False),
    Case("aminmax", lambda r, x: torch.aminmax(x), FLOATS, empty=False),
    Case("max", lambda r, x: x.max(), NUMBERS, empty=False),
    Case("min", lambda r, x: x.min(), NUMBERS, empty=False),
    Case("max_dim", lambda r, x: x.max(axis(r, x)), NUMBERS, empty=False),
    Case("min_dim", lambda r, x: x.min(axis(r, x), keepdim=True), NUMBERS, empty=False),
    Case("argmax", lambda r, x: x.argmax(), NUMBERS, empty=False),
    Case("argmax_dim", lambda r, x: x.argmax(axis(r, x), keepdim=True), NUMBERS, empty=False),
    Case("argmin", lambda r, x: x.argmin(axis(r, x)), NUMBERS, empty=False),
    Case("all", lambda r, x: (x.all(), x.any()), ALL),
    Case("all_dim", lambda r, x: (x.all(axis(r, x)), x.any(axis(r, x))), ALL),
    Case("var", lambda r, x: x.var(-1), (torch.float32,), least_dims=1, empty=False),
    Case("std", lambda r, x: x.std(-1, correction=0), FLOATS, least_dims=1, empty=False),
    Case(
        "var_mean", lambda r, x: torch.var_mean(x, -1, correction=0), (torch.float32,), empty=False
    ),
    Case(
        "std_mean", lambda r, x: torch.std_mean(x, -1, correction=0), (torch.float32,), empty=False
    ),
    Case("logsumexp", lambda r, x: x.logsumexp(axis(r, x)), FLOATS, empty=False),
    Case("norm", lambda r, x: x.norm(), (torch.float32,), empty=False),
    Case("vector_norm", lambda r, x: torch.linalg.vector_norm(x, 2, axis(r, x)), (torch.float32,)),
    Case("normalize", lambda r, x: F.normalize(x, dim=-1), (torch.float32,), least_dims=1),
    Case("median", lambda r, x: x.median(), FLOATS, empty=False),
    Case("median_dim", lambda r, x: _dense(x).median(-1).values, FLOATS, least_dims=1, empty=False),
    Case(
        "nanmedian_dim",
        lambda r, x: _dense(x).nanmedian(-1).values,
        FLOATS,
        least_dims=1,
        empty=False,
    ),
    Case("cumsum", lambda r, x: x.cumsum(axis(r, x)), NUMBERS),
    Case("cumprod", lambda r, x: x.cumprod(axis(r, x)), (torch.float32,), domain="unit"),
    Case("cummax", lambda r, x: x.cummax(axis(r, x)), FLOATS, least_dims=1, empty=False),
    Case("cummin", lambda r, x: x.cummin(axis(r, x)), FLOATS, least_dims=1, empty=False),
    Case("sort", lambda r, x: x.sort(dim=axis(r, x), stable=True), FLOATS, least_dims=1),
    Case("sort_down", lambda r, x: x.sort(-1, True).values, NUMBERS, least_dims=1),
    Case("argsort", lambda r, x: x.argsort(dim=-1, stable=True), FLOATS, least_dims=1),
    Case(
        "topk",
        lambda r, x: x.topk(r.randint(1, x.size(-1))).values,
        FLOATS,
        least_dims=1,
        empty=False,
    ),
    Case("topk_least", lambda r, x: x.topk(1, largest=False), FLOATS, least_dims=1, empty=False),
    Case(
        "kthvalue", lambda r, x: _dense(x).kthvalue(1), (torch.float32,), least_dims=1, empty=False
    ),
    Case("count_nonzero", lambda r, x: x.count_nonzero(), ALL),
    Case(
        "bincount", lambda r, x: x.abs().bincount(minlength=9), INTEGERS, least_dims=1, most_dims=1
    ),
    Case(
        "searchsorted",
        lambda r, x: torch.searchsorted(x.sort(-1).values, like(r, x), right=r.random() < 0.5),
        (torch.float32,),
        least_dims=1,
        empty=False,
    ),
    Case(
        "bucketize",
        lambda r, x: torch.bucketize(x, indices(r, x, (5,), 9).float().sort().values),
        (torch.float32,),
    ),
    Case("unique", lambda r, x: x.unique(return_inverse=True, return_counts=True), INTEGERS),
    Case("unique_values", lambda r, x: x.unique(), FLOATS),
    Case(
        "unique_consecutive",
        lambda r, x: x.unique_consecutive(return_counts=True),
        INTEGERS,
        empty=False,
    ),
    Case(
        "cdist",
        lambda r, x: torch.cdist(x, x),
        (torch.float32,),
        least_dims=2,
        most_dims=3,
        empty=False,
    ),
]


def _advanced_put(r: Random, x: Tensor) -> Tensor:
    made = x.clone()
    made[indices(r, x, (1,), x.size(0))] = 3
    return made


def _accumulate(r: Random, x: Tensor) -> Tensor:
    index = indices(r, x, (4,), x.size(0))
    return x.clone().index_put_((index,), like(r, x, (4, *x.shape[1:])), accumulate=True)


def _scatter(r: Random, x: Tensor) -> Tensor:
    index = torch.arange(x.size(-1), device=x.device).flip(0).expand(x.shape)
    return x.clone().scatter_(-1, index, like(r, x))


def _masked_scatter(r: Random, x: Tensor) -> Tensor:
    return x.clone().masked_scatter_(mask(r, x), like(r, x))


INDEXING = [
    Case("index", lambda r, x: x[indices(r, x, (3, 2), x.size(0))], ALL, least_dims=1, empty=False),
    Case(
        "index_int32",
        lambda r, x: x[indices(r, x, (3,), x.size(0), torch.int32)],
        FLOATS,
        least_dims=1,
        empty=False,
    ),
    Case(
        "index_second",
        lambda r, x: x[:, indices(r, x, (3,), x.size(1))],
        ALL,
        least_dims=2,
        empty=False,
    ),
    Case(
        "index_both",
        lambda r, x: x[indices(r, x, (3, 1), x.size(0)), indices(r, x, (2,), x.size(1))],
        NUMBERS,
        least_dims=2,
        empty=False,
    ),
    Case("index_none", lambda r, x: x[indices(r, x, (0,), 1)], FLOATS, least_dims=1, empty=False),
    Case("index_mask", lambda r, x: x[mask(r, x)], ALL),
    Case("index_put", _advanced_put, NUMBERS, least_dims=1, empty=False),
    Case("index_put_accumulate", _accumulate, NUMBERS, least_dims=1, empty=False),
    Case(
        "index_put_mask",
        lambda r, x: x.clone().index_put_((mask(r, x),), x.new_tensor(2)),
        NUMBERS,
        least_dims=1,
    ),
    Case(
        "index_select",
        lambda r, x: x.index_select(axis(r, x), indices(r, x, (3,), min(x.shape))),
        ALL,
        least_dims=1,
        empty=False,
    ),
    Case(
        "index_add",
        lambda r, x: x.index_add(0, indices(r, x, (3,), x.size(0)), like(r, x, (3, *x.shape[1:]))),
        NUMBERS,
        least_dims=1,
        empty=False,
    ),
    Case(
        "index_copy",
        lambda r, x: x.index_copy(0, indices(r, x, (1,), x.size(0)), like(r, x, (1, *x.shape[1:]))),
        NUMBERS,
        least_dims=1,
        empty=False,
    ),
    Case(
        "index_fill",
        lambda r, x: x.index_fill(0, indices(r, x, (2,), x.size(0)), 5),
        NUMBERS,
        least_dims=1,
        empty=False,
    ),
    Case("take", lambda r, x: x.take(indices(r, x, (4,), x.numel())), NUMBERS, empty=False),
    Case(
        "gather",
        lambda r, x: x.gather(-1, indices(r, x, (*x.shape[:-1], 3), x.size(-1))),
        ALL,
        least_dims=1,
        empty=False,
    ),
    Case(
        "take_along_dim",
        lambda r, x: x.take_along_dim(x.argsort(dim=-1, stable=True), -1),
        FLOATS,
        least_dims=1,
    ),
    Case("scatter", _scatter, NUMBERS, least_dims=1, empty=False),
    Case(
        "scatter_value",
        lambda r, x: x.scatter(-1, indices(r, x, tuple(x.shape), x.size(-1)), 7),
        NUMBERS,
        least_dims=1,
        empty=False,
    ),
    Case(
        "scatter_add",
        lambda r, x: x.scatter_add(-1, indices(r, x, tuple(x.shape), x.size(-1)), like(r, x)),
        NUMBERS,
        least_dims=1,
        empty=False,
    ),
    Case("masked_fill", lambda r, x: x.masked_fill(mask(r, x), 2), ALL),
    Case("masked_fill_", lambda r, x: x.clone().masked_fill_(mask(r, x), -1), NUMBERS),
    Case("masked_select", lambda r, x: x.masked_select(mask(r, x)), ALL),
    Case("masked_scatter", _masked_scatter, NUMBERS),
    Case("nonzero", lambda r, x: x.nonzero(), ALL),
    Case("nonzero_tuple", lambda r, x: x.nonzero(as_tuple=True), ALL, least_dims=1),
    Case("where_indices", lambda r, x: torch.where(x > 0), FLOATS, least_dims=1),
    Case(
        "embedding",
        lambda r, x: F.embedding(indices(r, x, (2, 3), x.size(0)), x),
        FLOATS,
        least_dims=2,
        most_dims=2,
        empty=False,
    ),
    Case("one_hot", lambda r, x: F.one_hot(x.abs(), 8), (torch.int64,)),
]

SHAPING = [
    Case("cat", lambda r, x: torch.cat([x, like(r, x), x], 0), ALL, least_dims=1),
    Case("cat_last", lambda r, x: torch.cat([x, x], -1), ALL, least_dims=1),
    Case(
        "cat_with_empty",
        lambda r, x: torch.cat([x.new_empty((0,)), x], 0),
        NUMBERS,
        least_dims=1,
        most_dims=1,
    ),
    Case("stack", lambda r, x: torch.stack([x, like(r, x)], r.randint(0, x.dim())), ALL),
    Case("split", lambda r, x: torch.split(x, 2, -1), ALL, least_dims=1, empty=False),
    Case("chunk", lambda r, x: x.chunk(2, 0), ALL, least_dims=1, empty=False),
    Case("unbind", lambda r, x: x.unbind(0), ALL, least_dims=1, empty=False),
    Case("repeat", lambda r, x: x.repeat(2, *([1] * x.dim())), ALL),
    Case("tile", lambda r, x: x.tile(2), ALL),
    Case("expand", lambda r, x: x.expand(3, *x.shape).contiguous(), ALL),
    Case("repeat_interleave", lambda r, x: x.repeat_interleave(2), NUMBERS),
    Case(
        "repeat_interleave_dim",
        lambda r, x: x.repeat_interleave(3, 0),
        NUMBERS,
        least_dims=1,
        empty=False,
    ),
    Case(
        "repeat_interleave_tensor",
        lambda r, x: x.repeat_interleave(indices(r, x, (x.size(0),), 4), 0),
        NUMBERS,
        least_dims=1,
        empty=False,
    ),
    Case("flip", lambda r, x: x.flip(axes(r, x)), ALL, least_dims=1),
    Case("roll", lambda r, x: x.roll(1, 0), ALL, least_dims=1),
    Case("tril", lambda r, x: x.tril(r.randint(-1, 1)), NUMBERS, least_dims=2),
    Case("triu", lambda r, x: x.triu(r.randint(-1, 1)), ALL, least_dims=2),
    Case("pad", lambda r, x: F.pad(x, (1, 2), value=3), NUMBERS, least_dims=1),
    Case("diagonal", lambda r, x: x.diagonal().contiguous(), NUMBERS, least_dims=2),
    Case("permute", lambda r, x: x.permute(tuple(range(x.dim()))[::-1]).contiguous(), ALL),
    Case("reshape", lambda r, x: x.reshape(-1), ALL),
    Case("full_like", lambda r, x: torch.full_like(x, 2), NUMBERS),
    Case("zeros_like", lambda r, x: torch.zeros_like(x), ALL),
    Case("ones_like", lambda r, x: torch.ones_like(x), ALL),
    Case("fill_", lambda r, x: x.clone().fill_(3), NUMBERS),
    Case(
        "fill_diagonal_",
        lambda r, x: x.contiguous().fill_diagonal_(1),
        FLOATS,
        least_dims=2,
        most_dims=2,
        empty=False,
    ),
    Case("trace", lambda r, x: x.trace(), (torch.float32,), least_dims=2, most_dims=2, empty=False),
]


def _matrices(r: Random, x: Tensor) -> tuple[Tensor, Tensor]:
    return x, like(r, x, (*x.shape[:-2], x.size(-1), 3))


LINEAR = [
    Case("matmul", lambda r, x: torch.matmul(*_matrices(r, x)), least_dims=2),
    Case("matmul_vector", lambda r, x: x @ like(r, x, (x.size(-1),)), least_dims=2, empty=False),
    Case("mm", lambda r, x: torch.mm(*_matrices(r, x)), least_dims=2, most_dims=2),
    Case("mm_transposed", lambda r, x: x.t() @ like(r, x), least_dims=2, most_dims=2, empty=False),
    Case("bmm", lambda r, x: torch.bmm(*_matrices(r, x)), least_dims=3, most_dims=3),
    Case("mv", lambda r, x: x.mv(like(r, x, (x.size(1),))), least_dims=2, most_dims=2, empty=False),
    Case("dot", lambda r, x: x.dot(like(r, x)), (torch.float32,), least_dims=1, most_dims=1),
    Case(
        "outer", lambda r, x: x.outer(x), (torch.float32,), least_dims=1, most_dims=1, empty=False
    ),
    Case(
        "addmm",
        lambda r, x: torch.addmm(like(r, x, (3,)), *_matrices(r, x), beta=0.5, alpha=2),
        least_dims=2,
        most_dims=2,
        empty=False,
    ),
    Case(
        "baddbmm",
        lambda r, x: torch.baddbmm(like(r, x, (1, 1, 3)), *_matrices(r, x)),
        least_dims=3,
        most_dims=3,
        empty=False,
    ),
    Case(
        "linear", lambda r, x: F.linear(x, like(r, x, (4, x.size(-1)))), least_dims=2, empty=False
    ),
    Case(
        "linear_bias",
        lambda r, x: F.linear(x, like(r, x, (4, x.size(-1))), like(r, x, (4,))),
        least_dims=2,
        empty=False,
    ),
    Case(
        "einsum",
        lambda r, x: torch.einsum("ij,kj->ik", x, x),
        least_dims=2,
        most_dims=2,
        empty=False,
    ),
    Case(
        "layer_norm",
        lambda r, x: F.layer_norm(
            x, x.shape[-1:], like(r, x, x.shape[-1:]), like(r, x, x.shape[-1:])
        ),
        least_dims=1,
    ),
    Case("layer_norm_plain", lambda r, x: F.layer_norm(x, x.shape[-1:]), least_dims=1),
    Case(
        "group_norm",
        lambda r, x: F.group_norm(x.repeat(1, 2, *([3] * (x.dim() - 2))), 2),
        (torch.float32,),
        least_dims=3,
        empty=False,
    ),
    Case(
        "conv1d",
        lambda r, x: F.conv1d(x, like(r, x, (2, x.size(1), 3)), padding=1),
        (torch.float32,),
        least_dims=3,
        most_dims=3,
        empty=False,
    ),
    Case(
        "conv2d",
        lambda r, x: F.conv2d(x, like(r, x, (2, x.size(1), 1, 1)), like(r, x, (2,))),
        (torch.float32,),
        least_dims=4,
        empty=False,
    ),
    Case(
        "avg_pool2d",
        lambda r, x: F.avg_pool2d(x, 2, padding=1),
        (torch.float32,),
        least_dims=4,
        empty=False,
    ),
    Case(
        "max_pool2d",
        lambda r, x: F.max_pool2d(x, 2, padding=1),
        (torch.float32,),
        least_dims=4,
        empty=False,
    ),
    Case(
        "interpolate",
        lambda r, x: F.interpolate(x, (3, 7), mode="bilinear"),
        (torch.float32,),
        least_dims=4,
        empty=False,
    ),
]

LOSSES = [
    Case("mse_loss", lambda r, x: F.mse_loss(x, like(r, x)), empty=False),
    Case(
        "l1_loss",
        lambda r, x: F.l1_loss(x, like(r, x), reduction="sum"),
        (torch.float32,),
        empty=False,
    ),
    Case(
        "smooth_l1_loss",
        lambda r, x: F.smooth_l1_loss(x, like(r, x)),
        (torch.float32,),
        empty=False,
    ),
    Case(
        "kl_div",
        lambda r, x: F.kl_div(x.log_softmax(-1), x.softmax(-1), reduction="sum"),
        (torch.float32,),
        least_dims=1,
        empty=False,
    ),
    Case(
        "cross_entropy",
        lambda r, x: F.cross_entropy(x, indices(r, x, (x.size(0),), x.size(1))),
        (torch.float32,),
        least_dims=2,
        most_dims=2,
        empty=False,
    ),
    Case(
        "binary_cross_entropy_with_logits",
        lambda r, x: F.binary_cross_entropy_with_logits(x, torch.sigmoid(like(r, x))),
        (torch.float32,),
        empty=False,
    ),
]


def _grid(r: Random, x: Tensor, dims: int) -> Tensor:
    shape = (x.size(0), *(3,) * dims, dims)
    return fill(shape, x.dtype, "unit", r.randrange(999)).to(x.device)


def _resize(mode: str, dims: int, **options: Any) -> Case:
    return Case(
        f"interpolate_{mode}_{dims}d{'_aa' * bool(options.get('antialias'))}",
        lambda r, x: F.interpolate(
            x, tuple(r.randint(1, 7) for _ in range(dims)), mode=mode, **options
        ),
        SINGLE,
        least_dims=dims + 2,
        most_dims=dims + 2,
        empty=False,
    )


def _resize_by(mode: str, dims: int) -> Case:
    return Case(
        f"interpolate_{mode}_{dims}d_by_factor",
        lambda r, x: F.interpolate(
            x, scale_factor=r.choice((1.3, 2.0, 2.6)), mode=mode, recompute_scale_factor=False
        ),
        SINGLE,
        least_dims=dims + 2,
        most_dims=dims + 2,
        empty=False,
    )


def _pooled(x: Tensor, dims: int) -> Tensor:
    """At least 2 long in each pooled dimension."""
    return x.repeat(1, 1, *(2,) * dims)


SINGLE = (torch.float32,)
VISION = [
    *(_resize("nearest", dims) for dims in (1, 2, 3)),
    *(_resize("nearest-exact", dims) for dims in (1, 2, 3)),
    *(_resize_by(mode, dims) for mode in ("nearest", "nearest-exact") for dims in (1, 2, 3)),
    _resize("linear", 1),
    _resize("bilinear", 2, align_corners=True),
    _resize("bilinear", 2, antialias=True),
    _resize("bicubic", 2),
    _resize("trilinear", 3),
    *(
        Case(
            f"grid_sample_{dims}d",
            lambda r, x, dims=dims: F.grid_sample(
                x,
                _grid(r, x, dims),
                mode=r.choice(("bilinear", "nearest")),
                padding_mode=r.choice(("zeros", "border", "reflection")),
                align_corners=r.random() < 0.5,
            ),
            SINGLE,
            least_dims=dims + 2,
            most_dims=dims + 2,
            empty=False,
        )
        for dims in (2, 3)
    ),
    Case(
        "affine_grid",
        lambda r, x: F.affine_grid(like(r, x, (2, 2, 3)), (2, 1, 4, 5), align_corners=False),
        SINGLE,
        empty=False,
    ),
    Case(
        "unfold",
        lambda r, x: F.unfold(x, 1, stride=2),
        SINGLE,
        least_dims=4,
        empty=False,
    ),
    Case(
        "channel_shuffle",
        lambda r, x: F.channel_shuffle(x.repeat(1, 2, 1, 1), 2),
        SINGLE,
        least_dims=4,
        empty=False,
    ),
    Case(
        "avg_pool3d",
        lambda r, x: F.avg_pool3d(_pooled(x, 3), 2),
        SINGLE,
        least_dims=5,
        most_dims=5,
        empty=False,
    ),
    Case(
        "max_pool3d",
        lambda r, x: F.max_pool3d(_pooled(x, 3), 2),
        SINGLE,
        least_dims=5,
        most_dims=5,
        empty=False,
    ),
    Case(
        "adaptive_max_pool2d",
        lambda r, x: F.adaptive_max_pool2d(_pooled(x, 2), 2),
        SINGLE,
        least_dims=4,
        empty=False,
    ),
    Case(
        "adaptive_avg_pool3d",
        lambda r, x: F.adaptive_avg_pool3d(x, 1),
        SINGLE,
        least_dims=5,
        most_dims=5,
        empty=False,
    ),
]


def _triangle(r: Random, x: Tensor) -> Tensor:
    """A well-conditioned upper triangle as wide as x is long."""
    n = x.size(0)
    return torch.triu(like(r, x, (n, n))) * 0.1 + torch.eye(n, dtype=x.dtype, device=x.device) * 3


DECOMPOSITIONS = [
    Case("svdvals", lambda r, x: torch.linalg.svdvals(x), SINGLE, least_dims=2, empty=False),
    Case(
        "svd_again",
        lambda r, x: (lambda u, s, v: u * s.unsqueeze(-2) @ v)(
            *torch.linalg.svd(x, full_matrices=False)
        ),
        SINGLE,
        least_dims=2,
        empty=False,
    ),
    Case(
        "qr",
        lambda r, x: torch.linalg.qr(x, mode=r.choice(("reduced", "complete"))),
        SINGLE,
        least_dims=2,
        empty=False,
    ),
    Case(
        "triangular_solve",
        lambda r, x: torch.linalg.solve_triangular(_triangle(r, x), x, upper=True),
        SINGLE,
        least_dims=2,
        most_dims=2,
        empty=False,
    ),
    Case("pdist", lambda r, x: F.pdist(x, 1.0), SINGLE, least_dims=2, most_dims=2, empty=False),
    Case(
        "stft",
        lambda r, x: torch.view_as_real(
            torch.stft(
                x.repeat(1, 8),
                8,
                hop_length=2,
                center=False,
                window=torch.ones(8, device=x.device),
                return_complex=True,
            )
        ),
        SINGLE,
        least_dims=2,
        most_dims=2,
        empty=False,
    ),
]

MORE = [
    Case(
        "scatter_reduce_sum",
        lambda r, x: x.scatter_reduce(
            -1, indices(r, x, tuple(x.shape), x.size(-1)), like(r, x), "sum"
        ),
        SINGLE,
        least_dims=1,
        empty=False,
    ),
    Case(
        "embedding_bag",
        lambda r, x: F.embedding_bag(
            indices(r, x, (3, 2), x.size(0)), x, mode=r.choice(("sum", "mean"))
        ),
        SINGLE,
        least_dims=2,
        most_dims=2,
        empty=False,
    ),
    Case(
        "multilabel_margin_loss",
        lambda r, x: F.multilabel_margin_loss(x, indices(r, x, tuple(x.shape), x.size(1))),
        SINGLE,
        least_dims=2,
        most_dims=2,
        empty=False,
    ),
    Case(
        "ctc_loss",
        lambda r, x: F.ctc_loss(
            like(r, x, (6, 2, 5)).log_softmax(-1),
            indices(r, x, (2, 3), 4) + 1,
            (6, 5),
            (3, 2),
            reduction="none",
        ),
        SINGLE,
        empty=False,
    ),
    Case("_add_relu", lambda r, x: torch._VF._add_relu(x, like(r, x)), SINGLE),
    Case("aminmax_dim", lambda r, x: torch.aminmax(x, dim=-1), SINGLE, least_dims=1, empty=False),
    Case(
        "renorm_",
        lambda r, x: x.clone().renorm_(2, 0, 1.5),
        SINGLE,
        least_dims=2,
        empty=False,
    ),
    Case("round_decimals_", lambda r, x: x.clone().round_(decimals=1), SINGLE),
    Case(
        "unique_consecutive_dim",
        lambda r, x: x.unique_consecutive(dim=r.choice((0, -1)), return_counts=r.random() < 0.5),
        INTEGERS,
        least_dims=1,
        empty=False,
    ),
]

CASES = [
    *ELEMENTWISE,
    *ACTIVATIONS,
    *REDUCTIONS,
    *INDEXING,
    *SHAPING,
    *LINEAR,
    *LOSSES,
    *VISION,
    *DECOMPOSITIONS,
    *MORE,
]
