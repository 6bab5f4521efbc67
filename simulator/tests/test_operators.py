"""Ordinary operators on `npu` against ATen on `cpu`, over dtypes, shapes and strides."""

from __future__ import annotations

from itertools import product
from random import Random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from simulator.tests.cases import CASES, Case
from simulator.tests.tensors import (
    ALL,
    FLOATS,
    LAYOUTS,
    Recipe,
    assert_same,
    broadcast_shape,
    recipes,
    shapes,
)


def compare(case: Case, made: list[Recipe], seed: int) -> None:
    expected = case.call(Random(seed), *(recipe.on("cpu") for recipe in made))
    assert_same(case.call(Random(seed), *(recipe.on("npu") for recipe in made)), expected)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@given(data=st.data())
def test_agrees_with_aten(case: Case, data: st.DataObject) -> None:
    shape = data.draw(shapes(case.least_dims, case.most_dims, case.empty))
    dtype = data.draw(st.sampled_from(case.dtypes))
    made = [data.draw(recipes(shape, dtype, case.domain))]
    for _ in range(case.operands - 1):
        other = data.draw(broadcast_shape(shape))
        made.append(data.draw(recipes(other, dtype, case.domain)))
    compare(case, made, data.draw(st.integers(0, 999)))


@pytest.mark.parametrize("case", [c for c in CASES if c.operands == 1], ids=lambda case: case.name)
def test_every_dtype_is_accepted(case: Case) -> None:
    shape = (3, 4, 2, 2, 2)[: max(case.least_dims, 1)][: case.most_dims]
    for dtype in case.dtypes:
        compare(case, [Recipe(shape, dtype, LAYOUTS[0], case.domain, 7)], 7)


def test_case_names_are_unique() -> None:
    names = [case.name for case in CASES if not case.name.endswith("_scalar")]
    assert len(names) == len(set(names))


@given(data=st.data())
@pytest.mark.parametrize("name", ["add", "mul", "maximum", "eq", "true_divide"])
def test_dtypes_promote_alike(name: str, data: st.DataObject) -> None:
    shape = data.draw(shapes(most=3))
    first = data.draw(recipes(shape, data.draw(st.sampled_from(ALL)), "positive"))
    second = data.draw(recipes(shape, data.draw(st.sampled_from(ALL)), "positive"))
    call = getattr(torch, name)
    assert_same(call(first.on("npu"), second.on("npu")), call(first.on("cpu"), second.on("cpu")))


CASTABLE = (*ALL, torch.int8, torch.uint8, torch.int16)


@pytest.mark.parametrize(("source", "target"), list(product(CASTABLE, CASTABLE)), ids=str)
def test_casts(source: torch.dtype, target: torch.dtype) -> None:
    for layout in LAYOUTS:
        recipe = Recipe((3, 4), source, layout, "positive", 3)
        assert_same(recipe.on("npu").to(target), recipe.on("cpu").to(target))


def test_float64_crosses_unchanged() -> None:
    """The chip has no float64 arithmetic, but such tensors can be kept there."""
    x = torch.tensor([1.0 + 2**-50, -3.0], dtype=torch.float64)
    assert torch.equal(x.npu().cpu(), x)


@given(data=st.data())
@pytest.mark.parametrize("where", ["to_npu", "from_npu", "within"])
def test_copies_between_any_two_layouts(where: str, data: st.DataObject) -> None:
    shape = data.draw(shapes())
    dtype, other = (data.draw(st.sampled_from(ALL)) for _ in range(2))
    source = data.draw(recipes(shape, dtype, "positive"))
    target = data.draw(
        recipes(shape, other, "positive").filter(lambda r: r.layout.name != "expanded")
    )
    devices = {"to_npu": ("cpu", "npu"), "from_npu": ("npu", "cpu"), "within": ("npu", "npu")}[
        where
    ]
    expected = target.on("cpu").copy_(source.on("cpu"))
    got = target.on(devices[1]).copy_(source.on(devices[0]))
    assert torch.equal(got.cpu(), expected)


def test_writing_through_a_view_leaves_the_rest() -> None:
    x = torch.zeros(6, 8, device="npu")
    x[1::2, 2:7:3] = torch.ones(3, 2, device="npu")
    x.t()[0].fill_(4)
    expected = torch.zeros(6, 8)
    expected[1::2, 2:7:3] = 1
    expected[:, 0] = 4
    assert torch.equal(x.cpu(), expected)


def test_a_view_far_into_its_storage() -> None:
    """An offset beyond 4 GiB; only the touched pages of the storage cost memory."""
    x = torch.empty(5 << 30, dtype=torch.uint8, device="npu")
    end = x[-16:].view(torch.int32)
    end.copy_(torch.arange(4, dtype=torch.int32))
    assert (end + 1).cpu().tolist() == [1, 2, 3, 4]
    assert x[-4:].cpu().tolist() == [3, 0, 0, 0]


@pytest.mark.parametrize(
    "make",
    [
        lambda device: torch.arange(7, device=device),
        lambda device: torch.arange(2, 20, 3, device=device, dtype=torch.int32),
        lambda device: torch.arange(0.5, 3, 0.25, device=device),
        lambda device: torch.full((2, 3), 4, device=device),
        lambda device: torch.full((0, 3), 4.0, device=device),
        lambda device: torch.full((), True, device=device),
        lambda device: torch.zeros(3, 4, dtype=torch.bfloat16, device=device),
        lambda device: torch.ones(2, dtype=torch.bool, device=device),
        lambda device: torch.linspace(-1, 1, 9, device=device),
        lambda device: torch.logspace(0, 2, 5, device=device),
        lambda device: torch.eye(3, 5, device=device),
        lambda device: torch.tril(torch.ones(4, 4, device=device)),
        lambda device: torch.tensor([[1, 2], [3, 4]], device=device),
        lambda device: torch.zeros(40, 9000, device=device)[:, 7],
    ],
)
def test_creation(make: object) -> None:
    assert_same(make("npu"), make("cpu"))  # type: ignore[operator]


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_zeroing_a_part_keeps_its_neighbours(dtype: torch.dtype) -> None:
    """Whole pages of zeros are handed back to the system: not one byte too many."""
    x = torch.ones(300_000, dtype=dtype, device="npu")
    x[5:-7].zero_()
    assert x[:5].cpu().tolist() == [1] * 5
    assert x[-7:].cpu().tolist() == [1] * 7
    assert x.count_nonzero().item() == 12
