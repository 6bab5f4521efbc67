"""Tensors for the tests: drawn shapes and layouts, alike on both devices; how near is equal."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

import torch
from hypothesis import strategies as st

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
INTEGERS = (torch.int64, torch.int32)
NUMBERS = FLOATS + INTEGERS
ALL = (*NUMBERS, torch.bool)

TOLERANCES: dict[torch.dtype, tuple[float, float]] = {
    torch.float32: (1e-5, 1e-5),
    torch.float16: (2e-3, 2e-3),
    torch.bfloat16: (1.6e-2, 1.6e-2),
    torch.complex64: (1e-5, 1e-5),
}
"""Relative and absolute tolerance by dtype; every dtype that is not here must be equal.

Both sides compute with ATen in the same dtype, so they differ by the order of a sum at most: a few
units in the last place (2**-23, 2**-10, 2**-7), times the few dozen terms of these sums.
"""


@dataclass(frozen=True)
class Layout:
    """How a tensor lies in its storage: ``make`` turns a dense tensor of ``grow(shape)`` into a
    view of ``shape`` that is not dense.
    """

    name: str
    grow: Callable[[tuple[int, ...]], tuple[int, ...]]
    make: Callable[[torch.Tensor, tuple[int, ...]], torch.Tensor]


def _expanded(base: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    return base.expand(shape) if shape else base


LAYOUTS = (
    Layout("dense", lambda s: s, lambda t, s: t),
    Layout("transposed", lambda s: s[::-1], lambda t, s: t.permute(tuple(range(len(s)))[::-1])),
    Layout(
        "stepped",
        lambda s: (*s[:-1], 2 * s[-1]) if s else s,
        lambda t, s: t[..., ::2] if s else t,
    ),
    Layout(
        "offset", lambda s: (s[0] + 2, *s[1:]) if s else (3,), lambda t, s: t[2:] if s else t[1]
    ),
    Layout("expanded", lambda s: (1, *s[1:]) if s else s, _expanded),
)


def fill(shape: tuple[int, ...], dtype: torch.dtype, domain: str, seed: int) -> torch.Tensor:
    """Values of ``domain`` (any, positive, unit: in (-1, 1), open: in (0, 1), small: integers of
    few bits) on the CPU.
    """
    generator = torch.Generator().manual_seed(seed)
    if dtype == torch.bool:
        return torch.randint(0, 2, shape, generator=generator).to(torch.bool)
    if not dtype.is_floating_point or domain == "small":
        low = 1 if domain in ("positive", "open") else -6
        return torch.randint(low, 7, shape, generator=generator).to(dtype)
    uniform = torch.rand(shape, generator=generator)
    scaled = {
        "any": uniform * 8 - 4,
        "positive": uniform * 4 + 0.1,
        "unit": uniform * 1.8 - 0.9,
        "open": uniform * 0.9 + 0.05,
    }[domain]
    return scaled.to(dtype)


@dataclass(frozen=True)
class Recipe:
    """One tensor, made alike on any device."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    layout: Layout
    domain: str
    seed: int

    def on(self, device: str) -> torch.Tensor:
        base = fill(self.layout.grow(self.shape), self.dtype, self.domain, self.seed)
        return self.layout.make(base.to(device), self.shape)


@st.composite
def shapes(draw: st.DrawFn, least: int = 0, most: int = 4, empty: bool = True) -> tuple[int, ...]:
    dims = draw(st.integers(least, most))
    sizes = st.integers(0 if empty else 1, 5)
    return tuple(draw(sizes) for _ in range(dims))


@st.composite
def recipes(
    draw: st.DrawFn, shape: tuple[int, ...], dtype: torch.dtype, domain: str = "any"
) -> Recipe:
    return Recipe(shape, dtype, draw(st.sampled_from(LAYOUTS)), domain, draw(st.integers(0, 999)))


@st.composite
def broadcast_shape(draw: st.DrawFn, shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape that broadcasts to ``shape``: some sizes 1, leading ones dropped."""
    made = tuple(draw(st.sampled_from((size, 1))) for size in shape)
    return made[draw(st.integers(0, len(made))) :]


def assert_same(got: Any, expected: Any) -> None:
    """Equal dtype, shape and, within TOLERANCES, values; through tuples and lists."""
    if isinstance(expected, tuple | list):
        assert len(got) == len(expected)
        for one, other in zip(got, expected, strict=True):
            assert_same(one, other)
        return
    if not isinstance(expected, torch.Tensor):
        assert got == expected
        return
    assert got.device.type == "npu", "the result is not on the device"
    rtol, atol = TOLERANCES.get(expected.dtype, (0.0, 0.0))
    torch.testing.assert_close(
        got.cpu(), expected, rtol=rtol, atol=atol, equal_nan=True, check_stride=False
    )


def axis(random: Random, x: torch.Tensor) -> int:
    return random.randrange(-x.dim(), x.dim()) if x.dim() else 0


def axes(random: Random, x: torch.Tensor) -> list[int]:
    return random.sample(range(x.dim()), random.randint(1, x.dim())) if x.dim() else []


def indices(
    random: Random,
    x: torch.Tensor,
    shape: tuple[int, ...],
    below: int,
    dtype: torch.dtype = torch.int64,
) -> torch.Tensor:
    """Valid indices into a dimension of ``below`` elements, on x's device."""
    values = [random.randrange(below) for _ in range(math.prod(shape))]
    return torch.tensor(values, dtype=dtype).reshape(shape).to(x.device)


def mask(random: Random, x: torch.Tensor) -> torch.Tensor:
    values = [random.random() < 0.5 for _ in range(x.numel())]
    return torch.tensor(values, dtype=torch.bool).reshape(x.shape).to(x.device)


def like(random: Random, x: torch.Tensor, shape: tuple[int, ...] | None = None) -> torch.Tensor:
    """Another tensor of x's dtype and device."""
    return fill(
        tuple(x.shape) if shape is None else shape, x.dtype, "any", random.randrange(999)
    ).to(x.device)
