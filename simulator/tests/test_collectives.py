"""Collectives between processes, each a rank with a device of its own, against plain formulas."""

from __future__ import annotations

from typing import Any

import pytest

from simulator.tests.ranks import Ranks

PROGRAMS = "simulator.tests.collective_programs"


def check(found: list[dict[str, Any]], least: int = 1) -> None:
    """Every rank made at least ``least`` comparisons, and found nothing wrong."""
    for rank, one in enumerate(found):
        assert one["wrong"] == [], f"rank {rank}"
        assert one["made"] >= least


REDUCED = ("int8", "int16", "int32", "int64", "float16", "float32", "bfloat16")
MOVED = (*REDUCED, "uint8", "uint16", "uint32", "uint64", "float64")
slow = pytest.mark.slow


@pytest.mark.parametrize(
    ("count", "types"),
    [
        pytest.param(2, REDUCED, id="2"),
        pytest.param(4, ("int16", "float16", "bfloat16"), id="4"),
        pytest.param(8, ("float32",), id="8"),
        pytest.param(4, REDUCED, id="4-all", marks=slow),
        pytest.param(5, REDUCED, id="5-all", marks=slow),
        pytest.param(8, REDUCED, id="8-all", marks=slow),
    ],
)
def test_reductions_are_the_formulas_in_the_order_of_ranks(
    count: int, types: tuple[str, ...]
) -> None:
    check(Ranks(count, PROGRAMS, "reductions", types).results(), 100 * len(types))


@pytest.mark.parametrize(
    ("count", "types"),
    [
        pytest.param(2, MOVED, id="2"),
        pytest.param(4, ("uint8", "float32"), id="4"),
        pytest.param(8, ("bfloat16",), id="8"),
        pytest.param(4, MOVED, id="4-all", marks=slow),
        pytest.param(5, MOVED, id="5-all", marks=slow),
        pytest.param(8, MOVED, id="8-all", marks=slow),
    ],
)
def test_data_arrive_where_they_belong(count: int, types: tuple[str, ...]) -> None:
    check(Ranks(count, PROGRAMS, "moves", types).results(), 30 * len(types))


DISTRIBUTED = "simulator.tests.distributed_programs"


@pytest.mark.parametrize("count", [pytest.param(2, marks=slow), 4, pytest.param(8, marks=slow)])
def test_torch_distributed_works_over_hccl(count: int) -> None:
    check(Ranks(count, DISTRIBUTED, "collectives").results(), 45)


def test_gradients_of_parallel_training_are_those_of_the_whole_batch() -> None:
    check(Ranks(2, DISTRIBUTED, "parallel_training").results(), 4)
